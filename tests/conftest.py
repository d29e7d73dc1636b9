"""Reference data that are not part of the repository: where they are, and what is not run without them."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("NEUROATTN_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
_deselected = 0


@pytest.fixture
def shared():
    """Folder of reference data; tests that ask for it are marked ``shared_data``."""
    return SHARED


def pytest_collection_modifyitems(config, items):
    global _deselected
    if SHARED.is_dir():
        return
    without = [item for item in items if item.get_closest_marker("shared_data") is None]
    _deselected = len(items) - len(without)
    if _deselected:
        config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("shared_data")])
        items[:] = without


def pytest_terminal_summary(terminalreporter):
    if _deselected:
        terminalreporter.write_line(
            f"{_deselected} tests need the reference data, which are not at {SHARED}; set NEUROATTN_SHARED"
        )
