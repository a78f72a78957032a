"""Tasks for tests of campaigns, in a module that worker processes can import."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def square(inputs: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The square of a number; zero is a task that fails."""
    if inputs["x"] == 0:
        raise ValueError("nothing to square")
    threads = {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}
    return {"square": inputs["x"] ** 2, "process": os.getpid(), "threads": threads}


def wait_for_murder(inputs: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """As ``square``; the first attempt waits until somebody kills its process."""
    mark = folder / "begun"
    if not mark.exists():
        mark.write_text(str(os.getpid()))
        time.sleep(600.0)
    return square(inputs, folder)


def kill_itself(inputs: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A poisoned task, such as one for which there is not enough memory."""
    os._exit(1)
