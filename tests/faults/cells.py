"""The cells of the fault table, and the page that lists them.

A test says which cells it proves with the mark ``fault(kind, part, fault, outcome)``, most easily through `cell`.
``python tests/faults/cells.py`` collects the marks and writes the tables of docs/reference/faults.md anew.
"""

import contextlib
import io
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parents[1] / "docs" / "reference" / "faults.md"
TITLES = {"verb": "Commands and stores", "reader": "Readers"}
BEGIN = "<!-- What follows is written by tests/faults/cells.py. -->\n"


class Cell(NamedTuple):
    """What one part of the library does with one fault."""

    kind: str
    part: str
    fault: str
    outcome: str


def cell(kind, part, fault, outcome, *values):
    """Return the parameters of a test that proves a cell."""
    mark = pytest.mark.fault(kind=kind, part=part, fault=fault, outcome=outcome)
    return pytest.param(*values, marks=mark, id=f"{part}, {fault}")


class Collector:
    """A plugin of pytest that keeps the cells of the tests that are there, wherever they can run."""

    def __init__(self):
        self.cells = []

    def pytest_itemcollected(self, item):
        self.cells += [Cell(*mark.args, **mark.kwargs) for mark in item.iter_markers("fault")]


def collect():
    """Return the cells of all tests beside this file, in the order of the tables."""
    collector = Collector()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = pytest.main(["--collect-only", "-qq", str(FOLDER)], plugins=[collector])
    if code:
        raise SystemExit(said.getvalue())
    return sorted(set(collector.cells))


def tables(cells):
    """Return the tables in Markdown: a row for each outcome of a fault, with the parts that end so."""
    text = ""
    for kind, title in TITLES.items():
        own = [one for one in cells if one.kind == kind]
        rows = {}
        for one in sorted(own, key=lambda one: (one.fault, one.outcome, one.part)):
            rows.setdefault((one.fault, one.outcome), []).append(f"`{one.part}`")
        n_parts = len({one.part for one in own})
        text += f"\n## {title}\n\n{len(own)} cells, {n_parts} parts.\n\n"
        text += "| fault | outcome | where |\n| --- | --- | --- |\n"
        shown = None
        for (fault, outcome), parts in rows.items():
            text += f"| {'' if fault == shown else fault} | {outcome} | {', '.join(parts)} |\n"
            shown = fault
    return text


def page(cells):
    """Return the page with these tables."""
    prose, begin, _ = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return prose + begin + tables(cells)


if __name__ == "__main__":
    content = page(collect())
    if sys.argv[1:] == ["--check"]:
        sys.exit(content != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(content, encoding="utf-8")
