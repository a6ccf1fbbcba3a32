"""Which networks measure: published ones where they are installed, the bundle's own named as stand-ins elsewhere."""

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import tone, write_wav

from hdtalk import weights
from hdtalk.config import EvaluateConfig, MediaConfig
from hdtalk.data import FaceTrack, VideoInfo
from hdtalk.evaluate import evaluate
from hdtalk.instruments import Instruments, _provenance, face_tracker, installed_instruments
from hdtalk.losses.perceptual import PerceptualLoss
from hdtalk.media import VideoWriter
from hdtalk.models.integral_regressor import CloseRegressor, IntegralRegressor
from hdtalk.models.syncnet import SyncNet
from hdtalk.pairs import Pair
from hdtalk.soundtrack import Soundtrack


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty store of weights."""
    monkeypatch.setenv("HDTALK_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "weights").mkdir(parents=True)
    return tmp_path / "home" / "weights"


@pytest.fixture(scope="module")
def syncnet():
    torch.manual_seed(0)
    return SyncNet().eval()


@pytest.fixture
def crops():
    return np.random.default_rng(0).integers(0, 255, (3, 256, 256, 3), np.uint8)


def test_without_published_networks_stand_ins_are_named_and_the_rest_explained(home, tiny_bundle_folder, crops):
    instruments = installed_instruments(str(tiny_bundle_folder))
    assert instruments.stand_ins == {"LPIPS", "FID", "ID"}
    assert "landmarker_eval" in instruments.missing["F-LD"] and instruments.landmarks is None
    assert "hdtalk weights fetch syncnet_v2.model" in instruments.missing["LSE-C"]
    own = weights.load_bundle(tiny_bundle_folder).perceptual
    images = torch.from_numpy(crops).permute(0, 3, 1, 2) / 127.5 - 1
    expected = own.backbone(images)[-1].mean((2, 3)).numpy()
    np.testing.assert_allclose(instruments.fid_features(crops), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(instruments.embed(crops).numpy(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(instruments.perceptual(images, images.flip(0)), own(images, images.flip(0)))


def test_published_networks_are_preferred(home, tiny_bundle_folder, syncnet):
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    state = {f"features.{index}.weight": torch.randn(shape) / 50 for index, shape in shapes.items()}
    state |= {f"features.{index}.bias": torch.zeros(shape[0]) for index, shape in shapes.items()}
    alexnet = PerceptualLoss("alex", state)
    torch.save(state, home / "alexnet-owt-7be5be79.pth")
    torch.save(syncnet.state_dict(), home / "syncnet_v2.model")
    instruments = installed_instruments(str(tiny_bundle_folder))
    assert instruments.stand_ins == {"FID", "ID"} and "LSE-C" not in instruments.missing
    a, b = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(instruments.perceptual(a, b), alexnet(a, b))
    mfcc = torch.randn(1, 1, 13, 20)
    torch.testing.assert_close(instruments.syncnet.audio(mfcc), syncnet.audio(mfcc))


def test_landmarks_come_from_the_net_that_no_loss_has_seen(home, tiny_bundle_folder, tmp_path, crops):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle_folder, folder)
    torch.manual_seed(1)
    sizes = {"width": 4, "mouth_width": 4}
    network = CloseRegressor(**sizes).eval()
    for part in (network.face, network.mouth):
        torch.nn.init.normal_(part.maps.weight)
    weights.write_bundle_file(folder, "landmarker_eval", network.state_dict(), "close_regressor", sizes)
    instruments = installed_instruments(str(folder))
    with torch.inference_mode():
        expected = network(torch.from_numpy(crops).permute(0, 3, 1, 2) / 127.5 - 1).numpy()
    np.testing.assert_allclose(instruments.landmarks(crops), expected, atol=0.5)  # stored as float16
    assert "close_regressor of bundle tiny, which no loss has seen" in instruments.made_by["F-LD"]


def test_a_judge_without_a_look_at_the_mouth_serves_too(home, tiny_bundle_folder, tmp_path, crops):
    """As bundles have it that were trained before there was one."""
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle_folder, folder)
    network = IntegralRegressor(4).eval()
    weights.write_bundle_file(folder, "landmarker_eval", network.state_dict(), "integral_regressor", {"width": 4})
    np.testing.assert_allclose(
        installed_instruments(str(folder)).landmarks(crops), 128, atol=0.5
    )  # untrained: the middle


def test_landmarks_by_the_demo_net_are_called_a_stand_in_in_another_bundle(home):
    """ffhq has no `landmarker_eval` of its own; the demo bundle's knows rendered heads only."""
    said = _provenance(weights.load_bundle("ffhq", complete=False))
    assert "of bundle demo, which no loss has seen. A stand-in, trained on" in said and "ffhq" not in said
    assert "rendered heads" in said and "differences of a few px on real people are within its error" in said
    assert "stand-in" not in _provenance(weights.load_bundle("demo"))


def test_adopted_networks_are_not_called_published(home, tiny_bundle_folder, syncnet, tmp_path):
    torch.save(syncnet.state_dict(), tmp_path / "mine.model")
    entry = weights.adopt(tmp_path / "mine.model")
    instruments = installed_instruments(str(tiny_bundle_folder))
    for column in ("LSE-D", "LSE-C"):
        assert f"adopted file {entry.file}, not known to be the published one" in instruments.made_by[column]
    torch.save(syncnet.state_dict(), home / "syncnet_v2.model")
    assert "LSE-D" not in installed_instruments(str(tiny_bundle_folder)).made_by


def test_a_shot_without_a_face_gives_a_track_that_is_never_present(home, tiny_bundle_folder, tiny_shot):
    track = face_tracker(weights.load_bundle(tiny_bundle_folder))(tiny_shot[0], 2, 9)
    assert track.landmarks_px.shape == (7, 68, 2) and not track.present.any()


# ------------------------------------------------------------------------------------ lip synchronisation


def write(path: Path, frames, fps, sound=None):
    info = VideoInfo(str(path), frames.shape[2], frames.shape[1], Fraction(fps), len(frames), len(frames) / fps, False)
    with VideoWriter(path, info, Soundtrack(sound) if sound else None, config=MediaConfig(codec="ffv1")) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def test_lse_is_taken_at_25_frames_a_second_from_the_predictions_own_sound(tmp_path, syncnet):
    random = np.random.default_rng(0)
    frames = random.integers(0, 255, (12, 48, 64, 3), np.uint8)
    sound = write_wav(tmp_path / "speech.wav", *tone(0.48, 16000))
    plain = write(tmp_path / "plain.mkv", frames, 25, sound)
    doubled = write(tmp_path / "doubled.mkv", np.repeat(frames, 2, axis=0), 50, sound)
    silent = write(tmp_path / "silent.mkv", frames, 25)
    points = np.broadcast_to(random.uniform(10, 40, (68, 2)), (12, 68, 2)).astype(np.float32)
    instruments = Instruments(track=lambda path: FaceTrack(points, np.ones(12, bool)), syncnet=syncnet)

    def scores_of(prediction):
        pairs = {"ours": [Pair("clip", prediction, plain)]}
        return evaluate(pairs, instruments, EvaluateConfig(crop="full"))

    own, faster, mute = scores_of(plain), scores_of(doubled), scores_of(silent)
    assert own.scores["ours"]["LSE-D"] > 0
    for column in ("LSE-D", "LSE-C"):
        assert faster.scores["ours"][column] == pytest.approx(own.scores["ours"][column], rel=1e-6)
    assert "LSE-D" not in mute.scores["ours"] and "the prediction has no sound" in str(mute.clips[0].notes)
