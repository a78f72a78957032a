"""The model as the force engine of LAMMPS, through ``fix ID all external pf/callback 1 1``.

LAMMPS calls :class:`ForceCallback` at the setup of a run and in every step or line-search trial, with the
positions of the moment; the engine's energy, forces, virial, per-atom energies and observables go back
through the library interface. ``fix_modify ID energy yes virial yes`` is always issued: without it,
``minimize`` stops at a wrong geometry and the pressure lacks the model's part, both without an error.

What is handed over, and where the script finds it:

=====================  ==========================================  =========================
quantity               in LAMMPS                                   unit
=====================  ==========================================  =========================
energy                 ``pe``, ``f_ID``                            energy unit of the script
forces                 ``fx fy fz``                                the script's
stress                 ``press``, ``pxx`` ... (virial -V stress)   the script's
per-atom energies      ``compute pe/atom``                         the script's
``band_gap``           ``f_ID[1]``                                 eV
``fermi_level``        ``f_ID[2]``                                 eV
``homo``               ``f_ID[3]``                                 eV
``lumo``               ``f_ID[4]``                                 eV
``band_energy``        ``f_ID[5]``                                 eV
``electronic_entropy`` ``f_ID[6]``                                 eV
``extrapolation``      ``f_ID[7]``                                 1 = edge of the training data
``charge_deviation``   ``f_ID[8]``                                 electrons
=====================  ==========================================  =========================

``thermo_modify norm yes`` divides all of ``f_ID`` by the number of atoms; a variable ``equal f_ID[1]`` is the
value itself. There is no local stress: ``compute stress/atom`` and its like would leave the model out, and
scripts that ask for them are refused; so are ``fix numdiff`` and others, which would do the same,
``run_style respa``, which calls no ``fix external`` after the first step, and fixes that act on forces (such
as ``setforce``) where they come before the model's and would not see its forces.

Atoms of types named ``NULL`` (:mod:`~mlh_driver.interfaces.lammps.elements`) are not in the structure that
the model sees; its part of their forces and energies is zero.

The order of the vector is that of :data:`mlh_driver.results.OBSERVABLES`. No answer depends on the
order of calls: LAMMPS reorders atoms, and a line search repeats step numbers.

Errors. Python exceptions cannot pass through LAMMPS, which would go on with whatever is in the force array.
So they are caught and kept, the array is set to zero, and LAMMPS is made to stop with an error of its own
*in the same force evaluation*, before anything is integrated or written: each bound fix is followed by a
``fix indent`` on an empty group, whose radius, an internal variable, is set to -1 when a force call has
failed; LAMMPS refuses that as soon as it comes to this fix. No line of the script runs after that (a forced
timeout would end the run, and the rest of the script would go on). The kept exception is then raised in
place of LAMMPS'.

One failure is an answer instead. Monte Carlo moves (``fix atom/swap``) ask, within a step, for the energy of
the same places with other elements; where the model cannot compute such a trial, the move gets an energy that
no temperature accepts, and is rejected. The structure that the step goes on with has been computed before in
the same step, so that it is not among those that fail.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlh_driver.errors import NO_RESULT, InputError, LammpsError, MLHError
from mlh_driver.force_engine import ForceEngine
from mlh_driver.interfaces.alarm import Alarm
from mlh_driver.interfaces.lammps.elements import TypeElements
from mlh_driver.interfaces.lammps.library import refuse_several_ranks, warn
from mlh_driver.interfaces.lammps.units import lammps_units
from mlh_driver.results import OBSERVABLES, Results
from mlh_driver.system import Array, System

GUARD = "mlh_guard"
"""Name of the fix that stops LAMMPS, and of the variable with its radius."""

EMPTY_GROUP = "mlh_none"
REJECTED_eV = 1e9
"""Above the energy before it: what a trial move is given that cannot be computed."""
_RUN, _STOP = 0.0, -1.0


class ForceCallback:
    """Answers the force calls of one ``fix external``.

    fix_id:      of the fix that calls
    elements:    of the atom types
    error:       the exception of the last force call, or None
    calls:       how many force calls were answered
    interrupted: set it to end the run at the next force call, with a KeyboardInterrupt
    """

    def __init__(
        self, lmp: Any, fix_id: str, engine: ForceEngine, elements: Sequence[str] | None = None
    ) -> None:
        refuse_several_ranks(lmp)
        self.error: BaseException | None = None
        self.calls = 0
        self.interrupted = Event()
        self._lmp = lmp
        self.fix_id = fix_id
        self._engine = engine
        self._units = lammps_units(lmp.extract_global("units"))
        self.elements = TypeElements(lmp, self._units, elements)
        self._alarm = Alarm()
        self._trials = _Trials()

    def __call__(self, _: object, step: int, nlocal: int, tag: NDArray[Any], x: Array, f: Array) -> None:
        """The signature of ``fix external``: tag (nlocal,), x and f (nlocal, 3) in LAMMPS' present order."""
        try:
            if self.interrupted.is_set():
                raise KeyboardInterrupt
            if self._lmp.extract_global("respa_levels"):
                raise InputError(
                    "run_style respa evaluates no fix external after the first step, so the atoms would move "
                    "without the model; use 'run_style verlet'"
                )
            system, atoms = self._system(tag.ravel(), x)
            f[:] = 0.0
            try:
                results = self._engine.compute(system).check_finite()
            except NO_RESULT as error:
                self._reject(step, system, error)
                return
            f[atoms] = results.forces * (self._units.length / self._units.energy)
            self._hand_over(results, system.volume, atoms, len(f))
            for message in self._alarm(f"step {step}", results):
                warn(self._lmp, message)
            self.calls += 1
            self._trials.computed(step, system, results.energy)
        except BaseException as error:
            f[:] = 0.0
            self.error = error
            self._stop(step, error)

    def _system(self, tag: NDArray[Any], x: Array) -> tuple[System, NDArray[np.int64]]:
        """The structure in Å, atoms sorted by ID, the box's corner at the origin, and where they are in x."""
        order = np.argsort(tag)
        lo, hi, xy, yz, xz, periodic, _ = self._lmp.extract_box()
        if not all(periodic):
            raise InputError(
                f"the LAMMPS box is periodic along x, y, z: {[bool(p) for p in periodic]}; the model needs "
                "all three: use 'boundary p p p', with vacuum in the box where there is none"
            )
        if len(order) > 1 and tag[order[0]] == tag[order[-1]]:
            raise InputError("the atoms have no IDs; remove 'atom_modify id no' from the script")
        if (n_atoms := int(self._lmp.get_natoms())) != len(order):
            raise LammpsError(
                f"LAMMPS has lost {n_atoms - len(order)} of {n_atoms} atoms: they flew out of the box. Use a "
                "smaller time step (in 'units metal' it is in ps), or a better start"
            )
        numbers = self.elements.numbers()
        numbers = numbers[self._lmp.numpy.extract_atom("type")[: len(order)].ravel()]
        atoms = order[numbers[order] > 0]
        if not len(atoms):
            raise InputError(
                f"all {n_atoms} atoms are of types without the model (NULL); it needs at least one"
            )
        side = np.subtract(hi, lo)
        cell = np.array([[side[0], 0.0, 0.0], [xy, side[1], 0.0], [xz, yz, side[2]]])
        scale = self._units.length
        velocities = self._lmp.numpy.extract_atom("v")[atoms] * self._units.velocity
        return System(numbers[atoms], (x[atoms] - lo) * scale, cell * scale, velocities), atoms

    def _hand_over(self, results: Results, volume: float, atoms: NDArray[np.int64], nlocal: int) -> None:
        """Energy, virial (xx, yy, zz, xy, xz, yz), per-atom energies and observables for this step."""
        lmp, fix, scale = self._lmp, self.fix_id, 1.0 / self._units.energy
        virial = results.virial(volume) * scale
        energies = np.zeros(nlocal)
        energies[atoms] = results.energies * scale
        lmp.fix_external_set_energy_global(fix, results.energy * scale)
        lmp.fix_external_set_virial_global(fix, virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]])
        pointer = energies.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
        lmp.lib.lammps_fix_external_set_energy_peratom(lmp.lmp, fix.encode(), pointer)  # wrapper: 0.3 ms more
        for index, value in enumerate(results.observables().values(), start=1):
            lmp.fix_external_set_vector(fix, index, value)

    def _reject(self, step: int, system: System, error: MLHError) -> None:
        """Let the Monte Carlo move that asks for this structure be rejected; raise the error if none does."""
        if not self._trials.has(step, system):
            raise error
        if self._lmp.get_thermo("elapsed") == 0:  # a setup: elements may have changed between two runs
            raise error
        energy = self._trials.energy + REJECTED_eV
        self._lmp.fix_external_set_energy_global(self.fix_id, energy / self._units.energy)
        self._trials.rejected += 1
        if (count := self._trials.rejected).bit_count() == 1:  # the 1st, 2nd, 4th, 8th ...
            warn(self._lmp, f"step {step}: a trial move is rejected, {count} so far: {error}")

    def _stop(self, step: int, error: BaseException) -> None:
        """Make LAMMPS stop in this force evaluation, and leave the reason in its log."""
        self._lmp.set_internal_variable(GUARD, _STOP)
        reason = f"the force call of fix {self.fix_id} at step {step} failed: {type(error).__name__}: {error}"
        if isinstance(error, KeyboardInterrupt):
            reason = f"interrupted at step {step}"
        warn(self._lmp, reason)
        self._lmp.set_show_error(False)

    @contextmanager
    def errors_raised(self) -> Iterator[None]:
        """Around LAMMPS commands: raise the error of a force call as it was, LAMMPS' own as LammpsError."""
        self.error = None
        self._lmp.set_internal_variable(GUARD, _RUN)
        try:
            yield
        except Exception as error:  # the wrapper raises a bare Exception
            if self.error is not None:
                raise self.error from None
            raise LammpsError(f"LAMMPS stopped: {error}") from error
        finally:
            self._lmp.set_show_error(True)


class _Trials:
    """Tells Monte Carlo trials from the structures that the run goes on with.

    A trial has the places of a structure that was computed in the same step, and other elements than any of
    them; what the step ends with is one of these structures again.

    energy:   of the last one, in eV
    rejected: how many trials could not be computed
    """

    def __init__(self) -> None:
        self.energy = 0.0
        self.rejected = 0
        self._places: tuple[int, bytes, bytes] | None = None
        self._elements: set[bytes] = set()

    def computed(self, step: int, system: System, energy: float) -> None:
        """Note a structure that was computed."""
        places = step, system.positions.tobytes(), system.cell.tobytes()
        if places != self._places:
            self._places, self._elements = places, set()
        self._elements.add(system.numbers.tobytes())
        self.energy = energy

    def has(self, step: int, system: System) -> bool:
        """Whether this structure is a trial."""
        places = step, system.positions.tobytes(), system.cell.tobytes()
        return places == self._places and system.numbers.tobytes() not in self._elements


def bind(
    lmp: Any, fix_id: str, engine: ForceEngine, *, elements: Sequence[str] | None = None
) -> ForceCallback:
    """Make ``engine`` answer the calls of an existing fix, for those who drive LAMMPS from Python::

        from mlh_driver import Engine
        from mlh_driver.interfaces.lammps import bind, open_lammps

        lmp = open_lammps()                       # finds the MPI library of the wheel
        lmp.file("setup.in")                      # contains: fix mlh all external pf/callback 1 1
        callback = bind(lmp, "mlh", Engine("asio2-minimal"))
        with callback.errors_raised():            # raises the model's error, not LAMMPS' "Illegal radius"
            lmp.command("run 100")

    The fix must be of the group ``all``, with ``1 1``, and come before fixes that act on forces, such as
    ``setforce``: LAMMPS tells nobody, so nothing is checked here. ``elements`` names the element of each atom
    type; without it, type labels or masses decide. Bind again after ``unfix``, ``clear`` or ``labelmap``.
    """
    callback = ForceCallback(lmp, fix_id, engine, elements)
    for command in attach(lmp, fix_id, callback):
        lmp.command(command)
    return callback


def attach(lmp: Any, fix_id: str, callback: ForceCallback) -> list[str]:
    """Set the callback; return the LAMMPS commands that complete the binding.

    The guard has to come after the fix that it watches, so it is removed and made again each time.
    """
    lmp.set_fix_external_callback(fix_id, callback)
    lmp.fix_external_set_vector_length(fix_id, len(OBSERVABLES))
    return [
        f"fix_modify {fix_id} energy yes virial yes",
        f"variable {GUARD} internal {_RUN}",
        f"group {EMPTY_GROUP} empty",
        *([f"unfix {GUARD}"] if lmp.has_id("fix", GUARD) else []),
        f"fix {GUARD} {EMPTY_GROUP} indent 0.0 sphere 0.0 0.0 0.0 v_{GUARD} units box",
    ]
