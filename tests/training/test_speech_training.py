"""The packed corpus, batches on the device against the one-by-one way, worsened rows, and a step of every stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_speech import TINY_SPEECH

from hdtalk import audio
from hdtalk.audio_bands import ROUNDING_FLOOR
from hdtalk.data import SpeechFeatures
from hdtalk.errors import InputError
from hdtalk.models.speech import EMOTIONS, SpeechModel
from hdtalk.models.speech_decoder import SpeechDecoder
from hdtalk.training import row_augment, speech
from hdtalk.training.loop import TrainConfig, train
from hdtalk.training.mead import Clip
from hdtalk.training.row_augment import RowAugment, RowAugmentation
from hdtalk.training.speech_bank import SpeechBank, ViewBank
from hdtalk.training.speech_data import Take
from hdtalk.training.speech_pack import VIEW_STEP, read_pack, write_pack
from hdtalk.windows import stretch_of_rows

SIZES = TINY_SPEECH | {
    "emotion_encoder": TINY_SPEECH["emotion_encoder"] | {"num_features": 36, "across": True},
}


@pytest.fixture(scope="module")
def takes():
    """Two people, two sentences, two emotions: noise of speech's size, faces that move smoothly."""
    rng = np.random.default_rng(0)
    face = rng.normal(0, 0.5, size=(68, 2)).astype(np.float32)
    made = []
    for actor in ("M001", "W002"):
        for number in ("001", "002"):
            for emotion in ("happy", "sad"):
                rows = int(rng.integers(180, 260))
                silent = np.arange(rows) < 30
                mfcc = np.cumsum(rng.normal(size=(rows, 12)), 0).astype(np.float32)
                prosody = rng.normal(size=(rows, 6)) * [0.2, 0, 0.3, 0.1, 0.3, 0.3] + [0, 0, 0, 0.6, -1, -1]
                prosody[:, 1] = rng.random(rows)
                sound = SpeechFeatures(
                    mfcc, prosody.astype(np.float32), silent, np.full(12, -3, np.float32), rows * 160, -20.0
                )
                moved = 0.05 * np.cumsum(rng.normal(size=(rows // 4, 68, 2)) * 0.1, 0).astype(np.float32)
                views = {"front": face + moved, "left_30": face * 0.8 + moved}
                clip = Clip(actor, emotion, 2, number, None, sentence=number)
                emphasis = 2.0 if actor == "W002" else 1.0
                made.append(Take(clip, EMOTIONS.index(emotion), [sound], moved, face, views, emphasis=emphasis))
    return made


def test_pack_gives_the_takes_back(takes, tmp_path):
    path = tmp_path / "corpus.pack"
    write_pack(path, {"train": takes[:6], "validation": takes[6:]}, "two people")
    parts, description = read_pack(path)
    assert description == "two people"
    assert [len(parts["train"]), len(parts["validation"])] == [6, 2]
    for take, back in zip(takes, [*parts["train"], *parts["validation"]], strict=True):
        assert back.clip == take.clip and back.emotion == take.emotion and back.view_step == VIEW_STEP
        assert back.emphasis == take.emphasis
        np.testing.assert_allclose(back.sounds[0].mfcc, take.sounds[0].mfcc, atol=0.51)
        np.testing.assert_array_equal(back.sounds[0].silent, take.sounds[0].silent)
        assert np.abs(back.displacement - take.displacement).mean() < 0.02
        np.testing.assert_array_equal(back.neutral, take.neutral)
        assert {view: len(frames) for view, frames in back.views.items()} == dict.fromkeys(
            take.views, -(-len(take.displacement) // VIEW_STEP)
        )
    again = tmp_path / "again.pack"  # a pack may be packed again
    write_pack(again, parts, description)
    np.testing.assert_array_equal(read_pack(again)[0]["train"][0].sounds[0].mfcc, parts["train"][0].sounds[0].mfcc)


def test_what_is_no_pack_is_said_to_be_none(tmp_path):
    (tmp_path / "corpus.pack").write_bytes(b"something else")
    with pytest.raises(InputError, match="not a packed corpus"):
        read_pack(tmp_path / "corpus.pack")


def test_bank_cuts_the_same_stretches_as_the_features_themselves(takes):
    bank = SpeechBank(takes, torch.device("cpu"))
    for take, start in ((0, -3), (3, 10), (7, 60)):
        first = torch.tensor([4 * start + bank.first_of_window])
        rows, _ = bank.stretch(torch.tensor([take]), first, 4 * 8 + 24)
        np.testing.assert_array_equal(rows[0].numpy(), stretch_of_rows(takes[take].sounds[0], 8, start))
        truth = bank.truth(torch.tensor([take]), torch.tensor([start]), 8)[0].numpy()
        shown = np.clip(np.arange(start, start + 8), 0, len(takes[take].displacement) - 1)
        np.testing.assert_array_equal(truth, takes[take].displacement[shown])


def test_a_speaker_of_few_takes_is_heard_as_often_as_others(takes):
    for emphasis, share in ((1.0, 0.5), (3.0, 0.75)):
        few = [*takes[:4], replace(takes[-1], emphasis=emphasis)]  # four takes of M001, one of W002
        drawn = SpeechBank(few, torch.device("cpu")).draw_by_speaker(4000, np.random.default_rng(0))
        assert np.bincount(drawn) / 4000 == pytest.approx([(1 - share) / 4] * 4 + [share], abs=0.03)


def test_rows_are_freed_of_the_voice_as_recordings_are(takes):
    sound = takes[0].sounds[0]
    rows = torch.from_numpy(np.concatenate([sound.mfcc, sound.prosody], 1))[None]
    mean, scale = speech.statistics(sound)
    freed = speech.freed_where_spoken(rows, torch.from_numpy(~sound.silent)[None])[0].numpy()
    np.testing.assert_allclose(freed[:, :12], (sound.mfcc - mean) / scale, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(freed[:, 12], sound.prosody[:, 2])


def test_views_are_pairs_of_one_moment(takes):
    for step in (1, 5):
        views = [
            Take(
                t.clip, t.emotion, t.sounds, t.displacement, t.neutral, {v: f[::step] for v, f in t.views.items()}, step
            )
            for t in takes
        ]
        bank, rng = ViewBank(views), np.random.default_rng(2)
        pose, face = bank.pairs(200, rng)
        # both views move alike, so what remains of the difference is one of the three fixed ones
        base = takes[0].neutral
        kinds = [np.abs(pose - face - d).max((1, 2)) < 1e-5 for d in (0 * base, 0.2 * base, -0.2 * base)]
        assert np.all(np.any(kinds, 0))
        chosen, low = np.arange(8), np.full(8, 7)
        pose, frame = bank.poses(chosen, low, low + 20, rng)
        assert np.all((frame >= 7) & (frame < 27) & (frame % step == 0))
        for k, t in enumerate(frame):
            assert any(np.array_equal(pose[k], takes[k].views[view][t]) for view in takes[k].views)


def test_views_in_which_the_eye_corners_nearly_meet_are_not_drawn(takes):
    profile = {name: {"left_60": takes[0].views["front"] * factor} for name, factor in (("far", 40), ("near", 20))}
    usable = replace(takes[0], views=takes[0].views | profile["far"])
    hopeless = replace(takes[1], views={"left_60": profile["far"]["left_60"], "right_60": profile["near"]["left_60"]})
    bank, rng = ViewBank([usable, hopeless]), np.random.default_rng(4)
    pose, _ = bank.poses(np.array([0] * 50 + [1] * 50), np.zeros(100, int), np.full(100, 9), rng)
    reach = np.abs(pose).max((1, 2))
    assert reach[:50].max() < 2.5 and not np.isin(reach[50:], np.abs(profile["far"]["left_60"]).max((1, 2))).any()


def test_rows_without_a_change_stay_and_noise_changes_them():
    torch.manual_seed(0)
    rows = torch.randn(6, 120, 18) * torch.tensor([8.0] * 12 + [0.2, 0.0, 0.3, 0.0, 0.0, 0.0])
    rows[..., 13] = 1.0
    rows[..., 15] = 0.7
    level = torch.full((6,), -20.0)
    calm = RowAugment(torch.device("cpu"), RowAugmentation(1.0, (90, 90), 0, 0, 0, 0, 0, 0))
    quiet = torch.zeros(6, 120, dtype=torch.bool)
    same, _ = calm(rows, quiet, level)
    assert (same - rows)[..., :12].abs().mean() < 0.2
    untouched, still = RowAugment(torch.device("cpu"))(rows, quiet, level, amount=0.0)
    torch.testing.assert_close(untouched, rows)
    torch.testing.assert_close(still, quiet)
    noisy, _ = RowAugment(torch.device("cpu"), RowAugmentation(0, (0, 0), 0, 0, 0, 0, 0, 0))(rows, quiet, level)
    assert torch.isfinite(noisy).all()
    assert (noisy - rows)[..., :12].abs().mean() > 2  # 0 dB of noise
    assert noisy[..., 13].mean() < 0.9  # the period is harder to see
    assert noisy[..., 15].mean() < 0.6 and noisy[..., 16:].mean() < -0.2  # the harmonics too, and swings are covered
    quiet = rows[..., 14] < -0.5
    assert (noisy[..., 14] - rows[..., 14])[quiet].mean() > 0.1  # noise fills the pauses


def test_noise_is_taken_out_of_rows_as_out_of_recordings():
    rng = np.random.default_rng(6)
    swell = np.clip(np.sin(np.arange(300) / 12), 0, 1)[:, None]
    energies = 1e6 * (
        swell * rng.uniform(0.2, 1, (300, 26)) + rng.uniform(0.05, 0.1, 26) * rng.gamma(8, 1 / 8, (300, 26))
    )
    bands = torch.from_numpy(energies).float()[None]
    noise, steady = row_augment._steady_noise(bands), audio._steady_noise(energies)
    np.testing.assert_allclose(noise[0, 0], steady, rtol=1e-3)
    above, above_db = row_augment._above_noise_db(bands, noise), audio._above_noise_db(energies, steady)
    np.testing.assert_allclose(above[0], above_db, atol=1e-2)
    freed = row_augment._without_noise(bands, noise, torch.from_numpy(ROUNDING_FLOOR).float())[0].numpy()
    np.testing.assert_allclose(freed, audio._without_noise(energies, steady), rtol=1e-3)
    assert freed[swell[:, 0] == 0].mean() < 0.3 * energies[swell[:, 0] == 0].mean()
    energy_db = 10 * np.log10(energies[:, audio.VOICE_BAND].sum(-1))
    energy_db -= audio._speech_level(energy_db)
    pauses = row_augment._pauses(torch.from_numpy(energy_db).float()[None], above)[0].numpy()
    expected = audio._pauses(energy_db, 0.0, above_db, audio._speech_level(above_db))
    assert 0.1 < expected.mean() < 0.7 and (pauses == expected)[8:-8].all()


def test_noise_scatters_over_rows_and_filters_as_white_noise_does(monkeypatch):
    rng = np.random.default_rng(7)
    measured, _ = audio._filterbank(audio._frames(rng.normal(size=160 * 4000 + 400), 400))
    torch.manual_seed(7)
    monkeypatch.setattr(row_augment, "_chosen", lambda n, share, device: torch.zeros(n, dtype=torch.bool))
    augment = RowAugment(torch.device("cpu"), RowAugmentation(snr_db=(0, 0)))
    made = augment._noisy(torch.full((1, 4000, 26), 1e-9))[0][0].double().numpy()
    for energies in (measured, made):
        energies /= energies.mean(0)
    for filters in (slice(3, 12), slice(12, 26)):
        real, drawn = (energies[:, filters] - 1 for energies in (measured, made))
        assert drawn.std(0).mean() == pytest.approx(real.std(0).mean(), rel=0.2)
        for rows, over in ((1, 0), (0, 1)):
            likeness = []
            for part in (real, drawn):
                first = part[: len(part) - rows, : part.shape[1] - over]
                likeness.append((first * part[rows:, over:]).mean() / (part**2).mean())
            assert likeness[1] == pytest.approx(likeness[0], abs=0.1)


def test_takes_of_one_emotion_are_nothing_to_reconstruct_across(takes):
    assert speech.why_not("disentangle", takes, takes) == ""
    one = [take for take in takes if take.clip.emotion == "happy"]
    one += [replace(take, clip=replace(take.clip, level=3)) for take in one]
    assert "in different emotions" in speech.why_not("disentangle", one, takes)
    mixed = [*one, next(take for take in takes if take.clip.emotion == "sad")]  # a sentence of one person's
    (group,) = speech._groups(mixed)
    assert [(take.clip.emotion, take.clip.level) for take in group] == [("happy", 2), ("happy", 3), ("sad", 2)]


@pytest.mark.parametrize("stage", ["emotion", "disentangle", "alignment", "predictor"])
def test_every_stage_learns_and_repeats_itself(takes, tmp_path, stage):
    def run(folder):
        torch.manual_seed(1)
        model = SpeechModel(**SIZES)
        model.emotion_codes.copy_(speech.place_emotions(8))
        mean, scale = speech.feature_statistics(takes, 36)
        model.feature_mean.copy_(torch.from_numpy(mean))
        model.feature_scale.copy_(torch.from_numpy(scale))
        components, deviation = speech.displacement_basis(takes, 5)
        model.landmark_predictor.components.copy_(torch.from_numpy(components))
        model.landmark_predictor.component_scale.copy_(torch.from_numpy(deviation))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        config = TrainConfig(minutes=1e9, steps=3, batch_size=4, learning_rate=1e-3, ema_images=4.0)
        task = {
            "emotion": lambda: speech.EmotionTask(config, model, takes, takes),
            "disentangle": lambda: speech.DisentangleTask(
                config, model, takes, takes, SpeechDecoder(16, content_size=6, emotion_size=8, limit=6.0)
            ),
            "alignment": lambda: speech.AlignmentTask(config, model, takes, takes),
            "predictor": lambda: speech.PredictorTask(config, model, takes, takes),
        }[stage]()
        measures = train(task, folder)
        assert all(np.isfinite(value) for value in measures.values())
        after = task.model.state_dict()
        changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
        return after, changed

    first, changed = run(tmp_path / "one")
    second, _ = run(tmp_path / "two")
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], msg=name)
    expected = {
        "emotion": {"emotion_encoder"},
        "disentangle": {"content_encoder", "emotion_encoder"},
        "alignment": {"alignment"},
        "predictor": {"content_encoder", "landmark_predictor"},
    }[stage]
    assert changed == expected
