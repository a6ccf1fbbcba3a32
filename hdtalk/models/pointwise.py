"""A 1x1 convolution with a stride, as a selection of pixels and then a 1x1 convolution without one."""

import torch
import torch.nn.functional as F
from torch import nn


class StridedPointwise(nn.Conv2d):
    """Same as `nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)`, same key.

    oneDNN (as of torch 2.15) writes out of bounds in the backward pass of a strided 1x1 convolution of fewer than 16
    channels on channels-last images; it is also the slower way.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__(in_channels, out_channels, 1, bias=False)
        self.step = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = x[:, :, :: self.step, :: self.step].contiguous(memory_format=torch.channels_last)
        return F.conv2d(chosen, self.weight)
