"""What the electrons buy: the same double-counting energy fitted with and without the electronic term.

    python ablation.py CONFIG [--model asio2-minimal] [--steps 1500]

CONFIG is a training file. Twice, pair repulsion and many-body energy are fitted anew to the energies and
forces of its training frames: once to what the electronic term of the model leaves, once to everything, as in
an interatomic potential of the same form. Prints the errors on the validation frames; takes about five
minutes. The model's Hamiltonian stays as it is; it may have been trained on the same energies and forces.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mlh_driver.model import load_model
from mlh_driver.network.network import HamiltonianNetwork
from mlh_driver.training.objectives import BandTerm, Derivatives
from mlh_driver.training.samples import Sample
from mlh_driver.training.settings import StageSettings, TrainSettings, read_settings
from mlh_driver.training.stages import EnergyStage
from mlh_driver.training.trainer import Trainer


class WithoutElectrons(EnergyStage):
    """Trains an interatomic potential."""

    def band(self, network: HamiltonianNetwork, sample: Sample) -> BandTerm:
        forces = sample.forces
        return BandTerm(0.0, Derivatives(0.0 * forces, forces.new_zeros(3, 3)))


def fitted_errors(settings: TrainSettings, kind: type[EnergyStage]) -> dict[str, float]:
    stage = kind(settings.energy, settings.weights)
    trainer = Trainer(settings, stages=(stage,))
    trainer.run()
    return trainer.validation_errors(stage)


def energy_only(settings: TrainSettings, model: str, steps: int, output: Path) -> TrainSettings:
    return settings.model_copy(
        update={
            "start_from": model,
            "network": load_model(model).metadata.network,
            "output": output,
            "hamiltonian": StageSettings(steps=0, learning_rate=1.0),
            "energy": settings.energy.model_copy(update={"steps": steps}),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--model", default="asio2-minimal")
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    table = Table("electronic term", title="validation")
    table.add_column("energy (meV/atom)", justify="right")
    table.add_column("forces, RMSE (meV/Å)", justify="right")
    settings = read_settings(options.config)
    with tempfile.TemporaryDirectory() as folder:
        for title, kind in (("of the model", EnergyStage), ("none", WithoutElectrons)):
            output = Path(folder) / kind.__name__
            errors = fitted_errors(energy_only(settings, options.model, options.steps, output), kind)
            table.add_row(title, f"{errors['energy_meV_atom']:.1f}", f"{errors['forces_rmse_meV_A']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
