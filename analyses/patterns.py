"""How attention is spread: near or far, sharp or broad, the same for all queries or each its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.special import entr
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from neuroattn._backbones import Backbone
from neuroattn._checks import check_range, check_seed
from neuroattn.analyses.backbone_attention import (
    block_names,
    covered_size,
    describe_blocks,
    mean_over_stimuli,
    patch_places,
    prepare,
    shown_size,
    token_grid,
)
from neuroattn.analyses.figures import query_names
from neuroattn.analyses.style import MODEL_COLOURS, MUTED, WIDTH, label_rows, styled
from neuroattn.encoding import BrainEncoder
from neuroattn.results import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]


def mutual_information(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much a key tells about the query that reads it, as a share, and the entropy of the queries in bits.

    The map is taken for a joint distribution of queries and keys in which all queries are equally likely. Normalised
    mutual information is ``I(query, key) / sqrt(H(query) H(key))``, as Park et al. take it [1]_: 0 where all queries
    read alike, however sharply, and 1 where each reads a key of its own. If all read the same single key it is 0.

    Parameters
    ----------
    weights : Tensor, shape (..., query, key)
        Rows sum to one.

    Returns
    -------
    nmi : Tensor, shape (...)
    entropy : Tensor, shape (...)
        Of the weights of a query, averaged over queries.

    References
    ----------
    .. [1] Park, Kim, Heo, Kim & Yun (2023). What do self-supervised vision transformers learn? ICLR.

    Examples
    --------
    >>> nmi, entropy = mutual_information(torch.stack([torch.eye(4), torch.full((4, 4), 0.25)]).double())
    >>> nmi.tolist(), entropy.tolist()
    ([1.0, 0.0], [0.0, 2.0])
    """
    rows = torch.special.entr(weights).sum(-1).mean(-1)
    keys = torch.special.entr(weights.mean(-2)).sum(-1)
    # Rounding may leave a trace where rows are equal.
    shared = (keys - rows).clamp_min(0)
    limit = (np.log(weights.shape[-2]) * keys).sqrt()
    return torch.where(limit > 1e-6, shared / limit.clamp_min(1e-6), 0.0), rows / np.log(2)


def backbone_patterns(
    backbone: Backbone,
    images: NDArray[np.uint8],
    *,
    px_per_degree: float | None = None,
    thresholds: tuple[float, float] = (0.05, 0.2),
    seed: int = 0,
) -> xr.Dataset:
    """Describe what every head of a vision transformer does with place: local, hybrid or global attention [1]_.

    Maps are those of patches to patches, rows scaled to sum to one. A head is *global* if its normalised mutual
    information is below the first threshold: all its queries read alike. It is *local* if it is at least the second one
    and the mean distance is less than half of that of the position-shuffled map. All else is *hybrid*.

    Parameters
    ----------
    backbone : Backbone
        A vision transformer, as for :func:`self_attention`.
    images : uint8 array, shape (stimulus, y, x, 3)
    px_per_degree : float, optional
        Pixels of the images per degree of visual angle. None: distances are in patches.
    thresholds : tuple of float, default (0.05, 0.2)
        Of the normalised mutual information. The three classes and the use of mutual information for them are those of
        [1]_; these numbers, and the condition on distance, are ours.
    seed : int, default 0
        Of the shuffles and resamples.

    Returns
    -------
    Dataset, dims (layer, head, bound)
        Means over stimuli, and with ``_interval`` their 95 % intervals over stimuli:

        - ``distance``: weighted mean distance from a query to what it reads [2]_, in degrees, or patches without
          ``px_per_degree``;
        - ``entropy``: bits of the weights of a query; those of uniform weights are in its ``attrs``;
        - ``nmi``: see :func:`mutual_information`;
        - ``distance_shuffled``, ``nmi_shuffled``: the control, in which the keys of each query change places at random
          and entropy stays what it is;
        - ``pattern``: "local", "hybrid" or "global" of the means.

    References
    ----------
    .. [1] Zhang et al. (2025). UNIP: rethinking pre-trained attention patterns for infrared semantic segmentation.
       ICLR.
    .. [2] Dosovitskiy et al. (2021). An image is worth 16x16 words. ICLR.

    Examples
    --------
    >>> from neuroattn.encoding import load_backbone
    >>> backbone = load_backbone("test_vit", weights="random")
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    >>> patterns = backbone_patterns(backbone, images, px_per_degree=32)
    >>> dict(patterns.nmi.sizes), patterns.pattern.values[0].tolist()
    ({'layer': 6, 'head': 2}, ['global', 'global'])
    """
    low, high = _checked(thresholds)
    rng = check_seed(seed)
    names, grid = block_names(backbone), token_grid(backbone, images)
    place, unit = patch_places(grid, covered_size(backbone, images), px_per_degree)
    apart = torch.from_numpy(np.linalg.norm(place[:, None] - place, axis=-1)).to(backbone.device)
    n_patches = len(place)
    shuffle = torch.from_numpy(rng.random((n_patches, n_patches)).argsort(-1)).to(backbone.device)

    def describe(block: int, weights: Tensor, tokens: Tensor) -> Tensor:
        read = weights[:, -n_patches:, -n_patches:].double()
        read = read / read.sum(-1, keepdim=True)
        mixed = read.gather(-1, shuffle.expand_as(read))
        nmi, entropy = mutual_information(read)
        near, far = ((one * apart).sum(-1).mean(-1) for one in (read, mixed))
        return torch.stack([near, far, entropy, nmi, mutual_information(mixed)[0]])

    table = describe_blocks(backbone, prepare(backbone, images), describe)  # (stimulus, block, kind, head)
    kinds = ("distance", "distance_shuffled", "entropy", "nmi", "nmi_shuffled")
    dims = ("stimulus", "layer", "head")
    result = _means({kind: xr.DataArray(table[:, :, i], dims=dims) for i, kind in enumerate(kinds)}, seed)
    config = {"px_per_degree": px_per_degree, "thresholds": thresholds, **backbone.config}
    return _finished(
        result.assign_coords(layer=names), (low, high), ("local", "hybrid", "global"), unit, n_patches
    ).assign_attrs(provenance(seed, config), resampled="stimulus")


def attention_patterns(
    encoder: BrainEncoder,
    X: Any,
    *,
    px_per_degree: float | None = None,
    image_size: tuple[float, float] | None = None,
    thresholds: tuple[float, float] = (0.05, 0.2),
    seed: int = 0,
) -> xr.Dataset:
    """Describe how every query and head of a brain encoder spreads its attention over images.

    A region's query has no place of its own, so that rows of the map are images here: mutual information tells whether
    each image is read somewhere else. A head is *fixed* if it is below the first threshold, which is the receptive
    field of a :class:`~neuroattn.encoding.FactorizedEncoder`; *routed* if it is at least the second one; else *mixed*.

    Parameters
    ----------
    encoder : BrainEncoder
        Fitted.
    X : array or FeatureStore, shape (stimulus, channel, y, x), or images with a backbone
        At least two stimuli. Their maps are held in memory.
    px_per_degree : float, optional
        Pixels of the images per degree of visual angle. None: distances are in tokens.
    image_size : tuple of float, (width, height), optional
        Size of the images, px; needed for degrees where X is features. The token grid is taken to cover the image.
    thresholds : tuple of float, default (0.05, 0.2)
        As for :func:`backbone_patterns`: ours.
    seed : int, default 0
        Of the shuffles and resamples.

    Returns
    -------
    Dataset, dims (query, head, bound)
        Coordinates ``roi`` and ``hemisphere`` along ``query``. With ``_interval``, the 95 % interval over stimuli:

        - ``distance``: weighted mean distance from the centre of gravity of a map to what it weighs, in degrees, or
          tokens without ``px_per_degree``;
        - ``entropy``: bits of a map;
        - ``nmi``: normalised mutual information of stimulus and token, see :func:`mutual_information`; its interval is
          that of a jackknife;
        - ``distance_shuffled``, ``nmi_shuffled``: the control, in which the tokens of each map change places at random;
        - ``pattern``: "routed", "mixed" or "fixed".

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> encoder = BrainEncoder({"V1": np.arange(6) < 4, "FFA": np.arange(6) > 2}, epochs=1, heads=2).fit(X, y)
    >>> patterns = attention_patterns(encoder, X, px_per_degree=10, image_size=(100, 60))
    >>> dict(patterns.nmi.sizes), patterns.distance.attrs["units"]
    ({'query': 2, 'head': 2}, 'deg')
    """
    low, high = _checked(thresholds)
    rng = check_seed(seed)
    check_is_fitted(encoder)
    maps = encoder.attention(X, per_head=True)
    check_range("number of stimuli", maps.sizes["stimulus"], 2)
    grid = (maps.sizes["y"], maps.sizes["x"])
    place, unit = patch_places(grid, shown_size(encoder, X, image_size), px_per_degree)
    unit = "tokens" if px_per_degree is None else unit
    weights = maps.values.reshape(*maps.shape[:3], -1)
    shape = weights.shape[:-1]
    kinds = ("distance", "distance_shuffled", "entropy")
    table = {kind: xr.DataArray(np.empty(shape), dims=("stimulus", "query", "head")) for kind in kinds}
    nmi, half = np.empty((2, *shape[1:])), np.empty((2, *shape[1:]))
    for query in range(shape[1]):
        read = weights[:, query].astype(np.float64)
        mixed = rng.permuted(read, axis=-1)
        values = (_width(read, place), _width(mixed, place), _entropy(read))
        for kind, value in zip(kinds, values, strict=True):
            table[kind][:, query] = value
        for i, one in enumerate((read, mixed)):
            nmi[i, query], half[i, query] = _nmi_over_stimuli(one)
    result = _means(table, seed)
    for i, name in enumerate(("nmi", "nmi_shuffled")):
        result[name] = ("query", "head"), nmi[i]
        bounds = np.stack([nmi[i] - half[i], nmi[i] + half[i]], axis=-1)
        result[f"{name}_interval"] = ("query", "head", "bound"), bounds
    config = {"px_per_degree": px_per_degree, "image_size": image_size, "thresholds": thresholds}
    labels = {name: maps[name] for name in ("roi", "hemisphere")}
    return _finished(
        result.assign_coords(labels), (low, high), ("routed", "mixed", "fixed"), unit, len(place)
    ).assign_attrs(provenance(seed, config), resampled="stimulus")


@styled
def plot_patterns(result: xr.Dataset) -> Figure:
    """Draw mutual information and distance of every head, a row a block or query, with the control in grey.

    Parameters
    ----------
    result : Dataset
        Of :func:`backbone_patterns` or :func:`attention_patterns`. Dashed lines are the thresholds.

    Returns
    -------
    Figure

    Examples
    --------
    >>> from neuroattn.encoding import load_backbone
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    >>> figure = plot_patterns(backbone_patterns(load_backbone("test_vit", weights="random"), images))
    >>> [axes.get_xlabel() for axes in figure.axes]
    ['Mutual information', 'Distance, patches']
    """
    from matplotlib.figure import Figure

    dim = "layer" if "layer" in result.dims else "query"
    names = result.layer.values.astype(str).tolist() if dim == "layer" else query_names(result.nmi[:, 0])
    table = result.transpose(dim, "head", ...)
    figure = Figure(figsize=(1.15 * WIDTH, 1.2 + 0.26 * len(names)))
    axes = figure.subplots(1, 2, sharey=True)
    row = np.repeat(np.arange(len(names)), result.sizes["head"])
    found = table.pattern.values.ravel()
    for panel, name in zip(axes, ("nmi", "distance"), strict=True):
        control = table[f"{name}_shuffled"].values.ravel()
        for pattern, colour in zip(
            result.attrs["patterns"].split(),
            (MODEL_COLOURS[0], MODEL_COLOURS[3], MODEL_COLOURS[1]),
            strict=True,
        ):
            value, here = table[name].values.ravel(), found == pattern
            panel.plot(value[here], row[here], "o", color=colour, ms=4.5, mew=0, alpha=0.8, label=pattern)
        panel.plot(control, row, "|", color=MUTED, ms=7, mew=0.9, zorder=1, label="places shuffled")
        panel.set_xlim(left=0)
    for threshold in result.attrs["thresholds"]:
        axes[0].axvline(threshold, color=MUTED, lw=0.9, ls="--", zorder=0)
    label_rows(axes[0], names)
    axes[1].grid(axis="x")
    axes[1].tick_params(axis="y", length=0)
    axes[0].set_xlabel("Mutual information")
    axes[1].set_xlabel(f"Distance, {result.distance.attrs['units']}")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside upper left",
        ncols=4,
        handletextpad=0.2,
        columnspacing=1.2,
        borderaxespad=0,
    )
    return figure


def _checked(thresholds: tuple[float, float]) -> tuple[float, float]:
    low, high = thresholds
    check_range("thresholds[0]", low, 0, 1)
    check_range("thresholds[1]", high, low, 1)
    return low, high


def _means(values: dict[str, xr.DataArray], seed: int) -> xr.Dataset:
    """Return means over stimuli, and their intervals under the names with ``_interval``."""
    result = xr.Dataset()
    for name, each in values.items():
        summary = mean_over_stimuli(each, seed)
        result[name], result[f"{name}_interval"] = summary["mean"], summary["interval"]
    return result


def _width(weights: Floats, place: Floats) -> Floats:
    """Return the mean distance (...) of weights (..., token) from their centre of gravity."""
    centre = weights @ place
    away = np.linalg.norm(place - centre[..., None, :], axis=-1)
    return np.asarray((weights * away).sum(-1))


def _entropy(weights: Floats) -> Floats:
    """Return the entropy (...) of weights (..., token) in bits."""
    return np.asarray(entr(weights).sum(-1) / np.log(2))


def _nmi_over_stimuli(weights: Floats) -> tuple[Floats, Floats]:
    """Return the mutual information (head,) of stimulus and token, and half of its 95 % interval by a jackknife.

    Weights have the shape (stimulus, head, token).
    """
    n = len(weights)
    nmi = mutual_information(torch.from_numpy(weights.swapaxes(0, 1)))[0].numpy()
    if n < 3:
        return nmi, np.full_like(nmi, np.nan)
    keys = _entropy((weights.sum(0) - weights) / (n - 1))  # without each stimulus in turn
    rows = _entropy(weights)
    shared = np.maximum(keys - (rows.sum(0) - rows) / (n - 1), 0)
    without = shared / np.sqrt(np.log2(n - 1) * np.maximum(keys, 1e-9))
    return nmi, 1.96 * np.sqrt((n - 1) * without.var(0))


def _finished(
    result: xr.Dataset,
    thresholds: tuple[float, float],
    patterns: tuple[str, str, str],
    unit: str,
    n_tokens: int,
) -> xr.Dataset:
    """Add the class of each head, units, and what the figure needs."""
    own, middle, alike = patterns
    low, high = thresholds
    sharp = result.nmi >= high
    if own == "local":
        sharp &= result.distance < 0.5 * result.distance_shuffled
    result["pattern"] = result.nmi.dims, np.select([result.nmi < low, sharp], [alike, own], middle)
    for name in ("distance", "distance_shuffled"):
        result[name].attrs["units"] = unit
    result.entropy.attrs.update(units="bit", uniform=float(np.log2(n_tokens)))
    return result.assign_attrs(thresholds=[low, high], patterns=" ".join(patterns))
