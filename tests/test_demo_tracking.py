"""The demo bundle's face tracking on its sample shots, against the renderer's landmarks."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from hdtalk.crop import landmarks_to_crop
from hdtalk.face_landmarks import track_face
from hdtalk.media import read_frames
from hdtalk.squares import ffhq_quads
from hdtalk.weights import load_bundle

SAMPLES = Path(__file__).parent.parent / "pretrained" / "demo" / "samples"
SIDE = 256


@pytest.mark.parametrize("name", ["anna", "ben"])
def test_landmarks_of_a_sample_shot_move_as_far_as_the_face_does(name):
    truth_px = np.load(SAMPLES / f"{name}_landmarks.npz")["landmarks_px"][:48]
    frames = list(islice(read_frames(SAMPLES / f"{name}.mp4"), len(truth_px)))
    bundle = load_bundle("demo")
    track = track_face(
        lambda start, stop: iter(frames[start:stop]), len(frames), 25.0, bundle.detector, bundle.landmarker
    )
    quads = ffhq_quads(truth_px)
    found, truth = (landmarks_to_crop(points, quads, SIDE) for points in (track.landmarks_px, truth_px))
    assert np.linalg.norm(found - truth, axis=-1).mean() < 1.7  # px of the crop
    moving, moved = (points[:, 48:] - points[:, 48:].mean(0) for points in (truth, found))
    reach = (moving * moved).sum((0, 1)) / (moving**2).sum((0, 1))  # regression of what was found on what is
    assert (reach > 0.85).all() and (reach < 1.15).all()
    gap, gap_found = (points[:, 66, 1] - points[:, 62, 1] for points in (truth, found))
    assert np.corrcoef(gap, gap_found)[0, 1] > 0.95
