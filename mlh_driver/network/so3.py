"""The functions of e3nn that the network is made of, loaded without torch's compiler.

A decorator in e3nn, ``torch.compiler.disable``, loads the whole of ``torch._dynamo`` when it is applied: a
third of the time that a process needs for all its imports. Here it only leaves the mark by which the compiler
knows what to pass by, should others use both in this process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch


def _marked(function: Callable[..., Any]) -> Callable[..., Any]:
    """What the decorator leaves to torch._dynamo, which looks for this attribute."""
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return function


if "torch._dynamo" in sys.modules:
    from e3nn.o3 import spherical_harmonics, wigner_3j
else:
    with patch.object(torch.compiler, "disable", _marked):
        from e3nn.o3 import spherical_harmonics, wigner_3j

__all__ = ["spherical_harmonics", "wigner_3j"]
