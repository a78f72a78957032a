"""Plot energy, temperature, band gap and extrapolation of LAMMPS logs.

    python examples/plot_md.py log.lammps --output md.png
    python examples/plot_md.py seed1/log.lammps seed2/log.lammps

Logs need the column Step and one of Temp, PotEng, TotEng and Press of thermo output; ``gap`` and
``extrapolation``, named by ``thermo_modify colname`` as in the inputs, are drawn when they are there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mlh_driver.analysis.plots import plot_thermo
from mlh_driver.interfaces.lammps import read_log


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--output", default="md.png", type=Path)
    options = parser.parse_args()
    plot_thermo({str(log): read_log(log) for log in options.logs}, options.output)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
