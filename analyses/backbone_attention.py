"""Read the self-attention of a vision transformer, one image and one block at a time, as the network computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from neuroattn._backbones import Backbone
from neuroattn._checks import check_option, check_range, check_shape
from neuroattn.analyses.reading import N_RESAMPLES
from neuroattn.encoding import BrainEncoder
from neuroattn.kernels import attention
from neuroattn.metrics import crossed_bootstrap
from neuroattn.results import provenance

Visit = Callable[[int, Tensor, Tensor], None]
Describe = Callable[[int, Tensor, Tensor], Tensor]


def self_attention(
    backbone: Backbone, images: NDArray[np.uint8], *, layers: Sequence[str] | None = None
) -> Iterator[xr.DataArray]:
    """Yield how much every token of a vision transformer reads from every other, image by image.

    The maps are made from the queries and keys that enter the network's own attention, after its norms and rotary
    positions, so that they are exact. Only those of one image are held: the twelve layers of a ViT-B/14 take 0.5 GB
    at 434 px, one of them 44 MB.

    Parameters
    ----------
    backbone : Backbone
        A vision transformer; which layer and facet it reads does not matter.
    images : uint8 array, shape (stimulus, y, x, 3)
    layers : sequence of str, optional
        ``"block<i>"``, from 0; all by default.

    Yields
    ------
    DataArray, dims (layer, head, query, key)
        Weights that sum to one over keys. Query i and key i are one token: coordinates ``kind`` ("class", "register"
        for any other token without a place, "patch") and ``y``, ``x``, its place on the grid, -1 without a place,
        along ``key``.

    Raises
    ------
    ValueError
        If a block does not attend exactly once from all tokens to all tokens through torch's
        ``scaled_dot_product_attention`` without biases, as windows, differential attention and relative position
        biases do.

    Examples
    --------
    >>> from neuroattn.encoding import load_backbone
    >>> backbone = load_backbone("test_vit", weights="random")
    >>> maps = next(self_attention(backbone, np.zeros((1, 32, 48, 3), np.uint8), layers=["block1"]))
    >>> dict(maps.sizes), maps.kind.values[:2].tolist()
    ({'layer': 1, 'head': 2, 'query': 7, 'key': 7}, ['class', 'patch'])
    """
    names = block_names(backbone)
    chosen = names if layers is None else [check_option("layers", name, names) for name in layers]
    wanted = [names.index(name) for name in chosen]
    coords = {"layer": chosen, **token_coords(backbone, images, "key")}

    def read(x: Tensor) -> xr.DataArray:
        found: dict[int, NDArray[np.float32]] = {}

        def keep(block: int, weights: Tensor, tokens: Tensor) -> None:
            if block in wanted:
                found[block] = weights.cpu().numpy()

        visit_blocks(backbone, x, keep)
        return xr.DataArray(
            np.stack([found[block] for block in wanted]),
            dims=("layer", "head", "query", "key"),
            coords=coords,
            name="attention",
            attrs={"units": "share of attention", **provenance(0, backbone.config)},
        )

    return map(read, prepare(backbone, images))


def block_names(backbone: Backbone) -> list[str]:
    """Return the names of the blocks of a vision transformer.

    Examples
    --------
    >>> from neuroattn.encoding import load_backbone
    >>> block_names(load_backbone("test_vit", weights="random", layer="block0"))[-1]
    'block5'
    """
    names = [name for name in backbone.layers if name in backbone._aliases]
    if backbone._has_maps or not names:
        raise ValueError(f"backbone must be a vision transformer with blocks, got {backbone.name}")
    return names


def token_grid(backbone: Backbone, images: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the rows and columns of patches that images (stimulus, y, x, 3) become.

    Examples
    --------
    >>> from neuroattn.encoding import load_backbone
    >>> token_grid(load_backbone("test_vit", weights="random"), np.zeros((1, 30, 50, 3), np.uint8))
    (2, 4)
    """
    return backbone._token_grid(next(prepare(backbone, images)).shape)


def token_coords(
    backbone: Backbone, images: NDArray[np.uint8], dim: str
) -> dict[str, tuple[str, NDArray[Any]]]:
    """Return kind, y and x of the tokens that images become, as coordinates along a dimension.

    Examples
    --------
    >>> from neuroattn.encoding import load_backbone
    >>> backbone = load_backbone("test_vit", weights="random")
    >>> token_coords(backbone, np.zeros((1, 16, 32, 3), np.uint8), "token")["x"][1].tolist()
    [-1, 0, 1]
    """
    n_prefix, (height, width) = backbone._n_prefix, token_grid(backbone, images)
    kind = np.array(["register"] * n_prefix + ["patch"] * (height * width), dtype="<U8")
    if n_prefix and getattr(backbone.model, "cls_token", None) is not None:
        kind[0] = "class"
    place = np.full((2, len(kind)), -1)
    place[:, n_prefix:] = np.indices((height, width)).reshape(2, -1)
    return {"kind": (dim, kind), "y": (dim, place[0]), "x": (dim, place[1])}


def prepare(backbone: Backbone, images: NDArray[np.uint8]) -> Iterator[Tensor]:
    """Check images (stimulus, y, x, 3) and return the network's inputs (1, 3, y, x), made one by one."""
    check_shape("images", images, "stimulus", "y", "x", 3)
    if images.dtype != np.uint8:
        raise TypeError(f"images must be uint8 RGB in 0..255, got {images.dtype}")
    check_range("number of images", len(images), 1)
    return (
        backbone.preprocessing(torch.from_numpy(np.array(images[i : i + 1])).to(backbone.device))
        for i in range(len(images))
    )


def describe_blocks(backbone: Backbone, inputs: Iterable[Tensor], describe: Describe) -> NDArray[Any]:
    """Return what a function makes of every block of every input, shape (stimulus, block, ...).

    ``describe`` is called with the number of the block, its weights (head, query, key), and the tokens that leave it
    (token, channel).
    """

    def one(x: Tensor) -> NDArray[Any]:
        found: list[NDArray[Any]] = []
        visit_blocks(backbone, x, lambda *seen: found.append(describe(*seen).cpu().numpy()))
        return np.stack(found)

    return np.stack([one(x) for x in inputs])


def patch_places(
    grid: tuple[int, int], image_size: tuple[float, float] | None, px_per_degree: float | None
) -> tuple[NDArray[np.float64], str]:
    """Return where the centres of patches lie from the image's centre, shape (patch, 2: y, x), and the unit.

    Parameters
    ----------
    grid : tuple of int, (y, x)
    image_size : tuple of float, (width, height)
        What the grid covers, px.
    px_per_degree : float, optional
        None: places are in patches.

    Examples
    --------
    >>> patch_places((1, 2), (80, 40), 10)
    (array([[ 0., -2.],
           [ 0.,  2.]]), 'deg')
    """
    place = np.indices(grid).reshape(2, -1).T - (np.array(grid) - 1) / 2
    if px_per_degree is None:
        return place, "patches"
    if image_size is None:
        raise ValueError("image_size must be given with px_per_degree where X is features, got None")
    check_range("px_per_degree", px_per_degree, 1e-9)
    width, height = image_size
    return place * np.array([height, width]) / np.array(grid) / px_per_degree, "deg"


def covered_size(backbone: Backbone, images: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the width and height in px of the images that the patches cover, padding included.

    Examples
    --------
    >>> from neuroattn.encoding import load_backbone
    >>> covered_size(load_backbone("test_vit", weights="random"), np.zeros((1, 30, 50, 3), np.uint8))
    (64.0, 32.0)
    """
    height, width = images.shape[1:3]
    rows, columns = token_grid(backbone, images)
    resized, patch = backbone.preprocessing.size or (height, width), backbone.preprocessing.multiple
    return columns * patch * width / resized[1], rows * patch * height / resized[0]


def shown_size(
    encoder: BrainEncoder, X: Any, image_size: tuple[float, float] | None
) -> tuple[float, float] | None:
    """Return the width and height in px of what an encoder is shown: as given, or of images."""
    if image_size is not None or encoder.backbone is None:
        return image_size
    height, width = np.shape(X)[1:3]
    return width, height


def mean_over_stimuli(values: xr.DataArray, seed: int) -> xr.Dataset:
    """Return the ``mean`` over stimuli and its 95 % ``interval`` (..., bound) over resampled stimuli.

    Examples
    --------
    >>> summary = mean_over_stimuli(xr.DataArray([[0.0], [1.0]], dims=("stimulus", "query")), seed=0)
    >>> summary["mean"].values, summary.interval.dims
    (array([0.5]), ('query', 'bound'))
    """
    named = values.assign_coords(stimulus=np.arange(values.sizes["stimulus"]))
    summary = crossed_bootstrap(named, units=("stimulus",), n_resamples=N_RESAMPLES, seed=seed)
    return summary.transpose(..., "bound")


def visit_blocks(backbone: Backbone, x: Tensor, visit: Visit) -> None:
    """Run one network input (1, 3, y, x) and show every block as it ends, so that no two maps are held.

    ``visit`` is called with the number of the block, its weights (head, query, key), and the tokens that leave it
    (token, channel).
    """
    grid = backbone._token_grid(x.shape)
    watcher = _Watcher(backbone.name, backbone._n_prefix + grid[0] * grid[1])
    handles = []
    for number, name in enumerate(block_names(backbone)):
        block = backbone.model.get_submodule(backbone._aliases[name])

        def enter(module: nn.Module, inputs: Any, name: str = name) -> None:
            watcher.block, watcher.weights = name, None

        def leave(module: nn.Module, inputs: Any, output: Tensor, number: int = number) -> None:
            if watcher.weights is None:
                raise watcher.refusal()
            visit(number, watcher.weights, output[0])
            watcher.block, watcher.weights = None, None

        handles += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
    try:
        with torch.inference_mode(), watcher:
            backbone.model(x)
    finally:
        for handle in handles:
            handle.remove()


class _Watcher(TorchFunctionMode):
    """Make the map of every fused attention inside a block from the queries and keys that enter it."""

    def __init__(self, network: str, n_tokens: int) -> None:
        super().__init__()
        self.network, self.n_tokens = network, n_tokens
        self.block: str | None = None
        self.weights: Tensor | None = None

    def refusal(self) -> ValueError:
        return ValueError(
            f"backbone must attend once from all {self.n_tokens} tokens to all in every block, by fused attention "
            f"without biases; {self.block} of {self.network} does not"
        )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is F.scaled_dot_product_attention and self.block is not None:
            self._read(*args, **named)
        return func(*args, **named)

    def _read(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        plain = attn_mask is None and not is_causal and q.shape == k.shape
        if not plain or self.weights is not None or (len(q), q.shape[2]) != (1, self.n_tokens):
            raise self.refusal()
        weights = attention(q, k, v, scale=scale, map="heads").map
        if weights is not None:
            self.weights = weights[0]
