"""Against vectors of the published brain encoder (github.com/Hosseinadeli/transformer_brain_encoder at 4bd5884).

Recorded with torch 2.13.0+cpu in float32 from random inputs and parameters, in evaluation mode. Tolerance 2e-5.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroattn.attention import sine_position_2d
from neuroattn.encoding import load_reference

FOLDER = Path(__file__).parent / "fmri"
NAMES = (
    "transformer_rois_prenorm",
    "transformer_hemis",
    "transformer_voxels",
    "spatial_feature_rois_31x31",
)


@pytest.fixture(params=NAMES)
def vector(request):
    return np.load(FOLDER / f"{request.param}.npz")


def build(vector, **changes):
    config = json.loads(str(vector["config.json"])) | changes
    weights = {k[6:]: torch.from_numpy(vector[k]) for k in vector.files if k.startswith("param.")}
    masks = {side: torch.from_numpy(vector[f"roi.{side}_mask"]).bool() for side in ("lh", "rh")}
    return load_reference(weights, config, masks)


def test_predictions_and_maps(vector):
    with torch.no_grad():
        out = build(vector)(torch.from_numpy(vector["input.features"]), return_attention=True)
    np.testing.assert_allclose(out.lh, vector["output.lh_pred"], atol=2e-5)
    np.testing.assert_allclose(out.rh, vector["output.rh_pred"], atol=2e-5)
    if "attn.layer0.per_head" in vector.files:
        np.testing.assert_allclose(out.attention.transpose(1, 2), vector["attn.layer0.per_head"], atol=2e-5)


def test_gradients(vector):
    network = build(vector)
    out = network(torch.from_numpy(vector["input.features"]), return_attention=True)
    loss = sum(
        torch.nn.functional.mse_loss(getattr(out, side), torch.from_numpy(vector[f"target.{side}"]))
        for side in ("lh", "rh")
    )
    loss.backward()
    np.testing.assert_allclose(loss.item(), vector["loss"], rtol=1e-5)
    published = np.concatenate([vector[f"grad.{side}_embed.0.weight"] for side in ("lh", "rh")])
    np.testing.assert_allclose(network.readout.weight.grad, published, atol=1e-5)
    queries = "spatial_embed.weight" if "grad.spatial_embed.weight" in vector.files else "query_embed.weight"
    ours = network.logits if queries.startswith("spatial") else network.queries
    np.testing.assert_allclose(ours.grad, vector[f"grad.{queries}"], atol=1e-5)


def test_sine_position():
    vector = np.load(FOLDER / "sine_pos_31x31x768.npz")
    code = sine_position_2d(31, 31, 768)
    np.testing.assert_allclose(code[vector["channel_index"]], vector["pos"][0], atol=2e-5)
    np.testing.assert_allclose(code[:, 15, 7], vector["row15_col7"], atol=2e-5)


def test_left_over_parameters_are_refused():
    vector = np.load(FOLDER / "transformer_hemis.npz")
    config = json.loads(str(vector["config.json"]))
    weights = {k[6:]: torch.from_numpy(vector[k]) for k in vector.files if k.startswith("param.")}
    with pytest.raises(ValueError, match="parameters without a place: surprise"):
        load_reference(weights | {"surprise": torch.zeros(1)}, config)
    del weights["query_embed.weight"]
    with pytest.raises((ValueError, KeyError), match="query_embed"):
        load_reference(weights, config)


def test_region_readout_needs_masks():
    vector = np.load(FOLDER / "transformer_rois_prenorm.npz")
    config = json.loads(str(vector["config.json"]))
    with pytest.raises(ValueError, match="roi_masks must be given for readout_res 'rois_all'"):
        load_reference({}, config)
