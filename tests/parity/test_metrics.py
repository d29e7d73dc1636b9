"""Against ``metrics.npz``, recorded from the conventions of the published notebooks (Adeli et al. 2025)."""

from pathlib import Path

import numpy as np
import xarray as xr

from neuroattn.metrics import (
    noise_ceiling_from_ncsnr,
    pearson_r,
    r2_over_ceiling_algonauts,
    softmax_ensemble,
)

VECTORS = np.load(Path(__file__).parent / "fmri" / "metrics.npz")


def test_correlation_and_ceiling():
    r = pearson_r(VECTORS["y_true"], VECTORS["y_pred"])
    np.testing.assert_allclose(r, VECTORS["pearson_r"], atol=2e-6)
    ceiling = noise_ceiling_from_ncsnr(VECTORS["ncsnr"], [3] * 60)
    np.testing.assert_allclose(ceiling, VECTORS["noise_ceiling_r2_fraction"], atol=1e-6)


def test_clipped_accuracy():
    accuracy = r2_over_ceiling_algonauts(VECTORS["pearson_r"], VECTORS["noise_ceiling_r2_fraction"])
    np.testing.assert_allclose(accuracy, VECTORS["encoding_accuracy"], atol=1e-5)


def test_means_over_units_count_unknown_accuracies_as_zero():
    """The published tables do; units are better left out, as ``roi_summary`` does."""
    r = pearson_r(VECTORS["y_true"], VECTORS["y_pred"])
    ceiling = noise_ceiling_from_ncsnr(VECTORS["ncsnr"], [3] * 60)
    accuracy = np.nan_to_num(r2_over_ceiling_algonauts(r, ceiling))
    np.testing.assert_allclose(accuracy.mean(), VECTORS["mean_nan_as_zero"], atol=1e-5)
    np.testing.assert_allclose(np.median(accuracy), VECTORS["median_nan_as_zero"], atol=1e-5)


def test_softmax_ensemble():
    """``ensemble.npz``, recorded from the formula of the published wrapper, which does not divide by runs."""
    vectors = np.load(Path(__file__).parent / "fmri" / "ensemble.npz")
    result = softmax_ensemble(
        xr.DataArray(vectors["preds"], dims=("model", "seed", "stimulus", "unit")),
        xr.DataArray(vectors["val_corr"], dims=("model", "seed", "unit")),
    )
    np.testing.assert_allclose(result.weight, vectors["weights"], atol=1e-10)
    np.testing.assert_allclose(result.prediction, vectors["normalised_output"], atol=1e-10)
    n_runs = vectors["preds"].shape[1]
    np.testing.assert_allclose(n_runs * result.prediction, vectors["wrapper_output"], atol=1e-10)
