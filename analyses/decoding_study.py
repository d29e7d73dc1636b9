"""Decode one recording and write everything a reader needs: scores, models, maps, a report."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from neuroattn.analyses.decoder import Decoder
from neuroattn.analyses.decoding import (
    Condition,
    Progress,
    check_null,
    decode_trials,
    decoding_folds,
    default_conditions,
    new_estimator,
)
from neuroattn.analyses.decoding_report import write_decoding_report
from neuroattn.analyses.encoder_study import open_study
from neuroattn.datasets.eeg import Trials
from neuroattn.eeg import MotorImageryClassifier, attention_maps
from neuroattn.eeg.pipelines import lateral_pairs
from neuroattn.results import replacing, write_netcdf


def decode_recording(
    trials: Trials,
    out: str | Path,
    *,
    pipelines: Sequence[str],
    cut: Mapping[str, Any],
    conditions: Sequence[Condition] | None = None,
    protocol: str | None = None,
    n_permutations: int = 200,
    null: str = "refit",
    n_epochs: int = 100,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    dataset: str = "",
    command: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Score pipelines, fit each to all trials, and write scores, models, maps and a report.

    Parameters
    ----------
    trials : Trials
        Signals as recorded, from a second before the cue.
    out : str or Path
        Folder for ``scores.nc``, ``scores.csv``, ``maps.nc``, ``report.html`` and a folder ``models/PIPELINE`` each.
    pipelines : sequence of str
        See :func:`decode_trials`.
    cut : mapping
        Arguments of :func:`neuroattn.datasets.load_eeg` by which the trials were cut, kept with the models.
    conditions, protocol, n_permutations, null, n_epochs, seed, device, progress
        See :func:`decode_trials`.
    resume : bool, default False
        Continue in ``out``: finished parts are kept.
    dataset, command : str
        Shown in the report.

    Returns
    -------
    Dataset
        Of :func:`decode_trials`.

    Raises
    ------
    ValueError
        If ``out`` holds another study.

    Examples
    --------
    >>> import tempfile
    >>> y = np.array(["left", "right"] * 6)
    >>> metadata = pd.DataFrame({"subject": ["1"] * 12, "session": "1", "run": ["1"] * 6 + ["2"] * 6})
    >>> X = np.random.default_rng(0).normal(size=(12, 2, 250))
    >>> trials = Trials(X, y, metadata, ["C3", "C4"], sfreq=100, tmin=-1)
    >>> out = Path(tempfile.mkdtemp()) / "study"
    >>> _ = decode_recording(trials, out, pipelines=["tangent-space"], cut={}, n_permutations=0)
    >>> sorted(path.name for path in out.iterdir())
    ['config.json', 'maps.nc', 'models', 'parts', 'report.html', 'scores.csv', 'scores.nc']
    """
    out = Path(out)
    chosen = default_conditions(trials) if conditions is None else conditions
    config = {
        "data": _fingerprint(trials),
        "cut": dict(cut),
        "pipelines": list(pipelines),
        "conditions": [vars(condition) for condition in chosen],
        "protocol": protocol,
        "n_permutations": n_permutations,
        "null": null,
        "n_epochs": n_epochs,
        "seed": seed,
    }
    check_null(null, decoding_folds(trials, protocol)[0])
    rehearse(trials, pipelines, chosen, protocol)
    open_study(out, config, resume)
    scores = decode_trials(
        trials,
        pipelines,
        conditions=chosen,
        protocol=protocol,
        n_permutations=n_permutations,
        null=null,
        n_epochs=n_epochs,
        seed=seed,
        device=device,
        store=out / "parts",
        progress=progress,
    )
    maps = {}
    (out / "models").mkdir(exist_ok=True)
    slow = next((condition for condition in chosen if condition.name == "slow"), chosen[0])
    for i, name in enumerate(pipelines):
        if progress is not None:
            progress("models", i, len(pipelines))
        condition = slow if name == "slow-signals" else chosen[0]
        decoder = Decoder.fit(trials, name, condition, n_epochs=n_epochs, seed=seed, device=device)
        decoder.save(out / "models" / name, cut=cut)
        found = decoder_maps(decoder, trials)
        if found is not None:
            maps[name] = found
    if progress is not None:
        progress("models", len(pipelines), len(pipelines))
    write_netcdf(out / "scores.nc", scores)
    with replacing(out / "scores.csv") as temporary:
        score_table(scores).to_csv(temporary, index=False)
    write_netcdf(
        out / "maps.nc", xr.Dataset({name: one.rename(map=f"map_{name}") for name, one in maps.items()})
    )
    write_decoding_report(
        out / "report.html",
        scores,
        config={
            "dataset": dataset,
            "notes": list(trials.notes),
            "command": command,
            "n_channels": len(trials.ch_names),
            "sfreq": trials.sfreq,
        },
        maps=maps,
        info=trials.info,
    )
    return scores


def rehearse(
    trials: Trials, pipelines: Sequence[str], conditions: Sequence[Condition], protocol: str | None
) -> None:
    """Refuse what cannot be run, before anything is written: folds, bands, windows too short for a network.

    Examples
    --------
    >>> metadata = pd.DataFrame({"subject": ["1"] * 12, "session": "1", "run": "1"})
    >>> X = np.random.default_rng(0).normal(size=(12, 2, 250))
    >>> trials = Trials(X, np.array(["left", "right"] * 6), metadata, ["C3", "C4"], sfreq=100, tmin=0)
    >>> rehearse(trials, ["csp-lda"], [Condition("imagery", (8, 60), 0.5, 2.5)], None)
    Traceback (most recent call last):
    ValueError: band must have 0 < low < high < 50 Hz, half the sampling rate, got (8, 60)
    """
    decoding_folds(trials, protocol)
    first = np.concatenate([np.flatnonzero(trials.y == label)[:2] for label in np.unique(trials.y)])
    for condition in conditions:
        X = condition.apply(trials).X
        for name in pipelines:
            estimator = new_estimator(name, sfreq=trials.sfreq, ch_names=trials.ch_names, n_epochs=1, seed=0)
            if isinstance(estimator, MotorImageryClassifier):
                estimator.fit(X[first], trials.y[first])
            elif name == "slow-signals":
                lateral_pairs(trials.ch_names)


def decoder_maps(decoder: Decoder, trials: Trials) -> xr.DataArray | None:
    """Return maps of a decoder on the scalp, dims (map, channel), or None where it has none.

    The outermost two spatial patterns of each side of "csp-lda"; for a BaseNet the maps of
    :func:`neuroattn.eeg.attention_maps`, one a class, or one for all where there is no attention.

    Examples
    --------
    >>> y = np.array(["left", "right"] * 6)
    >>> metadata = pd.DataFrame({"subject": ["1"] * 12, "session": "1", "run": "1"})
    >>> X = np.random.default_rng(0).normal(size=(12, 2, 250))
    >>> trials = Trials(X, y, metadata, ["C3", "C4"], sfreq=100, tmin=0)
    >>> decoder = Decoder.fit(trials, "csp-lda", Condition("imagery", (8, 30), 0.5, 2.5))
    >>> decoder_maps(decoder, trials).dims
    ('map', 'channel')
    """
    channels = list(trials.ch_names)
    if isinstance(decoder.estimator, MotorImageryClassifier):
        maps = attention_maps(decoder.estimator, decoder.condition.apply(trials).X, trials.y)
        if decoder.estimator.attention is None:
            maps = maps.isel(label=[0]).assign_coords(label=["all classes"])
        return maps.rename(label="map")
    if decoder.pipeline != "csp-lda":
        return None
    # MNE orders patterns by how far they separate the classes.
    patterns = decoder.estimator.named_steps["csp"].patterns_[: min(4, len(channels))]
    return xr.DataArray(
        patterns * np.sign(patterns[np.arange(len(patterns)), np.abs(patterns).argmax(1)])[:, None],
        dims=("map", "channel"),
        coords={"map": [f"pattern {i + 1}" for i in range(len(patterns))], "channel": channels},
        attrs={"units": "microvolt"},
    )


def score_table(scores: xr.Dataset) -> pd.DataFrame:
    """Return one row a pipeline and condition.

    Examples
    --------
    >>> scores = xr.Dataset(
    ...     {"accuracy": (("pipeline", "condition"), [[0.8]]), "null_95": (("pipeline", "condition"), [[0.6]]),
    ...      "p_value": (("pipeline", "condition"), [[0.005]]), "adjusted_chance": 0.62,
    ...      "verdict": ("pipeline", ["not above chance"]),
    ...      "accuracy_ci": (("pipeline", "condition", "bound"), [[[0.7, 0.9]]])},
    ...     {"pipeline": ["csp-lda"], "condition": ["imagery"], "bound": ["low", "high"]})
    >>> score_table(scores)[["pipeline", "condition", "accuracy", "low", "high"]].values.tolist()
    [['csp-lda', 'imagery', 0.8, 0.7, 0.9]]
    """
    interval = scores.accuracy_ci.to_dataset("bound")
    columns = ["accuracy", "null_95", "p_value", "adjusted_chance", "verdict"]
    table = xr.merge([scores[columns].reset_coords(drop=True), interval.reset_coords(drop=True)])
    frame: pd.DataFrame = table.to_dataframe().reset_index()
    return frame[["pipeline", "condition", "accuracy", "low", "high", *columns[1:]]].dropna(
        subset="accuracy", ignore_index=True
    )


def _fingerprint(trials: Trials) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(trials.X).tobytes())
    digest.update("\n".join(map(str, trials.y)).encode())
    digest.update(trials.metadata[["subject", "session", "run"]].to_csv().encode())
    return digest.hexdigest()[:16]
