"""What the stages ask of any image generator."""

from typing import Literal, Protocol, runtime_checkable

import torch

NoiseMode = Literal["const", "none", "random"]


@runtime_checkable
class ImageGenerator(Protocol):
    """A `torch.nn.Module` that turns latent codes into aligned faces.

    `resolution`: side of its images in pixels. `num_ws`: rows of a W+ code.
    `mean_latent`: float32 `[512]`, the average w.
    """

    resolution: int
    num_ws: int
    mean_latent: torch.Tensor

    def mapping(self, z: torch.Tensor) -> torch.Tensor:
        """`z` `[N, 512]`, standard normal -> w `[N, 512]`."""
        ...

    def synthesise(self, ws: torch.Tensor, noise: NoiseMode = "const", resolution: int | None = None) -> torch.Tensor:
        """`ws` `[N, num_ws, 512]` -> images `[N, 3, R, R]`, nominal range [-1, 1]."""
        ...
