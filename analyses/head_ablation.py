"""What is lost without an attention head, and whether regions need the same ones."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn._checks import check_option, check_range, check_seed, check_shape
from neuroattn.analyses.figures import query_names
from neuroattn.analyses.heads import encoder_layers, head_names
from neuroattn.analyses.reading import N_RESAMPLES, query_coords, read_encoder, units_of_queries
from neuroattn.analyses.style import INK, MODEL_COLOURS, PAPER, WIDTH, finish_bar, shortened, styled
from neuroattn.analyses.token_masking import Scores, mean_of
from neuroattn.attention import CrossAttention
from neuroattn.encoding import BrainEncoder
from neuroattn.metrics import bootstrap_correlation, pearson_r
from neuroattn.results import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EDITS = ("zero", "uniform", "mean", "identity")


def ablate_heads(
    encoder: BrainEncoder,
    X: Any,
    y: ArrayLike,
    *,
    edits: Sequence[str] = ("zero", "uniform", "mean"),
    strengths: Sequence[float] = (0.5, 1.0),
    seed: int = 0,
) -> xr.Dataset:
    """Measure how much worse an encoder predicts each region when the map of one head is blended with another.

    The map P of one head becomes ``(1 - s) P + s Q``, with strength s, and the units of each query are scored again.
    Q is nothing ("zero": the head is silent), the same weight for all tokens ("uniform"), the head's own mean map
    over the stimuli ("mean": the head looks where it looks on average, whatever is there), or each token itself
    ("identity"). Blending with the identity is the perturbation of [1]_, who guide image generation by it.

    The control is a head of the same layer drawn at random: ``excess`` is the drop minus the mean drop of the other
    heads, edited alike. A head whose drop is small alone may still matter: others can make up for it.

    Parameters
    ----------
    encoder : BrainEncoder
        Fitted to features of one layer, with ``readout="roi"`` or ``"hemisphere"``.
    X : array or FeatureStore, shape (stimulus, channel, y, x), or images with a backbone
        Held-out stimuli; their features are held in memory.
    y : array, shape (stimulus, unit)
        Held-out responses.
    edits : sequence of {"zero", "uniform", "mean", "identity"}, default ("zero", "uniform", "mean")
        "identity" is defined among tokens only, in encoders with ``encoder_layers``; it is NaN in the decoder.
    strengths : sequence of float, default (0.5, 1.0)
        From 0, the intact map, to 1.
    seed : int, default 0
        Of resamples.

    Returns
    -------
    Dataset, dims (edit, strength, layer, head, query, bound)
        Layers, and coordinates ``roi`` and ``hemisphere`` along ``query``, as of :func:`stimulus_driven_heads`.

        - ``correlation`` (query): mean over units of Pearson's r, intact;
        - ``drop``: mean over units of r intact minus r with the edited head; a prediction that is constant has r = 0;
        - ``excess``: drop minus the mean drop of the layer's other heads; NaN where there is one head;
        - ``drop_interval``, ``excess_interval``, with ``bound``: 95 % percentiles over 500 resamples of stimuli, for
          these fitted weights.

        NaN for queries of which no unit's r is a number.

    Raises
    ------
    ValueError
        If the encoder has one query a unit or mixes layers, or an edit is unknown or fits no layer.

    References
    ----------
    .. [1] Ahn et al. (2025). Fine-grained perturbation guidance via attention head selection. arXiv:2506.10978.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> encoder = BrainEncoder({"V1": np.arange(6) < 4, "FFA": np.arange(6) > 2}, epochs=1, heads=2).fit(X, y)
    >>> dict(ablate_heads(encoder, X, y, strengths=[1.0])["drop"].sizes)
    {'edit': 3, 'strength': 1, 'layer': 1, 'head': 2, 'query': 2}
    """
    reader, features = read_encoder(encoder, X)
    check_range("number of stimuli", len(features), 2)
    measured = np.asarray(y, dtype=np.float32)
    check_shape("y", measured, len(features), reader.n_units_)
    layers = encoder_layers(reader)
    for name, given in (("edits", edits), ("strengths", strengths)):
        check_range(f"number of {name}", len(given), 1)
    for edit in edits:
        check_option("edits", edit, EDITS)
    for strength in strengths:
        check_range("strengths", strength, 0, 1)
    if "identity" in edits and not any(name.startswith("encoder") for name in layers):
        raise ValueError(
            "edits must leave out 'identity' for an encoder without softmax attention among tokens"
        )
    reads = units_of_queries(reader)
    resampling = int(check_seed(seed).integers(2**32))
    members = [np.flatnonzero(mask) for mask in reads]

    def score() -> Scores:
        """Return r (unit,) and resampled r (resample, unit)."""
        pair = measured, reader.predict(features)
        return pearson_r(*pair), bootstrap_correlation(*pair, n_resamples=N_RESAMPLES, seed=resampling)

    intact, intact_draws = score()
    known = np.isfinite(intact)
    intact_draws = np.nan_to_num(intact_draws)

    def by_query(values: NDArray[Any]) -> NDArray[np.float64]:
        """Average units (..., unit) by query (query, ...)."""
        return np.stack([mean_of(values[..., units], known[units]) for units in members])

    means: Mapping[str, Tensor] = {}
    if "mean" in edits:
        with mean_maps(layers) as means:
            reader.predict(features)
    shape = (len(edits), len(strengths), len(layers), reader.heads, len(members))
    point, draws = np.full(shape, np.nan), np.full((*shape, N_RESAMPLES), np.nan)
    for (e, edit), (s, strength), (k, (name, layer)), head in itertools.product(
        enumerate(edits), enumerate(strengths), enumerate(layers.items()), range(reader.heads)
    ):
        if edit == "identity" and not name.startswith("encoder"):
            continue
        mean = means[name][head] if edit == "mean" else None
        with edited_head(layer, head, edit, strength, mean):
            r, resampled = score()
        # A constant prediction says nothing: r = 0.
        point[e, s, k, head] = by_query(intact - np.nan_to_num(r))
        draws[e, s, k, head] = by_query(intact_draws - np.nan_to_num(resampled))

    coords = {
        "edit": list(edits),
        "strength": [float(strength) for strength in strengths],
        "layer": list(layers),
        "head": np.arange(reader.heads),
        **query_coords(reader),
    }
    dims = ("edit", "strength", "layer", "head", "query")
    drop = xr.DataArray(point, dims=dims, coords=coords)
    sampled = xr.DataArray(draws, dims=(*dims, "resample"), coords=coords)
    effect = xr.Dataset(
        {
            "correlation": ("query", by_query(intact)),
            "drop": drop,
            "drop_interval": _interval(sampled),
            "excess": _above_others(drop),
            "excess_interval": _interval(_above_others(sampled)),
        }
    )
    config = {"edits": list(edits), "strengths": list(strengths), "n_resamples": N_RESAMPLES}
    return effect.assign_attrs(resampled="stimulus", units="correlation", **provenance(seed, config))


def head_overlap(
    importance: xr.DataArray, k: int, *, n_permutations: int = 1000, seed: int = 0
) -> xr.Dataset:
    """Ask whether regions, or subjects, need the same heads: the overlap of their k most important ones.

    Overlap is the Jaccard index, shared heads over heads in either set, after the reuse of circuit components across
    tasks of language models [1]_. Chance is two sets that keep how many heads of each layer they hold and are
    otherwise drawn at random: sets that merely prefer the same layer do not overlap more than that.

    Head 3 of one network has nothing to do with head 3 of another. Compare regions of one encoder, or subjects that
    read through one decoder (:class:`neuroattn.encoding.SharedBrainEncoder`).

    Parameters
    ----------
    importance : DataArray, dims (layer, head, ...)
        Such as ``drop.sel(edit="zero", strength=1)`` of :func:`ablate_heads`, or several joined along ``subject``.
        Each element of the other dimensions is a set, a query or a query of a subject.
    k : int
        Heads in a set.
    n_permutations : int, default 1000
        Of heads within layers, for ``mean_p``.
    seed : int, default 0

    Returns
    -------
    Dataset, dims (set, other, layer, head)
        - ``member`` (set, layer, head): whether the head is one of the k most important; of equal ones the first;
        - ``jaccard``, ``expected``, ``p`` (set, other): overlap, its exact expectation by chance (a sum of
          hypergeometric variables over layers), and the exact one-sided p; NaN for a set with itself;
        - ``mean_jaccard``, ``mean_expected``: over pairs; ``mean_p``, one-sided, by permutation of heads in each set.

    Raises
    ------
    ValueError
        If there are fewer than two sets, k is not between 1 and the number of heads, or an importance is not finite.

    References
    ----------
    .. [1] Merullo, Eickhoff & Pavlick (2024). Circuit component reuse across tasks in transformer language models.
       ICLR.

    Examples
    --------
    >>> drop = xr.DataArray([[[0.3, 0.2], [0.2, 0.3], [0.0, 0.1], [0.1, 0.0]]], dims=("layer", "head", "query"),
    ...     coords={"roi": ("query", ["V1", "FFA"]), "hemisphere": ("query", ["left", "left"])})
    >>> overlap = head_overlap(drop, 2)
    >>> overlap.jaccard.values[0, 1], overlap.expected.values[0, 1].round(3), overlap.p.values[0, 1].round(3)
    (np.float64(1.0), np.float64(0.389), np.float64(0.167))
    """
    for dim in ("layer", "head"):
        if dim not in importance.dims:
            raise ValueError(f"importance must have dims layer and head, got {importance.dims}")
    others = [dim for dim in importance.dims if dim not in ("layer", "head")]
    table = importance.transpose(*others, "layer", "head")
    n_layers, n_heads = table.shape[-2:]
    values = table.values.reshape(-1, n_layers * n_heads)
    n_sets = len(values)
    check_range("number of sets", n_sets, 2)
    check_range("k", k, 1, n_layers * n_heads)
    check_range("n_permutations", n_permutations, 1)
    if not np.isfinite(values).all():
        raise ValueError("importance must be finite, got NaN or infinity; leave such queries out first")
    chosen = np.zeros(values.shape, bool)
    np.put_along_axis(chosen, np.argsort(-values, axis=1, kind="stable")[:, :k], True, 1)
    member = chosen.reshape(n_sets, n_layers, n_heads)

    first, second = np.triu_indices(n_sets, 1)
    shared = np.arange(k + 1)
    index = shared / (2 * k - shared)
    observed = (member[first] & member[second]).sum((1, 2))
    expected, p = np.empty(len(first)), np.empty(len(first))
    for i, (a, b) in enumerate(zip(member[first].sum(2), member[second].sum(2), strict=True)):
        chance = np.ones(1)
        for in_a, in_b in zip(a.tolist(), b.tolist(), strict=True):
            chance = np.convolve(chance, stats.hypergeom(n_heads, in_a, in_b).pmf(np.arange(in_a + 1)))
        expected[i], p[i] = chance @ index, min(chance[observed[i] :].sum(), 1)

    rng = check_seed(seed)
    null = np.empty(n_permutations)
    for i in range(n_permutations):
        drawn = np.take_along_axis(member, rng.random(member.shape).argsort(-1), -1)
        null[i] = index[(drawn[first] & drawn[second]).sum((1, 2))].mean()
    mean = index[observed].mean()

    def square(pairs: NDArray[np.float64]) -> tuple[tuple[str, str], NDArray[np.float64]]:
        matrix = np.full((n_sets, n_sets), np.nan)
        matrix[first, second] = matrix[second, first] = pairs
        return ("set", "other"), matrix

    names = _set_names(importance, others)
    return xr.Dataset(
        {
            "member": (("set", "layer", "head"), member),
            "jaccard": square(index[observed]),
            "expected": square(expected),
            "p": square(p),
            "mean_jaccard": mean,
            "mean_expected": expected.mean(),
            "mean_p": (1 + (null >= mean - 1e-12).sum()) / (1 + n_permutations),
        },
        coords={
            "set": names,
            "other": names,
            **{name: table[name] for name in ("layer", "head") if name in table.coords},
        },
        attrs={"alternative": "greater", **provenance(seed, {"k": k, "n_permutations": n_permutations})},
    )


@contextlib.contextmanager
def mean_maps(layers: Mapping[str, CrossAttention]) -> Iterator[dict[str, Tensor]]:
    """Collect the mean map of some layers, (head, query, token), over what they read while the context is open.

    Examples
    --------
    >>> import torch
    >>> layer = CrossAttention(8, heads=2)
    >>> with mean_maps({"only": layer}) as maps:
    ...     _ = layer(torch.zeros(1, 3, 8), torch.zeros(5, 6, 8))
    >>> maps["only"].shape
    torch.Size([2, 3, 6])
    """
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(layers, 0)
    handles: list[Any] = []

    def ask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "map": "heads"}

    for name, layer in layers.items():

        def add(module: nn.Module, args: Any, output: tuple[Tensor, Tensor], name: str = name) -> None:
            sums[name] = sums.get(name, 0) + output[1].detach().sum(0)
            counts[name] += len(output[1])

        handles += [
            layer.register_forward_pre_hook(ask, with_kwargs=True),
            layer.register_forward_hook(add),
        ]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()
    for name in sums:
        sums[name] /= counts[name]


@contextlib.contextmanager
def edited_head(
    layer: CrossAttention, head: int, edit: str, strength: float, mean: Tensor | None = None
) -> Iterator[None]:
    """Blend the map of one head of a layer with another map while the context is open.

    Parameters
    ----------
    layer : CrossAttention
    head : int
    edit : {"zero", "uniform", "mean", "identity"}
    strength : float
        0: intact, 1: the other map alone.
    mean : Tensor, shape (query, token), optional
        The map of "mean".

    Examples
    --------
    >>> import torch
    >>> layer, x = CrossAttention(8, heads=1), torch.ones(1, 3, 8)
    >>> with edited_head(layer, 0, "zero", 1.0):
    ...     out, _ = layer(x, x)
    >>> bool((out == layer.out_proj.bias).all())
    True
    """
    dim = layer.out_proj.in_features
    width = dim // layer.heads
    features = slice(head * width, (head + 1) * width)
    values = slice(2 * dim + features.start, 2 * dim + features.stop)
    other: dict[str, Callable[[Tensor], Tensor]] = {
        "uniform": lambda tokens: tokens.mean(1, keepdim=True),
        "identity": lambda tokens: tokens,
    }
    if mean is not None:
        other["mean"] = lambda tokens: mean.to(tokens) @ tokens
    given: list[Tensor] = []

    def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given[:] = [inputs[1]]

    def blend(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        read = inputs[0].clone()
        read[..., features] *= 1 - strength
        if edit != "zero":
            # A map weighs values, and its rows sum to one: tokens are weighed before they are projected.
            instead = other[edit](given[0])
            read[..., features] += strength * F.linear(
                instead, layer.in_proj_weight[values], layer.in_proj_bias[values]
            )
        return (read,)

    handles = [
        layer.register_forward_pre_hook(remember),
        layer.out_proj.register_forward_pre_hook(blend),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _above_others(drop: xr.DataArray) -> xr.DataArray:
    """Return drops minus the mean of the other heads."""
    n = drop.sizes["head"]
    others = (drop.sum("head", skipna=False) - drop) / (n - 1) if n > 1 else xr.full_like(drop, np.nan)
    return drop - others


def _interval(sampled: xr.DataArray) -> xr.DataArray:
    bounds = sampled.quantile([0.025, 0.975], dim="resample", skipna=False).rename(quantile="bound")
    return bounds.assign_coords(bound=["low", "high"]).transpose(..., "bound")


def _set_names(importance: xr.DataArray, dims: Sequence[Any]) -> list[str]:
    """Return a name for each element of some dimensions."""
    names = [
        query_names(importance)
        if dim == "query" and "roi" in importance.coords
        else [str(value) for value in importance[dim].values]
        for dim in dims
    ]
    return [" ".join(parts) for parts in itertools.product(*names)]


@styled
def plot_head_ablation(effect: xr.Dataset) -> Figure:
    """Draw what every query loses by every head, edited at the highest strength, one panel an edit.

    Parameters
    ----------
    effect : Dataset
        Of :func:`neuroattn.analyses.ablate_heads`. A dot marks drops whose interval lies above zero.

    Returns
    -------
    Figure

    Examples
    --------
    >>> dims = ("edit", "strength", "layer", "head", "query")
    >>> effect = xr.Dataset(
    ...     {"drop": (dims, [[[[[0.2], [0.0]]]]]),
    ...      "drop_interval": ((*dims, "bound"), [[[[[[0.1, 0.3]], [[-0.1, 0.1]]]]]])},
    ...     {"edit": ["zero"], "strength": [1.0], "layer": ["decoder 1"], "roi": ("query", ["FFA"]),
    ...      "hemisphere": ("query", ["left"])})
    >>> [text.get_text() for text in plot_head_ablation(effect).axes[0].get_yticklabels()]
    ['FFA left']
    """
    from matplotlib.figure import Figure

    shown = effect.sel(strength=effect.strength.max()).stack(column=("layer", "head"), create_index=False)
    names, columns = query_names(effect["drop"]), head_names(effect["drop"])
    limit = max(float(np.nanmax(abs(shown["drop"].values))), 1e-6)
    n = shown.sizes["edit"]
    figure = Figure(figsize=(WIDTH, 1.5 + 0.24 * len(names)))
    panels = figure.subplots(1, n, sharey=True, squeeze=False)[0]
    drawn = None
    for axes, edit in zip(panels, shown.edit.values, strict=True):
        table = shown.sel(edit=edit)
        drop = table["drop"].transpose("query", "column").values
        drawn = axes.imshow(drop, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        low = table.drop_interval.isel(bound=0).transpose("query", "column").values
        row, column = np.nonzero(low > 0)
        axes.plot(column, row, "o", color=INK, ms=2.6, mec=PAPER, mew=0.5)
        axes.set_title(str(edit), loc="left")
        axes.set_xticks(range(len(columns)), [name.rpartition(" ")[2] for name in columns])
        axes.tick_params(length=0)
        axes.spines["bottom"].set_visible(False)
    panels[0].set_yticks(range(len(names)), [shortened(name, 20) for name in names])
    figure.supxlabel("Head", size=10)
    if drawn is not None:
        finish_bar(figure.colorbar(drawn, ax=list(panels), shrink=0.8, aspect=40), "Drop in r")
    return figure


@styled
def plot_head_overlap(overlap: xr.Dataset) -> Figure:
    """Draw how far every two sets of important heads overlap.

    Parameters
    ----------
    overlap : Dataset
        Of :func:`neuroattn.analyses.head_overlap`. A dot marks pairs with p < .05, one pair at a time.

    Returns
    -------
    Figure

    Examples
    --------
    >>> pairs = ("set", "other")
    >>> overlap = xr.Dataset(
    ...     {"jaccard": (pairs, [[np.nan, 1.0], [1.0, np.nan]]), "p": (pairs, [[np.nan, 0.2], [0.2, np.nan]]),
    ...      "mean_jaccard": 1.0, "mean_expected": 0.4, "mean_p": 0.2},
    ...     {"set": ["V1", "FFA"], "other": ["V1", "FFA"]})
    >>> plot_head_overlap(overlap).get_suptitle()
    'Mean 1.00, by chance 0.40 (p = 0.2)'
    """
    from matplotlib.figure import Figure

    names = [shortened(str(name), 20) for name in overlap["set"].values]
    side = max(0.15 * len(names), 1.5)
    figure = Figure(figsize=(max(WIDTH, 2.0 + side), 1.4 + side))
    axes = figure.add_subplot()
    drawn = axes.imshow(overlap.jaccard.values, cmap="magma_r", vmin=0, vmax=1)
    row, column = np.nonzero(overlap.p.values < 0.05)
    axes.plot(column, row, ".", color=MODEL_COLOURS[1], ms=4, mew=0)
    axes.set_yticks(range(len(names)), names, size=8)
    axes.set_xticks(range(len(names)), names, size=8, rotation=90)
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    mean, chance, p = (float(overlap[f"mean_{name}"]) for name in ("jaccard", "expected", "p"))
    figure.suptitle(f"Mean {mean:.2f}, by chance {chance:.2f} (p = {p:.2g})", size=10)
    finish_bar(figure.colorbar(drawn, ax=axes, shrink=0.5), "Shared heads / heads in either set")
    return figure
