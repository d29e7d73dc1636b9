"""Groups of regions, and atlases from files: the units that are kept, and spaces that do not fit."""

import dataclasses
import json

import nibabel
import numpy as np
import pytest
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiLabel, GiftiLabelTable, GiftiMetaData

from neuroattn.datasets import Recording, Responses, add_regions, make_nsd_like, select_regions
from neuroattn.results import label_rois

N_VERTICES = 10_242


@pytest.fixture(scope="module")
def simulated():
    return make_nsd_like(12, 6, seed=0, rois=["V1v", "FFA-1", "OFA", "EBA", "PPA"], vertices_per_roi=6)


@pytest.fixture
def recording(simulated):
    """Simulated subject with two streams, one of them empty, and responses in a file-like table."""
    rois = simulated.rois
    masks = dict(zip(rois.roi.values.tolist(), rois.values, strict=True))
    masks |= {"early": rois.values.any(0), "parietal": np.zeros(rois.sizes["unit"], bool)}
    labelled = label_rois(
        masks,
        hemisphere=rois.hemisphere.values,
        unit_kind="vertex",
        vertex_index=rois.vertex_index.values,
        atlas=[*rois.atlas.values, "streams", "streams"],
    )
    table = simulated.responses
    order = np.arange(table.shape[1])[::-1]
    return dataclasses.replace(simulated, rois=labelled, responses=Responses([[table[:, order]]], order))


def test_simulated_regions_carry_their_atlas(simulated):
    assert simulated.rois.atlas.values.tolist() == [
        "prf-visualrois", "floc-faces", "floc-faces", "floc-bodies", "floc-places",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "regions", "whole"),
    [
        ("streams", ["early", "parietal"], True),
        ("rois", ["V1v", "FFA-1", "OFA", "EBA", "PPA"], True),
        ("visual", ["V1v"], False),
        ("faces", ["FFA-1", "OFA"], False),
        ("bodies", ["EBA"], False),
        ("places", ["PPA"], False),
        ("floc-faces", ["FFA-1", "OFA"], True),
        (["PPA", "V1v"], ["PPA", "V1v"], False),
        (["PPA", "PPA"], ["PPA"], False),
    ],
)
def test_selections_keep_their_regions_and_units(recording, name, regions, whole):
    selected = select_regions(recording, name)
    assert selected.rois.roi.values.tolist() == regions
    inside = recording.rois.sel(roi=regions).values.any(0)
    units = np.arange(recording.n_units) if whole else np.flatnonzero(inside)
    assert whole or len(units) < recording.n_units
    np.testing.assert_array_equal(selected.responses[:], recording.responses[:][:, units])
    np.testing.assert_array_equal(selected.noise_ceiling, recording.noise_ceiling[units])
    np.testing.assert_array_equal(selected.rois.vertex_index, recording.rois.vertex_index[units])
    np.testing.assert_array_equal(selected.rois.values, recording.rois.sel(roi=regions).values[:, units])
    np.testing.assert_array_equal(selected.truth.ncsnr, recording.truth.ncsnr[units])
    assert set(selected.truth.roi.values) <= set(regions)
    np.testing.assert_array_equal(selected.test, recording.test)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "words",
            "has no regions of 'words'; its atlases are floc-bodies, floc-faces, floc-places, prf-visualrois",
        ),
        ("face", "name 'face' is unknown; nearest are 'faces'"),
        (["FFA1"], "name must be one of .*, got 'FFA1'"),
        (["parietal"], "has no unit in parietal"),
        ([], "name must name at least one region, got none"),
    ],
)
def test_selections_that_are_not_there(recording, name, message):
    with pytest.raises(ValueError, match=message):
        select_regions(recording, name)


# Atlases


def labels_of(side):
    """Label of each vertex: three stripes, one of them unlabelled."""
    return ((np.arange(N_VERTICES) + (side == "right")) % 3).astype(np.int32)


def expected(recording, label):
    sides, index = recording.rois.hemisphere.values, recording.rois.vertex_index.values
    return np.array([labels_of(s)[i] == label for s, i in zip(sides, index, strict=True)])


def write_mgz(path, values):
    nibabel.MGHImage(values.reshape(-1, 1, 1), np.eye(4)).to_filename(path)


def write_gifti(path, values, names=("Unknown", "dorsal", "ventral")):
    table = GiftiLabelTable()
    for key, name in enumerate(names):
        label = GiftiLabel(key)
        label.label = name
        table.labels.append(label)
    array = GiftiDataArray(values, intent="NIFTI_INTENT_LABEL", datatype="NIFTI_TYPE_INT32")
    GiftiImage(meta=GiftiMetaData(), labeltable=table, darrays=[array]).to_filename(path)


@pytest.mark.parametrize("names", [None, "lh.mine.mgz.ctab", "mine.mgz.ctab"])
def test_atlas_on_the_surface(simulated, tmp_path, names):
    for h, side in (("lh", "left"), ("rh", "right")):
        write_mgz(tmp_path / f"{h}.mine.mgz", labels_of(side))
    if names:
        (tmp_path / names).write_text("0 Unknown 0 0 0\n1 V1v 255 0 0\n2 V9 0 0 255\n")
    rois = add_regions(simulated, f"{tmp_path}/lh.mine.mgz,{tmp_path}/rh.mine.mgz").rois
    added = ["mine:V1v", "V9"] if names else ["label-1", "label-2"]
    assert rois.roi.values.tolist() == [*simulated.rois.roi.values, *added]
    assert rois.atlas.values.tolist() == [*simulated.rois.atlas.values, "mine", "mine"]
    for label, name in enumerate(added, start=1):
        np.testing.assert_array_equal(rois.sel(roi=name).values, expected(simulated, label))
    np.testing.assert_array_equal(rois.values[: len(simulated.rois)], simulated.rois.values)


def test_atlas_of_one_hemisphere_in_gifti_has_the_names_of_its_table(simulated, tmp_path):
    write_gifti(tmp_path / "rh.mine.label.gii", labels_of("right"))
    rois = add_regions(simulated, tmp_path / "rh.mine.label.gii", atlas="paths").rois
    right = simulated.rois.hemisphere.values == "right"
    for label, name in ((1, "dorsal"), (2, "ventral")):
        np.testing.assert_array_equal(rois.sel(roi=name).values, expected(simulated, label) & right)
    assert rois.atlas.values[-1] == "paths"


@pytest.fixture
def voxels(tmp_path):
    """Three voxels of a mask, not in the order of the mask."""
    inside = np.zeros((2, 3, 2), np.uint8)
    inside[[0, 1, 1], [2, 0, 1], [1, 0, 1]] = 1
    nibabel.Nifti1Image(inside, np.eye(4)).to_filename(tmp_path / "mask.nii")
    rois = label_rois({"all": np.ones(3, bool)}, hemisphere="none", vertex_index=[2, 0, 1])
    return Recording(
        "v",
        np.zeros((2, 3), "f4"),
        rois,
        np.array(["a", "b"]),
        features=np.zeros((2, 1)),
        mask=tmp_path / "mask.nii",
    )


def test_atlas_in_the_volume(voxels, tmp_path):
    labels = np.arange(12, dtype=np.int16).reshape(2, 3, 2) % 3
    nibabel.Nifti1Image(labels, np.eye(4)).to_filename(tmp_path / "mine.nii.gz")
    rois = add_regions(voxels, tmp_path / "mine.nii.gz").rois
    in_order = labels[[1, 0, 1], [1, 2, 0], [1, 1, 0]]
    for label in set(in_order.tolist()) - {0}:
        np.testing.assert_array_equal(rois.sel(roi=f"label-{label}").values, in_order == label)
    nibabel.Nifti1Image(labels[:, :2], np.eye(4)).to_filename(tmp_path / "other.nii.gz")
    with pytest.raises(ValueError, match=r"atlas .*other.nii.gz must have shape \(2, 3, 2\) like mask"):
        add_regions(voxels, tmp_path / "other.nii.gz")


def test_atlas_of_units(voxels, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"a": [0, 2], "b": []}))
    rois = add_regions(voxels, tmp_path / "mine.json").rois
    assert rois.sel(roi="a").values.tolist() == [True, False, True]
    assert not rois.sel(roi="b").any()
    assert rois.unit_kind.values.tolist() == ["voxel"] * 3


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "lh.a.mgz",
            np.ones(642, np.int32),
            "has 642 vertices, but a hemisphere .* has 10242; it belongs to another",
        ),
        ("lh.a.mgz", np.full(N_VERTICES, 0.5, np.float32), r"lh.a.mgz must hold whole numbers, got 0.5"),
        ("lh.a.mgz", np.zeros(N_VERTICES, np.int32), "has no label on the units of recording 'simulated'"),
        ("a.mgz", np.ones(N_VERTICES, np.int32), r"atlas .*a.mgz must say its hemisphere"),
        ("lh.a.annot", None, r"must be .mgz, .mgh, .gii, .nii, .nii.gz or .json"),
        ("a.nii.gz", None, "is a volume, but recording 'simulated' has no NIfTI mask"),
        ("lh.a.mgz", None, r"lh.a.mgz cannot be read whole"),
        ("lh.a.gii", None, r"lh.a.gii cannot be read"),
    ],
)
def test_atlases_that_do_not_fit(simulated, tmp_path, name, values, message):
    if values is None:
        (tmp_path / name).write_bytes(b"nothing")
    else:
        write_mgz(tmp_path / name, values)
    with pytest.raises(ValueError, match=message) as caught:
        add_regions(simulated, tmp_path / name)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"atlas .*gone.mgz does not exist"):
        add_regions(simulated, tmp_path / "gone.mgz")


def test_tables_must_name_every_label_once(simulated, tmp_path):
    write_mgz(tmp_path / "lh.a.mgz", labels_of("left"))
    table = tmp_path / "a.mgz.ctab"
    for content, message in [
        ("1 V1", "got no name for 2"),
        ("1 V1\n2 V1", "must give each label another name"),
    ]:
        table.write_text(content)
        with pytest.raises(ValueError, match=message):
            add_regions(simulated, tmp_path / "lh.a.mgz")
