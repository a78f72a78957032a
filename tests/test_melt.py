"""The melt in LAMMPS: what the model is used for, where it is hardest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from mlh_driver.engine import Engine
from mlh_driver.interfaces.lammps import run_script
from mlh_driver.results import Results
from mlh_driver.system import System

STEPS = 150
HOT_MELT = Path(__file__).with_name("data") / "hot_melt.data"
SCRIPT = f"""
units          metal
atom_style     atomic
boundary       p p p
read_data      {HOT_MELT}
pair_style     zero 2.0
pair_coeff     * *
fix            mlh all external pf/callback 1 1
fix            integrate all nvt temp 4500.0 4500.0 0.1
timestep       0.001
thermo         10
run            {STEPS}
"""


@dataclass
class Witness:
    """An engine that keeps the charges (N,) and the largest force in eV/Å of every step."""

    engine: Engine
    charges: list[np.ndarray] = field(default_factory=list)
    forces: list[float] = field(default_factory=list)

    def compute(self, system: System) -> Results:
        results = self.engine.compute(system)
        self.charges.append(results.charges)
        self.forces.append(float(np.linalg.norm(results.forces, axis=1).max()))
        return results


@pytest.mark.slow
def test_melt_goes_on_and_every_oxygen_keeps_its_electrons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame at 4500 K, in which O 69 is about to lose its electrons unless H answers to charge.

    In melts where nothing goes wrong, charges of O are -0.95 to -0.5. A run that fails raises.
    """
    monkeypatch.chdir(tmp_path)
    Path("in.melt").write_text(SCRIPT)
    witness = Witness(Engine("asio2-minimal"))
    run_script("in.melt", witness, arguments=["-screen", "none"])
    assert len(witness.forces) == STEPS + 1
    assert max(witness.forces) < 100.0
    largest = np.max([charges[32:].max() for charges in witness.charges])  # the first 32 atoms are Si
    assert largest < 0.0, f"an O atom has a charge of {largest:+.2f} e"
