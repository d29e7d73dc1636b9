"""Maps as files: other software finds every value where the unit lies."""

import dataclasses
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.gifti import GiftiDataArray, GiftiImage

from neuroattn.datasets import Recording, export_map, fsaverage5_mesh, load_arrays, to_surface
from neuroattn.results import label_rois

INDEX = np.array([3, 10_241, 10_242, 160_000, 0, 10_241, 163_841])
SIDES = np.array(["left"] * 4 + ["right"] * 3)
VALUES = np.arange(7) / 10 + 0.05


def make_recording(surface="fsaverage", sides=SIDES, index=INDEX):
    return Recording(
        "subj01",
        np.zeros((2, len(sides)), "f4"),
        label_rois({"all": [True] * len(sides)}, hemisphere=sides, unit_kind="vertex", vertex_index=index),
        np.array(["a", "b"]),
        features=np.zeros((2, 3)),
        surface=surface,
    )


# Surfaces


@pytest.mark.parametrize("hemisphere", ["left", "right"])
@pytest.mark.parametrize("kind", ["infl", "pial", "flat", "white", "sphere"])
def test_meshes_are_at_hand_offline(hemisphere, kind):
    coordinates, faces = fsaverage5_mesh(hemisphere, kind)
    assert coordinates.shape == (10_242, 3)
    assert faces.min() >= 0
    assert faces.max() < 10_242
    if kind != "flat":
        assert len(faces) == 20_480
    if kind == "white":  # the left hemisphere lies at negative x
        assert (coordinates[:, 0].mean() < 0) == (hemisphere == "left")


@pytest.mark.parametrize("hemisphere", ["left", "right"])
def test_meshes_are_nested(hemisphere):
    """Every vertex beyond the coarser mesh halves one of its edges: indices are kept from mesh to mesh.

    Shown on the levels within fsaverage5; fsaverage continues the same subdivision.
    """
    coordinates, faces = fsaverage5_mesh(hemisphere, "sphere")
    n_coarse = 2_562  # fsaverage4
    edges = {tuple(sorted(edge)) for a, b, c in faces for edge in ((a, b), (b, c), (a, c))}
    coarse = {vertex: [] for vertex in range(n_coarse, 10_242)}
    for a, b in edges:
        assert b >= n_coarse, "two vertices of the coarser mesh must not be neighbours"
        if a < n_coarse:
            coarse[b].append(a)
    assert {len(parents) for parents in coarse.values()} == {2}
    # the new vertices lie near the middle of their edge
    middle = np.array([coordinates[parents].mean(axis=0) for parents in coarse.values()])
    middle *= 100 / np.linalg.norm(middle, axis=1, keepdims=True)
    assert np.linalg.norm(middle - coordinates[n_coarse:], axis=1).max() < 1


def test_values_lie_on_their_vertices():
    maps = to_surface(VALUES, make_recording().rois)
    assert maps["left"].shape == maps["right"].shape == (10_242,)
    assert maps["left"][[3, 10_241]] == pytest.approx([0.05, 0.15])
    assert maps["right"][[0, 10_241]] == pytest.approx([0.45, 0.55])
    assert [np.isfinite(maps[side]).sum() for side in ("left", "right")] == [2, 2]
    whole = to_surface(VALUES, make_recording().rois, 163_842)
    assert whole["left"][INDEX[:4]] == pytest.approx(VALUES[:4])
    assert whole["right"][INDEX[4:]] == pytest.approx(VALUES[4:])
    np.testing.assert_array_equal(whole["left"][:10_242], maps["left"])


def test_units_without_a_vertex_are_left_out():
    rois = label_rois({"all": [True] * 3}, hemisphere=["none", "left", "left"], vertex_index=[5, -1, 6])
    maps = to_surface([1, 2, 3], rois)
    assert np.flatnonzero(np.isfinite(maps["left"])).tolist() == [6]
    assert not np.isfinite(maps["right"]).any()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"values must have shape \(7,\), got \(6,\)"):
        to_surface(VALUES[:6], make_recording().rois)
    with pytest.raises(ValueError, match="hemisphere must be one of 'left', 'right', got 'lh'"):
        fsaverage5_mesh("lh")
    with pytest.raises(ValueError, match="kind must be one of"):
        fsaverage5_mesh("left", "inflated")


# Files


@pytest.mark.parametrize(("surface", "n"), [("fsaverage", 163_842), ("fsaverage5", 10_242)])
@pytest.mark.parametrize("format", ["gifti", "mgh"])
def test_surface_files(tmp_path, format, surface, n):
    keep = n > INDEX
    recording = make_recording(surface, SIDES[keep], INDEX[keep])
    paths = export_map(VALUES[keep], recording, tmp_path / "r.best", format, "correlation")
    assert [path.name for path in paths] == {
        "gifti": ["r.best_hemi-L.func.gii", "r.best_hemi-R.func.gii"],
        "mgh": ["lh.r.best.mgh", "rh.r.best.mgh"],
    }[format]
    expected = to_surface(VALUES[keep], recording.rois, n)
    for path, side in zip(paths, ("left", "right"), strict=True):
        if format == "gifti":
            image = nibabel.load(path)
            assert image.meta["AnatomicalStructurePrimary"] == f"Cortex{side.capitalize()}"
            assert image.darrays[0].meta["Name"] == "correlation"
            data = image.darrays[0].data
        else:
            image = nibabel.MGHImage.from_bytes(path.read_bytes())  # load() leaves the file open
            assert image.shape == (n, 1, 1)
            data = np.asarray(image.dataobj)[:, 0, 0]
        assert data.dtype.kind == "f"
        assert data.dtype.itemsize == 4
        np.testing.assert_array_equal(data, expected[side])
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_only_hemispheres_with_units_are_written(tmp_path):
    recording = make_recording(sides=SIDES[4:], index=INDEX[4:])
    (path,) = export_map(VALUES[4:], recording, tmp_path / "new" / "folder" / "r", "mgh", "r")
    assert path == tmp_path / "new" / "folder" / "rh.r.mgh"
    assert list(path.parent.iterdir()) == [path]


def test_map_of_another_mesh(tmp_path):
    """A mesh that is not fsaverage has the size of the GIFTI file that the recording came from."""
    columns = np.random.default_rng(0).normal(size=(4, 9)).astype("f4")
    columns[:, 5] = np.nan
    GiftiImage(darrays=[GiftiDataArray(c) for c in columns]).to_filename(tmp_path / "lh.gii")
    np.save(tmp_path / "features.npy", np.ones((4, 2)))
    recording = load_arrays(
        responses=tmp_path / "lh.gii", orientation="unit-stimulus", features=tmp_path / "features.npy"
    )
    (path,) = export_map(np.arange(8), recording, tmp_path / "map", "gifti", "x")
    np.testing.assert_array_equal(nibabel.load(path).darrays[0].data, [0, 1, 2, 3, 4, np.nan, 5, 6, 7])
    with pytest.raises(ValueError, match="has no NIfTI mask; a volume cannot be written"):
        export_map(np.arange(8), recording, tmp_path / "map", "nifti", "x")


@pytest.fixture
def volume(tmp_path):
    """Recording of the five voxels of a mask, the third of which is dropped."""
    mask = np.zeros((3, 4, 2), "i2")
    mask[[0, 0, 1, 2, 2], [1, 3, 2, 0, 1], [1, 0, 0, 1, 0]] = 1
    image = nibabel.Nifti1Image(mask, np.diag([2.0, 2.0, 3.0, 1.0]))
    image.header.set_sform(image.affine, code="mni")
    image.to_filename(tmp_path / "mask.nii.gz")
    table = np.ones((4, 5))
    table[0, 2] = np.nan
    np.save(tmp_path / "r.npy", table)
    np.save(tmp_path / "features.npy", np.ones((4, 2)))
    return load_arrays(
        responses=tmp_path / "r.npy",
        orientation="stimulus-unit",
        features=tmp_path / "features.npy",
        mask=tmp_path / "mask.nii.gz",
    )


def test_volume_file(volume, tmp_path):
    (path,) = export_map([1, 2, 4, 5], volume, str(tmp_path / "map"), "nifti", "correlation é")
    image, mask = nibabel.load(path), nibabel.load(tmp_path / "mask.nii.gz")
    assert path.name == "map.nii.gz"
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(image.affine, mask.affine)
    assert image.header["sform_code"] == mask.header["sform_code"] == 4
    assert bytes(image.header["descrip"].item()) == b"correlation ?"
    data = np.asarray(image.dataobj)
    np.testing.assert_array_equal(data[np.asarray(mask.dataobj) > 0], [1, 2, np.nan, 4, 5])
    assert np.isfinite(data).sum() == 4
    assert data[0, 1, 1] == 1
    assert data[2, 1, 0] == 5


def test_recordings_without_geometry_are_refused(volume, tmp_path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="recording 'r' has no surface; only 'nifti' could be written"):
        export_map(np.ones(4), volume, tmp_path / "map", "gifti", "r")
    surface = make_recording()
    with pytest.raises(ValueError, match="recording 'subj01' has no NIfTI mask"):
        export_map(VALUES, surface, tmp_path / "map", "nifti", "r")
    with pytest.raises(ValueError, match="recording 'subj01' has no surface"):
        export_map(VALUES, dataclasses.replace(surface, surface=None), tmp_path / "map", "mgh", "r")
    with pytest.raises(ValueError, match=r"values must have shape \(7,\), got \(6,\)"):
        export_map(VALUES[:6], surface, tmp_path / "map", "mgh", "r")
    with pytest.raises(ValueError, match="format must be one of 'gifti', 'mgh', 'nifti', got 'cifti'"):
        export_map(VALUES, surface, tmp_path / "map", "cifti", "r")
    assert sorted(tmp_path.iterdir()) == before


def test_mask_that_has_changed_is_refused(volume, tmp_path):
    smaller = np.zeros((3, 4, 2), "i2")
    smaller[0, 0, 0] = 1
    nibabel.Nifti1Image(smaller, np.eye(4)).to_filename(tmp_path / "mask.nii.gz")
    with pytest.raises(ValueError, match="has 1 nonzero voxels, but units lie at 0 to 4"):
        export_map(np.ones(4), volume, tmp_path / "map", "nifti", "r")


def test_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    recording = make_recording()
    (path, _) = export_map(VALUES, recording, tmp_path / "r", "mgh", "r")
    before = path.read_bytes()

    def fail(self, name):
        Path(name).write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(nibabel.MGHImage, "to_filename", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        export_map(VALUES * 2, recording, tmp_path / "r", "mgh", "r")
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
