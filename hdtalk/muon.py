"""Muon (Jordan et al. 2024): a step of equal size along every singular direction of a layer's momentum."""

from collections.abc import Iterable
from typing import Any

import torch

# A quintic that takes every singular value in (0, 1] to about 1 within five rounds (Jordan et al. 2024)
ROUNDS, QUINTIC = 5, (3.4445, -4.7750, 2.0315)
SMALLEST = 1e-12  # norm below which a momentum counts as zero


class Muon(torch.optim.Optimizer):
    """For weights of convolutions, `[Cout, Cin, kh, kw]` or `[1, Cout, Cin, kh, kw]`, each as a matrix of Cout rows.

    `lr`: root mean square of a step's entries. `momentum`: Nesterov's. torch.optim.Muon is of the same kind, for plain
    matrices, and multiplies in bfloat16, which processors without its instructions do a hundred times slower.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step along the parameters' gradients; those without one stay. `closure` is not called."""
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                mean = state["momentum"]
                mean.lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(mean, group["momentum"])
                direction = orthogonal(ahead.reshape(parameter.shape[:-3].numel(), -1))
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
    gram = matrix @ matrix.T
    factor = once = _factor_of_a_round(gram)
    for _ in range(ROUNDS - 1):
        gram = once @ gram @ once
        once = _factor_of_a_round(gram)
        factor = once @ factor
    return factor @ matrix


def _factor_of_a_round(gram: torch.Tensor) -> torch.Tensor:
    """What a round multiplies a matrix by from the left, given that matrix's Gram matrix."""
    a, b, c = QUINTIC
    factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal().add_(a)
    return factor
