"""Vacancies of a model against DFT: what is picked, the errors, and that no label is made twice."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.optimize import LBFGS
from fake_campaign import without_both, write_campaign
from fake_labeler import SomeLabeler
from processes import REPOSITORY
from scipy.stats import spearmanr
from typer.testing import CliRunner

from mlh_driver import Engine
from mlh_driver.cli.main import app
from mlh_driver.data import hdf5, read_structure
from mlh_driver.errors import InputError
from mlh_driver.files import alone_in
from mlh_driver.reference import Cp2kLabeler
from mlh_driver.workflows.relaxation import CHECKPOINT, RELAXED, read_relaxed
from mlh_driver.workflows.report import write_report
from mlh_driver.workflows.sites import without
from mlh_driver.workflows.vacancies import Vacancy, VacancyCampaign
from mlh_driver.workflows.verify import pick_sites, plan_verification, verify
from mlh_driver.workflows.verify_pairs import plan_pairs, verify_pairs

pytest.importorskip("pyscf", reason="overlap integrals need PySCF")

SHARED = REPOSITORY.parent / "shared" / "data" / "asio2"


def small_host(seed: int, length_A: float = 5.0) -> Atoms:
    """Two Si and four O, anywhere but on top of each other; long ones do not converge."""
    fractions = [[0, 0, 0], [0.5, 0.5, 0.5], [0.3, 0.3, 0], [0.7, 0.7, 0], [0.8, 0.2, 0.5], [0.2, 0.8, 0.5]]
    atoms = Atoms("Si2O4", scaled_positions=fractions, cell=[length_A, 4.8, 4.6], pbc=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def true_energy_eV(atoms: Atoms) -> float:
    copy = atoms.copy()
    copy.calc = LennardJones(sigma=1.5, epsilon=0.1)
    return float(copy.get_potential_energy())


def model_energy_eV(atoms: Atoms) -> float:
    """Off by 1 eV in every cell, and by some more that differs from cell to cell."""
    return true_energy_eV(atoms) + 1.0 + 0.01 * np.sin(1e3 * atoms.positions.sum())


@pytest.fixture
def found(tmp_path: Path) -> VacancyCampaign:
    return write_campaign(tmp_path / "run", {"a": small_host(1), "b": small_host(2)}, model_energy_eV)


@pytest.fixture
def labeler() -> SomeLabeler:
    return SomeLabeler(calculator=LennardJones(sigma=1.5, epsilon=0.1))


def test_sites_are_picked_by_strata_and_more_sites_keep_the_first(found: VacancyCampaign) -> None:
    sites = many(found.vacancies[0], 40)
    by_energy = sorted(sites, key=lambda site: site.difference_eV)
    picked = pick_sites(sites, 12, seed=3)
    assert list(picked.values())[:8] == [
        "lowest energy",
        "highest energy",
        "highest extrapolation",
        "smallest gap",
        "quantile 0.5 of energy",
        "random",
        "quantile 0.25 of energy",
        "random",
    ]
    names = list(picked)
    assert names[:2] == [by_energy[0].name, by_energy[-1].name]
    others = [site for site in sites if site.name not in names[:2]]
    assert names[2] == max(others, key=lambda site: site.extrapolation).name
    assert (
        names[3]
        == min((site for site in others if site.name != names[2]), key=lambda site: site.band_gap_eV).name
    )
    assert names[4] in {site.name for site in by_energy[18:22]}
    for number in (1, 5, 9):
        assert list(pick_sites(sites, number, seed=3).items()) == list(picked.items())[:number]
    assert pick_sites(sites, 12, seed=4) != picked
    assert pick_sites(sites, 99, seed=0).keys() == {site.name for site in sites}
    with pytest.raises(InputError, match="0 sites"):
        pick_sites(sites, 0, seed=0)


def many(vacancy: Vacancy, number: int) -> list[Vacancy]:
    dice = np.random.default_rng(5)
    return [
        replace(vacancy, name=f"v{k}", difference_eV=energy, extrapolation=extrapolation, band_gap_eV=gap)
        for k, (energy, extrapolation, gap) in enumerate(dice.uniform(size=(number, 3)))
    ]


def test_errors_are_those_of_the_model_and_no_label_is_made_twice(
    found: VacancyCampaign, labeler: SomeLabeler
) -> None:
    verification = verify(plan_verification(found.folder, labeler, 4), labeler, print)
    hosts = {site.host for site in verification.sites}
    assert labeler.calls == 4 + len(hosts)
    more = verify(plan_verification(found.folder, labeler, 6), labeler, print)
    assert labeler.calls == 6 + len({site.host for site in more.sites})
    assert more.sites[:4] == verification.sites and not more.left_out
    errors = []
    for site in more.sites:
        vacancy = next(v for v in found.vacancies if v.name == site.name)
        host = small_host({"a": 1, "b": 2}[site.host])
        atoms = host[[k for k in range(6) if k != vacancy.site]]
        errors.append(site.error_eV)
        assert site.host_error_eV == pytest.approx(model_energy_eV(host) - true_energy_eV(host), abs=1e-6)
        assert site.vacancy_error_eV == pytest.approx(
            model_energy_eV(atoms) - true_energy_eV(atoms), abs=1e-6
        )
        assert site.error_eV == pytest.approx(site.vacancy_error_eV - site.host_error_eV, abs=1e-9)
        assert site.error_eV == pytest.approx(site.difference_eV - site.dft_difference_eV, abs=1e-9)
        atoms.calc = LennardJones(sigma=1.5, epsilon=0.1)
        forces = atoms.get_forces()  # the model's are zero
        assert site.forces_rmse_eV_A == pytest.approx((forces**2).mean() ** 0.5, rel=1e-4)
        assert site.dft_largest_force_eV_A == pytest.approx((forces**2).sum(axis=1).max() ** 0.5, rel=1e-4)
    statistics = more.statistics
    assert statistics.mae_eV == pytest.approx(np.abs(errors).mean()) and statistics.mae_eV > 1e-3
    assert statistics.rmse_eV == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert statistics.largest_eV == pytest.approx(np.abs(errors).max())
    model, dft = ([getattr(s, f"{k}difference_eV") for s in more.sites] for k in ("", "dft_"))
    assert statistics.spearman == pytest.approx(spearmanr(model, dft).statistic)


def test_files_and_the_page_hold_the_same_numbers(found: VacancyCampaign, labeler: SomeLabeler) -> None:
    assert "Against DFT" not in write_report(found.folder).read_text()
    verification = verify(plan_verification(found.folder, labeler, 3), labeler, print)
    assert (found.folder / "verify.png").stat().st_size > 10_000
    written = json.loads((found.folder / "verify.json").read_text())
    with open(found.folder / "verify.csv") as file:
        rows = list(csv.DictReader(file))
    page = write_report(found.folder).read_text()
    assert "Against DFT" in page and "verification.cutoff" in page
    for site, entry, row in zip(verification.sites, written["sites"], rows, strict=True):
        assert entry["error_eV"] == float(row["error_eV"]) == site.error_eV
        assert f"<td>{site.error_eV:.3f}</td>".replace("-", "−") in page
    assert written["statistics"]["mae_eV"] == verification.statistics.mae_eV
    assert written["reference"] == labeler.reference()


def test_a_site_with_a_lower_minimum_since_is_compared_anew(
    tmp_path: Path, labeler: SomeLabeler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlh_driver.reference.make_labeler", lambda *_: labeler)
    run, host = tmp_path / "run", small_host(1)
    first, second = (int(k) for k in np.flatnonzero(host.symbols == "O")[:2])
    minima = {first: without(host, first), second: without(host, second)}
    write_campaign(run, {"a": host}, model_energy_eV, {"a": minima})
    command = ["verify", str(run), "--n", "2", "--relax", "--fmax", "0.01", "--steps", "100"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert "not the lowest any more" not in write_report(run).read_text()
    shutil.rmtree(run / "tasks")
    lower = without(host, first)
    lower.rattle(0.05, seed=3)
    write_campaign(run, {"a": host}, model_energy_eV, {"a": {**minima, first: lower}})
    name = f"a_v_O_site{first}"
    assert f"not the lowest any more: {name}. " in write_report(run).read_text()
    calls = labeler.calls
    again = CliRunner().invoke(app, command, env={"COLUMNS": "150"})
    assert again.exit_code == 0, again.output
    assert f"its label is kept as {name}_before_1" in again.output and labeler.calls > calls
    names = (f"{name}_before_1", name)
    labels = [read_structure(run / "dft_some.h5", key) for key in names]
    for label, atoms in zip(labels, (minima[first], lower), strict=True):
        assert label.energy == pytest.approx(true_energy_eV(atoms), abs=1e-6)
    starts = [ase.io.read(run / "dft_some_relaxed" / key / CHECKPOINT, index=0) for key in names]
    assert [atoms.get_potential_energy() for atoms in starts] == [label.energy for label in labels]
    assert "not the lowest any more" not in write_report(run).read_text()
    killed = run / "dft_some_relaxed" / name
    (killed / RELAXED).unlink()
    (killed / CHECKPOINT).write_bytes(b"half a step")  # as after a kill in the first one
    assert CliRunner().invoke(app, command).exit_code == 0


def test_what_does_not_converge_is_left_out_with_all_that_needs_it(
    tmp_path: Path, labeler: SomeLabeler
) -> None:
    hosts = {"a": small_host(1), "long": small_host(2, 6.5)}
    found = write_campaign(tmp_path / "run", hosts, model_energy_eV)
    verification = verify(plan_verification(found.folder, labeler, 8), labeler, print)
    assert {site.host for site in verification.sites} == {"a"} and len(verification.sites) == 4
    assert "long" in verification.left_out and len(verification.left_out) == 5
    assert "Without a DFT label: " in write_report(found.folder).read_text()
    only_long = write_campaign(tmp_path / "other", {"long": hosts["long"]}, model_energy_eV)
    nothing = verify(plan_verification(only_long.folder, labeler, 2), labeler, print)
    assert not nothing.sites and not (only_long.folder / "verify.json").exists()


def test_the_command_prints_a_plan_and_then_the_errors(
    found: VacancyCampaign, labeler: SomeLabeler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlh_driver.reference.make_labeler", lambda *_: labeler)
    command = ["verify", str(found.folder), "--n", "3"]
    planned = CliRunner().invoke(app, [*command, "--dry-run"], env={"COLUMNS": "120"})
    assert planned.exit_code == 0, planned.output
    assert labeler.calls == 0 and not list(found.folder.glob("*.h5"))
    assert "lowest energy" in planned.output and "structures to label with DFT" in planned.output
    shown = CliRunner().invoke(app, command, env={"COLUMNS": "120"})
    assert shown.exit_code == 0, shown.output
    assert "formation energies of 3 sites: MAE" in shown.output
    calls = labeler.calls
    again = CliRunner().invoke(app, [*command, "--dry-run"], env={"COLUMNS": "120"})
    assert "0 structures to label" in again.output and labeler.calls == calls


def test_interactions_of_pairs_are_compared_the_nearest_first(
    tmp_path: Path, labeler: SomeLabeler, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = small_host(1)
    pairs = [("a", 2, 3), ("a", 4, 5), ("a", 3, 4)]
    found = write_campaign(tmp_path / "run", {"a": host}, model_energy_eV, pairs=pairs)
    nearest = sorted((host.get_distance(i, j, mic=True), i, j) for _, i, j in pairs)[:2]
    compared, left_out = verify_pairs(plan_pairs(found.folder, labeler, 2), labeler, print)
    assert labeler.calls == 1 + len({k for _, *two in nearest for k in two}) + 2 and not left_out
    assert [pair.name for pair in compared] == [f"a_vv_O_site{i}_site{j}" for _, i, j in nearest]
    for pair, (distance, *two) in zip(compared, nearest, strict=True):
        cells = [without_both(host, two), host, *(without(host, site) for site in two)]
        model, dft = (
            np.dot([1, 1, -1, -1], [energy_eV(cell) for cell in cells])
            for energy_eV in (model_energy_eV, true_energy_eV)
        )
        assert pair.distance_A == pytest.approx(distance)
        assert pair.interaction_eV == pytest.approx(model, abs=1e-6)
        assert pair.dft_interaction_eV == pytest.approx(dft, abs=1e-6)
        assert pair.error_eV == pytest.approx(model - dft, abs=1e-6) and abs(pair.error_eV) > 1e-4
        both, glass = (model_energy_eV(cell) - true_energy_eV(cell) for cell in cells[:2])
        assert pair.formation_error_eV == pytest.approx(both - glass, abs=1e-6)
    written = json.loads((found.folder / "verify_pairs.json").read_text())["pairs"]
    assert [row["error_eV"] for row in written] == [pair.error_eV for pair in compared]
    calls = labeler.calls
    monkeypatch.setattr("mlh_driver.reference.make_labeler", lambda *_: labeler)
    command = ["verify", str(found.folder), "--n", "1", "--pairs", "2"]
    planned = CliRunner().invoke(app, [*command, "--dry-run"], env={"COLUMNS": "120"})
    assert planned.output.count("one of a pair") == len({k for _, *two in nearest for k in two})
    shown = CliRunner().invoke(app, command, env={"COLUMNS": "120"})
    assert shown.exit_code == 0 and f"{compared[0].error_eV:+.3f}" in shown.output, shown.output
    assert labeler.calls <= calls + 1  # the site of --n may be none of these


def test_results_of_other_columns_say_which_version_wrote_them(found: VacancyCampaign) -> None:
    path = found.folder / "vacancies.json"
    held = json.loads(path.read_text())
    for entry in held["vacancies"]:
        del entry["level_ipr"]
    path.write_text(json.dumps(held))
    with pytest.raises(InputError, match=r"vacancies.json is of version .*, with other columns"):
        plan_verification(found.folder, SomeLabeler(), 1)


def test_a_campaign_without_pairs_says_how_to_get_some(found: VacancyCampaign, labeler: SomeLabeler) -> None:
    with pytest.raises(InputError, match="mlh-driver vacancies --defect pair"):
        plan_pairs(found.folder, labeler, 1)


def test_dft_relaxes_the_minima_of_the_model_and_goes_on_where_it_was(
    found: VacancyCampaign, labeler: SomeLabeler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlh_driver.reference.make_labeler", lambda *_: labeler)
    command = ["verify", str(found.folder), "--n", "2", "--relax", "--fmax", "0.01"]
    some = CliRunner().invoke(app, [*command, "--steps", "2"], env={"COLUMNS": "150"})
    assert some.exit_code == 1 and "after 2 steps, above 0.01" in some.output
    labels = len(plan_verification(found.folder, labeler, 2).frames)
    assert labeler.calls == labels + 2 * labels  # a label is the first step
    done = CliRunner().invoke(app, [*command, "--steps", "100"], env={"COLUMNS": "150"})
    assert done.exit_code == 0, done.output
    calls = labeler.calls
    minima = [read_relaxed(path.parent) for path in found.folder.glob("dft_*_relaxed/*/relaxed.extxyz")]
    assert calls == labels + sum(atoms.info["steps"] for atoms in minima)  # no step was computed twice
    again = CliRunner().invoke(app, command, env={"COLUMNS": "150"})
    assert again.exit_code == 0 and labeler.calls == calls
    sites = json.loads((found.folder / "verify_relaxed.json").read_text())["sites"]
    assert len(sites) == 2
    for site in sites:
        vacancy = next(v for v in found.vacancies if v.name == site["name"])
        host = small_host({"a": 1, "b": 2}[vacancy.host])
        atoms = host[[k for k in range(6) if k != vacancy.site]]
        energies = {}
        for kind, start in (("host", host), ("vacancy", atoms)):
            start.calc = LennardJones(sigma=1.5, epsilon=0.1)
            before = start.get_potential_energy()
            LBFGS(start, logfile=None).run(fmax=0.01, steps=100)
            energies[kind] = (before, start.get_potential_energy())
        difference = energies["vacancy"][1] - energies["host"][1]
        assert site["dft_difference_eV"] == pytest.approx(difference, abs=1e-3)
        assert site["error_eV"] == pytest.approx(vacancy.difference_eV - difference, abs=1e-3)
        for kind, key in (("host", "host_relaxation_eV"), ("vacancy", "relaxation_eV")):
            before, after = energies[kind]
            assert site[key] == pytest.approx(before - after, abs=1e-3)
        assert site["largest_displacement_A"] > site["rms_displacement_A"] > 0.01
        assert site["steps"] > 2
    assert "Relaxed by DFT from there" in write_report(found.folder).read_text()
    with alone_in(next(found.folder.glob("dft_*_relaxed"))):
        refused = CliRunner().invoke(app, command)
    assert "another process is at work" in str(refused.exception)
    refused = CliRunner().invoke(app, [*command, "--fmax", "0.02"])
    assert "fmax_eV_A is 0.01 there and 0.02 now" in str(refused.exception)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the labels of asio2 are not beside the repository")
def test_the_shipped_model_agrees_with_labels_of_cp2k(tmp_path: Path) -> None:
    """Vacancies that it was never trained on, not at its minima; the labels are there already."""
    engine, labeler = Engine(), Cp2kLabeler()
    labels = {name: read_structure(SHARED, name) for name in ("h106_min", "v106_0", "v106_1")}
    energies = {key(label.system.positions): engine.compute(label.system).energy for label in labels.values()}
    atoms = {name: label.system.to_ase() for name, label in labels.items()}
    sites = {"h106_min": {93: atoms["v106_0"], 59: atoms["v106_1"]}}
    run = tmp_path / "run"
    write_campaign(run, {"h106_min": atoms["h106_min"]}, lambda a: energies[key(a.positions)], sites)
    plan = plan_verification(run, labeler, 2)
    names = {"h106_min": "h106_min", "h106_min_v_O_site93": "v106_0", "h106_min_v_O_site59": "v106_1"}
    for name, label in names.items():
        hdf5.append(plan.labels, replace(labels[label], name=name), "test", labeler.reference())
    lines: list[str] = []
    verification = verify(plan, labeler, lines.append)
    assert sorted(lines) == sorted(f"{name}: already labelled, with closed shells" for name in names)
    assert verification.statistics.mae_eV < 0.05 and verification.statistics.largest_eV < 0.1
    for site in verification.sites:
        expected = labels[names[site.name]].energy - labels["h106_min"].energy
        assert site.dft_difference_eV == pytest.approx(expected, abs=1e-6)


def key(positions: np.ndarray) -> bytes:
    return positions.round(4).tobytes()
