"""Electrons are held near the numbers that the network predicts, where its Hamiltonian would let them go.

A predicted Hamiltonian does not answer to charge: where an on-site level is wrong by electronvolts, nothing
keeps an atom from losing all its electrons. So the energy holds the number of electrons n_i of every atom
near the predicted one, as the Hubbard term of self-consistent-charge tight binding holds it near that of the
neutral atom (Elstner et al., Phys. Rev. B 58, 7260, 1998):

    E = min over P of  2 Tr[P H] - T_e S_e + sum_i u(d_i),       d_i = n_i[P] - n_i(predicted)

    u'(d) = U t^2 / (t + a),   t = max(|d| - w, 0),  with the sign of d

Deviations up to w cost nothing: there H is untouched, and one diagonalization does. Beyond, the potential
u'(d_i) is added to the on-site levels of atom i. E is convex in P, so there is one minimum, at which

    s_i = d_i[P(H + u'(s))]                                                                          (*)

for the deviations s that the potentials stand for. (*) is solved by Newton's method with dn_i/dv_j from
perturbation theory where the solver has it, by Broyden's where it does not. It is the stationary point of the
concave dual function

    D = min over P of {2 Tr[P (H + u')] - T_e S_e} - sum_i [n_i(predicted) u'(s_i) + s_i u'(s_i) - u(s_i)],

which therefore must grow with every step; a step that is too long is halved.

======  ===========================================================  ===================
w       :data:`~mlh_driver.results.TOLERATED_e`                      electrons
a       :data:`ONSET_e`, over which the potential sets in            electrons
U       :data:`HARDNESS_eV`                                          eV per electron
======  ===========================================================  ===================
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mlh_driver.errors import SolverError
from mlh_driver.hamiltonian import BlockMatrix
from mlh_driver.results import TOLERATED_e
from mlh_driver.solvers.base import ElectronicProblem, ElectronicState, Solver
from mlh_driver.system import Array

#: Electrons beyond, at which half of the hardness acts.
ONSET_e = 0.1
#: Between the Hubbard parameters of silicon (6.7 eV) and oxygen (13.5 eV) in self-consistent tight binding.
HARDNESS_eV = 10.0
#: Potentials agree within this, in eV, by the precision of H. The energy is off by the square of it over U.
AGREEMENT_eV = {torch.float32: 5e-4, torch.float64: 1e-8}
#: At best, where the density matrix was found in single precision, whatever that of H.
SINGLE_AGREEMENT_eV = 1e-4
MAX_SOLUTIONS = 80
MOST_HALVINGS = 6
#: No potential changes by more in one step, in eV: electrons in other orbitals answer in another way.
LONGEST_STEP_eV = 2.0
#: dn_i/dv_i in electrons per eV to start Broyden's method from: that of an atom in silica glass.
TYPICAL_SUSCEPTIBILITY = -0.1
#: What rounding may take from the dual function in one step, in eV per atom.
ROUNDING_eV = {torch.float32: 1e-5, torch.float64: 1e-10}


@dataclass(frozen=True)
class HeldState:
    """The electronic state of H, its electrons held near the predicted numbers.

    state:      at the minimum; ``band_energy`` is 2 Tr[P H] without the potentials, levels are with them
    deviations: (N,) d_i, electrons beyond those predicted
    potentials: (N,) u'(d_i) in eV, which is also minus the derivative of E by the predicted electrons
    energies:   (N,) u(d_i) in eV
    """

    state: ElectronicState
    deviations: Array
    potentials: Array
    energies: Array


def energy_of(deviations: Array) -> Array:
    """u in eV, elementwise."""
    t = np.maximum(np.abs(deviations) - TOLERATED_e, 0.0)
    a = ONSET_e
    return HARDNESS_eV * (0.5 * t * t - a * t + a * a * np.log1p(t / a))


def potential_of(deviations: Array) -> Array:
    """u' in eV per electron, elementwise."""
    t = np.maximum(np.abs(deviations) - TOLERATED_e, 0.0)
    return HARDNESS_eV * np.sign(deviations) * t * t / (t + ONSET_e)


def hardness_of(deviations: Array) -> Array:
    """u'' in eV per electron squared, elementwise."""
    t = np.maximum(np.abs(deviations) - TOLERATED_e, 0.0)
    return HARDNESS_eV * t * (t + 2.0 * ONSET_e) / (t + ONSET_e) ** 2


def deviations_of(potentials: Array) -> Array:
    """The smallest deviations with these potentials, elementwise: the inverse of u'."""
    v = np.abs(potentials) / HARDNESS_eV
    t = 0.5 * (v + np.sqrt(v * v + 4.0 * v * ONSET_e))
    return np.where(v > 0.0, np.sign(potentials) * (TOLERATED_e + t), 0.0)


class ChargeHolder:
    """Solves with the response to charge; starts from the potentials of the last structure."""

    def __init__(self) -> None:
        self.solutions = 0
        self._last: Array = np.zeros(0)

    def solve(self, solver: Solver, problem: ElectronicProblem, predicted: Array) -> HeldState:
        """The state of a problem without overlap, given the predicted electrons (N,) of each atom.

        Raises SolverError when charges and potentials do not come to agree.
        """
        start = self._last if len(self._last) == len(predicted) else np.zeros(len(predicted))
        self._last = np.zeros(0)  # an error leaves nothing behind
        search = _Search(solver, problem, predicted)
        held = search.run(start)
        self.solutions += search.solutions
        self._last = deviations_of(held.potentials)
        return held


@dataclass(frozen=True)
class _Point:
    """One trial: the deviations s that the potentials stand for, and what the electrons answer.

    dual: D in eV
    """

    assumed: Array
    potentials: Array
    state: ElectronicState
    deviations: Array
    dual: float

    @property
    def beyond(self) -> NDArray[np.bool_]:
        """(N,) atoms where charges or potentials are beyond what is tolerated."""
        return np.maximum(np.abs(self.assumed), np.abs(self.deviations)) > TOLERATED_e

    @property
    def disagreement(self) -> float:
        """In eV, between the potentials and those of the charges that they lead to."""
        return float(np.abs(potential_of(self.deviations) - self.potentials).max())


class _Search:
    """Newton's or Broyden's method for (*), for one problem."""

    def __init__(self, solver: Solver, problem: ElectronicProblem, predicted: Array) -> None:
        self._solver, self._problem, self._predicted = solver, problem, predicted
        self._atoms = np.zeros(0, dtype=np.int64)
        self._susceptibility = np.zeros((0, 0))
        self.solutions = 0

    def run(self, start: Array) -> HeldState:
        dtype = self._problem.H.blocks.dtype
        slack = ROUNDING_eV[dtype] * len(start)
        best, halvings = self._try(start), 0
        step = np.zeros(0)
        while best.disagreement > self._agreement(best):
            if not len(step):
                step = self._newton_step(best)
            elif halvings == MOST_HALVINGS:
                best = self._try(best.assumed)  # what found it before may err by another amount
                step = self._safe_step(best)
            point = self._try(best.assumed + step)
            self._learn(best, point)
            if point.dual >= best.dual - slack or point.disagreement <= self._agreement(point):
                best, step, halvings = point, np.zeros(0), 0
            else:
                step, halvings = 0.5 * step, halvings + 1
        return self._held(best)

    def _agreement(self, point: _Point) -> float:
        """What can be asked for, in eV."""
        asked = AGREEMENT_eV[self._problem.H.blocks.dtype]
        return max(asked, SINGLE_AGREEMENT_eV) if point.state.single_precision else asked

    def _try(self, assumed: Array) -> _Point:
        if self.solutions == MAX_SOLUTIONS:
            raise SolverError(
                f"charges and potentials do not agree after {MAX_SOLUTIONS} solutions: the gap is too small "
                f"for kT = {self._problem.kT:.4f} eV; use a higher electronic temperature, such as 2000 K"
            )
        self.solutions += 1
        potentials = potential_of(assumed)
        state = self._solver.solve(replace(self._problem, H=shifted(self._problem.H, potentials)))
        populations = state.density.orbital_populations().sum(dim=1).cpu().numpy()
        electrons = 2.0 * self._problem.part.total(populations)
        cost = potentials @ (self._predicted + assumed) - energy_of(assumed).sum()
        return _Point(
            assumed,
            potentials,
            state,
            electrons - self._predicted,
            state.band_energy - state.entropy_term - float(cost),
        )

    def _newton_step(self, point: _Point) -> Array:
        """Change of s: (1 - chi u''(s)) ds = d - s, in the atoms where either is beyond what is tolerated."""
        self._follow(np.flatnonzero(point.beyond), point)
        atoms = self._atoms
        rest = (point.deviations - point.assumed)[atoms]
        matrix = np.eye(len(atoms)) - self._susceptibility * hardness_of(point.assumed[atoms])
        step = np.zeros_like(point.assumed)
        step[atoms] = np.linalg.solve(matrix, rest)
        return _shortened(point, step)

    def _safe_step(self, point: _Point) -> Array:
        """Along the gradient of D by the potentials, which is uphill whatever the electrons do."""
        rest = point.deviations - point.assumed
        softness = 1.0 - TYPICAL_SUSCEPTIBILITY * hardness_of(point.deviations)
        return _shortened(point, np.where(point.beyond, rest / softness, 0.0))

    def _follow(self, atoms: np.ndarray, point: _Point) -> None:
        """Know the susceptibility (k, k) of these atoms, in electrons per eV."""
        if point.state.susceptibility is not None:
            self._atoms, self._susceptibility = atoms, point.state.susceptibility(atoms)
            return
        all_atoms = np.union1d(self._atoms, atoms)
        matrix = TYPICAL_SUSCEPTIBILITY * np.eye(len(all_atoms))
        known = np.searchsorted(all_atoms, self._atoms)
        matrix[np.ix_(known, known)] = self._susceptibility
        self._atoms, self._susceptibility = all_atoms, matrix

    def _learn(self, before: _Point, after: _Point) -> None:
        """Broyden's update: the susceptibility nearest to the one before that explains the last change."""
        atoms = self._atoms
        change = (after.potentials - before.potentials)[atoms]
        answer = (after.deviations - before.deviations)[atoms]
        square = float(change @ change)
        if after.state.susceptibility is None and square > 0.0:
            self._susceptibility = self._susceptibility + np.outer(
                answer - self._susceptibility @ change, change / square
            )

    def _held(self, point: _Point) -> HeldState:
        electrons = point.deviations + self._predicted
        bare = point.state.band_energy - float(point.potentials @ electrons)
        return HeldState(
            state=replace(point.state, band_energy=bare),
            deviations=point.deviations,
            potentials=potential_of(point.deviations),
            energies=energy_of(point.deviations),
        )


def _shortened(point: _Point, step: Array) -> Array:
    """The step, or a fraction of it by which no potential changes by more than is sensible."""
    for _ in range(MOST_HALVINGS):
        change = np.abs(potential_of(point.assumed + step) - point.potentials).max()
        if change <= LONGEST_STEP_eV:
            break
        step = 0.5 * step
    return step


def shifted(H: BlockMatrix, potentials: Array) -> BlockMatrix:
    """H with the potentials (N,) on the orbitals of each atom; H itself where there are none."""
    if not potentials.any():
        return H
    values = torch.from_numpy(potentials).to(H.blocks)[:, None] * H.orbital_mask
    return H.plus_diagonal(values)
