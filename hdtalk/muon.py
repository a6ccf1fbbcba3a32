"""Muon (Jordan et al. 2024): a step of equal size along every singular direction of a layer's momentum."""

from collections.abc import Iterable
from typing import Any

import torch

# A quintic that takes every singular value in (0, 1] to about 1 within five rounds (Jordan et al. 2024)
ROUNDS, QUINTIC = 5, (3.4445, -4.7750, 2.0315)
SMALLEST = 1e-12  # norm below which a momentum counts as zero


class Muon(torch.optim.Optimizer):
    """For weights of convolutions and linear layers, `[Cout, ...]` or `[1, Cout, ...]`, each taken as a matrix of Cout
    rows.

    `lr`: root mean square of a step's entries. `momentum`: Nesterov's. torch.optim.Muon is of the same kind, for plain
    matrices, and multiplies in bfloat16, which processors without its instructions do a hundred times slower.
    """

    def __init__(self, parameters: Iterable[Any], lr: float = 0.0, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step along the parameters' gradients; those without one stay. `closure` is not called."""
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                mean = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(mean, group["momentum"])
                direction = orthogonal(ahead.flatten(0, 1).flatten(1) if ahead.shape[0] == 1 else ahead.flatten(1))
                size = direction.square().mean().sqrt().clamp_min(SMALLEST)
                parameter.sub_((direction * (group["lr"] / size)).view_as(parameter))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Float `[m, n]` -> the same with singular values of about 1: from 0.65 to 1.25 where they were above a
    hundredth of the norm, less where they were smaller.

    The rounds only multiply `[min(m, n)]`-square matrices, which all commute with the Gram matrix.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    matrix = matrix / matrix.norm().clamp_min(SMALLEST)
    gram, (a, b, c) = matrix @ matrix.T, QUINTIC
    factor = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for _ in range(ROUNDS):
        quintic = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        quintic.diagonal().add_(a)
        factor = quintic @ factor
        gram = quintic @ gram @ quintic
    return factor @ matrix
