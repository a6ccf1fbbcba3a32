"""MFCC against python_speech_features, pauses, and what happens with sound that cannot be used."""

import wave

import numpy as np
import pytest
from scipy.signal import lfilter

from hdtalk import audio
from hdtalk.audio import (
    mfcc,
    mfcc_windows,
    read_audio,
    read_shot_audio,
    read_shot_speech,
    read_speech,
    silent_frames,
)
from hdtalk.errors import InputError

RATE = 16000


def voice(seconds, rate=RATE, pitch=140.0):
    """A buzz with formants: enough like speech for level, pitch and pauses."""
    time = np.arange(round(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 20) if pitch * k < rate / 2)
    return (0.1 * buzz).astype(np.float32)


def write_wav(path, samples, rate=RATE, channels=1, width=2):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        scaled = np.clip(samples, -1, 1) * (2 ** (8 * width - 1) - 1)
        if width == 3:
            data = scaled.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
        else:
            data = scaled.astype({2: "<i2", 4: "<i4"}[width]).tobytes()
        file.writeframes(data)
    return path


@pytest.mark.parametrize("length", [100, 400, 401, 5000, 16000])
def test_mfcc_equals_python_speech_features(length):
    reference = pytest.importorskip("python_speech_features")
    signal = (np.random.default_rng(0).normal(size=length) * 3000).astype(np.int16)
    np.testing.assert_allclose(mfcc(signal), reference.mfcc(signal, RATE), atol=1e-9)


def test_mfcc_of_silence_is_finite_and_the_reference_s():
    reference = pytest.importorskip("python_speech_features")
    np.testing.assert_allclose(mfcc(np.zeros(2000)), reference.mfcc(np.zeros(2000), RATE), atol=1e-9)


def test_streamed_rows_equal_the_whole_signal(tmp_path):
    signal = np.random.default_rng(1).normal(size=3 * RATE + 77) * 0.1
    path = write_wav(tmp_path / "noise.wav", signal)
    whole = mfcc(np.round(read_audio(path).astype(np.float64) * 32768))[:, 1:]
    np.testing.assert_allclose(read_speech(path).mfcc, whole, atol=2e-3)


def test_level_does_not_matter():
    signal = voice(1.0) + 1e-3 * np.random.default_rng(2).normal(size=RATE).astype(np.float32)
    loud, quiet = read_speech(signal), read_speech(signal / 8)
    np.testing.assert_allclose(loud.mfcc, quiet.mfcc, atol=0.05)
    np.testing.assert_allclose(loud.prosody, quiet.prosody, atol=0.05)
    assert loud.level_db - quiet.level_db == pytest.approx(18.06, abs=0.05)


@pytest.mark.parametrize("pitch", [90.0, 140.0, 260.0])
def test_pitch_is_found(pitch):
    prosody = read_speech(voice(1.0, pitch=pitch)).prosody[10:-10]
    assert np.median(prosody[:, 1]) > 0.7
    assert 150 * 2 ** np.median(prosody[:, 0]) == pytest.approx(pitch, rel=0.02)


@pytest.mark.parametrize(("hertz", "slow", "fast"), [(35, True, False), (70, False, True), (95, False, False)])
@pytest.mark.parametrize("depth", [0.2, 0.5])
def test_a_rough_voice_swings_as_deep_as_it_does(hertz, slow, fast, depth):
    time_s = np.arange(2 * RATE) / RATE
    noise = np.random.default_rng(3).normal(size=len(time_s)) * 0.1
    calm = read_speech(noise).prosody[20:-20, 4:].mean(0)
    rough = read_speech(noise * (1 + depth * np.sin(2 * np.pi * hertz * time_s))).prosody[20:-20, 4:].mean(0)
    assert (calm < -1.4).all()
    for found, still, swings in zip(rough, calm, (slow, fast), strict=True):
        # a bin of 10 Hz sees its neighbour at half the depth, 35 Hz lies between two of 0.85 each
        assert found == pytest.approx(np.log10(1.5 * depth**2), abs=0.12) if swings else found < still + 0.2


def test_a_voice_with_breath_is_less_harmonic():
    breath = np.random.default_rng(4).normal(size=RATE)
    clear, hoarse = voice(1.0), voice(1.0) + 0.05 * breath
    medians = [np.median(read_speech(sound).prosody[10:-10, 3]) for sound in (clear, hoarse)]
    assert medians[0] > 0.6 and medians[1] < medians[0] - 0.1


def test_pauses_are_found_and_stops_are_not():
    speech = np.concatenate([voice(0.6), np.zeros(int(0.06 * RATE)), voice(0.6), np.zeros(int(0.5 * RATE)), voice(0.4)])
    speech = speech + 1e-4 * np.random.default_rng(3).normal(size=len(speech))
    silent = silent_frames(read_speech(speech), 25)
    assert not silent[:31].any()  # the 60 ms gap is a closure, not a pause
    assert silent[33:43].all()
    assert not silent[46:53].any()


@pytest.mark.parametrize("noise_db", [-40, -26])
def test_pauses_are_found_in_noise(noise_db):
    rng = np.random.default_rng(4)
    speech = np.concatenate([np.zeros(RATE // 2), voice(1.0), np.zeros(RATE // 2)])
    level = voice(1.0).std() * 10 ** (noise_db / 20)
    silent = silent_frames(read_speech(speech + level * rng.normal(size=len(speech))), 25)
    assert silent[:10].mean() > 0.9
    assert silent[-10:].mean() > 0.9
    assert silent[14:36].mean() < 0.1


def syllables():
    """Three seconds of a voice that swells and stops, with half a second of silence at both ends."""
    time = np.arange(2 * RATE) / RATE
    return np.pad(voice(2.0) * np.clip(np.sin(2 * np.pi * 2 * time), 0, 1), RATE // 2)


@pytest.mark.parametrize("tilt", [0.0, 0.9])
def test_steady_noise_is_taken_out_and_speech_stays(monkeypatch, tilt):
    rng = np.random.default_rng(5)
    speech = syllables()
    noise = lfilter([1], [1, -tilt], rng.normal(size=len(speech)))
    noisy = speech + noise / noise.std() * speech[np.abs(speech) > 0.01].std() * 10 ** (-15 / 20)
    clean, freed = read_speech(speech), read_speech(noisy)
    monkeypatch.setattr(audio, "_without_noise", lambda filtered, noise: filtered)
    heard = read_speech(noisy)
    np.testing.assert_allclose(clean.mfcc, read_speech(speech).mfcc, atol=1e-4)  # nothing to take out
    loud = clean.prosody[:, 2] > -1
    error = [np.abs(found.mfcc - clean.mfcc)[loud].mean() for found in (freed, heard)]
    assert error[0] < 0.9 * error[1]
    quiet = clean.prosody[:, 2] < -2
    fall = [np.median(found.prosody[loud, 2]) - np.median(found.prosody[quiet, 2]) for found in (freed, heard)]
    assert fall[0] > fall[1] + 0.3  # 6 dB: pauses are quieter again


def test_a_voice_without_pauses_is_no_noise():
    steady = voice(2.0)
    whole = mfcc(np.round(steady.astype(np.float64) * 32768))[:, 1:]
    np.testing.assert_allclose(read_speech(np.round(steady * 32768) / 32768).mfcc, whole, atol=0.1)


@pytest.mark.parametrize(("rate", "channels", "width"), [(44100, 2, 2), (48000, 1, 3), (8000, 1, 2), (22050, 1, 4)])
def test_files_of_other_rates_and_depths(tmp_path, rate, channels, width):
    samples = voice(0.8, rate, 200.0)
    path = write_wav(tmp_path / "a.wav", np.repeat(samples, channels), rate, channels, width)
    speech = read_speech(path)
    assert speech.duration_s == pytest.approx(0.8, abs=0.005)
    assert 150 * 2 ** np.median(speech.prosody[10:-10, 0]) == pytest.approx(200, rel=0.02)
    np.testing.assert_allclose(np.abs(read_audio(path)).max(), np.abs(samples).max(), rtol=0.15)


@pytest.mark.parametrize(
    ("container", "codec"), [("flac", "flac"), ("mp3", "libmp3lame"), ("mp4", "aac"), ("ogg", "libopus")]
)
def test_compressed_files_keep_their_time(tmp_path, container, codec):
    av = pytest.importorskip("av")
    samples = np.concatenate([np.zeros(24000), voice(0.5, 48000), np.zeros(24000)]).astype(np.float32)
    path = tmp_path / f"a.{container}"
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=48000, layout="mono")
        for start in range(0, len(samples), 960):
            block = (samples[None, start : start + 960] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(block, "s16", "mono")
            frame.rate, frame.pts = 48000, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    silent = silent_frames(read_speech(path), 50)
    assert abs(int(np.argmin(silent)) - 25) <= 2


def test_windows_of_a_beep_are_centred_on_its_frame():
    signal = 1e-4 * np.random.default_rng(5).normal(size=RATE)
    signal[int(0.49 * RATE) : int(0.51 * RATE)] += 0.5 * np.sin(np.arange(int(0.51 * RATE) - int(0.49 * RATE)) / 3)
    windows = mfcc_windows(read_speech(signal), 25)
    changed = np.abs(windows - np.median(windows[:8], axis=(0, 1))).sum(-1)  # [T, 28]
    rows = np.flatnonzero(changed[12] > 0.5 * changed[12].max())  # frame 12 covers 0.48 ... 0.52 s
    assert abs(rows.mean() - 13.5) <= 1
    later = np.flatnonzero(changed[13] > 0.5 * changed[13].max())
    np.testing.assert_array_equal(later, rows - 4)  # 40 ms later


def nan_file(path, value=np.nan):
    data = np.full(RATE, value, "<f4").tobytes()
    header = b"RIFF" + (36 + len(data)).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    header += (3).to_bytes(2, "little") + (1).to_bytes(2, "little") + RATE.to_bytes(4, "little")
    header += (4 * RATE).to_bytes(4, "little") + (4).to_bytes(2, "little") + (32).to_bytes(2, "little")
    path.write_bytes(header + b"data" + len(data).to_bytes(4, "little") + data)


def no_channels(path):
    write_wav(path, voice(0.5))
    data = bytearray(path.read_bytes())
    data[22:24] = (0).to_bytes(2, "little")
    path.write_bytes(data)


def silent_video(path):
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(3):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        output.mux(stream.encode(None))


def three_hours(path):
    """Header only: the length is read before the sound is."""
    write_wav(path, np.zeros(800), rate=8000)
    with open(path, "r+b") as file:
        size = 3 * 3600 * 8000 * 2
        file.truncate(44 + size)
        file.seek(4)
        file.write((36 + size).to_bytes(4, "little"))
        file.seek(40)
        file.write(size.to_bytes(4, "little"))


BAD = {
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "nan": (nan_file, "NaN"),
    "huge": (lambda path: nan_file(path, 1e30), "a sample is 1e+30"),
    "no_channels": (no_channels, "."),
    "short": (lambda path: write_wav(path, voice(0.05)), "50 ms"),
    "no_audio": (silent_video, "no sound"),
    "three_hours": (three_hours, "longer than 60 minutes"),
    "text": (lambda path: path.write_text("not sound\n" * 50), "not a sound file"),
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_sound_gives_one_line_and_exit_3(tmp_path, kind):
    make, words = BAD[kind]
    path = tmp_path / f"{kind}.wav"
    make(path)
    with pytest.raises(InputError) as failure:
        read_speech(path)
    message = str(failure.value)
    assert str(path) in message
    assert words in message
    assert "\n" not in message
    assert failure.value.exit_code == 3


def test_silence_and_clipping_go_on_with_a_warning(caplog):
    assert read_speech(np.zeros(RATE)).silent.all()
    assert "silent" in caplog.text
    read_speech(np.clip(30 * voice(1.0), -1, 1))
    assert "clipped" in caplog.text


def test_a_damaged_end_goes_on_with_a_warning(tmp_path):
    path = write_wav(tmp_path / "cut.wav", voice(2.0))
    path.write_bytes(path.read_bytes()[: 44 + RATE * 2])
    assert read_speech(path).duration_s == pytest.approx(1.0, abs=0.1)


def test_what_a_shot_itself_says_is_optional(tmp_path, caplog):
    write_wav(tmp_path / "spoken.wav", voice(2.0))
    spoken, expected = read_shot_speech(tmp_path / "spoken.wav"), read_speech(tmp_path / "spoken.wav")
    np.testing.assert_array_equal(spoken.mfcc, expected.mfcc)
    write_wav(tmp_path / "short.wav", voice(0.5))
    write_wav(tmp_path / "silent.wav", np.zeros(2 * RATE))
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    silent_video(tmp_path / "mute.mp4")
    for name in ("short.wav", "silent.wav", "broken.wav", "mute.mp4"):
        assert read_shot_speech(tmp_path / name) is None
    assert not caplog.records


def test_a_shots_speech_is_counted_from_its_first_picture(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "shot.mkv"
    with av.open(str(path), "w") as output:
        picture, sound = output.add_stream("mpeg4", rate=25), output.add_stream("pcm_s16le", RATE, layout="mono")
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        output.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
        output.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray((voice(2.0) * 32767).astype(np.int16)[None], "s16", "mono")
        frame.rate, frame.pts = RATE, RATE // 2  # the sound begins half a second later
        output.mux(sound.encode(frame))
    np.testing.assert_array_equal(read_shot_audio(path), np.append(np.zeros(RATE // 2), read_audio(path)))
    spoken, expected = read_shot_speech(path, 0.5, 2.0), read_speech(read_audio(path)[: RATE * 3 // 2])
    np.testing.assert_array_equal(spoken.mfcc, expected.mfcc)
    np.testing.assert_array_equal(read_shot_audio(path, 0.25, 1.0), read_shot_audio(path)[RATE // 4 : RATE])
    with pytest.raises(InputError, match=r"shot.mkv: there is no sound from 7.00 s on"):
        read_shot_audio(path, 7.0)


def test_of_a_film_longer_than_a_recording_may_be_only_the_shot_is_heard(tmp_path, caplog):
    """An hour and more of sound, of which three seconds are asked for."""
    path = tmp_path / "film.wav"
    write_wav(path, np.append(voice(3.0, 8000), np.zeros(3700 * 8000, np.float32)), 8000)
    with pytest.raises(InputError, match="60 minutes"):
        read_speech(path)
    assert read_shot_speech(path, 0, 3.0).num_samples == 3 * RATE
