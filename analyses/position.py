"""Does attention go to a place whatever is there? Shuffle the content over places, and see what is left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from numpy.typing import NDArray
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
from neuroattn.analyses.reading import read_encoder
from neuroattn.analyses.style import MODEL_COLOURS, MUTED, WIDTH, shortened, styled
from neuroattn.encoding import BrainEncoder
from neuroattn.results import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_N_NULL = 100
Floats = NDArray[np.float64]


def rollout(weights: Tensor) -> Tensor:
    """Return how much the queries of the last layer draw from each input token through all layers, on average [1]_.

    Heads are averaged, and as every layer adds to its input, a token keeps half of what it has: ``(A + I) / 2``, layer
    by layer. The mean over queries is carried from the last layer down, so that no product of maps is made.

    Parameters
    ----------
    weights : Tensor, shape (layer, query, token)
        Mean of the heads, first layer first; queries and tokens are the same.

    Returns
    -------
    Tensor, shape (token,)
        Sums to one.

    References
    ----------
    .. [1] Abnar & Zuidema (2020). Quantifying attention flow in transformers. ACL.

    Examples
    --------
    >>> rollout(torch.tensor([[[1.0, 0.0], [1.0, 0.0]]] * 2))  # a quarter of the second token is left
    tensor([0.8750, 0.1250])
    """
    share = weights.new_full((weights.shape[-1],), 1 / weights.shape[-1])
    for layer in weights.flip(0):
        share = (share @ layer + share) / 2
    return share


def backbone_position_bias(
    backbone: Backbone,
    images: NDArray[np.uint8],
    *,
    px_per_degree: float | None = None,
    n_bins: int = 5,
    seed: int = 0,
) -> xr.Dataset:
    """Measure which places a vision transformer draws from up to each block, and which ones whatever is there [1]_.

    Attention is followed down to the patches by :func:`rollout`, once on the images and once after all patches of all
    images have changed places at random. Then no place has a content of its own, and what is left is the bias of the
    network; what goes away was the content, such as objects in the centre.

    Parameters
    ----------
    backbone : Backbone
        A vision transformer, as for :func:`self_attention`.
    images : uint8 array, shape (stimulus, y, x, 3)
        Held in memory as the network's input.
    px_per_degree : float, optional
        Pixels of the images per degree of visual angle. None: eccentricity is in patches.
    n_bins : int, default 5
        Rings of equal width around the centre of the image; empty ones are left out.
    seed : int, default 0

    Returns
    -------
    Dataset, dims (content, layer, ring, bound, y, x)
        ``content`` is "intact" or "shuffled".

        - ``weight`` (content, layer, y, x): mean weight of a place, as a multiple of the uniform share;
        - ``profile`` (content, layer, ring): its mean over a ring, whose mean ``eccentricity`` from the centre of the
          image is a coordinate; ``profile_interval``, with ``bound``: 95 % interval over stimuli;
        - ``bias`` (content, layer): Kullback-Leibler divergence of the mean weights from uniform ones, in bits, 0
          without bias; ``bias_null``, its 95 % point where the places of every map are drawn at random;
        - ``agreement`` (layer): correlation over places of the mean weights of both contents; NaN where either is
          uniform.

    References
    ----------
    .. [1] Wu, Wang, Jegelka & Jadbabaie (2025). On the emergence of position bias in transformers. ICML. There for
       causal masks and text.

    Examples
    --------
    >>> from neuroattn.encoding import load_backbone
    >>> backbone = load_backbone("test_vit", weights="random")
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    >>> bias = backbone_position_bias(backbone, images)
    >>> dict(bias.weight.sizes), round(float(bias.weight.mean()), 6)
    ({'content': 2, 'layer': 6, 'y': 4, 'x': 4}, 1.0)
    """
    rng = check_seed(seed)
    names, grid = block_names(backbone), token_grid(backbone, images)
    n_patches, patch = grid[0] * grid[1], backbone.preprocessing.multiple
    x = torch.cat(list(prepare(backbone, images)))
    order = torch.from_numpy(rng.permutation(len(x) * n_patches)).to(x.device)
    cut = F.unfold(x, patch, stride=patch).mT  # (stimulus, patch, value)
    mixed = cut.flatten(0, 1)[order].view(cut.shape).mT
    shuffled = F.fold(mixed, (grid[0] * patch, grid[1] * patch), patch, stride=patch)

    def drawn(inputs: Iterable[Tensor]) -> Floats:
        """Return weights of patches (stimulus, layer, patch)."""
        maps: list[Tensor] = []  # of the blocks of one image so far

        def follow(block: int, weights: Tensor, tokens: Tensor) -> Tensor:
            if block == 0:
                maps.clear()
            maps.append(weights.mean(0))
            share = rollout(torch.stack(maps))[-n_patches:].double()
            return share / share.sum()

        return describe_blocks(backbone, inputs, follow)

    maps = np.stack([drawn(one[:, None]) for one in (x, shuffled)])
    place, unit = patch_places(grid, covered_size(backbone, images), px_per_degree)
    config = {"px_per_degree": px_per_degree, "n_bins": n_bins, **backbone.config}
    result = _profiles(maps, grid, np.linalg.norm(place, axis=-1), unit, n_bins, "layer", seed, rng)
    return result.assign_coords(layer=names).assign_attrs(provenance(seed, config), resampled="stimulus")


def position_bias(
    encoder: BrainEncoder,
    X: Any,
    *,
    px_per_degree: float | None = None,
    image_size: tuple[float, float] | None = None,
    n_bins: int = 5,
    seed: int = 0,
) -> xr.Dataset:
    """Measure which places every region of a brain encoder attends to, and which ones whatever is there.

    Maps are made once of the stimuli and once after all tokens of all stimuli have changed places at random, so that no
    place has a content of its own: what is left is the bias of the query for a place, which it takes from the position
    code. What goes away was content: things that lie in the centre, and what the backbone has written into tokens
    because of where they are.

    Parameters
    ----------
    encoder : BrainEncoder
        Fitted on features of one layer.
    X : array or FeatureStore, shape (stimulus, channel, y, x), or images with a backbone
        Features are held in memory.
    px_per_degree : float, optional
        Pixels of the images per degree of visual angle. None: eccentricity is in tokens.
    image_size : tuple of float, (width, height), optional
        Size of the images, px; needed for degrees where X is features. The token grid is taken to cover the image.
    n_bins : int, default 5
        Rings of equal width around the centre of the image; empty ones are left out.
    seed : int, default 0

    Returns
    -------
    Dataset, dims (content, query, ring, bound, y, x)
        As of :func:`backbone_position_bias`, with ``query`` for ``layer`` and its coordinates ``roi`` and
        ``hemisphere``. Weights are the mean over heads.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> encoder = BrainEncoder({"V1": np.arange(6) < 4, "FFA": np.arange(6) > 2}, epochs=1, heads=2).fit(X, y)
    >>> bias = position_bias(encoder, X, px_per_degree=10, image_size=(100, 60))
    >>> dict(bias.profile.sizes), bias.eccentricity.attrs["units"]
    ({'content': 2, 'query': 2, 'ring': 4}, 'deg')
    """
    rng = check_seed(seed)
    reader, features = read_encoder(encoder, X)
    n, channels, *grid = features.shape
    tokens = np.moveaxis(features, 1, -1).reshape(-1, channels)
    shuffled = np.moveaxis(tokens[rng.permutation(len(tokens))].reshape(n, *grid, channels), -1, 1)
    both = [reader.attention(one) for one in (features, shuffled)]
    maps = np.stack([one.values.reshape(*one.shape[:2], -1).astype(np.float64) for one in both])
    place, unit = patch_places((grid[0], grid[1]), shown_size(encoder, X, image_size), px_per_degree)
    unit = "tokens" if px_per_degree is None else unit
    result = _profiles(
        maps, (grid[0], grid[1]), np.linalg.norm(place, axis=-1), unit, n_bins, "query", seed, rng
    )
    config = {"px_per_degree": px_per_degree, "image_size": image_size, "n_bins": n_bins}
    labels = {name: both[0][name] for name in ("roi", "hemisphere")}
    return result.assign_coords(labels).assign_attrs(provenance(seed, config), resampled="stimulus")


@styled
def plot_position_bias(result: xr.Dataset) -> Figure:
    """Draw the weight of places by their distance from the centre, with and without content, a panel a block or query.

    Parameters
    ----------
    result : Dataset
        Of :func:`backbone_position_bias` or :func:`position_bias`. Areas are 95 % intervals over stimuli, the thin line
        is uniform attention.

    Returns
    -------
    Figure

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> encoder = BrainEncoder({"V1": np.arange(6) < 4, "FFA": np.arange(6) > 2}, epochs=1, heads=2).fit(X, y)
    >>> [axes.get_title() for axes in plot_position_bias(position_bias(encoder, X)).axes]
    ['V1', 'FFA']
    """
    from matplotlib.figure import Figure

    dim = "layer" if "layer" in result.dims else "query"
    names = result.layer.values.astype(str).tolist() if dim == "layer" else query_names(result.agreement)
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH, 1.0 + 1.35 * rows))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    looks = {
        "intact": (MODEL_COLOURS[0], "images as they are"),
        "shuffled": (MODEL_COLOURS[1], "content shuffled"),
    }
    for i, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        for content, (colour, label) in looks.items():
            one = result.sel(content=content).isel({dim: i})
            low, high = one.profile_interval.transpose("bound", "ring").values
            axes.fill_between(result.eccentricity, low, high, color=colour, alpha=0.2, lw=0)
            axes.plot(result.eccentricity, one.profile, "o-", color=colour, ms=3, lw=1.4, label=label)
        axes.axhline(1, color=MUTED, lw=0.7)
        axes.set_title(shortened(name, 20), size=9)
    grid[0, 0].set_ylim(bottom=0)
    for above, axes in enumerate(grid.flat[len(names) :], len(names) - columns):
        axes.set_visible(False)
        grid.flat[above].tick_params(labelbottom=True)
    figure.supxlabel(f"Distance from the centre, {result.eccentricity.attrs['units']}", size=10)
    figure.supylabel("Attention, × uniform", size=10)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(),
        loc="outside upper left",
        ncols=2,
        columnspacing=1.2,
        borderaxespad=0,
    )
    return figure


def _profiles(
    maps: Floats,
    grid: tuple[int, int],
    eccentricity: Floats,
    unit: str,
    n_bins: int,
    dim: str,
    seed: int,
    rng: np.random.Generator,
) -> xr.Dataset:
    """Summarize maps (content, stimulus, row, token) whose rows are named ``dim``."""
    check_range("n_bins", n_bins, 1)
    n_tokens = len(eccentricity)
    edges = np.linspace(0, eccentricity.max(), n_bins + 1)[1:-1]
    ring = np.unique(np.digitize(eccentricity, edges), return_inverse=True)[1]
    member = np.eye(ring.max() + 1)[ring] / np.bincount(ring)  # (token, ring), columns average
    relative = maps * n_tokens
    contents = {"content": ["intact", "shuffled"]}
    profile = mean_over_stimuli(
        xr.DataArray(relative @ member, dims=("content", "stimulus", dim, "ring"), coords=contents), seed
    )
    mean = relative.mean(1)
    null = np.stack([_divergence(rng.permuted(maps, axis=-1).mean(1)) for _ in range(_N_NULL)])
    centred = mean - mean.mean(-1, keepdims=True)
    length = np.linalg.norm(centred, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        agreement = (centred[0] * centred[1]).sum(-1) / (length[0] * length[1])
    return xr.Dataset(
        {
            "weight": (
                ("content", dim, "y", "x"),
                mean.reshape(*mean.shape[:2], *grid),
                {"units": "uniform share"},
            ),
            "profile": profile["mean"].assign_attrs(units="uniform share"),
            "profile_interval": profile["interval"],
            "bias": (("content", dim), _divergence(maps.mean(1)), {"units": "bit"}),
            "bias_null": (("content", dim), np.percentile(null, 95, axis=0), {"units": "bit"}),
            "agreement": (dim, np.where((length > 1e-9).all(0), agreement, np.nan)),
        },
        coords={**contents, "eccentricity": ("ring", eccentricity @ member, {"units": unit})},
    )


def _divergence(weights: Floats) -> Floats:
    """Return the divergence (...) of weights (..., token) from uniform ones, in bits."""
    positive = np.where(weights > 0, weights, 1.0)
    return np.asarray((weights * np.log2(positive * weights.shape[-1])).sum(-1))
