"""The table of docs/reference/faults.md is what the tests say."""

import subprocess
import sys

from .cells import FOLDER, PAGE, Cell, tables


def test_the_page_has_a_row_for_every_cell():
    done = subprocess.run(
        [sys.executable, str(FOLDER / "cells.py"), "--check"],
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (
        f"{PAGE.name} is stale; run python tests/faults/cells.py\n{done.stdout}{done.stderr}"
    )
    counts = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if " cells, " in line]
    assert sum(int(line.split()[0]) for line in counts) >= 100


def test_parts_of_one_outcome_share_a_row():
    cells = [
        Cell("reader", "load_visions", "empty", "refused"),
        Cell("reader", "load_osie", "empty", "refused"),
        Cell("reader", "load_eeg", "empty", "read"),
        Cell("verb", "search run", "empty", "refused"),
    ]
    rows = [line for line in tables(cells).splitlines() if line.startswith("| ") and "`" in line]
    assert rows == [
        "| empty | refused | `search run` |",
        "| empty | read | `load_eeg` |",
        "|  | refused | `load_osie`, `load_visions` |",
    ]
