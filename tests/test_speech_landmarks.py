"""Speech on a shot: pauses close the lips, the person's own motion stays, chunks do not show, bad input is refused."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from tiny_speech import TINY_SPEECH

from hdtalk import speech_landmarks
from hdtalk.audio import read_shot_speech, read_speech
from hdtalk.config import SpeechConfig
from hdtalk.data import SpeechFeatures
from hdtalk.emotion import mix_codes, named_code, parse_emotion, shared_code, voice_code
from hdtalk.errors import InputError, UsageError
from hdtalk.face_units import close_lips, from_face_units, lip_gap, to_face_units
from hdtalk.models.speech import EMOTIONS, SpeechModel
from hdtalk.speech_landmarks import DisplacementStream, closing_curve, contact, predict_landmarks
from hdtalk.weights import demo_folder, load_bundle

PREDICTOR = TINY_SPEECH["landmark_predictor"] | {"num_components": 2, "lookahead": (1, 3)}
REST = SpeechConfig().pause_gap
SIZES = TINY_SPEECH | {"landmark_predictor": PREDICTOR}


def neutral_landmarks():
    rng = np.random.default_rng(0)
    points = rng.normal(0, 0.3, (68, 2))
    points[[36, 37, 38, 39, 40, 41]] = [(-0.5, 0), (-0.4, -0.05), (-0.3, -0.05), (-0.2, 0), (-0.3, 0.05), (-0.4, 0.05)]
    points[[42, 43, 44, 45, 46, 47]] = [(0.2, 0), (0.3, -0.05), (0.4, -0.05), (0.5, 0), (0.4, 0.05), (0.3, 0.05)]
    points[33] = (0, 0.5)
    points[[61, 62, 63], :] = [(-0.1, 0.8), (0, 0.8), (0.1, 0.8)]
    points[[67, 66, 65], :] = [(-0.1, 0.8), (0, 0.8), (0.1, 0.8)]
    return points.astype(np.float32)


class Copies(torch.nn.Module):
    """Stands in for a trained alignment network where pose and face are both upright: the face is the answer."""

    def forward(self, original, predicted):
        return predicted


@pytest.fixture
def model():
    """A model whose first component opens the mouth, the second lifts the brows; it speaks wide open all the time."""
    torch.manual_seed(0)
    model = SpeechModel(**SIZES).eval().requires_grad_(False)
    components = torch.zeros(2, 68, 2)
    components[0, [55, 56, 57, 58, 59, 65, 66, 67], 1] = 0.2
    components[1, 17:27, 1] = -0.1
    model.landmark_predictor.components.copy_(components.flatten(1))
    model.landmark_predictor.mlp[-1].bias.copy_(torch.tensor([1.0, 0.0]))
    model.alignment = Copies()
    for k in range(8):
        model.emotion_codes[k, k] = 1
    return model


def features(seconds, pauses=()):
    rng = np.random.default_rng(1)
    rows = round(100 * seconds)
    silent = np.zeros(rows, bool)
    for start, end in pauses:
        silent[round(100 * start) : round(100 * end)] = True
    mfcc = rng.normal(size=(rows, 12)).astype(np.float32) * 10
    prosody = rng.normal(size=(rows, 6)).astype(np.float32)
    return SpeechFeatures(mfcc, prosody, silent, np.zeros(12, np.float32), round(16000 * seconds), -20.0)


def shot(count, size=150.0):
    frames = np.repeat(neutral_landmarks()[None], count, 0)
    frames[:, [37, 38, 43, 44], 1] += 0.1 * (np.arange(count) % 17 == 5)[:, None]  # blinks
    angle = 0.1 * np.sin(np.arange(count) / 9)
    turn = np.stack([np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], 1)
    return (frames @ turn * size + 300 + 5 * np.sin(np.arange(count) / 7)[:, None, None]).astype(np.float32)


def gaps(landmarks_px):
    return lip_gap(to_face_units(landmarks_px)[0])


def test_pauses_close_the_lips_and_speech_opens_them(model):
    speech = features(4, pauses=[(1.5, 2.5)])
    gap = gaps(predict_landmarks(speech, shot(130), 25, model=model))
    assert gap[5:35].min() > 0.1
    assert np.abs(gap[42:58] - REST).max() < 0.005
    assert gap[66:95].min() > 0.1
    assert np.abs(gap[106:] - REST).max() < 0.005  # the shot goes on after the speech
    assert np.abs(np.diff(gap)).max() < 0.1  # no jump


@pytest.mark.parametrize("fps", [24, 25, 29.97, 30, 50, Fraction(60)])
def test_every_frame_rate_gives_every_frame(model, fps):
    source = shot(round(float(fps) * 2))
    result = predict_landmarks(features(2, pauses=[(0.8, 1.2)]), source, fps, model=model)
    assert result.shape == source.shape
    assert result.dtype == np.float32
    gap = gaps(result)
    middle = round(float(fps))
    assert abs(gap[middle - 1] - REST) < 0.01
    assert gap[round(0.5 * float(fps))] > 0.1


def test_eyes_blink_as_in_the_shot_and_pose_is_the_shots(model):
    source = shot(60)
    result = predict_landmarks(features(2.4), source, 25, model=model)
    np.testing.assert_allclose(result[:, 36:48], source[:, 36:48], atol=0.02)
    np.testing.assert_allclose(result[:, 27:31], source[:, 27:31], atol=0.02)


def turning_head(count, speaking):
    """A head with depth that turns and nods, seen from afar: its landmarks in px while it talks, or with lips shut."""
    face = neutral_landmarks()
    depth = 0.4 - 0.5 * face[:, 0] ** 2 - 0.2 * (face[:, 1] - 0.3) ** 2
    depth[27:36] += 0.25
    heads = np.repeat(np.concatenate([face, depth[:, None]], 1)[None], count, 0).astype(np.float64)
    time = np.arange(count)
    if speaking:
        heads[:, [55, 56, 57, 58, 59, 65, 66, 67], 1] += 0.2 * np.abs(np.sin(1.1 * time))[:, None]
        heads[:, 48, 0] -= 0.05 * np.sin(0.7 * time)
    yaw, nod = 0.3 * np.sin(time / 11), 0.12 * np.sin(time / 7)
    x = heads[..., 0] * np.cos(yaw)[:, None] + heads[..., 2] * np.sin(yaw)[:, None]
    z = heads[..., 2] * np.cos(yaw)[:, None] - heads[..., 0] * np.sin(yaw)[:, None]
    y = heads[..., 1] * np.cos(nod)[:, None] + z * np.sin(nod)[:, None]
    return (np.stack([x, y], -1) * 150 + 300).astype(np.float32)


def test_the_shot_itself_says_how_its_face_turns(model):
    """The network here knows nothing of turning, and the mouth moves all the while."""
    model.landmark_predictor.mlp[-1].bias.zero_()
    talking, shut = turning_head(90, speaking=True), turning_head(90, speaking=False)
    silenced = predict_landmarks(features(3.6, pauses=[(0, 3.6)]), talking, 25, model=model)

    def mouth_error(landmarks_px):
        return np.linalg.norm(landmarks_px - shut, axis=-1)[:, 48:].mean()

    assert mouth_error(silenced) < 0.25 * mouth_error(talking)
    as_the_network = SpeechConfig(turn_prior=1e6)
    assert mouth_error(silenced) < 0.5 * mouth_error(
        predict_landmarks(features(3.6, pauses=[(0, 3.6)]), talking, 25, model=model, config=as_the_network)
    )


@pytest.mark.parametrize(("name", "share"), [("anna", 0.62), ("ben", 0.42)])
def test_the_sample_shots_get_near_the_truth(name, share):
    """The mouth's mean error, over that of the shot as it was; both persons are new to the demo bundle."""
    folder = demo_folder() / "samples"
    source, truth = (np.load(folder / f"{name}{part}_landmarks.npz")["landmarks_px"] for part in ("", "_other"))
    speech, own = read_speech(folder / f"{name}_other.wav"), read_shot_speech(folder / f"{name}.mp4")
    model = load_bundle("demo").speech
    made = predict_landmarks(speech, source, 25, model=model, shot_speech=own)[: len(truth)]
    before, after = (np.linalg.norm(x[: len(made)] - truth, axis=-1)[:, 48:].mean() for x in (source, made))
    assert after < share * before


def test_chunks_do_not_show(model):
    speech, source = features(4, pauses=[(1, 1.5)]), shot(120)
    whole = predict_landmarks(speech, source, 30, model=model, config=SpeechConfig(chunk_frames=1000))
    parts = predict_landmarks(speech, source, 30, model=model, config=SpeechConfig(chunk_frames=37))
    np.testing.assert_allclose(parts, whole, atol=0.05)


def test_silence_keeps_the_mouth_shut(model):
    result = predict_landmarks(features(2, pauses=[(0, 2)]), shot(50), 25, model=model)
    assert np.abs(gaps(result) - REST).max() < 0.005


def test_bad_landmarks_are_refused(model):
    with pytest.raises(InputError, match=r"\[T,68,2\]"):
        predict_landmarks(features(1), np.zeros((0, 68, 2)), 25, model=model)
    broken = shot(5)
    broken[2, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        predict_landmarks(features(1), broken, 25, model=model)


def test_ramps_lie_inside_the_pause():
    silent = np.zeros(60, bool)
    silent[20:40] = True
    curve = closing_curve(silent, 25, 0.16)
    np.testing.assert_allclose(curve[19:26], [0, 0.25, 0.5, 0.75, 1, 1, 1])
    np.testing.assert_allclose(curve[34:41], [1, 1, 1, 0.75, 0.5, 0.25, 0])
    start = closing_curve(np.arange(30) < 10, 25, 0.16)
    assert start[0] == 1  # no ramp where the recording begins


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_emotion_space_is_linear(model, share):
    happy, neutral = named_code(model, "happy"), named_code(model, "neutral")
    torch.testing.assert_close(named_code(model, f"happy:{share}"), (1 - share) * neutral + share * happy)
    torch.testing.assert_close(mix_codes(happy, neutral, share), (1 - share) * happy + share * neutral)


@pytest.mark.parametrize("text", ["joy", "happy:2", "happy:-0.1", "happy:x", ""])
def test_unknown_emotions_are_refused(text):
    with pytest.raises(UsageError, match="NAME:0..1"):
        parse_emotion(text)


def test_emotion_names():
    assert parse_emotion(" Happy:0.5 ") == ("happy", 0.5)
    assert parse_emotion("disgust") == ("disgusted", 1.0)
    assert {parse_emotion(name)[0] for name in EMOTIONS} == set(EMOTIONS)


def test_pauses_do_not_count_for_the_voices_emotion(model):
    speech = features(3)
    changed = features(3, pauses=[(2, 3)])
    changed.mfcc[205:] = 99
    code, other = voice_code(model, speech), voice_code(model, changed)
    first_two = voice_code(model, SpeechFeatures(*(getattr(speech, n)[:200] for n in ("mfcc", "prosody", "silent")),
                                                 speech.silent_row, 32000, -20.0))  # fmt: skip
    assert torch.linalg.norm(other - first_two) < 0.3 * torch.linalg.norm(other)
    assert torch.isfinite(code).all()


def test_lips_meet_where_the_gap_dips_and_not_where_it_stays_small():
    config = SpeechConfig(lips_meet_below=0.06, lips_free_above=0.10, lips_dip=0.02, lips_dip_s=0.12)
    dip = np.array([0.20, 0.18, 0.12, 0.05, 0.12, 0.18, 0.20])
    np.testing.assert_allclose(contact(dip, config), [0, 0, 0, 1, 0, 0, 0])
    np.testing.assert_allclose(contact(dip + 0.03, config), [0, 0, 0, 0.5, 0, 0, 0])  # 0.08 is halfway
    np.testing.assert_allclose(contact(np.linspace(0.05, 0.2, 9), config)[3:], 0)  # opening only
    murmur = np.full(20, 0.05)
    np.testing.assert_allclose(contact(murmur, config)[3:-3], 0)
    murmur[10] -= 0.01
    assert contact(murmur, config)[10] == pytest.approx(0.5)
    closure = np.array([0.2, 0.2, 0.2, 0.2, 0.05, 0.05, 0.05, 0.2, 0.2, 0.2])
    np.testing.assert_allclose(contact(closure, config), [0, 0, 0, 0, 1, 1, 1, 0, 0, 0])


def test_codes_share_the_weaker_part_of_each_emotion(model):
    codes = dict(zip(EMOTIONS, model.emotion_codes, strict=True))
    first = 0.6 * codes["happy"] + 0.4 * codes["neutral"]
    second = 0.3 * codes["happy"] + 0.2 * codes["sad"] + 0.5 * codes["neutral"]
    expected = 0.3 * codes["happy"] + 0.7 * codes["neutral"]
    torch.testing.assert_close(shared_code(model, first, second), expected)
    torch.testing.assert_close(shared_code(model, first, first), first)
    torch.testing.assert_close(shared_code(model, codes["sad"], codes["angry"]), codes["neutral"])


def test_an_emotion_that_the_face_wears_already_does_not_come_on_top(model):
    silence = features(6, pauses=[(0, 6)])
    silence.mfcc[:] = silence.silent_row
    model.landmark_predictor.mlp[-1].weight.mul_(50)  # untrained networks hardly hear emotions
    happy, neutral = named_code(model, "happy"), named_code(model, "neutral")
    times_s = np.array([5.0, 5.5])

    def after_silence(code, worn=None):
        stream = DisplacementStream(model, silence, neutral_landmarks(), code[None], SpeechConfig())
        if worn is not None:
            stream.wear(worn)
        return stream.at(times_s)[0]

    calm, plain = after_silence(neutral), after_silence(happy)
    assert np.abs(plain - calm).max() > 1e-3
    np.testing.assert_allclose(after_silence(happy, worn=happy), calm, atol=1e-4)
    np.testing.assert_allclose(after_silence(happy, worn=neutral), plain, atol=1e-6)


def test_only_the_voices_own_emotion_is_taken_as_worn(model):
    speech, track = features(2), shot(50)
    no_habit = SpeechConfig(own_words=0)
    for given in ({"emotion": "happy"}, {"emotion_codes": named_code(model, "happy")}):
        given |= {"config": no_habit}
        alone = predict_landmarks(speech, track, 25, model=model, **given)
        np.testing.assert_array_equal(
            predict_landmarks(speech, track, 25, model=model, shot_speech=speech, **given), alone
        )
    off = SpeechConfig(shot_emotion=False, own_words=0)
    np.testing.assert_array_equal(
        predict_landmarks(speech, track, 25, model=model, shot_speech=speech, config=off),
        predict_landmarks(speech, track, 25, model=model),
    )


def test_what_the_shots_own_words_miss_is_the_persons_habit():
    """Lips that are thicker than the ones predicted stay thicker in the new words, if the shot's sound is its own."""
    folder, model = demo_folder() / "samples", load_bundle("demo").speech
    source = np.load(folder / "ben_landmarks.npz")["landmarks_px"]
    speech, own = read_speech(folder / "ben_other.wav"), read_shot_speech(folder / "ben.mp4")
    config, off = SpeechConfig(own_words=1), SpeechConfig(own_words=0)

    def lips(landmarks_px):
        local = to_face_units(landmarks_px)[0]
        return np.stack([local[:, 61:64, 1] - local[:, 50:53, 1], local[:, 56:59, 1] - local[:, 65:68, 1]]).mean((1, 2))

    said = predict_landmarks(own, source, 25, model=model, emotion="neutral", shot_speech=own, config=config)
    plain = predict_landmarks(own, source, 25, model=model, emotion="neutral", config=off)
    there = lips(source[: len(said)])
    assert np.abs(lips(said) - there).sum() < 0.5 * np.abs(lips(plain) - there).sum()
    foreign = predict_landmarks(speech, source, 25, model=model, shot_speech=features(3.4), config=config)
    np.testing.assert_allclose(  # words that this mouth does not say tell nothing
        foreign, predict_landmarks(speech, source, 25, model=model, config=replace(off, shot_emotion=False)), atol=0.5
    )


def test_a_person_who_opens_the_lips_further_goes_on_doing_so():
    """Shots whose own words are said as predicted but with the lips moving more or less: so are the new words; with
    another voice under the shot, as predicted."""
    folder, model = demo_folder() / "samples", load_bundle("demo").speech
    source = np.load(folder / "ben_landmarks.npz")["landmarks_px"]
    speech, own = read_speech(folder / "ben_other.wav"), read_shot_speech(folder / "ben.mp4")
    off = SpeechConfig(own_words=0)
    said = predict_landmarks(own, source, 25, model=model, config=off)
    local, similarity = to_face_units(said)

    def opening(factor, sound):
        shot = from_face_units(close_lips(local, 1 - factor), similarity)
        given = {"model": model, "emotion": "neutral"}
        made, plain = (
            predict_landmarks(speech, shot, 25, **given, shot_speech=sound, config=config)
            for config in (SpeechConfig(), off)
        )
        gaps = (np.maximum(lip_gap(to_face_units(px)[0]), 0).sum() for px in (made, plain))
        return np.divide(*gaps)

    far, near = opening(1.4, own), opening(0.7, own)
    assert 1.1 < far <= 1.42 and 0.68 <= near < 0.95
    assert opening(1.4, features(3.4)) == pytest.approx(1, abs=0.03)
    assert opening(1.4, None) == 1


def test_lips_meet_less_where_noise_covers_the_words(model):
    config = SpeechConfig(lips_meet_below=5.0, lips_free_above=6.0, lips_heard_db=(14, 24))
    for above_noise_db, share in ((60.0, 1.0), (19.0, 0.5), (10.0, 0.0)):
        speech = replace(features(0.16), above_noise_db=above_noise_db)
        stream = DisplacementStream(model, speech, neutral_landmarks(), model.emotion_codes[:1], config)
        np.testing.assert_allclose(stream.at((np.arange(4) + 0.5) / 25)[2], share)


def test_the_emotion_follows_the_voice_and_leans_on_the_whole_recording(model, monkeypatch):
    first, second = named_code(model, "happy"), named_code(model, "sad")
    sums = 12 * torch.stack([first] * 10 + [second] * 10)
    monkeypatch.setattr(speech_landmarks, "voice_codes", lambda model, speech: (sums, np.full(20, 12.0)))
    config = SpeechConfig(emotion_span_s=1.0, emotion_whole_s=36 / 25)  # three half seconds, and as much of the whole
    codes = speech_landmarks._emotion_track(model, features(10), None, None, config)
    torch.testing.assert_close(codes[5], 0.75 * first + 0.25 * second)
    torch.testing.assert_close(codes[15], 0.25 * first + 0.75 * second)
    torch.testing.assert_close(codes[9], 7 / 12 * first + 5 / 12 * second)
