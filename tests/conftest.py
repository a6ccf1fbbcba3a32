"""What several tests share: a tiny bundle of untrained networks and a tiny shot, made once per session."""

import os

# One thread per process, children included: the tests' networks are so small that threads mostly wait for each other,
# and on a busy machine a thread that waits for one without a processor costs ten times the work itself.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before the first import of a library that reads it

import signal  # noqa: E402
import wave  # noqa: E402
from fractions import Fraction  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from clips import write_clip  # noqa: E402

SIDE = 32  # of the tiny bundle's crops


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """A shell that starts the tests in the background makes them ignore Ctrl-C; the tests of stopping send it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def tiny_bundle_folder(tmp_path_factory):
    """A whole bundle of real network classes at their smallest sizes, seeded, untrained."""
    from hdtalk import weights
    from hdtalk.generators.stylegan2 import Generator
    from hdtalk.losses.perceptual import PerceptualLoss
    from hdtalk.models.bisenet import BiSeNet
    from hdtalk.models.e4e import Encoder4Editing
    from hdtalk.models.face_detector import FaceDetector
    from hdtalk.models.fan import FAN

    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {
            "generator": {"resolution": SIDE, "channel_base": 256, "channel_max": 8, "num_mapping_layers": 2},
            "encoder": {"resolution": SIDE, "units": [1, 1, 1, 1], "channels": [16, 16, 16, 16], "input_size": 32},
            "landmarker": {"num_modules": 1, "channels": 8},
            "parser": {"width": 4},
            "perceptual": {"width": 4},
            "detector": {"width": 2},
        }
        made = {
            "generator": ("stylegan2", Generator(**sizes["generator"])),
            "encoder": ("e4e", Encoder4Editing(**sizes["encoder"])),
            "landmarker": ("fan", FAN(**sizes["landmarker"])),
            "parser": ("bisenet", BiSeNet(**sizes["parser"])),
            "perceptual": ("demo_backbone", PerceptualLoss("demo", **sizes["perceptual"]).backbone),
            "detector": ("face_detector", FaceDetector(**sizes["detector"])),
        }
        for role, (architecture, network) in made.items():
            weights.write_bundle_file(
                folder, role, network.state_dict(), architecture, sizes[role], trained_on="nothing"
            )
    return folder


@pytest.fixture(scope="session")
def tiny_shot(tmp_path_factory):
    """(video of 10 frames, its landmarks float32 [10,68,2] px, speech of 0.4 s): a drawn head that nods."""
    folder = tmp_path_factory.mktemp("shot")
    height, width, num_frames = 64, 80, 10
    rows, columns = np.mgrid[:height, :width]
    frames, tracks = [], []
    for t in range(num_frames):
        x, y = 40 + 0.5 * t, 30 + np.sin(t)
        background = np.stack([columns * 2, rows * 3, columns + rows], -1) % 256
        head = ((columns - x) / 14) ** 2 + ((rows - y) / 18) ** 2 < 1
        mouth = ((columns - x) / 5) ** 2 + ((rows - y - 9) / (1 + t % 3)) ** 2 < 1
        frame = np.where(head[..., None], (210, 170, 150), background)
        frames.append(np.where(mouth[..., None], (120, 30, 40), frame).astype(np.uint8))
        tracks.append(face_at(x, y, 1 + t % 3))
    video = write_clip(folder / "shot.mp4", np.stack(frames), Fraction(25), pixel_format="yuv420p")
    speech = folder / "speech.wav"
    with wave.open(str(speech), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        tone = 8000 * np.sin(np.arange(6400) * 0.2) * np.hanning(6400)
        file.writeframes(tone.astype(np.int16).tobytes())
    return video, np.stack(tracks), speech


def face_at(x: float, y: float, opening: float) -> np.ndarray:
    """68 landmarks of the drawn head, float32 [68,2]."""
    jaw = [(x - 14 * np.cos(a), y + 18 * np.sin(a)) for a in np.linspace(0, np.pi, 17)]
    brows = [(x + s * (3 + i * 1.5), y - 8) for s in (-1, 1) for i in range(5)]
    nose = [(x, y - 4 + 2 * i) for i in range(4)] + [(x - 2 + i, y + 4) for i in range(5)]
    eyes = [(x + s * 6 + 2 * np.cos(a), y - 4 + np.sin(a)) for s in (-1, 1) for a in np.linspace(0, 5, 6)]
    angles = np.linspace(np.pi, -np.pi, 12, endpoint=False)
    outer = [(x + 5 * np.cos(a), y + 9 - (1 + opening) * np.sin(a)) for a in angles]
    inner = [(x + 3 * np.cos(a), y + 9 - opening * np.sin(a)) for a in np.linspace(np.pi, -np.pi, 8, endpoint=False)]
    return np.array([*jaw, *brows, *nose, *eyes, *outer, *inner], np.float32)


@pytest.fixture(scope="session")
def tiny_networks(tiny_bundle_folder):
    """The tiny bundle, loaded on the CPU."""
    from hdtalk.weights import load_bundle

    return load_bundle(tiny_bundle_folder)


@pytest.fixture(scope="session")
def tiny_crops(tiny_networks):
    """(crops uint8 [6,3,32,32], codes [6,num_ws,512]): pictures that the tiny generator itself makes."""
    from hdtalk.images import to_crops

    generator = tiny_networks.generator
    z = torch.from_numpy(np.random.default_rng(1).standard_normal((6, 512), np.float32))
    with torch.no_grad():
        ws = generator.mapping(z)[:, None].repeat(1, generator.num_ws, 1)
        return to_crops(generator.synthesise(ws)), ws
