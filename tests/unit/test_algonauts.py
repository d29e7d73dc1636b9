"""The Algonauts layout: what is written comes back, and what does not fit is refused in one line."""

import dataclasses
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from neuroattn.datasets import ImageFiles, Recording, inspect_algonauts, load_algonauts, write_algonauts
from neuroattn.datasets.regions import region_class
from neuroattn.results import label_rois

N_LEFT, N_RIGHT, N_TRAIN, N_TEST = 40, 44, 24, 6


def make_recording(*, rois=None, simulated=False, ceiling=True):
    """Fake subject: overlapping labels, one region without a vertex in the right hemisphere, 30 px images."""
    rng = np.random.default_rng(0)
    n_units, n_rows = N_LEFT + N_RIGHT, N_TRAIN + N_TEST
    left = np.arange(n_units) < N_LEFT
    unit = np.arange(n_units)
    masks = {
        "V1v": unit % 5 == 0,
        "V1d": unit % 5 == 1,
        "EBA": unit % 7 == 2,
        "mTL-faces": (unit % 11 == 3) & left,
        "PPA": np.zeros(n_units, bool),
        "early": unit % 5 < 2,
        "ventral": unit % 5 == 4,
    }
    index = np.concatenate([np.sort(rng.choice(163_842, size, replace=False)) for size in (N_LEFT, N_RIGHT)])
    hemisphere = np.where(left, "left", "right")
    truth = xr.Dataset({"gain": ("unit", rng.normal(size=n_units))}, attrs={"seed": 0}) if simulated else None
    ids = np.concatenate([np.sort(part) for part in np.split(rng.permutation(200)[:n_rows], [N_TRAIN])])
    return Recording(
        name="subj03",
        responses=rng.normal(size=(n_rows, n_units)).astype("f4"),
        rois=label_rois(
            rois or masks,
            hemisphere=hemisphere,
            unit_kind="vertex",
            vertex_index=index,
            atlas=[region_class(name) for name in rois or masks],
        ),
        stimulus_ids=np.array([f"nsd-{i:05d}" for i in ids]),
        images=rng.integers(0, 256, (n_rows, 30, 28, 3), dtype=np.uint8),
        noise_ceiling=rng.uniform(size=n_units) if ceiling else None,
        test=np.arange(n_rows) >= N_TRAIN,
        truth=truth,
        simulated=simulated,
        surface="fsaverage",
    )


def assert_same(a, b):
    assert (a.name, a.surface, a.simulated) == (b.name, b.surface, b.simulated)
    np.testing.assert_array_equal(a.responses[:], b.responses[:])
    np.testing.assert_array_equal(a.images[:], b.images[:])
    np.testing.assert_array_equal(a.stimulus_ids, b.stimulus_ids)
    np.testing.assert_array_equal(a.noise_ceiling, b.noise_ceiling)
    np.testing.assert_array_equal(a.test, b.test)
    xr.testing.assert_identical(a.rois, b.rois)
    if a.truth is None:
        assert b.truth is None
    else:
        xr.testing.assert_identical(a.truth, b.truth)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """One written subject, never changed."""
    root = tmp_path_factory.mktemp("algonauts")
    write_algonauts(make_recording(), root, 3)
    return root


@pytest.fixture
def root(original, tmp_path):
    """Copy that a test may damage."""
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("simulated", [False, True])
@pytest.mark.parametrize("ceiling", [False, True])
def test_round_trip_is_exact(tmp_path, simulated, ceiling):
    recording = make_recording(simulated=simulated, ceiling=ceiling)
    assert write_algonauts(recording, tmp_path / "new", 3) == tmp_path / "new" / "subj03"
    loaded = load_algonauts(tmp_path / "new", 3)
    assert_same(recording, loaded)
    assert loaded.notes == ()
    again = write_algonauts(loaded, tmp_path / "again", 3)
    assert_same(recording, load_algonauts(again.parent, 3))


def test_layout_is_the_published_one(original):
    folder = original / "subj03"
    recording = make_recording()
    fmri = np.load(folder / "training_split/training_fmri/rh_training_fmri.npy")
    np.testing.assert_array_equal(fmri, recording.responses[:N_TRAIN, N_LEFT:])
    assert fmri.dtype == np.float32
    first = f"train-0001_{recording.stimulus_ids[0]}.png"
    with Image.open(folder / "training_split/training_images" / first) as image:
        assert image.size == (28, 30)
    assert (folder / f"test_split/test_images/test-0006_{recording.stimulus_ids[-1]}.png").exists()
    names = np.load(folder / "roi_masks/mapping_floc-faces.npy", allow_pickle=True).item()
    assert names == {0: "Unknown", 4: "mTL-faces"}  # the published label of this region
    for h, side in (("lh", "left"), ("rh", "right")):
        inside = np.load(folder / f"roi_masks/{h}.all-vertices_fsaverage_space.npy").astype(bool)
        here = recording.rois.hemisphere.values == side
        np.testing.assert_array_equal(np.flatnonzero(inside), recording.rois.vertex_index.values[here])
        whole = np.load(folder / f"roi_masks/{h}.streams_fsaverage_space.npy")
        part = np.load(folder / f"roi_masks/{h}.streams_challenge_space.npy")
        np.testing.assert_array_equal(whole[inside], part)
        np.testing.assert_array_equal(part == 1, recording.rois.sel(roi="early").values[here])
        assert not whole[~inside].any()


def test_responses_and_images_stay_in_their_files(original):
    recording = load_algonauts(original, 3)
    assert all(isinstance(block, np.memmap) for row in recording.responses.blocks for block in row)
    assert isinstance(recording.images, ImageFiles)


def test_empty_region_is_kept(original):
    rois = load_algonauts(original, 3).rois
    assert not rois.sel(roi="PPA").any()
    assert rois.sel(roi="mTL-faces").values[:N_LEFT].any()
    assert not rois.sel(roi="mTL-faces").values[N_LEFT:].any()


def test_regions_of_other_names_and_overlaps_are_kept(tmp_path):
    unit = np.arange(N_LEFT + N_RIGHT)
    masks = {
        "V1v": unit < 10,
        "my area": unit < 20,  # unknown name
        "V1d": unit < 5,  # overlaps V1v, which shares its label file
        "their area": (unit > 4) & (unit < 30),  # overlaps "my area" but not V1d
        "another": unit > 60,
    }
    recording = make_recording(rois=masks)
    masks_folder = write_algonauts(recording, tmp_path, 3) / "roi_masks"
    assert sorted(path.name for path in masks_folder.glob("mapping_custom*")) == [
        "mapping_custom-2.npy",
        "mapping_custom.npy",
    ]
    loaded = load_algonauts(tmp_path, 3).rois
    xr.testing.assert_identical(loaded, recording.rois)


@given(
    st.lists(
        st.tuples(st.sampled_from(["V1v", "V1d", "EBA", "PPA", "a", "b", "c", "d"]), st.integers(0, 63)),
        min_size=1,
        unique_by=lambda region: region[0],
    )
)
def test_no_membership_is_lost_in_label_files(regions):
    """A label file gives a unit one region; any overlap must be spread over several files."""
    from neuroattn.datasets.algonauts import label_classes

    masks = {name: np.array([bool(bits >> unit & 1) for unit in range(6)]) for name, bits in regions}
    found = {
        name: (labels == label).tolist()
        for mapping, labels in label_classes(label_rois(masks)).values()
        for label, name in mapping.items()
        if label
    }
    assert found == {name: mask.tolist() for name, mask in masks.items()}


def test_rows_follow_numbers_beyond_four_digits(original, tmp_path):
    """Text order would put train-10000 before train-9999."""
    from neuroattn.datasets.algonauts import _list_images

    images = tmp_path / "training_split" / "training_images"
    images.mkdir(parents=True)
    for number in range(1, 10_002):
        (images / f"train-{number:04d}_nsd-{number + 5:05d}.png").touch()
    paths, ids = _list_images(tmp_path, "train")
    assert [path.name for path in paths[-2:]] == ["train-10000_nsd-10005.png", "train-10001_nsd-10006.png"]
    assert ids[-1] == "nsd-10006"


def test_vertices_that_are_not_numbers_are_dropped(root):
    path = root / "subj03/test_split/test_fmri/rh_test_fmri.npy"
    fmri = np.load(path)
    fmri[2, 7] = np.nan
    np.save(path, fmri)
    recording, whole = load_algonauts(root, 3), make_recording()
    keep = np.arange(whole.n_units) != N_LEFT + 7
    assert recording.notes == ("dropped 1 of 84 vertices with responses that are not numbers",)
    np.testing.assert_array_equal(recording.responses[:], whole.responses[:, keep])
    np.testing.assert_array_equal(recording.noise_ceiling, whole.noise_ceiling[keep])
    xr.testing.assert_identical(recording.rois, whole.rois[:, keep])


def test_simulated_subject_comes_back_exactly(tmp_path):
    """Its own ids, name, surface and order of regions, which the published layout has no place for."""
    recording = make_recording(simulated=True)
    index = np.concatenate([np.arange(N_LEFT), np.arange(N_RIGHT)])
    masks = {"V1v": index < 5, "my area": index < 20, "aTL-faces": index > 30, "EBA": index == 2}
    recording = dataclasses.replace(
        recording,
        name="simulated",
        surface="fsaverage5",
        stimulus_ids=np.array([f"simulated-{i}" for i in range(recording.n_stimuli)]),
        rois=label_rois(
            masks,
            hemisphere=recording.rois.hemisphere,
            unit_kind="vertex",
            vertex_index=index,
            atlas=["prf-visualrois", "", "floc-faces", "floc-bodies"],
        ),
    )
    folder = write_algonauts(recording, tmp_path, 1)
    assert_same(recording, load_algonauts(tmp_path, 1))
    names = sorted(path.name for path in (folder / "test_split/test_images").iterdir())
    assert names[0] == "test-0001_nsd-00024.png"
    shutil.rmtree(folder / "test_split/test_fmri")
    np.testing.assert_array_equal(load_algonauts(tmp_path, 1).stimulus_ids, recording.stimulus_ids[:N_TRAIN])


@pytest.mark.parametrize(
    "change",
    [
        {"simulated": False},
        {"name": 1},
        {"surface": "fsLR"},
        {"rois": ["V1v"]},
        {"stimulus_ids": ["a"]},
    ],
)
def test_simulation_that_is_not_of_its_subject_is_refused(tmp_path, change):
    path = write_algonauts(make_recording(simulated=True), tmp_path, 3) / "simulated.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"simulated.json must have the regions and the 30 stimulus ids"):
        load_algonauts(tmp_path, 3)


def test_truth_follows_dropped_vertices(tmp_path):
    recording = make_recording(simulated=True)
    recording.responses[0, 3] = np.inf
    write_algonauts(recording, tmp_path, 3)
    loaded = load_algonauts(tmp_path, 3)
    np.testing.assert_array_equal(loaded.truth.gain, np.delete(recording.truth.gain.values, 3))


def test_withheld_test_responses_leave_the_training_rows(root):
    shutil.rmtree(root / "subj03/test_split/test_fmri")
    recording = load_algonauts(root, 3)
    assert recording.notes == ("test responses are withheld; training images only",)
    assert (recording.n_stimuli, recording.test) == (N_TRAIN, None)
    assert len(recording.images) == N_TRAIN
    with pytest.raises(ValueError, match="recording 'subj03' must have training and test rows"):
        write_algonauts(recording, root / "copy", 3)


TRAIN_FMRI = "training_split/training_fmri/lh_training_fmri.npy"


def rename(folder, old, new):
    (path,) = folder.glob(old)
    path.rename(path.with_name(new(path.name)))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: shutil.rmtree(f), FileNotFoundError, "subj03 does not exist"),
        (
            lambda f: (f / TRAIN_FMRI).unlink(),
            FileNotFoundError,
            r"lh_training_fmri.npy does not exist; expected \(24, 40\) for 24 images and 40 vertices",
        ),
        (
            lambda f: os.truncate(f / TRAIN_FMRI, 1000),
            ValueError,
            r"lh_training_fmri.npy is no whole npy file of shape \(24, 40\) .*found 1000 bytes",
        ),
        (
            lambda f: (f / TRAIN_FMRI).write_bytes(b""),
            ValueError,
            r"lh_training_fmri.npy is no whole npy file .*found 0 bytes",
        ),
        (
            lambda f: np.save(f / TRAIN_FMRI, np.zeros((23, 40), "f4")),
            ValueError,
            r"must have shape \(24, 40\) for 24 images and 40 vertices, got \(23, 40\)",
        ),
        (
            lambda f: np.save(f / TRAIN_FMRI, np.zeros((24, 40), "i2")),
            ValueError,
            "lh_training_fmri.npy must hold floating-point numbers, got int16",
        ),
        (
            lambda f: np.save(f / TRAIN_FMRI, np.full((24, 40), None), allow_pickle=True),
            ValueError,
            "lh_training_fmri.npy is no whole npy file",
        ),
        (
            lambda f: (f / "test_split/test_fmri/rh_test_fmri.npy").unlink(),
            FileNotFoundError,
            "rh_test_fmri.npy does not exist",
        ),
        (
            lambda f: next((f / "training_split/training_images").glob("train-0007*")).unlink(),
            ValueError,
            "must number its images 1, 2, ..., expected 7 and found train-0008_",
        ),
        (
            lambda f: rename(
                f, "training_split/training_images/train-0007*", lambda n: "train-0007_nsd-00199.png"
            ),
            ValueError,
            "must number its images by ascending nsd id, found train-0008_.*after 00199",
        ),
        (
            lambda f: rename(f, "test_split/test_images/test-0001*", lambda n: "image.png"),
            ValueError,
            "image.png must be named test-NNNN_nsd-IIIII.png",
        ),
        (
            lambda f: shutil.rmtree(f / "test_split/test_images"),
            FileNotFoundError,
            "test_images does not exist",
        ),
        (
            lambda f: [path.unlink() for path in (f / "test_split/test_images").iterdir()],
            FileNotFoundError,
            "test_images must hold images test-NNNN_nsd-IIIII.png, found none",
        ),
        (
            lambda f: np.save(f / "roi_masks/rh.streams_challenge_space.npy", np.zeros(43, "i4")),
            ValueError,
            r"rh.streams_challenge_space.npy must have shape \(44,\) for 44 vertices, got \(43,\)",
        ),
        (
            lambda f: np.save(f / "roi_masks/rh.streams_challenge_space.npy", np.full(44, 3)),
            ValueError,
            "mapping_streams.npy must name every label, got no name for 3",
        ),
        (
            lambda f: shutil.copy(
                f / "roi_masks/mapping_streams.npy", f / "roi_masks/mapping_floc-words.npy"
            ),
            ValueError,
            "mapping_streams.npy must name regions that no other class has, got 'early'",
        ),
        (
            lambda f: (f / "roi_masks/mapping_floc-words.npy").unlink(),
            FileNotFoundError,
            "mapping_floc-words.npy does not exist",
        ),
        (
            lambda f: np.save(f / "roi_masks/lh.all-vertices_fsaverage_space.npy", np.full(163_842, 2)),
            ValueError,
            "must hold zeros and ones, got values up to 2",
        ),
        (
            lambda f: np.save(f / "roi_masks/lh.all-vertices_fsaverage_space.npy", np.zeros(642, "i4")),
            ValueError,
            r"must have shape \(163842,\) for the vertices of fsaverage, got \(642,\)",
        ),
        (
            lambda f: np.save(f / "test_split/noise_ceiling/lh_noise_ceiling.npy", np.full(40, 36.0)),
            ValueError,
            "lh_noise_ceiling.npy must lie between 0 and 1, got 36 to 36",
        ),
        (
            lambda f: (f / "test_split/noise_ceiling/lh_noise_ceiling.npy").unlink(),
            FileNotFoundError,
            "lh_noise_ceiling.npy does not exist",
        ),
        (
            lambda f: (f / "simulated.json").write_text("{}"),
            ValueError,
            r"simulated.json must describe a simulated subject: KeyError\('simulated'\)",
        ),
        (lambda f: (f / "truth.nc").write_text("no"), ValueError, "truth.nc cannot be read as netCDF"),
        (
            lambda f: (
                np.save(f / TRAIN_FMRI, np.full((24, 40), np.nan, "f4"))
                or np.save(f / TRAIN_FMRI.replace("lh", "rh"), np.full((24, 44), np.nan, "f4"))
            ),
            ValueError,
            "must have a vertex whose responses are all numbers, got none",
        ),
    ],
)
def test_damage_is_one_line(root, damage, error, message):
    damage(root / "subj03")
    with pytest.raises(error, match=message) as caught:
        load_algonauts(root, 3)
    assert "\n" not in str(caught.value)


def test_image_in_both_splits_is_refused(root):
    recording = load_algonauts(root, 3)
    first = recording.stimulus_ids[0]
    images = root / "subj03/test_split/test_images"
    for path in images.glob("test-000[2-6]*"):
        path.unlink()
    rename(root / "subj03", "test_split/test_images/test-0001*", lambda n: f"test-0001_{first}.png")
    for h, n in (("lh", N_LEFT), ("rh", N_RIGHT)):
        np.save(root / f"subj03/test_split/test_fmri/{h}_test_fmri.npy", np.zeros((1, n), "f4"))
    with pytest.raises(ValueError, match=f"must not test on training images, got {first} in both"):
        load_algonauts(root, 3)


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("wrap", [lambda h: {1: h}, lambda h: h], ids=["in the dictionary", "alone"])
def test_hostile_mapping_is_refused_and_not_run(root, tmp_path, wrap):
    target = tmp_path / "executed"
    content = np.empty((), object)
    content[()] = wrap(Hostile(target))
    path = root / "subj03/roi_masks/mapping_streams.npy"
    np.save(path, content, allow_pickle=True)
    with pytest.raises(
        ValueError, match=r"mapping_streams.npy must hold a dictionary of names .*posix.mkdir"
    ):
        load_algonauts(root, 3)
    checks = {check.path: check.found for check in inspect_algonauts(root, 3)}
    assert checks[path] == "unreadable"
    assert not target.exists()
    np.load(path, allow_pickle=True)  # the file is hostile indeed
    assert target.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({1: "early"}),  # no npy header
        b"\x93NUMPY\x01\x00",
        b"",
    ],
)
def test_mapping_that_is_no_npy_is_refused(root, content):
    (root / "subj03/roi_masks/mapping_streams.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"mapping_streams.npy must hold a dictionary of names"):
        load_algonauts(root, 3)


@pytest.mark.parametrize("content", [["early"], {"1": "early"}, {1: 2}])
def test_mapping_must_be_names_of_labels(root, content):
    value = np.empty((), object)
    value[()] = content
    np.save(root / "subj03/roi_masks/mapping_streams.npy", value, allow_pickle=True)
    with pytest.raises(ValueError, match="must hold a dictionary of whole numbers to names, got"):
        load_algonauts(root, 3)


def test_mapping_of_numpy_numbers_and_old_numpy_is_read(root):
    path = root / "subj03/roi_masks/mapping_streams.npy"
    mapping = {np.int64(label): name for label, name in {0: "Unknown", 1: "early", 5: "ventral"}.items()}
    np.save(path, np.array(mapping, dtype=object), allow_pickle=True)
    # Protocol 4 stores the module name behind its length; numpy 1 calls it numpy.core.
    new, old = b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray"
    content = path.read_bytes()
    header_end = content.index(b"\n") + 1
    body = pickle.dumps(np.array(mapping, dtype=object), protocol=4)
    assert new in body
    # Without frames the body may change its length.
    body = body[:2] + body[11:].replace(new, old)
    path.write_bytes(content[:header_end] + body)
    xr.testing.assert_identical(load_algonauts(root, 3).rois, make_recording().rois)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None, "features": np.zeros((30, 5))}, "must have images to be written"),
        ({"test": None}, "must have training and test rows, got one part only"),
        ({"test": np.arange(30) < 6}, "test must be false in the first rows"),
        ({"surface": None}, "must lie on fsaverage vertices of two hemispheres"),
        ({"surface": "fsaverage5"}, "vertex_index must ascend within the left fsaverage5 hemisphere"),
        ({"stimulus_ids": np.array([f"image{i}" for i in range(30)])}, "must be 'nsd-IIIII', got 'image0'"),
        (
            {"stimulus_ids": np.array([f"nsd-{i:05d}" for i in range(30, 0, -1)])},
            "must ascend in the training rows",
        ),
        (
            {"stimulus_ids": np.array([f"nsd-{i % 24:05d}" for i in range(30)])},
            "must differ between training and test",
        ),
    ],
)
def test_recording_that_does_not_fit_is_refused(tmp_path, change, message):
    recording = dataclasses.replace(make_recording(), **change)
    with pytest.raises(ValueError, match=message):
        write_algonauts(recording, tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_one_hemisphere_is_refused(tmp_path):
    recording = make_recording()
    half = dataclasses.replace(
        recording, responses=recording.responses[:, :40], rois=recording.rois[:, :40], noise_ceiling=None
    )
    with pytest.raises(ValueError, match="two hemispheres"):
        write_algonauts(half, tmp_path, 1)


def test_nothing_is_overwritten_or_half_written(original, tmp_path):
    with pytest.raises(FileExistsError, match="subj03 exists; recordings are not overwritten"):
        write_algonauts(make_recording(), original, 3)

    class Broken:
        shape = (30, 30, 28, 3)

        def __len__(self):
            return 30

        def __getitem__(self, row):
            raise RuntimeError("disk gone")

    with pytest.raises(RuntimeError, match="disk gone"):
        write_algonauts(dataclasses.replace(make_recording(), images=Broken()), tmp_path, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("subject", [0, 1.0, True, "1", 100])
def test_subject_is_a_number(tmp_path, subject):
    with pytest.raises(ValueError, match="subject must be a whole number between 1 and 99"):
        load_algonauts(tmp_path, subject)


def test_inspection_of_a_whole_subject_finds_what_it_expects(original):
    checks = inspect_algonauts(original, 3)
    assert [check for check in checks if check.found != check.expected] == []
    by_name = {check.path.name: check for check in checks}
    assert by_name["lh_training_fmri.npy"].found == "float (24, 40)"
    assert by_name["rh_noise_ceiling.npy"].expected == "float (44,)"
    assert sum(check.n_bytes for check in checks) > 24 * 40 * 4
    assert len(checks) == 2 + 4 + 2 + 2 + 6 * 3


def test_inspection_names_what_is_wrong(root):
    folder = root / "subj03"
    (folder / "roi_masks/lh.streams_challenge_space.npy").unlink()
    os.truncate(folder / TRAIN_FMRI, 500)
    shutil.rmtree(folder / "test_split/test_fmri")
    next((folder / "training_split/training_images").glob("train-0003*")).unlink()
    (folder / "roi_masks/rh.all-vertices_fsaverage_space.npy").write_bytes(b"")
    wrong = {c.path.name: c for c in inspect_algonauts(root, 3) if c.found != c.expected}
    assert {name: check.found for name, check in wrong.items()} == {
        "training_images": "23 images out of order",
        "lh_training_fmri.npy": "unreadable",
        "rh_training_fmri.npy": "float (24, 44)",
        "rh_noise_ceiling.npy": "float (44,)",
        "rh.all-vertices_fsaverage_space.npy": "unreadable",
        "lh.streams_challenge_space.npy": "missing",
    } | {f"rh.{c}_challenge_space.npy": "int (44,)" for c in CLASSES}
    assert wrong["rh_training_fmri.npy"].expected == "float (23, vertex)"


CLASSES = ("prf-visualrois", "floc-bodies", "floc-faces", "floc-places", "floc-words", "streams")


def test_inspection_of_nothing_lists_the_layout(tmp_path):
    checks = inspect_algonauts(tmp_path, 1)
    missing = [check for check in checks if check.found == "missing"]
    assert len(missing) == 2 + 2 + 2 + 6 * 3
    assert all(check.n_bytes == 0 for check in checks)
