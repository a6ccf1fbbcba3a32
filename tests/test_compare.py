"""The comparison video: its panels show what they say, in step, with the edited video's sound."""

from fractions import Fraction

import numpy as np
import pytest
from clips import numbered_frames, read_sound, tone, write_clip

from hdtalk.compare import draw_landmarks, waveform, write_comparison
from hdtalk.config import CompareConfig
from hdtalk.errors import InputError
from hdtalk.media import read_frames

NTSC = Fraction(30000, 1001)
SMALL = CompareConfig(panel_height_px=96, label_px=24, gap_px=8, waveform_px=32)
COUNT = 10


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    frames = numbered_frames(COUNT, 96, 128, step=20)
    source = write_clip(folder / "source.mp4", frames, fps=NTSC)
    sound = tone(COUNT / NTSC, 44100)
    edited = write_clip(folder / "edited.mp4", 255 - frames, fps=NTSC, audio=sound)
    return source, edited


def square_landmarks(low, high):
    """Jaw, brows and so on do not matter: all points on the border of a square."""
    sides = np.linspace(0, 4, 68, endpoint=False)
    x = np.interp(sides % 4, [0, 1, 2, 3, 4], [0, 1, 1, 0, 0])
    y = np.interp(sides % 4, [0, 1, 2, 3, 4], [0, 0, 1, 1, 0])
    return (np.stack([x, y], 1) * (high - low) + low).astype(np.float32)


def panel(frame, column):
    left = 8 + column * (128 + 8)
    return frame[24 : 24 + 96, left : left + 128].astype(float)


def test_panels_are_in_step_and_the_sound_is_the_edited_one(tmp_path, videos):
    source, edited = videos
    order = np.r_[0:6, 4:0:-1]
    landmarks = np.stack([square_landmarks(20, 80)] * COUNT)
    out = tmp_path / "compare.mp4"
    info = write_comparison(source, edited, out, landmarks, order, config=SMALL)
    assert (info.fps, info.num_frames, info.width, info.height) == (NTSC, COUNT, 3 * 128 + 4 * 8, 24 + 96 + 8 + 32 + 8)
    frames = list(read_frames(out))
    originals, edits = list(read_frames(source)), list(read_frames(edited))
    for number, frame in enumerate(frames):
        assert abs(np.median(panel(frame, 0)) - np.median(originals[order[number]])) < 4
        assert abs(np.median(panel(frame, 2)) - np.median(edits[number])) < 4
        lines = panel(frame, 1)
        assert lines.max() > 180 and np.median(lines) < 80
    # the labels are there, and the cursor moves over the waveform
    assert frames[0][:24].max() > 150
    strip = [frame[-40:-8, 8:-8].astype(int) for frame in frames]
    cursors = [int((part[..., 0] - part[..., 2]).mean(0).argmax()) for part in strip]
    assert all(b > a for a, b in zip(cursors, cursors[1:], strict=False))
    samples, rate = read_sound(out)
    assert rate == 44100 and samples.shape[1] / rate == pytest.approx(COUNT / float(NTSC), abs=0.06)


def test_without_landmarks_and_sound(tmp_path, videos):
    source, _ = videos
    info = write_comparison(source, source, tmp_path / "compare.mp4", config=SMALL)
    assert (info.width, info.height, info.has_audio) == (2 * 128 + 3 * 8, 24 + 96 + 8, False)


def test_a_small_face_is_enlarged(tmp_path):
    """The face's region is white in a black frame: enlarged, it fills the panel."""
    frames = np.zeros((2, 200, 300, 3), np.uint8)
    frames[:, 80:140, 150:210] = 255
    source = write_clip(tmp_path / "small.mp4", frames)
    landmarks = np.stack([square_landmarks(30, 60) + (135, 65)] * 2)
    out = tmp_path / "compare.mp4"
    write_comparison(source, source, out, landmarks, config=SMALL)
    frame = next(read_frames(out))
    assert (frame[30:110, 14:90] > 200).mean() > 0.95


def test_pixels_that_are_not_square_are_shown_as_wide_as_they_are(tmp_path):
    frames = np.zeros((2, 96, 64, 3), np.uint8)
    frames[:, 24:72, 16:48] = 255
    source = write_clip(tmp_path / "wide.mp4", frames, pixel_aspect=Fraction(2))
    info = write_comparison(source, source, tmp_path / "compare.mp4", config=SMALL)
    assert (info.width, info.pixel_aspect) == (2 * 128 + 3 * 8, 1)
    bright = next(read_frames(tmp_path / "compare.mp4"))[24 + 48, 8 : 8 + 128].max(-1) > 128
    assert 60 <= bright.sum() <= 68


def test_what_does_not_belong_together_is_refused(tmp_path, videos):
    source, edited = videos
    other = write_clip(tmp_path / "other.mp4", numbered_frames(COUNT, 64, 64))
    with pytest.raises(InputError, match="64x64"):
        write_comparison(source, other, tmp_path / "out.mp4")
    with pytest.raises(InputError, match="10 frames"):
        write_comparison(source, edited, tmp_path / "out.mp4", np.zeros((3, 68, 2)))
    with pytest.raises(InputError, match="10 frames"):
        write_comparison(source, edited, tmp_path / "out.mp4", order=np.arange(4))
    assert [path.name for path in tmp_path.iterdir()] == ["other.mp4"]


def test_waveform_shows_when_it_is_loud(tmp_path):
    samples, rate = tone(1.0, 16000, amplitude=0.8)
    samples[:, : rate // 2] = 0
    clip = write_clip(tmp_path / "clip.mp4", numbered_frames(25, 32, 32), audio=(samples, rate))
    picture = waveform(clip, 1.0, 100, 40)
    tall = (picture[..., 2] > 100).sum(0)
    assert tall[5:45].max() <= 2 and tall[56:95].min() >= 0.7 * 40


def test_landmarks_are_drawn_where_they_are():
    drawn = draw_landmarks(np.zeros((120, 120, 3), np.uint8), square_landmarks(20, 100))
    marks = np.argwhere(drawn.max(-1) > 100)
    assert marks.min() >= 18 and marks.max() <= 102 and len(marks) > 100
