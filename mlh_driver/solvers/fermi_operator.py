"""Fermi-Dirac density matrix by recursive doubling of the inverse temperature.

With y = tanh[(mu - H) / (2 kT)], P = (1 + y) / 2, and halving the temperature is y -> 2 y / (1 + y^2) (an
implicit recursion of this kind: Niklasson, Phys. Rev. B 68, 233104, 2003). The first y belongs to a
temperature comparable to the width of the spectrum; every later one is as local as a density matrix at its
temperature, so truncation is harmless at all stages. The same recursion gives the grand potential from
traces,

    Omega = -2 kT Tr ln(1 + exp[(mu - H) / kT]),   ln cosh 2u = 2 ln cosh u + ln(1 + tanh^2 u),

hence the free energy and the entropy without a logarithm of P. All functions are even or odd, analytic, and
expanded in Chebyshev polynomials of z = 2 y^2 - 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev

from mlh_driver.errors import SolverError
from mlh_driver.solvers.method import MIN_GAP_IN_KT, SparseProblem, SparseState
from mlh_driver.solvers.sparse import Matrix, SparsePattern

_BLOCK = 4  # T_1 ... T_4 are made explicitly
_DEGREE = 3 * _BLOCK - 1
_TRACE_DEGREE = 2 * _BLOCK
_START = 1.5  # largest |mu - H| / (2 kT) at the starting temperature
_SHARPENINGS = 4
MAX_TRIALS = 60
#: Electrons per atom by which the count may be off before it is corrected exactly.
COUNT_TOLERANCE = 1e-6


class FermiOperator:
    """``foe``: Fermi-Dirac occupations at any temperature above zero; it remembers the chemical potential."""

    name = "foe"
    prefactor = 1.2
    dtype = np.float64

    def __init__(self) -> None:
        self._mu: float | None = None

    def check_temperature(self, kT: float) -> None:
        if kT <= 0:
            raise SolverError("solver 'foe' needs an electronic temperature above zero")

    def new_pattern(self) -> None:
        """The chemical potential does not depend on it."""

    def solve(self, problem: SparseProblem) -> SparseState:
        """Raises SolverError if no chemical potential gives the right number of electrons."""
        kT = problem.kT
        fermi = fermi_operator(problem.pattern, problem.H, problem.n_occupied, kT, problem.bounds, self._mu)
        self._mu = fermi.mu
        homo, lumo = problem.frontier_levels(fermi.sharp)
        # within a gap any Fermi level gives the same electrons; which is found depends on earlier calls
        fermi_level = fermi.mu if lumo - homo < MIN_GAP_IN_KT * kT else 0.5 * (homo + lumo)
        return SparseState(fermi.P, homo, lumo, fermi_level, fermi.free_energy)


@dataclass(frozen=True)
class FermiState:
    """P (float64) at the chemical potential mu in eV.

    free_energy: 2 Tr[P H] - T_e S_e in eV;  sharp: P of a lower temperature, to resolve a gap
    """

    P: Matrix
    mu: float
    free_energy: float
    sharp: Matrix


def fermi_operator(
    pattern: SparsePattern,
    H: Matrix,
    n_occupied: float,
    kT: float,
    bounds: tuple[float, float],
    mu: float | None = None,
) -> FermiState:
    """Occupations of ``n_occupied`` pairs at temperature ``kT`` in eV, searching mu from a first guess.

    Without a guess, mu is followed from a temperature at which it is easy to find.

    bounds: of the spectrum in eV

    Raises SolverError if no mu gives the right number of electrons.
    """
    if mu is None:
        warmer = 4.0 * kT
        limit = 0.1 * (bounds[1] - bounds[0])
        start = 0.5 * sum(bounds)
        mu = start if warmer > limit else fermi_operator(pattern, H, n_occupied, warmer, bounds).mu
    low, high = bounds[0] - 40.0 * kT, bounds[1] + 40.0 * kT
    for _ in range(MAX_TRIALS):
        y, log_cosh = _tanh(pattern, H, mu, kT, bounds)
        P = pattern.add_unit(0.5 * y, 0.5)
        missing = n_occupied - pattern.trace(P)
        slope = max(pattern.trace(P) - pattern.dot(P, P), 0.0) / kT
        if abs(missing) < COUNT_TOLERANCE * pattern.n_atoms:
            step = 0.0  # also in a gap, where no step changes the count
            break
        step = missing / max(slope, 1e-300)
        if abs(step) < 1e-3 * kT:
            break
        low, high = (mu, high) if missing > 0 else (low, mu)
        mu = mu + step if low < mu + step < high else 0.5 * (low + high)
    else:
        raise SolverError(f"no chemical potential gives {2 * n_occupied:g} electrons at kT = {kT:.4f} eV")
    n = pattern.n_orbitals
    grand = -2.0 * kT * (log_cosh + n * np.log(2.0)) - (mu * n - pattern.trace(H))
    free_energy = grand + 2.0 * mu * n_occupied + slope * step**2
    P = pattern.product(P, P, scale=-step / kT, c=P, beta=1.0 + step / kT)
    P = pattern.add_unit(P, (n_occupied - pattern.trace(P)) / n)
    sharp = y.astype(np.float32)
    for _ in range(_SHARPENINGS):
        sharp, _ = _doubled(pattern, sharp)
    return FermiState(P, mu + step, free_energy, pattern.add_unit(0.5 * sharp, 0.5))


def _tanh(
    pattern: SparsePattern, H: Matrix, mu: float, kT: float, bounds: tuple[float, float]
) -> tuple[Matrix, float]:
    """tanh[(mu - H) / (2 kT)], and the trace of its ln cosh."""
    half_width = max(bounds[1] - mu, mu - bounds[0])
    u = half_width / (2.0 * kT)
    doublings = max(0, int(np.ceil(np.log2(u / _START))))
    u0 = u / 2.0**doublings
    x = pattern.add_unit(H * (-1.0 / half_width), mu / half_width)
    y, log_cosh = _odd_and_even(pattern, x, lambda t: np.tanh(u0 * t) / t, lambda t: np.log(np.cosh(u0 * t)))
    for _ in range(doublings):
        y, log_term = _doubled(pattern, y)
        log_cosh = 2.0 * log_cosh + log_term
    return y, log_cosh


def _doubled(pattern: SparsePattern, y: Matrix) -> tuple[Matrix, float]:
    """2 y / (1 + y^2) and Tr ln(1 + y^2)."""
    return _odd_and_even(pattern, y, lambda t: 2.0 / (1.0 + t * t), lambda t: np.log1p(t * t))


def _odd_and_even(
    pattern: SparsePattern,
    x: Matrix,
    factor: Callable[[np.ndarray], np.ndarray],
    even: Callable[[np.ndarray], np.ndarray],
) -> tuple[Matrix, float]:
    """x factor(x) and Tr even(x) for two even functions on [-1, 1], in seven products.

    The polynomials are resummed in blocks of T_4 (Liang et al., J. Chem. Phys. 119, 4117, 2003), with
    T_(j+k) = 2 T_j T_k - T_|j-k|.
    """
    z = pattern.product(x, x, scale=2.0, shift=-1.0)
    T2 = pattern.product(z, z, scale=2.0, shift=-1.0)
    T3 = pattern.product(z, T2, scale=2.0, c=z, beta=-1.0)
    T4 = pattern.product(T2, T2, scale=2.0, shift=-1.0)
    T = [pattern.unit(x.dtype.type), z, T2, T3, T4]

    moments = [pattern.trace(t) for t in T]
    moments += [2.0 * pattern.dot(T4, T[k]) - moments[4 - k] for k in range(1, 5)]
    trace = float(_coefficients(even, _TRACE_DEGREE) @ moments)

    c = _coefficients(factor, _DEGREE)
    parts = np.zeros((3, _BLOCK))
    for block in (2, 1):
        first = block * _BLOCK
        parts[block, 0] = c[first]
        for k in range(1, _BLOCK):
            parts[block, k] = 2.0 * c[first + k]
            c[first - k] -= c[first + k]
    parts[0] = c[:_BLOCK]
    D0, D1, D2 = (_combination(part, T) for part in parts)
    inner = pattern.product(T4, D2, scale=2.0, c=D1, beta=1.0)
    q = pattern.product(T4, inner, c=D0 - D2, beta=1.0)
    return pattern.product(x, q), trace


def _combination(weights: np.ndarray, matrices: list[Matrix]) -> Matrix:
    """The sum of as many matrices as there are weights."""
    total = np.zeros_like(matrices[0])
    for weight, matrix in zip(weights, matrices, strict=False):
        total += matrix.dtype.type(weight) * matrix
    return total


def _coefficients(even: Callable[[np.ndarray], np.ndarray], degree: int) -> np.ndarray:
    """Chebyshev coefficients in z = 2 t^2 - 1 of an even function of t."""

    def of_z(z: np.ndarray) -> np.ndarray:
        return even(np.sqrt(0.5 * (z + 1.0)))

    return np.asarray(chebyshev.chebinterpolate(of_z, degree))  # type: ignore[type-var]
