"""Speech features on the 10 ms grid -> one window per video frame, at any exact frame rate.

Frame t of a video at `fps` covers t/fps ... (t+1)/fps; its window is centred on the middle, to the nearest grid row.
"""

from fractions import Fraction

import numpy as np

from hdtalk.data import SpeechFeatures

SAMPLE_RATE = 16000
ROW_SAMPLES = 160  # 10 ms from one row to the next
FRAME_SAMPLES = 400  # a row sees 25 ms
WINDOW_ROWS = 28  # 280 ms per video frame
STRETCH_FPS, STRETCH_ROWS = 25, 4  # at this rate windows are whole rows apart
SILENT_PROSODY = np.array([0.0, 0.0, -3.0, 0.0, -3.0, -3.0], np.float32)


def mfcc_windows(
    speech: SpeechFeatures, fps: Fraction | float, num_frames: int | None = None, start: int = 0
) -> np.ndarray:
    """Float32 `[num_frames, 28, 12]`: MFCC 1 to 12 around the middle of each of the video frames
    `start ... start + num_frames` (default: to the end of the speech). Beyond the speech there is silence."""
    return _gather(speech.mfcc, speech.silent_row, centre_rows(fps, _count(speech, fps, num_frames, start), start))


def prosody_windows(
    speech: SpeechFeatures, fps: Fraction | float, num_frames: int | None = None, start: int = 0
) -> np.ndarray:
    """Float32 `[num_frames, 28, 6]`: the prosody of the rows of `mfcc_windows`."""
    return _gather(speech.prosody, SILENT_PROSODY, centre_rows(fps, _count(speech, fps, num_frames, start), start))


def stretch_of_rows(speech: SpeechFeatures, num_frames: int, start: int = 0) -> np.ndarray:
    """Float32 `[4 * num_frames + 24, 18]`, MFCC and prosody side by side: all rows that the windows of consecutive
    frames at 25 fps cover, once each; window t is rows 4t ... 4t + 27."""
    first = int(centre_rows(STRETCH_FPS, 1, start)[0]) - WINDOW_ROWS // 2
    index = first + np.arange(STRETCH_ROWS * (num_frames - 1) + WINDOW_ROWS)
    beyond = ((index < 0) | (index >= len(speech.mfcc)))[:, None]
    index = np.clip(index, 0, len(speech.mfcc) - 1)
    rows = np.concatenate([speech.mfcc[index], speech.prosody[index]], -1)
    return np.where(beyond, silence_row(speech), rows).astype(np.float32, copy=False)


def silence_row(speech: SpeechFeatures) -> np.ndarray:
    """Float32 `[18]`: MFCC and prosody of digital silence, as beyond the ends of the speech."""
    return np.concatenate([speech.silent_row, SILENT_PROSODY])


def silent_frames(
    speech: SpeechFeatures, fps: Fraction | float, num_frames: int | None = None, start: int = 0
) -> np.ndarray:
    """Bool `[num_frames]`: True where the middle of a video frame lies in a pause, or beyond the speech."""
    rows = centre_rows(fps, _count(speech, fps, num_frames, start), start)
    inside = (rows >= 0) & (rows < len(speech.silent))
    return ~inside | speech.silent[np.clip(rows, 0, len(speech.silent) - 1)]


def num_video_frames(speech: SpeechFeatures, fps: Fraction | float) -> int:
    """How many video frames at `fps` the speech covers (rounded up, at least one)."""
    fps = exact_fps(fps)
    return max(1, -(-speech.num_samples * fps.numerator // (SAMPLE_RATE * fps.denominator)))


def exact_fps(fps: Fraction | float) -> Fraction:
    """`fps` as an exact fraction; floats such as 29.97 become the broadcast rate 30000/1001 that they stand for."""
    if isinstance(fps, float) and not fps.is_integer():
        broadcast = Fraction(round(fps * 1.001) * 1000, 1001)
        return broadcast if abs(float(broadcast) - fps) < 0.005 else Fraction(fps).limit_denominator(1001)
    return Fraction(fps)


def centre_rows(fps: Fraction | float, num_frames: int, start: int = 0) -> np.ndarray:
    """The rows r `[num_frames]` whose windows, rows r-14 ... r+13, are centred nearest to the frames' middles."""
    fps = exact_fps(fps)
    frame = np.arange(start, start + num_frames, dtype=np.int64)
    middle = (2 * frame + 1) * fps.denominator * SAMPLE_RATE  # samples, times 2 * numerator
    offset = 2 * fps.numerator * (FRAME_SAMPLES // 2 - ROW_SAMPLES // 2)
    step = 2 * fps.numerator * ROW_SAMPLES
    return (2 * (middle - offset) + step) // (2 * step)


def _gather(rows: np.ndarray, outside: np.ndarray, centres: np.ndarray) -> np.ndarray:
    index = centres[:, None] + np.arange(-(WINDOW_ROWS // 2), WINDOW_ROWS // 2)  # [T, 28]
    beyond = (index < 0) | (index >= len(rows))
    return np.where(beyond[..., None], outside, rows[np.clip(index, 0, len(rows) - 1)]).astype(np.float32, copy=False)


def _count(speech: SpeechFeatures, fps, num_frames: int | None, start: int) -> int:
    return max(0, num_video_frames(speech, fps) - start) if num_frames is None else num_frames
