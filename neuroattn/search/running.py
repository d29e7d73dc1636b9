"""Run an experiment with any model that searches."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, Protocol

import numpy as np
import xarray as xr

from neuroattn._checks import check_option, check_range
from neuroattn.results import Scanpath, provenance
from neuroattn.search.config import SearchConfig
from neuroattn.search.controls import find_network
from neuroattn.search.experiments import Experiment
from neuroattn.search.trials import SearchTrial

__all__ = ["RT_INTERCEPT", "RT_PER_SACCADE", "Searcher", "fit_rt", "run_experiment"]

#: Milliseconds per saccade and before the first, hard-coded in the published code; no data for the fit are published.
RT_PER_SACCADE, RT_INTERCEPT = 252.359, 376.271


class Searcher(Protocol):
    """What experiments ask of a model: EccNet, a control, or one's own.

    Examples
    --------
    >>> from neuroattn.search import PixelMatch
    >>> model: Searcher = PixelMatch()
    """

    def search_batch(
        self,
        trials: Sequence[SearchTrial],
        *,
        batch_size: int = ...,
        seed: int = ...,
        progress: Callable[[int, int], None] | None = ...,
    ) -> list[Scanpath]:
        """Return the scanpath of every trial, with ``found`` where the trial has a target."""


def run_experiment(
    model: Searcher,
    experiment: Experiment,
    *,
    condition: str | None = None,
    seed: int = 0,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Search every display of an experiment.

    Parameters
    ----------
    model : object with ``search_batch``
        :class:`EccNet`, a control such as :class:`PixelMatch`, or one's own.
    experiment : Experiment
    condition : str, optional
        Run this condition only; its trials are the same as in a run of both.
    seed : int, default 0
        For models that draw; the displays are drawn from the experiment's own.
    batch_size : int, default 8
        Trials in one forward pass.
    progress : callable, optional
        Called with the number of finished trials and of all.

    Returns
    -------
    Dataset, dims (trial,)
        ``n_saccades``, ``found``, ``cap`` (the most saccades the trial allowed) and ``rt_linear``, the reaction time
        in ms under the published line ``252.359 * n_saccades + 376.271``, NaN where the target was not found.
        Coordinates ``condition``, ``set_size``, ``repetition``. ``attrs`` holds the settings, the seed, the
        ``conditions`` in the order (hard, easy), and under ``unfound`` the rules by which slopes count trials
        that were not found: ("dropped", "cap"), and the published "set_size" too where the model's configuration
        is that of the paper.

    Notes
    -----
    The two constants are hard-coded in the published code, without data for their fit; :func:`fit_rt` fits one's
    own. They change neither asymmetry indices nor the shape of a curve.

    Examples
    --------
    >>> from neuroattn.search import RandomSearch, experiments
    >>> results = run_experiment(RandomSearch(), experiments.lighting(n_per_size=2))
    >>> dict(results.sizes), results.n_saccades.sel(trial=0).item(), bool(results.found.all())
    ({'trial': 12}, 1, True)
    """
    check_range("seed", seed, 0)
    check_range("batch_size", batch_size, 1)
    names = [c.name for c in experiment.conditions]
    wanted = names if condition is None else [check_option("condition", condition, names)]
    total = len(wanted) * experiment.n_trials // 2
    trials: list[SearchTrial] = []
    paths: list[Scanpath] = []
    for name in wanted:
        part = experiment.trials(name)
        done = len(trials)
        # Trials of the same number would otherwise draw alike in both conditions and in every experiment.
        key = np.random.SeedSequence([seed, zlib.crc32(experiment.name.encode()), names.index(name)])
        paths += model.search_batch(
            part,
            batch_size=batch_size,
            seed=int(key.generate_state(1)[0]),
            progress=None if progress is None else _offset(progress, done, total),
        )
        trials += part
    unknown = next((i for i, path in enumerate(paths) if path.found is None), None)
    if unknown is not None:
        raise ValueError(f"model must say whether it found the target, got found None on trial {unknown}")
    n_saccades = np.array([path.n_saccades for path in paths])
    found = np.array([path.found for path in paths], bool)
    published = getattr(model, "config", None) == SearchConfig.paper()
    return xr.Dataset(
        {
            "n_saccades": ("trial", n_saccades),
            "found": ("trial", found),
            "cap": ("trial", [trial.fixation_limit - 1 for trial in trials]),
            "rt_linear": (
                "trial",
                np.where(found, RT_PER_SACCADE * n_saccades + RT_INTERCEPT, np.nan),
                {
                    "units": "ms",
                    "ms_per_saccade": RT_PER_SACCADE,
                    "intercept": RT_INTERCEPT,
                    "source": "hard-coded in the published code, no data for the fit",
                },
            ),
        },
        coords={
            name: ("trial", [trial.attrs[name] for trial in trials])
            for name in ("condition", "set_size", "repetition")
        },
        attrs={
            **provenance(seed, {"experiment": experiment.config, "model": describe_model(model)}),
            "experiment": experiment.name,
            "conditions": names,
            "unfound": ["dropped", "cap", "set_size"] if published else ["dropped", "cap"],
            "px_per_degree": experiment.px_per_degree,
        },
    )


def fit_rt(n_saccades: xr.DataArray, rt: xr.DataArray) -> xr.Dataset:
    """Fit the line that takes saccades of a model to reaction times of people.

    Parameters
    ----------
    n_saccades : DataArray
        Mean saccades, such as ``mean`` of :func:`neuroattn.metrics.asymmetry_index` under one rule.
    rt : DataArray
        Reaction times in ms with the same dimensions, such as those of :func:`human_rt`. Coordinates that only one
        has are left out.

    Returns
    -------
    Dataset
        ``ms_per_saccade``, ``intercept`` in ms, Pearson's ``r`` and the number ``n`` of points.

    Examples
    --------
    >>> from neuroattn.search import human_rt
    >>> rt = human_rt("letters")
    >>> fit = fit_rt((rt - 300) / 200, rt)
    >>> round(fit.ms_per_saccade.item(), 6), round(fit.intercept.item(), 6), fit.n.item()
    (200.0, 300.0, 6)
    """
    x, y = (np.ravel(values.values.astype(float)) for values in xr.align(*xr.broadcast(n_saccades, rt)))
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(np.unique(x)) < 2:
        raise ValueError(f"n_saccades must take at least two values where rt is known, got {np.unique(x)}")
    slope, intercept = np.polyfit(x, y, 1)
    r = np.corrcoef(x, y)[0, 1] if len(np.unique(y)) > 1 else np.nan
    return xr.Dataset({"ms_per_saccade": slope, "intercept": intercept, "r": r, "n": len(x)})


def describe_model(model: object) -> dict[str, Any]:
    """Return what tells one model from another, ready for JSON: settings, and the hash of a network's weights."""
    config = getattr(model, "config", None)
    described: dict[str, Any] = {
        "class": type(model).__name__,
        "config": asdict(config) if is_dataclass(config) and not isinstance(config, type) else config,
    }
    backbone, recogniser = getattr(model, "backbone", None), getattr(model, "recogniser", None)
    if backbone is not None:
        described |= {"backbone": type(backbone).__name__, "taps": getattr(backbone, "taps", None)}
        network = find_network(backbone)
        if network is not None:
            digest = hashlib.sha256()
            for name, weight in network.state_dict().items():
                digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
            described["weights_sha256"] = digest.hexdigest()
    if recogniser is not None:
        described["recogniser"] = str(recogniser)
    return described


def _offset(progress: Callable[[int, int], None], done: int, total: int) -> Callable[[int, int], None]:
    def report(finished: int, _: Any) -> None:
        progress(done + finished, total)

    return report
