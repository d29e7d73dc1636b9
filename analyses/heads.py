"""Which attention heads answer to the stimulus, and which to the target of a search."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from neuroattn._checks import check_range, check_seed
from neuroattn.analyses.reading import query_coords, read_encoder
from neuroattn.analyses.style import MARKERS, MODEL_COLOURS, MUTED, RULE, WIDTH, label_rows, styled
from neuroattn.attention import CrossAttention
from neuroattn.datasets import ObjectScene, ScanpathDataset
from neuroattn.encoding import BrainEncoder
from neuroattn.encoding.networks import AttentionNetwork
from neuroattn.metrics import crossed_bootstrap
from neuroattn.results import provenance
from neuroattn.scanpath import ObjectAttentionTransformer
from neuroattn.scanpath.base import object_paths
from neuroattn.scanpath.estimator import _collate_scenes, _SceneInputs
from neuroattn.scanpath.transformer import MATCH, OBJECT, ObjectAttentionNetwork

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Arrays = dict[str, NDArray[np.float32]]

_AT_ONCE = 64  # stimuli whose readings are held


def stimulus_driven_heads(encoder: BrainEncoder, X: Any, *, seed: int = 0) -> xr.Dataset:
    """Measure how far what each head reads moves when it is given another stimulus.

    What a head reads of a stimulus, before the layer mixes its heads, is compared with what it reads of the mean
    stimulus and of the same stimulus with its tokens shuffled. The distance of two readings a and b is
    ``|a - b| / (|a| + |b|)``: 0 where they are equal, 1 where they are opposite or one of them is nothing. Beside it
    stands the noise level: the distance between the readings of two other stimuli. The idea is that of vision-aware
    heads in language models [1]_; mean and shuffled stimulus, normalization and noise level are ours.

    A head with distance 0 ignores the stimulus. A positive ``excess`` of the mean stimulus says that having a stimulus
    matters more to the head than which. A head whose distance to the shuffled stimulus is 0 reads what is there,
    wherever it is.

    Parameters
    ----------
    encoder : BrainEncoder
        Fitted to features of one layer.
    X : array or FeatureStore, shape (stimulus, channel, y, x), or images with a backbone
        Held-out stimuli, at least three; their features are held in memory.
    seed : int, default 0
        Of shuffles, pairs and resamples.

    Returns
    -------
    Dataset, dims (comparison, layer, head, query, bound)
        Coordinates ``roi`` and ``hemisphere`` along ``query``. Layers are "decoder 1", ..., where queries read tokens,
        and before them "encoder 1", ..., where tokens read each other by softmax attention; the latter serve all
        queries and have the same values for each.

        - ``distance`` (comparison: "mean", "shuffled"), averaged over stimuli;
        - ``noise``: distance between two other stimuli, one pair for each stimulus;
        - ``excess`` (comparison): distance minus noise;
        - ``distance_interval``, ``noise_interval``, ``excess_interval``, with ``bound``: 95 % percentiles over 1000
          resamples of stimuli.

    Raises
    ------
    ValueError
        If there are fewer than three stimuli, or the encoder mixes layers.

    References
    ----------
    .. [1] He et al. (2025). Cracking the code of hallucination in LVLMs with vision-aware head divergence. ACL.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> encoder = BrainEncoder({"V1": np.arange(6) < 4, "FFA": np.arange(6) > 2}, epochs=1, heads=2).fit(X, y)
    >>> dict(stimulus_driven_heads(encoder, X).distance.sizes)
    {'comparison': 2, 'layer': 1, 'head': 2, 'query': 2}
    """
    reader, features = read_encoder(encoder, X)
    n, n_channels, height, width = features.shape
    check_range("number of stimuli", n, 3)
    rng = check_seed(seed)
    order = rng.permutation(n)
    others = np.empty((2, n), np.intp)
    others[:, order] = np.roll(order, 1), np.roll(order, 2)
    shuffle = rng.random((n, 1, height * width)).argsort(-1)
    layers = encoder_layers(reader)

    def readings(stimuli: NDArray[np.float32]) -> Arrays:
        with head_readings(layers) as read:
            reader.predict(stimuli)
        return {name: np.concatenate(batches) for name, batches in read.items()}

    of_mean = readings(features.mean(0, keepdims=True))
    distances = []
    for rows in np.array_split(np.arange(n), -(-n // _AT_ONCE)):
        given = features[rows]
        tokens = given.reshape(len(rows), n_channels, -1)
        moved = np.take_along_axis(tokens, shuffle[rows], -1).reshape(given.shape)
        own, of_moved, one, another = map(
            readings, (given, moved, *(features[other[rows]] for other in others))
        )
        pairs = ((own, of_mean), (own, of_moved), (one, another))
        distances.append(np.stack([_by_query(a, b, len(reader.queries_)) for a, b in pairs], 1))
    values = xr.DataArray(
        np.concatenate(distances),
        dims=("stimulus", "comparison", "layer", "head", "query"),
        coords={
            "stimulus": np.arange(n),
            "comparison": ["mean", "shuffled", "noise"],
            "layer": list(layers),
            **query_coords(reader),
        },
    )
    return _summarize(values, ("stimulus",), seed, {"class": type(encoder).__name__})


def target_driven_heads(
    model: ObjectAttentionTransformer, dataset: ScanpathDataset, *, seed: int = 0
) -> xr.Dataset:
    """Measure how far what each head reads moves when the same scene and path come without the target, or with another.

    The model is given the scene and the path of every trial, once with the target that was searched for, once without
    any, and twice with other targets. Distances are those of :func:`stimulus_driven_heads`; the noise level is that
    between the two other targets.

    Without a target the cue is hidden and no object is marked. Another target is, by what the model knows of it,
    another category in the scene ("label"), another object ("oracle"), or the cue of another scene with another
    target ("exemplar"); scenes without two others are left out.

    Parameters
    ----------
    model : ObjectAttentionTransformer
        Fitted, with a target.
    dataset : ScanpathDataset
        With objects assigned and a scene for each trial; people's paths or a model's.
    seed : int, default 0
        Of other targets and resamples.

    Returns
    -------
    Dataset, dims (comparison, layer, head, bound)
        Layers are "encoder 1", ..., where objects read each other (with softmax attention); "decoder 1 path", ...,
        where a step reads the earlier ones; and "decoder 1 scene", ..., where it reads the objects.

        - ``distance`` (comparison: "none", "other"), to the reading without a target and with another, averaged over
          trials; ``noise`` and ``excess`` (comparison) as of :func:`stimulus_driven_heads`;
        - ``distance_interval``, ``noise_interval``, ``excess_interval``, with ``bound``: 95 % percentiles over 1000
          resamples of images and observers;
        - ``attrs["n_left_out"]``: trials of scenes without two other targets.

    Raises
    ------
    ValueError
        If the model knows no target, or no scene has two others.

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> data = make_search_arrays(n_scenes=8, n_observers=2, seed=0)
    >>> model = ObjectAttentionTransformer(
    ...     target="label", appearance="none", dim=16, heads=2, layers=1, epochs=2).fit(data)
    >>> target_driven_heads(model, data).layer.values.tolist()
    ['encoder 1', 'decoder 1 path', 'decoder 1 scene']
    """
    check_is_fitted(model, "network_")
    if model.target == "none":
        raise ValueError("model must know a target to lose it, got target='none'")
    rng = check_seed(seed)
    layers = _path_layers(model.network_)
    paths, lengths, _ = object_paths(dataset)
    distances = np.full((len(dataset), 3, len(layers), model.heads), np.nan)
    names = dataset.data["scene"].values.astype(str)
    observers = dataset.data["observer"].values.astype(str)
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        scene = dataset.scene_of(int(rows[0]))
        others = _other_targets(scene, dataset, model.target, rng)
        if len(others) < 2:
            continue
        own, *of_others = (model._inputs(one) for one in (scene, *others))
        longest = int(lengths[rows].max())
        read = _read_paths(
            model,
            layers,
            [own, _without_target(own), *of_others],
            np.maximum(paths[rows, :longest], 0),
            [observer or None for observer in observers[rows].tolist()],
        )
        step = np.arange(longest + 1) <= lengths[rows, None]
        for k, x in enumerate(read.values()):
            # (version, path, position, head, feature), positions being objects or steps.
            x = x if x.shape[1] == 1 else x * step[..., None, None]
            for c, (a, b) in enumerate(((0, 1), (0, 2), (2, 3))):
                distances[rows, c, k] = _distance(x[a], x[b], (1, 3))
    left_out = np.isnan(distances).all((1, 2, 3))
    if left_out.all():
        raise ValueError("dataset must have scenes with two other targets, got none")
    values = xr.DataArray(
        distances,
        dims=("trial", "comparison", "layer", "head"),
        coords={
            "comparison": ["none", "other", "noise"],
            "layer": list(layers),
            "image": ("trial", dataset.data["image"].values.astype(str)),
            "observer": ("trial", observers),
        },
    )
    config = {"class": type(model).__name__, "target": model.target}
    result = _summarize(values, ("image", "observer"), seed, config)
    return result.assign_attrs(n_left_out=int(left_out.sum()))


@contextlib.contextmanager
def head_readings(layers: Mapping[str, CrossAttention]) -> Iterator[dict[str, list[NDArray[np.float32]]]]:
    """Collect what the heads of some layers read while the context is open.

    Yields
    ------
    dict of str to list of array, shape (row, position, head, feature)
        An array for each call of the layer.

    Examples
    --------
    >>> layer = CrossAttention(8, heads=2)
    >>> with head_readings({"only": layer}) as read:
    ...     _ = layer(torch.zeros(1, 3, 8), torch.zeros(5, 6, 8))
    >>> read["only"][0].shape
    (5, 3, 2, 4)
    """
    read: dict[str, list[NDArray[np.float32]]] = {name: [] for name in layers}
    handles = []
    for name, layer in layers.items():

        def look(
            module: nn.Module, inputs: tuple[Tensor], name: str = name, heads: int = layer.heads
        ) -> None:
            x = inputs[0].detach()
            read[name].append(x.view(*x.shape[:-1], heads, -1).cpu().numpy())

        handles.append(layer.out_proj.register_forward_pre_hook(look))
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def encoder_layers(encoder: BrainEncoder) -> dict[str, CrossAttention]:
    """Return the softmax attention layers of a fitted encoder, by name, in the order of reading.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> list(encoder_layers(BrainEncoder(encoder_layers=1, layers=2, epochs=1).fit(X, y)))
    ['encoder 1', 'decoder 1', 'decoder 2']
    """
    network = encoder.network_
    if not isinstance(network, AttentionNetwork):
        raise TypeError(f"network_ must be an AttentionNetwork, got {type(network).__name__}")
    parts = {"encoder": network.encoder, "decoder": network.layers}
    return {
        f"{part} {i}": layer.attention
        for part, stack in parts.items()
        for i, layer in enumerate(stack, 1)
        if isinstance(layer.attention, CrossAttention)
    }


def _by_query(a: Arrays, b: Arrays, n_queries: int) -> NDArray[np.float64]:
    """Return the distances of two sets of readings, shape (row, layer, head, query)."""
    columns = []
    for name in a:
        if name.startswith("encoder"):
            together = _distance(a[name], b[name], (1, 3))
            columns.append(np.repeat(together[..., None], n_queries, -1))
        else:
            columns.append(_distance(a[name], b[name], (3,)).swapaxes(1, 2))
    return np.stack(columns, 1)


def _distance(a: NDArray[Any], b: NDArray[Any], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """Return |a - b| / (|a| + |b|) over some axes; 0 where both are nothing."""

    def norm(x: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(np.sqrt((x.astype(np.float64) ** 2).sum(axes)))

    size = norm(a) + norm(b)
    return np.divide(norm(a - b), size, out=np.zeros_like(size), where=size > 0)


def _summarize(
    values: xr.DataArray, units: Sequence[str], seed: int, config: Mapping[str, Any]
) -> xr.Dataset:
    """Return means over rows and intervals of distances, of the noise and of what exceeds it."""
    noise = values.sel(comparison="noise", drop=True)
    distance = values.drop_sel(comparison="noise")
    result = xr.Dataset()
    for name, rows in {"distance": distance, "noise": noise, "excess": distance - noise}.items():
        summary = crossed_bootstrap(rows, units=units, seed=seed)
        result[name] = summary["mean"]
        result[f"{name}_interval"] = summary.interval.transpose(..., "bound")
        result.attrs["resampled"] = summary.attrs["resampled"]
    result = result.assign_coords(head=np.arange(values.sizes["head"]))
    return result.assign_attrs(units="share of the sum of norms", **provenance(seed, config))


def _path_layers(network: ObjectAttentionNetwork) -> dict[str, CrossAttention]:
    """Return the softmax attention layers of a scanpath network, by name."""
    layers: dict[str, CrossAttention] = {}
    for i, layer in enumerate(network.core.encoder, 1):
        if isinstance(layer.self_attn, CrossAttention):
            layers[f"encoder {i}"] = layer.self_attn
    for i, layer in enumerate(network.core.decoder, 1):
        for name, read in (("path", layer.self_attn), ("scene", layer.multihead_attn)):
            if isinstance(read, CrossAttention):
                layers[f"decoder {i} {name}"] = read
    return layers


def _read_paths(
    model: ObjectAttentionTransformer,
    layers: Mapping[str, CrossAttention],
    versions: Sequence[_SceneInputs],
    paths: NDArray[np.int64],
    observers: Sequence[str | None],
) -> Arrays:
    """Return what heads read in versions of one scene along paths (path, step).

    Shape (version, path, position, head, feature); positions are objects, with a path axis of one, or steps.
    """
    n = len(versions)
    network = model.network_.to(model.device)
    objects = torch.tensor(paths, device=model.device).expand(n, -1, -1)
    observer = model._observer_index(observers).to(model.device).expand(n, -1)
    with torch.no_grad(), head_readings(layers) as read:
        memory = network.memory(_collate_scenes(versions).to(model.device))
        network.continue_paths(objects, memory, observer)
    return {
        name: x[:, None, :-1]  # the cue is no object
        if name.startswith("encoder")
        else x.reshape(n, len(paths), -1, *x.shape[2:])
        for name, (x,) in read.items()
    }


def _without_target(inputs: _SceneInputs) -> _SceneInputs:
    """Hide the cue and mark no object."""
    shown = np.arange(len(inputs.mask)) < len(inputs.mask) - 1
    kind = np.where(inputs.kind == MATCH, OBJECT, inputs.kind)
    return replace(inputs, kind=kind, seen=inputs.seen & shown, mask=inputs.mask & shown)


def _other_targets(
    scene: ObjectScene, dataset: ScanpathDataset, knows: str, rng: np.random.Generator
) -> list[ObjectScene]:
    """Return a scene with two other targets, as far as there are such."""
    versions: list[ObjectScene]
    if knows == "label":
        labels = sorted({*(scene.labels or ())} - {scene.target_label})
        versions = [replace(scene, target=None, target_label=label) for label in labels]
    elif knows == "oracle":
        objects = [i for i in range(scene.n_objects) if i != scene.target]
        versions = [replace(scene, target=i, target_label=None) for i in objects]
    else:
        versions = [
            replace(scene, exemplar=one.exemplar, exemplar_features=one.exemplar_features)
            for one in dataset.scenes.values()
            if one is not scene and (one.target_label is None or one.target_label != scene.target_label)
        ]
    return [versions[i] for i in rng.permutation(len(versions))[:2]]


@styled
def plot_driven_heads(result: xr.Dataset) -> Figure:
    """Draw how far each head is moved, beside its noise level.

    Parameters
    ----------
    result : Dataset
        Of :func:`neuroattn.analyses.target_driven_heads`, lines being intervals; or of
        :func:`neuroattn.analyses.stimulus_driven_heads`, averaged over queries, lines being their range.

    Returns
    -------
    Figure

    Examples
    --------
    >>> result = xr.Dataset(
    ...     {"distance": (("comparison", "layer", "head"), [[[0.3]]]), "noise": (("layer", "head"), [[0.1]]),
    ...      "distance_interval": (("comparison", "layer", "head", "bound"), [[[[0.2, 0.4]]]])},
    ...     {"comparison": ["none"], "layer": ["decoder 1 scene"], "head": [0]})
    >>> [text.get_text() for text in plot_driven_heads(result).axes[0].get_yticklabels()]
    ['decoder 1 scene · 1']
    """
    from matplotlib.figure import Figure

    labels = {
        "mean": "mean stimulus",
        "shuffled": "shuffled tokens",
        "none": "no target",
        "other": "other target",
    }
    distance, noise, interval = result["distance"], result["noise"], result["distance_interval"]
    if "query" in distance.dims:
        interval = xr.concat([distance.min("query"), distance.max("query")], "bound")
        distance, noise = distance.mean("query"), noise.mean("query")
    rows = head_names(distance)
    y = np.arange(len(rows))
    figure = Figure(figsize=(WIDTH, 1.0 + 0.3 * len(rows)))
    axes = figure.add_subplot()
    for start in np.flatnonzero(np.arange(len(rows)) % distance.sizes["head"] == 0)[1:]:
        axes.axhline(start - 0.5, color=RULE, lw=0.7)
    for i, name in enumerate(distance.comparison.values):
        at = y + (i - (distance.sizes["comparison"] - 1) / 2) * 0.3
        low, high = interval.sel(comparison=name).transpose("bound", "layer", "head").values.reshape(2, -1)
        axes.hlines(at, low, high, color=MODEL_COLOURS[i], lw=1.6)
        one = distance.sel(comparison=name).transpose("layer", "head").values.ravel()
        axes.plot(one, at, MARKERS[i], color=MODEL_COLOURS[i], ms=5, mew=0, label=labels[str(name)])
    axes.plot(
        noise.transpose("layer", "head").values.ravel(),
        y,
        "|",
        color=MUTED,
        ms=13,
        mew=1.6,
        label="noise level",
    )
    label_rows(axes, rows)
    axes.set_xlim(left=0)
    axes.set_xlabel("Distance of what the head reads (0 to 1)")
    figure.legend(loc="outside upper left", ncols=3, handletextpad=0.2, columnspacing=1.2, borderaxespad=0)
    return figure


def head_names(values: xr.DataArray) -> list[str]:
    """Return "decoder 1 · 2" for each head of each layer, counted from 1.

    Examples
    --------
    >>> head_names(xr.DataArray(np.zeros((1, 2)), dims=("layer", "head"), coords={"layer": ["decoder 1"]}))
    ['decoder 1 · 1', 'decoder 1 · 2']
    """
    return [f"{layer} · {head + 1}" for layer in values.layer.values for head in range(values.sizes["head"])]
