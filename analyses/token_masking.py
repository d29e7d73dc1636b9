"""Do attention maps say what a model's predictions rest on? Mask what they point at, and see what is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from neuroattn._checks import check_range, check_seed, check_shape
from neuroattn.analyses.reading import (
    N_RESAMPLES,
    N_SHUFFLES,
    other_rows,
    query_coords,
    read_encoder,
    units_of_queries,
)
from neuroattn.encoding import BrainEncoder
from neuroattn.metrics import bootstrap_correlation, pearson_r
from neuroattn.results import provenance

MASKS = ("attended", "random", "shuffled")
Scores = tuple[NDArray[Any], NDArray[Any]]


def masking_effect(
    encoder: BrainEncoder,
    X: Any,
    y: ArrayLike,
    *,
    fractions: Sequence[float] = (0.05, 0.1, 0.2),
    n_random: int = 20,
    seed: int = 0,
    attention: xr.DataArray | None = None,
) -> xr.Dataset:
    """Measure how much worse an encoder predicts each region without the tokens that the region attends to.

    On every image the tokens of highest attention are replaced by the mean token of training, for one query after the
    other, and the units that read this query are scored again. Two controls have equal area: tokens drawn at random,
    and the tokens that the same query attends to on another image. A map that is no better than random does not explain
    the predictions, however plausible it looks [1]_; a map that is no better than that of another image shows a place,
    not something seen in this image.

    Parameters
    ----------
    encoder : BrainEncoder
        Fitted, with ``readout="roi"`` or ``"hemisphere"``.
    X : array or FeatureStore, shape (stimulus, channel, y, x), or images with a backbone
        Held-out stimuli; their features are held in memory.
    y : array, shape (stimulus, unit)
        Held-out responses.
    fractions : sequence of float, default (0.05, 0.1, 0.2)
        Shares of the tokens to mask, at least one token each.
    n_random : int, default 20
        Random masks to average over; the maps of other images are drawn 5 times.
    seed : int, default 0
        Of masks and resamples. Ties within a map are broken at random.
    attention : DataArray, dims (stimulus, query, y, x), optional
        Maps to test instead of the encoder's own, with its coordinates ``roi`` and ``hemisphere``.

    Returns
    -------
    Dataset, dims (mask, control, fraction, query, bound, unit)
        Coordinates ``roi`` and ``hemisphere`` along ``query``.

        - ``correlation`` (query): mean over units of Pearson's r without a mask;
        - ``drop`` (mask, fraction, query): mean over units of r without a mask minus r with the mask "attended",
          "random" or "shuffled"; a masked prediction that is constant has r = 0;
        - ``excess`` (control, fraction, query): the attended drop minus that of the control;
        - ``mean_excess`` (control, query): averaged over fractions;
        - ``drop_interval``, ``excess_interval``, ``mean_excess_interval``, with ``bound``: 95 % percentiles over 500
          resamples of stimuli, for these fitted weights and masks;
        - ``explanatory`` (query): the interval of the mean excess over random masks lies above zero;
        - ``unit_drop`` (mask, fraction, unit): averaged over the queries that the unit reads.

        NaN for units whose r is not a number without a mask.

    Raises
    ------
    ValueError
        If the encoder has one query a unit, or maps and queries do not match.

    References
    ----------
    .. [1] Jain & Wallace (2019). Attention is not explanation. NAACL.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 8, 3, 5)).astype("f4"), rng.normal(size=(40, 6)).astype("f4")
    >>> encoder = BrainEncoder({"V1": np.arange(6) < 4, "FFA": np.arange(6) > 2}, epochs=1, heads=2).fit(X, y)
    >>> effect = masking_effect(encoder, X, y, fractions=[0.1], n_random=2)
    >>> effect.roi.values.tolist(), effect["drop"].sizes["mask"]
    (['V1', 'FFA'], 3)
    """
    check_range("n_random", n_random, 1)
    rng = check_seed(seed)
    reader, features = read_encoder(encoder, X)
    n, _, *grid = features.shape
    check_range("number of stimuli", n, 2)
    measured = np.asarray(y, dtype=np.float32)
    check_shape("y", measured, n, encoder.n_units_)
    n_tokens = grid[0] * grid[1]
    check_range("number of fractions", len(fractions), 1)
    for fraction in fractions:
        check_range("fractions", fraction, 0, 1)
    counts = [max(1, round(fraction * n_tokens)) for fraction in fractions]
    reads, labels = units_of_queries(encoder), query_coords(encoder)
    maps = reader.attention(features) if attention is None else attention
    flat = _check_maps(
        maps, n, (grid[0], grid[1]), {name: names.tolist() for name, (_, names) in labels.items()}
    )
    # Tokens by falling attention, and in random order; the first ones are masked.
    attended = np.lexsort((rng.random(flat.shape), -flat), axis=-1)
    random = list(rng.random((n_random, n, n_tokens)).argsort(-1))
    others = [other_rows(n, rng) for _ in range(N_SHUFFLES)]
    resampling = int(rng.integers(2**32))
    mean_token = encoder.network_.input_mean.numpy()

    def score(tokens: Any, units: NDArray[np.intp]) -> Scores:
        """Return r (unit,) and resampled r (resample, unit)."""
        pair = measured[:, units], reader.predict(tokens)[:, units]
        return pearson_r(*pair), bootstrap_correlation(*pair, n_resamples=N_RESAMPLES, seed=resampling)

    def masked(orders: Sequence[NDArray[np.intp]], count: int, units: NDArray[np.intp]) -> Scores:
        """Return the same with the first ``count`` tokens of each order masked, averaged over orders."""
        r, resampled = np.zeros(len(units)), np.zeros((N_RESAMPLES, len(units)), np.float32)
        for order in orders:
            scores = score(_MaskedTokens(features, order[:, :count], mean_token), units)
            # A constant prediction says nothing: r = 0.
            r += np.nan_to_num(scores[0]) / len(orders)
            resampled += np.nan_to_num(scores[1]) / len(orders)
        return r, resampled

    members = [np.flatnonzero(mask) for mask in reads]
    every_unit = np.arange(encoder.n_units_)
    intact, intact_draws = score(features, every_unit)
    known = np.isfinite(intact)
    intact_draws = np.nan_to_num(intact_draws)
    shape = (len(MASKS), len(counts), len(members))
    point, draws = np.empty(shape), np.empty((*shape, N_RESAMPLES))
    unit_drop = np.zeros((*shape[:2], encoder.n_units_))
    for f, count in enumerate(counts):
        anywhere = masked(random, count, every_unit)
        for q, units in enumerate(members):
            by_mask = [
                masked([attended[:, q]], count, units),
                (anywhere[0][units], anywhere[1][:, units]),
                masked([attended[other, q] for other in others], count, units),
            ]
            for m, (r, resampled) in enumerate(by_mask):
                drop = np.where(known[units], intact[units] - r, np.nan)
                unit_drop[m, f, units] += drop
                point[m, f, q] = mean_of(drop, known[units])
                draws[m, f, q] = mean_of(intact_draws[:, units] - resampled, known[units])
    effect = _summarize(point, draws)
    effect["correlation"] = "query", [mean_of(intact[units], known[units]) for units in members]
    effect["unit_drop"] = ("mask", "fraction", "unit"), unit_drop / reads.sum(0)
    effect.coords["fraction"] = [float(fraction) for fraction in fractions]
    effect.coords.update(labels)
    config = {"fractions": list(fractions), "n_random": n_random, "n_shuffles": N_SHUFFLES}
    return effect.assign_attrs(resampled="stimulus", **provenance(seed, config))


class _MaskedTokens:
    """Features with some tokens of each stimulus replaced, made when rows are read."""

    def __init__(
        self, features: NDArray[Any], tokens: NDArray[np.intp], replacement: NDArray[np.float32]
    ) -> None:
        self.features, self.tokens, self.replacement = features, tokens, replacement
        self.shape = features.shape

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        x = np.array(self.features[rows], dtype=np.float32)
        flat = x.reshape(*x.shape[:2], -1)
        flat[np.arange(len(x))[:, None], :, self.tokens[rows]] = self.replacement
        return x


def _check_maps(
    maps: xr.DataArray, n: int, grid: tuple[int, int], labels: dict[str, list[str]]
) -> NDArray[np.float64]:
    """Return maps (stimulus, query, token) if they are those of the queries."""
    if set(maps.dims) != {"stimulus", "query", "y", "x"}:
        raise ValueError(f"attention must have dims stimulus, query, y and x, got {maps.dims}")
    values = maps.transpose("stimulus", "query", "y", "x").values.astype(np.float64)
    check_shape("attention", values, n, len(labels["roi"]), *grid)
    for name, label in labels.items():
        if name not in maps.coords or maps[name].values.tolist() != label:
            raise ValueError(f"attention must have the coordinate {name} of the encoder's queries, {label}")
    return values.reshape(*values.shape[:2], -1)


def mean_of(values: NDArray[Any], known: NDArray[np.bool_]) -> Any:
    """Average the known units of the last axis; NaN if there are none."""
    return values[..., known].mean(-1) if known.any() else np.full(values.shape[:-1], np.nan)


def _summarize(point: NDArray[Any], draws: NDArray[Any]) -> xr.Dataset:
    """Return drops (mask, fraction, query), their excess over the controls, and intervals."""
    drop = xr.DataArray(point, dims=("mask", "fraction", "query"), coords={"mask": list(MASKS)})
    sampled = xr.DataArray(draws, dims=(*drop.dims, "resample"), coords=drop.coords)

    def excess(x: xr.DataArray) -> xr.DataArray:
        return (x.sel(mask="attended", drop=True) - x.sel(mask=list(MASKS[1:]))).rename(mask="control")

    def interval(x: xr.DataArray) -> xr.DataArray:
        bounds = x.quantile([0.025, 0.975], dim="resample").rename(quantile="bound")
        return bounds.assign_coords(bound=["low", "high"]).transpose(..., "bound")

    mean_interval = interval(excess(sampled).mean("fraction"))
    return xr.Dataset(
        {
            "drop": drop,
            "drop_interval": interval(sampled),
            "excess": excess(drop),
            "excess_interval": interval(excess(sampled)),
            "mean_excess": excess(drop).mean("fraction"),
            "mean_excess_interval": mean_interval,
            "explanatory": mean_interval.sel(control="random", bound="low", drop=True) > 0,
        }
    )
