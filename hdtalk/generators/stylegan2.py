"""The StyleGAN2 generator with skip connections, at any power-of-two resolution, on rosinality's checkpoint keys."""

from math import log2, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hdtalk.generators.base import NoiseMode
from stylegan2_ops import build, fused_leaky_relu, modulated_conv2d, upfirdn2d, upfirdn2d_bias_act

FORMS = ("shared", "grouped")
SMALLEST, LARGEST = 16, 1024


class Generator(nn.Module):
    """Latent codes to images (StyleGAN2 paper, configuration F when all sizes are left alone).

    `resolution`: side of the image, a power of two from 16 to 1024.
    `channel_base`, `channel_max`: a layer at side r has `min(channel_base // r, channel_max)` channels.
    `conv_clamp`: limit on the magnitude of every convolution's output (NVlabs' option for fp16), or None.
    `form`: "shared" convolves the whole batch with one set of weights between a scaling of its input and its output,
        "grouped" builds one set per sample, as the paper writes it. Equal up to rounding; an attribute, free to change.
        With frozen weights the shared form computes no weight gradients, the grouped form always does.

    Runs in float32, in bfloat16 or float16 after `.to(dtype)`, and under autocast; images then have that dtype.
    The state dict holds rosinality's keys and one more, `mean_latent` `[w_dim]`.
    """

    mean_latent: torch.Tensor

    def __init__(
        self,
        resolution: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        w_dim: int = 512,
        z_dim: int = 512,
        num_mapping_layers: int = 8,
        conv_clamp: float | None = None,
        form: str = "shared",
    ):
        super().__init__()
        if resolution not in (2**k for k in range(4, 11)):
            raise ValueError(f"resolution must be a power of two from {SMALLEST} to {LARGEST}, got {resolution}")
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
        self.resolution, self.form = resolution, form
        self.w_dim, self.z_dim = w_dim, z_dim
        self.num_ws = 2 * int(log2(resolution)) - 2
        sides = [2**k for k in range(2, int(log2(resolution)) + 1)]
        channels = {side: min(channel_base // side, channel_max) for side in sides}

        self.style = nn.Sequential(
            _PixelNorm(),
            *(
                _EqualLinear(z_dim if k == 0 else w_dim, w_dim, rate=0.01, activate=True)
                for k in range(num_mapping_layers)
            ),
        )
        self.input = _ConstantInput(channels[4])
        self.conv1 = _StyledConv(channels[4], channels[4], w_dim, clamp=conv_clamp)
        self.to_rgb1 = _ToRGB(channels[4], w_dim, upsample=False, clamp=conv_clamp)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for side in sides[1:]:
            self.convs.append(_StyledConv(channels[side // 2], channels[side], w_dim, up=True, clamp=conv_clamp))
            self.convs.append(_StyledConv(channels[side], channels[side], w_dim, clamp=conv_clamp))
            self.to_rgbs.append(_ToRGB(channels[side], w_dim, upsample=True, clamp=conv_clamp))
        self.noises = nn.Module()
        for k in range(len(self.convs) + 1):
            side = 2 ** ((k + 5) // 2)
            self.noises.register_buffer(f"noise_{k}", torch.randn(1, 1, side, side))
        self.register_buffer("mean_latent", torch.zeros(w_dim))

    def forward(self, ws: torch.Tensor, noise: NoiseMode = "const", resolution: int | None = None) -> torch.Tensor:
        """Same as `synthesise`."""
        return self.synthesise(ws, noise, resolution)

    def mapping(self, z: torch.Tensor) -> torch.Tensor:
        """`z` `[N, z_dim]`, standard normal -> w `[N, w_dim]`."""
        return self.style(z)

    def synthesise(self, ws: torch.Tensor, noise: NoiseMode = "const", resolution: int | None = None) -> torch.Tensor:
        """Images `[N, 3, R, R]`, channels-last, nominal range [-1, 1], from codes.

        `ws`: W+ `[N, num_ws, w_dim]`, or W `[N, w_dim]`.
        `noise`: "const" adds the stored noise maps, "random" fresh ones per sample, "none" no noise.
        `resolution`: stop at this side, a power of two from 8; the layers beyond are not run. Default: the full one.
        Raises ValueError for shapes or arguments that do not fit.
        """
        resolution = self.resolution if resolution is None else resolution
        if ws.ndim == 2:
            ws = ws[:, None].expand(-1, self.num_ws, -1)
        self._check(ws, noise, resolution)
        rows = ws.unbind(1)
        x = self.input.input.expand(ws.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        x = self.conv1(x, rows[0], self._noise(0, x, noise), self.form)
        image = self.to_rgb1(x, rows[1], None, self.form)
        for i in range(int(log2(resolution)) - 2):
            up, plain, to_rgb = self.convs[2 * i], self.convs[2 * i + 1], self.to_rgbs[i]
            x = up(x, rows[2 * i + 1], self._noise(2 * i + 1, x, noise), self.form)
            x = plain(x, rows[2 * i + 2], self._noise(2 * i + 2, x, noise), self.form)
            image = to_rgb(x, rows[2 * i + 3], image, self.form)
        return image

    def truncate(self, ws: torch.Tensor, psi: float = 0.7, num_rows: int | None = None) -> torch.Tensor:
        """Codes, W or W+, pulled towards the mean by `psi` (1: not at all); only the first `num_rows` rows if given."""
        pulled = torch.lerp(self.mean_latent.to(ws.dtype).expand_as(ws), ws, psi)
        if num_rows is None or ws.ndim == 2:
            return pulled
        return torch.cat([pulled[:, :num_rows], ws[:, num_rows:]], dim=1)

    @torch.no_grad()
    def estimate_mean_latent(self, num_samples: int = 16384, seed: int = 0) -> torch.Tensor:
        """Average w of random codes, `[w_dim]`; for checkpoints that come without one."""
        z = torch.randn(num_samples, self.z_dim, generator=torch.Generator().manual_seed(seed))
        return self.mapping(z.to(self.mean_latent)).mean(0)

    def to(self, *args: Any, **kwargs: Any) -> "Generator":
        """As `nn.Module.to`, without `memory_format`: activations are channels-last whatever the weights' layout,
        and five-dimensional weights have no such format."""
        kwargs.pop("memory_format", None)
        return super().to(*args, **kwargs) if args or kwargs else self

    def _noise(self, index: int, x: torch.Tensor, mode: str) -> torch.Tensor | None:
        """Noise map of a layer, `[1 or N, 1, side, side]`, or None."""
        if mode == "none":
            return None
        stored = getattr(self.noises, f"noise_{index}")
        if mode == "const":
            return stored
        return torch.randn(x.shape[0], *stored.shape[1:], dtype=stored.dtype, device=x.device)

    def _check(self, ws: torch.Tensor, noise: str, resolution: int) -> None:
        if ws.ndim != 3 or list(ws.shape[1:]) != [self.num_ws, self.w_dim]:
            raise ValueError(
                f"ws must have shape [N, {self.num_ws}, {self.w_dim}] or [N, {self.w_dim}], got {list(ws.shape)}"
            )
        if noise not in ("const", "none", "random"):
            raise ValueError(f"noise must be 'const', 'none' or 'random', got {noise!r}")
        if not 8 <= resolution <= self.resolution or resolution & (resolution - 1):
            raise ValueError(f"resolution must be a power of two from 8 to {self.resolution}, got {resolution}")


class _PixelNorm(nn.Module):
    def forward(self, x):
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class _EqualLinear(nn.Module):
    """Linear layer whose stored weights have unit variance; `rate` scales weights, bias and so their learning rate."""

    def __init__(self, in_features, out_features, bias=0.0, rate=1.0, activate=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / rate)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias)))
        self.gain, self.rate, self.activate = rate / sqrt(in_features), rate, activate

    def forward(self, x):
        x = F.linear(x.to(self.weight.dtype) * self.gain, self.weight)  # scaling the input spares a pass over weights
        bias = self.bias * self.rate if self.rate != 1 else self.bias
        return fused_leaky_relu(x, bias) if self.activate else x + bias.to(x.dtype)


class _ConstantInput(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class _Filter(nn.Module):
    """Holds the resampling filter under the name that checkpoints give it (`blur` or `upsample`)."""

    def __init__(self):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", torch.outer(taps, taps) / 16)  # sums to 4, the gain of upsampling


class _ModulatedConv(nn.Module):
    """Convolution with weights scaled per sample; `blur` exists only where it upsamples."""

    def __init__(self, in_channels, out_channels, kernel_size, w_dim, up=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out_channels, in_channels, kernel_size, kernel_size))
        if up:
            self.blur = _Filter()
        self.modulation = _EqualLinear(w_dim, in_channels, bias=1.0)
        self.up, self.gain = up, 1 / sqrt(in_channels * kernel_size**2)

    def shared(self, x, w):
        """Convolution of the scaled input, and the demodulation [N, Cout] that its output still lacks, as it lacks the
        filter where it upsamples."""
        styles = self.modulation(w) * self.gain
        weight = self.weight[0]
        if x.dtype == torch.float16:
            # Demodulation cancels any factor per sample: keeps the products inside the range of fp16.
            styles = styles / styles.detach().abs().amax(dim=1, keepdim=True).clamp(min=1e-4)
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(styles.dtype, torch.float32)
            demodulation = (styles.to(dtype).square() @ weight.to(dtype).square().sum([2, 3]).t() + 1e-8).rsqrt()
        x = _scale(x, styles)
        if not self.up:
            return F.conv2d(x, weight.to(x.dtype), padding=1), demodulation
        return F.conv_transpose2d(x, weight.to(x.dtype).transpose(0, 1), stride=2), demodulation

    def grouped(self, x, w, demodulate):
        return modulated_conv2d(
            x,
            self.weight[0],
            self.modulation(w),
            demodulate=demodulate,
            weight_gain=self.gain,
            up=2 if self.up else 1,
            resample_filter=self.blur.kernel / 4 if self.up else None,
            form="grouped",
        )


class _Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class _Activate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))


class _StyledConv(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU."""

    def __init__(self, in_channels, out_channels, w_dim, up=False, clamp=None):
        super().__init__()
        self.conv = _ModulatedConv(in_channels, out_channels, 3, w_dim, up)
        self.noise = _Noise()
        self.activate = _Activate(out_channels)
        self.clamp = clamp

    def forward(self, x, w, noise, form):
        if form == "grouped":
            x = self.conv.grouped(x, w, demodulate=True)
            if noise is not None:
                x = x + (self.noise.weight * noise).to(x.dtype)
            x = fused_leaky_relu(x, self.activate.bias)
        else:
            x, demodulation = self.conv.shared(x, w)
            if build.extension_for(x, "auto") is not None:  # one kernel for all that follows the convolution
                return upfirdn2d_bias_act(
                    x, self.conv.blur.kernel if self.conv.up else None, self.activate.bias, scale=demodulation,
                    noise=None if noise is None else noise * self.noise.weight, padding=1 if self.conv.up else 0,
                    clamp=self.clamp,
                )  # fmt: skip
            if self.conv.up:
                x = _filter(x, self.conv.blur.kernel)
            # The leaky ReLU is positively homogeneous: its gain moves into the small factors before it, and
            # demodulation, noise and bias are then one pass over the images.
            x = _scale(x, demodulation * sqrt(2), self._offset(noise) * sqrt(2))
            x = F.leaky_relu(x, 0.2)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)

    def _offset(self, noise):
        """Bias, and the layer's share of the noise map: [1, 1, C], or [1 or N, H W, C]."""
        bias = self.activate.bias
        return bias[None, None] if noise is None else noise.flatten(1)[:, :, None] * self.noise.weight + bias


class _ToRGB(nn.Module):
    """1x1 modulated convolution to colours, added to the upsampled image of the layer before."""

    def __init__(self, in_channels, w_dim, upsample, clamp=None):
        super().__init__()
        if upsample:
            self.upsample = _Filter()
        self.conv = _ModulatedConv(in_channels, 3, 1, w_dim)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.clamp = clamp

    def forward(self, x, w, image, form):
        if form == "grouped":
            y = self.conv.grouped(x, w, demodulate=False)
        else:
            weights = self.conv.weight[0, :, :, 0, 0] * (self.conv.modulation(w) * self.conv.gain)[:, None]  # [N, 3, C]
            y = x.permute(0, 2, 3, 1).flatten(1, 2) @ weights.to(x.dtype).transpose(1, 2)
            y = y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)  # [N, 3, H, W], channels-last
        y = y + self.bias.to(y.dtype)
        if self.clamp is not None:
            y = y.clamp(-self.clamp, self.clamp)
        if image is None:
            return y
        if form == "grouped":
            return y + upfirdn2d(image, self.upsample.kernel, up=2, padding=(2, 1, 2, 1)).to(y.dtype)
        return y + _upsample(image, self.upsample.kernel).to(y.dtype)


def _scale(x, scale, offset=None):
    """Channels-last `x * scale + offset`; `scale` [N, C], `offset` [1, 1, C] or [1 or N, H W, C].

    Several pixels are folded into one row, since elementwise kernels on the CPU lose up to ten times their speed when
    the dimension that is not broadcast is shorter than a vector register.
    """
    batch, channels, height, width = x.shape
    folded = 1
    while folded < 256 // channels and height * width % (2 * folded) == 0:
        folded *= 2
    rows = x.permute(0, 2, 3, 1).reshape(batch, -1, folded * channels)
    scale = scale.to(x.dtype).repeat(1, folded)[:, None]
    if offset is None:
        rows = rows * scale
    else:
        offset = offset.to(x.dtype)
        offset = offset.repeat(1, 1, folded) if offset.shape[1] == 1 else offset.unflatten(1, (-1, folded)).flatten(2)
        rows = torch.addcmul(offset, rows, scale)
    return rows.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def _filter(x, kernel):
    """Depthwise correlation; flips turn it into the convolution that the filter is defined by."""
    weight = kernel.flip(0, 1).to(x.dtype).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(x, weight, padding=1, groups=x.shape[1])


def _upsample(image, kernel):
    weight = kernel.to(image.dtype).expand(image.shape[1], 1, -1, -1)
    return F.conv_transpose2d(image, weight, stride=2, padding=1, groups=image.shape[1])
