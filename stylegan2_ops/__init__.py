"""Operators of StyleGAN2: plain PyTorch everywhere, CUDA kernels where a GPU and a compiler are."""
