"""The emotion space: codes of named emotions and of voices, which mix linearly."""

import numpy as np
import torch

from hdtalk.data import SpeechFeatures
from hdtalk.errors import UsageError
from hdtalk.models.speech import EMOTIONS, SpeechModel, voices_of
from hdtalk.windows import STRETCH_FPS, num_video_frames, silent_frames, stretch_of_rows

SPAN_FRAMES = 12  # about half a second


def parse_emotion(text: str) -> tuple[str, float]:
    """`happy` or `happy:0.6` -> name and intensity 0..1. Raises UsageError for anything else."""
    name, colon, intensity = text.strip().lower().partition(":")
    known = {
        **{emotion: emotion for emotion in EMOTIONS},
        "disgust": "disgusted",
        "anger": "angry",
        "surprise": "surprised",
    }
    try:
        value = float(intensity) if colon else 1.0
    except ValueError:
        value = -1.0
    if name not in known or not 0 <= value <= 1:
        raise UsageError(f"emotion {text!r}: expected NAME or NAME:0..1, NAME one of {', '.join(EMOTIONS)}.")
    return known[name], value


def named_code(model: SpeechModel, emotion: str) -> torch.Tensor:
    """The code `[e]` of `NAME` or `NAME:INTENSITY`: on the line from neutral to the emotion's centre."""
    name, intensity = parse_emotion(emotion)
    codes = model.emotion_codes
    return mix_codes(codes[EMOTIONS.index("neutral")], codes[EMOTIONS.index(name)], intensity)


def mix_codes(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    """`share` 0 gives the first code, 1 the second, values between lie on the line between them."""
    return torch.lerp(first, second, share)


def shared_code(model: SpeechModel, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The emotion that two codes `[e]` have in common: of each emotion the weaker share, the rest neutral."""
    centres = model.emotion_codes
    shares = torch.minimum(first, second) @ centres.T / centres.square().sum(1)
    neutral = EMOTIONS.index("neutral")
    shares[neutral] = 0
    shares[neutral] = (1 - shares.sum()).clamp(min=0)
    return shares @ centres


def own_voice(speech: SpeechFeatures) -> torch.Tensor:
    """What is constant in a recording, float32 `[24]`: see `voices_of`."""
    rows = torch.from_numpy(np.concatenate([speech.mfcc, speech.prosody], 1))
    return voices_of(rows[None], torch.from_numpy(~speech.silent)[None])[0]


@torch.no_grad()
def voice_code(model: SpeechModel, speech: SpeechFeatures) -> torch.Tensor:
    """The emotion code `[e]` of a whole recording: the mean over its frames, pauses left out."""
    total, count = voice_codes(model, speech)
    return (
        total.sum(0) / max(1.0, float(count.sum())) if count.any() else model.emotion_codes[EMOTIONS.index("neutral")]
    )


@torch.no_grad()
def voice_codes(model: SpeechModel, speech: SpeechFeatures, chunk_frames: int = 256) -> tuple[torch.Tensor, np.ndarray]:
    """Per `SPAN_FRAMES`: the sum of the emotion codes `[S, e]` of its voiced frames, and how many there were `[S]`."""
    device, num_frames = model.emotion_codes.device, num_video_frames(speech, STRETCH_FPS)
    sums = torch.zeros(-(-num_frames // SPAN_FRAMES), model.emotion_codes.shape[1], device=device)
    counts, voice = np.zeros(len(sums)), own_voice(speech).to(device)
    for start in range(0, num_frames, chunk_frames):
        count = min(chunk_frames, num_frames - start)
        speaking = np.flatnonzero(~silent_frames(speech, STRETCH_FPS, count, start))
        if len(speaking) == 0:
            continue
        rows = torch.from_numpy(stretch_of_rows(speech, count, start)).to(device)
        half_second = torch.from_numpy((start + speaking) // SPAN_FRAMES).to(device)
        sums.index_add_(0, half_second, model.emotion(rows[None], voice)[0][torch.from_numpy(speaking).to(device)])
        np.add.at(counts, half_second.cpu().numpy(), 1)
    return sums, counts


@torch.no_grad()
def recognise(model: SpeechModel, code: torch.Tensor) -> dict[str, float]:
    """Probabilities of the eight emotions for a code `[e]`."""
    return dict(zip(EMOTIONS, model.emotion_encoder.classifier(code).softmax(-1).tolist(), strict=True))
