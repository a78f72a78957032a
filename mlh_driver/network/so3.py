"""The functions of e3nn that the network is made of, loaded without torch's compiler.

A decorator in e3nn, ``torch.compiler.disable``, loads the whole of ``torch._dynamo`` when it is applied: a
third of the time that a process needs for all its imports. It acts on what is compiled, and nothing here is.
"""

from __future__ import annotations

import sys
from unittest.mock import patch

import torch

if "torch._dynamo" in sys.modules:
    from e3nn.o3 import spherical_harmonics, wigner_3j
else:
    with patch.object(torch.compiler, "disable", lambda function: function):
        from e3nn.o3 import spherical_harmonics, wigner_3j

__all__ = ["spherical_harmonics", "wigner_3j"]
