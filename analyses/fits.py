"""One fit: a small description that travels to any worker, and the folder that it leaves behind."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuroattn._checks import check_range
from neuroattn.datasets import Fold, Recording, Rows, split_stimuli
from neuroattn.encoding import (
    Backbone,
    BandedRidgeEncoder,
    BrainEncoder,
    ConvolutionEncoder,
    Encoder,
    FactorizedEncoder,
    FeatureStore,
    GaussianEncoder,
    NetworkEncoder,
    PcaRegressionEncoder,
    PooledRidgeEncoder,
    ProbeEncoder,
    RidgeEncoder,
)
from neuroattn.results import replacing, write_json, write_netcdf

MODELS: dict[str, type[Encoder]] = {
    "attention": BrainEncoder,
    "attention-layermix": BrainEncoder,
    "ridge": RidgeEncoder,
    "pooled-ridge": PooledRidgeEncoder,
    "banded-ridge": BandedRidgeEncoder,
    "pca-regression": PcaRegressionEncoder,
    "factorized": FactorizedEncoder,
    "gaussian": GaussianEncoder,
    "convolution": ConvolutionEncoder,
    "probe": ProbeEncoder,
}
MIXTURES = frozenset({"attention-layermix", "banded-ridge"})  # models that read several layers at once
ATTENTION_MODELS = ("attention", "attention-layermix")
N_MAPS = 32  # test images whose attention is kept

Progress = Callable[[str, int, int], None]
"""Called with a stage, the steps done and the steps in all."""


class Column(NamedTuple):
    """One entry of the dimension ``model``: a model on the features of a layer.

    Parameters
    ----------
    model : str
        Key of :data:`MODELS`.
    layer : str or None
        None where there is one layer only, or all are read at once.

    Examples
    --------
    >>> Column("attention", "block10").label, Column("ridge", None).label
    ('attention@block10', 'ridge')
    """

    model: str
    layer: str | None

    @property
    def label(self) -> str:
        """Name of the column."""
        return self.model if self.layer is None else f"{self.model}@{self.layer}"


def family(label: str) -> str:
    """Return the model of a column: the part before "@".

    Examples
    --------
    >>> family("attention@ensemble"), family("ridge")
    ('attention', 'ridge')
    """
    return label.partition("@")[0]


@dataclass(frozen=True)
class Source:
    """How a fit gets at its data.

    Parameters
    ----------
    load : callable, optional
        Returns the recording; it is pickled, so it must be importable where the fit runs. None where the recording
        exists in this process only.
    split : str
        See :func:`neuroattn.datasets.split_stimuli`.
    pool : int, optional
        Average the tokens of the recording's own features to ``pool`` x ``pool``.
    """

    load: Callable[[], Recording] | None
    split: str
    pool: int | None = None


@dataclass(frozen=True)
class Data:
    """A recording without repeats, its folds, and the rows whose attention is kept."""

    recording: Recording
    folds: list[Fold]
    shown: NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """Everything that decides a fit, in a few hundred bytes.

    Parameters
    ----------
    folder : Path
        Written whole or not at all; a fit whose folder exists is done.
    source : Source
    features : Path or mapping of layer to Path, optional
        Feature stores; None takes the recording's own features.
    column : Column
    options : mapping
        Parameters of the model.
    seed : int
    fold : int
        Position in the folds of the split.
    device : str
    threads : int, optional
        Threads of this fit. Sums over threads differ in their last bits, so equal numbers of threads give equal
        results, wherever the fit runs. None takes all cores.
    """

    folder: Path
    source: Source
    features: Path | dict[str, Path] | None
    column: Column
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    fold: int = 0
    device: str = "cpu"
    threads: int | None = None


def counting(progress: Progress, stage: str, total: int) -> Callable[[int], None]:
    """Return a callback for steps just done that reports all steps done.

    Examples
    --------
    >>> step = counting(print, "features", 96)
    >>> step(32), step(32)
    features 32 96
    features 64 96
    (None, None)
    """
    done = 0

    def step(n: int) -> None:
        nonlocal done
        done += n
        progress(stage, done, total)

    return step


def prepare_data(recording: Recording, source: Source) -> Data:
    """Average repeats, pool the recording's own features, and split.

    Examples
    --------
    >>> from neuroattn.results import label_rois
    >>> cells = Recording("a", np.zeros((9, 1), "f4"), label_rois({"V4": [True]}),
    ...                   stimulus_ids=np.arange(9).astype(str), features=np.zeros((9, 8, 14, 14), "f4"))
    >>> data = prepare_data(cells, Source(None, "test=3,seed=0", pool=7))
    >>> data.recording.features.shape, data.shown.tolist() == data.folds[0].test.tolist()
    ((9, 8, 7, 7), True)
    """
    recording = average_repeats(recording)
    if source.pool is not None and recording.features is not None:
        recording = replace(recording, features=pool_tokens(recording.features, source.pool))
    folds = split_stimuli(recording.stimulus_ids, source.split, test=recording.test)
    return Data(recording, folds, np.unique(np.concatenate([fold.test for fold in folds]))[:N_MAPS])


def run_fit(spec: FitSpec, data: Data | None = None) -> None:
    """Fit one model to one fold and store it with its predictions, unless its folder is there.

    A pure function of ``spec``: it may be killed and run again, here or on another machine that sees the same files.
    A network that was interrupted goes on from its last checkpoint, which lies beside the folder.

    Parameters
    ----------
    spec : FitSpec
    data : Data, optional
        What ``spec.source`` describes, where it is at hand.
    """
    if spec.folder.is_dir():
        return
    if data is None:
        data = _recall(pickle.dumps(spec.source))
    spec.folder.parent.mkdir(parents=True, exist_ok=True)
    fold = data.folds[spec.fold]
    features = open_features(spec.features, data.recording)
    encoder = new_encoder(spec.column.model, data.recording, spec.options, spec.seed, spec.device)
    state = spec.folder.with_name(f"{spec.folder.name}.training")
    with limited_threads(spec.threads):
        train, responses = rows_of(features, fold.train), rows_of(data.recording.responses, fold.train)
        if isinstance(encoder, NetworkEncoder):
            encoder.fit(train, responses, checkpoint=state)
        else:
            encoder.fit(train, responses)
        predicted = encoder.predict(rows_of(features, fold.test))
        maps = None
        rows = np.intersect1d(fold.test, data.shown)
        if isinstance(encoder, BrainEncoder) and encoder.readout != "unit" and len(rows):
            maps = encoder.attention(rows_of(features, rows))
        with replacing(spec.folder) as temporary:
            encoder.save(temporary)
            np.save(temporary / "predictions.npy", predicted.astype(np.float32))
            if isinstance(encoder, NetworkEncoder):
                np.save(temporary / "validation_correlation.npy", encoder.validation_correlation_)
            write_json(temporary / "fit.json", describe_fit(spec, data, features))
            if maps is not None:
                write_netcdf(temporary / "attention.nc", maps.to_dataset())
    shutil.rmtree(state, ignore_errors=True)


def describe_fit(spec: FitSpec, data: Data, features: Any) -> dict[str, Any]:
    """Return what evaluating the fit on other data must know: where features came from, what was fitted."""

    def origin(store: Any) -> dict[str, Any] | None:
        if not isinstance(store, FeatureStore):
            return None
        return {name: store.attrs[name] for name in ("backbone", "fingerprint", "pool")} | {
            "dtype": str(store.dtype)
        }

    return {
        "model": spec.column.label,
        "seed": spec.seed,
        "recording": data.recording.name,
        "features": {name: origin(store) for name, store in features.items()}
        if isinstance(features, Mapping)
        else origin(features),
        "pool": spec.source.pool,
        "train": data.recording.stimulus_ids[data.folds[spec.fold].train].tolist(),
    }


@functools.lru_cache(maxsize=1)
def _recall(source: bytes) -> Data:
    """Load the data of a source once for the many fits of a worker; sources are compared by their content."""
    restored: Source = pickle.loads(source)
    if restored.load is None:
        raise ValueError("source must say how to load its recording, got None")
    return prepare_data(restored.load(), restored)


@contextlib.contextmanager
def limited_threads(n: int | None) -> Iterator[None]:
    """Compute with so many threads inside; None leaves them as they are.

    Examples
    --------
    >>> import torch
    >>> with limited_threads(1):
    ...     torch.get_num_threads()
    1
    """
    if n is None:
        yield
        return
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    try:
        with threadpool_limits(n):
            torch.set_num_threads(n)
            yield
    finally:
        torch.set_num_threads(before)


def open_features(features: Path | Mapping[str, Path] | None, recording: Recording) -> Any:
    """Return the feature store or stores, or the recording's own features."""
    if features is None:
        return recording.features
    if isinstance(features, Path):
        return FeatureStore(features)
    return {layer: FeatureStore(path) for layer, path in features.items()}


def rows_of(table: Any, rows: NDArray[np.intp]) -> Any:
    """Return rows of an array, a view that reads rows of a file when they are asked for, or a mapping of these.

    Examples
    --------
    >>> rows_of({"a": np.arange(5)}, np.array([1, 3]))
    {'a': array([1, 3])}
    """
    if isinstance(table, Mapping):
        return {name: rows_of(part, rows) for name, part in table.items()}
    in_memory = isinstance(table, np.ndarray) and not isinstance(table, np.memmap)
    return table[rows] if in_memory else Rows(table, rows)


def new_encoder(
    name: str, recording: Recording, options: Mapping[str, Any], seed: int, device: str
) -> Encoder:
    """Build an unfitted encoder for the units of a recording."""
    cls = MODELS[name]
    if issubclass(cls, NetworkEncoder):
        return cls(rois=recording.rois, **({"seed": seed, "device": device} | dict(options)))
    return cls(**options)


def model_folder(out: Path, label: str, seed: int, fold: int) -> Path:
    """Return the folder of one fit."""
    return out / "models" / label / f"seed-{seed}" / f"fold-{fold}"


def fingerprint(recording: Recording) -> str:
    """Return a hash of stimuli, regions and some responses, by which a resumed study knows its data.

    Examples
    --------
    >>> from neuroattn.results import label_rois
    >>> one = Recording("a", np.zeros((3, 1), "f4"), label_rois({"V1": [True]}),
    ...                 stimulus_ids=np.array(["x", "y", "z"]), features=np.zeros((3, 2), "f4"))
    >>> fingerprint(one) == fingerprint(replace(one, responses=np.ones((3, 1), "f4")))
    False
    """
    rows = np.unique(np.linspace(0, recording.n_stimuli - 1, 16).astype(int))
    digest = hashlib.blake2b(digest_size=8)
    digest.update("\n".join(recording.stimulus_ids.tolist()).encode())
    digest.update(np.packbits(recording.rois.values).tobytes())
    digest.update(np.ascontiguousarray(recording.responses[rows]).tobytes())
    return digest.hexdigest()


def feature_shape(recording: Recording, backbone: Backbone | None, pool: int | None) -> tuple[int, ...]:
    """Return the shape of the features of one stimulus, (channel, y, x), or (channel,) without tokens.

    Examples
    --------
    >>> from neuroattn.results import label_rois
    >>> cells = Recording("a", np.zeros((3, 1), "f4"), label_rois({"V4": [True]}),
    ...                   stimulus_ids=np.arange(3).astype(str), features=np.zeros((3, 8, 14, 14), "f4"))
    >>> feature_shape(cells, None, pool=7)
    (8, 7, 7)
    """
    if backbone is not None:
        if recording.images is None:
            raise ValueError("backbone must be None for a recording without images")
        shape: tuple[int, ...] = (backbone.n_channels, *backbone.grid)
    elif recording.features is not None:
        shape = tuple(recording.features.shape[1:])
    else:
        raise ValueError("backbone must be given for a recording of images without features")
    if pool is None:
        return shape
    check_range("pool", pool, 1)
    if len(shape) != 3:
        raise ValueError(f"pool must be None for features without spatial tokens, got {pool}")
    return (shape[0], pool, pool)


def average_repeats(recording: Recording) -> Recording:
    """Average rows that show the same stimulus.

    A stimulus never falls on both sides of a split, so this averages within partitions only.

    Examples
    --------
    >>> from neuroattn.results import label_rois
    >>> twice = Recording("a", np.array([[0.0], [2.0], [5.0]], "f4"), label_rois({"V1": [True]}),
    ...                   stimulus_ids=np.array(["x", "x", "y"]), features=np.zeros((3, 2), "f4"))
    >>> average_repeats(twice).responses.ravel()
    array([1., 5.], dtype=float32)
    """
    ids, first, row_of = np.unique(recording.stimulus_ids, return_index=True, return_inverse=True)
    if len(ids) == recording.n_stimuli:
        return recording
    if recording.test is not None and any(
        recording.test[row_of == i].any() != recording.test[row_of == i].all() for i in range(len(ids))
    ):
        raise ValueError("recording has a stimulus in its training and its test partition")
    order = np.sort(first)
    total = np.zeros((len(ids), recording.n_units))
    np.add.at(total, np.searchsorted(order, first)[row_of], np.asarray(recording.responses, dtype=np.float64))
    count = np.bincount(np.searchsorted(order, first)[row_of])[:, None]
    note = f"{recording.n_stimuli} rows averaged to {len(ids)} stimuli"
    return replace(
        recording,
        responses=(total / count).astype(np.float32),
        stimulus_ids=recording.stimulus_ids[order],
        images=None if recording.images is None else recording.images[order],
        features=None if recording.features is None else recording.features[order],
        test=None if recording.test is None else recording.test[order],
        notes=(*recording.notes, note),
    )


def pool_tokens(features: NDArray[Any], pool: int) -> NDArray[np.float32]:
    """Average tokens to a ``pool`` x ``pool`` grid.

    Examples
    --------
    >>> pool_tokens(np.ones((2, 3, 14, 14), "f4"), 7).shape
    (2, 3, 7, 7)
    """
    import torch

    tokens = torch.from_numpy(np.array(features, dtype=np.float32))  # a copy: torch wants it writable
    return torch.nn.functional.adaptive_avg_pool2d(tokens, pool).numpy()
