"""The reports of scanpath models: of their comparison, and of paths that one draws in a scene."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from neuroattn.analyses.report import (
    NO_INTERVALS,
    Block,
    Cell,
    Chart,
    Citations,
    Fact,
    Figures,
    Paragraph,
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
from neuroattn.analyses.scanpath_figures import plot_found_curve, plot_scanpath, plot_transitions
from neuroattn.analyses.scanpath_study import ANCHORS, MEMORY_FULL, PEOPLE
from neuroattn.analyses.style import to_svg
from neuroattn.datasets import ObjectScene, ScanpathDataset
from neuroattn.results import Scanpath
from neuroattn.scanpath import ScanpathModel, sampled_scanpaths

#: The simple model that counts: gains are counted from it.
AGAINST = "conditional-logit"
N_SHOWN = 3  # paths that are drawn with their order
N_TRANSITIONS = 500  # samples whose transitions are drawn
N_RESAMPLES = 1000  # of drawn paths
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
        plural(settings["n_trials"], "trial"),
        plural(settings["n_images"], "image"),
        plural(settings["n_observers"], "observer"),
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
            _run(comparison, shown),
            _methods(comparison, models),
        ],
        banner="The searches are simulated. Nothing here is evidence about people." if simulated else None,
    )


def write_samples_report(
    path: str | Path, samples: xr.Dataset, scene: ObjectScene, *, model: str, command: str = ""
) -> None:
    """Write the report of paths that a model draws in a scene.

    Parameters
    ----------
    path : str or Path
    samples : Dataset
        Of :meth:`neuroattn.scanpath.ScanpathModel.sample`, with further attributes ``fitted_to``, what the model was
        fitted to, and ``simulated`` (0 or 1), whether that was simulated.
    scene : ObjectScene
    model : str
        Name of the model.
    command : str
        Shown in the report.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> from neuroattn.scanpath import ConditionalLogit
    >>> data = make_search_arrays(n_scenes=8, n_observers=3, seed=0)
    >>> scene = data.scene_of(0)
    >>> samples = ConditionalLogit().fit(data).sample(scene, n=20, seed=0)
    >>> page = Path(tempfile.mkdtemp()) / "report.html"
    >>> samples = samples.assign_attrs(fitted_to="simulated searches", simulated=1)
    >>> write_samples_report(page, samples, scene, model="conditional-logit")
    >>> "nothing here was measured on people" in page.read_text(encoding="utf-8")
    True
    """
    attrs, n = samples.attrs, samples.sizes["sample"]
    lengths = samples.length.values
    found = _found_by(samples, scene, model)
    sentences = [
        f"{plural(n, 'path')} of {plural(round(lengths.sum()), 'fixation')}, {number(lengths.mean(), 1)} on the "
        "average. The paths are a model's; nothing here was measured on people."
    ]
    facts = [
        Fact(
            "Fixations a path",
            number(lengths.mean(), 1),
            span(*np.percentile(lengths, [2.5, 97.5]), digits=0),
        ),
        Fact(
            "Bits of choice a fixation",
            number(samples.entropy.mean(), 2),
            f"{number(np.log2(scene.n_objects))} if all objects were alike",
        ),
    ]
    if found is not None:
        share, random = (float(found.found.sel(source=source)[-1]) for source in (model, MEMORY_FULL))
        sentences.append(
            f"{100 * share:.0f} % of them reach the target within {plural(found.sizes['saccade'], 'saccade')}; a "
            f"random search that never returns to an object would in {100 * random:.0f} %."
        )
        facts.append(
            Fact(
                "Reach the target",
                f"{100 * share:.0f} %",
                f"at random {100 * random:.0f} %, in as many saccades",
            )
        )
    render_report(
        path,
        title="Paths that a model draws",
        subtitle=" · ".join(filter(None, [model, scene.name, plural(n, "path"), f"seed {attrs['seed']}"])),
        summary=sentences,
        facts=facts,
        banner="The model was fitted to simulated searches. Nothing here is evidence about people."
        if attrs["simulated"]
        else None,
        sections=[
            Section("Paths", _path_blocks(samples, scene, model)),
            Section("Where they look", _object_blocks(samples, scene)),
            Section("When the target is found", _reach_blocks(found)),
            run_section(
                [
                    ("Scene", f"{scene.name or 'unnamed'}, {scene.size[0]} × {scene.size[1]} px"),
                    ("Objects", scene.n_objects),
                    ("Target", scene.target_label if scene.target is None else f"object {scene.target}"),
                    ("Model", f"{model} ({attrs['model']}), fitted to {attrs['fitted_to']}"),
                    ("Observer", attrs["observer"]),
                    ("Paths", n),
                    ("Longest path", attrs["max_fixations"]),
                    ("Temperature", attrs["temperature"]),
                    ("Top p", attrs["top_p"]),
                    ("Returns to an object", "never" if attrs["no_return"] else "allowed"),
                    ("Seed", attrs["seed"]),
                    ("Versions", listed_versions(installed_versions("scikit-learn"))),
                    ("Command", command),
                ]
            ),
            _sample_methods(samples, scene, model, found),
        ],
    )


def _path_blocks(samples: xr.Dataset, scene: ObjectScene, model: str) -> list[Block]:
    paths = sampled_scanpaths(samples, scene)
    first = paths[:N_SHOWN]
    charts = [
        Chart(
            to_svg(plot_scanpath(scene, first), f"The first paths of {model}"),
            f"The first {plural(len(first), 'path')}.",
            "Numbered in their order. Thick box: the target.",
            NO_INTERVALS,
        ),
        Chart(
            to_svg(plot_transitions(scene, paths), f"Transitions of {model}"),
            f"Transitions of all {plural(len(paths), 'path')}.",
            "Discs: share of the fixations. Arrows: probability of going there next, those above 5 %.",
            NO_INTERVALS,
        ),
    ]
    return [Figures(charts)]


def _object_blocks(samples: xr.Dataset, scene: ObjectScene) -> list[Block]:
    objects, n = samples.object.values, scene.n_objects
    counts = np.stack([(objects == i).sum(1) for i in range(n)], axis=1)  # (sample, object)
    drawn = np.random.default_rng(0).integers(0, len(counts), (N_RESAMPLES, len(counts)))
    resampled = counts[drawn].sum(1)
    low, high = np.percentile(resampled / np.maximum(resampled.sum(1, keepdims=True), 1), [2.5, 97.5], axis=0)
    first = np.bincount(objects[:, 0][objects[:, 0] >= 0], minlength=n) / max((objects[:, 0] >= 0).sum(), 1)
    occupancy = counts.sum(0) / max(counts.sum(), 1)
    rows = []
    for i in np.argsort(-occupancy, kind="stable"):
        name = "" if scene.labels is None else str(scene.labels[i])
        share = Cell(f"{100 * occupancy[i]:.0f} %", f"{100 * low[i]:.0f} to {100 * high[i]:.0f} %")
        looked = f"{100 * (counts[:, i] > 0).mean():.0f} %"
        rows.append(
            [
                Cell(f"{i} {name}".strip()),
                Cell("target" if scene.matches_target[i] else ""),
                *(share, Cell(f"{100 * first[i]:.0f} %"), Cell(looked)),
            ]
        )
    caption = (
        "Share of all fixations by object, in small print the 95 % percentile bootstrap over "
        f"{plural(len(counts), 'path')} ({N_RESAMPLES:,} resamples), which says how sure so many draws are of what "
        "this model does, not how sure the model is. Share of first fixations, and of the paths that look there at "
        f"all. Alike for all objects it would be {100 / n:.0f} %."
    )
    return [Table(caption, ["Object", "", "Fixations", "First fixation", "Paths"], rows, folded=n > 40)]


def _found_by(samples: xr.Dataset, scene: ObjectScene, model: str) -> xr.Dataset | None:
    """Return the share of paths that have reached the target by saccade, beside a search at random, or None."""
    matches = scene.matches_target
    if not matches.any():
        return None
    objects = samples.object.values
    reached = np.maximum.accumulate((objects >= 0) & matches[objects], axis=1)
    n, n_objects, n_targets = len(objects), scene.n_objects, int(matches.sum())
    saccade = np.arange(1, objects.shape[1] + 1)
    share = reached.mean(0)
    bounds = [stats.binomtest(int(k), n).proportion_ci(method="wilson") for k in reached.sum(0)]
    random = 1 - stats.hypergeom.pmf(0, n_objects, n_targets, np.minimum(saccade, n_objects))
    return xr.Dataset(
        {
            "found": (("source", "saccade"), [share, random]),
            "found_interval": (
                ("bound", "source", "saccade"),
                [[[b[i] for b in bounds], random] for i in (0, 1)],
            ),
        },
        {"source": [model, MEMORY_FULL], "saccade": saccade, "bound": ["low", "high"]},
        {"n_samples": n},
    )


def _reach_blocks(found: xr.Dataset | None) -> list[Block]:
    if found is None:
        return []
    svg = to_svg(plot_found_curve(found), "Share of paths that have reached the target by saccade")
    caption = (
        "Share of paths that have looked at the target by then. The random search never returns to an object; its "
        "curve is exact."
    )
    n_paths = plural(found.attrs["n_samples"], "drawn path")
    interval = f"Band: 95 % Wilson interval over {n_paths}; nothing was resampled."
    return [Figures([Chart(svg, "Found.", caption, interval)])]


def _sample_methods(samples: xr.Dataset, scene: ObjectScene, model: str, found: xr.Dataset | None) -> Section:
    cite, attrs = Citations(), samples.attrs
    described = {
        "ObjectAttentionTransformer": (", an object-level attention transformer", "fang2024"),
        "ConditionalLogit": (", a conditional logit", "mcfadden1974"),
    }.get(attrs["model"])
    kind = "" if described is None else f"{described[0]} {cite(described[1])}"
    limits = ["never returning to an object"] if attrs["no_return"] else []
    limits += [f"at a temperature of {attrs['temperature']:g}"] if attrs["temperature"] != 1 else []
    limits += (
        [f"among the fewest objects with a probability of {attrs['top_p']:g}"] if attrs["top_p"] < 1 else []
    )
    text = [
        f"{plural(samples.sizes['sample'], 'scanpath')} over the {plural(scene.n_objects, 'object')} of one scene "
        f"({scene.size[0]} × {scene.size[1]} px) were drawn from {model}{kind}, fitted to {attrs['fitted_to']}"
        f"{''.join(f', {limit}' for limit in limits)}, and cut at {attrs['max_fixations']} fixations.",
        "Intervals are 95 % and over drawn paths (percentile bootstrap; Wilson for shares of paths): they are those of "
        "the draws and cover neither the fit nor people.",
        "A random search that never returns to an object stands beside them." if found is not None else "",
    ]
    packages = installed_versions("scikit-learn")
    return methods_section(text, cite, seeds=attrs["seed"], versions=packages)


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
        interval = f"({span(low, high, digits=3)})"
        if low > 0:
            sentences.append(
                f"{name} predicts better than the conditional logit: it gains {gain:.3f} bits per fixation {interval}."
            )
        elif high < 0:
            sentences.append(
                f"{name} predicts worse than the conditional logit: it loses {-gain:.3f} bits per fixation; the "
                f"difference is {number(gain, 3, signed=True)} {interval}."
            )
        else:
            sentences.append(
                f"{name} is not told apart from the conditional logit: the difference is "
                f"{number(gain, 3, signed=True)} bits per fixation {interval}."
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
                else Cell(number(gain.difference, 3, signed=True), _range(gain, "difference"), strong=clear),
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
        "Share of trials in which the target was fixated by then. The random search never returns to an object; its "
        "curve is exact."
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
    return [Figures([Chart(svg, "Found.", caption, _interval(comparison))]), table]


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
            NO_INTERVALS,
        )
        for key, some in groups.items()
    ]
    graphs = [
        Chart(
            to_svg(plot_transitions(scene, some), f"Transitions of {key} in the scene {name}"),
            f"Transitions, {key}.",
            f"{plural(len(some), 'path')}. Discs: share of the fixations. Arrows: probability of going there next, "
            "those above 5 %.",
            NO_INTERVALS,
        )
        for key, some in groups.items()
    ]
    return [Figures(paths), Figures(graphs)]


def _run(comparison: xr.Dataset, shown: Mapping[str, Any]) -> Section:
    settings = _settings(comparison)
    rows = [
        ("Data", shown.get("source")),
        ("Recorded as", comparison.attrs.get("source")),
        ("Trials", f"{settings['n_trials']:,}, {settings['n_fixations']:,} chosen fixations"),
        ("Held out", comparison.attrs.get("held_out")),
        ("Samples", f"{settings['n_samples']} for each trial and model"),
        ("Resamples", f"{settings['n_boot']:,}, {comparison.attrs['resampled']}"),
        ("Seed", comparison.attrs["seed"]),
        ("Versions", listed_versions(installed_versions("scikit-learn"))),
        ("Command", shown.get("command")),
    ]
    return run_section(rows)


def _methods(comparison: xr.Dataset, models: Mapping[str, ScanpathModel]) -> Section:
    cite = Citations()
    settings = _settings(comparison)
    text = [
        f"{settings['n_fixations']:,} fixations of objects in {settings['n_trials']:,} trials "
        f"({plural(settings['n_observers'], 'observer')}, {plural(settings['n_images'], 'image')}) were predicted by "
        f"{listed(comparison.model.values)}."
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
        f"{plural(settings['n_samples'], 'sampled path')} a trial to the person's path, beside that of other "
        "observers, of the same observer's paths on other images, and of random paths of equal length.",
    ]
    packages = installed_versions("scikit-learn")
    return methods_section(text, cite, seeds=comparison.attrs["seed"], versions=packages)


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
    return span(*(one[f"{name}_interval"].sel(bound=bound) for bound in ("low", "high")), digits=3)
