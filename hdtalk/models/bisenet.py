"""BiSeNet, first version, as a face parser: 19 CelebAMask classes per pixel (Yu et al., ECCV 2018).

Written here on the official checkpoint keys (`79999_iter.pth`, `parsing_bisenet.pth`): facexlib's module has one width,
and importing it pulls in its detectors and numba.
"""

import torch
import torch.nn.functional as F
from torch import nn

from hdtalk.models.pointwise import StridedPointwise

CLASSES = (
    *("background", "skin", "left brow", "right brow", "left eye", "right eye", "glasses", "left ear", "right ear"),
    *("earring", "nose", "mouth", "upper lip", "lower lip", "neck", "necklace", "cloth", "hair", "hat"),
)
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BiSeNet(nn.Module):
    """Context path over a ResNet-18, fused with that network's features at 1/8 of the side.

    `width`: channels of the ResNet's first stage (official: 64), a multiple of 4; everything else scales with it.
    `enlarge`: factor by which pictures are enlarged inside; the network answers at every eighth pixel, too coarse for
    the eyes and lips of small pictures.
    """

    def __init__(self, num_classes: int = 19, width: int = 64, enlarge: int = 1):
        super().__init__()
        self.enlarge = enlarge
        self.cp = _ContextPath(width)
        self.ffm = _FeatureFusion(4 * width)
        self.conv_out = _Output(4 * width, 4 * width, num_classes)
        self.conv_out16 = _Output(2 * width, width, num_classes)
        self.conv_out32 = _Output(2 * width, width, num_classes)
        mean, deviation = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_DEVIATION)
        self.register_buffer("mean", mean[:, None, None] * 2 - 1, persistent=False)
        self.register_buffer("deviation", deviation[:, None, None] * 2, persistent=False)

    def forward(self, normalised: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`normalised`: RGB `[N, 3, H, W]` after ImageNet's mean and deviation, sides multiples of 32 -> three logits
        `[N, num_classes, H, W]`: the answer, and the auxiliary ones at 1/8 and 1/16 that training adds."""
        detail, context8, context16 = self.cp(self._enlarged(normalised))
        maps = self.conv_out(self.ffm(detail, context8)), self.conv_out16(context8), self.conv_out32(context16)
        size = normalised.shape[-2:]
        main, at8, at16 = (F.interpolate(m, size, mode="bilinear", align_corners=True) for m in maps)
        return main, at8, at16

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """`images`: RGB `[N, 3, H, W]` in [-1, 1], not resized inside (the official weights want 512 px)
        -> `[N, num_classes, H, W]`."""
        x = self._normalise(images)
        detail, context8, _ = self.cp(self._enlarged(x))
        logits = self.conv_out(self.ffm(detail, context8))
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=True)

    def all_logits(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `forward`, from RGB in [-1, 1]."""
        return self(self._normalise(images))

    def _enlarged(self, x):
        if self.enlarge != 1:
            x = F.interpolate(x, scale_factor=float(self.enlarge), mode="bilinear", align_corners=False)
        return x.contiguous(memory_format=torch.channels_last)

    def _normalise(self, images):
        return (images - self.mean) / self.deviation


class _ContextPath(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.resnet = _ResNet18(width)
        self.arm16 = _AttentionRefinement(4 * width, 2 * width)
        self.arm32 = _AttentionRefinement(8 * width, 2 * width)
        self.conv_head32 = _ConvNormRelu(2 * width, 2 * width)
        self.conv_head16 = _ConvNormRelu(2 * width, 2 * width)
        self.conv_avg = _ConvNormRelu(8 * width, 2 * width, kernel_size=1)

    def forward(self, x):
        at8, at16, at32 = self.resnet(x)
        summary = self.conv_avg(F.adaptive_avg_pool2d(at32, 1))
        context = self.arm32(at32) + summary
        context16 = self.conv_head32(F.interpolate(context, at16.shape[-2:], mode="nearest"))
        context = self.arm16(at16) + context16
        context8 = self.conv_head16(F.interpolate(context, at8.shape[-2:], mode="nearest"))
        return at8, context8, context16


class _AttentionRefinement(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv = _ConvNormRelu(in_channels, out_channels)
        self.conv_atten = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        x = self.conv(x)
        return x * torch.sigmoid(self.bn_atten(self.conv_atten(F.adaptive_avg_pool2d(x, 1))))


class _FeatureFusion(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.convblk = _ConvNormRelu(channels, channels, kernel_size=1)
        self.conv1 = nn.Conv2d(channels, channels // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(channels // 4, channels, 1, bias=False)

    def forward(self, detail, context):
        x = self.convblk(torch.cat([detail, context], dim=1))
        attention = torch.sigmoid(self.conv2(F.relu(self.conv1(F.adaptive_avg_pool2d(x, 1)))))
        return x + x * attention


class _Output(nn.Module):
    def __init__(self, in_channels, inner_channels, num_classes):
        super().__init__()
        self.conv = _ConvNormRelu(in_channels, inner_channels)
        self.conv_out = nn.Conv2d(inner_channels, num_classes, 1, bias=False)

    def forward(self, x):
        return self.conv_out(self.conv(x))


class _ConvNormRelu(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size=3):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class _ResNet18(nn.Module):
    """ResNet-18 without its classifier; returns the features at 1/8, 1/16 and 1/32 of the side."""

    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(_BasicBlock(width, width), _BasicBlock(width, width))
        for k in (2, 3, 4):
            out = width << (k - 1)
            self.add_module(f"layer{k}", nn.Sequential(_BasicBlock(out // 2, out, stride=2), _BasicBlock(out, out)))

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        at8 = self.layer2(self.layer1(x))
        at16 = self.layer3(at8)
        return at8, at16, self.layer4(at16)


class _BasicBlock(nn.Module):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride > 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                StridedPointwise(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))
