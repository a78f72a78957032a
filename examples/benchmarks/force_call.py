"""Time of a force call, by stage and by size, beside what users would pick instead, in the same run.

    python examples/benchmarks/force_call.py [--repeat 1 2 3 4 6] [--mace-python PATH] [--cp2k]

The glass cell of 96 atoms is repeated along x. Each figure is the median of five calls of a short random
walk, so that neighbor lists are updated as in MD. The peers are optional: GFN1-xTB (``pip install tblite``),
a MACE potential of untrained weights (the python of an environment with ``mace-torch``), and one CP2K
calculation at the settings of the training data.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from rich.console import Console
from rich.table import Table

from mlh_driver import Engine, System
from mlh_driver.runtime import configure

GLASS = Path(__file__).resolve().parents[1] / "glass.xyz"
CALLS = 5


def walk(atoms: Atoms, steps: int) -> list[Atoms]:
    """The structure after small random moves, as in MD."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(steps):
        atoms = atoms.copy()
        atoms.positions += 0.01 * rng.normal(size=atoms.positions.shape)
        frames.append(atoms)
    return frames


def median_time(call: Callable[[Atoms], object], frames: list[Atoms]) -> float:
    """Median seconds of a call; the first one warms up and does not count."""
    seconds = []
    for atoms in frames:
        start = time.perf_counter()
        call(atoms)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def time_engine(atoms: Atoms, dtype: str) -> tuple[float, dict[str, float]]:
    engine, timings = Engine(dtype=dtype), []

    def call(frame: Atoms) -> None:
        timings.append(engine.compute(System.from_ase(frame)).timings)

    seconds = median_time(call, walk(atoms, CALLS + 1))
    return seconds, {stage: statistics.median(t[stage] for t in timings[1:]) for stage in timings[0]}


def time_xtb(atoms: Atoms) -> float | None:
    """Seconds of a GFN1-xTB energy and force call, or None when tblite is not installed."""
    try:
        from tblite.ase import TBLite
    except ImportError:
        return None
    frames = walk(atoms, 3)
    for frame in frames:
        frame.calc = TBLite(method="GFN1-xTB", verbosity=0)
    return median_time(lambda frame: frame.get_forces(), frames)


MACE_SCRIPT = """
import json, statistics, sys, time
import ase.io, numpy as np, torch
from e3nn import o3
from mace import data, modules
from mace.tools import AtomicNumberTable, torch_geometric
torch.set_default_dtype(torch.float32)
table = AtomicNumberTable([8, 14])
model = modules.ScaleShiftMACE(
    r_max=5.0, num_bessel=8, num_polynomial_cutoff=5, max_ell=3, num_interactions=2, num_elements=2,
    interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
    interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
    hidden_irreps=o3.Irreps("64x0e + 64x1o"), MLP_irreps=o3.Irreps("16x0e"), gate=torch.nn.functional.silu,
    atomic_energies=np.zeros(2), avg_num_neighbors=30.0, atomic_numbers=table.zs, correlation=3,
    atomic_inter_scale=1.0, atomic_inter_shift=0.0)
for parameter in model.parameters():
    parameter.requires_grad_(False)
seconds = []
for atoms in ase.io.read(sys.argv[1], ":"):
    start = time.perf_counter()
    config = data.config_from_atoms(atoms)
    graph = data.AtomicData.from_config(config, z_table=table, cutoff=5.0)
    batch = next(iter(torch_geometric.dataloader.DataLoader([graph], batch_size=1)))
    model(batch.to_dict(), compute_force=True, compute_stress=True)
    seconds.append(time.perf_counter() - start)
print(json.dumps(statistics.median(seconds[1:])))
"""


def time_mace(python: str, atoms: Atoms) -> float:
    """Seconds of a MACE call: 64x0e + 64x1o, two layers, 5 Å, float32; energy, forces and stress."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "walk.xyz"
        ase.io.write(path, walk(atoms, CALLS + 1))
        command = [python, "-W", "ignore", "-c", MACE_SCRIPT, str(path)]
        environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # for MACE's old e3nn
        answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(json.loads(answer.stdout.splitlines()[-1]))


def time_cp2k(atoms: Atoms) -> float:
    """Seconds of one CP2K calculation with forces at the settings of the training data, on all processors."""
    from mlh_driver.reference import make_labeler

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        make_labeler("cp2k", os.cpu_count() or 1).calculate(atoms, Path(folder))
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, nargs="+", default=[1, 2, 3, 4, 6])
    parser.add_argument("--mace-python", help="python of an environment with mace-torch")
    parser.add_argument("--cp2k", action="store_true", help="also run CP2K once (some minutes)")
    options = parser.parse_args()
    configure()
    glass = ase.io.read(GLASS)
    console = Console()
    import torch  # after mlh_driver, as its threads want it

    console.print(f"{os.cpu_count()} processors, {torch.get_num_threads()} threads, float32")
    table = Table(title="force call (energy, forces, stress, observables)")
    for column in ("atoms", "total (s)", "ms/atom", "graph", "network", "solver", "gradient (ms)"):
        table.add_column(column, justify="right")
    sizes, totals = [], []
    for n in options.repeat:
        atoms = glass * (n, 1, 1)
        seconds, stages = time_engine(atoms, "float32")
        sizes.append(len(atoms))
        totals.append(seconds)
        cells = [f"{1e3 * stages[stage]:.1f}" for stage in ("graph", "network", "solver", "gradient")]
        table.add_row(f"{len(atoms)}", f"{seconds:.3f}", f"{1e3 * seconds / len(atoms):.2f}", *cells)
    console.print(table)
    if len(sizes) > 2:
        exponent = np.polyfit(np.log(sizes), np.log(totals), 1)[0]
        console.print(f"fitted exponent of time over {sizes[0]} ... {sizes[-1]} atoms: {exponent:.2f}")
    seconds = dict(zip(sizes, totals, strict=True))

    def compare(name: str, n_atoms: int, peer: float) -> None:
        own = seconds[n_atoms]
        console.print(
            f"{name}, {n_atoms} atoms: {peer:.2f} s, {peer / own:.2f} times the model's {own:.3f} s"
        )

    peer = time_xtb(glass)
    if peer is None:
        console.print("GFN1-xTB: tblite is not installed, no ratio")
    else:
        compare("GFN1-xTB", len(glass), peer)
    if options.mace_python:
        for n in {options.repeat[0], options.repeat[-1]}:
            atoms = glass * (n, 1, 1)
            compare("MACE", len(atoms), time_mace(options.mace_python, atoms))
    if options.cp2k:
        compare("CP2K SCF and forces", len(glass), time_cp2k(glass))


if __name__ == "__main__":
    main()
