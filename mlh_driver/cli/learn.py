"""``mlh-driver learn``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlh_driver.cli import consoles
from mlh_driver.cli.options import ThreadsOption
from mlh_driver.cli.training_progress import training_progress


@consoles.resumable
def learn(
    config: Annotated[Path, typer.Argument(help="Settings as a TOML file.")],
    threads: ThreadsOption = 0,
) -> None:
    """Active learning: explore with the model, label what it does not know, retrain, until it does.

    Needs seed structures, the settings of a training run, and a reference code. It explores by Langevin
    dynamics, or by your own LAMMPS script or i-PI input (examples/tutorial/README.md). The same command goes
    on after an interruption. [bold]report.jsonl[/] and [bold]report.png[/] in the output folder show how the
    runs ended, and the errors.

    Example: [bold]mlh-driver learn examples/tutorial/learn.toml[/]
    """
    from mlh_driver.learning.loop import ActiveLearning
    from mlh_driver.learning.settings import read_learn_settings
    from mlh_driver.runtime import configure

    settings = read_learn_settings(config)
    configure(threads)
    console = consoles.for_messages()
    with training_progress(console) as progress:
        path = ActiveLearning(settings, console.print, progress).run()
    console.print(f"model written to {path}; look at it with: mlh-driver evaluate DATA --model {path}")
