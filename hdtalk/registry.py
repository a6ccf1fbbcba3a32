"""The public checkpoints HDTalk can use: what each is for, where it lies, how to know it, and on whose terms.

Sizes are bytes; `sha256` is the full hash, or its first characters where only those are published (in the file's name).
"""

from dataclasses import dataclass

NVIDIA = "NVIDIA Source Code License: research and evaluation only, non-commercial"
ADRIAN = "https://www.adrianbulat.com/downloads/python-fan/"
FACEXLIB = "https://github.com/xinntao/facexlib/releases/download/"


@dataclass(frozen=True)
class OfficialFile:
    """One published file. `sources` are tried in order; "gdrive:ID" is a Google Drive file."""

    name: str
    role: str
    architecture: str
    sources: tuple[str, ...]
    sha256: str
    size: int | None
    licence: str
    origin: str
    needed: bool = True


OFFICIAL_FILES = (
    OfficialFile(
        "ffhq.pkl",
        "generator",
        "stylegan2",
        ("https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/ffhq.pkl",),
        "a205a346e86a9ddaae702e118097d014b7b8bd719491396a162cca438f2f524c",
        381_624_121,
        NVIDIA,
        "NVlabs/stylegan2-ada-pytorch, trained on FFHQ (CC BY-NC-SA 4.0), 1024 px",
    ),
    OfficialFile(
        "stylegan2-ffhq-config-f.pt",
        "generator",
        "stylegan2",
        ("gdrive:1EM87UquaoQmk17Q8d5kYIAHqu0dkYqdT",),
        "bae494ef77e32a9cd1792a81a3c167692a0e64f6bcd8b06592ff42917e2ed46e",
        381_462_551,
        NVIDIA,
        "StyleGAN2 configuration F in rosinality's form, as linked by encoder4editing, 1024 px",
        needed=False,
    ),
    OfficialFile(
        "e4e_ffhq_encode.pt",
        "encoder",
        "e4e",
        ("gdrive:1cUv_reLE6k3604or78EranS7XzuVMWeO", "gdrive:1ALC5CLA89Ouw40TwvxcwebhzWXM5YSCm"),
        "2ace1d9a8c05c10a399bcd500b8dda118f759ff1aac89dbdab7435f2136a0999",
        1_201_649_680,
        f"MIT code; its decoder: {NVIDIA}",
        "omertov/encoder4editing, trained on FFHQ",
    ),
    OfficialFile(
        "2DFAN4-11f355bf06.pth.tar",
        "landmarker",
        "fan",
        (f"{ADRIAN}2DFAN4-11f355bf06.pth.tar",),
        "11f355bf06",
        None,
        "BSD-3 code; the weights state no licence of their own (300W-LP)",
        "1adrianb/face-alignment, state dict of 2018",
    ),
    OfficialFile(
        "2DFAN4-cd938726ad.zip",
        "landmarker",
        "fan",
        (f"{ADRIAN}2DFAN4-cd938726ad.zip",),
        "cd938726adb1f15f361263cce2db9cb820c42585fa8796ec72ce19107f369a46",
        None,
        "BSD-3 code; the weights state no licence of their own (300W-LP)",
        "1adrianb/face-alignment 1.2 to 1.4, TorchScript",
        needed=False,
    ),
    OfficialFile(
        "79999_iter.pth",
        "parser",
        "bisenet",
        (f"{FACEXLIB}v0.2.0/parsing_bisenet.pth", "gdrive:154JgKpzCPW82qINcVieuPH3fZ2e0P812"),
        "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
        53_289_463,
        "MIT code; weights trained on CelebAMask-HQ: non-commercial research",
        "zllrunning/face-parsing.PyTorch (facexlib calls the same file parsing_bisenet.pth)",
    ),
    OfficialFile(
        "alexnet-owt-7be5be79.pth",
        "perceptual",
        "alexnet",
        ("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",),
        "7be5be79",
        None,
        "BSD-3 code; ImageNet weights",
        "torchvision",
    ),
    OfficialFile(
        "vgg16-397923af.pth",
        "perceptual",
        "vgg16",
        ("https://download.pytorch.org/models/vgg16-397923af.pth",),
        "397923af",
        None,
        "BSD-3 code; ImageNet weights",
        "torchvision",
        needed=False,
    ),
    OfficialFile(
        "model_ir_se50.pth",
        "identity",
        "irse50",
        (f"{FACEXLIB}v0.1.0/recognition_arcface_ir_se50.pth", "gdrive:1KW7bjndL3QG3sxBbZxreGHigcCCpsDgn"),
        "a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
        175_367_323,
        "MIT code; training data for research only",
        "TreB1eN/InsightFace_Pytorch",
        needed=False,
    ),
    OfficialFile(
        "s3fd-619a316812.pth",
        "detector",
        "s3fd",
        (f"{ADRIAN}s3fd-619a316812.pth",),
        "619a31681264d3f7f7fc7a16a42cbbe8b23f31a256f75a366e5a1bcd59b33543",
        89_843_225,
        "BSD-3 code; the weights state no licence of their own (WIDER FACE)",
        "1adrianb/face-alignment",
    ),
    OfficialFile(
        "pt_inception-2015-12-05-6726825d.pth",
        "fid",
        "inception",
        ("https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",),
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        95_628_359,
        "Apache-2.0",
        "mseitzer/pytorch-fid",
        needed=False,
    ),
    OfficialFile(
        "syncnet_v2.model",
        "sync",
        "syncnet",
        ("https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",),
        "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
        None,
        "MIT",
        "joonson/syncnet_python",
        needed=False,
    ),
)

# What an official checkpoint of each role must be to serve the 1024 px bundle.
FFHQ_SIZES = {
    "generator": {"resolution": 1024},
    "encoder": {"resolution": 1024, "input_size": 256},
    "landmarker": {"num_landmarks": 68},
    "parser": {"num_classes": 19},
    "mouth_codes": {"num_ws": 18},
}
