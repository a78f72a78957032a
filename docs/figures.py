"""Run every command of the documentation that prints figures: what ``make figures`` does.

    python docs/figures.py [NAME ...]

The commands are the blocks of docs/*.md marked ``<!-- figure NAME: ... -->``; NAME picks some of them. What
each prints is kept in figures/NAME.txt. One that fails is reported at the end, and the exit status is then 1.

Each runs in a folder of its own, figures/work/NAME, which at first has only what the repository has: a run
that goes on from an earlier one would print the results of that. One marked ``on OTHER`` runs in the folder
of OTHER, which has to be there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from blocks import PAGES, REPOSITORY, Block, blocks

OUTPUT = REPOSITORY / "figures"
WORK = OUTPUT / "work"
INPUTS = {"lammps_inputs", "ipi_inputs"}
"""Copied, since runs write into them; the rest is linked."""


def folder_of(block: Block) -> Path:
    """Where a figure is made."""
    folder = WORK / (block.other or block.figure)
    if block.other:
        if not folder.is_dir():
            sys.exit(f"the figure {block.figure} needs the files of {block.other}: make that one first")
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for entry in REPOSITORY.iterdir():
        if entry.name in INPUTS:
            shutil.copytree(entry, folder / entry.name)
        else:
            (folder / entry.name).symlink_to(entry)
    return folder


def main(wanted: list[str]) -> None:
    figures = {block.figure: block for page in PAGES for block in blocks(page) if block.figure}
    if unknown := sorted(set(wanted) - set(figures)):
        sys.exit(f"no figure is called {', '.join(unknown)}; there are {', '.join(figures)}")
    WORK.mkdir(parents=True, exist_ok=True)
    if not (WORK / "shared").is_symlink():
        (WORK / "shared").symlink_to(REPOSITORY.parent / "shared")  # pages say ../shared
    failed = []
    for name in wanted or figures:
        block = figures[name]
        print(f"{name} ({block.page.name}, {block.reason})\n{block.text}", flush=True)
        with (OUTPUT / f"{name}.txt").open("w") as output:
            done = subprocess.run(
                block.command,
                cwd=folder_of(block),
                env=os.environ | {"COLUMNS": "110"},  # of tables
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if done.returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; figures/NAME.txt says why")


if __name__ == "__main__":
    main(sys.argv[1:])
