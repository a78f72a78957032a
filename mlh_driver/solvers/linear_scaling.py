"""Density matrices in time and memory proportional to the number of atoms.

The density matrix of a gapped or warm system decays exponentially with distance, so it is computed within a
radius. What lies beyond, by weight, is what the energy misses: dropping elements of a projector costs their
squares times an excitation energy, so

    error per atom = c (spectral width) (sum of ||P_ij||^2 beyond the radius) / N,

where the sum is extrapolated from the outermost shells inside, and c (2.4 for purification, 1.2 for the
Fermi operator) is a bound from comparisons with diagonalization, which a stretched defect comes near. The
radius follows from the error that the user tolerates; it is raised when the estimate is too large, and the
pattern stays frozen between calls until atoms have moved too far.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mlh_driver.errors import SolverError
from mlh_driver.runtime import use_torch_threads
from mlh_driver.solvers.base import ElectronicProblem, ElectronicState, ERROR_PER_ATOM_eV
from mlh_driver.solvers.fermi_operator import fermi_operator
from mlh_driver.solvers.lanczos import lanczos
from mlh_driver.solvers.purification import GAP_MARGIN, purify
from mlh_driver.solvers.sparse import Matrix, Operator, SparsePattern
from mlh_driver.system import System, displacements

START_RADIUS_A = 9.75
MIN_RADIUS_A, MAX_RADIUS_A = 5.0, 20.0
#: Zero temperature is a good approximation if the gap is at least this many kT: occupations are off by e^-10.
MIN_GAP_IN_KT = 20.0
#: Purifications of one structure until levels agree; four if those of the last structure were of no use.
MAX_TRIES = 5
#: A pattern is kept until an atom has moved this far, in Å, or the cell has been strained by 2 per cent.
MAX_SHIFT_A = 0.5
MAX_STRAIN = 0.02
#: Of S^-1/2, root mean square per orbital: more than this means that it does not fit into the pattern.
LARGEST_ROOT_ERROR = 1e-3
#: For the levels around the gap. Lanczos starts from the last orbital and a random vector of this weight, and
#: takes a least number of steps: a level that has risen above the last one may be anywhere in the structure,
#: where the last orbital has nothing.
LANCZOS_STEPS, LEAST_LANCZOS_STEPS = 200, 60
NEWS = 10.0
#: c of the error above.
PREFACTORS = {"sp2": 2.4, "foe": 1.2}
_SHELL_A = 1.0


@dataclass
class _Memory:
    """What one call leaves for the next: the pattern and, in its order, the frontier orbitals.

    squarings: see :func:`~mlh_driver.solvers.purification.purify`
    """

    pattern: SparsePattern
    system: System
    homo: Matrix
    lumo: Matrix
    levels: tuple[float, float] | None = None
    mu: float | None = None
    squarings: list[bool] = field(default_factory=list)

    def fits(self, system: System) -> bool:
        """Whether ``system`` is close enough to the structure that the pattern was made for."""
        if not np.array_equal(self.system.numbers, system.numbers):
            return False
        deformation, _, moved = displacements(self.system, system)
        strained = np.abs(deformation - np.eye(3)).max() > MAX_STRAIN
        return not strained and bool(np.linalg.norm(moved, axis=1).max() <= MAX_SHIFT_A)


class LinearScalingSolver:
    """Block-sparse density matrix.

    method:         ``sp2``, zero temperature, for a gap of at least 20 kT; ``foe``, Fermi-Dirac occupations
                    at any kT > 0
    error_per_atom: tolerated error of the energy in eV per atom, from which the radius of P follows

    An overlap S is removed by its inverse square root, found by Newton-Schulz iteration. ``homo`` and
    ``lumo`` are Lanczos values that start from the last call: good to some meV, in the first call of a
    large system to 0.03 eV; with ``foe`` they are resolved to a fraction of kT.
    """

    def __init__(self, method: Literal["sp2", "foe"], error_per_atom: float = ERROR_PER_ATOM_eV) -> None:
        self.name: str = method
        self.error_per_atom = error_per_atom
        self.radius = START_RADIUS_A
        self.patterns_made = 0
        self._memory: _Memory | None = None

    def solve(self, problem: ElectronicProblem) -> ElectronicState:
        """See :class:`~mlh_driver.solvers.base.Solver`.

        Raises SolverError for an odd electron number or a gap below 20 kT (``sp2``), kT = 0 (``foe``), an
        overlap that is not positive definite, or a density matrix too extended for the tolerated error.
        """
        if self.name == "foe" and problem.kT <= 0:
            raise SolverError("solver 'foe' needs an electronic temperature above zero")
        use_torch_threads()
        while True:
            pattern, slots = self._prepare(problem)
            state, P, width = self._solve_in(problem, slots)
            error, decay = truncation_error(pattern, P, PREFACTORS[self.name] * width)
            change = np.log(max(error, 1e-300) / self.error_per_atom) / np.log(1.0 / decay)
            if error <= self.error_per_atom:
                if change < -2.0 * _SHELL_A:  # far too good: smaller when the pattern is made anew
                    self.radius = max(MIN_RADIUS_A, pattern.radius - _SHELL_A)
                return state
            if pattern.radius >= MAX_RADIUS_A:
                raise SolverError(
                    f"the density matrix reaches too far: the error is {1e3 * error:.2g} meV/atom at a "
                    f"radius of {MAX_RADIUS_A} Å; use solver 'dense', a higher electronic temperature, or "
                    "tolerate more"
                )
            self.radius = min(MAX_RADIUS_A, pattern.radius + np.clip(change + 0.1, 0.25, 3.0))
            del pattern, slots, state, P  # two patterns at a time would double the memory

    def _prepare(self, problem: ElectronicProblem) -> tuple[SparsePattern, np.ndarray]:
        """A pattern that holds H, and where the blocks of H stand in it."""
        index = problem.H.index.cpu().numpy()
        memory = self._memory
        if memory and memory.fits(problem.system) and memory.pattern.radius >= self.radius:
            slots = memory.pattern.find(index)
            if slots is not None:
                return memory.pattern, slots
        levels, mu = (memory.levels, memory.mu) if memory else (None, None)
        self._memory = memory = None
        pattern = SparsePattern(problem.system, self.radius, problem.H)
        start = pattern.random_vector()
        self._memory = _Memory(pattern, problem.system, start, start, levels, mu)
        self.patterns_made += 1
        slots = pattern.find(index)
        assert slots is not None
        return pattern, slots

    def _solve_in(
        self, problem: ElectronicProblem, slots: np.ndarray
    ) -> tuple[ElectronicState, Matrix, float]:
        """The state, P in the orthonormal basis, and the width of the spectrum in eV."""
        memory = self._memory
        assert memory is not None
        pattern, n_pairs, kT = memory.pattern, problem.n_pairs, problem.kT
        if problem.S is None:
            S = Z = None
            h = pattern.load(problem.H, slots, np.float32 if self.name == "sp2" else np.float64)
        else:
            S = pattern.load(problem.S, slots, np.float64)
            Z = inverse_square_root(pattern, S)
            h = pattern.sandwich(Z, pattern.load(problem.H, slots, np.float64))
        hamiltonian = pattern.operator(h.astype(np.float32, copy=False))
        bounds = spectral_bounds(pattern, hamiltonian)
        if self.name == "sp2":
            P, homo, lumo = _purified(memory, h, hamiltonian, problem, bounds)
        else:
            fermi = fermi_operator(pattern, h, n_pairs, kT, bounds, memory.mu)
            P, memory.mu = fermi.P, fermi.mu
            homo, lumo = _frontier_levels(memory, fermi.sharp, hamiltonian, bounds)
        density = P if Z is None else pattern.sandwich(Z, P)
        if S is not None:
            density *= n_pairs / pattern.dot(density, S)
        stored = pattern.store(density, slots, problem.H)
        band_energy = 2.0 * float(stored.atom_products(problem.H).sum())
        if self.name == "sp2":
            fermi_level, entropy_term = 0.5 * (homo + lumo), 0.0
        else:
            # within a gap any Fermi level gives the same electrons; which is found depends on earlier calls
            fermi_level = fermi.mu if lumo - homo < MIN_GAP_IN_KT * kT else 0.5 * (homo + lumo)
            entropy_term = band_energy - fermi.free_energy
        weighted = None
        if Z is not None:
            weighted = pattern.store(pattern.sandwich(Z, pattern.product(P, h)), slots, problem.H)
        state = ElectronicState(
            density=stored,
            weighted=weighted,
            band_energy=band_energy,
            entropy_term=entropy_term,
            fermi_level=fermi_level,
            homo=homo,
            lumo=lumo,
        )
        return state, P, bounds[1] - bounds[0]


def _purified(
    memory: _Memory,
    H: Matrix,
    hamiltonian: Operator,
    problem: ElectronicProblem,
    bounds: tuple[float, float],
) -> tuple[Matrix, float, float]:
    """P and the levels around the gap, P being found with the help of levels that these agree with.

    By the levels of a very different structure, a new one between them could stay partly filled. The first P
    of a structure is found without levels, and once more with its own: by these, truncation costs another
    energy. Raises SolverError for a gap that is too small.
    """
    for _ in range(MAX_TRIES):
        guess, memory.levels = memory.levels, None
        P = purify(memory.pattern, H, problem.n_pairs, bounds, guess, memory.squarings)
        homo, lumo = _frontier_levels(memory, P.astype(np.float32), hamiltonian, bounds)
        if guess is not None:
            margin = GAP_MARGIN * (guess[1] - guess[0])
            if homo > guess[0] + margin or lumo < guess[1] - margin:
                memory.squarings.clear()
                continue
        if lumo - homo < max(MIN_GAP_IN_KT * problem.kT, 1e-3):
            raise SolverError(
                f"the gap of {lumo - homo:.3f} eV is too small for zero-temperature purification at "
                f"{problem.kT:.4f} eV electronic temperature; use solver 'foe' or 'dense'"
            )
        memory.levels = homo, lumo
        if guess is not None:
            return P, homo, lumo
    raise SolverError("purification found no levels that agree with each other; use solver 'foe' or 'dense'")


def _frontier_levels(
    memory: _Memory, P: Matrix, hamiltonian: Operator, bounds: tuple[float, float]
) -> tuple[float, float]:
    """Highest occupied and lowest empty level, by Lanczos within the range of P and of 1 - P."""
    pattern = memory.pattern
    random = _unit(pattern.random_vector())
    occupied = pattern.operator(P)

    def empty(v: Matrix) -> Matrix:
        return v - occupied(v)

    def highest(within: Operator, last: Matrix, zero: float, sign: float) -> Matrix:
        start = within(_unit(last) + np.float32(NEWS) * random)

        def apply(v: Matrix) -> Matrix:
            return within(np.float32(sign) * (hamiltonian(v) - np.float32(zero) * v))

        return lanczos(apply, start, LANCZOS_STEPS, tolerance=0.005, least=LEAST_LANCZOS_STEPS)[2]

    memory.homo = highest(occupied, memory.homo, bounds[0], 1.0)
    memory.lumo = highest(empty, memory.lumo, bounds[1], -1.0)
    homo, lumo = (float(np.vdot(v, hamiltonian(v))) for v in (memory.homo, memory.lumo))
    return homo, lumo


def _unit(v: Matrix) -> Matrix:
    return v / np.linalg.norm(v)


def truncation_error(pattern: SparsePattern, P: Matrix, scale: float) -> tuple[float, float]:
    """Estimated error in eV per atom, and the factor by which the weight of a shell falls per Å.

    scale: eV per weight left out
    """
    if pattern.is_complete:
        return 0.0, 0.5
    weights = np.einsum("bq,bq->b", P, P)
    outer = pattern.radius - _SHELL_A * np.arange(3)
    last, _, inner = (
        weights[(pattern.distances <= r) & (pattern.distances > r - _SHELL_A)].sum() for r in outer
    )
    decay = float(np.clip((last / max(inner, 1e-300)) ** 0.5, 0.01, 0.9))
    return scale * float(last) * decay / (1.0 - decay) / pattern.n_atoms, decay


def spectral_bounds(pattern: SparsePattern, hamiltonian: Operator) -> tuple[float, float]:
    """Lower and upper bound of the spectrum, by Lanczos with a safety margin."""
    values, residuals, _ = lanczos(hamiltonian, pattern.random_vector(), 30)
    margin = 0.01 * (values[-1] - values[0]) + 1e-3
    return float(values[0] - residuals[0] - margin), float(values[-1] + residuals[-1] + margin)


def inverse_square_root(pattern: SparsePattern, S: Matrix) -> Matrix:
    """S^-1/2 by Newton-Schulz iteration, to what truncation allows.

    Raises SolverError if S is not positive definite or S^-1/2 too long-ranged for the pattern.
    """
    start = pattern.random_vector(np.float64)
    values, residuals, _ = lanczos(pattern.operator(S), start, 30)
    if values[0] - residuals[0] <= 0:
        raise SolverError("the overlap matrix is not positive definite; the basis is linearly dependent")
    scale = 2.0 / (values[0] + values[-1])
    unit = pattern.unit(np.float64)

    def deviation(T: Matrix) -> float:
        error = T - unit
        return float((pattern.dot(error, error) / pattern.n_orbitals) ** 0.5)

    Z, T = unit, scale * S
    previous, distance = np.inf, deviation(T)
    while 1e-13 < distance < 0.5 * previous:
        Z = pattern.product(Z, T, scale=-0.5, c=Z, beta=1.5)
        T = pattern.product(Z, pattern.product(Z, scale * S))
        previous, distance = distance, deviation(T)
    if not distance < LARGEST_ROOT_ERROR:
        raise SolverError(
            f"the truncated S^-1/2 is wrong by {distance:.1e} per orbital; ask for a smaller error_per_atom "
            "or use the dense solver"
        )
    return Z * scale**0.5
