"""A glass from a melt: packed at random or given, molten, quenched, annealed, relaxed, analyzed.

::

    RandomStart | Atoms -> prepare -> Run -> carry_out -> glass.xyz, report.json, structure.*, run.png
                (inputs in a folder)   (LAMMPS or i-PI, from the last restart; then a relaxation)

=============  ==========================================================================================
``settings``   temperatures, times and rate; presets; which steps belong to which stage
``packing``    atoms at random without overlaps, made a liquid by a classical potential
``lammps``     the run in LAMMPS: its input, where it goes on, what it wrote
``ipi``        the same in i-PI
``monitor``    between the model and the MD engine: says how a run goes
``levels``     the levels around the gap along it
``run``        the folder of a run, and the way through it
``ensemble``   several runs by seeds, as a campaign
``comparison`` mean and spread over their glasses, and a page
=============  ==========================================================================================

**Inputs.** The templates in ``inputs/`` are ordinary inputs of LAMMPS and i-PI with default values, which
``lammps_inputs`` and ``ipi_inputs`` of the repository link to. A run writes them into its folder with values
of its own, so that they can be read, changed and run by hand.

**The folder is the state.** ``settings.json`` appears with the inputs, by one rename, and a folder with other
settings is refused. The MD engine writes restart files as it goes. The same command goes on from the newest
of them that is whole, with velocities, thermostat and the place in the ramp: each stage has a thermostat of
its own name, to which alone LAMMPS hands its saved state, and the ramp counts from the first step of its
stage. Two restart files take turns, so that a kill while one is written leaves the other. What was written
after the restart is cut off.

**No integrator here**: LAMMPS or i-PI moves the atoms, ASE relaxes them.

**Leaving the model's range**: an error of the model ends the run in that very step.
:class:`~mlh_driver.interfaces.guard.GuardedEngine` keeps the structure and the last good one before it, and
some of those far out of the range that the run came through.
"""

from mlh_driver.workflows.melt_quench.comparison import Comparison, write_comparison
from mlh_driver.workflows.melt_quench.ensemble import (
    check_copies,
    copy_name,
    how_far,
    run_copies,
    settings_of_copies,
)
from mlh_driver.workflows.melt_quench.run import (
    Run,
    carry_out,
    find_runs,
    prepare,
    relax_glass,
    seconds_per_step,
)
from mlh_driver.workflows.melt_quench.settings import PRESETS, MeltQuenchSettings, RandomStart, preset

__all__ = [
    "PRESETS",
    "Comparison",
    "MeltQuenchSettings",
    "RandomStart",
    "Run",
    "carry_out",
    "check_copies",
    "copy_name",
    "find_runs",
    "how_far",
    "prepare",
    "preset",
    "relax_glass",
    "run_copies",
    "seconds_per_step",
    "settings_of_copies",
    "write_comparison",
]
