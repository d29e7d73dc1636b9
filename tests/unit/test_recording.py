"""Recordings: rows are read only when asked for, and what does not belong together is refused."""

import dataclasses
import pickle
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

from neuroattn.datasets import ImageFiles, ImagesHdf5, Recording, Responses, content_ids
from neuroattn.results import label_rois

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path, pixels in zip(paths, PIXELS, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture
def archive(paths, tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in paths:
            archive.write(path, path.name)
    return tmp_path / "images.zip"


INDICES = [
    slice(None),
    slice(1, 4, 2),
    [3, 0, 3],
    np.array([4, 1]),
    np.array([True, False, True, False, False]),
    2,
    np.int64(2),
    -1,
    slice(0, 0),
]


@pytest.mark.parametrize("rows", INDICES, ids=str)
def test_image_files_index_like_an_array(paths, archive, rows):
    np.testing.assert_array_equal(ImageFiles(paths)[rows], PIXELS[rows])
    names = [path.name for path in paths]
    np.testing.assert_array_equal(ImageFiles(names, archive=archive)[rows], PIXELS[rows])


@pytest.fixture
def hdf5(tmp_path):
    """Twice the images, each after an empty one."""
    with h5py.File(tmp_path / "stimuli.hdf5", "w") as file:
        file["imgBrick"] = np.stack([np.zeros_like(PIXELS), PIXELS], axis=1).reshape(10, 4, 6, 3)
        file["grey"] = PIXELS[..., 0]
        file["float"] = PIXELS.astype("f4")
    return tmp_path / "stimuli.hdf5"


@pytest.mark.parametrize("rows", INDICES, ids=str)
def test_images_in_hdf5_index_like_an_array(hdf5, rows):
    images = ImagesHdf5(hdf5, "imgBrick", np.arange(1, 10, 2))
    assert (images.shape, len(images)) == (PIXELS.shape, 5)
    np.testing.assert_array_equal(images[rows], PIXELS[rows])
    order = [4, 0, 4, 2, 1]  # neither ascending nor distinct
    np.testing.assert_array_equal(
        ImagesHdf5(hdf5, "imgBrick", 2 * np.array(order) + 1)[rows], PIXELS[order][rows]
    )
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images))[rows], PIXELS[rows])


@pytest.mark.parametrize(
    ("key", "rows", "message"),
    [
        ("grey", None, r"must be uint8 of shape \(image, y, x, 3\), got uint8 \(5, 4, 6\)"),
        ("float", None, r"must be uint8 of shape \(image, y, x, 3\), got float32"),
        ("other", None, "stimuli.hdf5:other cannot be read"),
        ("imgBrick", [3, 10], r"rows must lie between 0 and 9 in .*, got 3 to 10"),
        ("imgBrick", [-1], "rows must lie between 0 and 9 in .*, got -1 to -1"),
    ],
)
def test_images_in_hdf5_that_cannot_be_read(hdf5, key, rows, message):
    with pytest.raises(ValueError, match=message):
        ImagesHdf5(hdf5, key, rows)
    with pytest.raises(FileNotFoundError, match=r"gone.hdf5 does not exist"):
        ImagesHdf5(hdf5.with_name("gone.hdf5"), key)


def test_image_files_have_the_shape_of_their_array(paths):
    images = ImageFiles(paths)
    assert (images.shape, len(images)) == (PIXELS.shape, 5)


@pytest.mark.parametrize(
    ("mode", "expected"), [("L", [7, 7, 7]), ("RGBA", [7, 8, 9]), ("P", [7, 7, 7]), ("1", [0, 0, 0])]
)
def test_images_of_every_mode_become_rgb(tmp_path, mode, expected):
    colour = {"L": 7, "RGBA": (7, 8, 9, 128), "P": 0, "1": 0}[mode]
    image = Image.new(mode, (2, 2), colour)
    if mode == "P":
        image.putpalette([7] * 768)
    image.save(tmp_path / "a.png")
    assert ImageFiles([tmp_path / "a.png"])[0][0, 0].tolist() == expected


@pytest.mark.parametrize("rows", [1, [0, 1]], ids=str)
def test_images_of_two_sizes_are_refused(paths, rows):
    Image.new("RGB", (5, 4)).save(paths[1])
    with pytest.raises(ValueError, match=r"must all be of one size, got 6x4 in .*0.png and 5x4 in .*1.png"):
        ImageFiles(paths)[rows]


def test_images_that_cannot_be_read_are_named(paths, archive, tmp_path):
    images = ImageFiles(paths)
    whole = paths[1].read_bytes()
    for content in (b"", b"no image", whole[: len(whole) // 2]):
        paths[1].write_bytes(content)
        with pytest.raises(ValueError, match=r"image .*1.png cannot be decoded"):
            images[1]
    paths[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"image .*1.png does not exist"):
        images[1]
    with pytest.raises(FileNotFoundError, match=r"image .*images.zip:z.png does not exist"):
        ImageFiles(["z.png"], archive=archive)
    with pytest.raises(FileNotFoundError, match=r"archive .*gone.zip does not exist"):
        ImageFiles(["z.png"], archive=tmp_path / "gone.zip")
    archive.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"archive .*images.zip cannot be read"):
        ImageFiles(["0.png"], archive=archive)
    with pytest.raises(ValueError, match="paths must name at least one image, got none"):
        ImageFiles([])


TABLE = np.random.default_rng(1).normal(size=(5, 7)).astype("f4")
BLOCKS = [[TABLE[:3, :4], TABLE[:3, 4:]], [TABLE[3:, :4], TABLE[3:, 4:]]]


@pytest.mark.parametrize("rows", INDICES, ids=str)
@pytest.mark.parametrize("units", [None, [6, 0, 2]], ids=str)
def test_responses_index_like_an_array(rows, units):
    columns = slice(None) if units is None else units
    responses = Responses(BLOCKS, None if units is None else np.array(units))
    assert responses.shape == TABLE[:, columns].shape
    np.testing.assert_array_equal(responses[rows], TABLE[:, columns][rows])
    assert responses[rows].dtype == np.float32


def test_responses_become_an_array():
    np.testing.assert_array_equal(np.asarray(Responses(BLOCKS)), TABLE)
    assert np.asarray(Responses(BLOCKS), dtype=np.float64).dtype == np.float64


def test_blocks_must_fit_together():
    with pytest.raises(ValueError, match=r"blocks must have shape \(3, 4\), got \(2, 4\)"):
        Responses(
            [[TABLE[:3, :3], TABLE[:3, 3:]], [TABLE[3:, :3], TABLE[3:, 3:]], [TABLE[:3, :3], TABLE[:2, 3:]]]
        )
    with pytest.raises(ValueError, match=r"blocks must have shape \(stimulus, unit\), got \(7,\)"):
        Responses([[TABLE[0]]])


def test_gaps_are_found_in_long_recordings():
    table = np.zeros((700, 3), "f4")
    table[[5, 699], [2, 0]] = np.nan, -np.inf
    table[300] = np.nan
    rows, units = Responses([[table]]).gaps()
    assert np.flatnonzero(rows).tolist() == [300]
    assert units.tolist() == [True, True, True]
    rows, units = Responses([[np.delete(table, 300, axis=0)]]).gaps()
    assert not rows.any()
    assert units.tolist() == [True, False, True]


def test_ids_are_of_the_content(paths, archive):
    pixels = np.concatenate([PIXELS] * 30)
    ids = content_ids(pixels)
    assert len(set(ids)) == 5
    np.testing.assert_array_equal(ids[:5], ids[-5:])
    np.testing.assert_array_equal(ids[:5], content_ids(ImageFiles(paths)))
    np.testing.assert_array_equal(ids[:5], content_ids(ImageFiles([p.name for p in paths], archive=archive)))


def make_recording():
    return Recording(
        "one",
        TABLE,
        label_rois({"V1": [True] * 7}),
        stimulus_ids=np.array(list("abcde")),
        images=PIXELS,
        noise_ceiling=np.ones(7),
        test=np.zeros(5, bool),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"responses": TABLE[0]}, r"responses must have shape \(stimulus, unit\), got \(7,\)"),
        ({"rois": label_rois({"V1": [True] * 6})}, r"rois must have shape \(roi, 7\), got \(1, 6\)"),
        ({"stimulus_ids": np.array(["a"])}, r"stimulus_ids must have shape \(5,\), got \(1,\)"),
        ({"images": None}, "images or features must be given, got neither"),
        ({"images": PIXELS[:4]}, "images must have 5 rows like responses, got 4"),
        ({"features": np.zeros((6, 2))}, "features must have 5 rows like responses, got 6"),
        ({"noise_ceiling": np.ones(6)}, r"noise_ceiling must have shape \(7,\), got \(6,\)"),
        ({"test": np.ones(6, bool)}, r"test must have shape \(5,\), got \(6,\)"),
    ],
)
def test_parts_must_fit_together(change, message):
    recording = make_recording()
    assert (recording.n_stimuli, recording.n_units) == (5, 7)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(recording, **change)
