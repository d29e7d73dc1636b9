"""Files of scanpaths: what they hold, what is wrong with them, and the published data sets."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import savemat

from neuroattn.cli import main
from neuroattn.datasets import (
    SCANPATH_LAYOUTS,
    ObjectScene,
    ScanpathDataset,
    load_book_covers,
    load_coco_search18,
    load_events,
    load_multimatch,
    load_objarr,
    load_osie,
    load_pysaliency,
    load_scanpaths,
    load_visions,
    make_search_arrays,
    write_coco_search18,
    write_events,
    write_multimatch,
    write_objarr,
    write_osie,
    write_pysaliency,
    write_scanpaths,
    write_visions,
)
from neuroattn.results import Scanpath

TRIAL = {
    "name": "000000000001.jpg",
    "subject": 3,
    "task": "cup",
    "condition": "present",
    "bbox": [100, 200, 50, 40],
    "X": [840.0, 120.5],
    "Y": [525.0, 210.0],
    "T": [200, 300],
    "length": 2,
    "correct": 1,
    "RT": 640,
    "split": "train",
}
INSTANCES = {
    "images": [{"id": 7, "file_name": "000000000001.jpg", "width": 640, "height": 480}],
    "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "fork"}],
    "annotations": [
        {"image_id": 7, "category_id": 2, "bbox": [0, 0, 640, 480], "iscrowd": 0},
        {"image_id": 7, "category_id": 1, "bbox": [0, 90, 20, 20], "iscrowd": 0},
        {"image_id": 7, "category_id": 1, "bbox": [10, 10, 20, 20], "iscrowd": 1},
    ],
}


@pytest.fixture(scope="module")
def arrays():
    return make_search_arrays(n_scenes=2, n_observers=2, seed=0)


def write(folder, *changes, name="coco_search18_fixations_TP_train_split1.json"):
    """Write a trial for each change; a value of ... leaves the entry out."""
    trials = [{k: v for k, v in (TRIAL | change).items() if v is not ...} for change in changes]
    (folder / name).write_text(json.dumps(trials))
    return folder / name


# COCO-Search18


def test_durations_are_read_as_ms_and_labels_as_text(tmp_path):
    dataset = load_coco_search18(write(tmp_path, {}))
    assert dataset[0].duration.tolist() == [0.2, 0.3]
    assert dataset[0].found
    assert dataset.first_fixation == "initial"
    attrs = dataset[0].attrs
    assert (attrs["observer"], attrs["target"], attrs["scene"]) == ("3", "cup", "cup/000000000001.jpg")
    assert (attrs["response_time"], attrs["correct"], attrs["split"]) == (0.64, 1, "train")


def test_wrong_responses_are_left_out_unless_asked_for(tmp_path):
    file = write(tmp_path, {}, {"correct": 0, "X": [5, 6], "subject": 4})
    assert [p.attrs["observer"] for p in load_coco_search18(file)] == ["3"]
    both = load_coco_search18(file, correct_only=False)
    assert both.data.correct.values.tolist() == [1, 0]
    assert [p.found for p in both] == [True, False]
    write(tmp_path, {"correct": 0})
    with pytest.raises(ValueError, match="must hold correct trials, got none"):
        load_coco_search18(file)


def test_more_durations_than_positions_are_tolerated_but_not_fewer(tmp_path):
    assert load_coco_search18(write(tmp_path, {"T": [200, 300, 400]}))[0].duration.tolist() == [0.2, 0.3]
    with pytest.raises(ValueError, match="trial 0 must have at least 2 durations in 'T', got \"1\""):
        load_coco_search18(write(tmp_path, {"T": [200]}))


def test_objects_of_coco_are_moved_into_the_frame(tmp_path):
    (tmp_path / "instances.json").write_text(json.dumps(INSTANCES))
    scale = 1050 / 480
    box = [140, 90 * scale, 20 * scale, 20 * scale]
    scene = load_coco_search18(write(tmp_path, {"bbox": [round(v) for v in box]})).scene_of(0)
    np.testing.assert_allclose(scene.boxes, [[140, 0, 1400, 1050], box])  # the crowd is left out
    assert (scene.labels, scene.target) == (("fork", "cup"), 1)
    other = load_coco_search18(write(tmp_path, {"bbox": [900, 900, 50, 50]})).scene_of(0)
    assert (other.n_objects, other.target) == (3, 2)
    with pytest.raises(ValueError, match="trial 0 must have an image of the file of instances in 'name'"):
        load_coco_search18(write(tmp_path, {"name": "9.jpg"}))


def test_an_absent_target_is_in_no_scene(tmp_path):
    dataset = load_coco_search18(write(tmp_path, {"condition": "absent", "bbox": ...}))
    assert dataset[0].found is None
    assert dataset.scene_of(0).n_objects == 0
    assert dataset.scene_of(0).target_label == "cup"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": ...}, r"split1\.json: trial 1 must have 'X', got name, subject"),
        ({"X": "840"}, "trial 1 must have a list in 'X', got \"840\""),
        ({"X": [1, None]}, "trial 1 must have a list of numbers in 'X', got null"),
        ({"X": [1, True]}, "trial 1 must have a list of numbers in 'X', got true"),
        ({"X": [1, float("nan")]}, "trial 1 must have a list of numbers in 'X', got NaN"),
        ({"Y": [1]}, "trial 1 must have a list of 2 numbers in 'Y', got \"1\""),
        ({"task": 5}, "trial 1 must have a text in 'task', got 5"),
        ({"bbox": [1, 2, 3]}, "trial 1 must have a list of 4 numbers in 'bbox'"),
        ({"bbox": [1, 2, 0, 3]}, "trial 1: boxes must be finite with width and height above 0"),
        ({"correct": 2}, "trial 1 must have 0 or 1 in 'correct', got 2"),
        ({"condition": "maybe"}, "trial 1 must have 'present' or 'absent' in 'condition', got \"maybe\""),
        ({"T": [-1, 5]}, "trial 1: duration must not be negative"),
    ],
)
def test_a_malformed_trial_is_named_with_its_file_and_key(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_coco_search18(write(tmp_path, {"name": "2.jpg"}, change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"a": 1}', "[1]", "\xff"])
def test_files_that_are_no_list_of_trials_are_named(tmp_path, text):
    file = tmp_path / "coco_search18_fixations_x.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"coco_search18_fixations_x\.json"):
        load_coco_search18(file)


def test_a_wrong_unit_of_durations_is_noticed(tmp_path):
    with pytest.warns(UserWarning, match=r"median duration read as ms is 0\.00025 s"):
        load_coco_search18(write(tmp_path, {"T": [0.2, 0.3]}))
    pd.DataFrame({"x": [1, 2], "y": [1, 2], "duration": [200, 300], "trial": 1}).to_csv(tmp_path / "a.csv")
    with pytest.warns(UserWarning, match="median duration read as s is 250 s"):
        load_events(tmp_path / "a.csv", image_size=(9, 9))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold coco_search18_fixations_\*\.json, got none"):
        load_coco_search18(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"image .*cup/000000000001\.jpg does not exist"):
        load_coco_search18(write(tmp_path, {}), images=tmp_path)
    for load in (load_osie, load_objarr, load_visions, load_pysaliency, load_multimatch, load_events):
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "nowhere")


# The other layouts


def test_written_images_are_those_of_the_scenes(arrays, tmp_path):
    write_coco_search18(arrays, tmp_path / "coco")
    scene = load_coco_search18(tmp_path / "coco").scene_of(0)
    theirs, ours = scene.crops((8, 8)), arrays.scene_of(0).crops((8, 8))
    assert scene.labels == arrays.scene_of(0).labels
    assert np.abs(theirs.astype(float) - ours).mean() < 8
    write_osie(arrays, tmp_path / "osie")
    seen = load_osie(tmp_path / "osie").scene_of(0).pixels().mean()
    assert seen == pytest.approx(arrays.scene_of(0).pixels().mean(), abs=1)
    write_visions(arrays, tmp_path / "visions")
    assert load_visions(tmp_path / "visions").scene_of(0).exemplar_crop((8, 8)).std() > 5


def test_osie_names_the_image_and_the_subject(tmp_path):
    def save(**fields):
        subjects, content = np.empty((1, 1), object), np.empty((1, 1), object)
        numbers = np.array([[5.0, 6.0]])
        subjects[0, 0] = {"fix_x": numbers, "fix_y": numbers, "fix_duration": 50 * numbers} | fields
        content[0, 0] = {"img": "1001.jpg", "subjects": subjects}
        savemat(tmp_path / "fixations.mat", {"fixations": content})

    save()
    assert load_osie(tmp_path)[0].duration.tolist() == [0.25, 0.3]
    save(fix_x="text")
    with pytest.raises(ValueError, match=r"image 1 \(1001\.jpg\), subject 1 must have numbers in 'fix_x'"):
        load_osie(tmp_path)
    save(fix_y=np.array([[1.0]]))
    with pytest.raises(ValueError, match=r"image 1 \(1001\.jpg\), subject 1: y must have shape \(2,\)"):
        load_osie(tmp_path)
    savemat(tmp_path / "fixations.mat", {"other": 1})
    with pytest.raises(ValueError, match="must have a cell array 'fixations'"):
        load_osie(tmp_path)


def test_book_covers_stand_on_a_grid_and_cued_photographs_have_boxes(tmp_path):
    shelf = {
        "fixations": {"1": [[10, 10], [899, 299]], "2": []},
        "ground_truth": [{"xmin": 810, "ymin": 210, "xmax": 890, "ymax": 290}],
        "size": {"width": 1400, "height": 600},
        "target": "target_3.jpg",
    }
    (tmp_path / "Amazon.json").write_text(json.dumps({"1.jpg": shelf}))
    dataset = load_book_covers(tmp_path)
    assert dataset.scene_of(0).target == 2 * 14 + 8
    assert dataset.assign_objects()[0].objects.tolist() == [0, 36]
    assert [p.found for p in dataset] == [False, False]
    assert dataset[0].attrs["target"] == "target_3.jpg"
    cued = {k: v for k, v in shelf.items() if k != "target"} | {"cue": "dog.jpg"}
    cued["ground_truth"] = [*shelf["ground_truth"], {"xmin": 0, "ymin": 0, "xmax": 20, "ymax": 20}]
    (tmp_path / "Amazon.json").write_text(json.dumps({"1.jpg": cued}))
    dataset = load_book_covers(tmp_path)
    assert dataset.scene_of(0).matches_target.tolist() == [True, True]
    assert [p.found for p in dataset] == [True, False]
    cued["fixations"]["1"][1] = [5]
    (tmp_path / "Amazon.json").write_text(json.dumps({"1.jpg": cued}))
    with pytest.raises(ValueError, match=r"observer 1 in .*'1\.jpg'.* list of 2 numbers in 'fixation 1'"):
        load_book_covers(tmp_path)


def test_events_come_with_objects_images_and_names_from_files(arrays, tmp_path):
    write_events(arrays, tmp_path / "events")
    dataset = load_events(tmp_path / "events", px_per_degree=16)
    scene = dataset.scene_of(0)
    np.testing.assert_array_equal(scene.pixels(), arrays.scenes["array0000"].pixels())
    assert scene.target == arrays.scenes["array0000"].target
    table = pd.DataFrame(
        {"x": [1, 2, 3], "y": 1, "trial": [1, 1, 2], "trial_type": ["fixation", "blink", "fixation"]}
    )
    table.to_csv(tmp_path / "sub-07_task-free_events.tsv", sep="\t", index=False)
    dataset = load_events(tmp_path, image_size=(9, 9), first_fixation="free")
    assert [(len(p), p.attrs["observer"], p.attrs["task"]) for p in dataset] == [(1, "07", "free")] * 2
    assert "duration" not in dataset.data
    table.assign(x=["1", "2", "n/a"]).to_csv(tmp_path / "sub-07_task-free_events.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match="fixation 2 must have a number in 'x', got"):
        load_events(tmp_path, image_size=(9, 9))
    table.assign(image="a.png").to_csv(tmp_path / "sub-07_task-free_events.tsv", sep="\t", index=False)
    with pytest.raises(
        ValueError, match=r"image_size must be given for images without a file, got None for 'a\.png'"
    ):
        load_events(tmp_path)


def test_multimatch_vectors_name_row_and_column(arrays, tmp_path):
    write_multimatch(arrays, tmp_path / "vectors")
    dataset = load_multimatch(tmp_path / "vectors", image_size=(320, 240))
    assert {(p.attrs["image"], p.attrs["observer"]) for p in dataset} == {
        (f"array000{i}.png", str(k)) for i in range(2) for k in (1, 2)
    }
    (tmp_path / "a.tsv").write_text("start_x\tstart_y\tduration\n1\t2\t0.3\n1\tx\t0.3\n")
    with pytest.raises(ValueError, match=r"a\.tsv: row 3 must have a number in 'start_y', got 'x'"):
        load_multimatch(tmp_path / "a.tsv")
    (tmp_path / "a.tsv").write_text("start_x\tduration\n1\t0.3\n")
    with pytest.raises(ValueError, match=r"a\.tsv must have a column 'start_y', got start_x, duration"):
        load_multimatch(tmp_path / "a.tsv")


def test_pysaliency_knows_images_and_times(arrays, tmp_path):
    write_pysaliency(arrays, tmp_path / "p")
    dataset = load_pysaliency(tmp_path / "p", first_fixation="initial")
    for ours, theirs in zip(arrays, dataset, strict=True):
        np.testing.assert_array_equal(theirs.t_start, ours.t_start)
        np.testing.assert_array_equal(theirs.objects, ours.objects)
    with pytest.raises(ValueError, match="must be a file of scanpaths by pysaliency, got it is of type"):
        load_pysaliency(tmp_path / "p" / "stimuli.hdf5")


def test_objarr_round_trip_and_its_rules(tmp_path):
    content = {
        "scanpath": np.array([[[-2, 1, 0], [-2, 0, -1]]]),
        "object_xy": np.array([[50, 60], [250, 60]]),
        "start_xy": np.array([150, 60]),
        "screen_wh": np.array([300, 120]),
        "target_index": np.array([0, 1]),
        "object_category": np.array([[16, 18], [16, 18]]),
    }

    def save(**change):
        np.savez(tmp_path / "objarr.npz", **(content | change))
        return load_objarr(tmp_path)

    dataset = save()
    assert dataset[0].x.tolist() == [150, 250, 50]
    assert [p.found for p in dataset] == [True, False]
    write_objarr(dataset, tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz") as again:
        for name, values in content.items():
            np.testing.assert_array_equal(again[name], values)
    for change, message in (
        ({"scanpath": content["scanpath"] + 5}, "must hold -2, -1 or one of 2 objects"),
        ({"scanpath": content["scanpath"][..., ::-1]}, "must begin with its initial fixation"),
        ({"target_index": np.array([0, 2])}, "target_index must be below 2, got 2 for scene 1"),
        ({"object_xy": content["object_xy"][:1]}, r"object_category must have shape \(2, 1\), got \(2, 2\)"),
        ({"start_xy": np.array([1])}, r"start_xy must have shape \(2,\)"),
        (
            {"target_index": np.array([None, None])},
            r"objarr\.npz must be an \.npz file of numbers, got Object arrays",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            save(**change)


def test_layouts_are_found_by_their_files(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(
        ValueError, match=r"layout must be given for .*; it is one of neuroattn, coco-search18"
    ):
        load_scanpaths(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist; expected scanpaths"):
        load_scanpaths(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="layout 'gaze' is unknown"):
        load_scanpaths(tmp_path, layout="gaze")


@pytest.mark.parametrize("layout", ["neuroattn", "coco-search18", "osie", "events", "book-covers"])
def test_make_data_writes_what_is_found_again(layout, tmp_path, monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(
            sys, "argv", ["neuroattn", "make-data", "scanpaths", "--out", str(tmp_path / "d"), *words]
        )
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code or 0

    options = ("--layout", layout, "--scenes", "2", "--observers", "2")
    assert run(*options, "--dry-run") == 0
    assert not (tmp_path / "d").exists()
    assert run(*options) == 0
    assert "Simulated 4 trials of 2 observers in 2 arrays" in capsys.readouterr().out
    assert len(load_scanpaths(tmp_path / "d")) == 4
    assert run(*options) == 2
    assert "exists; data are not overwritten" in capsys.readouterr().err


# Published data


@pytest.mark.shared_data
def test_coco_search18_validation_set(shared):
    dataset = load_coco_search18(shared / "data/eye/coco_search18_val", correct_only=False)
    assert len(dataset) == 3258
    assert len(set(dataset.data.image.values)) == 315
    assert len(set(dataset.data.target.values)) == 18
    assert dataset.data.correct.values.sum() == 3028
    assert dataset.n_outside == 5
    assert dataset.data.found.values.mean() == pytest.approx(0.889, abs=5e-4)
    on_target = dataset.assign_objects().data.object.values == 0
    assert on_target[:, :3].any(1).mean() == pytest.approx(0.721, abs=1e-3)


@pytest.mark.shared_data
def test_osie(shared):
    dataset = load_osie(shared / "data/eye/osie")
    assert (len(dataset), int(dataset.data.length.sum())) == (10_500, 98_321)
    assert len(dataset.scenes) == 700
    assert dataset.scene_of(0).pixels().shape == (600, 800, 3)
    distance = np.hypot(dataset.data.x.values[:, 0] - 400, dataset.data.y.values[:, 0] - 300)
    assert np.nanmedian(distance) == pytest.approx(113, abs=1)


@pytest.mark.shared_data
def test_objarr(shared):
    dataset = load_objarr(shared / "data/eye/objarr")
    assert len(dataset) == 15 * 300
    target = np.array([dataset.scene_of(i).target for i in range(len(dataset))])
    on_target = dataset.data.object.values[:, 1:] == target[:, None]
    curve = np.maximum.accumulate(on_target, axis=1).mean(0)
    np.testing.assert_allclose(curve, [0.271, 0.528, 0.694, 0.807, 0.890, 0.936], atol=5e-4)
    assert all(scene.matches_target.sum() == 1 for scene in dataset.scenes.values())


@pytest.mark.shared_data
def test_multimatch_vectors(shared):
    dataset = load_multimatch(shared / "data/eye/multimatch_fixvectors")
    assert len(dataset) == 110
    assert set(dataset.data.observer.values) == {"01", "19"}
    assert len(set(dataset.data.image.values)) == 55
    first = pd.read_csv(Path(shared) / "data/eye/multimatch_fixvectors/segment_0_sub-01.tsv", sep="\t")
    np.testing.assert_array_equal(dataset[0].x, first["start_x"])


@pytest.mark.parametrize("layout", [name for name in SCANPATH_LAYOUTS if name != "objarr"])
def test_damaged_files_are_read_or_refused(layout, arrays, tmp_path):
    """Whatever bytes are wrong, reading ends, with what is there or with an error of the kinds that are announced."""
    whole = tmp_path / "whole"
    write_scanpaths(arrays, whole, layout=layout)
    files = [whole] if whole.is_file() else sorted(path for path in whole.rglob("*") if path.is_file())
    rng = np.random.default_rng(0)
    outcomes = set()
    for trial in range(20):
        damaged = tmp_path / f"damaged{trial}"
        (shutil.copy if whole.is_file() else shutil.copytree)(whole, damaged)
        file = files[rng.integers(len(files))]
        file = damaged if whole.is_file() else damaged / file.relative_to(whole)
        content = bytearray(file.read_bytes())
        for place in rng.integers(len(content), size=4):
            content[place] = rng.integers(256)
        file.write_bytes(bytes(content))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a changed number that is now too long a duration
            try:
                outcomes.add(len(load_scanpaths(damaged, layout=layout)) > 0)
            except (ValueError, TypeError, OSError):
                outcomes.add("refused")
    assert "refused" in outcomes


def test_a_saved_data_set_does_not_point_out_of_its_folder(arrays, tmp_path):
    arrays.save(tmp_path / "saved")
    scenes = json.loads((tmp_path / "saved" / "scenes.json").read_text())
    next(iter(scenes.values()))["image"] = "../elsewhere.png"
    (tmp_path / "saved" / "scenes.json").write_text(json.dumps(scenes))
    with pytest.raises(
        ValueError, match=r"scenes\.json must hold scenes, got '\.\./elsewhere\.png' must lie in"
    ):
        load_scanpaths(tmp_path / "saved")


def test_pictures_in_files_are_saved_with_the_data(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    scene = ObjectScene([[0, 0, 40, 30]], (100, 80), image=tmp_path / "a.png", exemplar=tmp_path / "a.png")
    path = Scanpath([50, 20], [40, 10], (100, 80), attrs={"scene": "a"})
    ScanpathDataset.from_scanpaths([path], scenes={"a": scene}).save(tmp_path / "saved")
    (tmp_path / "a.png").unlink()
    (tmp_path / "saved").rename(tmp_path / "moved")
    again = ScanpathDataset.load(tmp_path / "moved").scene_of(0)
    np.testing.assert_array_equal(again.pixels(), pixels)
    assert again.exemplar_crop((100, 80)).shape == (80, 100, 3)
