"""The reports of encoders: of one subject's comparison, of fits on other data, and over subjects."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn._checks import check_shape
from neuroattn.analyses import figures
from neuroattn.analyses.fits import family
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

#: Packages whose versions a methods section of encoders names.
PACKAGES = ("scikit-learn", "himalaya", "skorch", "timm", "nilearn", "xarray")
SIMULATED = "The responses are simulated. Nothing here is evidence about real brains."


def seed_agreement(attention: xr.DataArray, *, different_images: bool = False) -> xr.DataArray:
    """Return how alike the attention maps of different seeds are.

    Parameters
    ----------
    attention : DataArray, dims (seed, stimulus, query, y, x)
    different_images : bool, default False
        Compare each map with another seed's map of the next image. This is the null: agreement that is no
        higher than this comes from a place that all images share and not from the image.

    Returns
    -------
    DataArray, dims (query)
        Pearson correlation over (y, x), averaged over pairs of seeds and over stimuli; from -1 to 1. NaN with
        one seed, where every map is constant and, with ``different_images``, with one stimulus.

    Examples
    --------
    >>> maps = np.random.default_rng(0).random((1, 4, 1, 6, 6))
    >>> maps = np.concatenate([maps, 2 * maps])
    >>> attention = xr.DataArray(maps, dims=("seed", "stimulus", "query", "y", "x"))
    >>> seed_agreement(attention).round(2).values
    array([1.])
    >>> bool(abs(seed_agreement(attention, different_images=True)) < 0.5)
    True
    """
    check_shape("attention", attention, "seed", "stimulus", "query", "y", "x")
    maps = attention.transpose("seed", "stimulus", "query", "y", "x").values.astype(np.float64)
    maps = maps.reshape(*maps.shape[:3], -1)
    maps = maps - maps.mean(-1, keepdims=True)
    length = np.linalg.norm(maps, axis=-1, keepdims=True)
    unit = np.divide(maps, length, out=np.full_like(maps, np.nan), where=length > 1e-12)
    n_seeds, n_stimuli, n_queries = unit.shape[:3]
    agreement = np.full(n_queries, np.nan)
    if n_seeds > 1 and (n_stimuli > 1 or not different_images):
        second = np.roll(unit, 1, axis=1) if different_images else unit
        pairs = [(unit[i] * second[j]).sum(-1) for i, j in itertools.combinations(range(n_seeds), 2)]
        values = np.stack(pairs).reshape(-1, n_queries)
        finite = np.isfinite(values).any(0)
        agreement[finite] = np.nanmean(values[:, finite], axis=0)
    coords = {name: coord for name, coord in attention.coords.items() if coord.dims == ("query",)}
    return xr.DataArray(agreement, dims="query", coords=coords, name="seed_agreement")


_SCORES = ("correlation", "noise_ceiling", "membership", "hemisphere", "unit_kind", "vertex_index")
_ROI_SCORES = (
    *("n_units", "n_dropped", "best_baseline", "difference", "difference_ci"),
    *(f"{score}{part}" for score in figures.SCORE_LABELS for part in ("", "_median", "_ci", "_shuffled")),
)


def write_encoder_report(
    path: str | Path,
    *,
    scores: xr.Dataset,
    roi_scores: xr.Dataset,
    config: Mapping[str, Any],
    attention: xr.DataArray | None = None,
    masking: xr.Dataset | None = None,
    images: NDArray[np.uint8] | None = None,
    truth: xr.Dataset | None = None,
    surface: str | None = None,
    title: str = "Encoding models compared",
) -> None:
    """Write the report of encoders and their scores.

    Parameters
    ----------
    path : str or Path
    scores : Dataset, dims (subject, model, seed, unit)
        ``correlation`` (subject, model, seed, unit) and ``noise_ceiling`` (subject, unit) with coordinates
        ``membership`` (roi, unit), ``hemisphere``, ``unit_kind`` and ``vertex_index``; attributes
        ``simulated`` (0 or 1), ``seed`` and ``min_ceiling``.
    roi_scores : Dataset, dims (model, roi, bound)
        Per region: ``n_units`` and ``n_dropped`` (roi), the latter without a usable ceiling; ``<score>``,
        ``<score>_median`` and ``<score>_shuffled`` (model, roi) and ``<score>_ci`` (model, roi, bound) for
        ``correlation`` and ``r2_over_ceiling``; ``best_baseline`` (roi), ``difference`` (model, roi) and
        ``difference_ci`` (model, roi, bound), NaN for models that are baselines themselves. The region "all"
        holds every unit. A region without units is NaN.
    config : mapping
        What was run; each of ``command``, ``dataset``, ``encoders``, ``backbone``, ``layer``, ``split``, ``seeds``,
        ``epochs``, ``n_train``, ``n_test``, ``n_bootstrap``, ``notes`` (list of str), ``versions`` (dict),
        ``durations`` (dict of seconds) and ``not_applicable`` (dict of model to reason) is shown if present.
    attention : DataArray, dims (seed, stimulus, query, y, x), optional
        Averaged over heads, with coordinates ``roi`` and ``hemisphere`` along ``query`` and ids along
        ``stimulus``.
    masking : Dataset, dims (mask, control, fraction, query, bound), optional
        From :func:`neuroattn.analyses.token_masking.masking_effect`: what masking the attended tokens costs.
    images : uint8 array, shape (stimulus, y, x, 3), optional
        The stimuli of ``attention``; without them the maps stand alone.
    truth : Dataset, optional
        Planted parameters of a simulated subject: ``kind`` (roi); with ``object_mask``
        (stimulus, category, y, x) and ``cue`` (roi), the category that drives each region or "", the cued
        objects are outlined and the attention on them is measured.
    surface : {"fsaverage", "fsaverage5"}, optional
        Mesh that ``vertex_index`` counts. Units of other meshes and without one are drawn against their
        noise ceilings instead.
    title : str, default "Encoding models compared"

    Examples
    --------
    >>> import tempfile
    >>> scores = xr.Dataset(
    ...     {"correlation": (("subject", "model", "seed", "unit"), [[[[0.5, 0.3]]]]),
    ...      "noise_ceiling": (("subject", "unit"), [[0.6, 0.5]])},
    ...     {"subject": ["monkey 1"], "model": ["ridge"], "seed": [0], "roi": ["V4"],
    ...      "membership": (("roi", "unit"), [[True, True]]), "hemisphere": ("unit", ["none"] * 2),
    ...      "unit_kind": ("unit", ["neuron"] * 2), "vertex_index": ("unit", [-1, -1])})
    >>> table = {"n_units": ("roi", [2, 2]), "n_dropped": ("roi", [0, 0]), "best_baseline": ("roi", ["", ""])}
    >>> for name, value in {"correlation": 0.4, "r2_over_ceiling": 0.3, "difference": np.nan}.items():
    ...     for part in ("", "_median", "_shuffled"):
    ...         table[name + part] = ("model", "roi"), [[value, value]]
    ...     table[name + "_ci"] = ("model", "roi", "bound"), [[[value - 0.1, value + 0.1]] * 2]
    >>> roi_scores = xr.Dataset(table, {"model": ["ridge"], "roi": ["all", "V4"], "bound": ["low", "high"]})
    >>> page = Path(tempfile.mkdtemp()) / "report.html"
    >>> write_encoder_report(page, scores=scores, roi_scores=roi_scores, config={"n_test": 50})
    >>> "95 % percentile bootstrap over the 50 test images" in page.read_text(encoding="utf-8")
    True
    """
    for name, table, needed in (("scores", scores, _SCORES), ("roi_scores", roi_scores, _ROI_SCORES)):
        for variable in needed:
            if variable not in table.variables:
                raise ValueError(f"{name} must have {variable!r}, got {', '.join(map(str, table.variables))}")
    model = contender(roi_scores)
    simulated = bool(scores.attrs.get("simulated", 0))
    sections = [
        Section("Accuracy by region", _accuracy(scores, roi_scores, config)),
        Section("Against the best baseline", _comparison(roi_scores, model, config)),
        Section("Unit by unit", _units(scores, roi_scores, model, surface)),
        Section(
            "What the regions attend to",
            [*_attention(roi_scores, model, attention, images, truth), *_masking(masking)],
        ),
        Section("What was planted, what was found", _planted(roi_scores, model, attention, truth)),
        _run(scores, roi_scores, config),
        _methods(scores, roi_scores, config, surface),
    ]
    subtitle = [
        str(config["dataset"]) if "dataset" in config else "",
        plural(scores.sizes.get("subject", 1), "subject"),
        f"{_count(roi_scores)} {_unit_word(scores)}",
        f"seed {scores.attrs['seed']}" if "seed" in scores.attrs else "",
    ]
    render_report(
        path,
        title=title,
        subtitle=" · ".join(filter(None, subtitle)),
        banner=SIMULATED if simulated else None,
        summary=[*summarise(roi_scores), *_planted_summary(roi_scores, model, truth)],
        facts=_facts(roi_scores, model),
        sections=sections,
    )


def write_group_report(
    path: str | Path,
    *,
    group: xr.Dataset,
    config: Mapping[str, Any],
) -> None:
    """Write the summary of several subjects, beside their own reports.

    Parameters
    ----------
    path : str or Path
    group : Dataset, dims (subject, model, roi, bound)
        From :func:`neuroattn.analyses.group.summarise_group`; attributes ``contender`` and ``simulated``. The report of
        subject S is expected at ``S/report.html`` beside ``path``.
    config : mapping
        As for :func:`write_encoder_report`.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.analyses.group import summarise_group
    >>> def subject(a, b):
    ...     values = ("model", "roi"), [[a, a], [b, b]]
    ...     return xr.Dataset({"correlation": values, "r2_over_ceiling": values},
    ...                       {"model": ["attention", "ridge"], "roi": ["all", "FFA"]}, {"contender": "attention"})
    >>> group = summarise_group({"subj01": subject(0.5, 0.3), "subj02": subject(0.7, 0.4)})
    >>> page = Path(tempfile.mkdtemp()) / "report.html"
    >>> write_group_report(page, group=group, config={})
    >>> "no p can be below 0.5" in page.read_text(encoding="utf-8")
    True
    """
    subjects = [str(name) for name in group.subject.values]
    simulated = bool(group.attrs.get("simulated", 0))
    n = len(subjects)
    smallest = float(np.nanmin(group.smallest_p.values))
    rule = (
        f"Intervals are Student's t over {plural(n, 'subject')}; p-values flip the signs of whole subjects, "
        f"two-sided. With {plural(n, 'subject')} no p can be below {smallest:.2g}."
    )
    sections = [
        Section("Accuracy by region", _group_accuracy(group, rule)),
        Section("Against every baseline", _group_comparison(group, rule)),
        Section("Subject by subject", _group_subjects(group)),
        _group_run(group, config),
        _group_methods(group, config),
    ]
    render_report(
        path,
        title="Encoding models compared over subjects",
        subtitle=f"{plural(n, 'subject')} · {listed(subjects, most=12)}",
        banner=SIMULATED if simulated else None,
        summary=[_group_summary(group), rule],
        sections=sections,
    )


def _group_summary(group: xr.Dataset) -> str:
    if "difference" not in group:
        return "No model was compared with a baseline in this run."
    ahead: list[str] = []
    behind: list[str] = []
    other: list[str] = []
    compared = _group_against_best(group)
    for roi, low, high in zip(
        compared.roi.values,
        *compared.difference_ci.isel(model=0).transpose("bound", "roi").values,
        strict=True,
    ):
        if str(roi) != "all" or compared.sizes["roi"] == 1:
            (ahead if low > 0 else behind if high < 0 else other).append(str(roi))
    n = len(ahead) + len(behind) + len(other)

    def named(rois: list[str]) -> str:
        return f"{len(rois)} of {n} regions{': ' + ', '.join(rois) if rois else ''}"

    return (
        f"Over subjects, the {group.attrs['contender']} model predicts better than the best baseline in "
        f"{named(ahead)}; the baseline is better in {named(behind)}; neither is clearly better in {named(other)}."
    )


def _group_against_best(group: xr.Dataset) -> xr.Dataset:
    """Return the contender against the best baseline of each region, shaped for the figure of differences."""
    name = str(group.attrs["contender"])
    best = group.best_baseline.values
    known = [
        i
        for i, model in enumerate(best)
        if model and np.isfinite(group.difference.sel(model=model).values[i])
    ]
    pairs = [group.sel(model=best[i]).isel(roi=i) for i in known]
    return xr.Dataset(
        {
            "difference": (("model", "roi"), [[float(pair.difference) for pair in pairs]]),
            "difference_ci": (("model", "roi", "bound"), [[pair.difference_ci.values for pair in pairs]]),
            "best_baseline": ("roi", best[known]),
        },
        {"model": [name], "roi": group.roi.values[known], "bound": ["low", "high"]},
    )


def _group_accuracy(group: xr.Dataset, rule: str) -> list[Block]:
    table = group.assign(n_units=group.n_subjects)
    drawn, left_out = drawn_models(table)
    charts, tables = [], []
    for score, title in (
        ("correlation", "Correlation by region."),
        ("r2_over_ceiling", "Share of the explainable variance."),
    ):
        if not np.isfinite(table[score].values).any():
            continue
        svg = to_svg(figures.plot_roi_scores(table.sel(model=drawn), score), f"Mean over subjects: {title}")
        charts.append(Chart(svg, title, f"Mean over subjects of the means over units.{left_out}", rule))
        rows = []
        for roi in table.roi.values:
            region = table.sel(roi=roi)
            cells = [
                Cell(number(float(value)), span(low, high) if np.isfinite(low) else "")
                for value, (low, high) in zip(region[score].values, region[f"{score}_ci"].values, strict=True)
            ]
            rows.append([Cell(str(roi)), Cell(str(int(region.n_subjects))), *cells])
        columns = ["Region", "Subjects", *map(str, table.model.values)]
        tables.append(
            Table(f"{title[:-1]}, mean over subjects, in small print the 95 % interval.", columns, rows)
        )
    return [Figures(charts), *tables] if charts else []


def _group_comparison(group: xr.Dataset, rule: str) -> list[Block]:
    if "difference" not in group:
        return []
    name = str(group.attrs["contender"])
    blocks: list[Block] = []
    compared = _group_against_best(group)
    if compared.sizes["roi"]:
        baselines = dict.fromkeys(compared.best_baseline.values.tolist())
        others = compared.reindex(model=[name, *(m for m in baselines if m != name)])
        svg = to_svg(figures.plot_differences(others, name), f"{name} minus the best baseline, over subjects")
        caption = (
            f"Correlation of the {name} model minus that of the baseline with the highest mean over subjects. "
            "Filled where the interval lies beyond zero; intervals are not corrected for the number of regions."
        )
        blocks.append(Figures([Chart(svg, "Difference to the best baseline.", caption, rule)]))
    rows = []
    for roi in group.roi.values:
        for model in group.model.values:
            cell = group.sel(roi=roi, model=model)
            if not np.isfinite(float(cell.difference)):
                continue
            low, high = cell.difference_ci.values
            rows.append(
                [
                    Cell(str(roi)),
                    Cell(str(model)),
                    Cell(
                        number(float(cell.difference), 3, signed=True),
                        span(low, high, digits=3, signed=True),
                    ),
                    *[Cell(number(float(cell[p]), 3)) for p in ("p", "p_fdr", "p_fwe", "smallest_p")],
                ]
            )
    caption = (
        f"Correlation of the {name} model minus that of each baseline, paired within subjects. p: sign flips of "
        "subjects; FDR and FWE are over regions; the smallest p is what so many subjects can attain."
    )
    columns = ["Region", "Baseline", "Difference", "p", "p FDR", "p FWE", "Smallest p"]
    return [*blocks, Table(caption, columns, rows, folded=len(rows) > 40)]


def _group_subjects(group: xr.Dataset) -> list[Block]:
    drawn, left_out = drawn_models(group)
    rows = [
        [Cell(str(name))]
        + [
            Cell(number(float(value)))
            for value in group.correlation_by_subject.sel(subject=name, model=drawn, roi="all")
        ]
        for name in group.subject.values
    ]
    caption = "Correlation r over all units. Each subject has a report of its own at SUBJECT/report.html."
    if left_out:
        caption += " Of every model the best of its layers; group.nc holds all."
    return [Table(caption, ["Subject", *drawn], rows)]


def _group_run(group: xr.Dataset, config: Mapping[str, Any]) -> Section:
    rows = [
        ("Subjects", listed(group.subject.values)),
        ("Responses", "simulated" if group.attrs.get("simulated", 0) else "measured"),
        ("Backbone", config.get("backbone")),
        ("Layer", config.get("layer")),
        ("Split", config.get("split")),
        ("Models", listed(group.model.values)),
        ("Seeds", listed(np.atleast_1d(config["seeds"])) if "seeds" in config else None),
        ("Time", _durations(config)),
        ("Versions", listed_versions(config.get("versions", {}))),
        ("Command", config.get("command")),
    ]
    return run_section(rows)


def _group_methods(group: xr.Dataset, config: Mapping[str, Any]) -> Section:
    cite = Citations()
    text = [
        f"Encoding models were fitted to each of {plural(group.sizes['subject'], 'subject')} and scored on held-out "
        f"images: {_described(group.model.values, cite)}{_features(config)}.",
        "Accuracy is the Pearson correlation between predicted and measured responses, averaged over the units of a "
        "region and then over subjects, with 95 % intervals of Student's t over subjects.",
    ]
    if "difference" in group:
        text.append(
            f"The {group.attrs['contender']} model was compared with every baseline within subjects by flipping the "
            "signs of whole subjects, two-sided, with the false discovery rate and, by the largest t over regions "
            f"{cite('nichols2002')}, the family-wise error controlled over regions; intervals are not corrected."
        )
    return methods_section(text, cite, seeds=config.get("seeds"), versions=config.get("versions"))


def contender(roi_scores: xr.Dataset) -> str | None:
    """Return the model that is compared with the best other one, or None where nothing is compared.

    Examples
    --------
    >>> contender(xr.Dataset({"difference": (("model", "roi"), [[np.nan], [0.1]])},
    ...                      {"model": ["ridge", "attention"]}))
    'attention'
    """
    compared = np.isfinite(roi_scores.difference.transpose("model", "roi").values).any(1)
    return str(roi_scores.model.values[compared][0]) if compared.any() else None


def verdicts(roi_scores: xr.Dataset) -> dict[str, str]:
    """Return, for each region that was compared, the model whose advantage has an interval beyond zero.

    Parameters
    ----------
    roi_scores : Dataset
        As in :func:`write_encoder_report`.

    Returns
    -------
    dict of str to str
        Region to model: the contender, its best baseline, or "" where the interval holds zero.

    Examples
    --------
    >>> scores = xr.Dataset(
    ...     {"difference": (("model", "roi"), [[-0.2, 0.1]]),
    ...      "difference_ci": (("model", "roi", "bound"), [[[-0.3, -0.1], [-0.05, 0.2]]]),
    ...      "best_baseline": ("roi", ["ridge", "ridge"])},
    ...     {"model": ["attention"], "roi": ["V1", "FFA"], "bound": ["low", "high"]})
    >>> verdicts(scores)
    {'V1': 'ridge', 'FFA': ''}
    """
    model = contender(roi_scores)
    if model is None:
        return {}
    found: dict[str, str] = {}
    table = roi_scores.sel(model=model)
    low, high = table.difference_ci.transpose("bound", "roi").values
    for i, roi in enumerate(table.roi.values):
        if np.isfinite(low[i]) and np.isfinite(high[i]):
            baseline = str(table.best_baseline.values[i])
            found[str(roi)] = model if low[i] > 0 else baseline if high[i] < 0 else ""
    return found


def summarise(roi_scores: xr.Dataset) -> list[str]:
    """Say in which regions the contender wins, in which a baseline does, and in which neither.

    Examples
    --------
    >>> scores = xr.Dataset(
    ...     {"difference": (("model", "roi"), [[-0.2, 0.1]]),
    ...      "difference_ci": (("model", "roi", "bound"), [[[-0.3, -0.1], [-0.05, 0.2]]]),
    ...      "best_baseline": ("roi", ["ridge", "ridge"])},
    ...     {"model": ["attention"], "roi": ["V1", "FFA"], "bound": ["low", "high"]})
    >>> print(summarise(scores)[0])
    The attention model predicts better than the best baseline in no region. A baseline predicts better in
    1 of 2 regions: V1 (ridge). Neither is clearly better in 1 of 2: FFA.
    """
    model = contender(roi_scores)
    found = verdicts(roi_scores)
    if len(found) > 1:
        found.pop("all", None)  # the other regions make it up
    if model is None or not found:
        return ["No model was compared with a baseline in this run."]
    won = [roi for roi, winner in found.items() if winner == model]
    lost = [f"{roi} ({winner})" for roi, winner in found.items() if winner not in ("", model)]
    even = [roi for roi, winner in found.items() if not winner]
    n = len(found)
    noun = "region" if n == 1 else "regions"
    parts = [
        f"The {model} model predicts better than the best baseline in "
        + (f"{len(won)} of {n} {noun}: {', '.join(won)}." if won else "no region."),
        "A baseline predicts better in "
        + (f"{len(lost)} of {n} {noun}: {', '.join(lost)}." if lost else "no region."),
    ]
    if even:
        parts.append(f"Neither is clearly better in {len(even)} of {n}: {', '.join(even)}.")
    return [" ".join(parts)]


def _accuracy(scores: xr.Dataset, roi_scores: xr.Dataset, config: Mapping[str, Any]) -> list[Block]:
    drawn, rule = drawn_models(roi_scores)
    chart = Chart(
        to_svg(
            figures.plot_roi_scores(roi_scores.sel(model=drawn)),
            "Correlation of every model in every region, with intervals",
        ),
        "Correlation by region.",
        f"Mean over the units of each region of the correlation between predicted and measured responses to "
        f"test images. Ticks: the same with the test images shuffled.{rule}",
        f"{_interval(config)} They cover neither subjects nor seeds.",
    )
    charts, tables = [chart], [_score_table(roi_scores, "correlation", "Correlation r by region and model.")]
    if np.isfinite(roi_scores.r2_over_ceiling.values).any():
        least = scores.attrs.get("min_ceiling")
        rule = f" of at least {least:g}" if least is not None else ""
        charts.append(
            Chart(
                to_svg(
                    figures.plot_roi_scores(roi_scores.sel(model=drawn), "r2_over_ceiling"),
                    "Squared correlation relative to the noise ceiling of every model in every region",
                ),
                "Share of the explainable variance.",
                f"sign(r) r² divided by the noise ceiling, mean over units with a ceiling{rule}; not "
                "clipped, so that single units may exceed 1. Ticks as in the figure before.",
                f"{_interval(config)} The ceiling itself is taken as known.",
            )
        )
        tables.append(_score_table(roi_scores, "r2_over_ceiling", "r² / noise ceiling by region and model."))
        last: list[Block] = []
    else:
        last = [Paragraph("The noise ceiling of these responses is unknown, so r is not divided by it.")]
    return [Figures(charts), *last, *tables, *_significance(scores), _control_table(scores, roi_scores)]


def drawn_models(roi_scores: xr.Dataset) -> tuple[list[str], str]:
    """Return the models that figures show, and the sentence that says so where some are left to the tables.

    Of a model on several layers one is drawn: the one that is compared with the baselines, or else the one with the
    highest mean correlation.

    Examples
    --------
    >>> scores = xr.Dataset({"correlation": (("model", "roi"), [[0.1], [0.3], [0.2]]),
    ...                      "difference": (("model", "roi"), [[np.nan]] * 3)},
    ...                     {"model": ["ridge@block3", "ridge@block7", "probe"], "roi": ["all"]})
    >>> drawn_models(scores)[0]
    ['ridge@block7', 'probe']
    """
    models = [str(name) for name in roi_scores.model.values]
    compared = roi_scores.attrs.get("contender") or contender(roi_scores)
    families: dict[str, list[str]] = {}
    for name in models:
        families.setdefault(family(name), []).append(name)
    mean = roi_scores.correlation.sel(roi="all")

    def rank(name: str) -> tuple[bool, float]:
        return name == compared, float(mean.sel(model=name).fillna(-np.inf))

    drawn = [max(names, key=rank) for names in families.values()]
    if len(drawn) == len(models):
        return drawn, ""
    return drawn, " Of every model the best of its layers is drawn; the tables hold all."


def _significance(scores: xr.Dataset) -> list[Block]:
    if "p" not in scores:
        return []
    n_shuffles = int(scores.attrs["n_shuffles"])
    regions = {"all": np.ones(scores.sizes["unit"], bool)} | {
        str(roi): scores.membership.sel(roi=roi).values.astype(bool) for roi in scores.roi.values
    }
    rows = []
    for roi, members in regions.items():
        if not members.any():
            continue
        row = [Cell(roi), Cell(f"{int(members.sum()):,}")]
        for model in scores.model.values:
            inside = scores.sel(model=model).isel(subject=0, unit=np.flatnonzero(members))
            fdr, fwe = (float((inside[name] < 0.05).mean()) for name in ("p_fdr", "p_fwe"))
            row.append(Cell(f"{100 * fdr:.0f} %", f"{100 * fwe:.0f} %"))
        rows.append(row)
    seeds = ", mean over seeds" if scores.sizes["seed"] > 1 else ""
    caption = (
        f"Units predicted above chance{seeds}: share with a false discovery rate below .05, in small print with a "
        "family-wise error below .05 by the largest correlation over units. One-sided, from "
        f"{n_shuffles:,} shuffles of the test images, so that no p is below {1 / (n_shuffles + 1):.2g}; a fitted "
        "model is held fixed, and both corrections are over all units of one model."
    )
    return [Table(caption, ["Region", "Units", *map(str, scores.model.values)], rows, folded=True)]


def _score_table(roi_scores: xr.Dataset, score: str, caption: str) -> Table:
    models = [str(model) for model in roi_scores.model.values]
    ceiling = score == "r2_over_ceiling"
    rows = []
    for roi in roi_scores.roi.values:
        region = roi_scores.sel(roi=roi)
        n_units, n_dropped = int(region.n_units), int(region.n_dropped)
        counts = [Cell(f"{n_units:,}")]
        if ceiling:
            counts = [Cell(f"{n_units - n_dropped:,}"), Cell(f"{n_dropped:,}")]
        values = region[score].values
        best = np.nanmax(values) if np.isfinite(values).any() else np.nan
        cells = []
        for model, value in zip(models, values, strict=True):
            low, high = region[f"{score}_ci"].sel(model=model).values
            if np.isfinite(value):
                strong = bool(value == best and low > 0)
                cells.append(Cell(number(value), span(low, high), strong))
            else:
                cells.append(Cell("", _absent(n_units, n_dropped, ceiling)))
        rows.append([Cell(str(roi)), *counts, *cells])
    columns = ["Region", "Units kept", "Dropped", *models] if ceiling else ["Region", "Units", *models]
    caption += (
        " In small print the 95 % interval. Bold is the highest value of a row where its interval lies above "
        "zero; it is no test against the others."
    )
    if ceiling:
        caption += " Dropped are units without a usable noise ceiling."
    return Table(caption, columns, rows)


def _control_table(scores: xr.Dataset, roi_scores: xr.Dataset) -> Table:
    models = [str(model) for model in roi_scores.model.values]
    rows = []
    spread = _seed_spread(scores)
    permuted = [
        name
        for name in ("correlation_permuted", "correlation_permuted_max", "p_permuted")
        if name in roi_scores
    ]
    for roi in roi_scores.roi.values:
        for model in models:
            cell = roi_scores.sel(roi=roi, model=model)
            if int(cell.n_units) == 0:
                continue
            rows.append(
                [
                    Cell(str(roi)),
                    Cell(model),
                    Cell(number(float(cell.correlation_median))),
                    Cell(number(float(cell.correlation_shuffled), 3)),
                    Cell(number(float(cell.r2_over_ceiling_median))),
                    Cell(number(float(cell.r2_over_ceiling_shuffled), 3)),
                    Cell(number(spread.get((str(roi), model), np.nan), 3)),
                    *[Cell(number(float(cell[name]), 3)) for name in permuted],
                ]
            )
    caption = (
        "Medians over units, the control with shuffled test images, and the spread of mean r over seeds."
    )
    head = [
        "Region",
        "Model",
        "Median r",
        "Shuffled r",
        "Median r²/NC",
        "Shuffled r²/NC",
        "SD of r over seeds",
    ]
    if permuted:
        caption += (
            " Permuted: the model fitted again to permuted training responses, penalties chosen anew; mean and"
            " largest of the null, and the share of it that reaches the observed r."
        )
        head += ["Permuted r", "Largest permuted r", "p"]
    return Table(caption, head, rows, folded=True)


def _seed_spread(scores: xr.Dataset) -> dict[tuple[str, str], float]:
    """Return the standard deviation over seeds of the mean correlation, by region and model."""
    r = scores.correlation
    if scores.sizes["seed"] < 2:
        return {}
    regions = {"all": np.ones(scores.sizes["unit"], bool)}
    for roi in scores.roi.values:
        regions[str(roi)] = scores.membership.sel(roi=roi).values.astype(bool)
    spread = {}
    for roi, members in regions.items():
        if members.any():
            inside = r.isel(unit=np.flatnonzero(members)).mean(["subject", "unit"])
            for model in scores.model.values:
                spread[roi, str(model)] = float(inside.sel(model=model).std("seed", ddof=1))
    return spread


def _comparison(roi_scores: xr.Dataset, model: str | None, config: Mapping[str, Any]) -> list[Block]:
    if model is None:
        return []
    chart = Chart(
        to_svg(
            figures.plot_differences(roi_scores, model),
            f"Difference in correlation between the {model} model and the best baseline, by region",
        ),
        "Difference to the best baseline.",
        f"Correlation of the {model} model minus that of the baseline with the highest correlation in the "
        "region (named at the right), on the same test images. Filled where the interval lies beyond zero: to the "
        f"right the {model} model predicts better, to the left the baseline. The baseline is chosen on these test "
        "images, which favours it.",
        f"{_interval(config)} They are not corrected for the number of regions.",
    )
    found = verdicts(roi_scores)
    rows = []
    for roi, winner in found.items():
        cell = roi_scores.sel(roi=roi, model=model)
        low, high = cell.difference_ci.values
        rows.append(
            [
                Cell(roi),
                Cell(str(cell.best_baseline.item())),
                Cell(number(float(cell.difference), 3, signed=True)),
                Cell(span(low, high, digits=3, signed=True)),
                Cell(winner or "neither"),
            ]
        )
    table = Table(
        f"r of the {model} model minus r of the best baseline.",
        ["Region", "Best baseline", "Difference", "95 % interval", "Better"],
        rows,
    )
    return [Figures([chart]), table]


def _units(scores: xr.Dataset, roi_scores: xr.Dataset, model: str | None, surface: str | None) -> list[Block]:
    r = scores.correlation.mean([d for d in scores.correlation.dims if d not in ("model", "unit")])
    shown = model or str(roi_scores.model.values[0])
    baseline = str(roi_scores.best_baseline.sel(roi="all").item()) if model is not None else None
    kind = _unit_word(scores)
    if surface in ("fsaverage", "fsaverage5") and figures.on_surface(scores).any():
        n_placed, n_units = int(figures.on_surface(scores).sum()), scores.sizes["unit"]
        place = "Lateral, medial and ventral views of inflated fsaverage5; grey is cortex without units."
        if n_placed < n_units:
            place += f" {n_placed:,} of {n_units:,} vertices lie on this coarser mesh."
        charts = [
            Chart(
                to_svg(
                    figures.plot_surfaces(r.sel(model=shown), label=f"Correlation r, {shown}"),
                    f"Correlation of the {shown} model on the cortical surface",
                ),
                f"Correlation of the {shown} model.",
                place,
                NO_INTERVALS,
            )
        ]
        if baseline is not None:
            charts.append(
                Chart(
                    to_svg(
                        figures.plot_surfaces(
                            r.sel(model=shown) - r.sel(model=baseline),
                            label=f"r of {shown} − r of {baseline}",
                            diverging=True,
                        ),
                        f"Correlation of the {shown} model minus that of {baseline} on the cortical surface",
                    ),
                    f"Difference to {baseline}.",
                    f"Orange where the {shown} model predicts better, purple where {baseline} does, which is "
                    "the best baseline over all units. Single vertices are noisy.",
                    f"{NO_INTERVALS} Those of regions are above.",
                )
            )
        return [Figures(charts)]
    models = [shown] if baseline is None else [shown, baseline]
    ceiling = scores.noise_ceiling.mean([d for d in scores.noise_ceiling.dims if d != "unit"])
    known = bool(np.isfinite(ceiling.values).any())
    chart = Chart(
        to_svg(figures.plot_unit_scores(r.sel(model=models), ceiling), f"Correlation of each of the {kind}"),
        f"Correlation of single {kind}.",
        "Each mark is one unit; on the grey diagonal a model would explain all that the noise allows."
        if known
        else f"Number of {kind} by correlation; their noise ceiling is unknown.",
        NO_INTERVALS,
    )
    return [Figures([chart])]


def _attention(
    roi_scores: xr.Dataset,
    model: str | None,
    attention: xr.DataArray | None,
    images: NDArray[np.uint8] | None,
    truth: xr.Dataset | None,
) -> list[Block]:
    if attention is None:
        return []
    n_shown = min(4, attention.sizes["stimulus"])
    agreement = seed_agreement(attention)
    null = seed_agreement(attention, different_images=True)
    outlines = cued_objects(attention, truth)
    rois, rule = _shown_rois(roi_scores, model, attention)
    wanted = [int(i) for roi in rois for i in np.flatnonzero(attention.roi.values == roi)]
    panels = []
    for side in ("left", "right", "none"):
        queries = [i for i in wanted if attention.hemisphere.values[i] == side]
        if queries:
            panels.append(queries)
    limit = figures.attention_limit(attention.isel(query=wanted, stimulus=slice(n_shown)))
    charts: list[Chart] = []
    for queries in panels:
        part = attention.isel(query=queries, stimulus=slice(n_shown))
        notes = None
        if np.isfinite(agreement.values[queries]).any():
            notes = [f"seeds {number(agreement.values[i])}" for i in queries]
        side = str(attention.hemisphere.values[queries[0]])
        where = "" if side == "none" else f", {side} hemisphere"
        caption = (
            f"The first {n_shown} of {attention.sizes['stimulus']} test images with maps. Colour: mean over "
            f"{plural(attention.sizes['seed'], 'seed')} and over heads, as a multiple of uniform attention"
            + (", clear at 1 or below. " if images is not None else ". ")
            + rule
        )
        if notes is not None:
            caption += (
                " Above each column, after “seeds”: the mean correlation between the maps of two seeds."
            )
        if outlines is not None and outlines[:n_shown, queries].any():
            caption += " Outlined in cyan: the object that drives the region in the simulation."
        svg = to_svg(
            figures.plot_attention(
                part,
                images=None if images is None else images[:n_shown],
                outlines=None if outlines is None else outlines[:n_shown, queries],
                notes=notes,
                limit=limit,
            ),
            f"Attention of {', '.join(figures.query_names(part))} over test images",
        )
        if charts:
            caption = "As in the figure before."
        charts.append(Chart(svg, f"Attention maps{where}.", caption, NO_INTERVALS))
    blocks: list[Block] = [Figures(charts)]
    if np.isfinite(agreement.values).any():
        chart = Chart(
            to_svg(figures.plot_seed_agreement(agreement, null), "Agreement of attention maps between seeds"),
            "Agreement between seeds.",
            "Pearson correlation between the maps of two seeds, mean over pairs of "
            f"{plural(attention.sizes['seed'], 'seed')} and "
            f"{plural(attention.sizes['stimulus'], 'image')}. Hollow: maps of two different images. Where "
            "hollow and filled agree alike, the map is a place that all images share and not an answer to "
            "the image. A map shows what a fitted model reads, not what a brain does.",
            NO_INTERVALS,
        )
        blocks.append(Figures([chart]))
    else:
        blocks.append(Paragraph("With one seed the agreement of these maps is unknown."))
    return blocks


def _masking(masking: xr.Dataset | None) -> list[Block]:
    if masking is None:
        return []
    fraction = float(masking.fraction.values[0])
    rows, explanatory = [], []
    for i, name in enumerate(figures.query_names(masking.explanatory)):
        query = masking.isel(query=i, fraction=0)
        low, high = query.mean_excess_interval.sel(control="random").values
        named = bool(query.explanatory)
        if named:
            explanatory.append(name)
        drops = [
            Cell(number(float(query["drop"].sel(mask=mask)), 3))
            for mask in ("attended", "random", "shuffled")
        ]
        excess = Cell(
            number(float(query.mean_excess.sel(control="random")), 3, signed=True),
            span(low, high, digits=3, signed=True),
        )
        verdict = Cell("explanatory" if named else "not shown to explain")
        rows.append([Cell(name), Cell(number(float(query.correlation))), *drops, excess, verdict])
    names = figures.query_names(masking.explanatory)
    missing = [name for name in names if name not in explanatory]
    if not explanatory:
        which = f"none of {len(names)} queries"
    elif not missing:
        which = f"all {len(names)} queries"
    elif len(missing) < len(explanatory):
        which = f"all but {len(missing)} of {len(names)} queries ({', '.join(missing)})"
    else:
        which = f"{len(explanatory)} of {len(names)} queries: {', '.join(explanatory)}"
    text = (
        f"Do the maps explain the predictions? Replacing the {100 * fraction:.0f} % of tokens that a query attends to "
        f"most by the mean token costs more than replacing as many random tokens for {which}. Only those maps are "
        "called explanatory; where masking what the query attends to on another image costs as much, the map shows a "
        "place and not something seen in this image."
    )
    caption = (
        "Drop in mean r over the units of a query when tokens are masked: the attended ones, random ones, and those "
        "attended to on another image. Excess: attended minus random, with the 95 % interval over test images. "
        "Weights of the first seed and fold."
    )
    columns = ["Query", "r", "Attended", "Random", "Other image", "Excess over random", "Map"]
    return [Paragraph(text), Table(caption, columns, rows, folded=True)]


def _shown_rois(roi_scores: xr.Dataset, model: str | None, attention: xr.DataArray) -> tuple[list[str], str]:
    """Regions whose maps are shown, at most three, and the sentence that says how they were chosen."""
    rois = list(dict.fromkeys(str(roi) for roi in attention.roi.values))
    if len(rois) <= 3:
        return rois, ""
    gain = {}
    if model is not None:
        for roi, value in zip(
            roi_scores.roi.values, roi_scores.difference.sel(model=model).values, strict=True
        ):
            if str(roi) in rois and np.isfinite(value):
                gain[str(roi)] = float(value)
    if len(gain) < 3:
        return rois[:3], f"The first 3 of {len(rois)} regions."
    order = sorted(gain, key=lambda roi: -gain[roi])
    return [*order[:2], order[-1]], (
        f"Of {len(rois)} regions, the two where the {model} model gains most over the best baseline and the "
        "one where it gains least."
    )


def cued_objects(attention: xr.DataArray, truth: xr.Dataset | None) -> NDArray[np.bool_] | None:
    """Return where the object is that drives each query's region in each image of a simulated subject.

    Parameters
    ----------
    attention : DataArray
        With coordinates ``stimulus``, and ``roi`` along ``query``.
    truth : Dataset, optional
        As in :func:`write_encoder_report`.

    Returns
    -------
    bool array, shape (stimulus, query, y, x), or None
        None where nothing of the kind was planted.

    Examples
    --------
    >>> maps = xr.DataArray(np.zeros((1, 1)), dims=("stimulus", "query"),
    ...                     coords={"stimulus": ["a"], "roi": ("query", ["FFA"])})
    >>> masks = np.array([[[[True, False]], [[False, True]]]])
    >>> truth = xr.Dataset({"object_mask": (("stimulus", "category", "y", "x"), masks), "cue": ("roi", ["house"])},
    ...                    {"stimulus": ["a"], "category": ["face", "house"], "roi": ["FFA"]})
    >>> cued_objects(maps, truth)[0, 0]
    array([[False,  True]])
    """
    if truth is None or "object_mask" not in truth or "cue" not in truth:
        return None
    masks = truth.object_mask.sel(stimulus=attention.stimulus.values)
    masks = masks.transpose("stimulus", "category", "y", "x")
    categories = [str(category) for category in masks.category.values]
    cues = {str(roi): str(truth.cue.sel(roi=roi).item()) for roi in truth.roi.values}
    out = np.zeros((masks.shape[0], attention.sizes["query"], *masks.shape[2:]), bool)
    for i, roi in enumerate(attention.roi.values):
        cue = cues.get(str(roi), "")
        if cue in categories:
            out[:, i] = masks.values[:, categories.index(cue)]
    return out


#: Models that a planted kind of response should favour; none for noise.
EXPECTED = {
    "routed": ("attention",),
    "pooled-linear": ("pooled-ridge",),
    "retinotopic": ("factorized",),
    "noise": (),
}


_OUTCOMES = {
    "as planted": "as planted",
    "undecided": "undecided",
    "missed": "otherwise",
    "false alarm": "with a false alarm",
}


def _planted_outcomes(
    roi_scores: xr.Dataset, model: str | None, truth: xr.Dataset | None
) -> list[tuple[str, str, str, str, str]]:
    """Region, planted kind, expected model, better model, outcome."""
    if truth is None or "kind" not in truth or model is None:
        return []
    found = verdicts(roi_scores)
    present = {family(str(name)) for name in roi_scores.model.values}
    outcomes = []
    for roi in truth.roi.values:
        kind = str(truth.kind.sel(roi=roi).item())
        if str(roi) not in found or kind not in EXPECTED:
            continue
        expected = [name for name in EXPECTED[kind] if name in present]
        low = roi_scores.correlation_ci.sel(roi=roi, bound="low").values
        predicted = bool((low > 0).any())
        baseline = str(roi_scores.best_baseline.sel(roi=roi).item())
        if not predicted:
            better, outcome = "none predicts above chance", "as planted" if kind == "noise" else "missed"
        elif kind == "noise":
            better, outcome = found[str(roi)] or f"{model} or {baseline}", "false alarm"
        elif not expected:
            better, outcome = found[str(roi)] or f"{model} or {baseline}", "not tested"
        elif not found[str(roi)]:
            better, outcome = f"{model} or {baseline}, not clear", "undecided"
        else:
            better = found[str(roi)]
            outcome = "as planted" if family(better) in expected else "missed"
        outcomes.append((str(roi), kind, " or ".join(expected) or "none", better, outcome))
    return outcomes


def _planted_summary(roi_scores: xr.Dataset, model: str | None, truth: xr.Dataset | None) -> list[str]:
    outcomes = _planted_outcomes(roi_scores, model, truth)
    if not outcomes:
        return []
    n_tested = sum(outcome != "not tested" for *_, outcome in outcomes)
    parts = []
    for result, words in _OUTCOMES.items():
        rois = [roi for roi, *_, outcome in outcomes if outcome == result]
        if rois:
            named = "" if result == "as planted" else f" ({', '.join(rois)})"
            parts.append(f"{words} in {len(rois)} of {n_tested}{named}")
    if not parts:
        return []
    return [f"The simulation planted which model should win. The comparison came out {'; '.join(parts)}."]


def _planted(
    roi_scores: xr.Dataset, model: str | None, attention: xr.DataArray | None, truth: xr.Dataset | None
) -> list[Block]:
    outcomes = _planted_outcomes(roi_scores, model, truth)
    if not outcomes:
        return []
    on_object = _attention_on_objects(attention, truth)
    marks = {"as planted": "✓ ", "missed": "✗ ", "false alarm": "✗ "}
    columns = ["Region", "Planted", "Should win", "Better here", "Outcome"]
    if on_object:
        columns.append("Attention on the cued object")
    rows = []
    for roi, kind, expected, better, outcome in outcomes:
        row = [Cell(text) for text in (roi, kind, expected, better, marks.get(outcome, "– ") + outcome)]
        if on_object:
            row.append(Cell(f"{on_object[roi]:.1f} × uniform") if roi in on_object else Cell(""))
        rows.append(row)
    caption = (
        "A model is better where the 95 % interval of the difference in r lies beyond zero, as compared "
        "above. A region of pure noise counts as planted when no model's interval lies above zero."
    )
    if on_object:
        caption += " Attention is the mean over the cued object; uniform attention would give 1."
    return [Table(caption, columns, rows)]


def _attention_on_objects(attention: xr.DataArray | None, truth: xr.Dataset | None) -> dict[str, float]:
    """Mean attention on the cued object as a multiple of uniform attention, by region."""
    outlines = None if attention is None else cued_objects(attention, truth)
    if attention is None or outlines is None:
        return {}
    maps = figures.relative_attention(attention)
    rows = np.arange(outlines.shape[2]) * maps.shape[2] // outlines.shape[2]
    columns = np.arange(outlines.shape[3]) * maps.shape[3] // outlines.shape[3]
    fine = maps[:, :, rows][..., columns]
    found: dict[str, float] = {}
    for roi in dict.fromkeys(attention.roi.values):
        here = attention.roi.values == roi
        if outlines[:, here].any():
            found[str(roi)] = float(fine[:, here][outlines[:, here]].mean())
    return found


def _run(scores: xr.Dataset, roi_scores: xr.Dataset, config: Mapping[str, Any]) -> Section:
    skipped = config.get("not_applicable", {})
    rows = [
        ("Data", config.get("dataset")),
        ("Encoders", config.get("encoders")),
        ("Subjects", listed(scores.subject.values) if "subject" in scores.coords else None),
        ("Responses", "simulated" if scores.attrs.get("simulated", 0) else "measured"),
        ("Units", f"{_count(roi_scores)} {_unit_word(scores)}"),
        ("Backbone", config.get("backbone")),
        ("Layer", config.get("layer")),
        ("Split", config.get("split")),
        ("Training images", config.get("n_train")),
        ("Test images", config.get("n_test")),
        ("Models", listed(roi_scores.model.values)),
        ("Not applicable", "; ".join(f"{name}: {reason}" for name, reason in skipped.items())),
        ("Seeds", listed(np.atleast_1d(config["seeds"])) if "seeds" in config else None),
        ("Epochs", config.get("epochs")),
        ("Bootstrap resamples", config.get("n_bootstrap")),
        ("Least noise ceiling", scores.attrs.get("min_ceiling")),
        ("Time", _durations(config)),
        ("Versions", listed_versions(config.get("versions", {}))),
        ("Command", config.get("command")),
    ]
    return run_section(rows, config.get("notes", ()))


#: How the methods paragraph names each model, and whom it cites.
_MODELS = {
    "attention": (
        "a transformer brain encoder, in which a learned query per region attends to image tokens",
        "adeli2025",
    ),
    "ridge": (
        "ridge regression on all features with the penalty chosen by cross-validation",
        "duprelatour2022",
    ),
    "pooled-ridge": ("ridge regression on spatially averaged features", "duprelatour2022"),
    "factorized": ("a factorised readout with separate spatial and feature weights", "klindt2017"),
    "probe": ("an attentive probe", "psomas2025"),
    "attention-layermix": (
        "a transformer brain encoder in which every query reads its own mixture of layers",
        "adeli2025",
    ),
    "banded-ridge": ("ridge regression with a penalty for every layer", "duprelatour2022"),
    "pca-regression": ("least squares on principal components of the features", "adeli2025"),
    "gaussian": ("a Gaussian receptive field for each unit", "klindt2017"),
    "convolution": ("a convolution and one linear map", "adeli2025"),
}


def _described(models: Iterable[Any], cite: Citations) -> str:
    """Return models in words, each with its publication; layers and ensembles of one are one."""
    return listed(
        f"{_MODELS[name][0]} ({name}) {cite(_MODELS[name][1])}" if name in _MODELS else name
        for name in dict.fromkeys(family(str(model)) for model in models)
    )


def _features(config: Mapping[str, Any]) -> str:
    source = f" from features of {config['backbone']}" if "backbone" in config else ""
    return f"{source}, layer {config['layer']}" if "layer" in config else source


def _methods(
    scores: xr.Dataset, roi_scores: xr.Dataset, config: Mapping[str, Any], surface: str | None
) -> Section:
    cite = Citations()
    names = [str(model) for model in roi_scores.model.values]
    simulated = bool(scores.attrs.get("simulated", 0))
    data = f" ({config['dataset']})" if "dataset" in config else ""
    text = [
        f"{'Simulated responses' if simulated else 'Responses'} of {_count(roi_scores)} {_unit_word(scores)} "
        f"in {plural(scores.sizes.get('subject', 1), 'subject')}{data} were predicted{_features(config)} by "
        f"{_described(names, cite)}."
    ]
    if "n_train" in config and "n_test" in config:
        split = f" ({config['split']})" if "split" in config else ""
        text.append(
            f"Models were fitted to {config['n_train']} images and tested on {config['n_test']} other "
            f"images{split}; no image was in both."
        )
    text.append(
        "Accuracy is the Pearson correlation r between predicted and measured responses over test images, "
        "averaged over the units of a region."
    )
    if scores.sizes.get("seed", 1) > 1:
        text.append(f"Models with random starts were fitted with {scores.sizes['seed']} seeds.")
    if any(name.endswith("@ensemble") for name in names):
        text.append(
            "Ensembles average the predictions of seeds and weight those of layers, for each unit, by a softmax of 40 "
            "times the correlation on the training images that early stopping watched."
        )
    if np.isfinite(roi_scores.r2_over_ceiling.values).any():
        least = scores.attrs.get("min_ceiling")
        rule = f", for units whose ceiling was at least {least:g}" if least is not None else ""
        text.append(
            f"We also report sign(r) r² divided by the noise ceiling {cite('allen2022')}, without clipping{rule}."
        )
    text.append(
        f"Intervals are 95 % percentile bootstraps over test images{_resamples(config)}, with all units of a "
        "region resampled together and the fitted models held fixed; they cover neither subjects nor seeds. "
        "The null was obtained by shuffling test images."
    )
    if "p" in scores:
        n = int(scores.attrs["n_shuffles"])
        text.append(
            f"P-values of single units are one-sided, from {n:,} shuffles of the test images (smallest attainable "
            f"{1 / (n + 1):.2g}), corrected over units for the false discovery rate and, by the largest correlation of "
            "each shuffle, for the family-wise error."
        )
    if contender(roi_scores) is not None:
        text.append(
            f"The {contender(roi_scores)} model was compared with the best baseline of each region by the "
            "same bootstrap of the difference in r; the baseline was chosen on the test images, and "
            "intervals were not corrected for the number of regions."
        )
    if surface is not None and figures.on_surface(scores).any():
        text.append(f"Surfaces were drawn with nilearn {cite('abraham2014')} on fsaverage5.")
    seeds = config.get("seeds", scores.attrs.get("seed"))
    return methods_section(text, cite, seeds=seeds, versions=config.get("versions"))


def _facts(roi_scores: xr.Dataset, model: str | None) -> list[Fact]:
    whole = roi_scores.sel(roi="all")
    if model is None:
        return [
            _fact(whole, str(name), "correlation", f"r, {name}, all units") for name in whole.model.values
        ]
    baseline = str(whole.best_baseline.item())
    cell = whole.sel(model=model)
    low, high = cell.difference_ci.values
    facts = [
        _fact(whole, model, "correlation", f"r, {model}, all units"),
        _fact(whole, baseline, "correlation", f"r, {baseline}, the best baseline"),
        Fact(
            "Difference in r",
            number(float(cell.difference), 3, signed=True),
            span(low, high, digits=3, signed=True),
        ),
    ]
    if np.isfinite(float(cell.r2_over_ceiling)):
        facts.append(_fact(whole, model, "r2_over_ceiling", f"r² / noise ceiling, {model}"))
    return facts


def _fact(whole: xr.Dataset, model: str, score: str, name: str) -> Fact:
    cell = whole.sel(model=model)
    low, high = cell[f"{score}_ci"].values
    return Fact(name, number(float(cell[score])), span(low, high))


def _absent(n_units: int, n_dropped: int, ceiling: bool) -> str:
    if n_units == 0:
        return "no units"
    return "no usable ceiling" if ceiling and n_dropped == n_units else "–"


def _interval(config: Mapping[str, Any]) -> str:
    n_test = f"the {config['n_test']} " if "n_test" in config else ""
    return f"Lines: 95 % percentile bootstrap over {n_test}test images{_resamples(config)}."


def _resamples(config: Mapping[str, Any]) -> str:
    return f" ({config['n_bootstrap']:,} resamples)" if "n_bootstrap" in config else ""


def _durations(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {seconds:.0f} s" for name, seconds in config.get("durations", {}).items())


def _count(roi_scores: xr.Dataset) -> str:
    return f"{int(roi_scores.n_units.sel(roi='all')):,}"


def _unit_word(scores: xr.Dataset) -> str:
    words = {"vertex": "vertices", "voxel": "voxels", "neuron": "neurons"}
    return listed(words[str(kind)] for kind in np.unique(scores.unit_kind.values))
