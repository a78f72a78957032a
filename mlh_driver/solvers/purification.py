"""Density matrix of an insulator at zero temperature by second-order spectral projection (SP2).

X starts as H mapped to [0, 1] and is driven to a projector by x^2 (which pushes levels to 0) and 2 x - x^2
(to 1). Without knowledge of the levels around the gap, the trace decides which one comes next (Niklasson,
Phys. Rev. B 66, 155115, 2002). With it, the polynomials are stretched so that they fold the ends of the
spectrum over and converge in about two thirds of the steps (Rubensson, J. Chem. Theory Comput. 7, 1233,
2011). The last step is McWeeny's 3 x^2 - 2 x^3, to double precision.
"""

from __future__ import annotations

import numpy as np

from mlh_driver.errors import SolverError
from mlh_driver.solvers.method import MIN_GAP_IN_KT, SparseProblem, SparseState
from mlh_driver.solvers.sparse import Matrix, SparsePattern

#: Purifications of one structure until levels agree; four if those of the last structure were of no use.
MAX_TRIES = 5
#: No gap, whatever the temperature.
CLOSED_GAP_eV = 1e-3
MAX_STEPS = 60
#: Occupations of the levels around the gap are this close to 0 and 1 before the last step squares the error.
EDGE_TOLERANCE = 1e-3
#: Tr[X - X^2] per orbital that is good enough before the last step squares the error.
CONVERGED = 3e-6
#: The largest that counts as a projector when truncation keeps it from getting better.
ACCEPTABLE = 1e-3
#: Pairs of electrons that truncation may cost, per atom and in all, before they are restored evenly. Half a
#: pair tells truncation from a level on the wrong side of the gap.
COUNT_TOLERANCE, COUNT_LIMIT = 1e-3, 0.5
#: The levels may move by this fraction of the gap between two calls.
GAP_MARGIN = 0.1


class Purification:
    """``sp2``: zero temperature, for gaps of at least 20 kT.

    It remembers the levels around the gap, and for one pattern the order of the polynomials.
    """

    name = "sp2"
    prefactor = 2.4
    dtype = np.float32

    def __init__(self) -> None:
        self._levels: tuple[float, float] | None = None
        self._squarings: list[bool] = []

    def check_temperature(self, kT: float) -> None:
        """Whether the gap is wide enough for it is seen when the gap is known."""

    def new_pattern(self) -> None:
        self._squarings = []

    def solve(self, problem: SparseProblem) -> SparseState:
        """P, found with the help of levels that its own levels agree with.

        By the levels of a very different structure, a new one between them could stay partly filled. The
        first P of a structure is found without levels, and once more with its own: by these, truncation costs
        another energy. Raises SolverError for an odd number of electrons or a gap that is too small.
        """
        for _ in range(MAX_TRIES):
            guess, self._levels = self._levels, None
            P = purify(problem.pattern, problem.H, problem.n_occupied, problem.bounds, guess, self._squarings)
            homo, lumo = problem.frontier_levels(P)
            if guess is not None:
                margin = GAP_MARGIN * (guess[1] - guess[0])
                if homo > guess[0] + margin or lumo < guess[1] - margin:
                    self._squarings.clear()
                    continue
            if lumo - homo < max(MIN_GAP_IN_KT * problem.kT, CLOSED_GAP_eV):
                raise SolverError(
                    f"the gap of {lumo - homo:.3f} eV is too small for zero-temperature purification at "
                    f"{problem.kT:.4f} eV electronic temperature; use solver 'foe' or 'dense'"
                )
            self._levels = homo, lumo
            if guess is not None:
                return SparseState(P, homo, lumo, fermi_level=0.5 * (homo + lumo), free_energy=None)
        raise SolverError(
            "purification found no levels that agree with each other; use solver 'foe' or 'dense'"
        )


def purify(
    pattern: SparsePattern,
    H: Matrix,
    n_occupied: float,
    bounds: tuple[float, float],
    gap: tuple[float, float] | None,
    squarings: list[bool],
) -> Matrix:
    """P, float64, of the ``n_occupied`` lowest levels of H.

    bounds:    of the spectrum, in eV
    gap:       the levels around the gap if they are known approximately
    squarings: which polynomials are to push levels to 0, the others pushing to 1, as this function left them
               for an H that was nearly the same (at first empty): in another order truncation would cost
               another energy

    Raises SolverError for an odd number of electrons, and when no projector of the right trace is reached.
    """
    if abs(n_occupied - round(n_occupied)) > 1e-9:
        raise SolverError(
            f"{2 * n_occupied:g} electrons cannot fill levels in pairs; use an electronic temperature above "
            "zero"
        )
    X = _mapped(pattern, H, bounds)
    tolerance = min(COUNT_TOLERANCE * pattern.n_atoms, COUNT_LIMIT)
    guided = None if gap is None else _guided(pattern, X, bounds, gap, squarings)
    P = None if guided is None else _last_step(pattern, guided)
    if P is None or abs(n_occupied - pattern.trace(P)) > tolerance:
        squarings.clear()
        P = _last_step(pattern, _by_trace(pattern, X, n_occupied))
    missing = n_occupied - pattern.trace(P)
    if abs(missing) > tolerance:
        raise SolverError(
            f"purification lost {2 * missing:.2g} of {2 * n_occupied:g} electrons to truncation; the gap is "
            "probably too small for solver 'sp2', use 'foe' or 'dense'"
        )
    return pattern.add_unit(P, missing / pattern.n_orbitals)


def _last_step(pattern: SparsePattern, X: Matrix) -> Matrix:
    """McWeeny's polynomial, which squares what X has of errors and of single precision.

    3 x^2 - 2 x^3 = x - d + 2 d x, where only d = x - x^2 needs double precision: d x is small. It also takes
    most of the truncation out of the trace.
    """
    P = X.astype(np.float64)
    d = pattern.product(P, P, scale=-1.0, c=P, beta=1.0)
    P -= d
    P += pattern.product(d.astype(np.float32), X, scale=2.0)
    return P


def _mapped(pattern: SparsePattern, H: Matrix, bounds: tuple[float, float]) -> Matrix:
    """(upper - H) / (upper - lower) in single precision; zero on padding."""
    lower, upper = bounds
    scaled = H.astype(np.float32, copy=False) * np.float32(-1.0 / (upper - lower))
    return pattern.add_unit(scaled, upper / (upper - lower))


def _guided(
    pattern: SparsePattern,
    X: Matrix,
    bounds: tuple[float, float],
    gap: tuple[float, float],
    squarings: list[bool],
) -> Matrix | None:
    """Stretched polynomials, after those given chosen by the levels; None if no projector comes out."""
    lower, upper = bounds
    margin = GAP_MARGIN * (gap[1] - gap[0])
    occupied = (upper - gap[0] - margin) / (upper - lower)
    empty = (upper - gap[1] + margin) / (upper - lower)
    buffers = np.empty_like(X), np.empty_like(X)  # X itself must survive for another attempt
    for step in range(MAX_STEPS):
        if step == len(squarings):
            if max(empty, 1.0 - occupied) < EDGE_TOLERANCE:
                break
            squarings.append(empty > 1.0 - occupied)
        if squarings[step]:  # ((1 - a) + a x)^2
            a = 2.0 / (2.0 - empty)
            p2, p1, p0 = a * a, 2.0 * a * (1.0 - a), (1.0 - a) ** 2
        else:  # 1 - ((1 - a) + a (1 - x))^2 = 1 - (1 - a x)^2
            a = 2.0 / (1.0 + occupied)
            p2, p1, p0 = -a * a, 2.0 * a, 0.0
        X = pattern.product(X, X, scale=p2, c=X, beta=p1, shift=p0, out=buffers[step % 2])
        occupied, empty = (p2 * x * x + p1 * x + p0 for x in (occupied, empty))
    converged = abs(pattern.trace(X) - pattern.dot(X, X)) < ACCEPTABLE * pattern.n_orbitals
    return X if converged else None


def _by_trace(pattern: SparsePattern, X: Matrix, n_occupied: float) -> Matrix:
    """Polynomials chosen by the trace; stops when the distance from a projector no longer falls."""
    n = pattern.n_orbitals
    history: list[float] = []
    buffers = np.empty_like(X), np.empty_like(X)
    for step in range(MAX_STEPS):
        trace, squares = pattern.trace(X), pattern.dot(X, X)
        history.append(abs(trace - squares))
        stalled = len(history) > 2 and history[-1] >= history[-3]
        if history[-1] < CONVERGED * n or (history[-1] < ACCEPTABLE * n and stalled):
            break
        squaring = abs(squares - n_occupied) < abs(2.0 * trace - squares - n_occupied)
        p2, p1 = (1.0, 0.0) if squaring else (-1.0, 2.0)
        X = pattern.product(X, X, scale=p2, c=X, beta=p1, out=buffers[step % 2])
    if not history[-1] < ACCEPTABLE * n:
        raise SolverError(
            f"purification did not reach a projector: Tr[P - P^2] = {history[-1]:.2g} for "
            f"{n} orbitals; the gap is probably closed, use "
            "solver 'foe' or 'dense' and an electronic temperature above zero"
        )
    return X
