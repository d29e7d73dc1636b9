"""Search asymmetries of models beside their controls and people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.metrics import asymmetry_summary, pearson_r, slope_asymmetry
from neuroattn.metrics.search_asymmetry import UNFOUND
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
from neuroattn.search.human import SOURCE
from neuroattn.search.running import describe_model

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
        settings reads them and runs the rest. A folder with trials of other settings or weights is refused.
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
    finished: dict[str, dict[str, xr.Dataset]] = {}
    for name, searcher in searchers.items():
        finished[name] = {}
        for experiment in displays:
            parts = []
            for condition in experiment.conditions:
                stage = f"{name}, {condition.name}"
                report = None if progress is None else _offset(progress, stage, done, total)
                path = None
                if out is not None:
                    parents = (quote(part, safe=" ") for part in (name, experiment.name))
                    path = Path(out, "trials", *parents, f"{quote(condition.name, safe=' ')}.nc")
                parts.append(_run(searcher, experiment, condition.name, path, seed, batch_size, report))
                done += parts[-1].sizes["trial"]
                if progress is not None:  # conditions that were read have reported nothing
                    progress(stage, done, total)
            finished[name][experiment.name] = xr.concat(parts, dim="trial", combine_attrs="override")
    # Controls are scored like the models, whose common rules these are.
    rules = [
        rule
        for rule in UNFOUND
        if all(rule in trials.attrs["unfound"] for name in named for trials in finished[name].values())
    ]
    # One seed resamples the same trials of every model.
    summaries = [
        asymmetry_summary(trials, unfound=rules, n_resamples=n_resamples, confidence=confidence, seed=seed)
        for trials in finished.values()
    ]
    dim = xr.DataArray(list(searchers), dims="model", name="model")
    result = xr.concat(summaries, dim, data_vars="all", coords="minimal", compat="override", join="exact")
    result = result.assign_coords(kind=("model", ["model"] * len(named) + ["control"] * len(beside)))
    result = result.assign(_people(displays, result.set_size.values))
    result["claim"] = _claims(result)
    result["slope_r"] = _slope_r(result)
    settings = {
        "experiments": [experiment.config for experiment in displays],
        "models": {name: describe_model(searcher) for name, searcher in searchers.items()},
        "n_resamples": n_resamples,
    }
    return result.assign_attrs(provenance(seed, settings))


def _run(
    model: Searcher,
    experiment: Experiment,
    condition: str,
    path: Path | None,
    seed: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> xr.Dataset:
    """Run one condition, or read it where it was run before."""
    settings = provenance(seed, {"experiment": experiment.config, "model": describe_model(model)})
    if path is not None and path.exists():
        kept = xr.load_dataset(path, engine="h5netcdf")
        if any(kept.attrs[name] != settings[name] for name in ("seed", "config")):
            raise ValueError(f"out must not hold trials of other settings, got {path}; choose another folder")
        return kept
    trials = run_experiment(
        model, experiment, condition=condition, seed=seed, batch_size=batch_size, progress=progress
    )
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_netcdf(path, trials)
    return trials


def _people(experiments: Sequence[Experiment], set_sizes: NDArray[np.int64]) -> dict[str, xr.DataArray]:
    """Return reaction times, slopes and indices of people by experiment, NaN where none are published."""
    names = [experiment.name for experiment in experiments]
    coords = {"experiment": names, "role": ["hard", "easy"], "set_size": set_sizes}
    rt = xr.DataArray(np.full((len(names), 2, len(set_sizes)), np.nan), coords, attrs={"units": "ms"})
    slope = rt.isel(set_size=0, drop=True).copy()
    index = slope.isel(role=0, drop=True).copy()
    for experiment in experiments:
        make = EXPERIMENTS.get(experiment.name)
        names_of = [condition.name for condition in experiment.conditions]
        # An experiment of the same name but other conditions is another one.
        if make is None or [condition.name for condition in make().conditions] != names_of:
            continue
        published = human_rt(experiment.name)
        rt.loc[{"experiment": experiment.name}] = published.reindex(set_size=set_sizes)
        lines = published.polyfit("set_size", 1).polyfit_coefficients.sel(degree=1, drop=True)
        slope.loc[{"experiment": experiment.name}] = lines
        index.loc[{"experiment": experiment.name}] = slope_asymmetry(*lines.values.tolist())
    source = {"source": SOURCE}
    return {
        "human_rt": rt.assign_attrs(source),
        "human_slope": slope.assign_attrs(source, units="ms per item"),
        "human_index": index.assign_attrs({**source, "units": ""}),
    }


def _claims(result: xr.Dataset) -> xr.DataArray:
    """Return the polarity that models may claim beside their controls: 1, -1 or 0."""
    controls = result.kind == "control"
    index, difference = result.index_ci, result.slope_difference_ci
    if not controls.any():
        return xr.zeros_like(result["index"], dtype=int)
    beside = difference.isel(model=np.flatnonzero(controls))
    # NaN compares false: what is not known is not claimed.
    above = (
        (index.sel(bound="low") > 0)
        & (difference.sel(bound="low") > 0)
        & (difference.sel(bound="low") > beside.sel(bound="high").max("model", skipna=False))
    )
    below = (
        (index.sel(bound="high") < 0)
        & (difference.sel(bound="high") < 0)
        & (difference.sel(bound="high") < beside.sel(bound="low").min("model", skipna=False))
    )
    claims: xr.DataArray = above.astype(int) - below.astype(int)
    return claims.where(~controls, 0).drop_vars("bound", errors="ignore")


def _slope_r(result: xr.Dataset) -> xr.DataArray:
    """Correlate the slopes of both conditions of each experiment with those of people."""
    people = result.human_slope.stack(slope=("experiment", "role"))
    slopes = result.slope.stack(slope=("experiment", "role")).transpose("model", "unfound", "slope")
    known = np.flatnonzero(people.notnull())
    if len(known) < 6:
        return xr.DataArray(np.full(slopes.shape[:2], np.nan), dims=("model", "unfound"))
    x = slopes.isel(slope=known)
    flat = x.values.reshape(-1, len(known)).T
    r = pearson_r(flat, np.repeat(people.values[known, None], flat.shape[1], axis=1))
    return xr.DataArray(r.reshape(x.shape[:2]), dims=("model", "unfound"))


def _offset(progress: Progress, stage: str, done: int, total: int) -> Callable[[int, int], None]:
    return lambda finished, _: progress(stage, done + finished, total)
