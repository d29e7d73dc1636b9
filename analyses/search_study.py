"""Search asymmetries of models beside their controls and people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import xarray as xr

from neuroattn.metrics import asymmetry_summary, pearson_r, slope_asymmetry
from neuroattn.results import provenance, write_netcdf
from neuroattn.search import (
    EccNet,
    Experiment,
    PixelMatch,
    RandomSearch,
    Searcher,
    human_rt,
    random_weights,
    run_experiment,
    without_eccentricity,
)
from neuroattn.search.experiments import EXPERIMENTS

Progress = Callable[[str, int, int], None]
"""Called with a stage, the trials done and the trials in all."""


def search_controls(model: Searcher, *, seed: int = 0) -> dict[str, Searcher]:
    """Return the controls that stand beside a model of search.

    Parameters
    ----------
    model : object with ``search_batch``
    seed : int, default 0
        Of the random weights.

    Returns
    -------
    dict of str to model
        "pixel match" and "random"; for an :class:`neuroattn.search.EccNet` also "no eccentricity", unless it has none
        itself, and "random weights".

    Examples
    --------
    >>> from neuroattn.search import VGG16
    >>> list(search_controls(EccNet(VGG16(widths=(2, 2, 2, 2, 2)))))
    ['no eccentricity', 'random weights', 'pixel match', 'random']
    """
    controls: dict[str, Searcher] = {}
    if isinstance(model, EccNet):
        if any(model.config.slopes):
            controls["no eccentricity"] = without_eccentricity(model)
        controls["random weights"] = random_weights(model, seed=seed)
    return {**controls, "pixel match": PixelMatch(), "random": RandomSearch()}


def search_asymmetry(
    models: Searcher | Mapping[str, Searcher],
    experiments: Sequence[Experiment] | None = None,
    *,
    controls: bool = True,
    out: str | Path | None = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Measure search asymmetries of models, of their controls and of people.

    Parameters
    ----------
    models : object with ``search_batch``, or mapping of str to such objects
        One model is called "model".
    experiments : sequence of Experiment, optional
        Of different names. The six published ones by default.
    controls : bool, default True
        Run :func:`search_controls` of the first model too.
    out : str or Path, optional
        Folder that keeps the trials of each model and condition as they are finished; a second call with the same
        settings reads them and runs the rest. Use one folder for one set of weights: settings are compared, weights
        are not.
    n_resamples, confidence
        Of the bootstrap over trials within condition and set size.
    batch_size : int, default 8
    seed : int, default 0
        For models that draw, random weights and the bootstrap.
    progress : callable, optional
        Called with "<model>, <condition>", the finished trials of all models and experiments, and their number.

    Returns
    -------
    Dataset, dims (model, experiment, unfound, role, set_size, bound)
        For every model and control what :func:`neuroattn.metrics.asymmetry_summary` returns: saccades, slopes,
        indices, their intervals, found rates, the sign test over experiments. Beside it:

        ``kind`` (model)
            "model" or "control".
        ``claim`` (model, experiment, unfound)
            1 or -1 where a polarity may be claimed: the intervals of the index and of the difference of slopes both
            leave out 0, and the latter lies beyond the interval of every control on that side; otherwise 0. Always 0
            for controls, and where no controls were run.
        ``human_rt`` (experiment, role, set_size), ``human_slope`` (experiment, role), ``human_index`` (experiment)
            Of the published experiments, ms; NaN for others. Read off published figures, no errors.
        ``slope_r`` (model, unfound)
            Correlation with people over the slopes of both conditions; NaN with fewer than three experiments.

    Notes
    -----
    Claims compare differences of slopes, in saccades per item, rather than indices: an index saturates at 1
    where one slope is 0, however small the other, and one odd trial of a control that shows no effect would
    otherwise forbid every claim.

    Examples
    --------
    >>> from neuroattn.search import experiments
    >>> result = search_asymmetry(PixelMatch(), [experiments.lighting(n_per_size=2)], n_resamples=20)
    >>> result.model.values.tolist(), round(result.human_index.item(), 2)
    (['model', 'pixel match', 'random'], 0.7)
    """
    named = dict(models) if isinstance(models, Mapping) else {"model": models}
    if not named:
        raise ValueError("models must hold at least one, got none")
    displays = [make() for make in EXPERIMENTS.values()] if experiments is None else list(experiments)
    names = [experiment.name for experiment in displays]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"experiments must have different names and be at least one, got {names}")
    beside = search_controls(next(iter(named.values())), seed=seed) if controls else {}
    for name in beside:
        if name in named:
            raise ValueError(f"models must not have the name of a control, got {name!r}")
    searchers = {**named, **beside}
    total = len(searchers) * sum(experiment.n_trials for experiment in displays)
    done = 0
    summaries = []
    # One seed resamples the same trials of every model.
    for name, searcher in searchers.items():
        trials = {}
        for experiment in displays:
            parts = []
            for condition in experiment.conditions:
                stage = f"{name}, {condition.name}"
                report = None if progress is None else _offset(progress, stage, done, total)
                parts.append(
                    _run(searcher, name, experiment, condition.name, out, seed, batch_size, report)
                )
                done += parts[-1].sizes["trial"]
                if progress is not None:
                    progress(stage, done, total)
            trials[experiment.name] = xr.concat(parts, dim="trial", combine_attrs="override")
        summaries.append(
            asymmetry_summary(trials, n_resamples=n_resamples, confidence=confidence, seed=seed)
        )
    result = xr.concat(
        summaries, dim=xr.DataArray(list(searchers), dims="model", name="model"), join="outer", combine_attrs="override"
    )
    result = result.assign_coords(kind=("model", ["model"] * len(named) + ["control"] * len(beside)))
    result = result.assign(_people(displays))
    result["claim"] = _claims(result)
    result["slope_r"] = _slope_r(result)
    return result.assign_attrs(
        provenance(seed, {"experiments": [experiment.config for experiment in displays], "models": list(searchers)})
    )
