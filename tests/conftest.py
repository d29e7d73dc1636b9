"""What is not run where its data or device is missing: deselected and counted, never skipped in silence."""

import os
from pathlib import Path

import pytest
import torch

SHARED = Path(os.environ.get("NEUROATTN_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
MISSING = {
    "shared_data": None if SHARED.is_dir() else f"the reference data, not at {SHARED}; set NEUROATTN_SHARED",
    "gpu": None if torch.cuda.is_available() else "a CUDA device, and there is none",
}
_deselected: dict[str, int] = {}


@pytest.fixture
def shared():
    """Folder of reference data; tests that ask for it are marked ``shared_data``."""
    return SHARED


def pytest_collection_modifyitems(config, items):
    for mark, reason in MISSING.items():
        without = [item for item in items if reason is None or item.get_closest_marker(mark) is None]
        if len(without) < len(items):
            _deselected[mark] = len(items) - len(without)
            config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker(mark)])
            items[:] = without


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Take over what a worker process of a parallel run has deselected: each worker collects all tests."""
    _deselected.update(getattr(node, "workeroutput", {}).get("deselected", {}))


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["deselected"] = _deselected


def pytest_terminal_summary(terminalreporter):
    for mark, count in _deselected.items():
        terminalreporter.write_line(f"{count} tests need {MISSING[mark]}")
