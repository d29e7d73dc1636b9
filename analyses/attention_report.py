"""The report of a study of attentions: what attention changes, beside baselines and the control."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from neuroattn.analyses import figures
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
    listed_versions,
    methods_section,
    number,
    plural,
    render_report,
    run_section,
    span,
)
from neuroattn.analyses.style import to_svg

_TUNING = {
    "fixed": "Every attention had its default options, the same for all subjects.",
    "nested": "Every pipeline chose among three settings in cross-validation within the training trials.",
    "paper": "Attentions had the options of the paper, which were chosen with the test session in view: their "
    "accuracies are too high by an unknown amount.",
}
_PROTOCOLS = {
    "leave-one-run-out": "Within each subject every run was tested once, with the subject's other runs for training.",
    "train-to-evaluation": "Within each subject training was on the first and testing on the last session.",
    "leave-one-subject-out": "Each subject was tested once, with all others for training.",
}


def write_attention_report(path: str | Path, study: xr.Dataset, *, command: str = "") -> None:
    """Write the report of :func:`neuroattn.analyses.compare_attentions`.

    Parameters
    ----------
    path : str or Path
    study : Dataset
        As that function returns it.
    command : str
    """
    config = json.loads(study.attrs["config"])
    datasets = [str(name) for name in study.dataset.values]
    n_subjects = study.sizes["subject"]
    band = config["classifier"]["band"]
    render_report(
        path,
        title="Channel attention compared for motor imagery",
        subtitle=f"{plural(n_subjects, 'subject')} of {', '.join(datasets)}; {plural(config['n_seeds'], 'seed')}",
        banner=None
        if band is not None and (band[0] or 0) >= 8
        else "Pipelines saw signals below 8 Hz, where evoked waves and eye movements follow the cue: no accuracy here "
        "shows imagery by itself.",
        summary=summarise(study),
        facts=_facts(study),
        sections=[
            Section("What attention changes", _effects(study)),
            Section("Subject by subject", _subjects(study, datasets)),
            Section("Accuracy", _accuracy(study, datasets)),
            _run(study, config, command),
            _methods(study, config),
        ],
    )


def summarise(study: xr.Dataset) -> list[str]:
    """Say what was found, in words that follow from the intervals."""
    text = []
    for name in study.dataset.values:
        own = study.sel(dataset=name)
        ahead, behind = ([str(p) for p in own.pipeline.values[mask]] for mask in _beyond(own, "attention"))
        n = int((study.role == "attention").sum())
        changed = [
            f"{verb} with {', '.join(names)}"
            for verb, names in (("higher", ahead), ("lower", behind))
            if names
        ]
        text.append(
            f"{name}: of {plural(n, 'attention')}, accuracy is {' and '.join(changed)} than without (95 % interval "
            "beyond zero, not corrected for their number)."
            if changed
            else f"{name}: with none of {plural(n, 'attention')} is accuracy clearly other than without."
        )
        better = [str(p) for p in own.pipeline.values[_beyond(own, "baseline")[0]]]
        if better:
            text.append(f"{name}: {', '.join(better)} is better than the network without attention.")
        subjects = study.isel(subject=np.flatnonzero(study.dataset_of.values == name))
        mean = subjects.accuracy.mean("seed").mean("subject")
        for control in study.pipeline.values[study.role.values == "control"]:
            text.append(
                f"{name}: the control, slow lateral differences of unfiltered trials from the cue on, scores "
                f"{_percent(mean.sel(pipeline=control))}. What it reads is not imagery; pipelines behind the filter do "
                "not see it."
            )
    return text


def _beyond(own: xr.Dataset, role: str) -> tuple[Any, Any]:
    low, high = own.difference_ci.transpose("bound", "pipeline").values
    member = own.role.values == role
    return member & (low > 0), member & (high < 0)


def _facts(study: xr.Dataset) -> list[Fact]:
    facts = []
    for role, label in (
        ("attention", "Largest effect of an attention"),
        ("baseline", "Best baseline, against the network"),
    ):
        own = study.combined_difference.where(study.role == role)
        if not np.isfinite(own.values).any():
            continue
        name = str(study.pipeline.values[int(np.nanargmax(own.values))])
        note = name
        if study.sizes["dataset"] == 1:
            low, high = 100 * study.difference_ci.sel(pipeline=name).values[0]
            note = f"{name}, {span(low, high, digits=1, signed=True)}" if np.isfinite(low) else name
        facts.append(Fact(label, f"{number(100 * np.nanmax(own.values), 1, signed=True)} points", note))
    return facts


def _effects(study: xr.Dataset) -> list[Block]:
    chart = Chart(
        to_svg(figures.plot_effects(study), "Differences to no attention"),
        "Differences.",
        "Accuracy minus that of the network without attention, paired within subjects, seeds averaged.",
        "Lines: 95 % intervals of Student's t over subjects.",
    )
    rows = []
    for name in study.dataset.values:
        for pipeline, role in zip(study.pipeline.values, study.role.values, strict=True):
            cell = study.sel(dataset=name, pipeline=pipeline)
            if role == "reference" or not np.isfinite(float(cell.difference)):
                continue
            low, high = 100 * cell.difference_ci.values
            note = span(low, high, digits=1, signed=True) if np.isfinite(low) else "one subject"
            difference = Cell(number(100 * cell.difference, 1, signed=True), note)
            tests = [Cell(_p(cell[p])) for p in ("p", "p_fwe", "smallest_p")]
            rows.append([Cell(str(name)), Cell(str(pipeline), str(role)), difference, *tests])
    caption = (
        "Differences in points. p: sign flips of whole subjects, two-sided; corrected: of the largest t within "
        "attentions, baselines or the control; the smallest p is what so many subjects can attain."
    )
    blocks: list[Block] = [
        Figures([chart]),
        Table(caption, ["Data set", "Pipeline", "Difference", "p", "p corrected", "Smallest p"], rows),
    ]
    if study.sizes["dataset"] > 1:
        rows = [
            [Cell(str(p)), Cell(number(100 * d, 1, signed=True)), Cell(_p(q))]
            for p, d, q in zip(
                study.pipeline.values, study.combined_difference, study.combined_p, strict=True
            )
            if np.isfinite(float(d))
        ]
        text = "All data sets together: Stouffer's method, weighted by the root of the number of subjects."
        blocks.append(Table(text, ["Pipeline", "Difference", "p"], rows))
    return blocks


def _subjects(study: xr.Dataset, datasets: Sequence[str]) -> list[Block]:
    charts = []
    for name in datasets:
        own = study.isel(subject=np.flatnonzero(study.dataset_of.values == name))
        svg = to_svg(figures.plot_subjects(own), f"Accuracy of each subject of {name}")
        charts.append(
            Chart(
                svg,
                f"{name}.",
                "Accuracy of each subject over all test trials, seeds averaged.",
                NO_INTERVALS,
            )
        )
    table = study.accuracy.mean("seed")
    rows = [
        [Cell(str(s)), *(Cell(_percent(table.sel(subject=s, pipeline=p))) for p in study.pipeline.values)]
        for s in study.subject.values
    ]
    return [
        Figures(charts),
        Table("Accuracy of each subject.", ["Subject", *map(str, study.pipeline.values)], rows, folded=True),
    ]


def _accuracy(study: xr.Dataset, datasets: Sequence[str]) -> list[Block]:
    scores = [name for name in ("accuracy", "kappa", "auc") if name in study]
    rows = []
    for name in datasets:
        own = study.isel(subject=np.flatnonzero(study.dataset_of.values == name))
        for pipeline, role in zip(study.pipeline.values, study.role.values, strict=True):
            one = own.sel(pipeline=pipeline)
            spread = (
                float(one.accuracy.mean("subject").std("seed", ddof=1)) if one.sizes["seed"] > 1 else np.nan
            )
            note = f"± {100 * spread:.1f} over seeds" if np.isfinite(spread) else ""
            cells = [Cell(_percent(one.accuracy.mean("seed").mean("subject")), note)]
            cells += [Cell(number(one[score].mean("seed").mean("subject"), 3)) for score in scores[1:]]
            rows.append([Cell(name), Cell(str(pipeline), str(role)), *cells])
    columns = ["Data set", "Pipeline", "Accuracy", *("Kappa" if s == "kappa" else "AUC" for s in scores[1:])]
    return [Table("Means over subjects; ± is the standard deviation of that mean over seeds.", columns, rows)]


def _methods(study: xr.Dataset, config: Mapping[str, Any]) -> Section:
    cite = Citations()
    classifier = config["classifier"]
    band = classifier["band"]
    filtered = "unfiltered" if band is None else f"filtered to {band[0] or 0:g}-{band[1] or np.inf:g} Hz"
    windows = "; ".join(
        f"{a:g} to {b:g} s after the cue ({name})" for name, (a, b) in config["window"].items()
    )
    names = [str(p) for p in study.pipeline.values]
    control = "slow-signals" in names
    text = [
        f"Motor imagery of {plural(study.sizes['subject'], 'subject')} was decoded by BaseNet without attention and "
        f"with {', '.join(config['attentions']) or 'none'} {cite('wimpff2024')}, beside "
        f"{', '.join(config['baselines']) or 'no baseline'}.",
        f"Trials were {filtered} and cut from {windows}{', for all pipelines but the control' if control else ''}.",
        _PROTOCOLS[config["protocol"]],
        f"Networks were trained for {classifier['n_epochs']} passes in batches of {classifier['batch_size']} with Adam "
        f"(learning rate {classifier['learning_rate']:g}, warm-up and half a cosine) and "
        f"{plural(config['n_seeds'], 'seed')}; nothing was stopped early or chosen by test accuracy.",
        _TUNING[config["tuning"]],
        "Accuracies of seeds were averaged within subjects; differences to the network without attention were paired "
        "within subjects, with Student's t intervals over subjects and sign-flip tests corrected by the largest t "
        f"{cite('nichols2002')}. Intervals are not corrected for the number of comparisons.",
    ]
    if study.sizes["dataset"] > 1:
        text.append(
            "Data sets were combined by Stouffer's method with weights of the root of the number of subjects "
            f"{cite('jayaram2018')}."
        )
    seeds = range(config["seed"], config["seed"] + config["n_seeds"])
    return methods_section(text, cite, seeds=seeds, versions=json.loads(study.attrs["versions"]))


def _run(study: xr.Dataset, config: Mapping[str, Any], command: str) -> Section:
    rows = [
        ("Protocol", config["protocol"]),
        ("Options", config["tuning"]),
        ("Seeds", f"{config['seed']} to {config['seed'] + config['n_seeds'] - 1}"),
        ("Test trials a subject", f"{int(study.n_trials.min())} to {int(study.n_trials.max())}"),
        ("Time", f"{float(study.attrs['seconds']):.0f} s in the last call"),
        ("Versions", listed_versions(json.loads(study.attrs["versions"]))),
        ("Command", command),
    ]
    return run_section(rows)


def _percent(value: Any) -> str:
    return f"{100 * float(value):.1f} %"


def _p(value: Any) -> str:
    return f"{float(value):.3f}" if not float(value) < 0.001 else f"{float(value):.1g}"
