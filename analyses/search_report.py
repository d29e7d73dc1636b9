"""The reports of visual search: of one image, and of asymmetries beside their controls and people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

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
from neuroattn.analyses.search_figures import (
    N_MAPS,
    plot_asymmetry,
    plot_displays,
    plot_search,
    plot_search_times,
)
from neuroattn.analyses.style import to_svg
from neuroattn.results import Scanpath
from neuroattn.search import EccNet, Experiment, SearchTrial
from neuroattn.search.running import describe_model

#: How targets count that were not found; the first is the rule of the figures.
_RULES = {
    "cap": "a target that was not found counts the most saccades that its display allowed",
    "dropped": "trials without the target found are left out",
    "set_size": "a target that was not found counts the number of items, as published",
}
_CONTROLS = {
    "no eccentricity": "the same network with pooling windows of one size",
    "random weights": "the same network with random weights",
    "pixel match": "a correlation of pixels without features",
    "random": "a random order of places",
}


def write_search_report(
    path: str | Path,
    model: EccNet,
    trial: SearchTrial,
    scanpath: Scanpath,
    *,
    beside: Mapping[str, Sequence[int | None]],
    network: str,
    seed: int,
    command: str = "",
) -> None:
    """Write the report of one search.

    Parameters
    ----------
    path : str or Path
    model : EccNet
    trial : SearchTrial
    scanpath : Scanpath
        Of this model and trial, searched with ``return_maps=True``.
    beside : mapping of str to sequence of int or None
        Saccades that searches without features needed for the target, None where they did not find it; see
        :func:`neuroattn.analyses.search_run.search_blindly`. Empty where nobody knows where the target is.
    network : str
        Name of the network.
    seed : int
    command : str
        Shown in the report.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.search import VGG16
    >>> image = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
    >>> trial = SearchTrial(image, image[:16, :16], max_fixations=3, px_per_degree=8)
    >>> model = EccNet(VGG16(widths=(2, 2, 2, 2, 2)))
    >>> path = model.search_batch([trial], return_maps=True)[0]
    >>> page = Path(tempfile.mkdtemp()) / "report.html"
    >>> write_search_report(page, model, trial, path, beside={}, network="VGG16, random weights", seed=0)
    >>> "nobody knows whether it was found" in page.read_text(encoding="utf-8")
    True
    """
    width, height = scanpath.image_size
    scale = float(scanpath.px_per_degree or np.nan)
    lengths = np.hypot(np.diff(scanpath.x), np.diff(scanpath.y)) / scale
    described = describe_model(model)
    facts = [
        Fact("Saccades", str(scanpath.n_saccades), _ENDS.get(str(scanpath.attrs["quit"]), "")),
        Fact("Image", f"{width / scale:.0f} × {height / scale:.0f}°", f"{width} × {height} px"),
    ]
    if len(lengths):
        facts.append(Fact("Mean saccade", f"{lengths.mean():.1f}°", f"longest {lengths.max():.1f}°"))
    render_report(
        path,
        title="One search, fixation by fixation",
        subtitle=" · ".join([network, f"{width} × {height} px", f"seed {seed}"]),
        summary=[*_outcome(scanpath, trial, beside), _ONE],
        facts=facts,
        sections=[
            Section("Where it looked", _path_blocks(model, trial, scanpath, lengths)),
            Section("Beside searches without features", _beside_blocks(scanpath, beside)),
            run_section(
                [
                    ("Image", f"{width} × {height} px, {scale:g} px per degree"),
                    ("Target", f"{trial.target.shape[1]} × {trial.target.shape[0]} px"),
                    ("Place of the target", "given" if trial.target_mask is not None else "unknown"),
                    ("First fixation", "{}, {} px".format(*trial.first_fixation)),
                    ("Most fixations", trial.fixation_limit),
                    ("Grey around the image", trial.background),
                    ("Network", f"{network} ({described['backbone']}), layers {listed(_taps(model))}"),
                    ("Settings", ", ".join(f"{key} {value}" for key, value in described["config"].items())),
                    ("SHA-256 of the weights", described.get("weights_sha256")),
                    ("Seed", seed),
                    ("Versions", listed_versions(installed_versions("timm"))),
                    ("Command", command),
                ]
            ),
            _search_methods(model, trial, scanpath, beside, network, seed),
        ],
    )


_ENDS = {
    "found": "found",
    "recognised": "recognised",
    "limit": "the limit of fixations",
    "gave up": "gave up",
    "exhausted": "no place was left",
}
_ONE = (
    "This is one search of one image: it says how this network goes about it, not how well it searches. "
    "“neuroattn search asymmetry” measures models over many displays, beside controls and people."
)


def _outcome(scanpath: Scanpath, trial: SearchTrial, beside: Mapping[str, Sequence[int | None]]) -> list[str]:
    if scanpath.found is None:
        return [
            f"The gaze made {plural(scanpath.n_saccades, 'saccade')}. Where the target is was not given, so nobody "
            "knows whether it was found."
        ]
    text = (
        f"The target was found after {plural(scanpath.n_saccades, 'saccade')}."
        if scanpath.found
        else f"The target was not found within {plural(trial.fixation_limit, 'fixation')}."
    )
    for name, needed in beside.items():
        found = [n for n in needed if n is not None]
        if len(needed) == 1:
            did = f"found it after {plural(found[0], 'saccade')}" if found else "did not find it"
            text += f" {name.capitalize()} {did}."
        elif scanpath.found:
            fast = sum(n <= scanpath.n_saccades for n in found)
            text += f" Of {len(needed)} {name} searches {fast} found it in as few."
        else:
            text += f" Of {len(needed)} {name} searches {len(found)} found it."
    return [text]


def _path_blocks(model: EccNet, trial: SearchTrial, scanpath: Scanpath, lengths: Any) -> list[Block]:
    n_drawn = min(len(scanpath.attrs["maps"]), N_MAPS)
    caption = (
        "The image with its fixations in their order, 0 the first, and the target"
        f"{', outlined where it is' if trial.target_mask is not None else ''}."
    )
    if n_drawn:
        caption += (
            f" Below, the {'map' if n_drawn == 1 else f'first {n_drawn} maps'} from which saccades were chosen, black "
            "to white between the extremes of each; the cross is the gaze then."
        )
    svg = to_svg(
        plot_search(model, trial, scanpath), "Fixations on the image, and the maps they were chosen from"
    )
    rows = [
        [Cell(str(i)), Cell(f"{x:.0f}"), Cell(f"{y:.0f}"), Cell("–" if i == 0 else f"{lengths[i - 1]:.1f}")]
        for i, (x, y) in enumerate(zip(scanpath.x, scanpath.y, strict=True))
    ]
    table = Table(
        "Fixations: where, in px from the top left, and the length of the saccade that led there, in degrees of "
        "visual angle. fixations.csv and maps.nc hold all that is known of them.",
        ["Fixation", "x", "y", "Saccade"],
        rows,
    )
    return [Figures([Chart(svg, "Search.", caption, NO_INTERVALS)]), table]


def _beside_blocks(scanpath: Scanpath, beside: Mapping[str, Sequence[int | None]]) -> list[Block]:
    rows = [
        [
            Cell("this network"),
            Cell("1"),
            Cell("1" if scanpath.found else "0"),
            Cell(str(scanpath.n_saccades) if scanpath.found else "–"),
        ]
    ]
    for name, needed in beside.items():
        found = [n for n in needed if n is not None]
        low, median, high = np.percentile(found, [2.5, 50, 97.5]) if found else [np.nan] * 3
        note = f"{low:.0f} to {high:.0f}" if len(found) > 1 else ""
        rows.append(
            [Cell(name), Cell(str(len(needed))), Cell(str(len(found))), Cell(number(median, 0), note)]
        )
    caption = (
        "Saccades until the target was found, the median of the searches that found it, in small print the middle "
        f"95 % of them. All had the same limit. Pixel match: {_CONTROLS['pixel match']}; random: "
        f"{_CONTROLS['random']}, the null."
    )
    return [Table(caption, ["Search", "Searches", "Found", "Saccades"], rows)] if beside else []


def _search_methods(
    model: EccNet,
    trial: SearchTrial,
    scanpath: Scanpath,
    beside: Mapping[str, Sequence[int | None]],
    network: str,
    seed: int,
) -> Section:
    cite, config = Citations(), model.config
    width, height = scanpath.image_size
    windows = (
        f"pooling windows grow with eccentricity beyond {config.fovea_deg:g}° (slopes "
        f"{', '.join(f'{slope:g}' for slope in config.slopes)} by stage)"
        if any(config.slopes)
        else "pooling windows do not depend on eccentricity"
    )
    choice = (
        f"was drawn from a softmax of temperature {config.temperature:g} over the places that were still open"
        if config.temperature
        else "was the best place that was still open"
    )
    text = [
        f"An image of {width} × {height} px ({scanpath.px_per_degree:g} px per degree) was searched for a target of "
        f"{trial.target.shape[1]} × {trial.target.shape[0]} px by an eccentricity-dependent network "
        f"{cite('gupta2021')}, in which {windows}.",
        f"At each fixation features of {network} at the layers {listed(_taps(model))} were compared with those of the "
        f"target, and the next fixation {choice}; squares of {config.ior_deg:g}° that had been fixated were closed.",
        f"The search began at ({trial.first_fixation[0]}, {trial.first_fixation[1]}) px and ended "
        f"{'at the target or ' if trial.target_mask is not None else ''}after {trial.fixation_limit} fixations.",
    ]
    if beside:
        drawn = listed(
            f"{plural(len(needed), 'search', 'searches')} by {name}" for name, needed in beside.items()
        )
        text.append(f"Beside it, the same image was searched without features: {drawn}.")
    return methods_section(text, cite, seeds=seed, versions=installed_versions("timm"))


def _taps(model: EccNet) -> Sequence[str]:
    return model.config.taps or model.backbone.taps


def write_asymmetry_report(
    path: str | Path, result: xr.Dataset, *, experiments: Sequence[Experiment] = (), command: str = ""
) -> None:
    """Write the report of search asymmetries.

    Parameters
    ----------
    path : str or Path
    result : Dataset
        Of :func:`neuroattn.analyses.search_asymmetry`.
    experiments : sequence of Experiment
        Their first displays are drawn.
    command : str
        Shown in the report.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.analyses import search_asymmetry
    >>> from neuroattn.search import PixelMatch, experiments
    >>> displays = [experiments.lighting(n_per_size=2)]
    >>> result = search_asymmetry(PixelMatch(), displays, n_resamples=20)
    >>> page = Path(tempfile.mkdtemp()) / "report.html"
    >>> write_asymmetry_report(page, result, experiments=displays)
    >>> "beyond all controls" in page.read_text(encoding="utf-8")
    True
    """
    config = json.loads(result.attrs["config"])
    names = [_words(name) for name in result.experiment.values]
    models = [str(name) for name in result.model.values[result.kind.values == "model"]]
    n_displays = [one["n_per_size"] for one in config["experiments"]]
    per_size = str(n_displays[0]) if len(set(n_displays)) == 1 else f"{min(n_displays)} to {max(n_displays)}"
    render_report(
        path,
        title="Is A among B harder to find than B among A?",
        subtitle=" · ".join(
            [listed(models), plural(len(names), "experiment"), f"seed {result.attrs['seed']}"]
        ),
        summary=summarise_asymmetries(result),
        facts=_asymmetry_facts(result),
        sections=[
            Section("Asymmetries", _asymmetry_blocks(result, config)),
            Section("Saccades by the number of items", _time_blocks(result)),
            Section("The displays", _display_blocks(experiments)),
            run_section(
                [
                    ("Experiments", listed(names)),
                    ("Displays", f"{per_size} of each condition and number of items"),
                    ("Models", listed(models)),
                    (
                        "Controls",
                        listed(result.model.values[result.kind.values == "control"]) or "none were run",
                    ),
                    (
                        "Resamples",
                        f"{config['n_resamples']:,}, of displays within condition and number of items",
                    ),
                    ("Seed", result.attrs["seed"]),
                    ("Versions", listed_versions(installed_versions("timm"))),
                    ("Command", command),
                ]
            ),
            _asymmetry_methods(result, config, names, per_size),
        ],
    )


def summarise_asymmetries(result: xr.Dataset) -> list[str]:
    """Say in sentences which asymmetries may be claimed, and how the models compare with people.

    Examples
    --------
    >>> from neuroattn.analyses import search_asymmetry
    >>> from neuroattn.search import PixelMatch, experiments
    >>> displays = [experiments.lighting(n_per_size=2)]
    >>> print(summarise_asymmetries(search_asymmetry(PixelMatch(), displays, controls=False, n_resamples=20))[0])
    No controls were run, so no asymmetry may be claimed: the indices below may be those of any search.
    """
    table = result.sel(unfound=_rule(result))
    if not (result.kind == "control").any():
        sentences = [
            "No controls were run, so no asymmetry may be claimed: the indices below may be those of any search."
        ]
    else:
        sentences = []
        for name in table.model.values[table.kind.values == "model"]:
            claims = table.claim.sel(model=name)
            parts = [
                f"{words} in {_which(claims, sign)}"
                for sign, words in ((1, "harder"), (-1, "easier"), (0, "neither"))
                if (claims == sign).any()
            ]
            sentences.append(
                f"{name}: beyond all controls, the condition that is harder for people is {'; '.join(parts)}."
            )
    r = table.slope_r.dropna("model")
    if r.sizes["model"]:
        shown = listed(
            f"{number(value)} for {name}" for name, value in zip(r.model.values, r.values, strict=True)
        )
        sentences.append(f"Slopes of both conditions correlate with those of people by {shown}.")
    return sentences


def _which(claims: xr.DataArray, sign: int) -> str:
    names = [_words(name) for name in claims.experiment.values[claims.values == sign]]
    return f"{len(names)} of {plural(claims.sizes['experiment'], 'experiment')} ({', '.join(names)})"


def _asymmetry_facts(result: xr.Dataset) -> list[Fact]:
    facts = []
    for name in result.model.values:
        one = result.sel(model=name, unfound=_rule(result))
        if np.isfinite(one.mean_index):
            facts.append(
                Fact(f"Mean index, {name}", number(one.mean_index, signed=True), span(*one.mean_index_ci))
            )
    people = result.human_index.values
    if np.isfinite(people).all():
        facts.append(
            Fact("Mean index, people", number(people.mean(), signed=True), "no interval is published")
        )
    return facts


def _asymmetry_blocks(result: xr.Dataset, config: Mapping[str, Any]) -> list[Block]:
    rule = _rule(result)
    marks = " A star: a polarity beyond all controls." if (result.kind == "control").any() else ""
    chart = Chart(
        to_svg(
            plot_asymmetry(result, unfound=rule),
            "Asymmetry index of models, controls and people by experiment",
        ),
        "Asymmetry by experiment.",
        "Difference of the slopes of both conditions over their sum; positive where the condition that is harder for "
        f"people is harder. Filled: models; open: controls.{marks} “sat.”: 1 or −1 because one slope is 0, however "
        f"small the other. Diamonds: people, whose times were read off figures. Here {_RULES[rule]}.",
        f"{_interval(config)} People have none.",
    )
    tables: list[Block] = []
    for one in (rule, *(other for other in result.unfound.values if other != rule)):
        tables.append(_asymmetry_table(result.sel(unfound=one), str(one), folded=one != rule))
    return [Figures([chart]), *tables]


def _asymmetry_table(table: xr.Dataset, rule: str, *, folded: bool) -> Table:
    rows = []
    for experiment in table.experiment.values:
        for name in table.model.values:
            one = table.sel(model=name, experiment=experiment)
            hard, easy = (number(one.slope.sel(role=role)) for role in ("hard", "easy"))
            found = " / ".join(
                f"{100 * float(one.found_rate.sel(role=role).mean()):.0f} %" for role in ("hard", "easy")
            )
            claim = {1: "harder", -1: "easier"}.get(int(one.claim), "–" if one.kind == "model" else "control")
            rows.append(
                [
                    Cell(_words(experiment)),
                    Cell(str(name)),
                    Cell(
                        number(one["index"], signed=True),
                        span(*one.index_ci, signed=True),
                        strong=int(one.claim) != 0,
                    ),
                    Cell(f"{hard} / {easy}"),
                    Cell(span(*one.slope_difference_ci, signed=True)),
                    Cell(found),
                    Cell(claim),
                ]
            )
        if np.isfinite(table.human_index.sel(experiment=experiment)):
            slopes = table.human_slope.sel(experiment=experiment)
            hard, easy = (number(slopes.sel(role=role), 1) for role in ("hard", "easy"))
            index = number(table.human_index.sel(experiment=experiment), signed=True)
            rows.append(
                [
                    *(Cell(_words(experiment)), Cell("people"), Cell(index, "no interval")),
                    *(Cell(f"{hard} / {easy}", "ms per item"), Cell("–"), Cell("–"), Cell("–")),
                ]
            )
    caption = (
        f"Where {_RULES[rule]}. Index with its 95 % interval; slopes in saccades per item, harder for people / easier; "
        "the 95 % interval of their difference; targets found in both; what may be claimed beyond all controls."
    )
    columns = ["Experiment", "Search", "Index", "Slopes", "Difference", "Found", "Claim"]
    return Table(caption, columns, rows, folded=folded)


def _time_blocks(result: xr.Dataset) -> list[Block]:
    charts = []
    for i, experiment in enumerate(result.experiment.values):
        svg = to_svg(
            plot_search_times(result.isel(experiment=[i]), unfound=_rule(result)),
            f"Saccades and reaction times by the number of items: {_words(experiment)}",
        )
        charts.append(
            Chart(
                svg,
                f"{_words(experiment).capitalize()}.",
                f"Mean saccades of {result.model.values[0]} until the target was found, and reaction times of people.",
                "Bars: standard errors over displays; nothing was resampled. People's times have no errors.",
            )
        )
    return [Figures(charts)]


def _display_blocks(experiments: Sequence[Experiment]) -> list[Block]:
    charts = [
        Chart(
            to_svg(plot_displays([experiment]), f"Displays of {_words(experiment.name)}"),
            f"{_words(experiment.name).capitalize()}.",
            "The first display of each condition and number of items; outlined: the cell of the target.",
            NO_INTERVALS,
        )
        for experiment in experiments
    ]
    return [Figures(charts)] if charts else []


def _asymmetry_methods(
    result: xr.Dataset, config: Mapping[str, Any], names: Sequence[str], per_size: str
) -> Section:
    cite = Citations()
    controls = [str(name) for name in result.model.values[result.kind.values == "control"]]
    models = listed(result.model.values[result.kind.values == "model"])
    rule = _rule(result)
    text = [
        f"Search asymmetry was measured in {plural(len(names), 'experiment')} ({listed(names)}) {cite('gupta2021')} "
        f"with {per_size} displays of each condition and number of items.",
        f"{models} searched each display until the target was fixated"
        + (f", beside {listed(f'{_CONTROLS[name]} ({name})' for name in controls)}." if controls else "."),
        "Slopes are those of straight lines through the saccades over the number of items; "
        f"{_RULES[rule]}. The asymmetry index is the difference of the slopes of both conditions over their sum.",
        _interval(config),
    ]
    if controls:
        text.append(
            "A polarity is claimed only where the intervals of the index and of the difference of slopes leave out 0 "
            "and the latter lies beyond the interval of every control; intervals are not corrected for the number of "
            "experiments."
        )
    if result.human_index.notnull().any():
        text.append("Reaction times of people were read off published figures and have no errors.")
    return methods_section(text, cite, seeds=result.attrs["seed"], versions=installed_versions("timm"))


def _interval(config: Mapping[str, Any]) -> str:
    return (
        f"Intervals: 95 % percentile bootstrap over displays within condition and number of items "
        f"({config['n_resamples']:,} resamples)."
    )


def _rule(result: xr.Dataset) -> str:
    """Return the rule of the figures and sentences."""
    return next(rule for rule in _RULES if rule in result.unfound.values)


def _words(name: Any) -> str:
    return str(name).replace("_", ", ")
