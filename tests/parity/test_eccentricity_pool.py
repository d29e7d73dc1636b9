"""Vectors of the published pooling layer: kreimanlab/VisualSearchAsymmetry at 2e41a9e, run on TensorFlow."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroattn.kernels.eccentricity_pool import LinearLaw, eccentricity_pool

COMMITTED = Path(__file__).with_name("eccentricity_pool.npz")


def check_case(vectors, case):
    name = case["name"]
    law = LinearLaw(
        slope=case["ecc_slope"],
        px_per_degree=case["deg2px"],
        fovea_deg=case["fovea_size"],
        window_min=case["rf_min"],
        ring_deg=case["rf_quant"],
    )
    x = torch.from_numpy(vectors[f"{name}__x"]).permute(2, 0, 1)[None]
    ring = vectors[f"{name}__ring"]
    assert np.array_equal(law.rings(*x.shape[2:], case["stride"])[0], ring)
    windows = np.array(case["window_sizes"])[ring]
    assert np.array_equal(law.windows(*x.shape[2:], case["stride"])[0], windows)
    mode = {"avg": "mean", "max": "max"}[case["pool_type"]]
    got = eccentricity_pool(x, law=law, stride=case["stride"], mode=mode)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(got, vectors[f"{name}__y"], rtol=0, atol=1e-5)


def cases(vectors):
    return json.loads(vectors["meta_json"].item())


def test_committed_cases():
    with np.load(COMMITTED) as vectors:
        assert len(cases(vectors)) == 9
        for case in cases(vectors):
            check_case(vectors, case)


@pytest.mark.shared_data
def test_all_recorded_cases(shared):
    folder = shared / "parity" / "visual_search"
    recorded = json.loads((folder / "ecc_pool_meta.json").read_text())
    assert len(recorded) == 18
    with np.load(folder / "ecc_pool.npz") as vectors:
        for case in recorded:
            check_case(vectors, case)
