"""A lab's own files: every format and orientation, and one clear line for what does not match."""

import itertools
import json
import zipfile

import h5py
import nibabel
import numpy as np
import pytest
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiMetaData
from PIL import Image
from scipy.io import savemat

from neuroattn.datasets import inspect_arrays, load_arrays, split_stimuli
from neuroattn.metrics import noise_ceiling_from_repeats

N_STIMULI, N_UNITS = 12, 7
TABLE = np.random.default_rng(0).normal(size=(N_STIMULI, N_UNITS)).astype("f4")
FEATURES = np.random.default_rng(1).normal(size=(N_STIMULI, 5)).astype("f4")


def write(path, content):
    """Write an array, or a dictionary of arrays, in the format of the file's ending."""
    if path.suffix == ".npy":
        np.save(path, content)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".mat":
        savemat(path, content)
    elif path.suffix in (".h5", ".hdf5"):
        with h5py.File(path, "w") as file:
            for key, array in content.items():
                file[key] = array
    else:
        np.savetxt(path, content, delimiter={".csv": ",", ".tsv": "\t"}[path.suffix])
    return path


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "responses.npy", TABLE)
    np.save(tmp_path / "features.npy", FEATURES)
    return tmp_path


def load(folder, **arguments):
    arguments = {
        "responses": folder / "responses.npy",
        "orientation": "stimulus-unit",
        "features": folder / "features.npy",
        **arguments,
    }
    return load_arrays(**arguments)


# Formats and orientations


@pytest.mark.parametrize("orientation", ["stimulus-unit", "unit-stimulus"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".h5", ".hdf5", ".csv", ".tsv"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_every_format_and_orientation(folder, suffix, orientation, dtype):
    table = (TABLE if orientation == "stimulus-unit" else TABLE.T).astype(dtype)
    keyed = suffix in (".npz", ".mat", ".h5", ".hdf5")
    path = write(folder / f"data{suffix}", {"other": np.ones(3), "betas": table} if keyed else table)
    spec = f"{path}:betas" if keyed else path
    recording = load(folder, responses=spec, orientation=orientation)
    np.testing.assert_array_equal(recording.responses[:], TABLE)
    np.testing.assert_array_equal(recording.responses[[4, 1]], TABLE[[4, 1]])
    assert recording.responses[:].dtype == np.float32
    assert recording.name == "data"


def test_key_may_be_left_out_of_a_file_with_one_array(folder):
    path = write(folder / "one.h5", {"session/betas": TABLE})
    for spec in (path, f"{path}:session/betas", f"{path}:/session/betas"):
        np.testing.assert_array_equal(load(folder, responses=spec).responses[:], TABLE)


def test_npy_responses_stay_in_their_file(folder):
    recording = load(folder)
    assert isinstance(recording.responses.blocks[0][0], np.memmap)
    assert isinstance(recording.features, np.memmap)


def test_defaults(folder):
    recording = load(folder)
    assert recording.rois.roi.values.tolist() == ["all"]
    assert recording.rois.all()
    assert set(recording.rois.unit_kind.values) == {"voxel"}
    assert set(recording.rois.vertex_index.values) == {-1}
    assert recording.stimulus_ids.tolist() == [str(i) for i in range(N_STIMULI)]
    assert (recording.noise_ceiling, recording.test, recording.images, recording.notes) == (
        None,
        None,
        None,
        (),
    )
    named = load(folder, name="cell 7", unit_kind="neuron")
    assert named.name == "cell 7"
    assert set(named.rois.unit_kind.values) == {"neuron"}


@pytest.mark.parametrize("shape", [(N_STIMULI, 5), (N_STIMULI, 5, 3, 4)])
def test_features_with_and_without_space(folder, shape):
    features = np.random.default_rng(0).normal(size=shape).astype("f2")
    np.save(folder / "maps.npy", features)
    np.testing.assert_array_equal(load(folder, features=folder / "maps.npy").features, features)


# Images


def save_images(folder, names, size=(6, 4)):
    rng = np.random.default_rng(0)
    arrays = []
    for name in names:
        array = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
        with Image.open(path) as image:
            arrays.append(np.asarray(image))
    return np.stack(arrays)


NAMES = [f"im{i:02d}.{('png', 'bmp', 'tif', 'jpg', 'jpeg', 'PNG')[i % 6]}" for i in range(N_STIMULI)]


def test_folder_of_images(folder):
    pixels = save_images(folder / "images", NAMES)
    (folder / "images/.hidden.png").write_bytes(b"x")
    (folder / "images/notes.txt").write_text("x")
    recording = load(folder, images=folder / "images", features=None)
    assert recording.images.shape == (N_STIMULI, 4, 6, 3)
    np.testing.assert_array_equal(recording.images[:], pixels)
    assert len(set(recording.stimulus_ids)) == N_STIMULI


def test_archive_of_images(folder):
    pixels = save_images(folder / "images", NAMES)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        archive.mkdir("set")
        for name in reversed(NAMES):  # the order in the archive does not count
            archive.write(folder / "images" / name, f"set/{name}")
        archive.writestr("__MACOSX/set/._im00.png", b"x")
        archive.writestr("set/.im00.png", b"x")
        archive.writestr("set/readme.txt", b"x")
    recording = load(folder, images=folder / "images.zip", features=None)
    np.testing.assert_array_equal(recording.images[:], pixels)
    np.testing.assert_array_equal(recording.images[3], pixels[3])
    same = load(folder, images=folder / "images")
    np.testing.assert_array_equal(recording.stimulus_ids, same.stimulus_ids)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_array_of_images(folder, suffix):
    pixels = save_images(folder / "images", NAMES)
    path = write(folder / f"pixels{suffix}", pixels if suffix == ".npy" else {"x": pixels})
    recording = load(folder, images=path)
    np.testing.assert_array_equal(recording.images[:], pixels)
    np.testing.assert_array_equal(recording.features[:], FEATURES)


def test_equal_images_are_one_stimulus(folder):
    pixels = save_images(folder / "images", NAMES)
    pixels[9] = pixels[2]
    np.save(folder / "pixels.npy", pixels)
    recording = load(folder, images=folder / "pixels.npy")
    assert recording.stimulus_ids[9] == recording.stimulus_ids[2]
    assert recording.notes == ("1 rows repeat the stimulus of another row; splits keep them together",)
    for fold in split_stimuli(recording.stimulus_ids, "kfold=3,seeds=0-4"):
        assert (9 in fold.test) == (2 in fold.test)


def test_names_without_leading_zeros_are_refused(folder):
    save_images(folder / "images", [f"im{i}.png" for i in range(N_STIMULI)])
    with pytest.raises(ValueError, match=r"got im10.png where im2.png is due; pad the numbers with zeros"):
        load(folder, images=folder / "images")


def test_names_that_are_not_numbered_sort_as_text(folder):
    names = sorted(["3f.png", "12ab.png", "cat.png", "dog10.png", "dog9.png"])
    save_images(folder / "images", names)
    np.save(folder / "few.npy", TABLE[:5])
    recording = load(folder, responses=folder / "few.npy", images=folder / "images", features=None)
    assert [path.name for path in recording.images.paths] == names


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda f: None, FileNotFoundError, "images .*images does not exist"),
        (lambda f: (f / "images").mkdir(), ValueError, "must hold .bmp, .*files, found none"),
        (lambda f: (f / "images").write_text("x"), ValueError, "images .* must be one of .npy"),
        (
            lambda f: save_images(f / "images", NAMES[:11]),
            ValueError,
            r"responses .*responses.npy has 12 stimuli as 'stimulus-unit', but images .*images has 11$",
        ),
        (
            lambda f: save_images(f / "images", NAMES[:7]),
            ValueError,
            "has 7; it fits orientation 'unit-stimulus'",
        ),
        (
            lambda f: (
                save_images(f / "images", NAMES[:6]),
                save_images(f / "images", NAMES[6:], size=(5, 4)),
            ),
            ValueError,
            "images must all be of one size, got 6x4 in .*im00.png and 5x4 in .*im06.png; resize",
        ),
        (
            lambda f: (save_images(f / "images", NAMES), (f / "images/im05.PNG").write_bytes(b"x")),
            ValueError,
            "im05.PNG cannot be decoded",
        ),
    ],
)
def test_images_that_do_not_fit(folder, make, error, message):
    make(folder)
    with pytest.raises(error, match=message):
        load(folder, images=folder / "images", features=None)


def test_damaged_archive(folder):
    (folder / "images.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"images .*images.zip cannot be read: BadZipFile"):
        load(folder, images=folder / "images.zip")


@pytest.mark.parametrize("pixels", [np.zeros((12, 4, 6, 3), "f4"), np.zeros((12, 4, 6), "u1")])
def test_image_arrays_are_uint8_rgb(folder, pixels):
    np.save(folder / "pixels.npy", pixels)
    with pytest.raises(ValueError, match=r"must be uint8 of shape \(stimulus, y, x, 3\)"):
        load(folder, images=folder / "pixels.npy")


# Regions


MASKS = {"V1": np.arange(N_UNITS) < 3, "V4": np.arange(N_UNITS) > 1, "none": np.zeros(N_UNITS, bool)}
LABELS = np.array([1, 1, 0, 2, 2, 2, 0], np.uint8)


def as_dict(recording):
    return {
        name: recording.rois.sel(roi=name).values.astype(int).tolist() for name in recording.rois.roi.values
    }


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".h5"])
def test_overlapping_masks_with_names(folder, suffix):
    names = np.array(list(MASKS), dtype=object if suffix == ".mat" else ("S" if suffix == ".h5" else "U"))
    path = write(folder / f"rois{suffix}", {"masks": np.stack(list(MASKS.values())), "roi_names": names})
    found = as_dict(load(folder, rois=f"{path}:masks"))
    assert found == {name: mask.astype(int).tolist() for name, mask in MASKS.items()}


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".h5"])
def test_labels_with_names(folder, suffix):
    names = np.array(["V1", "V4", "empty"], dtype="S" if suffix == ".h5" else "U")
    path = write(folder / f"rois{suffix}", {"roi_index": LABELS, "roi_names": names})
    assert as_dict(load(folder, rois=f"{path}:roi_index")) == {
        "V1": [1, 1, 0, 0, 0, 0, 0],
        "V4": [0, 0, 0, 1, 1, 1, 0],
        "empty": [0] * 7,
    }


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".npz"])
def test_labels_without_names(folder, suffix):
    path = write(folder / f"rois{suffix}", {"x": LABELS * 4} if suffix == ".npz" else LABELS * 4)
    assert list(as_dict(load(folder, rois=path))) == ["roi-4", "roi-8"]


def test_masks_without_names(folder):
    path = write(folder / "rois.csv", np.stack(list(MASKS.values())).astype(int))
    assert list(as_dict(load(folder, rois=path))) == ["roi-1", "roi-2", "roi-3"]


def test_lists_of_units(folder):
    (folder / "rois.json").write_text(json.dumps({"V1": [0, 2], "V4": [2, 6], "none": []}))
    assert as_dict(load(folder, rois=folder / "rois.json")) == {
        "V1": [1, 0, 1, 0, 0, 0, 0],
        "V4": [0, 0, 1, 0, 0, 0, 1],
        "none": [0] * 7,
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "r.npy",
            np.ones((2, 6), bool),
            r"rois .*r.npy must have shape \(roi, 7\) or \(7,\) like the 7 units of responses .*.npy, "
            r"got \(2, 6\)",
        ),
        ("r.npy", np.full((2, 7), 2), r"of shape \(roi, unit\) must hold zeros and ones"),
        ("r.npy", np.full(7, 0.5), r"must hold whole numbers from 0"),
        ("r.npy", np.full(7, -1), r"must hold whole numbers from 0"),
        ("r.npy", np.full(7, "V1"), "rois .*r.npy must hold numbers, got <U2"),
        ("r.npz", {"x": LABELS, "roi_names": ["V1"]}, "has label 2, but .*r.npz:roi_names has 1 names"),
        ("r.npz", {"x": np.ones((2, 7)), "roi_names": ["V1"]}, "has 2 regions, but .*:roi_names has 1"),
        ("r.npz", {"x": LABELS, "roi_names": ["V1", "V1"]}, "roi_names must differ, got V1, V1"),
        ("r.npz", {"x": LABELS, "roi_names": [["V1", "V4"]]}, r"must be a list, got shape \(1, 2\)"),
        ("r.json", {"V1": [7]}, "must list units from 0 to 6, got others in 'V1'"),
        ("r.json", {"V1": [0.5]}, "must list units from 0 to 6, got others in 'V1'"),
        ("r.json", {"V1": ["a"]}, 'must be JSON {"name": \\[unit, ...\\]}'),
        ("r.json", [1], 'must be JSON {"name": \\[unit, ...\\]}'),
        ("r.json", {}, "must name at least one region, got none"),
    ],
)
def test_regions_that_do_not_fit(folder, name, content, message):
    path = folder / name
    if path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        write(path, content)
    spec = f"{path}:x" if path.suffix == ".npz" else path
    with pytest.raises(ValueError, match=message):
        load(folder, rois=spec)


# Repeats


def make_repeats():
    """Unequal numbers of repeats, among them an image shown once."""
    rng = np.random.default_rng(3)
    repeats = TABLE.T[:, :, None] + rng.normal(0, 0.5, (N_UNITS, N_STIMULI, 4))
    for stimulus, n in enumerate([4, 3, 2, 1] * 3):
        repeats[:, stimulus, n:] = np.nan
    return repeats


def test_ceiling_comes_from_the_repeats(folder):
    repeats = make_repeats()
    np.save(folder / "repeats.npy", repeats)
    np.save(folder / "mean.npy", np.nanmean(repeats, axis=2))
    recording = load(
        folder,
        responses=folder / "mean.npy",
        orientation="unit-stimulus",
        repeats=folder / "repeats.npy",
    )
    np.testing.assert_array_equal(recording.noise_ceiling, noise_ceiling_from_repeats(repeats))
    assert 0.3 < recording.noise_ceiling.mean() < 1
    assert recording.notes == ()


def test_responses_that_are_not_the_mean_are_noted(folder):
    np.save(folder / "repeats.npy", make_repeats())
    (note,) = load(folder, repeats=folder / "repeats.npy").notes
    assert note.startswith("responses differ from the mean of their repeats by up to ")


def test_stimulus_without_repeats_is_not_compared(folder):
    repeats = np.repeat(TABLE.T[:, :, None], 2, axis=2)
    repeats[:, 5] = np.nan
    np.save(folder / "repeats.npy", repeats)
    assert load(folder, repeats=folder / "repeats.npy").notes == ()


@pytest.mark.parametrize("shape", [(N_STIMULI, N_UNITS, 3), (N_UNITS, N_STIMULI)])
def test_repeats_that_do_not_fit(folder, shape):
    np.save(folder / "repeats.npy", np.ones(shape))
    with pytest.raises(ValueError, match=r"repeats .* must have shape \(7, 12, repeat\) like the units"):
        load(folder, repeats=folder / "repeats.npy")


# Identity of stimuli


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".h5", ".mat"])
def test_ids_are_read_as_text(folder, suffix):
    names = [f"a #{i}" for i in range(N_STIMULI)]
    path = folder / f"ids{suffix}"
    if suffix == ".csv":
        path.write_text("\n".join(names))
    else:
        array = np.array(names, dtype={".h5": "S", ".mat": object}.get(suffix, "U"))
        write(path, array if suffix == ".npy" else {"ids": array})
    assert load(folder, stimulus_ids=path).stimulus_ids.tolist() == names


def test_ids_may_be_numbers(folder):
    np.save(folder / "ids.npy", np.arange(N_STIMULI) + 3)
    assert load(folder, stimulus_ids=folder / "ids.npy").stimulus_ids[0] == "3"


def test_number_of_ids_must_fit(folder):
    np.save(folder / "ids.npy", np.arange(11))
    with pytest.raises(ValueError, match=r"has 12 stimuli .*but stimulus_ids .*ids.npy has 11"):
        load(folder, stimulus_ids=folder / "ids.npy")


# Numbers that are missing


def test_units_that_are_not_numbers_are_dropped(folder):
    table = TABLE.copy()
    table[3, 2], table[4, 6] = np.nan, np.inf
    np.save(folder / "gaps.npy", table)
    np.save(folder / "repeats.npy", make_repeats())
    recording = load(
        folder,
        responses=folder / "gaps.npy",
        rois=write(folder / "rois.npy", LABELS),
        repeats=folder / "repeats.npy",
    )
    keep = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(recording.responses[:], TABLE[:, keep])
    assert as_dict(recording) == {"roi-1": [1, 1, 0, 0, 0], "roi-2": [0, 0, 1, 1, 1]}
    assert recording.notes[0] == "dropped 2 of 7 units with responses that are not numbers"
    np.testing.assert_array_equal(recording.noise_ceiling, noise_ceiling_from_repeats(make_repeats()[keep]))


def test_stimulus_without_a_response_is_named(folder):
    table = TABLE.copy()
    table[3] = np.nan
    np.save(folder / "gaps.npy", table)
    np.save(folder / "ids.npy", [f"image {i}" for i in range(N_STIMULI)])
    with pytest.raises(ValueError, match=r"has no number for stimulus 3 \(image 3\); leave it out"):
        load(folder, responses=folder / "gaps.npy", stimulus_ids=folder / "ids.npy")


def test_all_units_incomplete_is_refused(folder):
    table = TABLE.copy()
    table[np.arange(N_UNITS), np.arange(N_UNITS)] = np.nan
    np.save(folder / "gaps.npy", table)
    with pytest.raises(ValueError, match="must have a unit whose responses are all numbers, got none"):
        load(folder, responses=folder / "gaps.npy")


def test_features_must_be_finite(folder):
    np.save(folder / "features.npy", np.where(FEATURES[5, 1] == FEATURES, np.nan, FEATURES))
    with pytest.raises(ValueError, match=r"features .* must be finite, got others in row 5"):
        load(folder)


# Files that cannot be read


def damage(folder, name, content):
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write(path, content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "key", "message"),
    [
        ("a.npz", {"x": TABLE, "y": TABLE}, "", "holds several arrays; add one of the keys x, y as FILE:key"),
        ("a.npz", {"x": TABLE, "y": TABLE}, ":z", "responses .*a.npz has no key 'z', only x, y"),
        ("a.h5", {"g/x": TABLE}, ":z", "has no key 'z', only g/x"),
        ("a.mat", {"x": TABLE}, ":z", "has no key 'z', only x"),
        ("a.npy", TABLE, ":z", "holds one array and has no key, got 'z'"),
        ("a.csv", b"V1,V2\n1,2\n", "", "a.csv cannot be read: could not convert string 'V1'"),
        ("a.csv", b"", "", "a.csv cannot be read: .*no data"),
        ("a.npy", b"\x93NUMPY\x01\x00", "", "a.npy cannot be read"),
        ("a.npz", b"no archive", "", "a.npz cannot be read: it is no npz archive"),
        ("a.mat", b"no mat file", "", "a.mat cannot be read"),
        ("a.h5", b"no hdf5 file", "", "a.h5 cannot be read"),
        ("a.xls", b"", "", "must be one of .npy, .npz, .mat, .h5, .hdf5, .csv, .tsv"),
        ("a.npy", TABLE[0], "", r"a.npy must have shape \(stimulus, unit\), got \(7,\)"),
        ("a.npy", TABLE.astype(str), "", "a.npy must hold numbers, got <U32"),
        ("a.npy", TABLE.astype(complex), "", "a.npy must hold numbers, got complex128"),
        ("a.mat", {"x": np.array(["a", 1], dtype=object)}, ":x", "must hold numbers, got object"),
        ("a.nii.gz", b"no volume", "", "needs a mask, got none"),
        ("lh.gii", b"no surface", "", "lh.gii cannot be read"),
        ("lh.gii", b"<?xml version='1.0'?><GIFTI", "", "lh.gii cannot be read"),
    ],
)
def test_responses_that_cannot_be_read(folder, name, content, key, message):
    path = damage(folder, name, content)
    orientation = "unit-stimulus" if name.endswith((".gii", ".gz")) else "stimulus-unit"
    with pytest.raises(ValueError, match=message) as caught:
        load(folder, responses=f"{path}{key}", orientation=orientation)
    assert "\n" not in str(caught.value)


def test_nothing_is_unpickled(folder):
    class Hostile:
        def __reduce__(self):
            return (folder / "executed").mkdir, ()

    content = np.array([Hostile()], dtype=object)
    np.save(folder / "a.npy", content, allow_pickle=True)
    np.savez(folder / "a.npz", x=content, allow_pickle=True)
    for spec in ("a.npy", "a.npz:x"):
        with pytest.raises(ValueError, match="cannot be read"):
            load(folder, responses=folder / spec)
        with pytest.raises(ValueError, match="cannot be read"):
            load(folder, stimulus_ids=folder / spec)
    assert not (folder / "executed").exists()
    np.load(folder / "a.npy", allow_pickle=True)  # the file is hostile indeed
    assert (folder / "executed").exists()


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        *itertools.product(
            ("responses", "features", "rois", "repeats", "stimulus_ids"), ("gone.npz:x", "gone.npy")
        ),
        *itertools.product(("responses", "rois", "mask"), ("gone.nii.gz",)),
        ("rois", "gone.json"),
    ],
)
def test_missing_files_are_named(folder, argument, name):
    arguments = {argument: folder / name}
    if (argument, name) == ("responses", "gone.nii.gz"):
        arguments |= {"orientation": "unit-stimulus", "mask": write_volume(folder, "m.nii", MASK)}
    with pytest.raises(FileNotFoundError, match=f"{argument} .*{name.split(':')[0]} does not exist"):
        load(folder, **arguments)


@pytest.mark.parametrize("n_features", [N_UNITS, 10])
def test_wrong_orientation_is_said(folder, n_features):
    np.save(folder / "features.npy", np.ones((n_features, 3)))
    with pytest.raises(ValueError, match=f"has 12 stimuli .*features.npy has {n_features}") as caught:
        load(folder)
    assert ("it fits orientation 'unit-stimulus'" in str(caught.value)) == (n_features == N_UNITS)


def test_options(folder):
    with pytest.raises(ValueError, match="orientation must be one of 'stimulus-unit', 'unit-stimulus'"):
        load(folder, orientation="units-first")
    with pytest.raises(ValueError, match="images or features must be given, got neither"):
        load(folder, features=None)
    with pytest.raises(ValueError, match="unit_kind must be one of 'vertex', 'voxel', 'neuron'"):
        load(folder, unit_kind="cell")


# Volumes


MASK = np.zeros((3, 4, 2), "u1")
MASK[[0, 0, 1, 2, 2, 2, 2], [1, 3, 2, 0, 0, 1, 3], [1, 0, 0, 0, 1, 1, 0]] = 1
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def write_volume(folder, name, data, affine=AFFINE):
    path = folder / name
    nibabel.Nifti1Image(data, affine).to_filename(path)
    return path


def in_volume(values, fill=0):
    """Place (voxel, ...) in the volume, voxel by voxel in C order."""
    volume = np.full((*MASK.shape, *values.shape[1:]), fill, values.dtype)
    for value, place in zip(values, np.argwhere(MASK), strict=True):
        volume[tuple(place)] = value
    return volume


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_volumes(folder, suffix):
    recording = load(
        folder,
        responses=write_volume(folder, f"bold{suffix}", in_volume(TABLE.T, fill=np.nan)),
        orientation="unit-stimulus",
        mask=write_volume(folder, "mask.nii.gz", MASK),
        rois=write_volume(folder, "labels.nii.gz", in_volume(LABELS)),
    )
    np.testing.assert_array_equal(recording.responses[:], TABLE)
    assert recording.name == "bold"
    assert recording.mask == folder / "mask.nii.gz"
    assert set(recording.rois.unit_kind.values) == {"voxel"}
    assert recording.rois.vertex_index.values.tolist() == list(range(7))
    assert as_dict(recording) == {"roi-1": [1, 1, 0, 0, 0, 0, 0], "roi-2": [0, 0, 0, 1, 1, 1, 0]}


def test_dropped_voxels_keep_their_place(folder):
    table = TABLE.copy()
    table[0, 2] = np.nan
    np.save(folder / "gaps.npy", table)
    recording = load(
        folder, responses=folder / "gaps.npy", mask=write_volume(folder, "m.nii", MASK[..., None])
    )
    assert recording.rois.vertex_index.values.tolist() == [0, 1, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": in_volume(np.zeros(7, "u1"))}, "must be a volume .*with nonzero voxels"),
        ({"mask": MASK[0]}, r"must be a volume \(x, y, z\) with nonzero voxels, got \(4, 2\)"),
        ({"mask": MASK[:2]}, r"must have shape \(2, 4, 2, stimulus\) like mask .*got \(3, 4, 2, 12\)"),
        ({"responses": MASK}, r"must have shape \(3, 4, 2, stimulus\) like mask .*got \(3, 4, 2\)"),
        ({"rois": MASK[:, :3]}, r"rois .*must have shape \(3, 4, 2\) like mask .*got \(3, 3, 2\)"),
        ({"orientation": "stimulus-unit"}, "must be 'unit-stimulus'"),
    ],
)
def test_volumes_that_do_not_fit(folder, arguments, message):
    volumes = {"responses": in_volume(TABLE.T), "mask": MASK, "rois": in_volume(LABELS)}
    volumes |= {name: x for name, x in arguments.items() if name in volumes}
    paths = {name: write_volume(folder, f"{name}.nii", x) for name, x in volumes.items()}
    orientation = arguments.get("orientation", "unit-stimulus")
    with pytest.raises(ValueError, match=message):
        load(folder, **paths, orientation=orientation)


def test_volumes_in_another_place_are_refused(folder):
    with pytest.raises(ValueError, match=r"bold.nii must have the affine of mask .*; resample one of them"):
        load(
            folder,
            responses=write_volume(folder, "bold.nii", in_volume(TABLE.T), affine=np.eye(4)),
            orientation="unit-stimulus",
            mask=write_volume(folder, "mask.nii", MASK),
        )


@pytest.mark.parametrize(("orientation", "hint"), [("stimulus-unit", False), ("unit-stimulus", True)])
def test_mask_of_another_size_is_refused(folder, orientation, hint):
    mask = MASK.copy()
    mask[0, 1, 1] = 0
    table = np.ones((6, 12)) if hint else np.ones((12, 7))
    np.save(folder / "t.npy", table)
    if hint:
        table = table.T
        orientation = "stimulus-unit"
    message = "but mask .*m.nii has 6 nonzero voxels" + ("; it fits 'unit-stimulus'" if hint else "$")
    with pytest.raises(ValueError, match=message):
        load(
            folder,
            responses=folder / "t.npy",
            orientation=orientation,
            mask=write_volume(folder, "m.nii", mask),
        )


@pytest.mark.parametrize("content", [b"no volume", None])
def test_damaged_volume(folder, content):
    path = write_volume(folder, "mask.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)))
    path.write_bytes(content or path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"mask .*mask.nii.gz cannot be read"):
        load(folder, mask=path)


# Surfaces


def write_surface(folder, name, table, structure=None, stacked=False):
    columns = [table] if stacked else list(table.T)
    arrays = [GiftiDataArray(np.ascontiguousarray(c, "f4"), datatype="NIFTI_TYPE_FLOAT32") for c in columns]
    meta = None if structure is None else GiftiMetaData({"AnatomicalStructurePrimary": structure})
    path = folder / name
    GiftiImage(darrays=arrays, meta=meta).to_filename(path)
    return path


LEFT = np.random.default_rng(5).normal(size=(9, N_STIMULI)).astype("f4")
RIGHT = np.random.default_rng(6).normal(size=(9, N_STIMULI)).astype("f4")


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(
    ("names", "structures"),
    [
        (("lh.func.gii", "rh.func.gii"), (None, None)),
        (("s_hemi-L_bold.func.gii", "s_hemi-R_bold.func.gii"), (None, None)),
        (("a.gii", "b.gii"), ("CortexLeft", "CortexRight")),
    ],
)
def test_surfaces(folder, stacked, names, structures):
    left = write_surface(folder, names[0], LEFT, structures[0], stacked)
    right = write_surface(folder, names[1], RIGHT, structures[1], stacked)
    recording = load(folder, responses=f"{right},{left}", orientation="unit-stimulus")
    np.testing.assert_array_equal(recording.responses[:], np.concatenate([LEFT, RIGHT]).T)
    assert recording.rois.hemisphere.values.tolist() == ["left"] * 9 + ["right"] * 9
    assert recording.rois.vertex_index.values.tolist() == [*range(9), *range(9)]
    assert set(recording.rois.unit_kind.values) == {"vertex"}
    assert recording.surface is None


def test_one_hemisphere_on_fsaverage5(folder):
    table = np.full((10_242, N_STIMULI), np.nan, "f4")
    table[[4, 900]] = LEFT[:2]
    path = write_surface(folder, "rh.func.gii", table)
    recording = load(folder, responses=path, orientation="unit-stimulus")
    np.testing.assert_array_equal(recording.responses[:], LEFT[:2].T)
    assert recording.surface == "fsaverage5"
    assert recording.rois.hemisphere.values.tolist() == ["right", "right"]
    assert recording.rois.vertex_index.values.tolist() == [4, 900]
    assert recording.notes == (
        "10242 vertices a hemisphere are taken to be fsaverage5",
        "dropped 10240 of 10242 units with responses that are not numbers",
    )


def test_surfaces_that_do_not_fit(folder):
    left = write_surface(folder, "lh.gii", LEFT)
    again = write_surface(folder, "lh.b.gii", LEFT)
    short = write_surface(folder, "rh.gii", RIGHT[:8])
    nameless = write_surface(folder, "x.gii", LEFT)
    empty = write_surface(folder, "lh.empty.gii", LEFT[:, :0])
    cube = write_surface(folder, "lh.cube.gii", np.zeros((3, 3, 3)))
    for spec, message in {
        f"{left},{again}": "must hold each hemisphere once, got 'left' twice",
        f"{left},{short}": "must have equal numbers of vertices and stimuli",
        nameless: r"x.gii must say its hemisphere; name it lh.\*",
        empty: "lh.empty.gii cannot be read: it has no data arrays",
        cube: "lh.cube.gii cannot be read: its arrays must have shape",
    }.items():
        with pytest.raises(ValueError, match=message):
            load(folder, responses=spec, orientation="unit-stimulus")
    with pytest.raises(ValueError, match="must be 'unit-stimulus'"):
        load(folder, responses=left)
    with pytest.raises(ValueError, match="mask must not be given with GIFTI responses"):
        load(folder, responses=left, mask=folder / "mask.nii")


# Inspection


def test_inspection_agrees_with_loading(folder):
    save_images(folder / "images", NAMES)
    np.save(folder / "repeats.npy", make_repeats())
    np.save(folder / "rois.npy", LABELS)
    np.save(folder / "ids.npy", np.arange(N_STIMULI))
    checks = inspect_arrays(
        responses=folder / "responses.npy",
        orientation="stimulus-unit",
        images=folder / "images",
        features=folder / "features.npy",
        rois=folder / "rois.npy",
        repeats=folder / "repeats.npy",
        stimulus_ids=folder / "ids.npy",
        mask=write_volume(folder, "mask.nii", MASK),
    )
    assert [(check.found, check.found == check.expected) for check in checks] == [
        ("7 units, 12 stimuli", True),
        ("12 images", True),
        ("features (12, 5)", True),
        ("2 regions", True),
        ("4 repeats", True),
        ("12 ids", True),
        ("7 voxels", True),
    ]
    assert checks[1].n_bytes == sum(path.stat().st_size for path in (folder / "images").iterdir())


def test_inspection_says_what_is_wrong(folder):
    np.save(folder / "ids.npy", np.arange(11))
    checks = inspect_arrays(
        responses=f"{folder}/responses.npy",
        orientation="unit-stimulus",
        features=folder / "features.npy",
        rois=folder / "gone.npy",
        stimulus_ids=folder / "ids.npy",
    )
    wrong = {check.path.name: check.found for check in checks if check.found != check.expected}
    assert list(wrong) == ["features.npy", "gone.npy", "ids.npy"]
    assert wrong["features.npy"].endswith("has 12; it fits orientation 'stimulus-unit'")
    assert wrong["gone.npy"] == "missing"
    assert wrong["ids.npy"].endswith("has 11")


def test_inspection_without_responses_still_looks_for_the_others(folder):
    checks = inspect_arrays(
        responses=folder / "responses.npy:key",
        orientation="unit-stimulus",
        features=folder / "features.npy",
        repeats=folder / "gone.npy",
    )
    assert [check.found == check.expected for check in checks] == [False, True, False]
    assert checks[2].found == "missing"


# Real recordings


# Single trials


STIMULUS = np.random.default_rng(2).permutation(
    np.concatenate([np.arange(N_STIMULI), np.arange(N_STIMULI)[::2]])
)
SESSION = np.arange(len(STIMULUS)) // 6
TRIALS = 3 * TABLE[STIMULUS] + np.random.default_rng(3).normal(size=(len(STIMULUS), N_UNITS)).astype("f4")


def write_trials(folder, *, names=None, session=SESSION):
    shown = STIMULUS if names is None else np.asarray(names)[STIMULUS]
    lines = ["stimulus,run,session" if session is not None else "stimulus,run"]
    lines += [f"{s},1" + ("" if session is None else f",day {session[i]}") for i, s in enumerate(shown)]
    path = folder / "trials.csv"
    path.write_text("\n".join(lines))
    return path


def mean_by_stimulus(trials):
    return np.stack([trials[i == STIMULUS].mean(0) for i in range(N_STIMULI)])


def standardized(trials):
    z = np.empty(trials.shape)
    for number in np.unique(SESSION):
        here = trials[number == SESSION].astype(float)
        z[number == SESSION] = (here - here.mean(0)) / here.std(0)
    return z


@pytest.mark.parametrize("session", [None, SESSION])
def test_trials_are_averaged_by_stimulus(folder, session):
    np.save(folder / "responses.npy", TRIALS)
    recording = load(folder, trials=write_trials(folder, session=session))
    trials = TRIALS if session is None else standardized(TRIALS)
    np.testing.assert_allclose(recording.responses[:], mean_by_stimulus(trials), atol=1e-5)
    repeats = np.full((N_UNITS, N_STIMULI, 2), np.nan)
    for i in range(N_STIMULI):
        shown = trials[i == STIMULUS].T
        repeats[:, i, : shown.shape[1]] = shown
    np.testing.assert_allclose(recording.noise_ceiling, noise_ceiling_from_repeats(repeats), atol=1e-5)
    assert "18 trials averaged to 12 stimuli of 1 to 2 repeats" in recording.notes
    for fold in split_stimuli(recording.stimulus_ids, "kfold=3,seeds=0"):
        assert not set(recording.stimulus_ids[fold.train]) & set(recording.stimulus_ids[fold.test])


def test_trials_name_their_stimuli(folder):
    names = [f"image {i:02d}" for i in range(N_STIMULI)][::-1]
    (folder / "ids.csv").write_text("\n".join(names))
    np.save(folder / "responses.npy", TRIALS)
    recording = load(
        folder, trials=write_trials(folder, names=names, session=None), stimulus_ids=folder / "ids.csv"
    )
    assert recording.stimulus_ids.tolist() == names
    np.testing.assert_allclose(recording.responses[:], mean_by_stimulus(TRIALS), atol=1e-5)


def test_a_unit_without_a_number_in_one_trial_is_dropped(folder):
    trials = TRIALS.copy()
    trials[4, 2] = np.nan
    np.save(folder / "responses.npy", trials)
    recording = load(folder, trials=write_trials(folder))
    np.testing.assert_allclose(
        recording.responses[:], np.delete(mean_by_stimulus(standardized(TRIALS)), 2, axis=1), atol=1e-5
    )
    assert len(recording.noise_ceiling) == N_UNITS - 1
    assert "dropped 1 of 7 units with responses that are not numbers" in recording.notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image\n1\n", "must have a column 'stimulus', got image"),
        ("stimulus\n1\n2\n", "has 18 trials, but trials .*trials.csv has 2"),
        ("stimulus\n" + "a\n" * 18, "must count images from 0 where there are no stimulus_ids"),
        ("stimulus\n" + "3\n" * 18, "must show every stimulus, got none of '0'"),
        ("", "trials.csv cannot be read"),
    ],
)
def test_trials_that_do_not_fit(folder, content, message):
    np.save(folder / "responses.npy", TRIALS)
    (folder / "trials.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        load(folder, trials=folder / "trials.csv")


def test_trials_of_unknown_stimuli_and_other_files_are_refused(folder):
    np.save(folder / "responses.npy", TRIALS)
    trials = write_trials(folder)
    (folder / "ids.csv").write_text("\n".join(map(str, range(1, 13))))
    with pytest.raises(ValueError, match=r"show '0', which stimulus_ids .*ids.csv does not have"):
        load(folder, trials=trials, stimulus_ids=folder / "ids.csv")
    (folder / "ids.csv").write_text("\n".join(["0", *map(str, range(11))]))
    with pytest.raises(ValueError, match="must differ where trials are given"):
        load(folder, trials=trials, stimulus_ids=folder / "ids.csv")
    with pytest.raises(ValueError, match=r"must be a .csv or .tsv table"):
        load(folder, trials=folder / "responses.npy")
    with pytest.raises(ValueError, match="trials or repeats must be given, got both"):
        load(folder, trials=trials, repeats=folder / "responses.npy")
    with pytest.raises(FileNotFoundError, match=r"trials .*gone.csv does not exist"):
        load(folder, trials=folder / "gone.csv")


def test_trials_are_inspected(folder):
    np.save(folder / "responses.npy", TRIALS)
    files = {"responses": folder / "responses.npy", "features": folder / "features.npy"}
    checks = inspect_arrays(**files, orientation="stimulus-unit", trials=write_trials(folder))
    assert [check.found for check in checks] == [
        "7 units, 18 stimuli",
        "18 trials of 12 stimuli",
        "features (12, 5)",
    ]


# GLMsingle


GRID = TABLE.T.reshape(N_UNITS, 1, 1, N_STIMULI)


def write_glmsingle(folder, suffix, betas):
    path = folder / f"TYPED_FITHRF_GLMDENOISE_RR{suffix}"
    content = {"betasmd": betas, "R2": np.ones(betas.shape[:3]), "pcnum": 4}
    if suffix == ".npy":
        content["pcregressors"] = [np.ones((3, 2)), np.ones((2, 2))]
        np.save(path, content, allow_pickle=True)
    elif suffix == ".h5":
        write(path, content)
    elif suffix == "-v73.mat":  # MATLAB stores its arrays in reversed order
        with h5py.File(path, "w", userblock_size=512) as file:
            for key, value in content.items():
                file[key] = np.asarray(value).T
    else:
        savemat(path, content)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".mat", "-v73.mat", ".h5"])
@pytest.mark.parametrize("masked", [False, True])
def test_output_of_glmsingle(folder, suffix, masked):
    betas, mask = GRID, None
    if masked:
        betas, mask = in_volume(TABLE.T), write_volume(folder, "mask.nii", MASK)
    path = write_glmsingle(folder, suffix, betas)
    for spec in (path, f"{path}:betasmd"):
        recording = load(folder, responses=spec, orientation="unit-stimulus", mask=mask)
        np.testing.assert_array_equal(recording.responses[:], TABLE)


def test_cells_of_matlab_are_refused(folder):
    with h5py.File(folder / "ids.mat", "w", userblock_size=512) as file:
        file["#refs#/a"] = np.frombuffer(b"c\0a\0t\0", np.uint16)
        file["ids"] = np.array([file["#refs#/a"].ref] * N_STIMULI, h5py.ref_dtype)
    with pytest.raises(ValueError, match="it holds cells; save text as version 7"):
        load(folder, stimulus_ids=folder / "ids.mat")


def test_single_slice_keeps_its_axes(folder):
    inside = np.ones((2, 3, 1), "u1")
    betas = np.arange(2 * 3 * N_STIMULI, dtype="f4").reshape(2, 3, 1, N_STIMULI)
    mask = write_volume(folder, "mask.nii", inside)
    for suffix in (".mat", "-v73.mat"):
        path = write_glmsingle(folder, suffix, betas)
        recording = load(folder, responses=path, orientation="unit-stimulus", mask=mask)
        np.testing.assert_array_equal(recording.responses[:], betas.reshape(6, N_STIMULI).T)


def test_volumes_in_arrays_need_a_mask_that_fits(folder):
    path = write_glmsingle(folder, ".npy", in_volume(TABLE.T))
    arguments = {"responses": path, "orientation": "unit-stimulus"}
    with pytest.raises(ValueError, match=r"of shape \(3, 4, 2, 12\) need a mask, got none"):
        load(folder, **arguments)
    mask = write_volume(folder, "mask.nii", MASK[:2])
    with pytest.raises(ValueError, match=r"must have shape \(2, 4, 2, stimulus\) like mask"):
        load(folder, **arguments, mask=mask)
    with pytest.raises(ValueError, match="must be 'unit-stimulus'"):
        load(folder, responses=path, orientation="stimulus-unit")


def test_pickled_objects_cannot_run(folder):
    class Hostile:
        def __reduce__(self):
            return (folder / "executed").mkdir, ()

    path = folder / "TYPED.npy"
    np.save(path, {"betasmd": GRID, "R2": Hostile()}, allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read: it refers to"):
        load(folder, responses=path, orientation="unit-stimulus")
    assert not (folder / "executed").exists()
    np.save(path, np.array("text", dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="it holds no dictionary of arrays"):
        load(folder, responses=path, orientation="unit-stimulus")


# Ids of features


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".h5"])
def test_features_of_other_stimuli_are_refused(folder, suffix):
    names = [f"image-{i:02d}" for i in range(N_STIMULI)]
    (folder / "ids.csv").write_text("\n".join(names))
    listed = np.array(names, "S8" if suffix == ".h5" else "U8")
    path = write(folder / f"features{suffix}", {"features": FEATURES, "stimulus_ids": listed})
    spec = f"{path}:features"
    for ids in (None, folder / "ids.csv"):
        assert load(folder, features=spec, stimulus_ids=ids).stimulus_ids.tolist() == names
    (folder / "ids.csv").write_text("\n".join([*names[:3], names[4], names[3], *names[5:]]))
    with pytest.raises(ValueError, match=r"got 'image-03' where 'image-04' is due, in row 3"):
        load(folder, features=spec, stimulus_ids=folder / "ids.csv")
    write(path, {"features": FEATURES, "stimulus_ids": listed[:5]})
    for ids in (None, folder / "ids.csv"):
        with pytest.raises(ValueError, match=r"has 12 stimuli .*stimulus_ids.* has 5"):
            load(folder, features=spec, stimulus_ids=ids)


@pytest.mark.shared_data
def test_objects81(shared):
    path = shared / "data/neural/objects81_fmri/objects81.npz"
    recording = load_arrays(
        responses=f"{path}:betas",
        orientation="stimulus-unit",
        features=f"{path}:alexnet_pc",
        rois=f"{path}:roi_index",
        stimulus_ids=f"{path}:category",
    )
    assert (recording.n_stimuli, recording.n_units, recording.features.shape) == (81, 696, (81, 20))
    sizes = dict(zip(recording.rois.roi.values, recording.rois.sum("unit").values, strict=True))
    assert sizes == {"EVC": 100, "OPA": 100, "PPA": 100, "LOC": 96, "PFS": 100, "OFA": 100, "FFA": 100}
    np.testing.assert_allclose(recording.responses[:].mean(axis=0), 0, atol=1e-5)  # as its README says
    assert recording.notes == ()


@pytest.mark.shared_data
@pytest.mark.parametrize(("session", "shape"), [("190923", (1200, 33)), ("210325", (640, 50))])
def test_v4_sessions(shared, session, shape):
    folder = shared / "data/neural/cowley_v4"
    arguments = {
        "responses": folder / f"responses_{session}.npy",
        "images": folder / f"images_{session}.zip",
        "unit_kind": "neuron",
    }
    recording = load_arrays(**arguments, orientation="unit-stimulus")
    assert (recording.n_stimuli, recording.n_units) == shape
    assert recording.images.shape == (shape[0], 112, 112, 3)
    assert str(recording.images.paths[0]).endswith("image0001.jpg")
    assert str(recording.images.paths[-1]).endswith(f"image{shape[0]:04d}.jpg")
    with pytest.raises(ValueError, match="it fits orientation 'unit-stimulus'"):
        load_arrays(**arguments, orientation="stimulus-unit")


@pytest.mark.shared_data
def test_ceiling_of_real_repeats(shared):
    """Reliability of session 210325 by split halves, Spearman-Brown corrected: mean sqrt ceiling .852."""
    folder = shared / "data/neural/cowley_v4"
    recording = load_arrays(
        responses=folder / "responses_210325.npy",
        orientation="unit-stimulus",
        images=folder / "images_210325.zip",
        repeats=folder / "responses_raw_210325.npy",
    )
    assert recording.notes == ()  # the responses are the means of the repeats
    assert np.sqrt(recording.noise_ceiling).mean() == pytest.approx(0.852, abs=0.02)
