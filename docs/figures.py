"""Run every command of the documentation that prints figures: what ``make figures`` does.

    python docs/figures.py [NAME ...]

The commands are the blocks of docs/*.md marked ``<!-- figure NAME: ... -->``; NAME picks some of them. What
each prints is kept in figures/NAME.txt. One that fails is reported at the end, and the exit status is then 1.
"""

from __future__ import annotations

import subprocess
import sys

from blocks import PAGES, REPOSITORY, blocks

OUTPUT = REPOSITORY / "figures"


def main(wanted: list[str]) -> None:
    figures = {block.figure: block for page in PAGES for block in blocks(page) if block.figure}
    if unknown := sorted(set(wanted) - set(figures)):
        sys.exit(f"no figure is called {', '.join(unknown)}; there are {', '.join(figures)}")
    OUTPUT.mkdir(exist_ok=True)
    failed = []
    for name in wanted or figures:
        block = figures[name]
        print(f"{name} ({block.page.name}, {block.reason})\n{block.text}", flush=True)
        with (OUTPUT / f"{name}.txt").open("w") as output:
            done = subprocess.run(block.command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT)
        if done.returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; figures/NAME.txt says why")


if __name__ == "__main__":
    main(sys.argv[1:])
