"""The simulated subject of the demo: composed images, seen through the demo network; and what a study fitted to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.analyses.fits import Progress, counting, fingerprint
from neuroattn.analyses.fitted import FeatureSource, find_fits
from neuroattn.analyses.report import _outlines
from neuroattn.datasets import Recording, make_nsd_like
from neuroattn.encoding import Backbone, BrainEncoder, extract_features, load_backbone, load_encoder
from neuroattn.encoding.features import user_cache


class Demo(NamedTuple):
    """What analyses of a fitted encoder take, from a folder of ``neuroattn fit-encoder --demo``.

    Parameters
    ----------
    encoder : BrainEncoder
        The fitted attention model.
    X : float array, shape (stimulus, channel, y, x)
        Features of the held-out images.
    y : float array, shape (stimulus, unit)
        Responses to them.
    images : uint8 array, shape (stimulus, y, x, 3)
        The held-out images.
    recording : Recording
        The whole simulated subject with the features that the encoder reads; ``recording.test`` tells what is held out.

    Examples
    --------
    >>> Demo._fields
    ('encoder', 'X', 'y', 'images', 'recording')
    """

    encoder: BrainEncoder
    X: NDArray[np.float32]
    y: NDArray[np.float32]
    images: NDArray[np.uint8]
    recording: Recording

    @property
    def objects(self) -> xr.DataArray:
        """Planted truth, dims (stimulus, query, y, x): the object that drives a query's region, all False if none."""
        queries = self.encoder.queries_
        labels = xr.DataArray(
            np.empty((len(self.X), len(queries))),
            dims=("stimulus", "query"),
            coords={
                "stimulus": self.recording.stimulus_ids[self.recording.test],
                **{name: ("query", queries[name].to_numpy(str)) for name in ("roi", "hemisphere")},
            },
        )
        masks = _outlines(labels, self.recording.truth)
        return xr.DataArray(masks, dims=(*labels.dims, "y", "x"), coords=labels.coords, name="object")


def load_demo(folder: str | Path, *, seed: int | None = None, cache: str | Path | None = None) -> Demo:
    """Load what ``neuroattn fit-encoder --demo --out FOLDER`` fitted and held out.

    The subject is simulated again, which takes seconds where the features of its images are stored.

    Parameters
    ----------
    folder : str or Path
    seed : int, optional
        Of the network; the demo fits two. Default the first.
    cache : str or Path, optional
        Folder of stored features, as the command's ``--cache``. Default the user's.

    Returns
    -------
    Demo

    Raises
    ------
    FileNotFoundError
        If the folder holds no study.
    ValueError
        If it holds another study than that of the demo, or no such seed.

    Examples
    --------
    >>> load_demo("/no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: folder /no/such/folder must hold config.json of neuroattn fit-encoder --demo
    """
    folder, cache = Path(folder), user_cache() if cache is None else Path(cache)
    stored = folder / "config.json"
    if not stored.is_file():
        raise FileNotFoundError(f"folder {folder} must hold config.json of neuroattn fit-encoder --demo")
    config = json.loads(stored.read_text())
    if (config.get("recording"), config.get("split")) != ("simulated", "given"):
        raise ValueError(
            f"folder {folder} must hold the study of neuroattn fit-encoder --demo on its own split, "
            f"got recording {config.get('recording')!r}, split {config.get('split')!r}"
        )
    fits = {
        fit.seed: fit for fit in reversed(find_fits(folder, only="attention"))
    }  # the first layer of several
    if seed is not None and seed not in fits:
        raise ValueError(f"seed must be one of {sorted(fits)}, got {seed}")
    fit = fits[min(fits) if seed is None else seed]
    recording = make_demo_recording(load_backbone("demo"), cache, seed=config["seed"])
    if fingerprint(recording) != config["data"]:
        raise ValueError(
            f"folder {folder} must hold the study of the whole simulated subject of seed {config['seed']}, "
            "got other data: of some regions, of another subject or of another version"
        )
    features = np.asarray(FeatureSource(recording.images, None, cache).of(fit)[:], np.float32)
    held_out = np.flatnonzero(np.asarray(recording.test))
    return Demo(
        load_encoder(fit.folder).set_params(device="auto"),
        features[held_out],
        np.asarray(recording.responses[held_out]),
        np.asarray(recording.images)[held_out],
        replace(recording, features=features),
    )


def make_demo_recording(
    backbone: Backbone,
    cache: str | Path,
    *,
    n_train: int = 380,
    n_test: int = 120,
    seed: int = 0,
    progress: Progress | None = None,
) -> Recording:
    """Simulate a subject whose responses are planted on the features of a network.

    Parameters
    ----------
    backbone : Backbone
    cache : str or Path
        Folder of stored features; fitting the recording with the same network reads them from there.
    n_train, n_test : int
    seed : int
    progress : callable, optional
        Called with a stage, the steps done and the steps in all.

    Returns
    -------
    Recording
    """

    def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        report = None if progress is None else counting(progress, "features", len(images))
        return np.asarray(extract_features(images, backbone, cache, progress=report)[:], np.float32)

    return make_nsd_like(n_train, n_test, seed=seed, features=features, vertices_per_roi=16)
