"""Extreme eigenvalues from products with vectors."""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal

from mlh_driver.solvers.sparse import Matrix, Operator


def lanczos(
    apply: Operator, start: Matrix, steps: int, tolerance: float = 0.0, least: int = 1
) -> tuple[np.ndarray, np.ndarray, Matrix]:
    """Ritz values (ascending), their residuals, and the Ritz vector of the largest.

    ``start`` has the shape that ``apply`` takes. The recursion is orthogonalized in full, and stops after
    ``least`` steps or more when the residual of the largest value is below ``tolerance``. Vectors are
    torch's, whose threads are those of the block kernels; numpy's are others, and two sets of them get in
    each other's way.
    """
    first = torch.from_numpy(start).flatten()
    basis = first.new_empty(steps, len(first))
    basis[0] = first / torch.linalg.vector_norm(first)
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(steps):
        image = torch.from_numpy(apply(basis[step].numpy().reshape(start.shape))).flatten()
        known = basis[: step + 1]
        diagonal.append(float(torch.dot(known[-1], image)))
        remainder = image
        for _ in range(2):
            remainder = remainder - known.T @ (known @ remainder)
        beside.append(float(torch.linalg.vector_norm(remainder)))
        values, coefficients = eigh_tridiagonal(diagonal, beside[:-1])
        residuals = beside[-1] * np.abs(coefficients[-1])
        exhausted = beside[-1] < 1e-6 * max(1.0, np.abs(values).max())
        converged = residuals[-1] < tolerance and step + 1 >= least
        if converged or exhausted or step == steps - 1:
            break
        basis[step + 1] = remainder / beside[-1]
    largest = torch.from_numpy(coefficients[:, -1]).to(basis.dtype) @ known
    return values, residuals, largest.numpy().reshape(start.shape)
