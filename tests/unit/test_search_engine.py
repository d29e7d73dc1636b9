import dataclasses

import numpy as np
import pytest
import torch

from neuroattn.search import (
    VGG16,
    EccNet,
    Recogniser,
    SearchConfig,
    SearchTrial,
    fit_recogniser,
    load_reference,
)
from neuroattn.search.maps import enlarge

SIZE, CELL, ITEM = 96, 32, 16
PX_PER_DEGREE = 8.0


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = VGG16(widths=(4, 8, 16, 16, 16))
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5)
    return network


def grid_cells(height=SIZE, width=SIZE):
    corners = [(y, x) for y in range(0, height, CELL) for x in range(0, width, CELL)]
    cells = np.zeros((len(corners), height, width), bool)
    for cell, (y, x) in zip(cells, corners, strict=True):
        cell[y : y + CELL, x : x + CELL] = True
    return cells


def make_trial(seed, *, height=SIZE, width=SIZE, **changes):
    """Draw a cross among discs on grey 40, one in each of six cells."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:ITEM, :ITEM] - ITEM / 2 + 0.5
    cross = np.where(np.minimum(abs(x), abs(y)) < 2, 255, 40).astype(np.uint8)
    disc = np.where(np.hypot(x, y) < 6, 255, 40).astype(np.uint8)
    cells = grid_cells(height, width)
    image = np.full((height, width), 40, np.uint8)
    chosen = rng.permutation(len(cells))[:6]
    for rank, k in enumerate(chosen):
        top, left = (int(edge[0] + rng.integers(CELL - ITEM)) for edge in np.nonzero(cells[k]))
        image[top : top + ITEM, left : left + ITEM] = disc if rank else cross
    fields = {
        "image": image,
        "target": cross,
        "target_mask": cells[chosen[0]],
        "cells": cells,
        "background": 40,
        "px_per_degree": PX_PER_DEGREE,
        **changes,
    }
    return SearchTrial(**fields)


def points(path):
    return list(zip(path.x.tolist(), path.y.tolist(), strict=True))


def test_each_cell_is_visited_once_and_the_target_ends_the_search(network):
    trial = make_trial(0)
    path = EccNet(network).search_batch([trial])[0]
    visited = [int(trial.cells[:, int(y), int(x)].argmax()) for x, y in points(path)[1:]]
    assert len(set(visited)) == len(visited) == path.attrs["n_saccades"] == path.n_saccades
    assert path.found
    assert path.attrs["quit"] == "found"
    target = int((trial.cells & trial.target_mask).any((1, 2)).argmax())
    assert visited[-1] == target
    assert target not in visited[:-1]
    assert (path.x[0], path.y[0]) == (SIZE // 2, SIZE // 2)


def test_free_gaze_does_not_return(network):
    config = SearchConfig(ior_deg=3.0)
    trial = make_trial(1, cells=None, target_mask=None, max_fixations=9, start=(10, 80))
    path = EccNet(network, config).search_batch([trial])[0]
    gaze = np.array(points(path))
    assert gaze[0].tolist() == [10, 80]
    assert len(gaze) == 9
    assert path.found is None
    assert path.attrs["quit"] == "limit"
    for i, later in enumerate(gaze):
        inside = (later >= gaze[:i] - 12) & (later < gaze[:i] + 12)
        assert not inside.all(1).any()


def test_free_search_tests_the_first_fixation(network):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[SIZE // 2, SIZE // 2] = True
    path = EccNet(network).search_batch([make_trial(0, cells=None, target_mask=mask)])[0]
    assert len(path) == 1
    assert path.found


def test_a_search_ends_when_no_place_is_open(network):
    cells = grid_cells()[:2]
    trial = make_trial(2, cells=cells, target_mask=None, max_fixations=20)
    path = EccNet(network).search_batch([trial])[0]
    assert path.attrs["quit"] == "exhausted"
    assert path.n_saccades == 2


@pytest.mark.parametrize("view", ["image", "height"])
def test_wide_images(network, view):
    trial = make_trial(3, width=160, target_mask=None, max_fixations=8, start=(2, 48))
    config = SearchConfig(view=view)
    path = EccNet(network, config).search_batch([trial])[0]
    assert path.image_size == (160, SIZE)
    assert not path.outside.any()
    reach = np.abs(np.diff(path.x))
    assert reach.max() > 30
    if view == "height":
        assert reach.max() <= SIZE


def test_batch_size_and_company_change_nothing(network):
    config = SearchConfig(temperature=0.3)
    trials = [make_trial(seed) for seed in range(3)] + [make_trial(3, width=128)]
    model = EccNet(network, config)
    seen = []
    together = model.search_batch(trials, batch_size=3, seed=5, progress=lambda *n: seen.append(n))
    alone = model.search_batch(trials, batch_size=1, seed=5)
    assert [points(path) for path in together] == [points(path) for path in alone]
    assert seen == [(i, 4) for i in range(1, 5)]


def test_drawn_fixations_follow_the_seed(network):
    trial = make_trial(0, target_mask=None)
    model = EccNet(network, SearchConfig(temperature=10.0))
    first, again, other = (points(model.search_batch([trial], seed=seed)[0]) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_temperature_zero_is_the_limit_of_cold(network):
    trial = make_trial(0, target_mask=None)
    best = EccNet(network, SearchConfig()).search_batch([trial])[0]
    cold = EccNet(network, SearchConfig(temperature=1e-6)).search_batch([trial])[0]
    assert points(best) == points(cold)
    np.testing.assert_allclose(cold.log_prob, 0, atol=1e-6)
    warm = EccNet(network, SearchConfig(temperature=1.0)).search_batch([trial])[0]
    assert (warm.log_prob[1:] < -0.1).all()


def test_saccades_keep_their_limits(network):
    config = SearchConfig(saccade_deg=(3.0, 6.0))
    trial = make_trial(4, cells=None, target_mask=None, max_fixations=8)
    path = EccNet(network, config).search_batch([trial])[0]
    length = np.hypot(np.diff(path.x), np.diff(path.y)) / PX_PER_DEGREE
    assert len(length) == 7
    assert ((length >= 3) & (length <= 6)).all()


def test_quitting_early(network):
    trial = make_trial(5, target_mask=None)
    config = SearchConfig()
    stubborn = EccNet(network, config).search_batch([trial])[0]
    impatient = EccNet(network, dataclasses.replace(config, quit_below=0.99)).search_batch([trial])[0]
    assert impatient.attrs["quit"] == "gave up"
    assert impatient.found is None
    assert points(impatient) == points(stubborn)[: len(impatient)]
    assert 1 < len(impatient) < len(stubborn)


def test_a_learned_recogniser_replaces_the_oracle(network):
    config = SearchConfig()
    recogniser = fit_recogniser(network, config, [make_trial(seed) for seed in range(10, 16)])
    trials = [make_trial(seed) for seed in range(6)]
    paths = EccNet(network, config, recogniser=recogniser).search_batch(trials)
    assert sum(path.attrs["quit"] == "recognised" and path.found for path in paths) >= 4
    absent = [dataclasses.replace(trial, target_mask=None) for trial in trials]
    blind = EccNet(network, config, recogniser=recogniser).search_batch(absent)
    assert [points(path) for path in blind] == [points(path) for path in paths]
    assert all(path.found is None for path in blind)


def test_a_recogniser_can_be_wrong(network):
    always = EccNet(network, recogniser=Recogniser((0.0, 0.0, 0.0), 5.0))
    trials = [make_trial(seed) for seed in range(4)]
    paths = always.search_batch(trials)
    assert all(path.n_saccades == 1 for path in paths)
    assert [path.found for path in paths] == [
        bool(trial.target_mask[int(path.y[1]), int(path.x[1])])
        for trial, path in zip(trials, paths, strict=True)
    ]


@pytest.mark.parametrize(
    "config",
    [
        SearchConfig.paper(),
        SearchConfig(px_per_degree=10.0),
        SearchConfig.ivsn(),
        SearchConfig(px_per_degree=10.0, pool="max"),
        dataclasses.replace(SearchConfig.paper(), taps=("conv3_3", "conv4_3")),
    ],
    ids=["paper", "clean", "ivsn", "max", "two taps"],
)
def test_reuse_changes_nothing(network, config):
    height = 96 if config.view == "image" else 128
    trials = [
        make_trial(seed, height=height, width=128, px_per_degree=None, target_mask=None, max_fixations=7)
        for seed in range(2)
    ]
    trials.append(dataclasses.replace(trials[0], cells=None, start=(1, 1)))
    plain = EccNet(network, config).search_batch(trials, return_maps=True)
    reused = EccNet(network, config, reuse=True).search_batch(trials, return_maps=True)
    for one, other in zip(plain, reused, strict=True):
        assert len(one) > 5
        assert points(one) == points(other)
        largest = np.abs(one.attrs["matches"]).max()
        np.testing.assert_allclose(one.attrs["matches"], other.attrs["matches"], atol=1e-5 * largest)


def test_reuse_says_what_it_needs(network):
    class Other:
        taps, stride = ("a",), 16

    with pytest.raises(TypeError, match="reuse needs a VGG16 as backbone, got Other"):
        EccNet(Other(), reuse=True)
    with pytest.raises(ValueError, match="margin_px must be at least 46 with reuse, got 20"):
        EccNet(network, SearchConfig(margin_px=20), reuse=True)
    model = EccNet(network, SearchConfig.paper(), reuse=True)
    with pytest.raises(ValueError, match=r"reuse needs images no wider than high .* got 128 x 96 px"):
        model.search_batch([make_trial(0, width=128)])


def test_eccentricity_matters_and_its_ablation_keeps_the_mean(network):
    views = torch.rand(1, 3, 448, 448, generator=torch.Generator().manual_seed(0)) * 200 - 100
    config = SearchConfig()
    ablated = config.without_eccentricity()
    assert ablated.pool == "mean"
    foveal, plain = (network.search_maps(views, c, 40.0) for c in (config, ablated))
    assert torch.equal(foveal["conv3_3"], plain["conv3_3"])
    for tap in ("conv4_3", "conv5_3"):
        assert not torch.allclose(foveal[tap], plain[tap])
        middle = slice(13, 15)
        torch.testing.assert_close(foveal[tap][..., middle, middle], plain[tap][..., middle, middle])


def test_each_sample_has_its_own_fixation(network):
    views = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 200 - 100
    gaze = torch.tensor([[30.0, 200.0], [128.0, 60.0]])
    config = SearchConfig()
    both = network.search_maps(views, config, 4.0, gaze)["conv5_3"]
    for i in range(2):
        alone = network.search_maps(views[i : i + 1], config, 4.0, gaze[i : i + 1])["conv5_3"]
        torch.testing.assert_close(both[i : i + 1], alone)
    assert not torch.allclose(both, network.search_maps(views, config, 4.0, gaze.flip(0))["conv5_3"])


def test_gradients_pass_through_the_pooling(network):
    views = torch.randn(1, 3, 192, 192, generator=torch.Generator().manual_seed(0)).mul_(50)
    views.requires_grad_()
    gaze = torch.tensor([[10.0, 10.0]])
    features = network.search_maps(views, SearchConfig(), 4.0, gaze)["conv5_3"]
    (gradient,) = torch.autograd.grad(features.square().sum(), views)
    step = 1e-3 * gradient / gradient.abs().max()
    with torch.no_grad():
        change = [
            network.search_maps(views + sign * step, SearchConfig(), 4.0, gaze)["conv5_3"].square().sum()
            for sign in (1, -1)
        ]
    expected = 2 * (gradient * step).sum()
    torch.testing.assert_close(change[0] - change[1], expected, rtol=0.05, atol=0)


def test_saved_maps_lead_to_the_fixations(network):
    trial = make_trial(0)
    path = EccNet(network, SearchConfig.paper()).search_batch([trial], return_maps=True)[0]
    small = path.attrs["maps"]
    assert small.shape[0] == path.n_saccades
    side = 2 * (SIZE + 64)
    large = enlarge(small[0], (side, side))[side // 2 - SIZE // 2 :, side // 2 - SIZE // 2 :]
    row, column = np.unravel_index(large[:SIZE, :SIZE].argmax(), (SIZE, SIZE))
    assert (path.x[1], path.y[1]) == (column, row)


def test_attrs_of_the_trial_are_kept(network):
    path = EccNet(network).search_batch([make_trial(0, attrs={"set_size": 6})])[0]
    assert path.attrs["set_size"] == 6
    assert path.px_per_degree == PX_PER_DEGREE


def test_px_per_degree_is_needed(network):
    trial = make_trial(0, px_per_degree=None)
    with pytest.raises(ValueError, match="px_per_degree must be given with the trial or in the config"):
        EccNet(network).search_batch([trial])
    with pytest.raises(ValueError, match="px_per_degree must be above 0, got 0"):
        make_trial(0, px_per_degree=0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"target": np.zeros((99, 8), np.uint8)}, ValueError, "target must not be larger than the image, 96 x 96"),
        ({"image": np.zeros((8, 8), np.uint8)}, ValueError, "target must not be larger than the image, 8 x 8 px"),
        ({"target_mask": np.zeros((96, 96), bool)}, ValueError, "target_mask must mark at least one pixel"),
        ({"target_mask": np.ones((96, 97), bool)}, ValueError, r"target_mask must have the shape of the image"),
        ({"target_mask": np.ones((96, 96), np.uint8)}, TypeError, "target_mask must be bool, got uint8"),
        ({"cells": np.ones((2, 96, 96), bool)}, ValueError, "cells must not overlap, got a pixel in 2 of them"),
        ({"cells": np.zeros((2, 96, 96), bool)}, ValueError, "cells must each hold a pixel .* an empty cell 0"),
        ({"cells": np.ones((2, 120, 120), bool)}, ValueError, r"cells must have shape \(cell, 96, 96\)"),
        ({"cells": np.ones((1, 96, 96), int)}, TypeError, "cells must be bool, got int64"),
        ({"image": np.zeros((96, 96, 2), np.uint8)}, ValueError, r"image must have shape .* got \(96, 96, 2\)"),
        ({"image": np.zeros((96, 96))}, TypeError, "image must be uint8 in 0..255, got float64"),
        ({"background": 300}, ValueError, "background must be between 0 and 255, got 300"),
        ({"start": (96, 3)}, ValueError, r"start\[0\] must be between 0 and 95, got 96"),
        ({"max_fixations": 0}, ValueError, "max_fixations must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_bad_trials_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        make_trial(0, **changes)


def test_images_are_converted_and_that_is_said():
    grey = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    with pytest.warns(UserWarning, match="image has 16 bits; it is reduced to 8"):
        trial = SearchTrial(grey, np.zeros((8, 8), np.uint8))
    assert trial.image.dtype == np.uint8
    assert trial.image[63, 63].tolist() == [round(4095 * 16 / 257)] * 3
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    with pytest.warns(UserWarning, match="target has an alpha channel; it is laid on the background 7"):
        trial = SearchTrial(np.zeros((64, 64), np.uint8), rgba, background=7)
    assert trial.target[0, 0].tolist() == [10, 20, 30]
    assert trial.target[1, 1].tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": "median"}, "pool must be one of 'mean', 'max', got 'median'"),
        ({"taps": ()}, "taps must name at least one layer"),
        ({"sharpening": ((4, 1.0), (5, 1.0))}, "sharpening must have odd sizes"),
        ({"saccade_deg": (3.0, 2.0)}, "saccade_deg must be .* 0 <= shortest < longest"),
        ({"quit_below": 2.0}, "quit_below must be between 0 and 1, got 2.0"),
        ({"px_per_degree": -1.0}, "px_per_degree must be above 0, got -1.0"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SearchConfig(**changes)


def test_unknown_taps_are_refused(network):
    with pytest.raises(
        ValueError, match="taps must be one of 'conv3_3', 'conv4_3', 'conv5_3', got 'conv6_1'"
    ):
        EccNet(network, SearchConfig(taps=("conv6_1",)))


def test_published_windows():
    paper = SearchConfig.paper()
    largest = [
        int(paper.law(stage, 30.0).windows(n, n).max())
        for stage, n in ((3, 202), (4, 101), (3, 340), (4, 170))
    ]
    assert largest == [7, 8, 12, 14]
    assert [paper.gaussians(side) for side in (1, 2, 3, 6)] == [
        ((3, 0.0), (5, 1.0)),
        ((3, 1.0), (5, 3.0)),
        ((3, 1.0), (5, 3.0)),
        ((5, 3.0), (7, 5.0)),
    ]


def reference_parts():
    """Return random weights under the published names, and the settings of a free search."""
    rng, weights, before = np.random.default_rng(0), {}, 3
    for block, n in enumerate((2, 2, 3, 3, 3), 1):
        for i in range(1, n + 1):
            kernel = rng.normal(size=(3, 3, before, 8)) * (2 / (9 * before)) ** 0.5
            weights[f"w_block{block}_conv{i}"] = kernel.astype(np.float32)
            weights[f"b_block{block}_conv{i}"] = rng.normal(size=8).astype(np.float32) * 0.5
            before = 8
    config = {
        "ecc_depth": 5,
        "pool": "avg",
        "out_layer": [0, 0, 1],
        "weight_pattern": "l",
        "dog": [[3, 0], [5, 1]],
        "corner_bias": 64,
        "ior_size": 45,
        "bg_value": 40,
        "NumFix": 5,
        "mode": "free",
    }
    return weights, config


def test_a_published_free_search():
    trial = make_trial(0, width=128)
    model = load_reference(*reference_parts())
    assert model.model.config.taps == ("conv5_3",)
    path = model.search(trial.image, trial.target, trial.cells)
    gaze = np.array(points(path))
    assert len(gaze) == 5
    for i, later in enumerate(gaze):
        inside = (later >= gaze[:i] - 22) & (later < gaze[:i] + 22)
        assert not inside.all(1).any()
    # Up to 125 a pixel of the mask does not count; a square of 44 px around a fixation is tested.
    mask = np.full(trial.image.shape[:2], 125, np.uint8)
    x, y = gaze[2].astype(int)
    mask[max(y - 22, 0), max(x - 22, 0)] = 126
    found = model.search(trial.image, trial.target, target_mask=mask)
    assert found.found
    assert points(found) == points(path)[: len(found)]
    assert len(found) <= 3


def test_reference_says_what_is_missing():
    weights, config = reference_parts()
    with pytest.raises(ValueError, match="config must hold 'dog', got NumFix, bg_value"):
        load_reference(weights, {key: value for key, value in config.items() if key != "dog"})
    with pytest.raises(ValueError, match=r"config\['out_layer'\] must hold three of 0 and 1"):
        load_reference(weights, {**config, "out_layer": [0, 0, 0]})
    with pytest.raises(ValueError, match="weights must hold 'b_block5_conv3'"):
        load_reference({k: v for k, v in weights.items() if k != "b_block5_conv3"}, config)
    with pytest.raises(ValueError, match=r"weights\['w_block1_conv2'\] must have shape \(3, 3, 8, output\)"):
        load_reference({**weights, "w_block1_conv2": np.zeros((3, 3, 5, 4))}, config)
