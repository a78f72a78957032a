"""Atoms packed at random, and made a liquid before the model sees them.

A melt that starts from atoms at random starts where no model was trained. So no two atoms are put closer than
the shortest distance of their kind in the training data, and Si and O then flow for some picoseconds under
the classical potential of Vashishta et al. (PRB 41, 12197, 1990), which comes with LAMMPS: the extrapolation
falls from some 10 to 40 to below 1.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.data import atomic_masses, chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from mlh_driver.engine import Engine
from mlh_driver.errors import InputError, reason
from mlh_driver.interfaces.lammps import open_lammps
from mlh_driver.interfaces.lammps.library import potential_file
from mlh_driver.structures import write_lammps_data
from mlh_driver.system import Array
from mlh_driver.workflows.melt_quench.settings import MeltQuenchSettings, RandomStart

POTENTIAL = "SiO.1990.vashishta"
CLASSICAL_PS = 5.0
TRIES = 5000
"""Places tried in vain for an atom before all distances are made shorter."""
SHORTER, SHORTEST = 0.95, 0.8
"""By which factor, and to which part of those asked for."""
Distances = Mapping[frozenset[str], float]
"""Å by pair of elements; one element stands for a pair of its own."""


def random_start(start: RandomStart, settings: MeltQuenchSettings, engine: Engine) -> Atoms:
    """Atoms at random, at the density asked for; a classical liquid if they are Si and O.

    Raises InputError for a formula, a number of atoms or a density that cannot be.
    """
    numbers = _numbers(start)
    engine.check_species(numbers)
    grams = atomic_masses[numbers].sum() / (units.kg / 1000.0)
    side = (grams / start.density_g_cm3 * 1e24) ** (1 / 3)
    atoms = packed(numbers, np.full(3, side), shortest_distances(engine), settings.seed)
    if set(atoms.symbols) == {"O", "Si"}:
        return classical_liquid(atoms, settings.melt_temperature_K, settings.seed)
    return atoms


def shortest_distances(engine: Engine) -> dict[frozenset[str], float]:
    """Å by pair of elements, 2 per cent below the shortest in the training data of the model."""
    network, species = engine.model.network, engine.species
    return {
        frozenset((species[a], species[b])): float(radius)
        for (a, b), radius in zip(network.kinds, network.inner_radii, strict=True)
    }


def packed(numbers: NDArray[np.int64], lengths: Array, distances: Distances, seed: int) -> Atoms:
    """Atoms one after another at random places of an orthorhombic cell of ``lengths`` (3,) in Å.

    No two are closer than ``distances`` says; all of these shrink by some per cent where an atom finds no
    place. Raises InputError when they come to four fifths.
    """
    rng = np.random.default_rng(seed)
    symbols = [chemical_symbols[number] for number in numbers]
    scale = 1.0
    while scale >= SHORTEST:
        positions = _placed(symbols, lengths, {pair: scale * d for pair, d in distances.items()}, rng)
        if positions is not None:
            return Atoms(numbers=numbers, positions=positions, cell=lengths, pbc=True)
        scale *= SHORTER
    raise InputError(
        f"{len(numbers)} atoms find no place in {np.prod(lengths):.0f} Å^3: the density is too high for a "
        "random start; give a lower one, or a structure to start from"
    )


def _placed(
    symbols: list[str], lengths: Array, distances: Distances, rng: np.random.Generator
) -> Array | None:
    """(N, 3) positions, None if one of the atoms finds no place."""
    positions = np.empty((0, 3))
    for k, symbol in enumerate(symbols):
        least = np.array([distances[frozenset((symbol, other))] for other in symbols[:k]])
        for _ in range(TRIES):
            candidate = rng.random(3) * lengths
            offsets = positions - candidate
            offsets -= lengths * np.round(offsets / lengths)
            if (np.linalg.norm(offsets, axis=1) > least).all():
                positions = np.vstack([positions, candidate])
                break
        else:
            return None
    return positions


def classical_liquid(atoms: Atoms, temperature_K: float, seed: int) -> Atoms:
    """Si and O after some picoseconds of classical dynamics at constant volume."""
    lmp = open_lammps(["-log", "none", "-screen", "none", "-nocite"])
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_lammps_data(atoms, Path(folder) / "packed.data", ("Si", "O"))
            lmp.commands_string(f"""
                units metal
                atom_style atomic
                boundary p p p
                atom_modify map array
                read_data "{folder}/packed.data"
                pair_style vashishta
                pair_coeff * * "{potential_file(POTENTIAL)}" Si O
                minimize 0.0 0.1 200 2000
                velocity all create {temperature_K} {seed} mom yes rot no dist gaussian
                fix bath all langevin {temperature_K} {temperature_K} 0.1 {seed}
                fix move all nve/limit 0.1
                timestep 0.001
                run {round(1e3 * CLASSICAL_PS)}
            """)
        positions = np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3)
    finally:
        lmp.close()
    liquid = Atoms(numbers=atoms.numbers, positions=positions, cell=atoms.cell, pbc=True)
    liquid.wrap()
    return liquid


def _numbers(start: RandomStart) -> NDArray[np.int64]:
    try:
        unit = Atoms(str(Formula(start.composition, strict=True)))
        if not len(unit):
            raise ValueError("it is empty")
    except (ValueError, KeyError) as error:
        raise InputError(
            f"composition {start.composition!r} is no chemical formula such as SiO2: {reason(error)}"
        ) from error
    if start.n_atoms % len(unit):
        fewer = start.n_atoms // len(unit) * len(unit)
        raise InputError(
            f"{start.n_atoms} atoms are no whole number of {start.composition}; give "
            f"{fewer or len(unit)} or {fewer + len(unit)}"
        )
    return np.sort(np.tile(unit.numbers, start.n_atoms // len(unit)))[::-1].copy()
