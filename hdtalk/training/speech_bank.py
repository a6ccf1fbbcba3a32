"""All takes of a corpus as tables on the training device: a batch is one gather instead of a loop over takes."""

from collections.abc import Sequence

import numpy as np
import torch

from hdtalk.training.speech_data import FPS, Take
from hdtalk.windows import STRETCH_ROWS, WINDOW_ROWS, centre_rows, silence_row

FARTHEST = 2.5  # from a face's middle, face units: of a head turned by some 60 degrees


class SpeechBank:
    """`rows` `[R, 18]`: MFCC and prosody of all sounds, one after the other; sound s is rows `first_row[s]` ...
    `first_row[s] + num_rows[s]`. Take k owns the sounds `first_sound[k]` ... (`num_sounds[k]` of them, the clean one
    first) and the frames `first_frame[k]` ... of `displacement` `[F, 136]` at 25 fps (`num_frames[k]`, 0 without)."""

    def __init__(self, takes: Sequence[Take], device: torch.device):
        self.takes, self.device = takes, device
        sounds = [sound for take in takes for sound in take.sounds]
        self.rows = self._on(np.concatenate([np.concatenate([s.mfcc, s.prosody], 1) for s in sounds]))
        self.silent = torch.from_numpy(np.concatenate([s.silent for s in sounds])).to(device)
        self.num_rows, self.first_row = self._spans([len(s.mfcc) for s in sounds])
        self.level_db = self._on([s.level_db for s in sounds])
        self.silent_row = self._on(silence_row(sounds[0]))
        self.num_sounds, self.first_sound = self._spans([len(take.sounds) for take in takes])
        shown = [take.displacement for take in takes]
        self.frame_counts = np.array([0 if d is None else len(d) for d in shown])
        self.num_frames, self.first_frame = self._spans(self.frame_counts.tolist())
        frames = [d.reshape(-1, 136) for d in shown if d is not None]
        self.displacement = self._on(np.concatenate(frames or [np.zeros((1, 136))]))
        self.neutral = self._on([np.zeros(136) if t.neutral is None else t.neutral.ravel() for t in takes])
        self.emotion = torch.tensor([take.emotion for take in takes], device=device)
        by_speaker: dict[str, list[int]] = {}
        for k, take in enumerate(takes):
            by_speaker.setdefault(take.clip.actor, []).append(k)
        self.takes_of_speakers = [np.array(own) for own in by_speaker.values()]
        emphasis = np.array([takes[own[0]].emphasis for own in self.takes_of_speakers])
        self.speaker_odds = emphasis / emphasis.sum()
        # row 4 t + this is the first that the window of frame t covers
        self.first_of_window = int(centre_rows(FPS, 1, 0)[0]) - WINDOW_ROWS // 2

    def draw_takes(self, count: int) -> torch.Tensor:
        return torch.randint(len(self.takes), (count,), device=self.device)

    def draw_by_speaker(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Indices of takes `[count]`: a speaker is as likely as the emphasis says, however many takes there are."""
        speakers = rng.choice(len(self.takes_of_speakers), size=count, p=self.speaker_odds)
        return np.array([rng.choice(self.takes_of_speakers[speaker]) for speaker in speakers])

    def draw_sounds(self, takes: torch.Tensor, clean: float = 0.0) -> torch.Tensor:
        """One of each take's sounds `[N]`; with probability `clean`, the clean one."""
        version = _below(self.num_sounds[takes])
        version = torch.where(torch.rand(len(takes), device=self.device) < clean, 0, version)
        return self.first_sound[takes] + version

    def draw_starts(self, takes: np.ndarray, num_frames: int, rng: np.random.Generator, beyond: int = 8) -> np.ndarray:
        """First frames `[N]` of stretches that lie within each take, or up to `beyond` frames outside."""
        lengths = self.frame_counts[takes]
        return rng.integers(-beyond, np.maximum(1 - beyond, lengths - num_frames + beyond))

    def stretch(self, sounds: torch.Tensor, first_row: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`[N, length, 18]` rows of the sounds from `first_row` `[N]` on, silence beyond their ends; and bool
        `[N, length]`, where there is a pause."""
        index = first_row[:, None] + torch.arange(length, device=self.device)
        beyond = (index < 0) | (index >= self.num_rows[sounds, None])
        index = self.first_row[sounds, None] + torch.minimum(index.clamp(min=0), self.num_rows[sounds, None] - 1)
        rows = torch.where(beyond[..., None], self.silent_row, self.rows[index])
        return rows, beyond | self.silent[index]

    def truth(self, takes: torch.Tensor, starts: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Displacements `[N, num_frames, 68, 2]` from frame `starts` `[N]` on; the first and last frame hold."""
        index = starts[:, None] + torch.arange(num_frames, device=self.device)
        index = torch.minimum(index.clamp(min=0), self.num_frames[takes, None] - 1) + self.first_frame[takes, None]
        return self.displacement[index].unflatten(-1, (68, 2))

    def _spans(self, lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Lengths, and where each begins."""
        counts = torch.tensor(lengths, device=self.device)
        return counts, torch.cumsum(counts, 0) - counts

    def _on(self, values) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, np.float32)).to(self.device)


class ViewBank:
    """Landmarks of all views, for pairs of one moment seen from two sides; but for views in which the head ever turns
    so far that its eye corners nearly meet: in face units all else is huge there, and a few of them outweigh the rest.
    """

    def __init__(self, takes: Sequence[Take]):
        views = [_measurable(take.views) for take in takes]
        self.frames = np.concatenate([view.reshape(-1, 68, 2) for of_take in views for view in of_take.values()])
        counts = [[len(view) for view in of_take.values()] for of_take in views]
        width = max(map(len, counts))
        self.num_views = np.array([len(row) for row in counts])
        self.num_frames = np.array([row + [1] * (width - len(row)) for row in counts])
        ends = np.cumsum([count for row in counts for count in row])
        starts = iter(ends - [count for row in counts for count in row])
        self.first_frame = np.array([[next(starts) for _ in row] + [0] * (width - len(row)) for row in counts])
        self.step = np.array([take.view_step for take in takes])
        self.front = np.array([list(of_take).index("front") if "front" in of_take else -1 for of_take in views])

    def pairs(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Float32 `[count, 68, 2]` twice: a pose, and the same moment from another side, mostly from the front."""
        take = rng.integers(len(self.front), size=count)
        shown, heard = (rng.integers(self.num_views[take]) for _ in range(2))
        frontal = (self.front[take] >= 0) & (rng.random(count) < 0.7)
        heard = np.where(frontal, self.front[take], heard)
        frame = rng.integers(np.minimum(self.num_frames[take, shown], self.num_frames[take, heard]))
        return tuple(self.frames[self.first_frame[take, view] + frame] for view in (shown, heard))

    def poses(self, take: np.ndarray, low: np.ndarray, high: np.ndarray, rng: np.random.Generator):
        """A frame of each take from any side, float32 `[N, 68, 2]`, and which one `[N]`, in 25 fps, within `low` ...
        `high - 1` if there is one."""
        view, step = rng.integers(self.num_views[take]), self.step[take]
        last = self.num_frames[take, view] - 1
        first = np.clip(-(-low // step), 0, last)
        index = rng.integers(first, np.maximum(first, np.minimum((high - 1) // step, last)) + 1)
        return self.frames[self.first_frame[take, view] + index], index * step


def _measurable(views: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those whose points stay within `FARTHEST`; if there is none, the one that comes nearest to it."""
    reach = {name: np.abs(view).max() for name, view in views.items()}
    return {name: view for name, view in views.items() if reach[name] <= max(FARTHEST, min(reach.values()))}


def rows_of(num_frames: int) -> int:
    """How many rows the windows of so many consecutive frames cover."""
    return STRETCH_ROWS * (num_frames - 1) + WINDOW_ROWS


def _below(limits: torch.Tensor) -> torch.Tensor:
    """A random whole number in 0 ... limit - 1 for each limit."""
    return torch.minimum((torch.rand(limits.shape, device=limits.device) * limits).long(), limits - 1)
