"""The page of a campaign of vacancies: its numbers, its structures, and what a browser makes of it."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from fake_campaign import write_campaign
from processes import REPOSITORY
from typer.testing import CliRunner

from mlh_driver.cli.main import app
from mlh_driver.errors import InputError
from mlh_driver.reference import Cp2kLabeler
from mlh_driver.workflows import report
from mlh_driver.workflows.pages import PAGE
from mlh_driver.workflows.report import surroundings, write_report
from mlh_driver.workflows.sites import without
from mlh_driver.workflows.vacancies import VacancyCampaign
from mlh_driver.workflows.verify import plan_verification

GLASS = REPOSITORY / "examples" / "glass.xyz"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium in PATH")


@pytest.fixture(scope="module")
def glass() -> Atoms:
    return ase.io.read(GLASS)


@pytest.fixture(scope="module")
def found(glass: Atoms, tmp_path_factory: pytest.TempPathFactory) -> VacancyCampaign:
    """All 64 sites of two hosts together, with energies by dice."""
    dice = np.random.default_rng(1)
    energies: dict[bytes, float] = {}

    def energy_eV(atoms: Atoms) -> float:
        missing = 96 - len(atoms)
        return energies.setdefault(atoms.positions.tobytes(), 439.0 * missing + dice.normal(0.0, 0.3))

    oxygen = np.flatnonzero(glass.symbols == "O")
    halves = {"one": oxygen[:40], "two": oxygen[40:]}
    sites = {name: {int(k): without(glass, int(k)) for k in half} for name, half in halves.items()}
    run = tmp_path_factory.mktemp("run")
    return write_campaign(run, {"one": glass, "two": glass.copy()}, energy_eV, sites)


@pytest.fixture(scope="module")
def page(found: VacancyCampaign) -> str:
    path = write_report(found.folder)
    assert path == found.folder / "report.html"
    return path.read_text()


def data_of(page: str) -> Any:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def cells_of(page: str, table: str) -> list[list[str]]:
    body = re.search(rf'<table id="{table}">.*?<tbody>(.*?)</tbody>', page, re.S)[1]
    rows = re.findall(r"<tr.*?</tr>", body, re.S)
    return [[unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)] for row in rows]


def test_numbers_are_those_of_the_json_file(found: VacancyCampaign, page: str) -> None:
    written = json.loads((found.folder / "vacancies.json").read_text())
    data = data_of(page)
    assert data["sites"] == written["vacancies"] and len(data["sites"]) == 64
    assert data["energy"] == "formation_eV"
    rows = cells_of(page, "sites")
    for row, vacancy in zip(rows, found.vacancies, strict=True):
        assert row[:2] == [vacancy.name, f"{vacancy.formation_eV:.3f}".replace("-", "−")]
        assert row[-1] == "; ".join(vacancy.doubts.values())
    counts = data["histogram"]["counts"]
    assert {host: sum(of_host) for host, of_host in counts.items()} == {"one": 40, "two": 24}
    for distribution in written["distributions"].values():
        assert f"<td>{distribution['mean_eV']:.3f}</td>".replace("-", "−") in page
    assert re.search(r"<td>\S*seed</td><td class=.text.>0</td>", page)
    assert re.search(r"<td>\S*starts</td><td class=.text.>–</td>", page)
    assert f"The means of the hosts spread by {written['between_hosts_eV']:.3f} eV" in page


def test_a_straight_bridge_is_drawn_in_space() -> None:
    host = Atoms("OSi2O", [[4, 4, 4], [5.6, 4, 4], [2.4, 4, 4], [4, 6, 4.5]], cell=[8, 8, 8], pbc=True)
    shown = report._shown(without(host, 0), host, [0], [0, 1])
    positions = np.reshape(shown["xyz"], (-1, 3))
    assert sorted(positions[:2, 0]) == pytest.approx([-1.6, 1.6])
    assert np.linalg.norm(positions[2]) == pytest.approx(4.25**0.5, abs=2e-3)
    assert abs(np.linalg.det(shown["cell"])) == pytest.approx(512, rel=1e-3)


def test_hosts_may_have_names_that_look_like_numbers(glass: Atoms, tmp_path: Path) -> None:
    """Extended XYZ reads 001 as 1, and 2_3 as 23."""
    site = int(np.flatnonzero(glass.symbols == "O")[0])
    moved = glass.copy()
    moved.rattle(0.01)
    hosts = {"001": glass, "2_3": moved}
    sites = {name: {site: without(host, site)} for name, host in hosts.items()}
    found = write_campaign(tmp_path, hosts, lambda atoms: -100.0 * len(atoms), sites)
    assert set(data_of(write_report(found.folder).read_text())["structures"]) == {
        f"001_v_O_site{site}",
        f"2_3_v_O_site{site}",
    }
    frames = plan_verification(found.folder, Cp2kLabeler(), 2).frames
    for name, host in hosts.items():
        assert frames[name].positions == pytest.approx(host.positions, abs=1e-6)


def test_doubtful_sites_are_counted_as_often_as_symmetry_repeats_them(found: VacancyCampaign) -> None:
    results = json.loads((found.folder / "vacancies.json").read_text())
    rows = sum(bool(site["doubts"]) for site in results["vacancies"])
    for site in results["vacancies"]:
        site["equivalent"] = 3
    cards = {title: value for title, value, *_ in report._cards(results, "formation_eV")}
    assert rows and cards["doubtful"] == str(3 * rows)


def test_the_page_is_one_small_file_with_everything_in_it(found: VacancyCampaign, page: str) -> None:
    assert len(page.encode()) < 3_000_000
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=(?!\"data:)", page)
    assert page.count("<script") == page.count("</script>") == 4
    assert "&lt;/script&gt;&lt;b&gt;" in page  # in a doubt of these vacancies
    assert (REPOSITORY / "CITATION.cff").read_text() == (PAGE / "CITATION.cff").read_text()
    assert "arXiv:2604.07197" in page and "model.name" in page
    for license in ("LICENSE.plotly", "LICENSE.3dmol"):
        assert (PAGE / "vendored" / license).read_text()[:60] in unescape(page)


def test_structures_have_all_bonds_around_the_vacancy(
    glass: Atoms, found: VacancyCampaign, page: str
) -> None:
    """Distances and coordination as in the periodic cell, though nothing is periodic in the page."""
    data = data_of(page)
    assert data["structures"].keys() == {v.name for v in found.vacancies}
    for vacancy in found.vacancies[::7]:
        shown = data["structures"][vacancy.name]
        positions = np.reshape(shown["xyz"], (-1, 3))
        n = len(glass) - 1
        i, j = shown["pair"]
        assert np.linalg.norm(positions[i] - positions[j]) == pytest.approx(vacancy.pair_A, abs=2e-3)
        assert positions[[i, j], 2] == pytest.approx(0, abs=2e-3)
        assert positions[i, 0] < positions[j, 0] and positions[[i, j], 1].max() < 0.1
        inside = np.abs(positions[:n] @ np.linalg.inv(shown["cell"]))
        assert inside.max() < 0.5 + 1e-3
        distances = np.linalg.norm(positions[:, None] - positions, axis=2)
        periodic = without(glass, vacancy.site).get_all_distances(mic=True)
        for k in np.flatnonzero(np.linalg.norm(positions[:n], axis=1) < report.REACH_A - 2.0):
            assert (distances[k] < 2.0).sum() == (periodic[k] < 2.0).sum()


def test_surroundings_of_any_point_are_complete(glass: Atoms) -> None:
    """As many atoms within reach as the periodic cell has, counted by images of its own."""
    center = np.array([0.3, 11.0, 5.0])
    symbols, positions = surroundings(glass, center)
    assert symbols[: len(glass)] == list(glass.symbols)
    large = glass.repeat(3)
    offsets = large.positions - (center + glass.cell.array.sum(axis=0))
    expected = np.sort(np.linalg.norm(offsets, axis=1))
    near = np.sort(np.linalg.norm(positions, axis=1))
    number = (expected < report.REACH_A).sum()
    assert near[:number] == pytest.approx(expected[:number], abs=1e-6)
    assert (near < report.REACH_A).sum() == number


def test_the_number_of_structures_is_limited_and_the_page_says_so(
    found: VacancyCampaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MOST_ATOMS", 1000)
    text = write_report(found.folder).read_text()
    structures = data_of(text)["structures"]
    assert 5 < len(structures) < 11
    ordered = sorted(found.vacancies, key=lambda vacancy: vacancy.formation_eV)
    assert {ordered[0].name, ordered[-1].name} <= structures.keys()
    assert f"{len(structures)} of 64 structures are in this file" in text


def test_the_command_writes_the_page_and_refuses_other_folders(
    found: VacancyCampaign, tmp_path: Path
) -> None:
    shown = CliRunner().invoke(app, ["report", str(found.folder)])
    assert shown.exit_code == 0 and "report.html" in shown.output
    with pytest.raises(InputError, match=r"has no vacancies.json"):
        write_report(tmp_path)


def test_chemiscope_gets_structures_and_numbers(found: VacancyCampaign) -> None:
    pytest.importorskip("chemiscope", reason="chemiscope is not installed")
    shown = CliRunner().invoke(app, ["report", str(found.folder), "--export", "chemiscope"])
    assert shown.exit_code == 0, shown.output
    data = json.loads(gzip.decompress((found.folder / "vacancies.chemiscope.json.gz").read_bytes()))
    energies = data["properties"]["formation_eV"]
    assert energies["values"] == [vacancy.formation_eV for vacancy in found.vacancies]
    assert energies["units"] == "eV" and data["properties"]["angle_deg"]["units"] == "degree"
    assert [one["size"] for one in data["structures"]] == [95] * 64


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of doped's own, at its import
def test_doped_reads_every_site_with_its_energy_and_its_doubts(found: VacancyCampaign) -> None:
    pytest.importorskip("doped", reason="doped is not installed: pip install 'mlh-driver[doped]'")
    from monty.serialization import loadfn

    shown = CliRunner().invoke(app, ["report", str(found.folder), "--export", "doped"])
    assert shown.exit_code == 0, shown.output
    read = loadfn(found.folder / "vacancies.doped.json.gz")
    assert type(read).__name__ == "DefectThermodynamics"
    assert list(read.defect_entries) == [f"{vacancy.name}_0" for vacancy in found.vacancies]
    for vacancy in found.vacancies[::16]:
        entry = read.defect_entries[f"{vacancy.name}_0"]
        energy = read.get_formation_energy(entry, fermi_level=0.0)
        assert energy == pytest.approx(vacancy.formation_eV, abs=1e-6)
        assert entry.calculation_metadata["doubts"] == list(vacancy.doubts.values())
        assert entry.defect.site.distance_from_point(entry.defect.structure[vacancy.site].coords) < 1e-6
        assert entry.defect.structure.composition.formula == "Si32 O64"
        assert entry.sc_entry.composition.formula == "Si32 O63"


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("webgl", [True, False])
def test_a_browser_shows_plots_and_the_structure_of_the_point_that_is_clicked(
    found: VacancyCampaign, page: str, tmp_path: Path, webgl: bool
) -> None:
    clicked = found.vacancies[50]
    click = f'element("scatter").emit("plotly_click", {{points: [{{customdata: "{clicked.name}"}}]}});'
    catch = "<script>onerror = (message) => { document.documentElement.dataset.error = message; };</script>"
    path = tmp_path / "page.html"
    path.write_text(page.replace("<head>", f"<head>{catch}") + f"<script>{click}</script>")
    dom = rendered(path, webgl)
    assert "data-error" not in dom, re.search(r'data-error="(.*?)"', dom)[1]
    assert re.search(r'id="name">(.*?)<', dom)[1] == clicked.name
    assert dom.count('class="point plotly-customdata"') == 64
    facts = re.search(r'<dl id="facts">(.*?)</dl>', dom, re.S)[1]
    assert f"<dd>{clicked.formation_eV:.3f}</dd>" in facts
    assert f'data-name="{clicked.name}" class="shown"' in dom
    structure = re.search(r'<div id="structure".*?</div>', dom, re.S)[0]
    assert ("<canvas" in structure) == webgl
    assert ("This browser has no WebGL" in structure) == (not webgl)
    assert (structure.count("<circle") > 20) == (not webgl)


def rendered(path: Path, webgl: bool) -> str:
    """The document as it is after its scripts have run, without network."""
    graphics = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"] if webgl else ["--disable-3d-apis"]
    options = [
        "--headless",
        "--no-sandbox",
        "--virtual-time-budget=5000",
        f"--user-data-dir={path.parent}/profile",
    ]
    done = subprocess.run(
        [CHROMIUM, *options, *graphics, "--proxy-server=127.0.0.1:9", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
