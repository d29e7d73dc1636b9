"""Whole searches of the published eccNET: kreimanlab/VisualSearchAsymmetry at 2e41a9e, run on TensorFlow."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroattn.kernels.eccentricity_pool import LinearLaw, eccentricity_pool
from neuroattn.search import EccNet, load_reference
from neuroattn.search.features import CAFFE
from neuroattn.search.maps import blur, correlate, enlarge, gaussian, scale_to_unit, sharpen

COMMITTED = Path(__file__).with_name("visual_search")
TRIALS = ("A_eccnet", "A_noecc_max")
PAIRS = {
    "cat_curv": ((3, 1.0), (5, 3.0)),
    "inter": ((5, 3.0), (7, 5.0)),
    "light_saccade": ((3, 0.0), (5, 1.0)),
}


def random_weights(config):
    """Draw the recorded weights, which follow a recipe."""
    rng, weights, before = np.random.RandomState(config["weight_seed"]), {}, 3
    for block, (width, n) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        width = int(width * config["width_mult"])
        for i in range(1, n + 1):
            scale = np.sqrt(2 / (9 * before))
            kernel = (rng.standard_normal((3, 3, before, width)) * scale).astype(np.float32)
            weights[f"w_block{block}_conv{i}"] = kernel
            bias = (rng.standard_normal(width) * config["bias_scale"]).astype(np.float32)
            weights[f"b_block{block}_conv{i}"] = bias
            before = width
    return weights


def load(folder, name):
    with np.load(folder / f"trial_{name}.npz") as stored:
        trial = dict(stored)
    config = json.loads(trial["config_json"].item())
    shape = trial["cell_masks_shape"]
    cells = np.unpackbits(trial["cell_masks"])[: np.prod(shape)].reshape(shape).astype(bool)
    return trial, config, cells


def assert_close(got, recorded):
    """Compare to 1e-5 of the largest number."""
    np.testing.assert_allclose(got, recorded, rtol=0, atol=1e-5 * max(1, np.abs(recorded).max()))


@pytest.mark.parametrize("name", TRIALS)
def test_recorded_search(name):
    trial, config, cells = load(COMMITTED, name)
    model = load_reference(random_weights(config), config)
    path = model.search(trial["stim"], trial["target"], cells, trial["gt"], return_maps=True)
    assert np.array_equal(np.stack([path.y, path.x], 1), trial["fixations"])
    assert path.found is bool(trial["found"])
    assert_close(path.attrs["matches"], trial["raw_layer_maps"])
    assert_close(path.attrs["maps"], trial["map_before_resize"])


@pytest.mark.parametrize("name", TRIALS)
def test_features_reused_make_the_recorded_search(name):
    trial, config, cells = load(COMMITTED, name)
    model = load_reference(random_weights(config), config).model
    path = EccNet(model.backbone, model.config, reuse=True).search(
        trial["stim"],
        trial["target"],
        cells=cells,
        target_mask=trial["gt"] > 125,
        background=config["bg_value"],
        return_maps=True,
    )
    assert np.array_equal(np.stack([path.y, path.x], 1), trial["fixations"])
    assert_close(path.attrs["matches"], trial["raw_layer_maps"])


def test_target_features():
    trial, config, _ = load(COMMITTED, "A_eccnet")
    model = load_reference(random_weights(config), config).model
    target = torch.from_numpy(trial["target"])[None, :, :, None].expand(-1, -1, -1, 3)
    kernels = model.backbone.target_kernels(model.backbone.preprocess(target), model.config, 30.0)
    for tap, kernel in kernels.items():
        assert_close(kernel[0].permute(1, 2, 0), trial[f"target_feat_{tap[4]}"])


@pytest.mark.shared_data
def test_features_and_enlarged_map_of_the_first_fixation(shared):
    trial, config, cells = load(shared / "parity" / "visual_search", "A_eccnet")
    weights = {key: trial[key] for key in trial if key.startswith(("w_block", "b_block"))}
    model = load_reference(weights, config).model
    side, size = config["input_side"], trial["stim"].shape[0]
    before = (side - size) // 2
    view = np.full((side, side), config["bg_value"], np.uint8)
    view[before : before + size, before : before + size] = trial["stim"]
    pixels = model.backbone.preprocess(torch.from_numpy(view)[None, :, :, None].expand(-1, -1, -1, 3))
    for tap, features in model.backbone.search_maps(pixels, model.config, 30.0).items():
        assert_close(features[0].permute(1, 2, 0), trial[f"search_feat_step0_{tap[4]}"])
    mask = np.zeros((side, side), bool)
    mask[before : before + size, before : before + size] = cells.any(0)
    small = trial["map_before_resize"][0]
    enlarged = (enlarge(small, (side, side)) - small.min()) * mask
    assert_close(enlarged, trial["final_map_step0"])


@pytest.fixture(scope="module")
def operations():
    with np.load(COMMITTED / "image_ops.npz") as stored:
        return dict(stored)


def test_blurs_and_sharpening(operations):
    image = torch.from_numpy(operations["blur_in"])[None]
    for key in operations:
        if key.startswith("kernel_"):
            size, sd = int(key[8]), float(key.split("_s")[1])
            assert_close(gaussian(size, sd), operations[key])
            assert_close(blur(image, size, sd)[0], operations[key.replace("kernel", "blur")])
    for name, pair in PAIRS.items():
        assert_close(sharpen(image, *pair)[0], operations[f"sharpen3_{name}"])


def test_enlargement(operations):
    for key in operations:
        if key.startswith("area_up_1d_in"):
            small, large = operations[key][None], operations[key.replace("_in_", "_out_")]
            assert_close(enlarge(small, (1, len(large)))[0], large)
    large = operations["area_up_2d_out"]
    assert_close(enlarge(operations["area_up_2d_in"], large.shape), large)


def test_scaling_preprocessing_and_correlation(operations):
    assert_close(scale_to_unit(torch.from_numpy(operations["minmax_in"])[None])[0], operations["minmax_out"])
    rgb = CAFFE(torch.from_numpy(operations["preproc_in_rgb_u8"])[None])[0].permute(1, 2, 0)
    assert_close(rgb.flip(2), operations["preproc_out"])
    for k in (1, 2, 3, 6):
        features, kernel = (
            torch.from_numpy(operations[f"corr_{part}_k{k}"]).permute(2, 0, 1)[None] for part in "xw"
        )
        assert_close(correlate(features, kernel)[0], operations[f"corr_y_k{k}"])


def test_plain_windows(operations):
    for key in operations:
        if key.startswith("samepool") and key.endswith("_x"):
            _, mode, window, _, _ = key.split("_")
            law = LinearLaw(slope=0, window_min=int(window[1:]), ring_deg=None)
            x = torch.from_numpy(operations[key]).permute(2, 0, 1)[None]
            got = eccentricity_pool(x, law=law, mode={"avg": "mean", "max": "max"}[mode])
            assert_close(got[0].permute(1, 2, 0), operations[f"{key[:-1]}y"])
