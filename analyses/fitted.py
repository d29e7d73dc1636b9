"""Use encoders that a study fitted: score them on other data, map their attention over other images."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from neuroattn._checks import check_option
from neuroattn.analyses.encoder_report import PACKAGES, write_encoder_report
from neuroattn.analyses.fits import (
    ATTENTION_MODELS,
    Progress,
    average_repeats,
    counting,
    family,
    pool_tokens,
    rows_of,
)
from neuroattn.analyses.report import installed_versions
from neuroattn.analyses.scores import N_RESAMPLES, Prediction, score_predictions
from neuroattn.datasets import ImageFiles, Images, Recording
from neuroattn.encoding import (
    Backbone,
    BrainEncoder,
    Encoder,
    NetworkEncoder,
    extract_features,
    load_backbone,
    load_encoder,
)
from neuroattn.results import filling, provenance, write_netcdf


@dataclass(frozen=True)
class Fit:
    """A fitted encoder in its folder.

    Parameters
    ----------
    folder : Path
    label : str
        Its name along ``model``.
    seed : int
    recording : str
        Name of the recording that it was fitted to.
    simulated : bool
        Whether that recording was simulated.
    features : dict or None
        Where its features came from: of one store, or of every layer; None where a recording brought its own.
    pool : int, optional
    train : frozenset of str
        Stimuli that it was fitted to.
    """

    folder: Path
    label: str
    seed: int
    recording: str
    simulated: bool
    features: dict[str, Any] | None
    pool: int | None
    train: frozenset[str]

    @property
    def origins(self) -> list[dict[str, Any]]:
        """Where its features came from, one entry a layer; none where a recording brought its own."""
        if self.features is None:
            return []
        return [self.features] if "fingerprint" in self.features else list(self.features.values())


def find_fits(folder: str | Path, *, only: str | None = None) -> list[Fit]:
    """Find the fitted encoders of a folder: of one fit, or of a study of one subject.

    Parameters
    ----------
    folder : str or Path
    only : str, optional
        Label, or family of labels, to keep.

    Returns
    -------
    list of Fit
        At least one.

    Raises
    ------
    FileNotFoundError
        If there is none.

    Examples
    --------
    >>> find_fits("/no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: /no/such/folder holds no fitted encoder; expected fit.json or a folder models of fit-encoder
    """
    folder = Path(folder)
    paths = [folder / "fit.json", *sorted(folder.glob("models/*/seed-*/fold-*/fit.json"))]
    fits = []
    for path in paths:
        if path.is_file():
            stored = json.loads(path.read_text())
            fits.append(
                Fit(
                    path.parent,
                    stored["model"],
                    stored["seed"],
                    stored["recording"],
                    stored.get("simulated", False),
                    stored["features"],
                    stored["pool"],
                    frozenset(stored["train"]),
                )
            )
    if not fits:
        raise FileNotFoundError(
            f"{folder} holds no fitted encoder; expected fit.json or a folder models of fit-encoder"
        )
    if only is not None:
        labels = list(dict.fromkeys([*(fit.label for fit in fits), *(family(fit.label) for fit in fits)]))
        check_option("model", only, labels)
        fits = [fit for fit in fits if only in (fit.label, family(fit.label))]
    return fits


def load_origin(origin: Mapping[str, Any], device: str = "cpu") -> Backbone:
    """Load the backbone that features came from, and check that it is the same.

    Parameters
    ----------
    origin : mapping
        ``backbone`` (its configuration) and ``fingerprint``, as a feature store keeps them.
    device : str

    Returns
    -------
    Backbone

    Raises
    ------
    ValueError
        If its weights or preprocessing have changed.

    Examples
    --------
    >>> backbone = load_backbone("test_vit", weights="random", image_size=32)
    >>> load_origin({"backbone": backbone.config, "fingerprint": backbone.fingerprint()})
    Backbone('timm:test_vit', layer='blocks.5', facet='output')
    """
    config = origin["backbone"]
    size = config["preprocessing"]["size"]
    backbone = load_backbone(
        config["name"],
        layer=config["layer"],
        facet=config["facet"],
        image_size=None if size is None else (size[0], size[1]),
        weights=config["weights"],
        device=device,
    )
    if backbone.fingerprint() != origin["fingerprint"]:
        raise ValueError(
            f"backbone {config['name']} differs from the one that the encoder was fitted with in weights or versions"
        )
    return backbone


class FeatureSource:
    """Features of some images or of a recording for any fit, each extracted once.

    Parameters
    ----------
    images : Images, optional
    features : array, optional
        The recording's own.
    cache : Path
        Folder of stored features.
    device : str
    progress : callable, optional

    Examples
    --------
    >>> source = FeatureSource(None, np.zeros((3, 8, 14, 14), "f4"), Path("unused"))
    >>> source.of(Fit(Path("fit"), "attention", 0, "cells", False, None, 7, frozenset())).shape
    (3, 8, 7, 7)
    """

    def __init__(
        self,
        images: Images | None,
        features: Any,
        cache: Path,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> None:
        self.images, self.features, self.cache, self.device = images, features, cache, device
        self.progress = progress
        self._known: dict[str, Any] = {}

    def of(self, fit: Fit) -> Any:
        """Return features as the fit read them: an array, a store, or a mapping of layers."""
        if fit.features is None:
            if self.features is None:
                raise ValueError(
                    f"features must be given for {fit.folder}, which was fitted to features of its own"
                )
            return self.features if fit.pool is None else pool_tokens(self.features, fit.pool)
        if "fingerprint" in fit.features:
            return self._extract(fit.features)
        return {layer: self._extract(origin) for layer, origin in fit.features.items()}

    def _extract(self, origin: Mapping[str, Any]) -> Any:
        key = json.dumps(origin, sort_keys=True)
        if key not in self._known:
            if self.images is None:
                raise ValueError("images must be given for an encoder that was fitted to features of images")
            report = None if self.progress is None else counting(self.progress, "features", len(self.images))
            self._known[key] = extract_features(
                self.images,
                load_origin(origin, self.device),
                self.cache,
                dtype=origin["dtype"],
                pool=origin["pool"],
                progress=report,
            )
        return self._known[key]


def evaluate_encoder(
    folder: str | Path,
    recording: Recording,
    out: str | Path,
    *,
    cache: str | Path,
    min_ceiling: float = 0.1,
    n_shuffles: int = 1000,
    seed: int = 0,
    device: str = "cpu",
    command: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Score fitted encoders on the stimuli of a recording that they were not fitted to.

    Parameters
    ----------
    folder : str or Path
        A fit, or the study of one subject, whose every column and seed is scored. Predictions of several folds are
        averaged.
    recording : Recording
        With the units of the fits, in their order.
    out : str or Path
        Folder for ``scores.nc``, ``roi_scores.nc`` and ``report.html``.
    cache : str or Path
        Folder of stored features.
    min_ceiling, n_shuffles, seed, device
        As for :func:`run_encoder_study`.
    command : str
        Shown in the report.
    progress : callable, optional

    Returns
    -------
    Dataset
        ``scores.nc``; the attribute ``n_fitted`` counts stimuli that were left out because a fit had seen them.

    Raises
    ------
    ValueError
        If units differ, or every stimulus was fitted to.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.analyses.fits import Column, FitSpec, Source, prepare_data, run_fit
    >>> from neuroattn.results import label_rois
    >>> X = np.random.default_rng(0).normal(size=(60, 4)).astype("f4")
    >>> recording = Recording("cells", X @ X[:4].T, label_rois({"V4": [True] * 4}, unit_kind="neuron"),
    ...                       stimulus_ids=np.arange(60).astype(str), features=X)
    >>> folder, source = Path(tempfile.mkdtemp()), Source(None, "test=20,seed=0")
    >>> run_fit(FitSpec(folder=folder / "fit", source=source, features=None, column=Column("ridge", None)),
    ...         prepare_data(recording, source))
    >>> scores = evaluate_encoder(folder / "fit", recording, folder / "out", cache=folder / "cache", n_shuffles=99)
    >>> bool((scores.correlation > 0.9).all()), int(scores.attrs["n_fitted"])
    (True, 40)
    """
    started = time.monotonic()
    fits = find_fits(folder)
    recording = average_repeats(recording)
    seen = frozenset[str]().union(*(fit.train for fit in fits))
    rows = np.flatnonzero([str(name) not in seen for name in recording.stimulus_ids])
    if len(rows) < 3:
        raise ValueError(
            f"recording {recording.name!r} must have at least 3 stimuli that the encoders were not fitted to, "
            f"got {len(rows)} of {recording.n_stimuli}"
        )
    source = FeatureSource(recording.images, recording.features, Path(cache), device, progress)
    labels = list(dict.fromkeys(fit.label for fit in fits))
    contender = _contender(folder, labels)
    seeds = sorted({fit.seed for fit in fits})

    def predict(label: str, one: int) -> Prediction:
        chosen = [fit for fit in fits if fit.label == label and fit.seed == one]
        if not chosen:  # closed form on a fixed partition: one fit serves all seeds
            chosen = [fit for fit in fits if fit.label == label and fit.seed == seeds[0]]
        values = [_loaded(fit, recording, device).predict(rows_of(source.of(fit), rows)) for fit in chosen]
        for fit, predicted in zip(chosen, values, strict=True):
            _check_units(predicted.shape[1], fit, recording)
        return Prediction(np.mean(values, axis=0, dtype=np.float32), chosen[0].seed)

    scores, roi_scores = score_predictions(
        predict,
        labels,
        seeds,
        rows,
        recording,
        contender=contender,
        min_ceiling=min_ceiling,
        n_shuffles=n_shuffles,
        seed=seed,
        progress=progress,
    )
    config = {"encoders": str(folder), "recording": recording.name, "n_test": len(rows)}
    attrs = {
        **provenance(seed, config),
        "simulated": int(recording.simulated),
        "min_ceiling": min_ceiling,
        "contender": contender or "",
        "not_applicable": "{}",
        "n_fitted": recording.n_stimuli - len(rows),
    }
    for dataset in (scores, roi_scores):
        dataset.attrs |= attrs
    with filling(out) as written:
        write_netcdf(written / "roi_scores.nc", roi_scores)
        write_encoder_report(
            written / "report.html",
            scores=scores,
            roi_scores=roi_scores,
            config={
                "command": command,
                "dataset": recording.name,
                "encoders": f"{folder}, fitted to {fits[0].recording}",
                **_feature_names(fits),
                "split": f"the stimuli of {recording.name} that no encoder was fitted to",
                "seeds": seeds,
                "n_train": len(fits[0].train),
                "n_test": len(rows),
                "n_bootstrap": N_RESAMPLES,
                "notes": list(recording.notes),
                "versions": installed_versions(*PACKAGES),
                "durations": {"in all": time.monotonic() - started},
            },
            truth=recording.truth,
            surface=recording.surface,
            title="Fitted encoders on other stimuli",
        )
        write_netcdf(written / "scores.nc", scores)
    return scores


def _contender(folder: str | Path, labels: Sequence[str]) -> str | None:
    """Return the column that is compared with the others: the only attention, or that of the study."""
    candidates = [label for label in labels if family(label) in ATTENTION_MODELS]
    if len(candidates) > 1 and (Path(folder) / "scores.nc").is_file():
        with xr.open_dataset(Path(folder) / "scores.nc", engine="h5netcdf") as study:
            candidates = [label for label in candidates if label == study.attrs["contender"]]
    return candidates[0] if len(candidates) == 1 else None


def _feature_names(fits: Iterable[Fit]) -> dict[str, str]:
    """Return the backbones and layers that fits read, as reports name them."""
    configs = [origin["backbone"] for fit in fits for origin in fit.origins]
    if not configs:
        return {"backbone": "given features"}
    names, layers = (dict.fromkeys(str(one[key]) for one in configs) for key in ("name", "layer"))
    return {"backbone": ", ".join(names), "layer": ", ".join(layers)}


def _loaded(fit: Fit, recording: Recording, device: str) -> Encoder:
    """Load an encoder and check, where it knows, that its units are those of the recording."""
    encoder = load_encoder(fit.folder)
    if isinstance(encoder, NetworkEncoder):
        encoder.set_params(device=device)
        _check_units(encoder.n_units_, fit, recording)
        for name in ("hemisphere", "vertex_index"):
            own, given = encoder._membership()[name].values, recording.rois[name].values
            if not np.array_equal(own, given):
                raise ValueError(
                    f"recording {recording.name!r} must have the units of {fit.folder} in their order, "
                    f"got another {name}"
                )
    return encoder


def _check_units(n_units: int, fit: Fit, recording: Recording) -> None:
    if n_units != recording.n_units:
        raise ValueError(
            f"recording {recording.name!r} must have the {n_units} units of {fit.folder}, got {recording.n_units}"
        )


def map_attention(
    folder: str | Path,
    images: Images,
    *,
    cache: str | Path,
    model: str = "attention",
    regions: Sequence[str] | None = None,
    per_head: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> xr.DataArray:
    """Map where the queries of fitted encoders look in images.

    Parameters
    ----------
    folder : str or Path
        A fit, or the study of one subject.
    images : Images
    cache : str or Path
        Folder of stored features.
    model : str, default "attention"
        Label or family; of several layers the first.
    regions : sequence of str, optional
        Regions to keep; None keeps all.
    per_head : bool, default False
        One map a head instead of their mean.
    device : str
    progress : callable, optional

    Returns
    -------
    DataArray, dims (seed, stimulus, query, [head,] y, x)
        float16 weights that sum to one over y and x, mean over folds; names of files or numbers along ``stimulus``.
        The attribute ``simulated`` says whether the encoders were fitted to simulated responses.

    Raises
    ------
    ValueError
        If the fits have no regions as queries, or a region is unknown.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.analyses.fits import Column, FitSpec, Source, prepare_data, run_fit
    >>> from neuroattn.results import label_rois
    >>> folder = Path(tempfile.mkdtemp())
    >>> images = np.random.default_rng(0).integers(0, 256, (12, 32, 48, 3), np.uint8)
    >>> recording = Recording("cells", images.mean((1, 2)).astype("f4"), label_rois({"V4": [True] * 3}),
    ...                       stimulus_ids=np.arange(12).astype(str), images=images)
    >>> store = extract_features(images, load_backbone("test_vit", weights="random"), folder)
    >>> source = Source(None, "test=4,seed=0")
    >>> run_fit(FitSpec(folder=folder / "fit", source=source, features=store.path, column=Column("attention", None),
    ...                 options={"epochs": 1}), prepare_data(recording, source))
    >>> dict(map_attention(folder / "fit", images[:5], cache=folder).sizes)
    {'seed': 1, 'stimulus': 5, 'query': 1, 'y': 2, 'x': 3}
    """
    fits = find_fits(folder, only=model)
    fits = [fit for fit in fits if fit.label == fits[0].label]
    source = FeatureSource(images, None, Path(cache), device, progress)
    per_seed: dict[int, list[xr.DataArray]] = {}
    for i, fit in enumerate(fits):
        if progress is not None:
            progress("maps", i, len(fits))
        encoder = load_encoder(fit.folder)
        if not isinstance(encoder, BrainEncoder) or encoder.readout == "unit":
            raise ValueError(f"{fit.folder} must be an attention encoder with regions as queries")
        maps = encoder.set_params(device=device).attention(source.of(fit), per_head=per_head)
        if regions is not None:
            for region in regions:
                check_option("region", region, list(dict.fromkeys(maps["roi"].values.tolist())))
            maps = maps.isel(query=np.flatnonzero(np.isin(maps["roi"].values, regions)))
        per_seed.setdefault(fit.seed, []).append(maps)
    if progress is not None:
        progress("maps", len(fits), len(fits))
    means = [sum(parts[1:], start=parts[0]) / len(parts) for parts in per_seed.values()]
    joined = xr.concat(means, dim=pd.Index(list(per_seed), name="seed"), coords="minimal", compat="override")
    config = {
        "encoders": str(folder),
        "recording": fits[0].recording,
        "n_train": len(fits[0].train),
        "n_fits": len(fits),
        **_feature_names(fits),
    }
    attrs = {
        "units": "share of attention",
        "model": fits[0].label,
        "simulated": int(fits[0].simulated),
        **provenance(0, config),
    }
    return joined.astype(np.float16).assign_coords(stimulus=image_names(images)).assign_attrs(attrs)


def image_names(images: Images) -> NDArray[Any]:
    """Return the names of image files without their endings, or numbers.

    Examples
    --------
    >>> image_names(np.zeros((2, 4, 4, 3), np.uint8)).tolist()
    ['0', '1']
    """
    if isinstance(images, ImageFiles):
        return np.asarray([Path(path).stem for path in images.paths], dtype=object)
    return np.asarray([str(i) for i in range(len(images))], dtype=object)
