"""Features on disk and in batches: extracted once, checked, and read through one data set by every model."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tempfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, overload

import numpy as np
import torch
import torch.nn.functional as F
import zarr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import Dataset, Sampler, default_collate
from torch.utils.flop_counter import FlopCounterMode
from zarr.codecs import Crc32cCodec

from neuroattn._backbones import Backbone, extract_layers
from neuroattn._checks import check_option, check_range, check_seed, check_shape
from neuroattn.datasets import ImageFiles, Images, Rows

_FORMAT = 1
_DTYPES = ("float32", "float16")
# Whole stimuli, because models read all of a stimulus; large enough for sequential speed, small enough that a
# window of chunks fits in memory. Not compressed: float features barely shrink, and a read is then a copy.
_CHUNK_BYTES = 8 * 2**20
_CHUNK_IMAGES = 256  # at most as many are computed again after an interruption
# Rows are shuffled within this many chunks; twice as many stay decoded (256 MB), so a window is read once.
_WINDOW = 16
_CACHED_CHUNKS = 2 * _WINDOW


class Features(Protocol):
    """Rows of features: an array, a memory map, or a :class:`FeatureStore`, which also has ``chunk``."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    def __getitem__(self, rows: Any, /) -> Any: ...


class FeatureStore:
    """Features on disk, read by row.

    A folder in zarr v3 format: chunks of whole stimuli, about 8 MB each, not compressed, each with a checksum
    that every read verifies. Made by :func:`extract_features`. A few decoded chunks stay in memory.

    Parameters
    ----------
    path : Path or str

    Attributes
    ----------
    shape : tuple (stimulus, channel, y, x), or (stimulus, channel) for a class token
    dtype : numpy dtype
        float32 or float16.
    chunk : int
        Stimuli in one chunk.
    attrs : dict
        ``fingerprint`` and ``backbone`` (config) of the network, ``pool``, ``image_digest``, ``format``.

    Raises
    ------
    FileNotFoundError
        If there is no store at ``path``.
    ValueError
        If it is incomplete or of another format.
    OSError
        On reading a damaged chunk; extracting again repairs it.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.encoding import load_backbone
    >>> backbone = load_backbone("test_vit", weights="random")
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)
    >>> store = extract_features(images, backbone, Path(tempfile.mkdtemp()))
    >>> again = FeatureStore(store.path)
    >>> again.shape, again[[3, 0]].shape, again.attrs["backbone"]["layer"]
    ((4, 64, 2, 3), (2, 64, 2, 3), 'blocks.5')
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        array = _open(self.path, "r")
        if array is None:
            raise FileNotFoundError(f"{self.path} holds no feature store; make one with extract_features")
        if array.attrs.get("format") != _FORMAT or not _is_ours(array):
            raise ValueError(
                f"{self.path} must be a feature store of format {_FORMAT}; extract features again"
            )
        # A description may claim any number of chunks of any size, so what is there is counted first.
        sizes = [file.stat().st_size for file in (self.path / "c").rglob("*") if file.is_file()]
        claimed = math.prod(array.chunks) * array.dtype.itemsize
        if len(sizes) < array.nchunks:
            raise ValueError(
                f"{self.path} holds {len(sizes)} of {array.nchunks} chunks; extract features again to complete it"
            )
        if max(sizes) < claimed:
            raise ValueError(
                f"{self.path} has chunks of at most {max(sizes)} bytes, but describes {claimed}; "
                "extract features again to repair it"
            )
        if array.nchunks_initialized != array.nchunks:
            raise ValueError(
                f"{self.path} holds {array.nchunks_initialized} of {array.nchunks} chunks; "
                "extract features again to complete it"
            )
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype
        self.chunk: int = array.chunks[0]
        self.attrs: dict[str, Any] = dict(array.attrs)
        self._decoded: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r}, shape={self.shape}, dtype={self.dtype})"

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Path]]:
        return FeatureStore, (self.path,)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        indices = np.arange(len(self))[rows]
        flat = np.atleast_1d(indices)
        out = np.empty((len(flat), *self.shape[1:]), self.dtype)
        chunks = flat // self.chunk
        for i in np.unique(chunks):
            here = chunks == i
            out[here] = self._read_chunk(int(i))[flat[here] - i * self.chunk]
        return out if indices.ndim else out[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)

    def _read_chunk(self, i: int) -> NDArray[Any]:
        if i in self._decoded:
            self._decoded.move_to_end(i)
            return self._decoded[i]
        try:
            block = _read_block(self._array, i)
        except ValueError as error:
            raise OSError(
                f"chunk {i} of {self.path} is damaged ({error}); extract features again to repair it"
            ) from None
        self._decoded[i] = block
        if len(self._decoded) > _CACHED_CHUNKS:
            self._decoded.popitem(last=False)
        return block


@overload
def extract_features(
    images: Images,
    backbone: Backbone,
    cache: Path | str,
    *,
    dtype: str = ...,
    pool: int | None = ...,
    batch_size: int = ...,
    progress: Callable[[int], None] | None = ...,
) -> FeatureStore: ...


@overload
def extract_features(
    images: Images,
    backbone: Mapping[str, Backbone],
    cache: Path | str,
    *,
    dtype: str = ...,
    pool: int | None = ...,
    batch_size: int = ...,
    progress: Callable[[int], None] | None = ...,
) -> dict[str, FeatureStore]: ...


def extract_features(
    images: Images,
    backbone: Backbone | Mapping[str, Backbone],
    cache: Path | str,
    *,
    dtype: str = "float32",
    pool: int | None = None,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> FeatureStore | dict[str, FeatureStore]:
    """Run a backbone over images once and keep the features in a folder.

    A store lies in ``cache/<key>``, where the key is a hash of the network's weights, layer, facet and
    preprocessing, of ``pool`` and ``dtype``, and of the content of the images. A second call with the same
    things reads every chunk, verifies its checksum, and runs the network for missing and damaged chunks only;
    so does a call after an interruption.

    Parameters
    ----------
    images : uint8 array, shape (stimulus, y, x, 3), or ImageFiles
    backbone : Backbone, or mapping of str to Backbone
        Several layers from ``load_backbone(name, layers=[...])``: one store a layer, filled in one pass.
    cache : Path or str
        Folder for stores; made if missing.
    dtype : {"float32", "float16"}, default "float32"
        float16 halves the space and is refused where a feature exceeds 65504.
    pool : int, optional
        Average the map to ``pool`` x ``pool`` (adaptive average pooling, as in torch) before storing. None
        keeps the map.
    batch_size : int, default 32
        Images in one forward pass.
    progress : callable, optional
        Called with the number of images done since the last call.

    Returns
    -------
    FeatureStore, or a dict of them by the names of the mapping

    Raises
    ------
    OSError
        If the folder cannot be written, or is full.
    ValueError
        If features are not finite in ``dtype``.

    Notes
    -----
    Image files are identified by their bytes, arrays by their pixels. Chunks are written under a temporary
    name and renamed, so two processes may fill one store at the same time without harm.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.encoding import load_backbone
    >>> backbones = load_backbone("test_vit", layers=["block1", "block3:cls"], weights="random")
    >>> images = np.zeros((3, 32, 48, 3), np.uint8)
    >>> stores = extract_features(images, backbones, Path(tempfile.mkdtemp()), dtype="float16")
    >>> {name: store.shape for name, store in stores.items()}
    {'block1': (3, 64, 2, 3), 'block3:cls': (3, 64)}
    """
    check_option("dtype", dtype, _DTYPES)
    check_shape("images", images, "stimulus", "y", "x", 3)
    if not len(images):
        raise ValueError("images must hold at least one image, got 0")
    check_range("batch_size", batch_size, 1)
    backbones = _by_layer(backbone, pool)
    image_digest = _image_digest(images)
    identities: dict[str, dict[str, Any]] = {}
    folders = {}
    for name, one in backbones.items():
        identity = {
            "format": _FORMAT,
            "fingerprint": one.fingerprint(),
            "pool": pool,
            "image_digest": image_digest,
        }
        key = json.dumps({**identity, "dtype": dtype}, sort_keys=True)
        identities[name] = identity
        folders[name] = Path(cache) / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()

    def compute(names: Sequence[str], low: int, high: int) -> dict[str, NDArray[Any]]:
        wanted = {name: backbones[name] for name in names}
        features = extract_layers(wanted, images[low:high], batch_size=batch_size)
        return {name: _to_stored(f, pool, dtype, low) for name, f in features.items()}

    arrays = {}
    new = []
    for name, folder in folders.items():
        array = _open(folder, "r+")
        if array is not None and _holds(array, identities[name], len(images), dtype):
            arrays[name] = array
        else:
            new.append(name)
    if new:
        rows = {name: row[0] for name, row in compute(new, 0, 1).items()}
        # One chunk size for all, so that batches end where chunks of every layer end.
        size = max(1, _CHUNK_BYTES // max(row.nbytes for row in rows.values()))
        size = min(size, _CHUNK_IMAGES, len(images))
        for name, row in rows.items():
            with _writing(folders[name]):
                attrs = {**identities[name], "backbone": backbones[name].config}
                arrays[name] = _create(folders[name], (len(images), *row.shape), size, dtype, attrs)
    _fill(arrays, folders, len(images), batch_size, compute, progress)
    stores = {name: FeatureStore(folder) for name, folder in folders.items()}
    return stores[""] if isinstance(backbone, Backbone) else stores


def user_cache() -> Path:
    """Return the user's folder of stored features.

    Examples
    --------
    >>> user_cache().parts[-2:]
    ('neuroattn', 'features')
    """
    import pooch

    return Path(pooch.os_cache("neuroattn")) / "features"


def _by_layer(backbone: Backbone | Mapping[str, Backbone], pool: int | None) -> Mapping[str, Backbone]:
    """Return backbones by name, after a check that they can be pooled."""
    backbones = {"": backbone} if isinstance(backbone, Backbone) else backbone
    if not backbones:
        raise ValueError("backbone must name at least one layer, got none")
    if pool is not None:
        check_range("pool", pool, 1)
        for one in backbones.values():
            if not one.grid:
                raise ValueError(
                    f"pool must be None for features without spatial tokens, got {pool} for {one}"
                )
    return backbones


def _to_stored(features: NDArray[np.float32], pool: int | None, dtype: str, first: int) -> NDArray[Any]:
    """Pool features and convert them, refusing what the dtype cannot hold."""
    if pool is not None:
        features = F.adaptive_avg_pool2d(torch.from_numpy(features), pool).numpy()
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which the next line reports
        stored = features.astype(dtype)
    if not np.isfinite(stored).all():
        raise ValueError(f"features of images {first}..{first + len(stored) - 1} are not finite in {dtype}")
    return stored


def _fill(
    arrays: Mapping[str, zarr.Array[Any]],
    folders: Mapping[str, Path],
    n_images: int,
    batch_size: int,
    compute: Callable[[Sequence[str], int, int], dict[str, NDArray[Any]]],
    progress: Callable[[int], None] | None,
) -> None:
    """Compute the missing and damaged chunks of all arrays in one pass over the images."""
    # No batch crosses the edge of a chunk; arrays made by other calls may have other edges.
    edges = sorted({n_images}.union(*(range(0, n_images, array.chunks[0]) for array in arrays.values())))
    parts: dict[str, list[NDArray[Any]]] = {}  # of the chunks that are being computed
    for start, stop in itertools.pairwise(edges):
        for name, array in arrays.items():
            if start % array.chunks[0] == 0 and not _is_valid(array, start // array.chunks[0]):
                parts[name] = []
        for low in range(start, stop, batch_size) if parts else (start,):
            high = min(low + batch_size, stop) if parts else stop
            if parts:
                for name, features in compute(tuple(parts), low, high).items():
                    parts[name].append(features)
            if progress is not None:
                progress(high - low)
        for name in [name for name in parts if stop % arrays[name].chunks[0] == 0 or stop == n_images]:
            block = np.concatenate(parts.pop(name))
            with _writing(folders[name]):
                arrays[name][stop - len(block) : stop] = block


def estimate_cost(
    backbone: Backbone | Mapping[str, Backbone],
    n_images: int,
    pool: int | None = None,
    dtype: str = "float32",
    *,
    image_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Estimate what extracting features will take, from a few images.

    Parameters
    ----------
    backbone : Backbone, or mapping of str to Backbone
        As for :func:`extract_features`.
    n_images : int
    pool : int, optional
        As for :func:`extract_features`.
    dtype : {"float32", "float16"}, default "float32"
    image_size : tuple of int, (y, x), optional
        Size of the images, px. None is the network's own size.

    Returns
    -------
    dict
        ``shape`` (stimulus, channel, y, x), for a mapping a dict of them; ``bytes`` on disk; ``seconds`` of network
        time on this machine, decoding of images not included; ``flops``, the floating-point operations of all
        products and convolutions, a multiplication and an addition counted as two.

    Examples
    --------
    >>> from neuroattn.encoding import load_backbone
    >>> cost = estimate_cost(load_backbone("test_vit", weights="random"), 1000, dtype="float16")
    >>> cost["shape"], cost["bytes"], f"{cost['flops']:.2g}"
    ((1000, 64, 10, 10), 12800000, '7.5e+10')
    """
    check_option("dtype", dtype, _DTYPES)
    check_range("n_images", n_images, 1)
    backbones = _by_layer(backbone, pool)
    size = image_size or next(iter(backbones.values())).input_size

    def run(n: int) -> dict[str, NDArray[np.float32]]:
        return extract_layers(backbones, np.zeros((n, *size, 3), np.uint8))

    # The first pass also allocates. Attention is only counted where it is written out.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        features = run(1)
    start = time.perf_counter()
    run(1)
    n_timed = (
        1 if time.perf_counter() - start > 0.5 else 8
    )  # a large network fills the machine with one image
    start = time.perf_counter()
    run(n_timed)
    seconds = (time.perf_counter() - start) / n_timed * n_images
    shapes = {
        name: (n_images, f.shape[1], *(f.shape[2:] if pool is None else (pool, pool)))
        for name, f in features.items()
    }
    n_values = sum(int(np.prod(shape)) for shape in shapes.values())
    return {
        "shape": shapes[""] if isinstance(backbone, Backbone) else shapes,
        "bytes": n_values * np.dtype(dtype).itemsize,
        "seconds": seconds,
        "flops": counter.get_total_flops() * n_images,
    }


def token_statistics(
    features: Features | Mapping[str, Features], rows: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and standard deviation of each channel over stimuli and positions.

    Parameters
    ----------
    features : array or FeatureStore, shape (stimulus, channel, ...), or mapping of layer name to such
    rows : int array, shape (row,)
        Stimuli to use.

    Returns
    -------
    mean, std : float64 array, shape (channel,), or (layer, channel) of a mapping
        The population standard deviation; 0 where a channel is constant.

    Notes
    -----
    Reads one chunk at a time and merges the moments of chunks in float64 [1]_.

    References
    ----------
    .. [1] Chan, Golub & LeVeque (1983). Algorithms for computing the sample variance. The American
       Statistician.

    Examples
    --------
    >>> mean, std = token_statistics(np.arange(8.0).reshape(2, 1, 2, 2), [0, 1])
    >>> mean, std.round(3)
    (array([3.5]), array([2.291]))
    """
    if isinstance(features, Mapping):
        means, stds = zip(*(token_statistics(layer, rows) for layer in features.values()), strict=True)
        return np.stack(means), np.stack(stds)
    features, wanted = _locate(features, _check_rows(rows, features.shape[0]))
    if not len(wanted):
        raise ValueError("rows must name at least one stimulus, got none")
    wanted = np.sort(wanted)
    in_memory = max(1, _CHUNK_BYTES // (4 * int(np.prod(features.shape[1:]))))
    size = getattr(features, "chunk", in_memory)
    count = 0
    mean = np.zeros(features.shape[1])
    squares = np.zeros(features.shape[1])
    for part in np.split(wanted, np.flatnonzero(np.diff(wanted // size)) + 1):
        block = np.asarray(features[part], np.float64)
        block = np.moveaxis(block, 1, 0).reshape(len(mean), -1)
        n = block.shape[1]
        block_mean = block.mean(1)
        shift = block_mean - mean
        squares += ((block - block_mean[:, None]) ** 2).sum(1) + shift**2 * (count * n / (count + n))
        mean += shift * (n / (count + n))
        count += n
    return mean, np.sqrt(squares / count)


class FeatureDataset(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of features and responses for some rows, read in batches.

    Parameters
    ----------
    features : array or FeatureStore, shape (stimulus, channel, y, x) or (stimulus, channel)
        Or a memory map, or anything with ``shape`` and ``[rows]``; or a mapping of layer name to such features,
        all of one shape, which are stacked along an axis before the channels.
    rows : int array, shape (item,)
        Stimulus of each item; item i of this data set is row ``rows[i]``.
    responses : array or Responses, shape (stimulus, unit), optional
        Aligned with ``features``. None for prediction: the second tensor then has no columns.
    target_mean, target_scale : float array, shape (unit,), optional
        Responses become ``(responses - target_mean) / target_scale``. None: 0 and 1.

    Attributes
    ----------
    rows : int array, shape (item,)
    features : array or FeatureStore
        What is read; the table itself where a :class:`~neuroattn.datasets.Rows` of it was given. The first layer's
        of a mapping, as the next two are.
    feature_rows : int array, shape (item,)
        Row of ``features`` of each item.
    chunk : int
        Stimuli in one chunk of the store; 1 for features in memory.

    Notes
    -----
    A batch is read at once and comes out collated, as float32: pass :func:`collate` as ``collate_fn``.

    Examples
    --------
    >>> from torch.utils.data import DataLoader
    >>> data = FeatureDataset(np.ones((9, 4, 2, 2), np.float16), np.arange(5), np.zeros((9, 3)))
    >>> for x, y in DataLoader(data, batch_size=4, collate_fn=collate):
    ...     print(tuple(x.shape), x.dtype, tuple(y.shape))
    (4, 4, 2, 2) torch.float32 (4, 3)
    (1, 4, 2, 2) torch.float32 (1, 3)
    """

    def __init__(
        self,
        features: Features | Mapping[str, Features],
        rows: ArrayLike,
        responses: Features | None = None,
        *,
        target_mean: ArrayLike | None = None,
        target_scale: ArrayLike | None = None,
    ) -> None:
        n_stimuli = feature_shape(features)[0]
        self.rows = _check_rows(rows, n_stimuli)
        self._stacked = isinstance(features, Mapping)
        layers = features.values() if isinstance(features, Mapping) else [features]
        self._layers = [_locate(layer, self.rows) for layer in layers]
        self.features, self.feature_rows = self._layers[0]
        self.chunk: int = getattr(self.features, "chunk", 1)
        self.responses = responses
        n_units = 0
        if responses is not None:
            n_units = check_shape("responses", responses, n_stimuli, "unit")[1]
        self.target_mean = _check_target("target_mean", target_mean, n_units)
        self.target_scale = _check_target("target_scale", target_scale, n_units)
        if self.target_scale is not None and not (self.target_scale > 0).all():
            raise ValueError(f"target_scale must be positive, got {self.target_scale.min()}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        items = np.asarray(indices)
        read = [np.asarray(table[rows[items]], np.float32) for table, rows in self._layers]
        x = torch.from_numpy(np.stack(read, 1) if self._stacked else read[0])
        if self.responses is None:
            return x, torch.empty(len(items), 0)
        y = np.asarray(self.responses[self.rows[items]], np.float32)
        if self.target_mean is not None:
            y = y - self.target_mean
        if self.target_scale is not None:
            y = y / self.target_scale
        return x, torch.from_numpy(y)


def collate(batch: Any) -> tuple[Tensor, Tensor]:
    """Return a batch of :class:`FeatureDataset` as it is; stack a list of single items.

    Examples
    --------
    >>> x, y = collate([(torch.zeros(4, 2, 2), torch.ones(3))] * 2)
    >>> tuple(x.shape), tuple(y.shape)
    ((2, 4, 2, 2), (2, 3))
    """
    if isinstance(batch, tuple):
        return batch
    x, y = default_collate(batch)
    return x, y


class ChunkShuffleSampler(Sampler[int]):
    """Shuffle so that reads from a store stay local.

    Chunks are put in random order and the items of every 16 successive chunks are mixed, so each chunk is
    read once an epoch. Features in memory get a plain permutation. The order depends on (seed, epoch) only.

    Parameters
    ----------
    dataset : FeatureDataset
    seed : int

    Examples
    --------
    >>> data = FeatureDataset(np.zeros((6, 1)), np.arange(6))
    >>> sampler = ChunkShuffleSampler(data, seed=0)
    >>> first = list(sampler)
    >>> sampler.set_epoch(1)
    >>> sorted(sampler) == list(range(6)), list(sampler) == first
    (True, False)
    """

    def __init__(self, dataset: FeatureDataset, *, seed: int) -> None:
        check_seed(seed)
        self.dataset = dataset
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        check_range("epoch", epoch, 0)
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self))
        if self.dataset.chunk > 1:
            chunks, of_item = np.unique(self.dataset.feature_rows // self.dataset.chunk, return_inverse=True)
            window = rng.permutation(len(chunks))[of_item] // _WINDOW
            order = order[np.argsort(window[order], kind="stable")]
        yield from order.tolist()


def feature_shape(features: Features | Mapping[str, Features]) -> tuple[int, ...]:
    """Return the shape of features, that of a mapping of layers with an axis of layers before the channels.

    Examples
    --------
    >>> feature_shape({"block.3": np.zeros((9, 4, 2, 2)), "block.7": np.zeros((9, 4, 2, 2))})
    (9, 2, 4, 2, 2)
    >>> feature_shape({"block.3": np.zeros((9, 4, 2, 2)), "block.7": np.zeros((9, 4, 2, 3))})
    Traceback (most recent call last):
    ValueError: features['block.7'] must have shape (9, 4, 2, 2), got (9, 4, 2, 3)
    """
    if not isinstance(features, Mapping):
        return tuple(int(n) for n in features.shape)
    if not features:
        raise ValueError("features must hold at least one layer, got an empty mapping")
    first = tuple(next(iter(features.values())).shape)
    for name, layer in features.items():
        check_shape(f"features[{name!r}]", layer, *first)
    return (first[0], len(features), *first[1:])


def _check_rows(rows: ArrayLike, n: int) -> NDArray[np.intp]:
    rows = np.asarray(rows)
    if rows.ndim != 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
        raise ValueError(f"rows must be one axis of whole numbers, got {rows.dtype} of shape {rows.shape}")
    if rows.size and not (rows.min() >= 0 and rows.max() < n):
        raise ValueError(f"rows must lie in 0..{n - 1}, got {rows.min()}..{rows.max()}")
    return rows.astype(np.intp)


def _locate(features: Features, rows: NDArray[np.intp]) -> tuple[Features, NDArray[np.intp]]:
    """Look through views to the table that is read, whose chunks decide the order of reading."""
    while isinstance(features, Rows):
        rows = features.rows[rows]
        features = features.table
    return features, rows


def _check_target(name: str, value: ArrayLike | None, n_units: int) -> NDArray[np.float32] | None:
    if value is None:
        return None
    array = np.asarray(value, np.float32)
    check_shape(name, array, n_units)
    return array


def _image_digest(images: Images) -> str:
    """Hash images: the bytes of files, which need not be decoded, or else the pixels."""
    digest = hashlib.blake2b(repr(tuple(images.shape)).encode(), digest_size=16)
    if isinstance(images, ImageFiles):
        for content in _encoded(images):
            digest.update(hashlib.blake2b(content, digest_size=16).digest())
    else:
        for start in range(0, len(images), 64):
            digest.update(np.ascontiguousarray(images[start : start + 64]).tobytes())
    return digest.hexdigest()


def _encoded(images: ImageFiles) -> Iterator[bytes]:
    if images.archive is None:
        yield from (Path(path).read_bytes() for path in images.paths)
    else:
        with zipfile.ZipFile(images.archive) as archive:
            yield from (archive.read(str(path)) for path in images.paths)


def _open(folder: Path, mode: Literal["r", "r+"]) -> zarr.Array[Any] | None:
    """Open the array in a folder; None if there is none or its description is damaged."""
    if not (folder / "zarr.json").is_file():  # zarr would make the folder
        return None
    try:
        return zarr.open_array(folder, mode=mode, zarr_format=3)
    except (OSError, MemoryError):  # what is there may be whole, and would be replaced
        raise
    except Exception:  # zarr reports damaged descriptions in many ways
        return None


def _is_ours(array: zarr.Array[Any]) -> bool:
    """Return whether chunks are of whole stimuli and stored as `_create` has them, so that reading only copies."""
    return (
        array.ndim in (2, 4)
        and array.dtype in _DTYPES
        and array.chunks[1:] == array.shape[1:]
        and array.compressors == (Crc32cCodec(),)
        and not array.filters
    )


def _holds(array: zarr.Array[Any], identity: dict[str, Any], n_images: int, dtype: str) -> bool:
    attrs = dict(array.attrs)
    same = all(name in attrs and attrs[name] == value for name, value in identity.items())
    return same and array.ndim in (2, 4) and array.shape[0] == n_images and array.dtype == dtype


def _create(
    folder: Path, shape: tuple[int, ...], chunk: int, dtype: str, attrs: dict[str, Any]
) -> zarr.Array[Any]:
    """Put an empty store in its place, whole; the store of another process that was faster is taken as it is."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as hidden:
        new = Path(hidden) / "new"
        zarr.create_array(
            store=new,
            shape=shape,
            chunks=(chunk, *shape[1:]),
            dtype=dtype,
            filters=None,
            compressors=[Crc32cCodec()],
            fill_value=float("nan"),  # features are finite, so NaN is a chunk that is missing
            dimension_names=("stimulus", "channel", "y", "x")[: len(shape)],
            attributes=attrs,
        )
        try:
            new.rename(folder)
        except OSError:
            there = _open(folder, "r+")
            identity = {name: value for name, value in attrs.items() if name != "backbone"}
            if there is not None and _holds(there, identity, shape[0], dtype):
                return there
            folder.rename(Path(hidden) / "old")  # nothing but a damaged or foreign store has this name
            new.rename(folder)
    return zarr.open_array(folder, mode="r+")


def _read_block(array: zarr.Array[Any], i: int) -> NDArray[Any]:
    size = array.chunks[0]
    block: NDArray[Any] = np.asarray(array[i * size : (i + 1) * size])
    return block


def _is_valid(array: zarr.Array[Any], i: int) -> bool:
    try:
        return bool(np.isfinite(_read_block(array, i)).all())
    except ValueError:  # the checksum is wrong
        return False


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"features cannot be written to {folder}: {error.strerror or error}") from error
