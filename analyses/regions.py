"""One line for each region: how well it is predicted, and whether better than by chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from neuroattn._checks import check_option, check_range, check_shape
from neuroattn.analyses.scores import N_RESAMPLES, SIGNIFICANT, Prediction, score_predictions
from neuroattn.analyses.style import INK, MODEL_COLOURS, MUTED, PAPER, WIDTH, label_rows, styled
from neuroattn.datasets import Recording
from neuroattn.results import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AGAINST_OTHERS = ("best_baseline", "difference", "difference_ci")


def summarise_regions(
    recording: Recording,
    predictions: Mapping[str, ArrayLike],
    *,
    rows: ArrayLike | None = None,
    n_shuffles: int = 1000,
    min_ceiling: float = 0.1,
    seed: int = 0,
) -> xr.Dataset:
    """Summarize any held-out predictions by region, with p-values over regions.

    The same numbers as a study's ``roi_scores.nc``, for predictions of whatever made them.

    Parameters
    ----------
    recording : Recording
    predictions : mapping of str to array, shape (stimulus, unit)
        Predicted responses by the name of the model.
    rows : int array, shape (stimulus,), optional
        Rows of the recording that are predicted; default its own test partition.
    n_shuffles : int, default 1000
        Shuffles of the stimuli.
    min_ceiling : float, default 0.1
        Units with a lower noise ceiling have no ``r2_over_ceiling``.
    seed : int, default 0
        Of shuffles and resamples.

    Returns
    -------
    Dataset, dims (model, roi, bound)
        ``correlation``, mean over the units of a region, with ``correlation_ci`` (95 % over resampled stimuli),
        ``correlation_median`` and ``correlation_shuffled``, and the same of ``r2_over_ceiling``; ``n_units`` (roi);
        one-sided ``p`` of the mean correlation; ``p_fdr``, adjusted by Benjamini and Hochberg over regions [1]_, NaN
        for "all", which is no further region; ``share_significant``, the share of units whose own p, so adjusted over
        all units, is below .05. The last tells a region of many weak units from one of few strong ones.

    Raises
    ------
    ValueError
        If predictions do not have the shape of the responses.

    References
    ----------
    .. [1] Benjamini & Hochberg (1995). Controlling the false discovery rate. Journal of the Royal Statistical Society B
       57, 289-300.

    Examples
    --------
    >>> from neuroattn.results import label_rois
    >>> y = np.random.default_rng(0).normal(size=(40, 6)).astype("f4")
    >>> rois = label_rois({"V4": np.arange(6) < 3, "IT": np.arange(6) > 2})
    >>> recording = Recording("cells", y, rois, np.arange(40).astype(str), features=y)
    >>> guess = np.where(np.arange(6) < 3, y, y[::-1])
    >>> table = summarise_regions(recording, {"guess": guess}, rows=np.arange(40), n_shuffles=99)
    >>> table.p_fdr.sel(model="guess", roi="V4").item(), table.share_significant.sel(model="guess").values
    (0.02, array([1. , 0. , 0.5]))
    """
    check_range("n_shuffles", n_shuffles, 1)
    if not predictions:
        raise ValueError("predictions must hold at least one model, got none")
    if rows is None:
        if recording.test is None:
            raise ValueError("rows must be given for a recording without a test partition")
        rows = np.flatnonzero(recording.test)
    chosen = np.asarray(rows, dtype=np.intp)
    tables = {name: np.asarray(table, np.float32) for name, table in predictions.items()}
    for name, table in tables.items():
        check_shape(f"predictions[{name!r}]", table, len(chosen), recording.n_units)
    scores, regions = score_predictions(
        lambda name, one: Prediction(tables[name], one),
        list(tables),
        [seed],
        chosen,
        recording,
        min_ceiling=min_ceiling,
        n_shuffles=n_shuffles,
        seed=seed,
    )
    config = {"recording": recording.name, "n_stimuli": len(chosen), "n_resamples": N_RESAMPLES}
    attrs = {**provenance(seed, config), **scores.attrs, "resampled": "stimulus"}
    return regions.drop_vars(_AGAINST_OTHERS).assign_attrs(attrs, simulated=int(recording.simulated))


@styled
def plot_regions(roi_scores: xr.Dataset, model: str) -> Figure:
    """Draw the mean correlation of every region, open where it is not significant, beside the share of its units.

    Parameters
    ----------
    roi_scores : Dataset
        Of :func:`summarise_regions`, or ``roi_scores.nc`` of a study.
    model : str

    Returns
    -------
    Figure

    Examples
    --------
    >>> scores = xr.Dataset(
    ...     {"correlation": (("model", "roi"), [[0.4, 0.0]]), "p_fdr": (("model", "roi"), [[0.01, 0.6]]),
    ...      "correlation_ci": (("model", "roi", "bound"), [[[0.3, 0.5], [-0.1, 0.1]]]),
    ...      "share_significant": (("model", "roi"), [[0.9, 0.0]]), "n_units": ("roi", [30, 20])},
    ...     {"model": ["ridge"], "roi": ["V1", "FFA"]})
    >>> [text.get_text() for text in plot_regions(scores, "ridge").axes[0].texts]
    ['90 % of 30', '0 % of 20']
    """
    from matplotlib.figure import Figure

    check_option("model", model, [str(name) for name in roi_scores.model.values])
    table = roi_scores.sel(model=model)
    n_rois = table.sizes["roi"]
    figure = Figure(figsize=(WIDTH, 1.1 + 0.26 * n_rois))
    axes = figure.add_subplot()
    low, high = table["correlation_ci"].transpose("bound", "roi").values
    q = table["p_fdr"].values  # NaN for "all", which stands without a verdict
    colours = np.where(q < SIGNIFICANT, MODEL_COLOURS[0], MUTED)
    axes.hlines(np.arange(n_rois), low, high, color=colours, lw=1.6)
    for row in range(n_rois):
        face = PAPER if q[row] >= SIGNIFICANT else colours[row]
        axes.plot(table["correlation"].values[row], row, "o", color=colours[row], mfc=face, ms=5.5, mew=1.3)
        share = table["share_significant"].values[row]
        text = "" if np.isnan(share) else f"{100 * share:.0f} % of {int(table.n_units.values[row])}"
        axes.annotate(
            text, (1, row), (5, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", size=8.5, color=MUTED, annotation_clip=False,
        )  # fmt: skip
    axes.axvline(0, color=INK, lw=0.8)
    label_rows(axes, [str(roi) for roi in table.roi.values])
    axes.set_xlabel("Correlation r")
    axes.set_title(
        "orange: q < .05 over regions, open: not\nright: units with q < .05", loc="left", size=9, color=MUTED
    )
    return figure
