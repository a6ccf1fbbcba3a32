"""The Inception network of FID: torchvision's Inception3 with the pooling that the 2015 TensorFlow graph has."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.inception import Inception3, InceptionA, InceptionC, InceptionE

# The graph averages over real neighbours only, and its very last block takes a maximum instead.
_average = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_maximum = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)


class FIDInception(nn.Module):
    """Pool features of FID. Keys are those of pytorch-fid's `pt_inception-2015-12-05` file (1008 classes)."""

    def __init__(self) -> None:
        super().__init__()
        network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
        for name, block in (
            ("Mixed_5b", _BlockA(192, pool_features=32)),
            ("Mixed_5c", _BlockA(256, pool_features=64)),
            ("Mixed_5d", _BlockA(288, pool_features=64)),
            ("Mixed_6b", _BlockC(768, channels_7x7=128)),
            ("Mixed_6c", _BlockC(768, channels_7x7=160)),
            ("Mixed_6d", _BlockC(768, channels_7x7=160)),
            ("Mixed_6e", _BlockC(768, channels_7x7=192)),
            ("Mixed_7b", _BlockE(1280)),
            ("Mixed_7c", _LastBlockE(2048)),
        ):
            setattr(network, name, block)
        for name, module in network.named_children():
            self.add_module(name, module)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`images` float RGB [N,3,H,W] in [0,1], any size -> features [N,2048]."""
        x = F.interpolate(images, size=(299, 299), mode="bilinear", align_corners=False) * 2 - 1
        for name, module in self.named_children():
            if name == "avgpool":
                return module(x).flatten(1)
            x = module(x)
        raise AssertionError("Inception3 has no avgpool")


class _OwnPooling:
    """Replaces the pooling branch, the last of a block's outputs."""

    pool = staticmethod(_average)
    branch_pool: nn.Module

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(self.pool(x))]  # type: ignore[misc]


class _BlockA(_OwnPooling, InceptionA):
    pass


class _BlockC(_OwnPooling, InceptionC):
    pass


class _BlockE(_OwnPooling, InceptionE):
    pass


class _LastBlockE(_OwnPooling, InceptionE):
    pool = staticmethod(_maximum)
