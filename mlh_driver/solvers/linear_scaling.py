"""Density matrices in time and memory proportional to the number of atoms.

The density matrix of a gapped or warm system decays exponentially with distance, so it is computed within a
radius. What lies beyond, by weight, is what the energy misses: dropping elements of a projector costs their
squares times an excitation energy, so

    error per atom = c (spectral width) (sum of ||P_ij||^2 beyond the radius) / N,

where the sum is extrapolated from the outermost shells inside, and c (``prefactor`` of the method) is a bound
from comparisons with diagonalization, which a stretched defect comes near. The radius follows from the error
that the user tolerates; it is raised when the estimate is too large, and the pattern stays frozen between
calls until atoms have moved too far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlh_driver.errors import SolverError
from mlh_driver.hamiltonian import BlockMatrix
from mlh_driver.runtime import use_torch_threads
from mlh_driver.solvers.base import ElectronicProblem, ElectronicState, ERROR_PER_ATOM_meV
from mlh_driver.solvers.lanczos import lanczos
from mlh_driver.solvers.method import DensityMethod, FrontierOrbitals, SparseProblem
from mlh_driver.solvers.sparse import Matrix, Operator, SparsePattern
from mlh_driver.system import System, displacements

#: Enough for 0.1 meV per atom in most glasses, so that the first call makes one pattern.
START_RADIUS_A = 9.75
#: Below, P would lack pairs that H has; above, diagonalization or a higher temperature is the better answer.
MIN_RADIUS_A, MAX_RADIUS_A = 5.0, 20.0
#: A pattern is kept until an atom has moved this far, in Å, or the cell has been strained by 2 per cent.
MAX_SHIFT_A = 0.5
MAX_STRAIN = 0.02
#: Of S^-1/2, root mean square per orbital: more than this means that it does not fit into the pattern.
LARGEST_ROOT_ERROR = 1e-3
#: The decay of P is read off shells this thick: a distance between neighbors lies within.
_SHELL_A = 1.0
#: A radius grows by no less, or solutions would be wasted on small steps, and by no more, since the decay is
#: an estimate.
_GROWTH_A = (0.25, 3.0)

PatternMaker = Callable[[System, float, BlockMatrix], SparsePattern]
"""Of a structure, a radius in Å, and H, whose pattern and sizes it has."""


@dataclass(frozen=True)
class _Frozen:
    """A pattern, the structure that it was made for, and the frontier orbitals in its order."""

    pattern: SparsePattern
    system: System
    frontier: FrontierOrbitals

    def fits(self, system: System) -> bool:
        """Whether ``system`` is close enough to the structure that the pattern was made for."""
        if not np.array_equal(self.system.numbers, system.numbers):
            return False
        deformation, _, moved = displacements(self.system, system)
        strained = np.abs(deformation - np.eye(3)).max() > MAX_STRAIN
        return not strained and bool(np.linalg.norm(moved, axis=1).max() <= MAX_SHIFT_A)


class LinearScalingSolver:
    """Block-sparse density matrix by a method that keeps to a frozen pattern.

    error_per_atom_meV: tolerated error of the energy, from which the radius of P follows
    make_pattern:       of the rows that this process has

    A solver keeps state: the pattern, its radius, and what the method remembers, from one call to the next.
    An overlap S is removed by its inverse square root, found by Newton-Schulz iteration. ``homo`` and
    ``lumo`` are Lanczos values that start from the last call: good to some meV, in the first call of a
    large system to 0.03 eV; with ``foe`` they are resolved to a fraction of kT.
    """

    def __init__(
        self,
        method: DensityMethod,
        error_per_atom_meV: float = ERROR_PER_ATOM_meV,
        make_pattern: PatternMaker = SparsePattern,
    ) -> None:
        self.method, self._make_pattern = method, make_pattern
        self.error_per_atom_meV = error_per_atom_meV
        self.radius = START_RADIUS_A
        self.patterns_made = 0
        self._frozen: _Frozen | None = None

    @property
    def name(self) -> str:
        return self.method.name

    def solve(self, problem: ElectronicProblem) -> ElectronicState:
        """See :class:`~mlh_driver.solvers.base.Solver`.

        Raises SolverError for what the method cannot do, an overlap that is not positive definite, or a
        density matrix too extended for the tolerated error.
        """
        self.method.check_temperature(problem.kT)
        use_torch_threads()
        while True:
            frozen, slots = self._prepare(problem)
            pattern = frozen.pattern
            state, P, width = self._solve_in(frozen, problem, slots)
            error, decay = truncation_error(pattern, P, self.method.prefactor * width)
            error_meV = 1e3 * max(error, 1e-300)
            change = np.log(error_meV / self.error_per_atom_meV) / np.log(1.0 / decay)
            if error_meV <= self.error_per_atom_meV:
                if change < -2.0 * _SHELL_A:  # far too good: smaller when the pattern is made anew
                    self.radius = max(MIN_RADIUS_A, pattern.radius - _SHELL_A)
                return state
            if pattern.radius >= MAX_RADIUS_A:
                raise SolverError(
                    f"the density matrix reaches too far: the error is {error_meV:.2g} meV/atom at a "
                    f"radius of {MAX_RADIUS_A} Å; use solver 'dense', a higher electronic temperature, or "
                    "tolerate more"
                )
            self.radius = min(MAX_RADIUS_A, pattern.radius + np.clip(change + 0.1, *_GROWTH_A))
            del frozen, pattern, slots, state, P  # two patterns at a time would double the memory

    def _prepare(self, problem: ElectronicProblem) -> tuple[_Frozen, np.ndarray]:
        """A pattern that holds H, and where the blocks of H stand in it."""
        index = problem.H.index.cpu().numpy()
        frozen = self._frozen
        if frozen and frozen.fits(problem.system) and frozen.pattern.radius >= self.radius:
            slots = frozen.pattern.find(index)
            if slots is not None:
                return frozen, slots
        self._frozen = frozen = None
        self.method.new_pattern()
        pattern = self._make_pattern(problem.system, self.radius, problem.H)
        self._frozen = _Frozen(pattern, problem.system, FrontierOrbitals(pattern))
        self.patterns_made += 1
        slots = pattern.find(index)
        assert slots is not None
        return self._frozen, slots

    def _solve_in(
        self, frozen: _Frozen, problem: ElectronicProblem, slots: np.ndarray
    ) -> tuple[ElectronicState, Matrix, float]:
        """The state, P in the orthonormal basis, and the width of the spectrum in eV."""
        pattern = frozen.pattern
        if problem.S is None:
            S = Z = None
            h = pattern.load(problem.H, slots, self.method.dtype)
        else:
            S = pattern.load(problem.S, slots, np.float64)
            Z = inverse_square_root(pattern, S)
            h = pattern.sandwich(Z, pattern.load(problem.H, slots, np.float64))
        hamiltonian = pattern.operator(h.astype(np.float32, copy=False))
        bounds = spectral_bounds(pattern, hamiltonian)
        found = self.method.solve(
            SparseProblem(pattern, h, hamiltonian, bounds, problem.n_occupied, problem.kT, frozen.frontier)
        )
        density = found.P if Z is None else pattern.sandwich(Z, found.P)
        if S is not None:
            density *= problem.n_occupied / pattern.dot(density, S)
        stored = pattern.store(density, slots, problem.H)
        band_energy = 2.0 * float(pattern.total(stored.atom_products(problem.H).sum().numpy()))
        energy_weighted = None
        if Z is not None:
            energy_weighted = pattern.store(
                pattern.sandwich(Z, pattern.product(found.P, h)), slots, problem.H
            )
        state = ElectronicState(
            density=stored,
            energy_weighted=energy_weighted,
            band_energy=band_energy,
            entropy_term=0.0 if found.free_energy is None else band_energy - found.free_energy,
            fermi_level=found.fermi_level,
            homo=found.homo,
            lumo=found.lumo,
            single_precision=self.method.dtype is np.float32,
        )
        return state, found.P, bounds[1] - bounds[0]


def truncation_error(pattern: SparsePattern, P: Matrix, scale: float) -> tuple[float, float]:
    """Estimated error in eV per atom, and the factor by which the weight of a shell falls per Å.

    scale: eV per weight left out
    """
    if pattern.is_complete:
        return 0.0, 0.5
    own = P[: len(pattern.distances)]
    weights = np.einsum("bq,bq->b", own, own)
    outer = pattern.radius - _SHELL_A * np.arange(3)
    last, _, inner = pattern.total(
        np.array(
            [weights[(pattern.distances <= r) & (pattern.distances > r - _SHELL_A)].sum() for r in outer]
        )
    )
    decay = float(np.clip((last / max(inner, 1e-300)) ** 0.5, 0.01, 0.9))
    return scale * float(last) * decay / (1.0 - decay) / pattern.n_atoms, decay


def spectral_bounds(pattern: SparsePattern, hamiltonian: Operator) -> tuple[float, float]:
    """Lower and upper bound of the spectrum, by Lanczos with a safety margin."""
    values, residuals, _ = lanczos(hamiltonian, pattern.random_vector(), 30, total=pattern.total)
    margin = 0.01 * (values[-1] - values[0]) + 1e-3
    return float(values[0] - residuals[0] - margin), float(values[-1] + residuals[-1] + margin)


def inverse_square_root(pattern: SparsePattern, S: Matrix) -> Matrix:
    """S^-1/2 by Newton-Schulz iteration, to what truncation allows.

    Raises SolverError if S is not positive definite or S^-1/2 too long-ranged for the pattern.
    """
    start = pattern.random_vector(np.float64)
    values, residuals, _ = lanczos(pattern.operator(S), start, 30, total=pattern.total)
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
            f"the truncated S^-1/2 is wrong by {distance:.1e} per orbital; ask for a smaller "
            "error_per_atom_meV or use the dense solver"
        )
    return Z * scale**0.5
