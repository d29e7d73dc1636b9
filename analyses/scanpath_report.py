"""The report of a comparison of scanpath models: bits, finds, similarity, and what they are worth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from neuroattn import __version__
from neuroattn._references import REFERENCES, Reference
from neuroattn.analyses.figures import to_svg
from neuroattn.analyses.report import (
    Block,
    Cell,
    Chart,
    Fact,
    Figures,
    Pairs,
    Paragraph,
    References,
    Section,
    Table,
    render_report,
)
from neuroattn.analyses.scanpath_figures import plot_found_curve, plot_scanpath, plot_transitions
from neuroattn.analyses.scanpath_study import ANCHORS, PEOPLE
from neuroattn.datasets import ScanpathDataset
from neuroattn.results import Scanpath
from neuroattn.scanpath import ScanpathModel, sampled_scanpaths

#: The simple model that counts: gains are counted from it.
AGAINST = "conditional-logit"
N_SHOWN = 3  # paths that are drawn with their order
N_TRANSITIONS = 500  # samples whose transitions are drawn
_KNOWS = {
    "label": "was given the category of the target, and so which objects belong to it",
    "exemplar": "was shown another picture of the target, and neither its place nor its category",
    "oracle": "was told which object is the target",
    "none": "was told nothing of a target",
}


def write_scanpath_report(
    path: str | Path,
    comparison: xr.Dataset,
    *,
    dataset: ScanpathDataset,
    models: Mapping[str, ScanpathModel] | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write the report of a comparison.

    Parameters
    ----------
    path : str or Path
    comparison : Dataset
        Of :func:`compare_scanpath_models`, with a model "conditional-logit".
    dataset : ScanpathDataset
        The trials that were tested, of which one scene is drawn.
    models : mapping of str to ScanpathModel, optional
        Fitted ones, drawn beside people.
    config : mapping, optional
        ``source`` and ``command`` are shown if present.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.analyses import compare_scanpath_models
    >>> from neuroattn.datasets import make_search_arrays
    >>> from neuroattn.scanpath import ConditionalLogit, UniformChoice
    >>> data = make_search_arrays(n_scenes=8, n_observers=3, seed=0)
    >>> comparison = compare_scanpath_models(
    ...     data, {"uniform": UniformChoice(), "conditional-logit": ConditionalLogit()}, n_folds=2, n_samples=1)
    >>> page = Path(tempfile.mkdtemp()) / "report.html"
    >>> write_scanpath_report(page, comparison, dataset=data)
    >>> "simulated" in page.read_text(encoding="utf-8")
    True
    """
    settings, shown, models = _settings(comparison), config or {}, models or {}
    counts = [
        _plural(settings["n_trials"], "trial"),
        _plural(settings["n_images"], "image"),
        _plural(settings["n_observers"], "observer"),
    ]
    simulated = bool(comparison.attrs.get("simulated"))
    render_report(
        path,
        title="Which object is looked at next",
        subtitle=" · ".join(filter(None, [str(shown.get("source", "")), *counts])),
        summary=summarise_scanpaths(comparison),
        facts=_facts(comparison),
        sections=[
            Section("Bits per fixation", _bit_blocks(comparison)),
            Section("When the target is found", _found_blocks(comparison)),
            Section("How alike paths are", _similarity_blocks(comparison)),
            Section("One scene", _scene_blocks(dataset, models, comparison.attrs["seed"])),
            Section("What was run", _run_blocks(comparison, shown)),
            Section("Methods, ready to paste", _methods(comparison, models)),
        ],
        banner="The searches are simulated. Nothing here is evidence about people." if simulated else None,
    )


def summarise_scanpaths(comparison: xr.Dataset) -> list[str]:
    """Say in sentences what each model gains over the conditional logit, and over uniform choice.

    Examples
    --------
    >>> pair = ("model", "other")
    >>> comparison = xr.Dataset(
    ...     {"bits_per_fixation": ("model", [2.0, 1.9]), "uniform_bits": 2.585,
    ...      "difference": (pair, [[0.0, -0.1], [0.1, 0.0]]),
    ...      "difference_interval": (("bound", *pair), [[[0, -0.2], [0.02, 0]], [[0, -0.02], [0.2, 0]]])},
    ...     {"model": ["conditional-logit", "transformer"], "other": ["conditional-logit", "transformer"],
    ...      "bound": ["low", "high"]})
    >>> for sentence in summarise_scanpaths(comparison):
    ...     print(sentence)
    Uniform choice costs 2.585 bits per fixation, the conditional logit 2.000.
    transformer predicts better than the conditional logit: it gains 0.100 bits per fixation (0.020 to 0.200).
    """
    bits = comparison.bits_per_fixation
    sentences = [
        f"Uniform choice costs {float(comparison.uniform_bits):.3f} bits per fixation, the conditional logit "
        f"{float(bits.sel(model=AGAINST)):.3f}."
    ]
    for name in comparison.model.values:
        if name in ("uniform", AGAINST):
            continue
        one = comparison.sel(model=name, other=AGAINST)
        gain = float(one.difference)
        low, high = (float(one.difference_interval.sel(bound=bound)) for bound in ("low", "high"))
        interval = f"({low:.3f} to {high:.3f})".replace("-", "−")
        if low > 0:
            sentences.append(
                f"{name} predicts better than the conditional logit: it gains {gain:.3f} bits per fixation {interval}."
            )
        elif high < 0:
            sentences.append(
                f"{name} predicts worse than the conditional logit: it loses {-gain:.3f} bits per fixation; the "
                f"difference is {_signed(gain)} {interval}."
            )
        else:
            sentences.append(
                f"{name} is not told apart from the conditional logit: the difference is {_signed(gain)} bits per "
                f"fixation {interval}."
            )
    return sentences


def _facts(comparison: xr.Dataset) -> list[Fact]:
    facts = []
    for name in comparison.model.values:
        one = comparison.sel(model=name)
        facts.append(
            Fact(
                str(name), f"{float(one.bits_per_fixation):.3f}", f"bits; {_range(one, 'bits_per_fixation')}"
            )
        )
    return facts


def _bit_blocks(comparison: xr.Dataset) -> list[Block]:
    rows = []
    for name in comparison.model.values:
        one = comparison.sel(model=name)
        gain = one.sel(other=AGAINST)
        clear = float(gain.difference_interval.sel(bound="low")) > 0
        rows.append(
            [
                Cell(str(name)),
                Cell(f"{float(one.bits_per_fixation):.3f}", _range(one, "bits_per_fixation")),
                Cell("–")
                if name == AGAINST
                else Cell(_signed(float(gain.difference)), _range(gain, "difference"), strong=clear),
                Cell(f"{float(one.end_bits):.3f}"),
            ]
        )
    rows.append(
        [
            Cell("other observers, same scene"),
            Cell(f"{float(comparison.gold_standard_bits):.3f}", _range(comparison, "gold_standard_bits")),
            Cell("–"),
            Cell("–"),
        ]
    )
    table = Table(
        "Cost of each fixation that people chose, given that the path goes on; lower is better. Gains are paired, and "
        f"in bold where their interval is above 0. {_interval(comparison)}",
        ["Model", "Bits per fixation", "Gain over the conditional logit", "Bits per end"],
        rows,
    )
    why = (
        "The other observers' row is a smoothed map of where the others looked in the very same scene. It is no "
        "ceiling: a model that knows what people do in all scenes can be better."
    )
    return [table, Paragraph(why)]


def _found_blocks(comparison: xr.Dataset) -> list[Block]:
    if "found" not in comparison:
        return []
    svg = to_svg(plot_found_curve(comparison), "Share of searches that have found the target by saccade")
    caption = (
        f"Share of trials in which the target was fixated by then. {_interval(comparison)} The random search never "
        "returns to an object; its curve is exact."
    )
    some = [k for k in (1, 2, 3, 4, 6, 8, 12) if k <= int(comparison.saccade[-1])]
    rows = [
        [
            Cell(str(source)),
            *(Cell(f"{float(comparison.found.sel(source=source, saccade=k)):.3f}") for k in some),
        ]
        for source in comparison.source.values
    ]
    table = Table("The same as numbers, by saccade.", ["", *map(str, some)], rows, folded=True)
    return [Figures([Chart(svg, "Found.", caption)]), table]


def _similarity_blocks(comparison: xr.Dataset) -> list[Block]:
    metrics = [str(metric) for metric in comparison.metric.values]
    rows = []
    for name in comparison.path_source.values:
        one = comparison.sel(path_source=name)
        cells = [Cell(str(name))]
        for metric in metrics:
            value = float(one.similarity.sel(metric=metric))
            if np.isfinite(value):
                cells.append(Cell(f"{value:.3f}", _range(one.sel(metric=metric), "similarity")))
            else:
                cells.append(Cell("–", "no pairs"))
        rows.append(cells)
    caption = (
        f"Similarity of the models' samples to the person's path, beside its anchors: {', '.join(ANCHORS)}. Initial "
        f"fixations are left out; MultiMatch needs three fixations in both paths. {_interval(comparison)}"
    )
    return [Table(caption, ["Paths", *metrics], rows)]


def _scene_blocks(dataset: ScanpathDataset, models: Mapping[str, ScanpathModel], seed: int) -> list[Block]:
    """Return the scene that most people saw, with their paths and the models'."""
    names, counts = np.unique(dataset.data["scene"].values, return_counts=True)
    name = names[counts.argmax()]
    rows = np.flatnonzero(dataset.data["scene"].values == name)
    scene = dataset.scene_of(int(rows[0]))
    people = [dataset[int(row)] for row in rows]
    groups: dict[str, Sequence[Scanpath]] = {PEOPLE: people}
    for model_name, model in models.items():
        samples = model.sample(scene, n=N_TRANSITIONS, seed=seed)
        groups[model_name] = sampled_scanpaths(samples, scene)
    paths = [
        Chart(
            to_svg(plot_scanpath(scene, some[:N_SHOWN]), f"Paths of {key} in the scene {name}"),
            f"Paths in the scene {name}, {key}.",
            f"{min(N_SHOWN, len(some))} of {len(some)}, numbered in their order, 0 for a fixation that nobody chose. "
            "Thick box: the target.",
        )
        for key, some in groups.items()
    ]
    graphs = [
        Chart(
            to_svg(plot_transitions(scene, some), f"Transitions of {key} in the scene {name}"),
            f"Transitions, {key}.",
            f"{_plural(len(some), 'path')}. Discs: share of the fixations. Arrows: probability of going there next, "
            "those above 5 %.",
        )
        for key, some in groups.items()
    ]
    return [Figures(paths), Figures(graphs)]


def _run_blocks(comparison: xr.Dataset, shown: Mapping[str, Any]) -> list[Block]:
    settings = _settings(comparison)
    rows = [
        ("Data", shown.get("source")),
        ("Recorded as", comparison.attrs.get("source")),
        ("Trials", f"{settings['n_trials']:,}, {settings['n_fixations']:,} chosen fixations"),
        ("Held out", comparison.attrs.get("held_out")),
        ("Samples", f"{settings['n_samples']} for each trial and model"),
        ("Resamples", f"{settings['n_boot']:,}, {comparison.attrs['resampled']}"),
        ("Seed", comparison.attrs["seed"]),
        ("Versions", _versions()),
        ("Command", shown.get("command")),
    ]
    return [Pairs([(name, str(value)) for name, value in rows if value not in (None, "")])]


def _methods(comparison: xr.Dataset, models: Mapping[str, ScanpathModel]) -> list[Block]:
    references: list[Reference] = []

    def cite(key: str) -> str:
        if REFERENCES[key] not in references:
            references.append(REFERENCES[key])
        return f"[{references.index(REFERENCES[key]) + 1}]"

    settings = _settings(comparison)
    text = [
        f"{settings['n_fixations']:,} fixations of objects in {settings['n_trials']:,} trials "
        f"({_plural(settings['n_observers'], 'observer')}, {_plural(settings['n_images'], 'image')}) were predicted by "
        f"{_listed([str(name) for name in comparison.model.values])}."
    ]
    for name, model in models.items():
        known = _KNOWS.get(getattr(model, "target", ""))
        text.append(
            f"The model {name} is an object-level attention transformer {cite('fang2024')}"
            + (f"; it {known}." if known else ".")
        )
    text += [
        f"The conditional logit {cite('mcfadden1974')} weighs place, distance and direction of the step, earlier "
        "visits and the category of the target.",
        f"Tested were {comparison.attrs['held_out']}." if "held_out" in comparison.attrs else "",
        "Models are compared by the mean of −log2 P(object | the path goes on) over chosen fixations; initial "
        "fixations and fixations of the background are no part of a path.",
        _interval(comparison),
        f"Similarity is the sequence score and MultiMatch {cite('dewhurst2012')} of "
        f"{_plural(settings['n_samples'], 'sampled path')} a trial to the person's path, beside that of other "
        "observers, of the same observer's paths on other images, and of random paths of equal length.",
        f"Software: neuroattn {__version__}, {_versions()}; seed {comparison.attrs['seed']}.",
    ]
    return [Paragraph(" ".join(filter(None, text)), paste=True), References(references)]


def _interval(comparison: xr.Dataset) -> str:
    settings = _settings(comparison)
    return (
        f"Intervals: 95 % percentile bootstrap ({settings['n_boot']:,} resamples, {comparison.attrs['resampled']}), "
        "fitted models held fixed."
    )


def _settings(comparison: xr.Dataset) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(comparison.attrs["config"])
    return settings


def _range(one: xr.Dataset, name: str) -> str:
    low, high = (float(one[f"{name}_interval"].sel(bound=bound)) for bound in ("low", "high"))
    return f"{low:.3f} to {high:.3f}".replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("numpy", "scikit-learn", "torch"))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _plural(n: int, noun: str, many: str = "") -> str:
    return f"{n:,} {noun if n == 1 else many or noun + 's'}"
