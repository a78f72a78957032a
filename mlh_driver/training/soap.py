"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., arXiv:2409.11321).

A gradient G of a matrix is turned into the eigenvectors of the running means of G G^T and G^T G, in which
its elements are nearly independent, and Adam (Kingma and Ba, arXiv:1412.6980) acts there.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

#: Decay of the means that define the bases.
BASIS_BETA = 0.95
#: Steps between two improvements of the bases, by a power iteration each.
RENEW_EVERY = 10


class SOAP(torch.optim.Optimizer):
    """The last two dimensions of a parameter are those of a matrix, the others count matrices.

    Vectors have no bases, which leaves Adam. The first step only starts the means.

    lr: step size, as of Adam
    betas: decay of the means of the gradient and of its square
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.99)
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._change(parameter, parameter.grad, self.state[parameter], group)

    def _change(self, parameter: Tensor, gradient: Tensor, state: dict, group: dict) -> None:
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
            if parameter.dim() > 1:
                state["left_cov"], state["right_cov"] = covariances = _covariances(gradient)
                state["left"], state["right"] = (torch.linalg.eigh(c).eigenvectors for c in covariances)
            return
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["mean"].lerp_(gradient, 1.0 - beta1)
        turned = _turn(gradient, state)
        state["square"].lerp_(turned.square(), 1.0 - beta2)
        mean = _turn(state["mean"], state) / (1.0 - beta1 ** state["step"])
        square = state["square"] / (1.0 - beta2 ** state["step"])
        change = mean / (square.sqrt() + 1e-8)
        if "left" in state:
            change = state["left"] @ change @ state["right"].mT
            for name, found in zip(("left_cov", "right_cov"), _covariances(gradient), strict=True):
                state[name].lerp_(found, 1.0 - BASIS_BETA)
            if state["step"] % RENEW_EVERY == 0:
                _renew(state)
        parameter.sub_(group["lr"] * change)


def _covariances(gradient: Tensor) -> tuple[Tensor, Tensor]:
    return gradient @ gradient.mT, gradient.mT @ gradient


def _turn(x: Tensor, state: dict) -> Tensor:
    return state["left"].mT @ x @ state["right"] if "left" in state else x


def _renew(state: dict) -> None:
    """One step of power iteration; the means of squares follow the order of the vectors."""
    for side, dim in (("left", -2), ("right", -1)):
        product = state[f"{side}_cov"] @ state[side]
        order = (state[side] * product).sum(-2).argsort(dim=-1, descending=True)
        columns = order.unsqueeze(-2).expand_as(product)
        state[side] = torch.linalg.qr(product.gather(-1, columns))[0]
        rows = order.unsqueeze(-1 if dim == -2 else -2).expand_as(state["square"])
        state["square"] = state["square"].gather(dim, rows)
