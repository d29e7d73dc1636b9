"""Does a map show what moves a prediction? Attention beside gradients, and beside what masking does."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import stats
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from neuroattn._checks import check_range, check_seed
from neuroattn.analyses.dots import Dots, draw_dots
from neuroattn.analyses.figures import query_names
from neuroattn.analyses.reading import N_SHUFFLES, other_rows, query_coords, read_encoder, units_of_queries
from neuroattn.analyses.style import WIDTH, styled
from neuroattn.encoding import BrainEncoder
from neuroattn.encoding.network_encoders import resolve_device
from neuroattn.encoding.networks import EncoderNetwork
from neuroattn.metrics import crossed_bootstrap
from neuroattn.results import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SALIENCIES = ("gradient", "integrated")
RANKINGS = ("attention", *SALIENCIES, "other image", "random")
_CHANGES = ("deletion", "insertion")
_STATISTICS = ("spearman", "overlap")
_AT_ONCE = 128  # masked stimuli in one pass


def saliency_maps(encoder: BrainEncoder, X: Any, *, n_steps: int = 32) -> xr.DataArray:
    """Attribute the mean prediction of each region to the tokens of an image.

    Gradient x input is ``sum_c df/dx_c (x_c - b_c)`` for every token, with f the mean predicted response of the units
    that read a query and b the mean token of training; integrated gradients [1]_ average the gradient over the straight
    way from an image of nothing but mean tokens. The latter sum over tokens to ``f(x) - f(b)``.

    Parameters
    ----------
    encoder : BrainEncoder
        Fitted, with ``readout="roi"`` or ``"hemisphere"``.
    X : array or FeatureStore, shape (stimulus, channel, y, x), or images with a backbone
        Held in memory.
    n_steps : int, default 32
        Gauss-Legendre points of the way.

    Returns
    -------
    DataArray, dims (saliency, stimulus, query, y, x)
        Signed, in units of the responses; "gradient" and "integrated" along ``saliency``, coordinates ``roi`` and
        ``hemisphere`` along ``query``. Units of several regions bring in what these look at, too.

    Raises
    ------
    ValueError
        If the encoder has one query a unit, or mixes layers.

    References
    ----------
    .. [1] Sundararajan, Taly & Yan (2017). Axiomatic attribution for deep networks. ICML.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> encoder = BrainEncoder({"V1": np.arange(6) < 4, "FFA": np.arange(6) > 2}, epochs=1, heads=2).fit(X, y)
    >>> maps = saliency_maps(encoder, X[:2])
    >>> dict(maps.sizes)
    {'saliency': 2, 'stimulus': 2, 'query': 2, 'y': 3, 'x': 5}
    >>> blank = np.broadcast_to(encoder.network_.input_mean.numpy()[:, None, None], X[:2].shape)
    >>> change = (encoder.predict(X[:2]) - encoder.predict(blank))[:, :4].mean(1)
    >>> np.allclose(maps.sel(saliency="integrated").isel(query=0).sum(("y", "x")), change, atol=0.05)
    True
    """
    check_range("n_steps", n_steps, 1)
    features, mean_of_units = _prepare(encoder, X)
    n, _, *grid = features.shape
    device = resolve_device(encoder.device)
    network = encoder.network_.to(device)
    baseline = network.input_mean[:, None, None]
    places, weights = np.polynomial.legendre.leggauss(n_steps)
    # What a point of the way adds to each saliency: its end is the image itself.
    points = [(1.0, (1.0, 0.0)), *((0.5 + p / 2, (0.0, w / 2)) for p, w in zip(places, weights, strict=True))]
    n_queries = len(encoder.queries_)
    out = np.zeros((len(SALIENCIES), n, n_queries, *grid), np.float32)
    for start in range(0, n, encoder.batch_size):
        rows = slice(start, start + encoder.batch_size)
        away = torch.tensor(features[rows], dtype=torch.float32, device=device) - baseline
        for place, shares in points:
            at = (baseline + place * away).requires_grad_()
            means = mean_of_units(network, at)
            for q in range(n_queries):
                (gradient,) = torch.autograd.grad(means[:, q].sum(), at, retain_graph=q + 1 < n_queries)
                attributed = (gradient * away).sum(1).cpu().numpy()
                for s, share in enumerate(shares):
                    out[s, rows, q] += share * attributed
    encoder.network_.cpu()
    return xr.DataArray(
        out,
        dims=("saliency", "stimulus", "query", "y", "x"),
        coords={
            "saliency": list(SALIENCIES),
            **query_coords(encoder),
        },
        name="attribution",
        attrs={"units": "units of the responses", **provenance(encoder.seed, {"n_steps": n_steps})},
    )


def map_saliency(
    encoder: BrainEncoder,
    X: Any,
    *,
    others: Sequence[BrainEncoder] = (),
    n_steps: int = 32,
    top: float = 0.1,
    fractions: Sequence[float] = (0.05, 0.1, 0.2, 0.4, 0.7),
    n_random: int = 5,
    seed: int = 0,
) -> xr.Dataset:
    """Compare attention maps with what moves the mean prediction of each region.

    A map explains routing, not features: it says from where a query reads, not what it makes of what is there. How far
    it agrees with saliency, which follows the prediction through the whole network, is therefore measured and not
    assumed [1]_, [2]_, beside the agreement of other images and other seeds. Differs from the second paper, on speech,
    in that both are compared by ranks over tokens, and in the curves, which are those of [3]_ for a number instead of a
    class.

    Parameters
    ----------
    encoder : BrainEncoder
        Fitted, with ``readout="roi"`` or ``"hemisphere"``.
    X : array or FeatureStore, shape (stimulus, channel, y, x), or images with a backbone
        Held-out stimuli, at least 2; their features are held in memory.
    others : sequence of BrainEncoder
        The same model fitted with other seeds.
    n_steps : int, default 32
        Of :func:`saliency_maps`.
    top : float, default 0.1
        Share of the tokens, at least one, whose overlap is counted.
    fractions : sequence of float, default (0.05, 0.1, 0.2, 0.4, 0.7)
        Shares of the tokens to delete or insert, increasing.
    n_random : int, default 5
        Random orders to average over; maps of other images are drawn 5 times for agreement and once for curves.
    seed : int, default 0
        Of masks and resamples. Ties are broken at random.

    Returns
    -------
    Dataset, dims (statistic, head, saliency, source, change, ranking, control, fraction, query, bound)
        Saliency counts by its size, whatever its sign. Coordinates ``roi`` and ``hemisphere`` along ``query``.

        - ``agreement`` (statistic, head, saliency, query): mean over stimuli of Spearman's correlation over tokens
          ("spearman") and of the share that the top tokens have in common ("overlap"; ``top`` by chance), for the map
          of each head, "1" to the last, and their "mean";
        - ``agreement_shuffled``: the same with the map of another image, which keeps what all images share;
          ``agreement_excess``: the difference;
        - ``agreement_across`` (statistic, head, saliency, query): of the map of one seed with the saliency of the
          others, which leaves out what is true of one set of weights only, not of the region;
        - ``between_seeds`` (statistic, source, query): agreement between seeds of the mean maps ("attention") and of
          each saliency, averaged over pairs of seeds; ``ceiling`` (statistic, saliency, query): the geometric mean of
          that of the maps and that of the saliency, the noise ceiling of ``agreement_across``. ``agreement`` may lie
          above it, as map and saliency of one network share its weights. All NaN without ``others``;
        - ``curve`` (change, ranking, fraction, query): "deletion", the squared change of the mean prediction after the
          first tokens of a ranking are replaced by the mean token of training, and "insertion", what putting them
          back into an image of mean tokens regains of it, both as shares of the change that replacing all tokens makes;
          a good ranking is high early in both. Shares may lie outside 0 to 1, for instance where a query turns to
          something else. Rankings are the mean map, both saliencies, the map of another image, and random order;
        - ``area`` (change, ranking, query): under the curve, from no token to all; ``area_excess`` (change, ranking,
          control, query): minus that of the map of another image, and of random order;
        - ``completeness_error`` (query): root mean square error of the sum of integrated gradients, as a share of that
          of the change it should sum to; large values ask for more ``n_steps``;
        - ``agreement_interval``, ``agreement_across_interval``, ``agreement_excess_interval``,
          ``between_seeds_interval``, ``area_interval``, ``area_excess_interval``, with ``bound``: 95 % over 1,000
          resamples of stimuli, for these fitted weights.

    Raises
    ------
    ValueError
        If the encoder has one query a unit or mixes layers, or the others have other queries.

    References
    ----------
    .. [1] Jain & Wallace (2019). Attention is not explanation. NAACL.
    .. [2] Papi, Fucci, Gaido, Negri & Bentivogli (2025). Cross-attention is half explanation in speech-to-text models.
       arXiv:2509.18010.
    .. [3] Petsiuk, Das & Saenko (2018). RISE: randomized input sampling for explanation of black-box models. BMVC.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> encoder = BrainEncoder({"V1": np.arange(6) < 4, "FFA": np.arange(6) > 2}, epochs=1, heads=2).fit(X, y)
    >>> result = map_saliency(encoder, X[:6], n_random=2)
    >>> result["head"].values.tolist(), dict(result.area.sizes)
    (['mean', '1', '2'], {'change': 2, 'ranking': 5, 'query': 2})
    """
    check_range("top", top, 0, 1)
    check_range("n_random", n_random, 1)
    check_range("number of fractions", len(fractions), 1)
    for fraction in fractions:
        check_range("fractions", fraction, 0, 1)
    if list(fractions) != sorted(set(fractions)):
        raise ValueError(f"fractions must increase, got {list(fractions)}")
    rng = check_seed(seed)
    features, mean_of_units = _prepare(encoder, X)
    n, n_tokens = len(features), int(np.prod(features.shape[2:]))
    check_range("number of stimuli", n, 2)
    for i, other in enumerate(others):
        check_is_fitted(other)
        if not other.queries_.equals(encoder.queries_):
            own, given = encoder.queries_["roi"].tolist(), other.queries_["roi"].tolist()
            raise ValueError(f"others[{i}] must have the queries of encoder, {own}, got {given}")
    evidence = [_evidence(one, features, n_steps) for one in (encoder, *others)]
    count = max(1, round(top * n_tokens))
    shuffles = [other_rows(n, rng) for _ in range(N_SHUFFLES)]
    maps = _ranked(evidence[0].maps, count, rng)
    found = _ranked(abs(evidence[0].saliency), count, rng)
    labels = query_coords(encoder)
    heads = ["mean", *(str(i + 1) for i in range(len(evidence[0].maps) - 1))]

    def labelled(values: Any, *dims: str, **coords: Any) -> xr.DataArray:
        return xr.DataArray(values, dims=dims, coords={"stimulus": np.arange(n), **labels, **coords})

    dims = ("statistic", "head", "saliency", "stimulus", "query")
    coords = {"statistic": list(_STATISTICS), "head": heads, "saliency": list(SALIENCIES)}
    agreement = labelled(_alike(maps, found), *dims, **coords)
    shuffled = [_alike(_Ranked(maps.ranks[:, other], maps.top[:, other]), found) for other in shuffles]
    by_chance = labelled(np.mean(shuffled, axis=0), *dims, **coords)
    curves = _curves(
        encoder, features, mean_of_units, evidence[0], list(fractions), n_random, shuffles[0], rng
    )
    curve = labelled(
        curves.shares, "change", "ranking", "fraction", "stimulus", "query",
        change=list(_CHANGES), ranking=list(RANKINGS), fraction=curves.fractions,
    )  # fmt: skip
    area = curve.integrate("fraction")
    controls = area.sel(ranking=list(RANKINGS[3:])).rename(ranking="control")
    excess = (area - controls).transpose("change", "ranking", "control", ...)
    seeds = [_ranked(np.concatenate([one.maps[:1], abs(one.saliency)]), count, rng) for one in evidence[1:]]
    across = [_alike(maps, _Ranked(one.ranks[1:], one.top[1:])) for one in seeds]
    first = _Ranked(*(np.concatenate([m[:1], f]) for m, f in zip(maps, found, strict=True)))
    pairs = [_paired(a, b) for a, b in itertools.combinations([first, *seeds], 2)]
    sources = {"statistic": list(_STATISTICS), "source": ["attention", *SALIENCIES]}
    summed = evidence[0].saliency[1].sum(-1)
    result = xr.Dataset(
        {
            "agreement_shuffled": by_chance.mean("stimulus"),
            "curve": curve.isel(fraction=slice(1, -1)).mean("stimulus"),
            "completeness_error": ("query", np.sqrt(((summed - curves.change) ** 2).mean(0)) / curves.unit),
        }
    )
    for name, values in {
        "agreement": agreement,
        "agreement_excess": agreement - by_chance,
        "agreement_across": labelled(_mean_of(across, agreement.shape), *dims, **coords),
        "between_seeds": labelled(
            _mean_of(pairs, (2, 3, *agreement.shape[3:])), "statistic", "source", *dims[3:], **sources
        ),
        "area": area,
        "area_excess": excess,
    }.items():
        summary = crossed_bootstrap(values, units=("stimulus",), seed=seed)
        result[name] = summary["mean"]
        result[f"{name}_interval"] = summary["interval"].transpose(..., "bound")
    between = result["between_seeds"].clip(min=0)
    of_maps, of_saliency = between.sel(source="attention", drop=True), between.sel(source=list(SALIENCIES))
    result["ceiling"] = np.sqrt(of_maps * of_saliency.rename(source="saliency"))
    config = {"n_steps": n_steps, "top": top, "fractions": list(fractions), "n_random": n_random}
    config |= {"seeds": [one.seed for one in (encoder, *others)]}
    return result.assign_attrs(
        resampled="stimulus", note="a map explains routing, not features", **provenance(seed, config)
    )


class _Evidence(NamedTuple):
    maps: NDArray[np.float32]  # (map, stimulus, query, token): the mean of heads, then each
    saliency: NDArray[np.float32]  # (saliency, stimulus, query, token), signed


class _Ranked(NamedTuple):
    ranks: NDArray[np.float32]  # of unit length and mean zero over tokens; NaN where all are equal
    top: NDArray[np.float32]  # of length one over the first tokens: products sum to the share in common


class _Curves(NamedTuple):
    shares: NDArray[np.float64]  # (change, ranking, fraction, stimulus, query), with both ends
    fractions: list[float]
    change: NDArray[np.float32]  # (stimulus, query): of the mean prediction, by replacing all tokens
    unit: NDArray[np.float64]  # (query,): its root mean square


MeanOfUnits = Callable[[EncoderNetwork, Tensor], Tensor]
"""Returns the mean prediction of the units of each query (batch, query), up to a constant."""


def _prepare(encoder: BrainEncoder, X: Any) -> tuple[NDArray[np.float32], MeanOfUnits]:
    """Return features in memory, and what is to be explained."""
    _, features = read_encoder(encoder, X)
    reads = torch.from_numpy(units_of_queries(encoder))
    share = reads / reads.sum(1, keepdim=True) * torch.from_numpy(encoder.target_scale_)

    def mean_of_units(network: EncoderNetwork, tokens: Tensor) -> Tensor:
        predicted: Tensor = network(tokens)
        return predicted @ share.T.to(predicted)

    return features, mean_of_units


def _evidence(encoder: BrainEncoder, features: NDArray[Any], n_steps: int) -> _Evidence:
    """Return attention maps and saliency of all queries."""
    reader = copy.copy(encoder)
    reader.backbone = None  # the features are there
    maps = reader.attention(features, per_head=True).transpose("head", "stimulus", "query", "y", "x").values
    saliency = saliency_maps(reader, features, n_steps=n_steps).values
    heads, saliency = (one.reshape(*one.shape[:3], -1) for one in (maps, saliency))
    return _Evidence(np.concatenate([heads.mean(0, keepdims=True), heads]), saliency)


def _ranked(values: NDArray[Any], count: int, rng: np.random.Generator) -> _Ranked:
    """Prepare maps (..., token) for comparison."""
    ranks = stats.rankdata(values, axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    length = np.linalg.norm(ranks, axis=-1, keepdims=True)
    ranks = np.divide(ranks, length, out=np.full_like(ranks, np.nan), where=length > 0)
    top = np.zeros(values.shape, np.float32)
    np.put_along_axis(top, _order(values, rng)[..., :count], count**-0.5, axis=-1)
    return _Ranked(ranks.astype(np.float32), top)


def _order(values: NDArray[Any], rng: np.random.Generator) -> NDArray[np.intp]:
    """Return tokens by falling value, ties in random order."""
    return np.lexsort((rng.random(values.shape), -values), axis=-1)


def _alike(a: _Ranked, b: _Ranked) -> NDArray[np.float32]:
    """Compare all maps a (map, ...) with all maps b (saliency, ...), (statistic, map, saliency, stimulus, query)."""
    return np.stack([np.einsum("asqt,bsqt->absq", x, y) for x, y in zip(a, b, strict=True)])


def _paired(a: _Ranked, b: _Ranked) -> NDArray[np.float32]:
    """Compare each map of a with the same map of b, (statistic, source, stimulus, query)."""
    return np.stack([np.einsum("asqt,asqt->asq", x, y) for x, y in zip(a, b, strict=True)])


def _mean_of(values: list[NDArray[np.float32]], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Average over pairs of seeds; NaN without any."""
    return np.asarray(np.mean(values, axis=0)) if values else np.full(shape, np.nan, np.float32)


def _curves(
    encoder: BrainEncoder,
    features: NDArray[Any],
    mean_of_units: MeanOfUnits,
    evidence: _Evidence,
    fractions: list[float],
    n_random: int,
    other: NDArray[np.intp],
    rng: np.random.Generator,
) -> _Curves:
    """Delete and insert tokens by each ranking, and follow the mean prediction."""
    n, n_queries, n_tokens = evidence.maps.shape[1:]
    by_query, columns = np.repeat(np.arange(n), n_queries), np.arange(n_queries)

    def means(masked: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return mean predictions (stimulus, query) with tokens replaced, (stimulus, [query,] token)."""
        if masked.ndim == 2:
            return _masked_means(encoder, features, mean_of_units, np.arange(n), masked)
        every = _masked_means(encoder, features, mean_of_units, by_query, masked.reshape(-1, n_tokens))
        return every.reshape(n, n_queries, n_queries)[:, columns, columns]

    nothing = np.zeros((n, n_tokens), bool)
    intact, blank = means(nothing), means(~nothing)
    change = intact - blank
    whole = change.astype(np.float64) ** 2
    orders = [_order(values, rng) for values in (evidence.maps[0], *abs(evidence.saliency))]
    orders.append(orders[0][other])
    # The place of each token in an order; random orders are the same for all queries.
    places = [order.argsort(-1) for order in orders]
    random = rng.random((n_random, n, n_tokens)).argsort(-1)
    counts = [max(1, round(fraction * n_tokens)) for fraction in fractions]
    shares = np.zeros((len(_CHANGES), len(RANKINGS), len(counts) + 2, *whole.shape))
    shares[:, :, -1] = whole

    def follow(place: NDArray[np.intp], count: int) -> NDArray[np.float64]:
        """Return the change by deleting, and what inserting regains, (change, stimulus, query)."""
        deleted, inserted = means(place < count), means(place >= count)
        return np.stack([(deleted - intact) ** 2, whole - (inserted - intact) ** 2])

    for f, count in enumerate(counts, start=1):
        for r, place in enumerate(places):
            shares[:, r, f] = follow(place, count)
        shares[:, -1, f] = np.mean([follow(place, count) for place in random], axis=0)
    square = whole.mean(0)
    # In units of the mean change over stimuli, so that stimuli that change little do not divide by it.
    scale = np.divide(1, square, out=np.full_like(square, np.nan), where=square > 0)
    return _Curves(shares * scale, [0.0, *(c / n_tokens for c in counts), 1.0], change, np.sqrt(1 / scale))


def _masked_means(
    encoder: BrainEncoder,
    features: NDArray[Any],
    mean_of_units: MeanOfUnits,
    rows: NDArray[np.intp],
    masked: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Return mean predictions (row, query) of rows of the features with some tokens (row, token) replaced."""
    device = resolve_device(encoder.device)
    network = encoder.network_.to(device)
    mean_token = network.input_mean[:, None, None]
    grid = features.shape[2:]
    parts = []
    with torch.no_grad():
        for start in range(0, len(rows), _AT_ONCE):
            batch = slice(start, start + _AT_ONCE)
            tokens = torch.tensor(features[rows[batch]], dtype=torch.float32, device=device)
            mask = torch.from_numpy(masked[batch]).to(device).view(-1, 1, *grid)
            parts.append(mean_of_units(network, torch.where(mask, mean_token, tokens)).cpu().numpy())
    encoder.network_.cpu()
    return np.concatenate(parts)


@styled
def plot_map_saliency(result: xr.Dataset) -> Figure:
    """Draw how far maps agree with saliency, and what the first tokens of either bring back of a prediction.

    Parameters
    ----------
    result : Dataset
        Of :func:`map_saliency`.

    Returns
    -------
    Figure
        Left, Spearman's correlation of the mean map with both saliencies, with integrated gradients also of the map of
        another image, and with those of another seed under their noise ceiling. Right, areas under insertion curves
        minus those of random order.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> encoder = BrainEncoder({"V1": np.arange(6) < 4, "FFA": np.arange(6) > 2}, epochs=1, heads=2).fit(X, y)
    >>> figure = plot_map_saliency(map_saliency(encoder, X[:4], n_random=1))
    >>> [axes.get_xlabel() for axes in figure.axes]
    ["Spearman's ρ of map and saliency", 'Insertion: area beyond random order']
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.7 * WIDTH, 1.3 + 0.3 * result.sizes["query"]))
    left, right = figure.subplots(1, 2, sharey=True)
    names = query_names(result["completeness_error"])
    agreement = result.sel(statistic="spearman", head="mean")
    series = [
        Dots(
            name,
            agreement.agreement.sel(saliency=key),
            agreement.agreement_interval.sel(saliency=key),
            colour,
        )
        for name, key, colour in (
            ("gradient × input", "gradient", 1),
            ("integrated gradients", "integrated", 0),
        )
    ]
    other = agreement.agreement_shuffled.sel(saliency="integrated")
    series.append(Dots("integrated, map of another image", other, None, 0, filled=False))
    if result.between_seeds.notnull().any():
        across = agreement.sel(saliency="integrated")
        interval = across.agreement_across_interval
        series.append(Dots("integrated, of another seed", across.agreement_across, interval, 3))
        series.append(Dots("its noise ceiling", across.ceiling, None, None))
    draw_dots(left, names, series)
    left.set_xlabel("Spearman's ρ of map and saliency")
    beyond = result.sel(change="insertion", control="random")
    series = [
        Dots(name, beyond.area_excess.sel(ranking=key), beyond.area_excess_interval.sel(ranking=key), colour)
        for name, key, colour in (("attention", "attention", 2), ("integrated gradients", "integrated", 0))
    ]
    elsewhere = beyond.area_excess.sel(ranking="other image")
    series.append(Dots("attention to another image", elsewhere, None, 2, filled=False))
    draw_dots(right, names, series)
    right.set_xlabel("Insertion: area beyond random order")
    for axes in (left, right):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), handletextpad=0.2, borderaxespad=0.2)
    return figure
