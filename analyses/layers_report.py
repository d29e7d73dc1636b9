"""The report and the figures of a comparison of attention layers: what generalizes, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from neuroattn._references import MODELS
from neuroattn.analyses.report import (
    NO_INTERVALS,
    Block,
    Cell,
    Chart,
    Citations,
    Fact,
    Figures,
    Section,
    Table,
    installed_versions,
    listed,
    listed_versions,
    methods_section,
    number,
    plural,
    render_report,
    run_section,
    span,
)
from neuroattn.analyses.style import INK, MODEL_COLOURS, MUTED, WIDTH, label_rows, styled, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {
    "reference": INK,
    "attention": MODEL_COLOURS[1],
    "baseline": MODEL_COLOURS[0],
    "control": MODEL_COLOURS[5],
    "null": MUTED,
}
_COSTS = {
    "layer_seconds": (1e3, "Forward and backward (ms)"),
    "layer_bytes": (1e-6, "Kept for the backward pass (MB)"),
}
_SHOWN = 6  # lines with a colour of their own in a figure of costs
_TESTS = {
    "familiar": "new questions of the kind that was trained",
    "distractor": "more objects in the scene than in training",
    "systematic": "combinations that training never had",
    "productive": "longer questions than in training",
}


@styled
def plot_attention_layers(study: xr.Dataset) -> Figure:
    """Draw accuracy by test with intervals over seeds, and time and memory by length.

    Parameters
    ----------
    study : Dataset
        From :func:`compare_attention_layers`.

    Returns
    -------
    Figure

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.analyses import compare_attention_layers
    >>> study = compare_attention_layers(["inline"], out=Path(tempfile.mkdtemp()) / "study", n_seeds=2, n_train=64,
    ...                                  n_test=16, steps=2, width=16, depth=1, lengths=[16, 32])
    >>> [axes.get_title() for axes in plot_attention_layers(study).axes][:2]
    ['familiar', 'distractor']
    """
    from matplotlib.figure import Figure

    n_tests = study.sizes["split"]
    figure = Figure(figsize=(12, 4.4 + 0.24 * study.sizes["layer"]), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(0.6 + 0.24 * study.sizes["layer"], 3.8))
    for axes, split in zip(halves[0].subplots(1, n_tests, sharey=True), study.split.values, strict=True):
        _draw_accuracy(axes, study.sel(split=split))
        axes.set_title(split)
    for axes, variable in zip(halves[1].subplots(1, len(_COSTS)), _COSTS, strict=True):
        _draw_cost(axes, study, variable, study.sizes["cost_layer"])
    halves[1].legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


@styled
def plot_layer_accuracy(study: xr.Dataset, split: str) -> Figure:
    """Draw the accuracy of every layer in one test, beside controls, baseline and null.

    Parameters
    ----------
    study : Dataset
        From :func:`compare_attention_layers`.
    split : str
        Test.

    Returns
    -------
    Figure

    Examples
    --------
    >>> study = xr.Dataset(
    ...     {"accuracy": (("layer", "seed", "split"), [[[0.5], [0.6]]]),
    ...      "accuracy_ci": (("layer", "split", "bound"), [[[0.4, 0.7]]])},
    ...     {"layer": ["softmax"], "role": ("layer", ["reference"]), "split": ["familiar"]})
    >>> plot_layer_accuracy(study, "familiar").axes[0].get_xlabel()
    'Accuracy (%)'
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 1.1 + 0.24 * study.sizes["layer"]))
    axes = figure.add_subplot()
    _draw_accuracy(axes, study.sel(split=split))
    for role in dict.fromkeys(study.role.values.tolist()):
        axes.plot([], [], "o", color=_COLOURS[role], ms=5, mew=0, label=role)
    figure.legend(loc="outside upper left", ncols=3, handletextpad=0.2, columnspacing=1.2, borderaxespad=0)
    return figure


@styled
def plot_layer_cost(study: xr.Dataset, variable: str) -> Figure:
    """Draw the time or the memory of layers by length.

    Parameters
    ----------
    study : Dataset
        From :func:`compare_attention_layers`.
    variable : {"layer_seconds", "layer_bytes"}

    Returns
    -------
    Figure
        Softmax and the six layers that are fastest at the greatest length in colours, the others in grey.

    Examples
    --------
    >>> study = xr.Dataset(
    ...     {"layer_seconds": (("cost_layer", "length"), [[0.1, 0.4], [0.1, 0.2]])},
    ...     {"layer": ["softmax", "manar"], "role": ("layer", ["reference", "attention"]),
    ...      "cost_layer": ["softmax", "manar"], "length": [128, 256]})
    >>> plot_layer_cost(study, "layer_seconds").axes[0].get_ylabel()
    'Forward and backward (ms)'
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.6))
    axes = figure.add_subplot()
    _draw_cost(axes, study, variable, _SHOWN)
    figure.legend(loc="outside upper left", ncols=3, handletextpad=0.4, columnspacing=1.2, borderaxespad=0)
    return figure


def _draw_accuracy(axes: Axes, at: xr.Dataset) -> None:
    for row, name in enumerate(at.layer.values):
        one = at.sel(layer=name)
        colour = _COLOURS[one.role.item()]
        axes.plot(100 * one.accuracy, np.full(one.sizes["seed"], row), ".", color=colour, alpha=0.35, mew=0)
        axes.plot(100 * one.accuracy_ci, [row, row], color=colour, lw=1.6)
        axes.plot(100 * one.accuracy.mean(), row, "o", color=colour, ms=5, mew=0)
    reference = at.accuracy.isel(layer=np.flatnonzero(at.role.values == "reference"))
    axes.axvline(100 * float(reference.mean()), color=MUTED, lw=0.8, ls=":")
    label_rows(axes, [str(name) for name in at.layer.values])
    axes.set(xlabel="Accuracy (%)", xlim=(0, 102))


def _draw_cost(axes: Axes, study: xr.Dataset, variable: str, n_coloured: int) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import NullFormatter

    scale, label = _COSTS[variable]
    reference = str(study.layer.values[study.role.values == "reference"][0])
    fastest = study.cost_layer.values[study.layer_seconds.isel(length=-1).values.argsort()]
    others = [str(name) for name in fastest if name != reference]
    shades = MODEL_COLOURS if n_coloured <= len(MODEL_COLOURS) else [colormaps["tab20"](i) for i in range(20)]
    for i, name in reversed(list(enumerate([reference, *others]))):
        style: dict[str, Any] = {"color": shades[(i - 1) % len(shades)], "lw": 1.4, "label": name}
        if name == reference:
            style = {"color": INK, "lw": 2.5, "label": name}
        elif i > n_coloured:
            style = {"color": MUTED, "lw": 0.8, "alpha": 0.5}
        values = scale * study[variable].sel(cost_layer=name)
        axes.plot(study.length, values, "o-", ms=3, mew=0, **style)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="Tokens", ylabel=label, xticks=study.length.values)
    axes.tick_params(axis="y", labelcolor=MUTED)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.grid()


def write_layers_report(path: str | Path, study: xr.Dataset, *, command: str = "") -> None:
    """Write the report of :func:`neuroattn.analyses.compare_attention_layers`.

    Parameters
    ----------
    path : str or Path
    study : Dataset
        As that function returns it.
    command : str
        Shown in the report.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.analyses import compare_attention_layers
    >>> study = compare_attention_layers(["inline"], out=Path(tempfile.mkdtemp()) / "study", n_seeds=2, n_train=64,
    ...                                  n_test=16, steps=2, width=16, depth=1, lengths=[16, 32])
    >>> page = Path(tempfile.mkdtemp()) / "report.html"
    >>> write_layers_report(page, study)
    >>> "Attention layers at equal budgets" in page.read_text(encoding="utf-8")
    True
    """
    config = json.loads(study.attrs["config"])
    seeds = range(config["seed"], config["seed"] + config["n_seeds"])
    render_report(
        path,
        title="Attention layers at equal budgets",
        subtitle=" · ".join(
            [
                plural(len(config["names"]), "layer"),
                plural(config["n_seeds"], "seed"),
                f"{config['steps']:,} steps of {config['batch_size']}",
            ]
        ),
        summary=summarise_layers(study),
        facts=_facts(study),
        sections=[
            Section("What generalizes", _accuracy_blocks(study, config)),
            Section("What it costs", _cost_blocks(study)),
            run_section(
                [
                    ("Layers", listed(config["names"])),
                    ("Training", f"{config['n_train']:,} questions; {config['n_test']:,} of each test"),
                    ("Network", f"{plural(config['depth'], 'layer')} of {config['width']} channels"),
                    (
                        "Budget",
                        f"{config['steps']:,} steps of {config['batch_size']}, learning rate {config['lr']:g}",
                    ),
                    ("Seeds", listed(seeds)),
                    ("Lengths", listed(config["lengths"])),
                    ("Versions", listed_versions(installed_versions())),
                    ("Command", command),
                ]
            ),
            _methods(study, config),
        ],
    )


def summarise_layers(study: xr.Dataset) -> list[str]:
    """Say in sentences which layers generalize better or worse than softmax, and what baseline and null reach.

    Examples
    --------
    >>> study = xr.Dataset(
    ...     {"accuracy": (("layer", "seed", "split"), [[[0.5]], [[0.7]]]),
    ...      "difference_ci": (("layer", "split", "bound"), [[[0, 0]], [[0.1, 0.3]]])},
    ...     {"layer": ["softmax", "manar"], "role": ("layer", ["reference", "attention"]), "split": ["familiar"],
    ...      "bound": ["low", "high"]})
    >>> summarise_layers(study)
    ['Familiar: softmax 50.0 %. Better than softmax: manar; worse: none; not told apart: 0 of 1.']
    """
    attention = study.isel(layer=np.flatnonzero(study.role.values == "attention"))
    sentences = []
    for split in study.split.values:
        low, high = attention.difference_ci.sel(split=split).transpose("bound", "layer").values
        names = attention.layer.values
        kept = study.isel(layer=np.flatnonzero(np.isin(study.role.values, ("reference", "baseline", "null"))))
        reached = listed(
            f"{name} {_percent(value)} %"
            for name, value in zip(
                kept.layer.values, kept.accuracy.sel(split=split).mean("seed").values, strict=True
            )
        )
        better, worse = listed(names[low > 0]) or "none", listed(names[high < 0]) or "none"
        n_even = int(((low <= 0) & (high >= 0)).sum())
        sentences.append(
            f"{str(split).capitalize()}: {reached}. Better than softmax: {better}; worse: {worse}; not told apart: "
            f"{n_even} of {len(names)}."
        )
    return sentences


def _facts(study: xr.Dataset) -> list[Fact]:
    reference = study.isel(layer=int(np.flatnonzero(study.role.values == "reference")[0]))
    return [
        Fact(
            f"{reference.layer.item()}, {split}",
            f"{_percent(reference.accuracy.sel(split=split).mean())} %",
            _interval_of(reference.accuracy_ci.sel(split=split)),
        )
        for split in study.split.values
    ]


def _accuracy_blocks(study: xr.Dataset, config: Mapping[str, Any]) -> list[Block]:
    interval = (
        f"Lines: 95 % intervals of Student's t over {plural(config['n_seeds'], 'seed')}, which draw data, initial "
        "weights and order alike; they speak of training, not of other tasks."
        if config["n_seeds"] > 1
        else "One seed has no interval, and nothing was resampled."
    )
    charts = [
        Chart(
            to_svg(plot_layer_accuracy(study, str(split)), f"Accuracy of every layer, {split} test"),
            f"{str(split).capitalize()}.",
            f"Accuracy on {_TESTS[str(split)]}. Dots: seeds. Dotted: softmax, the reference. Baseline: a bag of "
            "tokens; controls: attention that does not depend on content; null: shuffled answers.",
            interval,
        )
        for split in study.split.values
    ]
    rows = []
    for name in study.layer.values:
        one = study.sel(layer=name)
        cells = [Cell(str(name)), Cell(str(one.role.item()))]
        for split in study.split.values:
            at = one.sel(split=split)
            low, high = at.difference_ci.values
            beyond = bool(low > 0 or high < 0)
            cells.append(Cell(_percent(at.accuracy.mean()), _interval_of(at.accuracy_ci), strong=beyond))
        rows.append([*cells, Cell(f"{int(one.n_parameters):,}")])
    table = Table(
        "Accuracy in percent, mean over seeds, in small print its interval; in bold where the interval of the "
        "difference from softmax, paired by seed, lies beyond 0. Intervals are not corrected for the number of "
        "layers and tests.",
        ["Layer", "", *(str(split) for split in study.split.values), "Parameters"],
        rows,
    )
    return [Figures(charts), table]


def _cost_blocks(study: xr.Dataset) -> list[Block]:
    charts = [
        Chart(
            to_svg(plot_layer_cost(study, variable), f"{label} of a layer by the number of tokens"),
            f"{label.partition(' (')[0]}.",
            "One layer alone on one sample, projections included, on the machine of this run; the median of "
            "interleaved runs. Softmax and the six fastest at the greatest length in colours, the others in grey.",
            NO_INTERVALS,
        )
        for variable, (_, label) in _COSTS.items()
    ]
    last = study.isel(length=-1)
    rows = [
        [
            Cell(str(name)),
            *(
                Cell(number(scale * last[variable].sel(cost_layer=name), 1))
                for variable, (scale, _) in _COSTS.items()
            ),
        ]
        for name in study.cost_layer.values
    ]
    columns = ["Layer", *(label for _, label in _COSTS.values())]
    return [
        Figures(charts),
        Table(f"The same at {int(last.length):,} tokens.", columns, rows, folded=True),
    ]


def _methods(study: xr.Dataset, config: Mapping[str, Any]) -> Section:
    cite = Citations()
    layers = listed(
        name + "".join(f" {cite(key)}" for key in MODELS.get(name, ())) for name in map(str, config["names"])
    )
    seeds = range(config["seed"], config["seed"] + config["n_seeds"])
    text = [
        f"Transformers of {plural(config['depth'], 'layer')} of {config['width']} channels answered generated "
        f"questions about scenes of objects, given as tokens. They differed in their attention: {layers}.",
        f"All networks of a seed shared {config['n_train']:,} training questions, the order of the batches, "
        f"{config['steps']:,} steps of {config['batch_size']} questions, the optimiser (AdamW, highest learning rate "
        f"{config['lr']:g}) and the initial weights outside their attention; they differed in the number of "
        "parameters.",
        f"Each was tested on {config['n_test']:,} questions of each of {len(_TESTS)} kinds: "
        f"{listed(f'{what} ({name})' for name, what in _TESTS.items())}.",
        "Beside them stand a perceptron on the bag of tokens, attention that does not depend on content, and softmax "
        "attention trained on shuffled answers.",
        f"Intervals are 95 % and Student's t over {plural(config['n_seeds'], 'seed')}; differences from softmax "
        "are paired by seed and not corrected for the number of layers and tests.",
    ]
    return methods_section(text, cite, seeds=seeds)


def _percent(share: Any) -> str:
    return number(100 * float(share), 1)


def _interval_of(interval: xr.DataArray) -> str:
    low, high = 100 * interval.values
    return span(low, high, digits=1) if np.isfinite(low) else ""
