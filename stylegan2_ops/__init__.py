"""Operators of StyleGAN2: plain PyTorch everywhere, CUDA kernels where a GPU and a compiler are."""

from stylegan2_ops.bias_act import ACTIVATIONS, bias_act
from stylegan2_ops.fused_leaky_relu import fused_leaky_relu
from stylegan2_ops.modulated_conv2d import modulated_conv2d
from stylegan2_ops.upfirdn2d import setup_filter, upfirdn2d
from stylegan2_ops.upfirdn2d_bias_act import upfirdn2d_bias_act

__all__ = [
    "ACTIVATIONS",
    "bias_act",
    "fused_leaky_relu",
    "modulated_conv2d",
    "setup_filter",
    "upfirdn2d",
    "upfirdn2d_bias_act",
]
