"""Render what was measured as Markdown, for the pages of the documentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

DIRECTIONS = {"forward": "forward", "training": "forward + backward"}


class Comparison(NamedTuple):
    """One workload, timed one way, beside one alternative."""

    workload: str
    peer: str
    direction: str
    ours: dict[str, Any]
    theirs: dict[str, Any]


def comparisons(report: dict[str, Any]) -> Iterator[Comparison]:
    """Yield all comparisons of a report."""
    for case in report["cases"]:
        for mode, direction in DIRECTIONS.items():
            rows = case.get(mode, {})
            for peer, theirs in rows.items():
                if peer != "ours":
                    yield Comparison(case["name"], peer, direction, rows["ours"], theirs)


def overview(reports: list[dict[str, Any]]) -> str:
    """Render one row for each report: how often ours is slower, and the range of ratios."""
    rows = []
    for report in reports:
        ratios = [one.theirs["ratio"] for one in comparisons(report)]
        slower = sum(ratio < 1 for ratio in ratios)
        machine = report["machine"]
        where = machine["gpu"] or machine["processor"]
        spread = f"{min(ratios):.2f}x to {max(ratios):.2f}x"
        rows.append([f"`{report['op']}`", len(ratios), slower, spread, where, machine["date"]])
    titles = ["benchmark", "comparisons", "slower than the alternative", "ratios", "machine", "date"]
    return _table(titles, rows)


def section(report: dict[str, Any]) -> str:
    """Render where a benchmark was measured, its times, errors and memory, and how often ours is slower."""
    if "cases" not in report:  # of memory, whose script reads the wall clock
        return f"{_setting(report['machine'] | {'clock': 'wall'})}\n\n{_memory(report)}"
    parts = [_setting(report["machine"])]
    found = list(comparisons(report))
    slower = sum(one.theirs["ratio"] < 1 for one in found)
    verdict = f"in {slower} of {len(found)}" if slower else f"in none of {len(found)}"
    parts.append(f"Ours is **slower than the alternative {verdict} comparisons**.")
    titles = [
        "workload",
        "beside",
        "timed",
        "time, ours : other",
        "ratio",
        "difference",
        "memory, ours : other",
    ]
    parts.append(_table(titles, [_row(one) for one in found]))
    return "\n\n".join(parts)


def _setting(machine: dict[str, Any]) -> str:
    commit = machine["commit"].removesuffix("-dirty")
    changed = " with changes that were not committed" if commit != machine["commit"] else ""
    clock = {"processor": "processor time", "wall": "wall time", "device": "time of the device"}
    place = (
        machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"
    )
    return (
        f"Measured on {machine['date']} at commit `{commit}`{changed}: {place.replace(' 1 threads', ' 1 thread')}, "
        f"{clock[machine['clock']]}; {machine['system']}, Python {machine['python']}, torch {machine['torch']}, "
        f"Triton {machine['triton']}."
    )


def _row(one: Comparison) -> list[str]:
    ratio = f"{one.theirs['ratio']:.2f}x"
    if one.theirs["ratio"] < 1:
        ratio = f"**{ratio}, slower**"
    if one.theirs.get("hit") is False:
        ratio += f" (target {one.theirs['target']:g})"
    peer = one.peer
    if "share" in one.theirs:
        peer += f", {100 * one.theirs['share']:.3g} % of the work, its time scaled"
    times = " : ".join(_seconds(side["median_s"]) for side in (one.ours, one.theirs))
    memory = " : ".join(_bytes(side["peak_bytes"]) for side in (one.ours, one.theirs))
    difference = f"{one.theirs['error']:.0e}" if one.theirs["error"] else "0"
    return [one.workload, peer, one.direction, times, ratio, difference, memory]


def _memory(report: dict[str, Any]) -> str:
    rows = [
        [step, _bytes(peak), _seconds(report["seconds"][step]) if step in report["seconds"] else ""]
        for step, peak in report["anonymous_bytes"].items()
    ]
    verdict = "kept" if report["hit"] else "**exceeded**"
    workload = (
        f"{report['steps']} steps of {report['batch']} from features {report['features']} and responses "
        f"{report['responses']} in files, then a prediction of {report['predicted']}; the limit of "
        f"{_bytes(report['limit_bytes'])} was {verdict}."
    )
    return f"{workload}\n\n{_table(['step', 'anonymous memory', 'time'], rows)}"


def _seconds(value: float) -> str:
    return f"{1e3 * value:.3g}\N{NO-BREAK SPACE}ms" if value < 1 else f"{value:.3g}\N{NO-BREAK SPACE}s"


def _bytes(value: float | None) -> str:
    if value is None:
        return "unknown"
    return (
        f"{value / 1e6:,.0f}\N{NO-BREAK SPACE}MB"
        if value >= 5e5
        else f"{value / 1e3:.0f}\N{NO-BREAK SPACE}kB"
        if value
        else "0"
    )


def _table(titles: list[str], rows: list[list[Any]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
