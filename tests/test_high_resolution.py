"""One frame at 1024 px through the whole chain, with a generator from a file in the official format."""

import json
import shutil

import numpy as np
import official_keys
import pytest
import torch
from official_keys import filled

from hdtalk import media, weights
from hdtalk.models.e4e import Encoder4Editing
from hdtalk.pipeline import edit_video

ENCODER = {"resolution": 1024, "units": [1, 1, 1, 1], "channels": [16, 16, 16, 16], "input_size": 256}
STEPS = {
    "precision": "float32",
    "invert": {"steps": 1, "shared_steps": 1, "refine_steps": 1, "lambda_locality": 10.0, "locality_every": 1},
    "optimise": {"steps": 1, "anchors": 0},
    "stitch": {"steps": 1, "border_threshold": 0.0},
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_frame_of_1024_px(tiny_bundle_folder, tiny_shot, tmp_path):
    torch.save({"g_ema": filled(official_keys.rosinality()), "latent_avg": torch.zeros(512)}, tmp_path / "config-f.pt")
    generator = weights.load_generator(tmp_path / "config-f.pt")
    folder = tmp_path / "high"
    shutil.copytree(tiny_bundle_folder, folder)
    sizes = {"resolution": 1024}
    weights.write_bundle_file(folder, "generator", generator.state_dict(), "stylegan2", sizes, trained_on="a rule")
    torch.manual_seed(0)
    encoder = Encoder4Editing(**ENCODER)
    weights.write_bundle_file(folder, "encoder", encoder.state_dict(), "e4e", ENCODER, trained_on="nothing")
    video, track, speech = tiny_shot
    target = track[:1] + np.where(np.arange(68) >= 48, 1.5, 0)[None, :, None].astype(np.float32)
    result = edit_video(
        video, speech, tmp_path / "out.mp4", bundle=str(folder), track=track[:1], landmarks=target,
        trim_end=0.04, **STEPS,
    )  # fmt: skip
    assert result.num_edited == 1 and media.probe(result.output).num_frames == 1
    record = json.loads(result.manifest.read_text())
    assert record["bundle"]["resolution"] == 1024
