"""Structure analysis against crystals, hand-made cells, and counts by other programs."""

from __future__ import annotations

import json
from itertools import combinations, product
from pathlib import Path

import ase.io
import networkx
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.geometry.analysis import Analysis
from ase.geometry.rdf import get_rdf
from ase.neighborlist import build_neighbor_list
from ase.spacegroup import crystal
from processes import REPOSITORY
from typer.testing import CliRunner

from mlh_driver.analysis import (
    OXYGEN,
    PUBLISHED,
    SI_O_BOND_A,
    SILICON,
    Network,
    bond_angles,
    coordination,
    primitive_rings,
    radial_distribution,
    structure_factor,
    summary,
)
from mlh_driver.analysis.network import bonds_kept
from mlh_driver.analysis.plots import draw_spread, plot_structures, plot_thermo
from mlh_driver.cli.main import app
from mlh_driver.errors import InputError
from mlh_driver.interfaces.lammps import read_log
from mlh_driver.structures import read_frames, read_trajectories
from mlh_driver.system import mass_density

GLASS = REPOSITORY / "examples" / "glass.xyz"


@pytest.fixture(scope="module")
def glass() -> Atoms:
    return ase.io.read(GLASS)


@pytest.fixture(scope="module")
def quartz() -> Atoms:
    """Alpha-quartz, 9 atoms (Levien, Prewitt and Weidner 1980)."""
    sites = [(0.4697, 0, 2 / 3), (0.4135, 0.2669, 0.7858)]
    return crystal(["Si", "O"], sites, spacegroup=154, cellpar=[4.916, 4.916, 5.4054, 90, 90, 120])


@pytest.fixture(scope="module")
def cristobalite() -> Atoms:
    """Ideal beta-cristobalite, 24 atoms: Si as the C of diamond, O in the middle of each bond."""
    sites = [(0.125, 0.125, 0.125), (0, 0, 0)]
    return crystal(["Si", "O"], sites, spacegroup=227, setting=2, cellpar=[7.16, 7.16, 7.16, 90, 90, 90])


def in_a_box(symbols: str, positions: list[list[float]]) -> Atoms:
    return Atoms(symbols, positions=positions, cell=[12.0, 12.0, 12.0], pbc=True)


#: Primitive rings of the glass by size in Si: AmorphGen on this cell, matscipy on 2 x 2 x 2 cells.
RINGS = dict(zip(range(3, 11), (1, 7, 8, 13, 27, 6, 2, 1), strict=True))


def test_crystals_are_perfect_networks(quartz: Atoms, cristobalite: Atoms) -> None:
    for atoms in (quartz, cristobalite):
        found = coordination([Network.of(atoms)])
        assert found.silicon == (0, 0, 0, 0, 1)
        assert found.oxygen == (0, 0, 1)
        assert (found.edge_sharing, found.si_si_bonds, found.o_o_bonds) == (0, 0, 0)
    assert mass_density(quartz) == pytest.approx(2.648, abs=0.003)


def test_angles_of_crystals(quartz: Atoms, cristobalite: Atoms) -> None:
    ideal = [Network.of(cristobalite)]
    np.testing.assert_allclose(bond_angles(ideal, SILICON).degrees, np.degrees(np.arccos(-1 / 3)))
    np.testing.assert_allclose(bond_angles(ideal, OXYGEN).degrees, 180.0)
    np.testing.assert_allclose(bond_angles(ideal, OXYGEN).spanned_A, 7.16 * np.sqrt(3) / 4)
    real = [Network.of(quartz)]
    np.testing.assert_allclose(bond_angles(real, OXYGEN).degrees, 143.7, atol=0.1)
    assert len(bond_angles(real, SILICON).degrees) == 3 * 6


def test_rings_of_crystals_do_not_depend_on_the_cell(quartz: Atoms, cristobalite: Atoms) -> None:
    """In diamond twelve rings of six pass through each atom and no larger ones; in quartz six."""
    assert primitive_rings(Network.of(cristobalite)) == {6: 8 * 12 / 6}
    small, large = (primitive_rings(Network.of(quartz.repeat(n))) for n in (1, 2))
    assert small[6] == 3 * 6 / 6
    assert large == {size: 8 * count for size, count in small.items()}


def test_rings_of_the_glass(glass: Atoms) -> None:
    assert primitive_rings(Network.of(glass)) == RINGS


def test_rings_are_those_that_a_search_of_all_cycles_finds(glass: Atoms) -> None:
    """All cycles of up to six Si in 2 x 2 x 2 cells, of which no two atoms have a shortcut."""
    network = Network.of(glass.repeat(2))
    pairs = [network.silicon[bonds].tolist() for bonds in network.around(OXYGEN)]
    graph = networkx.Graph(pairs)
    near = dict(networkx.all_pairs_shortest_path_length(graph, cutoff=3))

    def is_primitive(cycle: list[int]) -> bool:
        along = ((a, b, min(b - a, len(cycle) - b + a)) for a, b in combinations(range(len(cycle)), 2))
        return all(near[cycle[a]][cycle[b]] == steps for a, b, steps in along)

    sizes = [len(cycle) for cycle in networkx.simple_cycles(graph, length_bound=6) if is_primitive(cycle)]
    own = primitive_rings(Network.of(glass), largest=6)
    assert {size: 8 * count for size, count in own.items()} == {n: sizes.count(n) for n in sorted(set(sizes))}


def test_positions_outside_the_cell_change_nothing(glass: Atoms) -> None:
    moved = glass.copy()
    moved.positions[::3] += 2 * moved.cell.array[0] - moved.cell.array[2]
    before, after = summary([glass]), summary([moved])
    assert after.network.rings == before.network.rings
    np.testing.assert_allclose(after.factor.neutron, before.factor.neutron, rtol=1e-9)
    assert after.figures() == pytest.approx(before.figures(), nan_ok=True)


def test_bonds_that_are_kept_are_counted(quartz: Atoms) -> None:
    large = quartz * (2, 2, 2)
    assert bonds_kept(large, large) == 1.0
    moved = large.copy()
    moved.positions[-1] += moved.cell.array.sum(axis=0) / 3  # an O, which has two bonds
    n_bonds = len(Network.of(large).silicon)
    assert bonds_kept(large, moved) == pytest.approx(1 - 2 / n_bonds)


def test_a_vacancy_leaves_two_silicon_atoms_with_three_oxygens(glass: Atoms) -> None:
    defective = glass.copy()
    del defective[[40]]
    found = coordination([Network.of(defective)])
    assert found.share_of_silicon(3) == pytest.approx(2 / 32)
    assert found.share_of_silicon(4) == pytest.approx(30 / 32)
    assert found.share_of_oxygen(2) == 1
    both = coordination([Network.of(defective), Network.of(glass)])
    assert both.share_of_silicon(3) == pytest.approx(1 / 32)


def test_edge_sharing_silicon_is_a_ring_of_two_and_no_bond() -> None:
    atoms = in_a_box("Si2O2", [[5, 5, 5], [7.4, 5, 5], [6.2, 6.15, 5], [6.2, 3.85, 5]])
    found = coordination([Network.of(atoms)])
    assert (found.edge_sharing, found.si_si_bonds) == (1, 0)
    assert primitive_rings(Network.of(atoms)) == {2: 1}


def test_bonds_of_like_atoms_are_counted_once_also_across_the_cell() -> None:
    atoms = in_a_box("Si2O3", [[0.5, 5, 5], [10.3, 5, 5], [1, 1, 11.6], [1, 1, 1.1], [1.5, 6, 5.5]])
    found = coordination([Network.of(atoms)])
    assert (found.edge_sharing, found.si_si_bonds, found.o_o_bonds) == (0, 1, 1)
    assert found.oxygen == pytest.approx((2 / 3, 1 / 3))


def test_an_oxygen_with_three_silicon_atoms_makes_no_ring() -> None:
    positions = [[6, 6, 6], [7.8, 6, 6], [5.1, 7.56, 6], [5.1, 4.44, 6]]
    network = Network.of(in_a_box("OSi3", positions))
    assert coordination([network]).share_of_oxygen(3) == 1
    assert primitive_rings(network) == {}


def test_bonds_and_angles_equal_those_of_ase(glass: Atoms) -> None:
    own = summary([glass]).network
    neighbors = build_neighbor_list(glass, [SI_O_BOND_A / 2] * len(glass), self_interaction=False)
    other = Analysis(glass, neighbors)
    bonds = other.get_bonds("Si", "O", unique=True)
    np.testing.assert_allclose(np.sort(own.bonds_A), np.sort(other.get_values(bonds)[0]))
    for found, kinds in ((own.o_si_o, ("O", "Si", "O")), (own.si_o_si, ("Si", "O", "Si"))):
        angles = other.get_values(other.get_angles(*kinds, unique=True))[0]
        np.testing.assert_allclose(np.sort(found.degrees), np.sort(angles), atol=1e-6)


def test_structure_factor_is_the_sum_over_all_pairs_of_atoms(glass: Atoms) -> None:
    """Debye's double sum with the phase of every pair, wave vector by wave vector, in a sheared cell."""
    atoms = glass.copy()
    atoms.set_cell(glass.cell.array @ [[1, 0, 0], [0.2, 1, 0], [-0.1, 0.3, 1]], scale_atoms=True)
    found = structure_factor([atoms], largest_q_per_A=2.0, bin_per_A=0.1)
    lengths = {"O": 5.803, "Si": 4.1491}  # fm
    b = np.array([lengths[symbol] for symbol in atoms.symbols])
    vectors = atoms.positions[:, None] - atoms.positions
    reciprocal = 2 * np.pi * atoms.cell.reciprocal()
    values: dict[int, list[float]] = {}
    for hkl in product(range(-5, 6), repeat=3):
        q = np.array(hkl) @ reciprocal
        if 0 < np.linalg.norm(q) < 2.0:
            pairs = (np.outer(b, b) * np.cos(vectors @ q)).sum() / len(atoms)
            s = 1 + (pairs - (b**2).mean()) / b.mean() ** 2
            values.setdefault(int(np.linalg.norm(q) / 0.1), []).append(s)
    assert (found.q_per_A / 0.1).astype(int).tolist() == sorted(values)
    assert found.n_vectors.tolist() == [len(values[k]) for k in sorted(values)]
    np.testing.assert_allclose(found.neutron, [np.mean(values[k]) for k in sorted(values)], rtol=1e-9)


def test_structure_factor_has_the_reflections_of_a_crystal_and_none_of_a_gas() -> None:
    """Copper has those whose indices are all odd or all even."""
    copper = structure_factor([bulk("Cu", "fcc", 3.6, cubic=True).repeat(3)], largest_q_per_A=5.0)
    bright = copper.q_per_A[copper.s["Cu-Cu"] > 1e-6]
    np.testing.assert_allclose(bright, 2 * np.pi / 3.6 * np.sqrt([3, 4, 8]), rtol=1e-9)
    assert copper.neutron is None  # no scattering length here
    positions = np.random.default_rng(1).uniform(0.0, 20.0, (3000, 3))
    gas = structure_factor([Atoms("Si1000O2000", positions=positions, cell=[20.0] * 3, pbc=True)])
    for s in (*gas.s.values(), gas.neutron):
        assert np.average(s, weights=gas.n_vectors) == pytest.approx(1.0, abs=0.02)


def test_first_peak_is_resolved_in_large_cells_only(glass: Atoms) -> None:
    small, large = structure_factor([glass], 2.0), structure_factor([glass.repeat(3)], 2.0)
    assert small.values_at_first_peak() == 4  # sqrt(5), sqrt(6), sqrt(8) and 3 times 2 pi / 11.3 Å
    assert np.isnan(small.first_peak()) and not small.resolves_first_peak()
    assert large.resolves_first_peak() and 1.2 < large.first_peak() < 1.7


def test_report_has_the_figures_of_the_glass_beside_published_ones(glass: Atoms, tmp_path: Path) -> None:
    copper = bulk("Cu", "fcc", 3.6, cubic=True).repeat(3)
    ase.io.write(tmp_path / "copper.xyz", copper, format="extxyz")
    files = [str(GLASS), str(tmp_path / "copper.xyz")]
    done = CliRunner().invoke(app, ["analyze", *files, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "structure.json").read_text())
    assert {int(size): count for size, count in found["glass"]["rings"].items()} == RINGS
    assert found["glass"]["coordination"]["silicon"] == [0, 0, 0, 0, 1]
    assert found["glass"]["published"]["Si-Si (Å)"]["low"] == 3.08
    assert found["glass"]["figures"]["first sharp diffraction peak (1/Å)"] is None
    peak, rings = found["glass"]["remarks"]
    assert "cannot be resolved" in peak and "primitive" in rings
    assert found["copper"]["rings"] is None and not found["copper"]["published"]
    assert not found["copper"]["remarks"]
    assert found["copper"]["figures"] == {"density (g/cm3)": pytest.approx(9.05, abs=0.01)}
    lines = (tmp_path / "structure.csv").read_text().splitlines()
    assert lines[0].startswith("quantity,glass,copper,published low")
    assert lines[1].split(",")[3:5] == ["2.2", "2.206"]
    assert "rings of 7 Si per cell,27.0,," in "\n".join(lines)
    curve = np.loadtxt(tmp_path / "glass-radial_distribution.csv", delimiter=",", skiprows=1)
    assert curve[:, 0][curve[:, 2].argmax()] == pytest.approx(1.62, abs=0.03)
    q, n, s = np.loadtxt(tmp_path / "glass-structure_factor.csv", delimiter=",", skiprows=1)[0][:3]
    assert (q, n) == (pytest.approx(2 * np.pi / glass.cell.lengths()[0]), 6) and 0 < s < 1
    assert (tmp_path / "structure.png").stat().st_size > 50_000


def test_trajectories_of_lammps_without_elements_are_read_with_those_given(
    tmp_path: Path, glass: Atoms
) -> None:
    frame = (
        "ITEM: TIMESTEP\n{}\nITEM: NUMBER OF ATOMS\n96\nITEM: BOX BOUNDS pp pp pp\n" + "0 11.32170312\n" * 3
    )
    frame += "ITEM: ATOMS id type x y z\n" + "".join(
        f"{i} {1 if symbol == 'Si' else 2} {x} {y} {z}\n"
        for i, (symbol, (x, y, z)) in enumerate(zip(glass.symbols, glass.positions, strict=True), 1)
    )
    dump = tmp_path / "run.lammpstrj"
    dump.write_text(frame.format(0) + frame.format(10))
    done = CliRunner().invoke(app, ["analyze", str(dump), "--elements", "Si O", "--all", "--json"])
    found = json.loads(done.output)["run"]
    assert found["frames"] == 2 and found["formula"] == "O64Si32"
    assert {int(size): count for size, count in found["rings"].items()} == RINGS
    with pytest.raises(InputError, match="not the atom types 1 to 1 of Si; leave these out"):
        read_trajectories([dump], elements=["Si"])
    with pytest.raises(InputError, match="the file names no elements: give --elements"):
        CliRunner().invoke(app, ["analyze", str(dump)], catch_exceptions=False)
    with pytest.raises(InputError, match="no element 'Xy'"):
        read_trajectories([dump], elements=["Xy"])
    with pytest.raises(InputError, match="a second file is called 'run'"):
        read_trajectories([dump, dump], elements=["Si", "O"])
    head = "ITEM: UNITS\nmetal\nITEM: TIME\n0\n"  # by dump_modify
    for written in (5, len(frame) // 2, len(frame) - 1):  # LAMMPS is at the second frame
        dump.write_text((head if written == 5 else "") + frame.format(0) + frame.format(10)[:written])
        assert [len(atoms) for atoms in read_trajectories([dump], elements=["Si", "O"])["run"]] == [96]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, glass: Atoms) -> None:
    plain, named = [Atoms(glass.numbers, glass.positions, cell=glass.cell, pbc=True) for _ in range(2)]
    named.info["name"] = "best"
    for seed in ("seed7", "seed8"):
        (tmp_path / seed).mkdir()
        ase.io.write(tmp_path / seed / "glass.xyz", plain, format="extxyz")
        ase.io.write(tmp_path / seed / "run.xyz", [plain] * (2 if seed == "seed7" else 3), format="extxyz")
        ase.io.write(tmp_path / seed / "minima.xyz", named, format="extxyz")
        ase.io.write(tmp_path / seed / "POSCAR", plain, format="vasp")

    def both(name: str) -> list[Path]:
        return [tmp_path / "seed7" / name, tmp_path / "seed8" / name]

    done = CliRunner().invoke(app, ["analyze", *map(str, both("glass.xyz")), "--json"])
    assert list(json.loads(done.output)) == ["seed7_glass", "seed8_glass"]
    assert list(read_frames(both("glass.xyz"))) == ["seed7_glass", "seed8_glass"]
    assert list(read_frames(both("run.xyz"), last_only=True)) == ["seed7_run_1", "seed8_run_2"]
    assert list(read_frames(both("minima.xyz"))) == ["seed7_best", "seed8_best"]
    mixed = [tmp_path / "seed7" / "minima.xyz", *both("POSCAR")]
    assert list(read_frames(mixed)) == ["best", "seed7", "seed8"]
    ase.io.write(tmp_path / "seed7" / "glass.cif", plain)
    with pytest.raises(InputError, match=r"glass\.cif: a second structure is called 'seed7_glass'"):
        read_frames([tmp_path / "seed7" / "glass.xyz", tmp_path / "seed7" / "glass.cif"])


def test_radial_distribution_equals_that_of_ase(glass: Atoms) -> None:
    large = glass.repeat(2)
    own = radial_distribution([large, large], reach_A=8.0, shell_A=0.1)
    for pair, elements in {"O-Si": (8, 14), "O-O": (8, 8), "Si-Si": (14, 14)}.items():
        other, r = get_rdf(large, 8.0, 80, elements=elements)
        np.testing.assert_allclose(own.r_A, r)
        np.testing.assert_allclose(own.g[pair], other, rtol=1e-6, atol=1e-9)


def test_radial_distribution_beyond_half_the_cell_sees_all_images(quartz: Atoms) -> None:
    small, large = radial_distribution([quartz]), radial_distribution([quartz.repeat(2)])
    for pair in small.g:
        np.testing.assert_allclose(small.g[pair], large.g[pair])
    shells = 4 / 3 * np.pi * np.diff(np.append(small.r_A - 0.025, 8.0) ** 3)
    neighbors = (small.g["O-Si"] * shells)[small.r_A < small.first_minimum("O-Si")].sum()
    assert neighbors * 6 / quartz.get_volume() == pytest.approx(4.0)


def test_radial_distribution_without_order_is_one() -> None:
    positions = np.random.default_rng(1).uniform(0.0, 25.0, (3000, 3))
    gas = Atoms("Si1000O2000", positions=positions, cell=[25.0] * 3, pbc=True)
    found = radial_distribution([gas])
    for g in found.g.values():
        assert g[found.r_A > 3.0].mean() == pytest.approx(1.0, abs=0.01)


def test_figures_of_the_glass(glass: Atoms) -> None:
    """Published names are among those reported, and the glass has the values known for it."""
    figures = summary([glass, glass]).figures()
    assert set(PUBLISHED) <= set(figures)
    assert figures["density (g/cm3)"] == pytest.approx(2.2, abs=0.001)
    assert figures["Si-O (Å)"] == pytest.approx(1.620, abs=0.001)
    assert figures["O-Si-O (deg)"] == pytest.approx(109.4, abs=0.1)
    assert figures["O-Si-O, width (deg)"] == pytest.approx(3.7, abs=0.1)
    assert figures["Si-O-Si (deg)"] == pytest.approx(146.5, abs=0.1)
    assert figures["Si-O-Si, width (deg)"] == pytest.approx(9.2, abs=0.1)
    assert figures["most frequent ring (Si)"] == 7


def test_atoms_far_from_each_other_have_no_first_minimum() -> None:
    far = Atoms("SiO", positions=[[0, 0, 0], [15, 15, 15]], cell=[30.0, 30.0, 30.0], pbc=True)
    assert np.isnan(summary([far]).figures()["first minimum of g(r), Si-O (Å)"])


def test_the_spread_that_is_drawn_is_that_of_the_tables(glass: Atoms) -> None:
    """Standard deviations with N - 1."""
    moved = glass.copy()
    moved.rattle(0.3, seed=1)
    both = [summary([atoms]) for atoms in (glass, moved)]
    bars = draw_spread(both).axes[4].containers[-1].errorbar  # of the rings
    drawn = [np.ptp(segment[:, 1]) / 2 for segment in bars.lines[2][0].get_segments()]
    rings = np.array([[each.network.rings.get(size, 0.0) for size in range(2, 11)] for each in both])
    assert drawn == pytest.approx(rings.std(axis=0, ddof=1)) and max(drawn) > 0.5
    draw_spread(both[:1])


def test_structures_that_cannot_be_analyzed_are_refused(glass: Atoms) -> None:
    with pytest.raises(InputError, match="no frames"):
        summary([])
    with pytest.raises(InputError, match="different atoms"):
        summary([glass, glass[:90]])
    with pytest.raises(InputError, match="O64 has no Si-O network"):
        Network.of(glass[glass.numbers == OXYGEN])
    cluster = glass.copy()
    cluster.pbc = False
    with pytest.raises(InputError, match="periodic along all axes"):
        summary([cluster])
    with pytest.raises(InputError, match="no atoms"):
        summary([glass[:0]])
    flat = glass.copy()
    flat.cell[2] = 0.0
    with pytest.raises(InputError, match="singular"):
        summary([flat])


def test_log_of_a_run_that_was_killed_is_read_up_to_there(tmp_path: Path) -> None:
    log = tmp_path / "log.lammps"
    log.write_text("Step Temp gap\n 0 300 5.5\nWARNING: two words\n 10 310 nan\n 20 3")
    columns = read_log(log)
    assert columns["Step"].tolist() == [0, 10]
    assert columns["Temp"].tolist() == [300, 310]
    log.write_text("Step Temp gap\n 0 300 5.5\n 10 310 5.25\n 20 315 5")  # of 5.125
    assert read_log(log)["gap"].tolist() == [5.5, 5.25]
    log.write_bytes(b"# 300 \xb0C, in Latin-1\nStep Temp gap\n 0 300 5.5\n")
    assert read_log(log)["gap"].tolist() == [5.5]
    log.write_text("LAMMPS (22 Jul 2025)\n")
    with pytest.raises(InputError, match="no thermo output"):
        read_log(log)


def test_figures_are_drawn(glass: Atoms, quartz: Atoms, tmp_path: Path) -> None:
    plot_structures({"glass": summary([glass]), "quartz": summary([quartz])}, tmp_path / "structure.png")
    columns = {"Step": np.arange(3.0), "Temp": np.ones(3), "extrapolation": np.ones(3)}
    plot_thermo({"one": columns, "two": columns | {"gap": np.ones(3)}}, tmp_path / "thermo.png")
    assert (tmp_path / "structure.png").stat().st_size > 20_000
    assert (tmp_path / "thermo.png").stat().st_size > 10_000
    with pytest.raises(InputError, match="none of the columns"):
        plot_thermo({"one": {"Step": np.arange(3.0)}}, tmp_path / "nothing.png")
