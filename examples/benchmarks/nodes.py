"""A model, not a measurement: one structure on many nodes, from the figures of a few processes.

    python examples/benchmarks/nodes.py --atoms 1000000 --nodes 1 8 64

Time of a force call with ``sp2`` = computation + products x (bytes of a node / bandwidth + latency). Each
process owns a cube of the structure and gets the rows of the atoms within the radius of the density
matrix. The defaults are those of ranks.py (bytes, products, memory) and scaling.py (time of a core), as in
docs/performance.md, and a network of 100 Gbit/s. Computation is taken to be shared evenly by all cores, which
no measurement has shown beyond two; other messages, which are few, are left out.
"""

from __future__ import annotations

import argparse

ATOMS_PER_A3 = 0.0662  # SiO2 of 2.2 g/cm3


def halo_ratio(own: float, radius_A: float) -> float:
    """Atoms within a radius of a cube, for each atom of it."""
    side_A = (own / ATOMS_PER_A3) ** (1.0 / 3.0)
    return (1.0 + 2.0 * radius_A / side_A) ** 3 - 1.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--atoms", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--cores", type=int, default=64, help="of a node")
    parser.add_argument("--processes", type=int, default=8, help="of a node")
    parser.add_argument("--core-ms", type=float, default=8.7, help="time of a core for an atom, in a call")
    parser.add_argument("--radius", type=float, default=9.0, help="of the density matrix, in Å")
    parser.add_argument("--halo-KB", type=float, default=2.9, help="for an atom of the halo, in a product")
    parser.add_argument("--products", type=int, default=12, help="in a force call of a run")
    parser.add_argument("--atom-MB", type=float, default=0.56, help="memory for an atom, own or of the halo")
    parser.add_argument("--bandwidth", type=float, default=12.5, help="GB/s of a node")
    parser.add_argument("--latency", type=float, default=20.0, help="of an exchange, in microseconds")
    options = parser.parse_args()
    print("nodes  atoms of a process  halo / own  computation (s)  exchange (s)  GB of a node")
    for nodes in options.nodes:
        own, here = options.atoms / (nodes * options.processes), options.atoms / nodes
        ratio = halo_ratio(own, options.radius)
        computation = here * options.core_ms / 1e3 / options.cores
        traffic = here * ratio * options.halo_KB * 1024 / (options.bandwidth * 1e9)
        exchange = options.products * (traffic + options.latency * 1e-6)
        memory = here * (1.0 + ratio) * options.atom_MB / 1024
        print(f"{nodes:5d}{own:20.0f}{ratio:12.2f}{computation:17.2f}{exchange:14.2f}{memory:14.0f}")


if __name__ == "__main__":
    main()
