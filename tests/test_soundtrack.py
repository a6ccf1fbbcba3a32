"""Sound under the picture: speech from its first sample, a shot's own sound where the shot has it, copied or not."""

from fractions import Fraction

import av
import numpy as np
import pytest
from clips import numbered_frames, tone, write_wav

from hdtalk import soundtrack
from hdtalk.audio import read_audio, read_shot_audio
from hdtalk.errors import InputError
from hdtalk.media import VideoWriter, probe, read_frames
from hdtalk.soundtrack import Soundtrack, decode_audio, open_audio, sound_offset_s

RATE = 48000
CLICK_S = 0.5  # after the first sample of the sound
TOLERANCE_S = 0.03  # an encoder's run-up of 1024 samples, which some containers do not mark, and some
# suffix, start of the sound, start of the picture
SHOTS = [
    ("mp4", 0, 0),
    ("mp4", 0.4, 0),
    ("mkv", 0.4, 0),
    ("mkv", 10, 10),
    ("ts", 10, 10),
    ("ts", 3.4, 3),
    ("ts", 3, 3.2),
]


def write_shot(path, sound_s, picture_s, num_frames=50):
    with av.open(str(path), "w") as container:
        picture, sound = container.add_stream("libx264", rate=25), container.add_stream("aac", RATE, layout="mono")
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        for number, array in enumerate(numbered_frames(num_frames, 48, 64, step=4)):
            frame = av.VideoFrame.from_ndarray(array, "rgb24")
            frame.pts, frame.time_base = number + round(picture_s * 25), Fraction(1, 25)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        samples = np.zeros((1, 2 * RATE), np.float32)
        samples[0, round(CLICK_S * RATE) :][:96] = 0.9
        for start in range(0, 2 * RATE, 1024):
            frame = av.AudioFrame.from_ndarray(samples[:, start : start + 1024].copy(), "fltp", "mono")
            frame.rate, frame.pts, frame.time_base = RATE, start + round(sound_s * RATE), Fraction(1, RATE)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def click_s(path):
    """Seconds from the first picture to the click, by the times that the file states; decoded without HDTalk."""
    loudest, at = 0.0, 0.0
    with av.open(str(path)) as container:
        start = next(container.decode(video=0))
        container.seek(0)
        for frame in container.decode(audio=0):
            level = np.abs(frame.to_ndarray()[0])
            if level.max() > loudest:
                loudest, at = level.max(), float(frame.pts * frame.time_base) + level.argmax() / frame.rate
    assert loudest > 0.3
    return at - float(start.pts * start.time_base)


def write_out(path, source, sound):
    with VideoWriter(path, probe(source), sound) as writer:
        for frame in read_frames(source):
            writer.write(frame)
    return path


@pytest.fixture(params=["copied", "encoded"])
def copied(request, monkeypatch):
    if request.param == "encoded":
        monkeypatch.setattr(soundtrack, "COPIED", dict.fromkeys(soundtrack.COPIED, ()))
    return request.param == "copied"


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("shot", SHOTS, ids=str)
def test_speech_is_heard_when_the_lips_say_it(tmp_path, copied, shot, suffix):
    source = write_shot(tmp_path / f"speech.{shot[0]}", *shot[1:])
    out = write_out(tmp_path / f"out.{suffix}", source, Soundtrack(source))
    lips_s = np.abs(read_audio(source)).argmax() / 16000
    assert lips_s == pytest.approx(CLICK_S, abs=TOLERANCE_S)
    assert click_s(out) == pytest.approx(lips_s, abs=0.003 if copied else TOLERANCE_S)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("start_s", [0.0, 0.2])
@pytest.mark.parametrize("shot", SHOTS, ids=str)
def test_a_shot_keeps_its_sound_in_place(tmp_path, copied, shot, suffix, start_s):
    source = write_shot(tmp_path / f"shot.{shot[0]}", *shot[1:])
    expected_s = CLICK_S + shot[1] - shot[2]
    assert click_s(source) == pytest.approx(expected_s, abs=0.005)
    out = write_out(tmp_path / f"out.{suffix}", source, Soundtrack(source, start_s=start_s))
    assert click_s(out) == pytest.approx(expected_s - start_s, abs=0.005)
    for path, at_s in ((source, expected_s), (out, expected_s - start_s)):
        assert np.abs(read_shot_audio(path)).argmax() / 16000 == pytest.approx(at_s, abs=0.005)


@pytest.mark.parametrize("shot", [("mp4", 0.4, 0), ("ts", 3, 3.2)], ids=str)
def test_the_background_keeps_its_place_too(tmp_path, shot):
    source = write_shot(tmp_path / f"shot.{shot[0]}", *shot[1:])
    speech = write_wav(tmp_path / "speech.wav", *tone(1.0, RATE, amplitude=0.01))
    out = write_out(tmp_path / "out.mp4", source, Soundtrack(speech, source, 0.0, background_start_s=0.1))
    assert click_s(out) == pytest.approx(CLICK_S + shot[1] - shot[2] - 0.1, abs=0.005)


def test_the_background_is_heard_no_longer_than_it_is_seen(tmp_path):
    """A tone that begins after the part that is used, under speech that goes on."""
    silence, loud = tone(1.0, RATE, amplitude=0.0)[0], tone(1.0, RATE)[0]
    source = write_wav(tmp_path / "shot.wav", np.concatenate([silence, loud], -1), RATE)
    speech = write_wav(tmp_path / "speech.wav", *tone(2.0, RATE, amplitude=0.001))
    picture = write_shot(tmp_path / "picture.mp4", 0, 0)
    heard = []
    for length_s in (None, 1.0):
        out = write_out(
            tmp_path / f"{length_s}.mp4", picture, Soundtrack(speech, source, 0.0, background_length_s=length_s)
        )
        heard.append(np.abs(read_audio(out)[int(1.2 * 16000) :]).max())
    assert heard[0] > 0.2 > 0.01 > heard[1]


@pytest.mark.parametrize("channels", [7, 8, 9, 16])
def test_sound_of_many_channels(tmp_path, channels, tiny_shot):
    speech = write_wav(tmp_path / "speech.wav", *tone(0.4, 48000, channels=channels))
    heard = read_audio(speech)
    assert len(heard) == pytest.approx(0.4 * 16000, abs=20)
    plain = read_audio(write_wav(tmp_path / "plain.wav", *tone(0.4, 48000)))
    np.testing.assert_allclose(heard[200:-200], plain[200 : len(heard) - 200], atol=2e-3)
    out = write_out(tmp_path / "out.mp4", tiny_shot[0], Soundtrack(speech))
    assert np.abs(read_audio(out)).max() > 0.5 * np.abs(plain).max()


def test_sound_whose_channels_change_in_the_middle(tmp_path, tiny_shot):
    parts = []
    for number, channels in enumerate((1, 2)):
        with av.open(str(tmp_path / f"{number}.ts"), "w") as container:
            stream = container.add_stream("mp2", rate=44100, layout=("mono", "stereo")[channels - 1])
            samples = np.tile((9000 * np.sin(np.arange(44100) / 9)).astype(np.int16), (channels, 1))
            frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1), "s16", stream.layout.name)
            frame.sample_rate = 44100
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
        parts.append((tmp_path / f"{number}.ts").read_bytes())
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    heard = read_audio(path)
    assert len(heard) == pytest.approx(2 * 16000, abs=1600)
    for second in (0, 1):
        assert np.abs(heard[16000 * second + 4000 : 16000 * second + 12000]).max() > 0.2
    write_out(tmp_path / "out.mp4", tiny_shot[0], Soundtrack(path))


def test_sound_of_an_unknown_kind_counts_as_none(tmp_path, tiny_shot):
    source = write_shot(tmp_path / "shot.mp4", 0, 0)
    odd = tmp_path / "odd.mp4"
    odd.write_bytes(source.read_bytes().replace(b"mp4a", b"ac-9").replace(b"esds", b"free"))
    assert probe(source).has_audio and not probe(odd).has_audio
    for use in (soundtrack.open_audio, read_audio):
        with pytest.raises(InputError, match="decoded"):
            use(odd)


def test_sound_that_starts_very_late_is_not_collected(tmp_path):
    """Silence comes in blocks, as sound does."""
    source = write_shot(tmp_path / "late.mkv", 100.0, 0, num_frames=3)
    with open_audio(source) as container:
        blocks = list(decode_audio(container, 8000, 0.0))
    assert sound_offset_s(source) == pytest.approx(100, abs=0.03)
    assert sum(block.shape[1] for block in blocks) / 8000 == pytest.approx(102, abs=0.05)
    assert max(block.shape[1] for block in blocks) <= 8000


def test_sound_alone_has_no_offset(tmp_path):
    speech = write_wav(tmp_path / "speech.wav", *tone(1.0))
    assert sound_offset_s(speech) == 0
    with open_audio(speech) as container:
        assert sum(block.shape[1] for block in decode_audio(container, 16000, 0.25)) == 12000
