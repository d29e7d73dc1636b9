"""What feature spaces explain alone and together, and ensembles of models."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from neuroattn._checks import check_range, check_shape


def variance_partitioning(y_true: ArrayLike, predictions: Mapping[tuple[str, ...], ArrayLike]) -> xr.Dataset:
    """Divide explained variance into what each feature space explains alone and what spaces share.

    A model is fitted to every combination of spaces; the part that only the spaces of a set T share is the
    inclusion-exclusion sum over the models without parts of T [1]_. All R^2 are coefficients of determination,
    ``1 - SSE / SST`` on the same held-out stimuli. Parts may be negative: models are fitted with a penalty and scored
    on noise, and where spaces suppress each other no division into areas exists. They are kept as they are, and
    always sum to the R^2 of the joint model.

    Parameters
    ----------
    y_true : array, shape (stimulus, unit)
        Held-out responses.
    predictions : mapping of tuple of str to array, shape (stimulus, unit)
        Held-out predictions by spaces that the model had, for instance the keys ``("a",)``, ``("b",)`` and
        ``("a", "b")``; every combination of the spaces once.

    Returns
    -------
    Dataset, dims (model, part, unit)
        ``r2`` (model, unit), by names such as "a + b"; ``explained`` (part, unit), where part "a" is unique to a and
        "a & b" is shared by a and b only. NaN where responses are constant.

    Raises
    ------
    ValueError
        If a combination is missing.

    References
    ----------
    .. [1] Lescroart, Stansbury & Gallant (2015). Fourier power, subjective distance, and object categories all provide
       plausible models of BOLD responses in scene-selective visual areas. Frontiers in Computational Neuroscience 9.

    Examples
    --------
    >>> a, b = np.random.default_rng(0).normal(size=(2, 500, 1))
    >>> parts = variance_partitioning(a + b, {("a",): a, ("b",): b, ("a", "b"): a + b})
    >>> parts.explained.part.values.tolist(), parts.explained.values[:, 0].round(1).tolist()
    (['a', 'b', 'a & b'], [0.5, 0.5, 0.0])
    """
    given = {frozenset(key): value for key, value in predictions.items()}
    spaces = tuple(dict.fromkeys(name for key in predictions for name in key))
    sets = [frozenset(c) for k in range(1, len(spaces) + 1) for c in itertools.combinations(spaces, k)]
    missing = [_joined(s, spaces, ", ") for s in sets if s not in given]
    if len(spaces) < 2 or missing or len(given) != len(predictions):
        raise ValueError(
            "predictions must hold every combination of two or more spaces once, "
            f"got {list(predictions)}" + (f"; missing {missing[0]}" if missing else "")
        )
    y = np.asarray(y_true, dtype=np.float64)
    check_shape("y_true", y, "stimulus", "unit")
    r2 = {s: _r2(y, np.asarray(given[s], dtype=np.float64), _joined(s, spaces, ", ")) for s in sets}
    whole = frozenset(spaces)

    def added_by(part: frozenset[str]) -> NDArray[np.float64]:
        """Return what the spaces of ``part`` add to a model of all others."""
        rest = whole - part
        return np.asarray(r2[whole] - (r2[rest] if rest else 0))

    explained = [
        sum((-1) ** (len(s) - len(part)) * added_by(part) for part in sets if part <= s) for s in sets
    ]
    return xr.Dataset(
        {"r2": (("model", "unit"), list(r2.values())), "explained": (("part", "unit"), explained)},
        coords={
            "model": [_joined(s, spaces, " + ") for s in sets],
            "part": [_joined(s, spaces, " & ") for s in sets],
        },
        attrs={"r2": "1 - SSE / SST on held-out stimuli, unclipped"},
    )


def _joined(names: frozenset[str], order: tuple[str, ...], sign: str) -> str:
    return sign.join(name for name in order if name in names)


def _r2(y: NDArray[np.float64], predicted: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    check_shape(f"predictions[{name}]", predicted, *y.shape)
    total = ((y - y.mean(0)) ** 2).sum(0)
    varies = total > 1e-20 * len(y) * np.abs(y).max(0, initial=0) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(varies, 1 - ((y - predicted) ** 2).sum(0) / total, np.nan))


def softmax_ensemble(
    predictions: xr.DataArray, validation_r: xr.DataArray, *, beta: float = 40.0
) -> xr.Dataset:
    """Average models by unit, with weights that prefer those which did well on validation stimuli [1]_.

    Seeds are averaged first, predictions and correlations, then models with weights ``softmax(beta * r)`` over models.
    The published wrapper does not divide by the number of seeds, so its predictions are as many times larger;
    correlations with responses are equal.

    Parameters
    ----------
    predictions : DataArray, dims (model, [seed,] stimulus, unit)
        Models are for instance layers of a backbone.
    validation_r : DataArray, dims (model, [seed,] unit)
        Correlations on stimuli that were neither trained on nor predicted here. NaN counts as -1.
    beta : float, default 40
        0 is the plain mean.

    Returns
    -------
    Dataset
        ``prediction`` (stimulus, unit) and ``weight`` (model, unit), which sums to one over models.

    References
    ----------
    .. [1] Adeli, Sun & Kriegeskorte (2025). Transformer brain encoders explain human high-level visual responses.
       arXiv:2505.17329.

    Examples
    --------
    >>> predictions = xr.DataArray([[[1.0, 1.0]], [[3.0, 3.0]]], dims=("model", "stimulus", "unit"))
    >>> validation_r = xr.DataArray([[0.5, 0.1], [0.5, 0.6]], dims=("model", "unit"))
    >>> softmax_ensemble(predictions, validation_r).prediction.values.round(3)
    array([[2., 3.]])
    """
    check_range("beta", beta, 0)
    for name, array, dims in (
        ("predictions", predictions, {"model", "stimulus", "unit"}),
        ("validation_r", validation_r, {"model", "unit"}),
    ):
        if set(array.dims) - {"seed"} != dims:
            raise ValueError(
                f"{name} must have dims {', '.join(sorted(dims))} and maybe seed, got {array.dims}"
            )
    try:
        predictions, validation_r = xr.align(predictions, validation_r, join="exact", copy=False)
    except ValueError:
        raise ValueError(
            "validation_r must have the models, seeds and units of predictions in their order, "
            f"got {dict(validation_r.sizes)} for {dict(predictions.sizes)}"
        ) from None
    if "seed" in predictions.dims:
        predictions = predictions.mean("seed")
    r = validation_r.fillna(-1.0)
    if "seed" in r.dims:
        r = r.mean("seed")
    weight = xr.apply_ufunc(
        softmax, beta * r, input_core_dims=[["model"]], output_core_dims=[["model"]], kwargs={"axis": -1}
    )
    return xr.Dataset(
        {
            "prediction": xr.dot(predictions, weight, dim="model").transpose("stimulus", "unit"),
            "weight": weight.transpose("model", "unit"),
        },
        attrs={"beta": beta},
    )
