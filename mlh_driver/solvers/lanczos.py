"""Extreme eigenvalues from products with vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mlh_driver.solvers.sparse import Matrix


def lanczos(
    apply: Callable[[Matrix], Matrix], start: Matrix, steps: int, tolerance: float = 0.0
) -> tuple[np.ndarray, np.ndarray, Matrix]:
    """Ritz values (ascending), their residuals, and the Ritz vector of the largest.

    ``start`` has the shape that ``apply`` takes. The recursion is orthogonalized in full, and stops when the
    residual of the largest value is below ``tolerance``.
    """
    vectors = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        image = apply(vectors[-1])
        diagonal.append(float(np.vdot(vectors[-1], image)))
        basis = np.stack(vectors).reshape(len(vectors), -1)
        remainder = image.ravel()
        for _ in range(2):
            remainder = remainder - basis.T @ (basis @ remainder)
        beside.append(float(np.linalg.norm(remainder)))
        T = np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1)
        values, coefficients = np.linalg.eigh(T)
        residuals = np.abs(beside[-1] * coefficients[-1])
        exhausted = beside[-1] < 1e-6 * max(1.0, np.abs(values).max())
        if len(vectors) >= steps or residuals[-1] < tolerance or exhausted:
            largest = (coefficients[:, -1].astype(basis.dtype) @ basis).reshape(start.shape)
            return values, residuals, largest
        vectors.append((remainder / beside[-1]).reshape(start.shape).astype(start.dtype))
