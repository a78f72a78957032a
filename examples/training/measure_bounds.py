"""Give a model what a training measures on its data at its end: its bounds, structures and narrowest cell.

    python examples/training/measure_bounds.py asio2-minimal.toml before.pt after.pt

For models of format 3, which have none. See mlh_driver/network/limits.py.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import track

from mlh_driver.graph import GraphBuilder
from mlh_driver.model import load_model
from mlh_driver.small_cells import widths
from mlh_driver.training.dataset import labels_of
from mlh_driver.training.settings import read_settings


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the bounds of a model on its training data.")
    parser.add_argument("settings", type=Path, help="of its training")
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    settings, model = read_settings(options.settings), load_model(options.model)
    labels = [label for learn in ("all", "hamiltonian") for label in labels_of(settings, "train", learn)]
    graphs = GraphBuilder(model.basis, model.network.settings.pair_cutoff_A)
    with torch.no_grad(), model.network.bounds.measured():
        for label in track(labels, description="structures"):
            model.network(graphs.build(label.system, torch.float32))
    narrowest = min(float(widths(label.system.cell).min()) for label in labels)
    metadata = model.metadata.model_copy(update={"narrowest_cell_A": narrowest})
    structures = tuple(label.system for label in labels_of(settings, "train"))
    replace(model, metadata=metadata, structures=structures).save(options.out)
    print(f"{options.out}: bounds of {len(labels)} structures")


if __name__ == "__main__":
    main()
