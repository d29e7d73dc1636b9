"""Optional packages: one sentence, with the command that installs them."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(module: str, extra: str, purpose: str) -> Any:
    """Import a module that belongs to an optional extra of neuroattn.

    Examples
    --------
    >>> import_extra("math", "demo", "arithmetic").sqrt(4.0)
    2.0
    >>> import_extra("no_such_module", "demo", "the demo")
    Traceback (most recent call last):
    ImportError: the demo needs no_such_module; pip install 'neuroattn[demo]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise ImportError(f"{purpose} needs {module}; pip install 'neuroattn[{extra}]'") from None
