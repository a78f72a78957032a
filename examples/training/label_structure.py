"""Label one structure with CP2K and store it beside the other training data.

    python examples/training/label_structure.py frame.xyz --name active_0 --note "where it comes from"

Takes any periodic structure that ASE reads. Needs CP2K and PySCF, like ``make_labels.py``. Add the name to
``data/split.json`` (or move it to a folder of your own) to train on it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import ase.io

from mlh_driver.reference import Cp2kSettings, label_structure

DATA = Path(__file__).parent / "data"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("structure", type=Path)
    parser.add_argument("--name", required=True, help="name of the file in data/")
    parser.add_argument("--note", default="", help="where the structure comes from")
    parser.add_argument("--threads", type=int, default=1, help="OpenMP threads of CP2K")
    options = parser.parse_args()
    atoms = ase.io.read(options.structure)
    info = {"name": options.name, "note": options.note}
    with tempfile.TemporaryDirectory(prefix="labels-") as folder:
        labels = label_structure(atoms, folder, Cp2kSettings(threads=options.threads), info=info)
    labels.save(DATA / f"{options.name}.npz")
    print(f"{options.name}: {labels.energy_eV / len(atoms):.4f} eV/atom, gap {labels.gap_eV:.2f} eV")


if __name__ == "__main__":
    main()
