"""Against vectors of the published brain encoder (github.com/Hosseinadeli/transformer_brain_encoder at 4bd5884).

Recorded with torch 2.13.0+cpu in float32 from random inputs and parameters, in evaluation mode. Tolerance 2e-5. The
7 MB convolution that ``linear_cls`` stores and never uses is left out of the file here.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroattn.attention import sine_position_2d
from neuroattn.encoding import load_reference
from neuroattn.encoding.networks import ConvolutionNetwork

FOLDER = Path(__file__).parent / "fmri"
NAMES = (
    "transformer_rois_prenorm",
    "transformer_hemis",
    "transformer_voxels",
    "spatial_feature_rois_31x31",
    "linear_cls",
)


@pytest.fixture(params=NAMES)
def vector(request):
    return np.load(FOLDER / f"{request.param}.npz")


def build(vector, prefix="param.", **changes):
    """Load parameters, or what is stored for each of them under another prefix, by their published names."""
    config = json.loads(str(vector["config.json"])) | changes
    weights = {
        k.removeprefix(prefix): torch.from_numpy(vector[k]) for k in vector.files if k.startswith(prefix)
    }
    if config["encoder_arch"] == "linear" and config["backbone_arch"].endswith("_cls"):
        weights |= {"input_proj.weight": torch.zeros(1), "input_proj.bias": torch.zeros(1)}
    masks = {side: torch.from_numpy(vector[f"roi.{side}_mask"]).bool() for side in ("lh", "rh")}
    return load_reference(weights, config, masks)


def predict(network, vector):
    return network(torch.from_numpy(vector["input.features"]), return_attention=True)


def published_loss(network, vector):
    out = predict(network, vector)
    sides = (
        torch.nn.functional.mse_loss(getattr(out, side), torch.from_numpy(vector[f"target.{side}"]))
        for side in ("lh", "rh")
    )
    return sum(sides) + (network.penalty() if isinstance(network, ConvolutionNetwork) else 0)


def check_predictions_and_maps(vector):
    with torch.no_grad():
        out = predict(build(vector), vector)
    np.testing.assert_allclose(out.lh, vector["output.lh_pred"], atol=2e-5)
    np.testing.assert_allclose(out.rh, vector["output.rh_pred"], atol=2e-5)
    maps = sorted(k for k in vector.files if k.startswith("attn.layer") and k.endswith("per_head"))
    if maps:
        np.testing.assert_allclose(out.attention.transpose(1, 2), vector[maps[-1]], atol=2e-5)


def check_loss_gradients_and_step(vector):
    network = build(vector)
    loss = published_loss(network, vector)
    loss.backward()
    np.testing.assert_allclose(loss.item(), vector["loss"], rtol=1e-5)
    # Gradients have the names and shapes of parameters, so the loader itself tells which is which.
    published = dict(build(vector, "grad.").named_parameters())
    for name, parameter in network.named_parameters():
        np.testing.assert_allclose(
            parameter.grad, published[name].detach(), atol=1e-5, rtol=1e-5, err_msg=name
        )
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 0.1)
    np.testing.assert_allclose(norm, vector["grad_norm_preclip"], rtol=1e-5)
    torch.optim.AdamW(network.parameters(), lr=5e-4, weight_decay=1e-4).step()
    if any(k.startswith("stepped.") for k in vector.files):
        stepped = dict(build(vector, "stepped.").named_parameters())
        for name, parameter in network.named_parameters():
            # Biases of keys have gradients that are zero but for rounding, of which AdamW makes steps.
            real = published[name].detach().abs() > 1e-6
            ours, theirs = parameter.detach(), stepped[name].detach()
            np.testing.assert_allclose(ours[real], theirs[real], atol=1e-5, err_msg=name)
            np.testing.assert_allclose(ours, theirs, atol=1e-4, err_msg=name)
    with torch.no_grad():
        np.testing.assert_allclose(published_loss(network, vector), vector["loss_after_step"], rtol=1e-5)


def test_predictions_and_maps(vector):
    check_predictions_and_maps(vector)


def test_loss_gradients_and_step(vector):
    check_loss_gradients_and_step(vector)


@pytest.mark.shared_data
def test_every_vector_at_hand(shared):
    checked = []
    for path in sorted((shared / "parity" / "fmri").glob("*.npz")):
        if path.stem.startswith(("transformer_", "spatial_feature_", "linear_")):
            vector = np.load(path)
            check_predictions_and_maps(vector)
            check_loss_gradients_and_step(vector)
            checked.append(path.stem)
    assert set(NAMES) <= set(checked)


def test_grouped_readout_is_the_masked_sum():
    vector = np.load(FOLDER / "transformer_rois_prenorm.npz")
    network = build(vector).double()
    features = torch.from_numpy(vector["input.features"]).double()
    masks = np.zeros((12, 84))
    masks[:6, :40], masks[6:, 40:] = vector["roi.lh_mask"], vector["roi.rh_mask"]
    with torch.no_grad():
        tokens, _ = network.read(features, "none")
        raw = torch.einsum("vd,brd->brv", network.readout.weight, tokens) + network.readout.bias
        masked = (raw * torch.from_numpy(masks)).sum(1)
        torch.testing.assert_close(network(features), masked, atol=1e-12, rtol=0)


def test_sine_position():
    vector = np.load(FOLDER / "sine_pos_31x31x768.npz")
    code = sine_position_2d(31, 31, 768)
    np.testing.assert_allclose(code[vector["channel_index"]], vector["pos"][0], atol=2e-5)
    np.testing.assert_allclose(code[:, 15, 7], vector["row15_col7"], atol=2e-5)


def test_left_over_and_missing_parameters_are_refused():
    vector = np.load(FOLDER / "transformer_hemis.npz")
    config = json.loads(str(vector["config.json"]))
    weights = {k[6:]: torch.from_numpy(vector[k]) for k in vector.files if k.startswith("param.")}
    with pytest.raises(ValueError, match="parameters without a place: surprise"):
        load_reference(weights | {"surprise": torch.zeros(1)}, config)
    for name, message in {
        "query_embed.weight": "state_dict must hold query_embed.weight",
        "rh_embed.0.bias": "state_dict must hold rh_embed.0.bias",
        "transformer.decoder.norm.weight": "does not fit config: missing .*norm.weight",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_reference({k: v for k, v in weights.items() if k != name}, config)


def test_region_readout_needs_masks_of_its_queries():
    vector = np.load(FOLDER / "transformer_rois_prenorm.npz")
    config = json.loads(str(vector["config.json"]))
    with pytest.raises(ValueError, match="roi_masks must be given for readout_res 'rois_all'"):
        load_reference({}, config)
    weights = {k[6:]: torch.from_numpy(vector[k]) for k in vector.files if k.startswith("param.")}
    fewer = {side: torch.from_numpy(vector[f"roi.{side}_mask"]).bool()[1:] for side in ("lh", "rh")}
    with pytest.raises(ValueError, match="roi_masks must hold 6 regions for readout_res 'rois_all', got 5"):
        load_reference(weights, config, fewer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_arch": "custom_transformer"}, "encoder_arch must be one of"),
        ({"readout_res": "lobes"}, "readout_res 'lobes' is unknown"),
        ({"enc_layers": 1}, "enc_output_layer must lie in 0..0 of enc_layers, got 1"),
    ],
)
def test_unknown_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        build(np.load(FOLDER / "transformer_rois_prenorm.npz"), **changes)
