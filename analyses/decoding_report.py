"""The report of one decoding study: what was decoded, from what, and what was not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from neuroattn.analyses import decoding_figures as drawing
from neuroattn.analyses.decoding import N_RESAMPLES, NETWORK
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
from neuroattn.analyses.style import to_svg

NULL_TEXTS = {
    "refit": "everything that uses labels fitted again",
    "predictions": "compared with the predictions as they are",
}
PROTOCOL_TEXTS = {
    "leave-one-run-out": "each run was tested with the other runs of the same subject for training",
    "blocks": "five blocks of neighbouring trials of each subject were tested in turn",
    "leave-one-subject-out": "each subject was tested with all others for training",
    "subject-folds": "five groups of subjects were tested in turn",
}
_PACKAGES = ("braindecode", "mne", "pyriemann", "scikit-learn")


def write_decoding_report(
    path: str | Path,
    scores: xr.Dataset,
    *,
    config: Mapping[str, Any],
    maps: Mapping[str, xr.DataArray] | None = None,
    info: Any | None = None,
) -> None:
    """Write the report of a decoding study.

    Parameters
    ----------
    path : str or Path
    scores : Dataset
        Of :func:`decode_trials`.
    config : mapping
        ``dataset``, ``notes`` (list of str), ``command``, ``n_channels`` and ``sfreq`` are shown if present.
    maps : mapping of pipeline to DataArray, dims (map, channel), optional
        Drawn on the scalp: spatial patterns with an attribute ``units``, or shares of attention.
    info : mne.Info, optional
        Electrode positions; without them no map is drawn.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> from neuroattn.analyses import decode_trials
    >>> from neuroattn.datasets import Trials
    >>> y = np.array(["left", "right"] * 6)
    >>> metadata = pd.DataFrame({"subject": ["1"] * 12, "session": "1", "run": ["1"] * 6 + ["2"] * 6})
    >>> X = np.random.default_rng(0).normal(size=(12, 2, 250))
    >>> trials = Trials(X, y, metadata, ["C3", "C4"], sfreq=100, tmin=-1)
    >>> page = Path(tempfile.mkdtemp()) / "report.html"
    >>> write_decoding_report(page, decode_trials(trials, ["tangent-space"], n_permutations=20), config={})
    >>> "tangent-space: not above chance" in page.read_text(encoding="utf-8")
    True
    """
    subtitle = [
        str(config.get("dataset", "")),
        plural(scores.sizes["subject"], "subject"),
        plural(scores.sizes["trial"], "trial"),
        f"seed {scores.attrs['seed']}",
    ]
    render_report(
        path,
        title="What this EEG decodes",
        subtitle=" · ".join(filter(None, subtitle)),
        summary=summarise_decoding(scores),
        facts=_facts(scores),
        sections=[
            Section("Scores, nulls and controls", _score_blocks(scores)),
            Section("Which trials are confused", _confusion_blocks(scores)),
            Section("How much training it takes", _curve_blocks(scores)),
            Section("Where on the scalp", _map_blocks(maps or {}, info)),
            _run(scores, config),
            _methods(scores, maps or {}, info),
        ],
    )


def summarise_decoding(scores: xr.Dataset) -> list[str]:
    """Say in sentences what each pipeline decodes, and what speaks against it.

    Examples
    --------
    >>> scores = xr.Dataset(
    ...     {"accuracy": (("pipeline", "condition"), [[0.8, 0.7]]), "verdict": ("pipeline", ["not above chance"]),
    ...      "null_95": (("pipeline", "condition"), [[0.9, 0.6]]), "adjusted_chance": 0.62},
    ...     {"pipeline": ["csp-lda"], "condition": ["imagery", "pre-cue"]})
    >>> for sentence in summarise_decoding(scores):
    ...     print(sentence)
    csp-lda: not above chance.
    Before the cue, where there is nothing to decode, csp-lda is above chance: the recording, its filter or the
    order of trials gives labels away, and no other score can be trusted.
    """
    found: dict[str, list[str]] = {}
    for name, verdict in zip(scores.pipeline.values, scores.verdict.values, strict=True):
        found.setdefault(str(verdict), []).append(str(name))
    sentences = [f"{', '.join(names)}: {verdict}." for verdict, names in found.items()]
    accuracy = scores.accuracy
    if {"csp-lda"} < set(scores.pipeline.values.tolist()) and "imagery" in scores.condition:
        imagery = accuracy.sel(condition="imagery").dropna("pipeline")
        best = str(imagery.pipeline.values[imagery.values.argmax()])
        networks = [name for name in imagery.pipeline.values if str(name).startswith(NETWORK)]
        if networks and not best.startswith(NETWORK):
            sentences.append(
                f"In the imagery band the best score is that of {best} ({float(imagery.max()):.2f}), "
                f"not of a network ({float(imagery.sel(pipeline=networks).max()):.2f})."
            )
    if "pre-cue" in scores.condition:
        limit = scores.null_95.fillna(scores.adjusted_chance)
        leaks = (accuracy > limit).sel(condition="pre-cue")
        names = [str(name) for name in scores.pipeline.values[leaks.values]]
        if names:
            sentences.append(
                f"Before the cue, where there is nothing to decode, {listed(names)} "
                f"{'is' if len(names) == 1 else 'are'} above chance: the "
                "recording, its filter or the order of trials gives labels away, and no other score can be trusted."
            )
    return sentences


def _facts(scores: xr.Dataset) -> list[Fact]:
    facts = []
    for name in scores.pipeline.values:
        cell = scores.sel(pipeline=name, condition=scores.condition.values[0])
        if np.isfinite(cell.accuracy):
            low, high = cell.accuracy_ci.values
            facts.append(Fact(f"{name}, {cell.condition.item()}", number(cell.accuracy), span(low, high)))
    facts.append(Fact("Adjusted chance level", number(scores.adjusted_chance), "95 % point of guessing"))
    return facts


def _score_blocks(scores: xr.Dataset) -> list[Block]:
    conditions = {one["name"]: one for one in _config(scores)["conditions"]}
    windows = "; ".join(f"{name}: {_window(one)}" for name, one in conditions.items())
    rows = []
    for name in scores.pipeline.values:
        cells = [Cell(str(name))]
        for condition in scores.condition.values:
            cell = scores.sel(pipeline=name, condition=condition)
            value, limit = float(cell.accuracy), float(cell.null_95)
            if not np.isfinite(value):
                cells.append(Cell("–", "slow signals only"))
                continue
            null = (
                f"null 95 %: {limit:.2f}, p = {float(cell.p_value):.3f}" if np.isfinite(limit) else "no null"
            )
            above = value > (limit if np.isfinite(limit) else float(scores.adjusted_chance))
            cells.append(Cell(number(value), null, strong=above))
        rows.append(cells)
    n = scores.sizes["permutation"]
    null = (
        f"Ticks: 95 % point of {n} permutations of the labels within each run, {NULL_TEXTS[_config(scores)['null']]}. "
        if n
        else "No permutation null was computed. "
    )
    chart = Chart(
        to_svg(drawing.plot_decoding_scores(scores), "Accuracy of every pipeline in every condition"),
        "Accuracy by condition.",
        f"{null}Solid line: chance. Dotted line: the accuracy that guessing reaches in 5 % of experiments of this "
        "size.",
        _interval(scores),
    )
    table = Table(
        "Accuracy on held-out trials; in bold where it is above the 95 % point of its null, or above the adjusted "
        f"chance level ({float(scores.adjusted_chance):.3f}) where there is no null. Conditions: {windows}.",
        ["Pipeline", *conditions],
        rows,
    )
    why = (
        "A claim about imagery rests on the first condition alone. A cue on one side of the screen moves the eyes and "
        "evokes slow waves; where the slow signals decode, a broadband score is no evidence of imagery. Before "
        "the cue nothing should be found."
    )
    return [Figures([chart]), table, Paragraph(why)]


def _confusion_blocks(scores: xr.Dataset) -> list[Block]:
    first = str(scores.condition.values[0])
    table = scores.confusion.sel(condition=first)
    table = table[(table.sum(("true", "predicted")) > 0).values]
    svg = to_svg(drawing.plot_confusion(table), f"Confusion matrices in the condition {first}")
    caption = "Trials by true and predicted class; shade: share of the true class."
    return [Figures([Chart(svg, f"Confusion, {first}.", caption, NO_INTERVALS)])]


def _curve_blocks(scores: xr.Dataset) -> list[Block]:
    if scores.sizes["n_train"] < 2:
        return []
    first = str(scores.condition.values[0])
    caption = (
        "Accuracy with fewer training trials in every fold, drawn at random and balanced by class as far as they go; "
        "one draw, so steps of a few points are noise."
    )
    svg = to_svg(drawing.plot_learning_curves(scores), "Accuracy by number of training trials")
    return [Figures([Chart(svg, f"Learning curves, {first}.", caption, NO_INTERVALS)])]


def _map_blocks(maps: Mapping[str, xr.DataArray], info: Any | None) -> list[Block]:
    if info is None or info.get_montage() is None:
        return []
    charts = []
    for name, values in maps.items():
        patterns = "units" in values.attrs
        figure = drawing.plot_topomaps(
            values, info, label="Microvolt" if patterns else "Share of the map", diverging=patterns
        )
        caption = (
            "Spatial patterns (covariance of the signals with the output of each filter), not filter weights. "
            "Signs are arbitrary."
            if patterns
            else "Where the attended features draw their signals: spatial patterns weighted by the mean gate of each "
            f"class. Mean gates of classes differ by {values.attrs['gate_spread']:.3f} at most; where that is "
            "small, so is any difference between the maps."
        )
        charts.append(Chart(to_svg(figure, f"Scalp maps of {name}"), f"{name}.", caption, NO_INTERVALS))
    return [Figures(charts)] if charts else []


def _run(scores: xr.Dataset, config: Mapping[str, Any]) -> Section:
    resolved = _config(scores)
    rows = [
        ("Data", config.get("dataset")),
        ("Subjects", listed(scores.subject.values, most=12)),
        ("Trials", f"{scores.sizes['trial']} ({_per_class(scores)})"),
        ("Channels", config.get("n_channels")),
        ("Sampling rate", f"{config['sfreq']:g} Hz" if "sfreq" in config else None),
        ("Conditions", "; ".join(f"{one['name']}: {_window(one)}" for one in resolved["conditions"])),
        ("Protocol", f"{resolved['protocol']}: {PROTOCOL_TEXTS[resolved['protocol']]}"),
        ("Permutations", resolved["n_permutations"]),
        ("Epochs of networks", resolved["n_epochs"] if _networks(scores) else None),
        ("Seed", scores.attrs["seed"]),
        ("Versions", listed_versions(installed_versions(*_PACKAGES))),
        ("Command", config.get("command")),
    ]
    return run_section(rows, config.get("notes", ()))


def _methods(scores: xr.Dataset, maps: Mapping[str, xr.DataArray], info: Any | None) -> Section:
    cite = Citations()
    resolved = _config(scores)
    described = {
        "csp-lda": "six common spatial patterns with linear discriminant analysis {}",
        "tangent-space": "tangent-space logistic regression on shrunk covariances {}",
        "slow-signals": "logistic regression on right-minus-left differences below 4 Hz as a control for cue-locked "
        "signals",
    }
    cited = {"csp-lda": "blankertz2008", "tangent-space": "barachant2013"}
    pipelines = []
    for name in map(str, scores.pipeline.values):
        if name in described:
            pipelines.append(described[name].format(cite(cited[name])) if name in cited else described[name])
        else:
            gate = name.partition("+")[2]
            network = f"BaseNet with {gate} attention" if gate else "BaseNet without attention"
            pipelines.append(f"{network} {cite('wimpff2024')}, trained for {resolved['n_epochs']} epochs")
    first = resolved["conditions"][0]
    controls = listed(f"{one['name']} ({_window(one)})" for one in resolved["conditions"][1:])
    text = [
        f"{scores.sizes['trial']} trials ({_per_class(scores)}) of {plural(scores.sizes['subject'], 'subject')} were "
        f"classified by {listed(pipelines)}.",
        f"Signals were taken at {_window(first)}; every pipeline was also scored in the conditions {controls}."
        if controls
        else f"Signals were taken at {_window(first)}.",
        "Filters were Butterworth filters of order four, run forwards and backwards over each trial up to the end of "
        "the window.",
        f"In cross-validation {PROTOCOL_TEXTS[resolved['protocol']]}.",
        _interval(scores),
    ]
    if resolved["n_permutations"]:
        text.append(
            f"Scores are compared with the 95 % point of {resolved['n_permutations']} permutations of the labels "
            f"within each run ({NULL_TEXTS[resolved['null']]}), and with the binomial adjusted chance level "
            f"{cite('combrisson2015')}."
        )
    else:
        text.append(f"Scores are compared with the binomial adjusted chance level {cite('combrisson2015')}.")
    if maps and info is not None:
        text.append(
            f"Scalp maps show patterns {cite('haufe2014')}, drawn with MNE-Python {cite('gramfort2013')}."
        )
    return methods_section(text, cite, seeds=scores.attrs["seed"], versions=installed_versions(*_PACKAGES))


def _interval(scores: xr.Dataset) -> str:
    if scores.sizes["subject"] > 1:
        return (
            "Accuracy is the mean over subjects with a 95 % percentile bootstrap over subjects "
            f"({N_RESAMPLES:,} resamples, fitted models held fixed)."
        )
    return "Accuracy is given with a 95 % Wilson interval over the trials of this one subject."


def _config(scores: xr.Dataset) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(scores.attrs["config"])
    return config


def _window(condition: Mapping[str, Any]) -> str:
    band = condition["band"]
    if band is None:
        shown = "as recorded"
    elif band[0] is None:
        shown = f"below {band[1]:g} Hz"
    elif band[1] is None:
        shown = f"above {band[0]:g} Hz"
    else:
        shown = f"{band[0]:g}–{band[1]:g} Hz"
    return f"{shown}, {condition['tmin']:g} to {condition['tmax']:g} s".replace("-", "−")


def _per_class(scores: xr.Dataset) -> str:
    classes, counts = np.unique(scores.label.values, return_counts=True)
    return ", ".join(f"{count} {name}" for name, count in zip(classes, counts, strict=True))


def _networks(scores: xr.Dataset) -> list[str]:
    return [str(name) for name in scores.pipeline.values if str(name).startswith(NETWORK)]
