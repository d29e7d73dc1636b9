"""Draw the figures of the landing page from the tables of the explanation pages: ``python docs/landing.py``."""

import re
from pathlib import Path

DOCS = Path(__file__).parent
INK, MUTED, ACCENT, CONTROL, BAND = "#1b1d22", "#6a6e76", "#b5532a", "#3c7d92", "#eceef0"


def read_table(page, start, first):
    """Return the rows of the first table after some text by their first cell; of columns alike, the first counts."""
    text = (DOCS / "explanation" / page).read_text(encoding="utf-8")
    lines = iter(text[text.index(start) :].splitlines())
    header = next(line for line in lines if line.startswith(f"| {first} |"))
    names, rows = cells(header), {}
    next(lines)
    for line in lines:
        if not line.startswith("|"):
            break
        row = cells(line)
        rows[row[0]] = dict(reversed(list(zip(names, row, strict=True))))
    return rows


def cells(line):
    return [cell.strip(" *`") for cell in line.strip("|\n").split("|")]


def numbers(cell):
    """Return the numbers of a cell such as ``0.587 (0.516)``."""
    return [float(number) for number in re.findall(r"-?\d*\.\d+", cell)]


def neurons():
    """Mean correlation of each encoder on neurons of macaque V4: name, value."""
    rows = read_table("encoders.md", "What was measured here on real recordings", "Recording")
    (row,) = (row for name, row in rows.items() if name.startswith("33 neurons"))
    found = [(model, *numbers(cell)) for model, cell in row.items() if model != "Recording"]
    return sorted(found, key=lambda one: -one[1])


def decoders():
    """Accuracy of each EEG pipeline over 25 subjects: name, imagery band or None, broadband, 95 % of the null."""
    rows = read_table("eeg.md", "**25 subjects**", "Pipeline")
    return [
        (name, *(numbers(row["imagery"])[:1] or [None]), *numbers(row["broadband"]))
        for name, row in rows.items()
    ]


def observers():
    """Bits per fixation of each model of scanpaths: name, value, lower and upper end of its interval."""
    rows = read_table("scanpaths.md", "## Object arrays", "Model")
    found = [
        (name, *numbers(row["Bits per fixation"]), *numbers(row["95 % interval"]))
        for name, row in rows.items()
    ]
    return [row for row in found if row[0] != "uniform"]


def new_axes(names, title, label):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.1, 2.5), layout="constrained")
    axes.set_title(title, loc="left", fontsize=10.5, color=INK)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label, color=MUTED)
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#c8cacf")
    axes.grid(axis="y", color=BAND, linewidth=7, zorder=0)
    return figure, axes


def write_value(axes, y, value, color, *, at=None, left=False):
    """Write a value beside its mark, or beside another place."""
    offset, side = ((-6, 0), "right") if left else ((6, 0), "left")
    box = {"boxstyle": "square,pad=0.05", "color": BAND}  # over what lies below
    place = (value if at is None else at, y)
    axes.annotate(
        f"{value:.2f}", place, offset, textcoords="offset points", color=color, va="center", ha=side, bbox=box
    )


def draw_neurons():
    rows = neurons()
    figure, axes = new_axes(
        [name for name, _ in rows], "33 neurons of macaque V4", "mean correlation, held-out images"
    )
    for y, (name, value) in enumerate(rows):
        color = ACCENT if name == "attention" else CONTROL
        axes.plot(value, y, "o", color=color, zorder=3)
        write_value(axes, y, value, color)
    axes.set_xlim(0.5, 0.61)
    axes.set_xticks([0.5, 0.6])
    return figure


def draw_decoders():
    rows = decoders()
    names = [row[0] for row in rows]
    figure, axes = new_axes(names, "Left or right fist, 25 people", "accuracy on people not seen before")
    for y, (_, imagery, broadband, null) in enumerate(rows):
        axes.plot([null, null], [y - 0.3, y + 0.3], color=MUTED, linewidth=1.2, label="95 % of null")
        axes.plot(broadband, y, "s", color=CONTROL, zorder=3, label="broadband")
        marks = [(broadband, CONTROL)]
        if imagery is not None:
            axes.plot(imagery, y, "o", color=ACCENT, zorder=3, label="imagery band")
            marks = sorted([*marks, (imagery, ACCENT)])
            write_value(axes, y, *marks[0], left=True)
        write_value(axes, y, *marks[-1])
    axes.set_xlim(0.42, 0.84)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def draw_observers():
    rows = observers()
    names = [name.replace("other observers, same scene", "other people") for name, *_ in rows]
    figure, axes = new_axes(names, "Search among six objects", "bits per fixation, less is better")
    for y, (name, value, low, high) in enumerate(rows):
        color = {"transformer": ACCENT, "other observers, same scene": MUTED}.get(name, CONTROL)
        axes.plot([low, high], [y, y], color=color, linewidth=1.5)
        axes.plot(value, y, "o", color=color, zorder=3)
        write_value(axes, y, value, color, at=high)
    axes.set_xlim(1.9, 2.55)
    return figure


FIGURES = {"fmri": draw_neurons, "eeg": draw_decoders, "gaze": draw_observers}


def main():
    import matplotlib

    matplotlib.use("agg")
    style = {"svg.fonttype": "none", "svg.hashsalt": "landing", "font.size": 9, "font.family": "sans-serif"}
    with matplotlib.rc_context(style):
        for name, draw in FIGURES.items():
            draw().savefig(
                DOCS / "_static" / f"landing-{name}.svg", metadata={"Date": None}, facecolor="white"
            )


if __name__ == "__main__":
    main()
