"""Attention models of neuroscience and cognitive science under one roof.

Public names are loaded when they are first used, so that ``import neuroattn`` stays light.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"  # the only place that states it

_SUBMODULES = (
    "analyses",
    "attention",
    "datasets",
    "eeg",
    "encoding",
    "kernels",
    "metrics",
    "results",
    "scanpath",
    "search",
)

__all__ = ["__version__", *_SUBMODULES]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"neuroattn.{name}")
    raise AttributeError(f"module 'neuroattn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
