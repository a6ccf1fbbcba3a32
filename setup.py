"""Packaging of HDTalk: `pip install .` installs the packages, the command `hdtalk` and the demo bundle."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "hdtalk" / "__init__.py").read_text()).group(1)
README = HERE / "README.md"

TEST = ["pytest>=9", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "scikit-image>=0.22", "python_speech_features>=0.6"]

setup(
    name="hdtalk",
    version=VERSION,
    description="Audio-driven high-resolution seamless talking-head video editing with StyleGAN2",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["hdtalk*", "stylegan2_ops*", "pretrained*"]),
    package_data={
        "hdtalk": ["py.typed"],
        "stylegan2_ops": ["csrc/*", "README.md"],
        "pretrained": ["*.md", "demo/*", "demo/samples/*"],
    },
    install_requires=[
        "torch>=2.10",
        "torchvision",
        "ninja",
        "lpips>=0.1.4",
        "face-alignment>=1.4",
        "facexlib>=0.3",
        "numpy>=1.26",
        "click>=8.1",
        "tqdm",
        "moviepy>=2.1",
        "scipy>=1.11",
        "av>=17",
        "safetensors>=0.4",
        "opencv-python-headless>=4.8",
        "pillow>=10",
        "matplotlib>=3.8",
    ],
    extras_require={"test": TEST, "dev": [*TEST, "ruff", "mypy", "numba"]},
    entry_points={"console_scripts": ["hdtalk = hdtalk.cli:main"]},
)
