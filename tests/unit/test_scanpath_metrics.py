"""Scanpath metrics: small cases by hand, what is not defined, and bad input."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from neuroattn.metrics import (
    Simplification,
    auc,
    behaviour_delta,
    behaviour_vector,
    bits_per_fixation,
    cc,
    crossed_bootstrap,
    edit_distance,
    fixation_map,
    found_curve,
    grid_edit_distance,
    information_gain,
    inter_observer,
    length_matched,
    map_consistency,
    multimatch,
    multimatch_pairs,
    nss,
    probability_mismatch,
    saccades_to_target,
    same_observer,
    scanmatch,
    scanpath_ratio,
    sequence_score,
    sim,
    stde,
    tde,
)
from neuroattn.results import Scanpath

SIZE = (80, 60)


def scanpath(x, y, **options):
    return Scanpath(x, y, **({"image_size": SIZE, "first_fixation": "free"} | options))


def of_people(n_images=3, n_observers=3, n=6, seed=0, **options):
    """Scanpaths that cluster around a place of each image."""
    rng = np.random.default_rng(seed)
    paths = []
    for image in range(n_images):
        place = rng.uniform(15, 45, 2)
        for observer in range(n_observers):
            x, y = rng.normal(place, 3, (n, 2)).T
            attrs = {"image": f"{image}.jpg", "observer": str(observer)}
            duration = rng.uniform(0.1, 0.4, n)
            paths.append(scanpath(x, y, attrs=attrs, duration=duration, **options))
    return paths


# Sequences


def test_sequences_may_be_strings_numbers_scanpaths_or_tables():
    path = scanpath([1, 2, 3], [1, 2, 3], objects=[4, 5, 4])
    table = pd.DataFrame({"objects": [4, 4]})
    assert (
        sequence_score(path, table)
        == sequence_score("ABA", "AA")
        == sequence_score([4, 5, 4], (4, 4))
        == 2 / 3
    )
    assert edit_distance(path, table) == edit_distance("ABA", "AA") == 1


def test_empty_sequences():
    assert sequence_score("", "AB") == sequence_score([], [1, 2]) == 0
    assert np.isnan(sequence_score("", ""))
    assert edit_distance("", "AB") == 2
    assert edit_distance([], []) == 0
    nothing = {"x": [], "y": [], "duration": []}
    something = {"x": [1], "y": [1], "duration": [0.2]}
    assert scanmatch(nothing, something, image_size=SIZE) == 0
    assert np.isnan(scanmatch(nothing, nothing, image_size=SIZE))
    assert np.isnan(stde(nothing, something, image_size=SIZE))
    assert np.isnan(tde(nothing, something, window=1))


def test_bins_of_duration_are_whole():
    """0.15 s are three bins of 0.05 s although 0.15 / 0.05 is below 3 in binary; 0.04 s is none."""
    one = {"objects": [7, 8], "duration": [0.15, 0.04]}
    assert edit_distance(one, {"objects": [7], "duration": [0.05]}, duration_bin=0.05) == 2


def test_scanmatch_rounds_durations_and_needs_none_without_bins():
    a = {"x": [10, 70], "y": [10, 50], "duration": [0.14, 0.16]}
    b = {"x": [10, 70, 70], "y": [10, 50, 50], "duration": [0.1, 0.1, 0.1]}
    assert scanmatch(a, b, image_size=SIZE) == 1
    places = [{name: path[name] for name in "xy"} for path in (a, b)]
    assert scanmatch(*places, temporal_bin=None, image_size=SIZE) == pytest.approx(2 / 3)


def test_fixations_outside_the_image_belong_to_the_nearest_cell():
    outside, inside = {"x": [-5, 95], "y": [70, -1]}, {"x": [0, 79], "y": [59, 0]}
    assert grid_edit_distance(outside, inside, image_size=SIZE) == 0
    assert scanmatch(outside, inside, temporal_bin=None, image_size=SIZE) == 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: sequence_score(p, p), ValueError, "a must hold the fixated 'objects', got none"),
        (
            lambda p: sequence_score("AB", "AB", duration_bin=0.1),
            ValueError,
            "a must be a scanpath with durations",
        ),
        (
            lambda p: sequence_score(5, "AB"),
            TypeError,
            "a must be a Scanpath or hold named arrays .* got int",
        ),
        (
            lambda p: sequence_score([[1, 2]], "AB"),
            ValueError,
            r"a must have shape \(fixation,\), got \(1, 2\)",
        ),
        (lambda p: sequence_score("A", "B", gap=0.5), ValueError, "gap must be at most 0, got 0.5"),
        (lambda p: scanmatch(p, p, grid=(0, 3)), ValueError, r"grid must be \(columns, rows\)"),
        (lambda p: scanmatch(p, p), ValueError, "a must hold 'duration' in seconds, got none"),
        (lambda p: scanmatch(p, p, threshold=0), ValueError, "threshold must be above 0 cells, got 0"),
        (
            lambda p: scanmatch({"x": [1], "y": [1], "duration": [0.2]}, p, temporal_bin=0, image_size=SIZE),
            ValueError,
            "a bin of duration must be above 0 s, got 0",
        ),
        (lambda p: stde(p, {"x": [1], "y": [1]}), ValueError, "image_size must be given"),
        (lambda p: stde(p, scanpath([1], [1], image_size=(9, 9))), ValueError, "image_size must be given"),
        (lambda p: stde({"x": [1]}, p, image_size=SIZE), ValueError, "a must hold 'y' in px, got none"),
        (lambda p: stde(p, p, image_size=(0, 5)), ValueError, r"image_size must be \(width, height\) in px"),
        (
            lambda p: stde({"x": [1, np.nan], "y": [1, 2]}, p, image_size=SIZE),
            ValueError,
            r"a\['x'\] must be finite, got nan",
        ),
        (
            lambda p: stde({"x": [1, 2], "y": [1]}, p, image_size=SIZE),
            ValueError,
            r"a\['y'\] must have shape \(2,\), got \(1,\)",
        ),
        (
            lambda p: scanmatch({"x": [1], "y": [1], "duration": [-1]}, p, image_size=SIZE),
            ValueError,
            r"a\['duration'\] must be finite and not negative, got -1.0 s",
        ),
        (lambda p: tde(p, p, window=0), ValueError, "window must be at least 1, got 0"),
        (lambda p: behaviour_vector(p), TypeError, "paths must be a sequence of scanpaths, got one Scanpath"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(scanpath([1, 2, 3], [1, 2, 3]))


def test_milliseconds_are_noticed():
    path = {"x": [1, 2, 3], "y": [1, 2, 3], "duration": [200, 300, 250]}
    with pytest.warns(UserWarning, match=r"a\['duration'\] has a mean of 250 s; are these milliseconds\?"):
        multimatch(path, {**path, "duration": [0.2, 0.3, 0.2]}, image_size=SIZE)


# MultiMatch


def test_multimatch_gives_the_reason_of_nan():
    long, short = scanpath([1, 2, 3], [1, 2, 3], duration=[0.1] * 3), scanpath([1], [1], duration=[0.1])
    result = multimatch_pairs([long, long, short], [long, short, scanpath([], [])])
    assert result.notnull().all("dimension").values.tolist() == [True, False, False]
    assert result.isnull().all("dimension").values.tolist() == [False, True, True]
    assert result.reason.values.tolist() == [
        "",
        "b has 1 fixation, at least 3 are needed",
        "a has 1 fixation, at least 3 are needed; b has 0 fixations, at least 3 are needed",
    ]


def test_multimatch_without_durations_knows_four_dimensions():
    timed = scanpath([1, 9, 3, 5], [1, 2, 8, 4], duration=[0.1, 0.2, 0.3, 0.4])
    untimed = scanpath([1, 9, 3], [1, 2, 8])
    result = multimatch_pairs([timed, timed], [untimed, timed])
    assert result.isnull().values.tolist() == [[False] * 4 + [True], [False] * 5]
    assert result.reason.values.tolist() == ["no durations in both", ""]
    assert np.isfinite(result.values[0, :4]).all()
    with pytest.raises(ValueError, match="a and b must hold 'duration' in seconds where simplify is given"):
        multimatch(timed, untimed, simplify=Simplification(direction=1, amplitude=1, duration=1))


def test_multimatch_of_pairs_of_unlike_sizes():
    """Pairs of different images, lengths and places in the list keep their places."""
    rng = np.random.default_rng(0)
    a, b = (
        [
            scanpath(*rng.uniform(0, 50, (2, n)), duration=rng.uniform(0, 1, n), image_size=(60 + k, 50))
            for k, n in sizes
        ]
        for sizes in ([(0, 5), (1, 40), (2, 3)], [(0, 30), (1, 4), (2, 3)])
    )
    together = multimatch_pairs(a, b)
    np.testing.assert_allclose(together, [multimatch(x, y) for x, y in zip(a, b, strict=True)])
    assert together.dims == ("pair", "dimension")
    with pytest.raises(ValueError, match="b must hold as many scanpaths as a, 3, got 2"):
        multimatch_pairs(a, b[:2])
    assert multimatch_pairs([], []).shape == (0, 5)


def simplified(path, **rule):
    """MultiMatch of a scanpath with one that is already simple: 1 wherever the simplified one equals it."""
    return partial(multimatch, path, image_size=(1000, 1000), simplify=Simplification(**rule))


def test_saccades_in_line_are_joined_unless_the_fixation_between_is_long():
    path = {"x": [0, 100, 205, 205], "y": [0, 0, 5, 300], "duration": [0.2, 0.1, 0.3, 0.2]}
    simple = {"x": [0, 205, 205], "y": [0, 5, 300], "duration": [0.2, 0.3, 0.2]}
    joined = simplified(path, direction=20, amplitude=0, duration=0.15)(simple)
    np.testing.assert_allclose(joined, 1)
    assert (simplified(path, direction=20, amplitude=0, duration=0.05)(simple) < 1).any()


def test_short_saccades_are_joined_with_the_next():
    path = {"x": [0, 20, 200, 200], "y": [0, 20, 0, 300], "duration": [0.2, 0.1, 0.3, 0.2]}
    simple = {"x": [0, 200, 200], "y": [0, 0, 300], "duration": [0.2, 0.3, 0.2]}
    np.testing.assert_allclose(simplified(path, direction=0, amplitude=50, duration=0.15)(simple), 1)


def test_a_short_last_saccade_joins_what_is_before_it():
    """The saccade before it has been joined itself: the published code counts a part of it twice instead."""
    path = {"x": [0, 0, 20, 300, 320], "y": [0, 300, 320, 320, 330], "duration": [0.5, 0.1, 0.5, 0.1, 0.5]}
    simple = {"x": [0, 0, 320], "y": [0, 300, 330], "duration": [0.5, 0.1, 0.5]}
    rule = {"direction": 0, "amplitude": 50, "duration": 0.2}
    np.testing.assert_allclose(simplified(path, **rule)(simple), 1)
    published = simplified(path, **rule, published_end=True)(simple)
    assert published.sel(dimension="shape") < 1


def test_a_standing_saccade_has_no_direction():
    path = {"x": [0, 100, 100], "y": [0, 0, 0], "duration": [0.1] * 3}
    simple = {**path, "duration": [0.5] * 3}
    joined = simplified(path, direction=10, amplitude=0, duration=0.2)(simple)
    assert joined.sel(dimension="shape") == 1


def test_everything_may_be_joined_into_one_saccade():
    path = {"x": [0, 1, 2, 3], "y": [0, 1, 0, 1], "duration": [0.1] * 4}
    for published_end in (False, True):
        rule = {"direction": 90, "amplitude": 50, "duration": 0.2, "published_end": published_end}
        assert simplified(path, **rule)(path).notnull().all()


def test_rules_of_simplification_are_checked():
    with pytest.raises(ValueError, match="direction must be between 0 and 180, got 200"):
        Simplification(direction=200, amplitude=1, duration=1)


# Search


def test_behaviour_of_an_empty_scanpath_is_its_length():
    vector = behaviour_vector([{"objects": np.array([], int)}, {"objects": [3]}], targets=[3, 3])
    assert vector.sel(component="length").values.tolist() == [0, 1]
    assert vector.isel(trial=0).count() == 1
    assert np.isnan(behaviour_vector([{"objects": [3]}]).sel(component="correct"))
    with pytest.raises(ValueError, match=r"targets must have shape \(2,\), got \(1,\)"):
        behaviour_vector([{"objects": [3]}] * 2, targets=[3])


def test_delta_leaves_out_what_people_never_do():
    people = behaviour_vector([{"objects": [0, 1]}], targets=[1])  # no refixation, no revisit
    model = behaviour_vector([{"objects": [0, 1, 1]}], targets=[0])
    result = behaviour_delta(model, people)
    assert np.isnan(result.error.sel(component=["refix", "revisit"])).all()
    assert result.n_components == 3
    assert result.delta == pytest.approx(np.mean([1, 0.5, 1 / 3]))


def test_saccades_to_target_by_box_and_by_object():
    box = [[10, 10, 20, 20]]
    on_border = {"x": [5, 10, 20], "y": [5, 20, 20]}
    assert saccades_to_target([on_border], boxes=box).item() == 2
    chosen = scanpath([20, 5], [20, 5], objects=[4, 1])
    began = scanpath([20, 5], [20, 5], objects=[4, 1], first_fixation="initial")
    assert saccades_to_target([chosen, began], boxes=box * 2).values.tolist() == [1, 0]
    assert saccades_to_target([chosen, began, chosen], targets=[1, 1, 9]).values.tolist()[:2] == [2, 1]
    assert np.isnan(saccades_to_target([chosen], targets=[9]).item())
    with pytest.raises(ValueError, match="either boxes or targets must be given, got both"):
        saccades_to_target([chosen], boxes=box, targets=[1])
    with pytest.raises(ValueError, match="boxes must have no negative width or height, got -2"):
        saccades_to_target([chosen], boxes=[[1, 1, -2, 3]])


def test_labels_of_scanpaths_become_coordinates():
    paths = of_people(n_images=2, n_observers=2, objects=[0, 1, 2, 3, 4, 5])
    boxes = [[0, 0, 80, 60]] * 4
    for result in (
        behaviour_vector(paths),
        saccades_to_target(paths, targets=[0, 1, 2, 9]),
        scanpath_ratio(paths, boxes=boxes),
    ):
        assert result.image.values.tolist() == ["0.jpg", "0.jpg", "1.jpg", "1.jpg"]
        assert result.observer.values.tolist() == ["0", "1", "0", "1"]
    assert "image" not in behaviour_vector([*paths, {"objects": [1]}]).coords


def test_found_curves_of_groups_weigh_alike():
    curve = found_curve([0, 1, np.nan, 1], max_saccades=1, groups=["cup", "car", "car", "car"])
    np.testing.assert_allclose(curve, [(1 + 0) / 2, (1 + 2 / 3) / 2])
    assert found_curve([], max_saccades=1).isnull().all()
    with pytest.raises(ValueError, match="reference must run over the saccades of curve, 0 to 1, got 0 to 2"):
        probability_mismatch(curve, found_curve([1], max_saccades=2))


def test_scanpath_ratio_is_capped_and_missing():
    box = [[40, 0, 20, 20]]
    straight = {"x": [0, 41], "y": [10, 10]}  # stops before the centre
    bent = {"x": [0, 0, 50, 0], "y": [10, 40, 10, 0]}
    never = {"x": [0, 1], "y": [0, 1]}
    ratio = scanpath_ratio([straight, bent, never, {"x": [50], "y": [10]}], boxes=box * 4)
    np.testing.assert_allclose(ratio, [1, 50 / (30 + np.hypot(50, 30)), np.nan, 1])


# Maps


def test_a_fixation_map_lies_where_the_fixations_are():
    path = scanpath([40, 70.9, 200], [30, 5, 5], first_fixation="initial")
    density = fixation_map(path, sigma=0, edge="cut")
    assert density.dims == ("y", "x")
    assert density.shape == (60, 80)
    assert density[5, 70] == density.sum() == 1  # neither the initial one nor the one outside
    assert density.attrs["n_fixations"] == density.attrs["n_outside"] == 1
    assert density.attrs["sigma_px"] == 0
    blurred = fixation_map(path, sigma=3, edge="reflect")
    assert np.unravel_index(blurred.values.argmax(), blurred.shape) == (5, 70)


def test_edges_of_fixation_maps():
    corner = {"x": [0], "y": [0]}
    cut, reflected = (
        fixation_map(corner, sigma=2, edge=edge, image_size=SIZE) for edge in ("cut", "reflect")
    )
    assert cut.sum() == pytest.approx(0.36, abs=0.01)  # (.5 + half of the middle pixel) squared
    assert reflected.sum() == pytest.approx(1)
    assert fixation_map([], sigma=2, edge="cut", image_size=SIZE).sum() == 0
    with pytest.raises(ValueError, match="edge must be one of 'reflect', 'cut', got 'wrap'"):
        fixation_map(corner, sigma=2, edge="wrap", image_size=SIZE)


def test_scores_of_maps_are_nan_without_fixations_or_contrast():
    saliency = np.arange(12.0).reshape(3, 4)
    outside = {"x": [9], "y": [9]}
    assert np.isnan(nss(saliency, outside))
    assert np.isnan(auc(saliency, outside, kind="uniform"))
    assert np.isnan(information_gain(saliency, saliency, outside))
    assert np.isnan(auc(saliency, {"x": [1], "y": [1]}, kind="shuffled", elsewhere=outside))
    assert np.isnan(nss(np.full((3, 4), 0.1), {"x": [1], "y": [1]}))
    assert auc(np.zeros((3, 4)), {"x": [1], "y": [1]}, kind="judd") == 0.5
    assert np.isnan(cc(np.zeros((3, 4)), saliency))


def test_initial_fixations_are_not_scored():
    saliency = np.zeros((60, 80))
    saliency[10, 20] = 1
    began, chosen = (scanpath([20, 50], [10, 50], first_fixation=first) for first in ("initial", "free"))
    assert auc(saliency, began, kind="uniform") < 0.5 < auc(saliency, chosen, kind="uniform")
    assert nss(saliency, began) < 0 < nss(saliency, chosen)


def test_borji_draws_pixels():
    saliency = np.random.default_rng(0).normal(size=(20, 30))
    at = {"x": np.arange(30), "y": np.arange(30) % 20}
    exact = auc(saliency, at, kind="uniform")
    drawn = [auc(saliency, at, kind="borji", seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    np.testing.assert_allclose(drawn, exact, atol=0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, f: auc(m, f, kind="shuffled"),
            "elsewhere must hold the fixations on other images .* NoneType",
        ),
        (
            lambda m, f: auc(m, f, kind="judd", elsewhere=f),
            "elsewhere must be left out for kind 'judd', got dict",
        ),
        (lambda m, f: auc(m, f, kind="roc"), "kind must be one of 'judd', 'borji', 'shuffled', 'uniform'"),
        (lambda m, f: nss(m[0], f), r"saliency must have shape \(y, x\), got \(4,\)"),
        (lambda m, f: nss(m * np.nan, f), "saliency must be finite, got nan"),
        (lambda m, f: information_gain(-m, m, f), "density must not be negative and must sum to more than 0"),
        (lambda m, f: information_gain(m, m.T, f), r"baseline must have shape \(3, 4\), got \(4, 3\)"),
        (lambda m, f: sim(m, 0 * m), "b must not be negative and must sum to more than 0"),
        (lambda m, f: cc(m, m.T), r"b must have shape \(3, 4\), got \(4, 3\)"),
        (
            lambda m, f: nss(m, scanpath([1], [1])),
            r"fixations must lie on an image of the size of the map, \(4, 3\), got \(80, 60\)",
        ),
    ],
)
def test_bad_maps_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.arange(12.0).reshape(3, 4), {"x": [1], "y": [1]})


def test_no_kind_of_auc_is_the_default():
    with pytest.raises(TypeError, match="kind"):
        auc(np.eye(3), {"x": [1], "y": [1]})


def test_information_gain_and_bits():
    density, flat = np.array([[0.5, 0.25, 0.25, 0.0]]), np.ones((1, 4))
    assert information_gain(8 * density, flat, {"x": [0], "y": [0]}) == 1
    assert information_gain(density, flat, {"x": [0, 3], "y": [0, 0]}) == -np.inf
    log_prob = xr.DataArray(np.log([0.5, 0.25]), dims="fixation")
    gain = bits_per_fixation(log_prob, baseline=xr.full_like(log_prob, np.log(0.25)))
    np.testing.assert_allclose(gain, [1, 0], atol=1e-12)
    assert gain.attrs == {"units": "bits", "gain": 1}


def test_maps_compared():
    a, b = np.array([[1.0, 2, 3]]), np.array([[3.0, 2, 1]])
    assert cc(a, 2 * a + 1) == pytest.approx(1)
    assert cc(a, b) == pytest.approx(-1)
    assert sim(a, 7 * a) == pytest.approx(1)
    assert sim(a, b) == pytest.approx(4 / 6)


# Anchors


def test_inter_observer_never_compares_an_observer_with_himself():
    seen = []

    def record(a, b):
        seen.append((a.attrs, b.attrs))
        return 1.0

    paths = of_people()
    paths.append(paths[0])  # the same observer saw the image twice
    result = inter_observer(paths, record)
    assert all(a["image"] == b["image"] and a["observer"] != b["observer"] for a, b in seen)
    assert result.n_pairs.values.tolist() == [2, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert result.attrs["anchor"] == "inter-observer consistency"
    assert result.observer.values.tolist()[:3] == ["0", "1", "2"]


def test_inter_observer_averages_over_the_others():
    paths = of_people(n_images=1)
    expected = (stde(paths[1], paths[0]) + stde(paths[2], paths[0])) / 2
    assert inter_observer(paths, stde)[0] == pytest.approx(expected)
    alone = inter_observer([paths[0]], stde)
    assert np.isnan(alone.item())
    assert alone.n_pairs.item() == 0


def test_what_makes_scanpaths_comparable_can_be_more_than_the_image():
    paths = of_people(n_images=1, n_observers=4)
    for path, target in zip(paths, ("cup", "cup", "car", "car"), strict=True):
        path.attrs["target"] = target
    assert inter_observer(paths, stde).n_pairs.values.tolist() == [3] * 4
    assert inter_observer(paths, stde, by=("image", "target")).n_pairs.values.tolist() == [1] * 4


def test_metrics_of_many_pairs_and_of_many_dimensions():
    paths = of_people()
    alone = inter_observer(paths, multimatch)
    together = inter_observer(paths, multimatch_pairs, batched=True)
    xr.testing.assert_allclose(alone.drop_attrs(), together.drop_attrs())
    assert together.dims == ("trial", "dimension")
    assert together.dimension.values.tolist()[0] == "shape"
    short = of_people(n_images=1, n=2)
    assert inter_observer(short, multimatch_pairs, batched=True).isnull().all()


def test_same_observer_on_another_image():
    seen = []

    def record(a, b):
        seen.append((a.attrs["image"] != b.attrs["image"], a.attrs["observer"] == b.attrs["observer"]))
        return stde(a, b)

    paths = of_people(n_images=4)
    one, again, other = (same_observer(paths, record, seed=seed, n_draws=2) for seed in (0, 0, 1))
    assert set(seen) == {(True, True)}
    assert (one.n_pairs == 2).all()
    xr.testing.assert_identical(one, again)
    assert (one != other).any()
    assert (same_observer(paths, stde, seed=0, n_draws=99).n_pairs == 3).all()
    assert (one.mean() < inter_observer(paths, stde).mean()).item()


def test_length_matched_scanpaths_keep_what_was_not_chosen():
    seen = []

    def record(a, b):
        seen.append((a, b))
        return 0.0

    paths = of_people(first_fixation="initial", objects=[5, 4, 3, 2, 1, 0])
    result = length_matched(paths, record, seed=0, n_draws=2, n_objects=6)
    assert (result.n_pairs == 2).all()
    for a, b in seen:
        assert len(a) == len(b)
        assert (a.x[0], a.y[0], a.objects[0]) == (b.x[0], b.y[0], b.objects[0])
        assert not np.isin(a.x[1:], b.x).any()
        assert not a.outside.any()
        np.testing.assert_array_equal(a.duration, b.duration)
    drawn = np.concatenate([a.objects[1:] for a, _ in seen])
    assert set(drawn) == set(range(6))
    with pytest.raises(
        ValueError, match="n_objects must be given where the scanpaths hold objects, got none"
    ):
        length_matched(paths, record, seed=0)


def test_paths_without_names_are_refused():
    with pytest.raises(ValueError, match=r"paths\[0\] must be a Scanpath whose attrs name its image"):
        inter_observer([scanpath([1], [1])], stde)
    with pytest.raises(ValueError, match=r"paths\[0\] must be a Scanpath whose attrs name its observer"):
        inter_observer([scanpath([1], [1], attrs={"image": "a", "observer": ""})], stde)


def test_maps_of_other_observers_and_of_other_images():
    """The metric is called with the map of the others, the observer's fixations, and those on other images."""
    calls = []

    def record(saliency, fixations, elsewhere):
        calls.append((saliency, fixations, elsewhere))
        return float(len(calls))

    paths = of_people(n_images=4, n_observers=3)
    result = map_consistency(paths, {"call": record}, sigma=2, edge="cut")
    assert result.inter_observer.dims == ("metric", "trial")
    assert result.attrs["n_images"] == 4
    assert result.attrs["sigma_px"] == 2
    assert result.attrs["n_outside"] == 0
    saliency, fixations, elsewhere = calls[0]
    assert fixations is paths[0]
    np.testing.assert_allclose(saliency, fixation_map(paths[1:3], sigma=2, edge="cut"))
    np.testing.assert_allclose(elsewhere["x"], np.concatenate([p.x for p in paths[6:9]]))  # third image
    prior = calls[1][0]
    np.testing.assert_allclose(prior, fixation_map(paths[3:6] + paths[9:], sigma=2, edge="cut"))


def test_positions_on_images_of_other_sizes_are_shares():
    small = [scanpath([20], [15], image_size=(40, 30), attrs={"image": "a", "observer": o}) for o in "12"]
    large = [scanpath([40], [30], attrs={"image": "b", "observer": o}) for o in "12"]
    result = map_consistency(
        small + large,
        {"NSS": lambda saliency, fixations, elsewhere: nss(saliency, fixations)},
        sigma=1,
        edge="cut",
    )
    np.testing.assert_allclose(result.prior, result.inter_observer)
    assert np.isnan(
        map_consistency(small[:1], {"NSS": lambda *given: 1.0}, sigma=1, edge="cut").inter_observer
    ).all()


# Intervals


def test_crossed_intervals_cover_other_images_and_observers():
    """With effects of both, the interval of the mean misses the truth about as often as it says."""
    rng = np.random.default_rng(0)
    hits, n = [], 150
    for _ in range(n):
        score = rng.normal(size=(15, 1)) + rng.normal(size=(1, 12)) + rng.normal(size=(15, 12))
        table = xr.DataArray(
            score, dims=("image", "observer"), coords={"image": range(15), "observer": range(12)}
        )
        low, high = crossed_bootstrap(table, n_resamples=200, seed=rng).interval.values
        hits.append(low < 0 < high)
    assert 0.86 < np.mean(hits) < 0.99


def test_crossed_bootstrap_of_one_unit_is_the_usual_one():
    values = np.random.default_rng(0).normal(size=200)
    table = xr.DataArray(
        values, dims="trial", coords={"image": ("trial", range(200)), "observer": ("trial", [1] * 200)}
    )
    result = crossed_bootstrap(table, n_resamples=4000)
    half = np.diff(result.interval)[0] / 2
    assert half == pytest.approx(1.96 * values.std() / np.sqrt(200), rel=0.08)
    assert result.n_image == 200
    assert result.n_observer == 1
    xr.testing.assert_identical(result, crossed_bootstrap(table, n_resamples=4000))


def test_pooled_values_weigh_by_their_number():
    """Bits of a long trial count as often as it has fixations; other dims stay."""
    bits = xr.DataArray(
        [[[1, 1, 1], [5, np.nan, np.nan]], [[2, 2, 2], [2, np.nan, np.nan]]],
        dims=("model", "trial", "fixation"),
        coords={"model": ["a", "b"], "image": ("trial", ["i", "j"]), "observer": ("trial", ["1", "1"])},
    )
    result = crossed_bootstrap(bits, pool=("fixation",), n_resamples=50)
    assert result["mean"].dims == ("model",)
    assert result["mean"].sel(model="a").item() == 2
    assert result.interval.sel(model="a").values.tolist() == [1, 5]
    assert result.interval.sel(model="b").values.tolist() == [2, 2]
    assert crossed_bootstrap(bits * np.nan, pool=("fixation",))["mean"].isnull().all()


def test_infinite_values_are_not_left_out():
    """A model that deems a fixation impossible has infinite bits, and no resample without it hides them."""
    bits = xr.DataArray([1.0, 1.0, np.inf], dims="trial", coords={"image": ("trial", [1, 2, 3])})
    result = crossed_bootstrap(bits, units=["image"])
    assert result["mean"] == np.inf
    assert result.interval.values.tolist() == [1, np.inf]


def test_units_must_be_named():
    with pytest.raises(ValueError, match="values must have a coordinate 'image' along one dimension"):
        crossed_bootstrap(xr.DataArray([1.0, 2.0], dims="trial"))
