"""Scenes of objects, data sets of scanpaths, and the simulated searcher."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image
from scipy.optimize import minimize

from neuroattn.datasets import ObjectScene, ScanpathDataset, make_search_arrays, px_per_degree
from neuroattn.datasets.search_arrays import COVARIATES, WEIGHTS, search_covariates
from neuroattn.results import Scanpath

SIZE = (320, 240)
LABELS = ("observer", "image", "scene", "task", "condition", "target")


def path(x, y, *, size=SIZE, **fields):
    labels = {name: fields.pop(name) for name in list(fields) if name in (*LABELS, "correct")}
    return Scanpath(x, y, size, attrs=labels, **fields)


@pytest.fixture(scope="module")
def arrays():
    return make_search_arrays(n_scenes=8, n_observers=3, seed=0)


# Scenes


def test_the_smallest_box_that_contains_a_fixation_is_its_object():
    scene = ObjectScene([[0, 0, 200, 200], [50, 50, 40, 40], [60, 60, 100, 100]], SIZE)
    assert scene.assign([70, 120, 10, 300], [70, 120, 10, 10]).tolist() == [1, 2, 0, -1]


def test_boxes_hold_their_left_and_top_edge_but_not_the_others():
    scene = ObjectScene([[10, 20, 30, 40]], SIZE)
    assert scene.assign([10, 39.9, 40, 10], [20, 59.9, 20, 60]).tolist() == [0, 0, -1, -1]


@pytest.mark.parametrize(
    ("limit", "unit", "expected"),
    [
        (None, "px", -1),
        (9.9, "px", -1),
        (10, "px", 1),
        (1, "degree", -1),
        (2, "degree", 1),
        (np.inf, "px", 1),
    ],
)
def test_a_fixation_in_no_box_goes_to_the_nearest_centre_within_the_limit(limit, unit, expected):
    scene = ObjectScene([[0, 0, 4, 4], [20, 20, 4, 4]], SIZE, px_per_degree=5)
    assert scene.assign([22], [32], max_distance=limit, unit=unit).tolist() == [expected]


def test_degrees_need_pixels_per_degree():
    with pytest.raises(ValueError, match="max_distance in degrees must come with px_per_degree, got None"):
        ObjectScene([[0, 0, 4, 4]], SIZE).assign([9], [9], max_distance=1, unit="degree")


def test_a_scene_without_objects_is_background():
    scene = ObjectScene([], SIZE)
    assert scene.n_objects == 0
    assert scene.assign([1, 2], [3, 4], max_distance=np.inf).tolist() == [-1, -1]


def test_a_target_that_is_not_in_the_scene_matches_nothing():
    scene = ObjectScene([[0, 0, 9, 9]], SIZE, labels=["cup"], target_label="fork")
    assert not scene.matches_target.any()
    assert ObjectScene([[0, 0, 9, 9]] * 3, SIZE, target=1).matches_target.tolist() == [False, True, False]
    assert not ObjectScene([[0, 0, 9, 9]], SIZE).matches_target.any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"boxes": [[0, 0, 9, 0]]}, "boxes must be finite with width and height above 0, got"),
        ({"boxes": [[0, np.nan, 9, 9]]}, "boxes must be finite"),
        ({"size": (0, 3)}, r"size must be \(width, height\) in px, got \(0, 3\)"),
        ({"labels": ["a"]}, "labels must name each of 2 objects, got 1"),
        ({"target": 2}, "target must be the index of one of 2 objects, got 2"),
        ({"target": -1}, "target must be the index of one of 2 objects, got -1"),
        (
            {"labels": ["a", "b"], "target": 0, "target_label": "b"},
            "target must have the label 'b', got 'a'",
        ),
        ({"features": np.ones((3, 4))}, r"features must have shape \(2, feature\), got \(3, 4\)"),
        ({"features": np.ones((2, 4)), "exemplar_features": np.ones(3)}, "exemplar_features must have shape"),
        ({"grid": (2, 3)}, "grid must have a cell for each of 2 objects"),
        ({"image": np.zeros((240, 300, 3), np.uint8)}, "image must have the aspect ratio of size"),
    ],
)
def test_scenes_name_what_is_wrong(fields, message):
    with pytest.raises(ValueError, match=message):
        ObjectScene(**{"boxes": [[0, 0, 9, 9], [20, 0, 9, 9]], "size": SIZE} | fields)


def test_images_are_uint8():
    with pytest.raises(TypeError, match="image must be uint8 RGB"):
        ObjectScene([], SIZE, image=np.zeros((240, 320, 3)))


def test_grids_cover_the_image_in_raster_order():
    scene = ObjectScene.from_grid((300, 200), rows=2, columns=3, target=4)
    np.testing.assert_allclose(
        scene.boxes[[0, 2, 3]], [[0, 0, 100, 100], [200, 0, 100, 100], [0, 100, 100, 100]]
    )
    assert scene.grid == (2, 3)
    assert scene.matches_target.tolist() == [False] * 4 + [True, False]


def test_crops_are_what_lies_in_the_boxes(tmp_path):
    image = np.zeros((60, 100, 3), np.uint8)
    image[10:30, 20:50] = (10, 200, 30)
    Image.fromarray(image).save(tmp_path / "a.png")
    scene = ObjectScene.from_boxes(tmp_path / "a.png", [[20, 10, 30, 20], [-10, 0, 20, 10]])
    crops = scene.crops((6, 4))
    assert crops.shape == (2, 4, 6, 3)
    assert (crops[0] == (10, 200, 30)).all()
    assert (crops[1] == 0).all()


def test_pictures_of_another_scale_are_resized_and_boxes_keep_their_pixels():
    small = np.zeros((30, 50, 3), np.uint8)
    small[:, 25:] = 255
    scene = ObjectScene([[60, 0, 30, 50], [0, 0, 30, 50]], (100, 60), image=small)
    assert scene.pixels().shape == (60, 100, 3)
    assert scene.crops((3, 3)).mean((1, 2, 3)).tolist() == [255, 0]


def test_boxes_beyond_the_image_cannot_be_cropped():
    with pytest.raises(ValueError, match=r"boxes\[0\] must overlap the image"):
        ObjectScene([[200, 0, 9, 9]], (100, 60), image=np.zeros((60, 100, 3), np.uint8)).crops((3, 3))


def test_detectors_give_boxes_labels_and_features():
    image = np.zeros((60, 100, 3), np.uint8)
    scene = ObjectScene.from_detector(
        image, lambda pixels: ([[0, 0, *pixels.shape[:2]]], ["a"], [[1.0, 2.0]])
    )
    assert scene.boxes.tolist() == [[0, 0, 60, 100]]
    assert (scene.labels, scene.features.tolist()) == (("a",), [[1, 2]])
    assert ObjectScene.from_detector(image, lambda pixels: [[0, 0, 1, 1]]).labels is None
    with pytest.raises(
        ValueError, match=r"detect must return boxes\[, labels\[, features\]\], got a tuple of 4"
    ):
        ObjectScene.from_detector(image, lambda pixels: (1, 2, 3, 4))


def test_damaged_and_missing_images_are_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    scene = ObjectScene([], SIZE, image=tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png must be an image"):
        scene.pixels()
    with pytest.raises(FileNotFoundError, match=r"b\.png does not exist"):
        ObjectScene([], SIZE, image=tmp_path / "b.png").pixels()
    with pytest.raises(ValueError, match="scene 'shelf' must have an image, got none"):
        ObjectScene([], SIZE, name="shelf").pixels()


def test_px_per_degree_is_that_of_trigonometry():
    assert px_per_degree(57.29578, 40, 1600) == pytest.approx(40, rel=1e-4)  # 1 cm is 1 degree at 57.3 cm
    with pytest.raises(ValueError, match="width_cm must be above 0, got 0"):
        px_per_degree(60, 0, 1600)


# Data sets


def test_items_are_the_scanpaths_that_went_in():
    paths = [
        path(
            [1, 2], [3, 4], observer="a", image="i", target="cup", duration=[0.1, 0.2], found=True, correct=1
        ),
        path([], [], observer="b", image="i", target="cup", duration=[], found=None, correct=0),
        path(
            [9, 8, 7],
            [6, 5, 4],
            observer="a",
            image="j",
            target="cup",
            duration=[0.3, 0.4, 0.5],
            found=False,
            correct=1,
        ),
    ]
    dataset = ScanpathDataset.from_scanpaths(paths)
    for given, got in zip(paths, dataset, strict=True):
        np.testing.assert_array_equal(got.x, given.x)
        np.testing.assert_array_equal(got.y, given.y)
        np.testing.assert_array_equal(got.duration, given.duration)
        assert (got.found, got.image_size) == (given.found, SIZE)
        assert given.attrs.items() <= got.attrs.items()
    assert dataset[-1].x.tolist() == [9, 8, 7]
    assert dataset.data.duration.attrs["units"] == "s"
    with pytest.raises(IndexError):
        dataset[3]


def test_data_sets_are_cut_by_slices_indices_and_masks(arrays):
    some = arrays[[3, 0]]
    assert [p.attrs["scene"] for p in some] == [arrays[3].attrs["scene"], arrays[0].attrs["scene"]]
    assert set(some.scenes) == {arrays[3].attrs["scene"], arrays[0].attrs["scene"]}
    assert len(arrays[2:5]) == 3
    mask = arrays.data.observer.values == "2"
    assert {p.attrs["observer"] for p in arrays[mask]} == {"2"}
    with pytest.raises(ValueError, match=r"index must be a bool mask of shape \(24,\), got \(2,\)"):
        arrays[np.array([True, False])]


def test_fixations_outside_are_kept_flagged_and_counted():
    dataset = ScanpathDataset.from_scanpaths([path([-1, 5, 320], [5, 5, 5]), path([5], [240])])
    assert dataset.outside.values.tolist() == [[True, False, True], [True, False, False]]
    assert dataset.n_outside == 3
    assert "4 fixations (3 outside the image)" in repr(dataset)
    assert len(dataset[0]) == 3


def test_images_may_differ_in_size():
    dataset = ScanpathDataset.from_scanpaths([path([5], [5], size=(10, 20)), path([15], [5], size=(30, 20))])
    assert [p.image_size for p in dataset] == [(10, 20), (30, 20)]
    assert dataset.n_outside == 0
    assert dataset[1:].image_sizes.tolist() == [[30, 20]]


def test_what_paths_must_share_is_checked():
    with pytest.raises(ValueError, match="first_fixation must be the same in all paths"):
        ScanpathDataset.from_scanpaths([path([1], [1]), path([1], [1], first_fixation="free")])
    with pytest.raises(ValueError, match="paths must hold at least one scanpath, got none"):
        ScanpathDataset.from_scanpaths([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.drop_vars("length"), "data must have a variable length with dims"),
        (
            lambda d: d.assign(length=d.length + 1),
            "length must count the fixations of each trial, got 3 for trial 0",
        ),
        (lambda d: d.assign(x=d.x * np.nan), "length must count the fixations"),
        (
            lambda d: d.drop_attrs().assign_attrs(first_fixation="free"),
            "attribute or variable image_size, got neither",
        ),
        (lambda d: d.assign_attrs(first_fixation="first"), "first_fixation must be one of 'initial', 'free'"),
    ],
)
def test_malformed_data_are_refused(change, message):
    dataset = ScanpathDataset.from_scanpaths([path([1, 2], [3, 4])])
    with pytest.raises(ValueError, match=message):
        ScanpathDataset(change(dataset.data))


@pytest.mark.parametrize("by", ["image", "target", "observer", "trial"])
def test_no_group_is_on_both_sides(arrays, by):
    def groups(part):
        return (
            set(zip(part.data.observer.values, part.data.image.values, strict=True))
            if by == "trial"
            else set(part.data[by].values)
        )

    train, test = arrays.split(by=by, test_size=0.4, seed=3)
    assert not groups(train) & groups(test)
    assert len(train) + len(test) == len(arrays)
    assert len(test)
    folds = arrays.folds(by=by, n_folds=3, seed=3)
    assert sum(len(test) for _, test in folds) == len(arrays)
    assert all(not groups(train) & groups(test) for train, test in folds)


def test_splits_follow_their_seed(arrays):
    images = [set(arrays.split(seed=seed)[1].data.image.values) for seed in (0, 0, 1)]
    assert images[0] == images[1] != images[2]


def test_impossible_splits_are_refused(arrays):
    with pytest.raises(ValueError, match="test_size must be a share between 0 and 1, got 1"):
        arrays.split(test_size=1)
    with pytest.raises(ValueError, match="by must name a label with at least 2 values, got 1 of 'condition'"):
        arrays.split(by="condition")
    with pytest.raises(ValueError, match="by must be one of"):
        arrays.split(by="mood")


def test_objects_are_assigned_by_each_trials_scene():
    scenes = {
        "a": ObjectScene([[0, 0, 10, 10]], SIZE),
        "b": ObjectScene([[50, 0, 9, 9], [0, 0, 10, 10]], SIZE),
    }
    paths = [path([5, 99], [5, 5], scene="a"), path([5], [5], scene="b")]
    dataset = ScanpathDataset.from_scanpaths(paths, scenes=scenes).assign_objects()
    assert [p.objects.tolist() for p in dataset] == [[0, -1], [1]]
    near = dataset.assign_objects(max_distance=100)
    assert near[0].objects.tolist() == [0, 0]
    with pytest.raises(ValueError, match="trial 0 must have one of the 0 scenes, got ''"):
        ScanpathDataset.from_scanpaths([path([1], [1])]).assign_objects()


def test_merging_joins_neighbours_on_one_object_but_never_background_or_the_initial_fixation():
    one = path(
        range(7), [0] * 7, objects=[2, 2, 2, -1, -1, 2, 2], duration=np.full(7, 0.1), t_start=np.arange(7.0)
    )
    dataset = ScanpathDataset.from_scanpaths([one])
    merged = dataset.merge_consecutive()[0]
    assert merged.objects.tolist() == [2, 2, -1, -1, 2]
    np.testing.assert_allclose(merged.duration, [0.1, 0.2, 0.1, 0.1, 0.2])
    np.testing.assert_allclose(merged.x, [0, 1.5, 3, 4, 5.5])
    assert merged.t_start.tolist() == [0, 1, 3, 4, 5]
    assert dataset.drop_initial().merge_consecutive()[0].objects.tolist() == [2, -1, -1, 2]
    with pytest.raises(ValueError, match="merge_consecutive must have objects, got none"):
        ScanpathDataset.from_scanpaths([path([1], [1])]).merge_consecutive()


def test_the_initial_fixation_is_dropped_once(arrays):
    free = arrays.drop_initial()
    assert free.first_fixation == "free"
    np.testing.assert_array_equal(free[5].x, arrays[5].x[1:])
    assert free[5].n_saccades == arrays[5].n_saccades
    assert free[5].attrs == arrays[5].attrs
    assert free.drop_initial() is free


def test_tables_and_data_sets_hold_the_same(arrays):
    again = ScanpathDataset.from_frame(arrays.to_frame(), scenes=arrays.scenes, px_per_degree=16.0)
    xr.testing.assert_equal(again.data, arrays.data)


def test_rows_of_a_trial_need_not_stand_together_and_keep_their_order():
    table = pd.DataFrame(
        {"observer": ["a", "b", "a"], "x": [1, 2, 3], "y": [4, 5, 6], "mood": ["good", "bad", "good"]}
    )
    dataset = ScanpathDataset.from_frame(table, image_size=SIZE)
    assert [p.x.tolist() for p in dataset] == [[1, 3], [2]]
    assert [p.attrs["mood"] for p in dataset] == ["good", "bad"]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"x": [1]}, {}, "table must have a column 'y'"),
        ({"x": [1], "y": [1]}, {}, "table must have a column 'trial' or one of"),
        (
            {"x": [1], "y": [1], "trial": [7]},
            {"image_size": None},
            "image_size must be given .* None for trial 7",
        ),
        ({"x": [1, np.nan], "y": [1, 1], "trial": [7, 7]}, {}, "got for trial 7: x must be finite, got nan"),
    ],
)
def test_tables_name_what_is_wrong(columns, options, message):
    with pytest.raises(ValueError, match=message):
        ScanpathDataset.from_frame(pd.DataFrame(columns), **{"image_size": SIZE} | options)


def test_saved_data_sets_come_back_whole(arrays, tmp_path):
    arrays.save(tmp_path / "saved")
    again = ScanpathDataset.load(tmp_path / "saved")
    xr.testing.assert_equal(again.data, arrays.data)
    assert again.data.attrs["image_size"] == SIZE
    assert again.data.attrs["config"] == arrays.data.attrs["config"]
    for name, scene in arrays.scenes.items():
        np.testing.assert_array_equal(again.scenes[name].boxes, scene.boxes)
        np.testing.assert_array_equal(again.scenes[name].features, scene.features)
        np.testing.assert_array_equal(again.scenes[name].pixels(), scene.image)
        np.testing.assert_array_equal(again.scenes[name].exemplar_crop((9, 9)), scene.exemplar_crop((9, 9)))
        assert again.scenes[name].labels == scene.labels
        assert (again.scenes[name].target, again.scenes[name].target_label) == (
            scene.target,
            scene.target_label,
        )


def test_saving_leaves_nothing_half_written(tmp_path):
    scene = ObjectScene([], SIZE, name="a")
    good = ScanpathDataset.from_scanpaths([path([1], [1], scene="a")], scenes={"a": scene})
    good.save(tmp_path / "saved")
    before = sorted(tmp_path.rglob("*"))
    bad = ScanpathDataset(good.data.assign_attrs(mistake={1: 2}), good.scenes)
    with pytest.raises(TypeError):
        bad.save(tmp_path / "saved")
    assert sorted(tmp_path.rglob("*")) == before
    assert len(ScanpathDataset.load(tmp_path / "saved")) == 1


def test_damaged_saved_data_are_named(tmp_path):
    ScanpathDataset.from_scanpaths([path([1], [1])]).save(tmp_path / "saved")
    (tmp_path / "saved" / "scenes.json").write_text('{"a": {"boxes": [[0, 0]]}}')
    with pytest.raises(ValueError, match=r"scenes\.json must hold scenes"):
        ScanpathDataset.load(tmp_path / "saved")
    (tmp_path / "saved" / "fixations.nc").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"fixations\.nc must be netCDF"):
        ScanpathDataset.load(tmp_path / "saved")
    (tmp_path / "saved" / "fixations.nc").unlink()
    with pytest.raises(FileNotFoundError, match=r"fixations\.nc does not exist"):
        ScanpathDataset.load(tmp_path / "saved")


# The simulated searcher


def test_the_same_seed_simulates_the_same(arrays):
    again = make_search_arrays(n_scenes=8, n_observers=3, seed=0)
    xr.testing.assert_identical(again.data, arrays.data)
    assert not make_search_arrays(n_scenes=8, n_observers=3, seed=1).data.equals(arrays.data)


def test_everything_about_the_simulation_is_in_the_attributes(arrays):
    attrs = arrays.data.attrs
    assert attrs["simulated"] == 1
    assert "simulated" in attrs["source"]
    config = json.loads(attrs["config"])
    assert config["weights"] == WEIGHTS
    assert config["give_up"] == 0.02
    np.testing.assert_array_equal(attrs["observer_weights"].reshape(3, 5)[0], list(WEIGHTS.values()))


def test_simulated_fixations_lie_on_their_objects(arrays):
    assert arrays.n_outside == 0
    xr.testing.assert_equal(arrays.assign_objects().data.object, arrays.data.object)
    assert (arrays.data.object.values[:, 1] >= 0).all()
    for i, p in enumerate(arrays):
        scene = arrays.scene_of(i)
        assert scene.matches_target.sum() == 1
        assert p.found == bool(scene.matches_target[p.objects[-1]])
        assert not scene.matches_target[p.objects[1:-1]].all() or len(p) == 2


def test_boxes_are_free_of_each_other_and_full_of_their_objects(arrays):
    for scene in arrays.scenes.values():
        alone = ObjectScene(scene.boxes, scene.size)
        assert alone.assign(scene.x, scene.y).tolist() == list(range(scene.n_objects))
        assert (scene.crops((16, 16)).std((1, 2, 3)) > 10).all()
        kinds = dict(zip(scene.labels, scene.features, strict=True))
        own = np.corrcoef(scene.exemplar_features, kinds[scene.target_label])[0, 1]
        others = [
            np.corrcoef(scene.exemplar_features, f)[0, 1] for k, f in kinds.items() if k != scene.target_label
        ]
        assert own > max(others)


def test_planted_weights_are_those_of_the_choices():
    dataset = make_search_arrays(
        n_scenes=150, n_observers=4, stop_on_target=0.3, image_size=(160, 120), seed=2
    )
    covariates, chosen = [], []
    for i, p in enumerate(dataset):
        scene = dataset.scene_of(i)
        x, y, visited = SIZE[0] / 4, SIZE[1] / 4, np.zeros(scene.n_objects, bool)
        for k in p.objects[1:]:
            covariates.append(search_covariates(scene, x, y, visited.copy()))
            chosen.append(k)
            x, y, visited[k] = scene.x[k], scene.y[k], True
    covariates, rows = np.array(covariates), np.arange(len(chosen))

    def loss(weights):
        utility = covariates @ weights
        top = utility.max(1, keepdims=True)
        log_p = utility - top - np.log(np.exp(utility - top).sum(1, keepdims=True))
        residual = covariates[rows, chosen] - (np.exp(log_p)[..., None] * covariates).sum(1)
        return -log_p[rows, chosen].sum(), -residual.sum(0)

    fit = minimize(loss, np.zeros(len(COVARIATES)), jac=True)
    error = np.sqrt(np.diag(fit.hess_inv))
    assert (np.abs(fit.x - list(WEIGHTS.values())) < 3.5 * error).all()
    assert (np.abs(fit.x) > 2 * error).all(), "enough trials to tell the weights from nothing"


def test_observers_differ_only_as_far_as_asked():
    spread = make_search_arrays(n_scenes=1, n_observers=50, observer_spread=0.2, duration_spread=0, seed=0)
    weights = spread.data.attrs["observer_weights"].reshape(50, 5)
    assert weights.std(0) / np.abs(list(WEIGHTS.values())) == pytest.approx(0.2, rel=0.4)
    medians = np.log([p.duration[0] for p in spread])
    assert medians.std() == pytest.approx(0.2, rel=0.4)
    assert np.exp(medians).mean() == pytest.approx(0.25, rel=0.15)


def test_grids_are_searched_too():
    dataset = make_search_arrays(n_scenes=2, n_observers=1, grid=(3, 4), weights={"target": 0}, seed=0)
    assert dataset.scene_of(0).grid == (3, 4)
    assert json.loads(dataset.data.attrs["config"])["weights"]["target"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"colour": 1}}, "weights must be of centre, .* got 'colour'"),
        ({"n_objects": 1}, "n_objects must be at least 2, got 1"),
        ({"give_up": 2}, "give_up must be between 0 and 1, got 2"),
        ({"image_size": (8, 8)}, "image_size must give each object at least 4 px"),
    ],
)
def test_impossible_simulations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_search_arrays(**{"n_scenes": 1, "n_observers": 1, "seed": 0} | options)
