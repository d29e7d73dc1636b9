"""Against ``metrics.npz``, recorded from the conventions of the published notebooks (Adeli et al. 2025)."""

from pathlib import Path

import numpy as np

from neuroattn.metrics import noise_ceiling_from_ncsnr, pearson_r, r2_over_ceiling_algonauts

VECTORS = np.load(Path(__file__).parent / "fmri" / "metrics.npz")


def test_correlation_and_ceiling():
    r = pearson_r(VECTORS["y_true"], VECTORS["y_pred"])
    np.testing.assert_allclose(r, VECTORS["pearson_r"], atol=2e-6)
    ceiling = noise_ceiling_from_ncsnr(VECTORS["ncsnr"], [3] * 60)
    np.testing.assert_allclose(ceiling, VECTORS["noise_ceiling_r2_fraction"], atol=1e-6)


def test_clipped_accuracy():
    accuracy = r2_over_ceiling_algonauts(VECTORS["pearson_r"], VECTORS["noise_ceiling_r2_fraction"])
    np.testing.assert_allclose(accuracy, VECTORS["encoding_accuracy"], atol=1e-5)
