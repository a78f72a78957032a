"""Extreme eigenvalues from products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlh_driver.parts import WHOLE
from mlh_driver.solvers.sparse import Matrix, Operator


def lanczos(
    apply: Operator,
    start: Matrix,
    steps: int,
    tolerance: float = 0.0,
    least: int = 1,
    total: Callable[[Any], Any] = WHOLE.total,
) -> tuple[np.ndarray, np.ndarray, Matrix]:
    """Ritz values (ascending), their residuals, and the Ritz vector of the largest.

    ``start`` has the shape that ``apply`` takes; where processes share the vectors, ``total`` adds up what
    they have. The recursion is orthogonalized in full, and stops after ``least`` steps or more when the
    residual of the largest value is below ``tolerance``. Vectors are torch's, whose threads are those of the
    block kernels; numpy's are others, and two sets of them get in each other's way.
    """
    from scipy.linalg import eigh_tridiagonal  # slow to load, and not needed where H is diagonalized

    first = torch.from_numpy(start).flatten()
    basis = first.new_empty(steps, len(first))

    def products(a: Tensor, b: Tensor) -> Tensor:
        return torch.from_numpy(total((a @ b).numpy()))

    basis[0] = first / products(first[None], first).sqrt()
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(steps):
        image = torch.from_numpy(apply(basis[step].numpy().reshape(start.shape))).flatten()
        known = basis[: step + 1]
        remainder = image
        for repeated in range(2):
            overlaps = products(known, remainder)
            if not repeated:
                diagonal.append(float(overlaps[-1]))
            remainder = remainder - known.T @ overlaps
        beside.append(float(products(remainder[None], remainder).sqrt()))
        values, coefficients = eigh_tridiagonal(diagonal, beside[:-1])
        residuals = beside[-1] * np.abs(coefficients[-1])
        exhausted = beside[-1] < 1e-6 * max(1.0, np.abs(values).max())
        converged = residuals[-1] < tolerance and step + 1 >= least
        if converged or exhausted or step == steps - 1:
            break
        basis[step + 1] = remainder / beside[-1]
    largest = torch.from_numpy(coefficients[:, -1]).to(basis.dtype) @ known
    return values, residuals, largest.numpy().reshape(start.shape)
