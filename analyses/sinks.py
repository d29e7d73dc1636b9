"""Tokens that draw attention whatever the image shows: in a backbone, and in what a brain encoder's regions read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from neuroattn._backbones import Backbone
from neuroattn._checks import check_range, check_seed, check_shape
from neuroattn.analyses.backbone_attention import (
    block_names,
    describe_blocks,
    mean_over_stimuli,
    prepare,
    token_coords,
)
from neuroattn.analyses.figures import query_names
from neuroattn.analyses.reading import (
    N_RESAMPLES,
    N_SHUFFLES,
    other_rows,
    query_coords,
    read_encoder,
    units_of_queries,
)
from neuroattn.analyses.style import INK, MODEL_COLOURS, MUTED, RULE, WIDTH, label_rows, styled
from neuroattn.encoding import BrainEncoder
from neuroattn.encoding.networks import AttentionNetwork
from neuroattn.metrics import bootstrap_correlation, pearson_r
from neuroattn.results import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def backbone_sinks(
    backbone: Backbone,
    images: NDArray[np.uint8],
    *,
    deviations: float = 3.0,
    multiple: float = 5.0,
    frequency: float = 0.5,
    seed: int = 0,
) -> xr.Dataset:
    """Find the attention sinks of a vision transformer: tokens that draw attention or have an outlying norm anyway.

    A token of a block is an outlier of an image if the norm of what leaves the block exceeds the mean of all patches of
    all images by some standard deviations [1]_, and it draws attention if its weight, averaged over heads and queries,
    exceeds a multiple of the uniform share. A place that does either in enough of the images is a sink of this block; a
    run of blocks in which it stays one is one sink. It is *secondary* if the run begins after the first block and ends
    before the last one [3]_, else *primary*.

    Parameters
    ----------
    backbone : Backbone
        A vision transformer, as for :func:`self_attention`.
    images : uint8 array, shape (stimulus, y, x, 3)
        At least two. Two passes are made over them.
    deviations : float, default 3.0
        Standard deviations of the norms of a block's patches.
    multiple : float, default 5.0
        Of the uniform share; our choice, as no paper gives one for image tokens.
    frequency : float, default 0.5
        Share of the images that makes a place constant; our choice.
    seed : int, default 0
        Of the resamples.

    Returns
    -------
    Dataset, dims (layer, token, sink, bound)
        Coordinates ``kind``, ``y`` and ``x`` along ``token``, as of :func:`self_attention`.

        - ``incoming`` (layer, token): mean weight that a token draws, as a multiple of the uniform share;
        - ``norm`` (layer, token): mean norm of what leaves the block;
        - ``draws`` and ``outlies`` (layer, token): share of the images in which it draws attention, or is an outlier;
        - ``outliers`` (layer): patches an image that are outliers, wherever they lie, and ``outlier_weight`` (layer),
          the attention that falls on them as a share of all; patches that change places are seen here only;
        - of each sink: ``place``, its token; ``role``, "primary" or "secondary"; ``first`` and ``last``, numbers of its
          blocks; ``weight``, its ``incoming`` averaged over them, with ``weight_interval``, the 95 % interval over
          stimuli;
        - ``alignment`` (sink): mean cosine between its features and the direction of the primary sinks of the same
          block, which is their mean unit vector over the *other* images; beside it the control ``alignment_others``,
          the same of patches that are no sink. NaN where no primary sink is.

    Raises
    ------
    ValueError
        If there are fewer than two images, or the network's attention cannot be read.

    References
    ----------
    .. [1] Darcet, Oquab, Mairal & Bojanowski (2024). Vision transformers need registers. ICLR.
    .. [2] Kang, Kim, Kim & Hwang (2025). See what you are told: visual attention sink in large multimodal models. ICLR.
    .. [3] Wong et al. (2025). On the existence and behavior of secondary attention sinks. arXiv:2512.22213. There,
       of language models and the first token; the rule on runs of blocks is ours.

    Examples
    --------
    >>> from neuroattn.encoding import load_backbone
    >>> backbone = load_backbone("test_vit", weights="random")
    >>> images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    >>> sinks = backbone_sinks(backbone, images)
    >>> dict(sinks.incoming.sizes), round(float(sinks.incoming.mean()), 3)
    ({'layer': 6, 'token': 17}, 1.0)
    """
    check_range("deviations", deviations, 0)
    check_range("multiple", multiple, 0)
    check_range("frequency", frequency, 0, 1)
    check_seed(seed)
    check_range("number of images", len(images), 2)
    names = block_names(backbone)
    incoming, norm = np.moveaxis(describe_blocks(backbone, prepare(backbone, images), _draw_and_norm), 2, 0)
    coords = token_coords(backbone, images, "token")
    patch = coords["kind"][1] == "patch"
    level = norm[..., patch].mean((0, 2)) + deviations * norm[..., patch].std((0, 2))
    outlies, draws = norm > level[:, None], incoming > multiple
    constant = np.maximum(outlies.mean(0), draws.mean(0)) >= frequency
    runs = _runs(constant)
    last = len(names) - 1
    primary = np.zeros_like(constant)
    for token, first, end in runs:
        primary[first : end + 1, token] = first == 0 or end == last
    own, others = _alignments(backbone, images, primary, ~constant & patch)

    drawn = [incoming[:, first : end + 1, token].mean(1) for token, first, end in runs]
    drawn.append(incoming.mean((1, 2)))  # there may be no sink
    weight = mean_over_stimuli(xr.DataArray(np.stack(drawn, 1), dims=("stimulus", "sink")), seed)
    weight = weight.isel(sink=slice(len(runs)))
    out = outlies & patch
    config = {"deviations": deviations, "multiple": multiple, "frequency": frequency, **backbone.config}
    return xr.Dataset(
        {
            "incoming": (("layer", "token"), incoming.mean(0), {"units": "uniform share"}),
            "norm": (("layer", "token"), norm.mean(0)),
            "draws": (("layer", "token"), draws.mean(0)),
            "outlies": (("layer", "token"), outlies.mean(0)),
            "outliers": ("layer", out.sum(-1).mean(0), {"units": "patches"}),
            "outlier_weight": ("layer", (incoming * out).mean(-1).mean(0), {"units": "share of attention"}),
            "place": ("sink", np.array([run[0] for run in runs], dtype=int)),
            "role": (
                "sink",
                np.array(["primary" if primary[f, t] else "secondary" for t, f, _ in runs], "<U9"),
            ),
            "first": ("sink", np.array([run[1] for run in runs], dtype=int)),
            "last": ("sink", np.array([run[2] for run in runs], dtype=int)),
            "weight": weight["mean"].assign_attrs(units="uniform share"),
            "weight_interval": weight["interval"],
            "alignment": ("sink", [_mean_known(own[f : e + 1, t]) for t, f, e in runs]),
            "alignment_others": ("sink", [_mean_known(others[f : e + 1]) for _, f, e in runs]),
        },
        coords={"layer": names, **coords},
        attrs=provenance(seed, config) | {"resampled": "stimulus", "n_stimuli": len(images)},
    )


def attention_sinks(
    encoder: BrainEncoder,
    X: Any,
    y: ArrayLike,
    *,
    deviations: float = 3.0,
    n_random: int = 20,
    seed: int = 0,
) -> xr.Dataset:
    """Measure how much of each region's attention lies on outlier tokens, and what the region loses without them.

    Outliers are tokens whose norm exceeds the mean of all tokens by some standard deviations; in large vision
    transformers these carry little of the place they stand at [1]_. They are then hidden from the regions' queries: the
    map is edited inside the encoder, so that the weight of the hidden tokens goes to the others in proportion, in the
    manner of visual attention redistribution [2]_, and responses are predicted again. The features stay as they are.
    Two controls hide other tokens: as many of each image at random, and those that are outliers of another image. A
    gain beyond them says that the outliers misled the region, a loss that they were worth reading.

    Parameters
    ----------
    encoder : BrainEncoder
        Fitted on features of one layer, with ``readout="roi"`` or ``"hemisphere"``.
    X : array or FeatureStore, shape (stimulus, channel, y, x), or images with a backbone
        Held-out stimuli; their features are held in memory.
    y : array, shape (stimulus, unit)
        Held-out responses.
    deviations : float, default 3.0
    n_random : int, default 20
        Random masks to average over.
    seed : int, default 0
        Of masks and resamples.

    Returns
    -------
    Dataset, dims (mask, control, query, bound, stimulus, y, x)
        ``mask`` is "outliers", "random" or "shuffled", ``control`` one of the latter two. Coordinates ``roi`` and
        ``hemisphere`` along ``query``.

        - ``outlier`` (stimulus, y, x): the outlier tokens; ``area``: their share of all tokens;
        - ``share`` (mask, query): mean share of a query's map on the tokens of a mask;
        - ``correlation`` (query): mean over units of Pearson's r of the encoder as it is;
        - ``change`` (mask, query): mean r with the tokens of a mask hidden minus r of the encoder as it is; a
          prediction that is constant has r = 0;
        - ``excess`` (control, query): the change by outliers minus that by the control;
        - ``share_interval``, ``change_interval`` and ``excess_interval``, with ``bound``: 95 % intervals over resamples
          of stimuli, for these fitted weights and masks.

        NaN for queries without a unit whose r is a number.

    Raises
    ------
    ValueError
        If the encoder has one query a unit or mixes layers, or all tokens of an image are outliers.

    Notes
    -----
    Differs from [2]_, which redistributes in heads that look at the image and leaves the hidden tokens a share: here
    all heads are edited and the whole weight is moved. Self-attention between tokens before the queries read them
    (``encoder_layers``) is not edited.

    References
    ----------
    .. [1] Darcet, Oquab, Mairal & Bojanowski (2024). Vision transformers need registers. ICLR.
    .. [2] Kang, Kim, Kim & Hwang (2025). See what you are told: visual attention sink in large multimodal models. ICLR.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> encoder = BrainEncoder({"V1": np.arange(6) < 4, "FFA": np.arange(6) > 2}, epochs=1, heads=2).fit(X, y)
    >>> X[:, :, 1, 2] = 9
    >>> sinks = attention_sinks(encoder, X, y, n_random=2)
    >>> sinks.roi.values.tolist(), round(float(sinks.area), 3)
    (['V1', 'FFA'], 0.067)
    """
    check_range("deviations", deviations, 0)
    check_range("n_random", n_random, 1)
    rng = check_seed(seed)
    reader, features = read_encoder(encoder, X)
    n, grid = len(features), features.shape[2:]
    network = encoder.network_
    if not isinstance(network, AttentionNetwork):
        raise TypeError(f"encoder must be a BrainEncoder, got {type(encoder).__name__}")
    reads = units_of_queries(encoder)
    check_range("number of stimuli", n, 2)
    measured = np.asarray(y, dtype=np.float32)
    check_shape("y", measured, n, encoder.n_units_)

    norm = np.linalg.norm(features.reshape(*features.shape[:2], -1).astype(np.float64), axis=1)
    outlier = norm > norm.mean() + deviations * norm.std()
    maps = reader.attention(features).values.reshape(n, len(reads), -1)
    # Random tokens are the first ones of a random order, as many as the image has outliers.
    orders = [rng.random(outlier.shape).argsort(-1).argsort(-1) for _ in range(n_random)]
    masks = {
        "outliers": [outlier],
        "random": [order < outlier.sum(-1, keepdims=True) for order in orders],
        "shuffled": [outlier[other_rows(n, rng)] for _ in range(N_SHUFFLES)],
    }
    resampling = int(rng.integers(2**32))

    intact = reader.predict(features)
    known = np.isfinite(pearson_r(measured, intact))
    members = [np.flatnonzero(mask & known) for mask in reads]

    def score(predicted: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """Return r (query,) and resampled r (resample, query), where a constant prediction has r = 0."""
        r = pearson_r(measured, predicted)
        drawn = bootstrap_correlation(measured, predicted, n_resamples=N_RESAMPLES, seed=resampling)
        return _by_query(np.nan_to_num(r), members), _by_query(np.nan_to_num(drawn), members)

    correlation, resampled = score(intact)
    share = np.zeros((len(masks), *maps.shape[:2]))
    change = np.zeros((len(masks), len(members)))
    changes = np.zeros((len(masks), N_RESAMPLES, len(members)))
    for m, drawn in enumerate(masks.values()):
        for hidden in drawn:
            with hidden_tokens(network, hidden):
                r, r_drawn = score(reader.predict(features))
            share[m] += (maps * hidden[:, None]).sum(-1) / len(drawn)
            change[m] += (r - correlation) / len(drawn)
            changes[m] += (r_drawn - resampled) / len(drawn)
    shares = mean_over_stimuli(xr.DataArray(share, dims=("mask", "stimulus", "query")), seed)
    result = xr.Dataset(
        {
            "outlier": (("stimulus", "y", "x"), outlier.reshape(n, *grid)),
            "area": outlier.mean(),
            "share": shares["mean"].assign_attrs(units="share of attention"),
            "share_interval": shares["interval"],
            "correlation": ("query", correlation),
            "change": (("mask", "query"), change),
            "change_interval": (("mask", "query", "bound"), _interval(changes)),
            "excess": (("control", "query"), change[0] - change[1:]),
            "excess_interval": (("control", "query", "bound"), _interval(changes[0] - changes[1:])),
        },
        coords={
            "mask": list(masks),
            "control": list(masks)[1:],
            **query_coords(encoder),
        },
    )
    config = {"deviations": deviations, "n_random": n_random, "n_shuffles": N_SHUFFLES}
    return result.assign_attrs(resampled="stimulus", **provenance(seed, config))


@contextlib.contextmanager
def hidden_tokens(network: AttentionNetwork, hidden: Bools) -> Iterator[None]:
    """Hide tokens from the queries of an encoder; their weight goes to the others in proportion.

    Within the context the network must read the stimuli once, in order.

    Parameters
    ----------
    network : AttentionNetwork
        Of one feature layer.
    hidden : bool array, shape (stimulus, token)

    Raises
    ------
    ValueError
        If a stimulus has no other token.

    Examples
    --------
    >>> network = AttentionNetwork(8, 5, torch.ones(2, 5, dtype=torch.bool), heads=2)
    >>> with hidden_tokens(network, np.arange(9)[None] < 4):
    ...     seen = network(torch.zeros(1, 8, 3, 3), return_attention=True).attention
    >>> (seen[0, 0, 0] > 0).tolist()
    [False, False, False, False, True, True, True, True, True]
    """
    if hidden.all(-1).any():
        raise ValueError(
            f"hidden must leave a token of every stimulus, got none of stimulus {hidden.all(-1).argmax()}"
        )
    visible = torch.from_numpy(~hidden)
    read = [0] * len(network.layers)  # stimuli that each decoder layer has seen

    def hook(layer: int) -> Any:
        def hide(module: nn.Module, args: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            tokens: Tensor = args[1]
            rows = visible[read[layer] : read[layer] + len(tokens)]
            read[layer] += len(tokens)
            return args, {**named, "key_mask": rows.to(tokens.device)}

        return hide

    handles = [
        decoder.get_submodule("attention").register_forward_pre_hook(hook(i), with_kwargs=True)
        for i, decoder in enumerate(network.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@styled
def plot_backbone_sinks(result: xr.Dataset) -> Figure:
    """Draw the attention that each sink of a backbone draws, block by block, above that of all other tokens.

    Parameters
    ----------
    result : Dataset
        Of :func:`backbone_sinks`. Lines are solid while the token is a sink. The grey area holds the tokens that
        never are.

    Returns
    -------
    Figure

    Examples
    --------
    >>> from neuroattn.encoding import load_backbone
    >>> images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    >>> sinks = backbone_sinks(load_backbone("test_vit", weights="random"), images, multiple=1.1)
    >>> plot_backbone_sinks(sinks).axes[0].get_xlabel()
    'Block'
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.0))
    axes = figure.add_subplot()
    block = np.arange(result.sizes["layer"])
    other = np.setdiff1d(np.arange(result.sizes["token"]), result.place)
    quiet = result.incoming.isel(token=other)
    axes.fill_between(block, quiet.min("token"), quiet.max("token"), color=RULE, lw=0, label="other tokens")
    styles = {"primary": MODEL_COLOURS[0], "secondary": MODEL_COLOURS[1]}
    labelled: set[str] = set()
    for i in range(result.sizes["sink"]):
        sink = result.isel(sink=i)
        role, token = str(sink.role.item()), result.isel(token=int(sink.place))
        line = token.incoming.values
        axes.plot(block, line, color=styles[role], lw=0.7, alpha=0.6)
        while_sink = slice(int(sink["first"]), int(sink["last"]) + 1)
        label = role if role not in labelled else None
        axes.plot(block[while_sink], line[while_sink], "o-", color=styles[role], lw=1.8, ms=3.5, label=label)
        labelled.add(role)
        name = str(token.kind.item())
        if name == "patch":
            name = f"patch {int(token.y)}, {int(token.x)}"
        if i < 6:
            peak = int(sink["first"]) + int(line[while_sink].argmax())
            axes.annotate(
                name,
                (peak, line[peak]),
                (0, 5),
                textcoords="offset points",
                size=8.5,
                ha="center",
                color=INK,
            )
    axes.axhline(1, color=MUTED, lw=0.7)
    axes.set_yscale("log")
    axes.grid(axis="y")
    axes.margins(x=0.06, y=0.12)
    axes.set(xlabel="Block", ylabel="Attention drawn, × uniform", xticks=block[:: max(1, len(block) // 12)])
    figure.legend(loc="outside upper left", ncols=3, columnspacing=1.2, borderaxespad=0)
    return figure


@styled
def plot_attention_sinks(result: xr.Dataset) -> Figure:
    """Draw the share of each region's map on outlier tokens, and the change of its correlation without them.

    Parameters
    ----------
    result : Dataset
        Of :func:`attention_sinks`. The grey line is the share that uniform attention gives to the outliers.

    Returns
    -------
    Figure

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> encoder = BrainEncoder({"V1": np.arange(6) < 4, "FFA": np.arange(6) > 2}, epochs=1, heads=2).fit(X, y)
    >>> figure = plot_attention_sinks(attention_sinks(encoder, X, y, n_random=2, deviations=1.5))
    >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
    ['V1', 'FFA']
    """
    from matplotlib.figure import Figure

    names = query_names(result.correlation)
    figure = Figure(figsize=(1.15 * WIDTH, 1.2 + 0.3 * len(names)))
    left, right = figure.subplots(1, 2, sharey=True)
    row = np.arange(len(names))
    looks = {
        "outliers": ("outlier tokens", MODEL_COLOURS[0], "o"),
        "shuffled": ("those of another image", MUTED, "D"),
        "random": ("random tokens", MODEL_COLOURS[1], "s"),
    }
    for axes, name in ((left, "share"), (right, "change")):
        for i, (mask, (label, colour, marker)) in enumerate(looks.items()):
            place, one = row + 0.24 * (i - 1), result.sel(mask=mask)
            axes.hlines(
                place, *one[f"{name}_interval"].transpose("bound", "query").values, color=colour, lw=1.4
            )
            axes.plot(one[name], place, marker, color=colour, ms=4.5, mew=0, label=label)
    left.axvline(float(result.area), color=MUTED, lw=0.9)
    right.axvline(0, color=MUTED, lw=0.7)
    label_rows(left, names)
    right.grid(axis="x")
    right.tick_params(axis="y", length=0)
    left.set_xlim(left=0)
    left.set_xlabel("Share of the map")
    right.set_xlabel("Change of r when hidden")
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside upper left",
        ncols=3,
        handletextpad=0.2,
        columnspacing=1.2,
        borderaxespad=0,
    )
    return figure


def _draw_and_norm(block: int, weights: Tensor, tokens: Tensor) -> Tensor:
    """Return incoming attention, as a multiple of the uniform share, and norm (2, token)."""
    return torch.stack([weights.double().mean((0, 1)) * weights.shape[-1], tokens.double().norm(dim=-1)])


def _runs(constant: Bools) -> list[tuple[int, int, int]]:
    """Return (token, first block, last block) of the longest runs of blocks in which a token is a sink (block, token).

    Examples
    --------
    >>> _runs(np.array([[True, False], [False, True], [True, True]]))
    [(0, 0, 0), (0, 2, 2), (1, 1, 2)]
    """
    edges = np.diff(np.pad(constant.astype(int), ((1, 1), (0, 0))), axis=0)
    return [
        (int(token), int(first), int(end) - 1)
        for token in np.flatnonzero(constant.any(0))
        for first, end in zip(
            np.flatnonzero(edges[:, token] == 1), np.flatnonzero(edges[:, token] == -1), strict=True
        )
    ]


def _alignments(
    backbone: Backbone, images: NDArray[np.uint8], primary: Bools, quiet: Bools
) -> tuple[Floats, Floats]:
    """Return cosines with the direction of the primary sinks over other images, of tokens (block, token) and the rest.

    A cosine is a product of unit vectors, so that the quiet tokens enter by their mean unit vector alone.
    """
    n_blocks, n_tokens = primary.shape
    sinks = np.flatnonzero(~quiet.all(0))

    def directions(block: int, weights: Tensor, tokens: Tensor) -> Tensor:
        unit = nn.functional.normalize(tokens.double(), dim=-1).cpu()
        sums = [unit[torch.from_numpy(which[block])].sum(0, keepdim=True) for which in (primary, quiet)]
        return torch.cat([*sums, unit[torch.from_numpy(sinks)]])

    found = describe_blocks(
        backbone, prepare(backbone, images), directions
    )  # (stimulus, block, 2 + sink, channel)
    own, others = np.full((n_blocks, n_tokens), np.nan), np.full(n_blocks, np.nan)
    for block in np.flatnonzero(primary.any(1)):
        direction, rest, features = found[:, block, 0], found[:, block, 1], found[:, block, 2:]
        elsewhere = direction.sum(0) - direction
        elsewhere /= np.linalg.norm(elsewhere, axis=-1, keepdims=True)
        own[block, sinks] = np.einsum("isc,ic->s", features, elsewhere) / len(found)
        others[block] = np.einsum("ic,ic->", rest, elsewhere) / len(found) / max(quiet[block].sum(), 1)
    return own, others


def _mean_known(values: Floats) -> float:
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else np.nan


def _by_query(values: NDArray[Any], members: list[NDArray[np.intp]]) -> Floats:
    """Average the units (..., unit) of each query; NaN for one without units."""
    return np.stack(
        [
            values[..., m].mean(-1, dtype=float) if len(m) else np.full(values.shape[:-1], np.nan)
            for m in members
        ],
        -1,
    )


def _interval(draws: Floats) -> Floats:
    """Return 95 % percentiles (..., query, bound) of draws (..., resample, query)."""
    return np.moveaxis(np.percentile(draws, [2.5, 97.5], axis=-2), 0, -1)
