"""The raw layout of the Natural Scenes Dataset: what is planted comes back, and traps are named."""

import dataclasses
import shutil
import warnings

import h5py
import nibabel
import numpy as np
import pytest
import xarray as xr
from scipy.io import loadmat, savemat

from neuroattn.datasets import (
    ImagesHdf5,
    inspect_nsd,
    load_algonauts,
    load_nsd,
    make_nsd_like,
    select_regions,
    simulate_sessions,
    split_stimuli,
    write_algonauts,
    write_nsd,
)
from neuroattn.datasets.labels import open_mgh
from neuroattn.datasets.nsd import Layout
from neuroattn.metrics import noise_ceiling_from_ncsnr

BETAS = "betas_fithrf_GLMdenoise_RR"
N_SESSIONS, N_TRAIN, N_TEST = 6, 24, 9
ROIS = ["V1v", "V2v", "FFA-1", "EBA", "VWFA-1", "PPA"]


def tokens(images):
    return images[:, ::32, ::32].transpose(0, 3, 1, 2).astype("f4")


@pytest.fixture(scope="module")
def truth():
    recording = make_nsd_like(N_TRAIN, N_TEST, seed=3, features=tokens, rois=ROIS, vertices_per_roi=4)
    recording = dataclasses.replace(recording, images=np.ascontiguousarray(recording.images[:, ::8, ::8]))
    return simulate_sessions(recording, N_SESSIONS, seed=4)


@pytest.fixture(scope="module")
def written(truth, tmp_path_factory):
    """One written subject, never changed."""
    return write_nsd(truth, tmp_path_factory.mktemp("written") / "nsd", 1)


@pytest.fixture
def root(written, tmp_path):
    """Copy that a test may damage."""
    return shutil.copytree(written, tmp_path / "nsd")


@pytest.fixture
def load(root, tmp_path):
    return lambda **options: load_nsd(root, 1, **{"cache": tmp_path / "cache", **options})


@pytest.fixture(scope="module")
def loaded(written, tmp_path_factory):
    return load_nsd(written, 1, cache=tmp_path_factory.mktemp("cache"))


def paths(root):
    return Layout(root, 1, "fsaverage", BETAS)


def read_mgh(path):
    return np.array(open_mgh(path, "values"))


def write_mgh(path, data):
    nibabel.MGHImage(data, np.eye(4)).to_filename(path)


def trials_of(truth):
    return truth.truth.trial_stimulus.values, truth.truth.trial_session.values, truth.truth.trial_beta.values


def average(truth, row, n_rows):
    """Plain definition: z-score every session, then take means over the trials of each row."""
    _, session, betas = trials_of(truth)
    z = np.empty(betas.shape)
    for number in np.unique(session):
        here = betas[session == number].astype(float)
        z[session == number] = (here - here.mean(0)) / here.std(0)
    return np.stack([z[row == i].mean(0) for i in range(n_rows)])


# Equality of the two layouts


def test_both_layouts_of_one_truth_are_equal(truth, loaded, tmp_path):
    write_algonauts(truth, tmp_path, 1)
    challenge = load_algonauts(tmp_path, 1)
    assert loaded.name == challenge.name
    assert loaded.simulated
    assert loaded.surface == challenge.surface == "fsaverage5"
    np.testing.assert_array_equal(loaded.responses[:], challenge.responses[:])
    np.testing.assert_array_equal(loaded.stimulus_ids, challenge.stimulus_ids)
    np.testing.assert_array_equal(loaded.images[:], challenge.images[:])
    np.testing.assert_array_equal(loaded.noise_ceiling, challenge.noise_ceiling)
    np.testing.assert_array_equal(loaded.test, challenge.test)
    xr.testing.assert_identical(loaded.rois, challenge.rois)
    xr.testing.assert_identical(loaded.truth, challenge.truth)


def test_responses_are_means_of_standardized_trials(truth, loaded):
    stimulus, session, _ = trials_of(truth)
    late = session > N_SESSIONS - 3
    row = np.where(late & ~truth.test[stimulus], -1, stimulus)
    np.testing.assert_allclose(loaded.responses[:], average(truth, row, len(truth.test)), atol=1e-6)
    counts = np.bincount(row[row >= 0])
    assert set(counts) == {1, 2, 3}
    ceiling = noise_ceiling_from_ncsnr(truth.truth.ncsnr.values, counts[truth.test])
    np.testing.assert_allclose(loaded.noise_ceiling, ceiling, atol=1e-6)


def test_what_is_simulated_has_the_traps_of_the_real_data(truth, loaded, written):
    stimulus, session, _ = trials_of(truth)
    late = session > N_SESSIONS - 3
    assert set(stimulus[~late]) == set(np.flatnonzero(~truth.test))
    assert set(np.flatnonzero(truth.test)) < set(stimulus[late])  # some training images are seen again
    assert np.bincount(stimulus).max() <= 3
    assert not loaded.rois.sel(roi="VWFA-1").values[loaded.rois.hemisphere == "right"].any()
    design = loadmat(paths(written).design)
    assert design["masterordering"].min() == design["subjectim"].min() == 1
    betas = open_mgh(paths(written).betas_folder / "lh.betas_session01.mgh", "betas")
    assert betas.shape == (10_242, 1, 1, len(stimulus) // N_SESSIONS)
    assert betas.dtype == np.dtype(">f4")


def test_notes_say_what_was_read(loaded):
    notes = " / ".join(loaded.notes)
    assert f"{N_TRAIN} training stimuli" in notes
    assert f"{N_TEST} test stimuli" in notes
    assert f"dropped 1 of {loaded.n_units + 1} units" in notes
    assert "missing" not in notes


def test_responses_and_images_stay_in_their_files(loaded):
    assert isinstance(loaded.responses.blocks[0][0], np.memmap)
    assert isinstance(loaded.images, ImagesHdf5)


# Partitions


def ids(recording, test):
    return set(recording.stimulus_ids[recording.test == test])


def test_shared_stimuli_are_tested_on(truth, written, tmp_path):
    recording = load_nsd(written, 1, split="shared1000", cache=tmp_path)
    stimulus, _, _ = trials_of(truth)
    shared = np.arange(N_TRAIN // 4)  # the writer's choice
    assert ids(recording, True) == set(truth.stimulus_ids[shared])
    assert len(recording.stimulus_ids) == len(truth.stimulus_ids)
    order = np.concatenate([np.setdiff1d(np.arange(len(truth.test)), shared), shared])
    expected = average(truth, np.argsort(order)[stimulus], len(order))  # trials of all sessions
    np.testing.assert_allclose(recording.responses[:], expected, atol=1e-6)
    np.testing.assert_array_equal(recording.images[:], truth.images[order])

    thrice = load_nsd(written, 1, split="shared515", cache=tmp_path)
    counts = np.bincount(stimulus)
    assert ids(thrice, True) == set(truth.stimulus_ids[shared[counts[shared] == 3]])
    assert ids(thrice, False) == ids(recording, False)


@pytest.mark.parametrize(("split", "first", "last"), [("session-block", 4, 6), ("session-block=2-3", 2, 3)])
def test_session_blocks_lose_stimuli_seen_on_both_sides(truth, written, tmp_path, split, first, last):
    stimulus, session, _ = trials_of(truth)
    inside = (session >= first) & (session <= last)
    both = np.intersect1d(stimulus[inside], stimulus[~inside])
    assert len(both)
    recording = load_nsd(written, 1, split=split, cache=tmp_path)
    assert ids(recording, True) == set(truth.stimulus_ids[np.setdiff1d(stimulus[inside], both)])
    assert ids(recording, False) == set(truth.stimulus_ids[np.setdiff1d(stimulus[~inside], both)])
    assert any(
        f"left out {len(both)} stimuli seen both in sessions {first} to {last}" in n for n in recording.notes
    )


def test_other_splits_average_all_trials_and_leave_the_partition_to_the_rows(truth, written, tmp_path):
    stimulus, _, _ = trials_of(truth)
    recording = load_nsd(written, 1, split="kfold=3,seeds=0", cache=tmp_path)
    assert recording.test is None
    np.testing.assert_array_equal(recording.stimulus_ids, truth.stimulus_ids)
    np.testing.assert_allclose(recording.responses[:], average(truth, stimulus, len(truth.test)), atol=1e-6)
    ceiling = noise_ceiling_from_ncsnr(truth.truth.ncsnr.values, np.bincount(stimulus))
    np.testing.assert_allclose(recording.noise_ceiling, ceiling, atol=1e-6)
    for fold in split_stimuli(recording.stimulus_ids, "kfold=3,seeds=0"):
        assert not set(recording.stimulus_ids[fold.train]) & set(recording.stimulus_ids[fold.test])


# Cache


def test_averages_are_found_again_and_follow_the_files(load, root, tmp_path):
    steps = []
    first = load(progress=lambda done, total: steps.append((done, total)))
    assert steps == [(i, N_SESSIONS) for i in range(N_SESSIONS + 1)]
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [""]  # sessions are gone
    again = load(progress=lambda done, total: steps.append("read"))
    assert "read" not in steps
    np.testing.assert_array_equal(first.responses[:], again.responses[:])

    path = paths(root).betas_folder / "rh.betas_session01.mgh"
    betas = read_mgh(path)
    betas[..., 0] += 1
    write_mgh(path, betas)
    assert not np.array_equal(load().responses[:], first.responses[:])


def test_a_read_that_was_cut_off_goes_on(load, root, tmp_path, loaded):
    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(progress=interrupt)
    (partial,) = (tmp_path / "cache").iterdir()
    kept = {path.name: path.stat().st_mtime_ns for path in partial.iterdir()}
    assert sorted(kept) == ["session-01.npy", "session-02.npy", "session-03.npy"]
    seen = []

    def watch(done, total):
        seen.append({p.name: p.stat().st_mtime_ns for p in partial.iterdir()} if partial.is_dir() else {})

    recording = load(progress=watch)
    assert all(seen[4][name] == time for name, time in kept.items())
    np.testing.assert_array_equal(recording.responses[:], loaded.responses[:])
    assert not partial.exists()


# Missing and damaged files


def test_missing_sessions_are_named(truth, load, root):
    for session in (2, 6):
        for h in ("lh", "rh"):
            (paths(root).betas_folder / f"{h}.betas_session{session:02d}.mgh").unlink()
    recording = load()
    stimulus, session, _ = trials_of(truth)
    there = ~np.isin(session, (2, 6))
    seen = stimulus[there & ((session > 3) == truth.test[stimulus])]
    assert set(recording.stimulus_ids) == set(truth.stimulus_ids[seen])
    notes = " / ".join(recording.notes)
    assert "sessions 2, 6 of 6 are missing" in notes
    lost = len(truth.test) - len(set(seen))
    assert lost
    assert f"left out {lost} stimuli whose sessions are missing" in notes
    found = {check.path.name: check.found for check in inspect_nsd(root, 1)}
    assert found["rh.betas_session02.mgh"] == "missing"


def test_a_session_of_one_hemisphere_is_refused(load, root):
    (paths(root).betas_folder / "rh.betas_session02.mgh").unlink()
    with pytest.raises(FileNotFoundError, match=r"rh.betas_session02.mgh does not exist"):
        load()


def test_a_split_without_its_sessions_is_refused(load, root):
    for session in (4, 5, 6):
        for h in ("lh", "rh"):
            (paths(root).betas_folder / f"{h}.betas_session{session:02d}.mgh").rename(root / f"{h}{session}")
    with pytest.raises(ValueError, match="split 'algonauts' leaves no test stimulus"):
        load()


def test_missing_maps_leave_regions_out(load, root):
    shutil.rmtree(paths(root).transforms)
    (paths(root).native_labels / "lh.floc-words.mgz").unlink()
    notes = []
    with pytest.raises(FileNotFoundError, match=r"must hold the labels of an atlas; .*white-to-fsaverage"):
        load(atlases=("floc-faces", "floc-words"))
    recording = load(atlases=("nsdgeneral", "floc-faces"))
    assert recording.rois.roi.values.tolist() == ["nsdgeneral"]
    notes = " / ".join(recording.notes)
    assert "regions of floc-faces are left out" in notes
    assert "lh.white-to-fsaverage.mgz does not exist" in notes


def test_without_ncsnr_there_is_no_ceiling(load, root):
    paths(root).ncsnr[1].unlink()
    recording = load()
    assert recording.noise_ceiling is None
    assert any("rh.ncsnr.mgh does not exist" in note for note in recording.notes)


def test_atlases_on_fsaverage_get_prefixes_for_names_that_are_taken(load, root):
    folder = paths(root).labels
    labels = np.zeros((10_242, 1, 1), np.float32)
    labels[::2], labels[1::2] = 1, 2
    for h in ("lh", "rh"):
        write_mgh(folder / f"{h}.Kastner2015.mgz", labels)
    with pytest.raises(FileNotFoundError, match=r"Kastner2015.mgz.ctab does not exist"):
        load(atlases=("Kastner2015",))
    (folder / "Kastner2015.mgz.ctab").write_text("0 Unknown\n1 V1v\n2 V1d\n")
    recording = load(atlases=("prf-visualrois", "Kastner2015"))
    assert recording.rois.roi.values.tolist() == ["V1v", "V2v", "Kastner2015:V1v", "V1d"]
    assert recording.rois.atlas.values.tolist() == ["prf-visualrois"] * 2 + ["Kastner2015"] * 2
    even = recording.rois.vertex_index.values % 2 == 0
    np.testing.assert_array_equal(recording.rois.sel(roi="Kastner2015:V1v").values, even)
    assert select_regions(recording, "Kastner2015").n_units == recording.n_units


def rewrite(path, change):
    def damage(root):
        file = root / path
        data = read_mgh(file)
        write_mgh(file, change(data))

    return damage


def truncate(path):
    def damage(root):
        content = (root / path).read_bytes()
        (root / path).write_bytes(content[: len(content) // 2])

    return damage


def change_design(**changes):
    def damage(root):
        design = {k: v for k, v in loadmat(paths(root).design).items() if k[0] != "_"}
        savemat(paths(root).design, {k: changes[k](v) if k in changes else v for k, v in design.items()})

    return damage


FOLDER = f"nsddata_betas/ppdata/subj01/fsaverage/{BETAS}"
LABELS = "nsddata/freesurfer"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            rewrite(f"{FOLDER}/lh.betas_session03.mgh", lambda x: (300 * x).astype(np.int32)),
            "lh.betas_session03.mgh must hold percent signal change in floating point, got >i4",
        ),
        (
            rewrite(f"{FOLDER}/lh.betas_session03.mgh", lambda x: x[..., :-1]),
            r"lh.betas_session03.mgh must have \d+ trials like the other sessions, got \d+",
        ),
        (
            rewrite(f"{FOLDER}/rh.betas_session03.mgh", lambda x: x[:-1]),
            r"has betas of \(10241,\), but the masks of nsdgeneral have \(10242,\)",
        ),
        (truncate(f"{FOLDER}/rh.betas_session03.mgh"), "rh.betas_session03.mgh cannot be read whole"),
        (
            rewrite(f"{LABELS}/fsaverage/label/lh.streams.mgz", lambda x: x[:642]),
            r"labels of streams \(lh\) have 642 vertices, but the betas have 10242; they belong to another surface",
        ),
        (
            rewrite("nsddata/ppdata/subj01/transforms/lh.white-to-fsaverage.mgz", lambda x: x[:642]),
            r"labels of prf-visualrois \(lh\) have 642 vertices, but the betas have 10242",
        ),
        (
            rewrite("nsddata/ppdata/subj01/transforms/lh.white-to-fsaverage.mgz", lambda x: x + 100),
            r"lh.white-to-fsaverage.mgz must hold vertices 1 to 10279",
        ),
        (
            rewrite(f"{LABELS}/subj01/label/lh.floc-faces.mgz", lambda x: (x + 0.5 * (x > 0)).astype("f4")),
            r"lh.floc-faces.mgz must hold whole numbers, got 2.5",
        ),
        (
            rewrite(f"{LABELS}/subj01/label/lh.floc-faces.mgz", lambda x: x * 5),
            r"floc-faces.mgz.ctab must name every label, got no name for 10",
        ),
        (rewrite(f"{FOLDER}/rh.ncsnr.mgh", lambda x: x[:5]), r"rh.ncsnr.mgh must have 10242 vertices"),
        (truncate(f"{LABELS}/fsaverage/label/lh.nsdgeneral.mgz"), "lh.nsdgeneral.mgz cannot be read whole"),
        (change_design(subjectim=lambda x: x + 7), r"has image id 40, but .* has ids 1 to 33"),
        (change_design(subjectim=lambda x: x - 1), r"has image id 0, but .* has ids 1 to 33"),
        (change_design(masterordering=lambda x: x - 1), "must count masterordering from 1 to the 33 columns"),
        (change_design(masterordering=lambda x: x[:, :-1]), "holds session 6, but the subject has 5"),
        (change_design(subjectim=lambda x: x[:0]), r"has subjectim of shape \(0, 33\)"),
        (
            truncate("nsddata/experiments/nsd/nsd_expdesign.mat"),
            "must hold masterordering, subjectim and sharedix",
        ),
        (
            lambda root: (root / LABELS / "subj01/label/streams.mgz.ctab").write_text("early 1\n"),
            "must hold lines 'label name', got 'early 1'",
        ),
        (
            lambda root: [
                shutil.copy(
                    root / FOLDER / f"{h}.betas_session01.mgh", root / FOLDER / f"{h}.betas_session07.mgh"
                )
                for h in ("lh", "rh")
            ],
            "holds session 7, but the subject has 6",
        ),
    ],
)
def test_files_that_do_not_fit(load, root, damage, message):
    damage(root)
    with pytest.raises(ValueError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nsddata/experiments/nsd/nsd_expdesign.mat", "expected the design"),
        ("nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5", "nsd_stimuli.hdf5 does not exist"),
        (f"{LABELS}/fsaverage/label/rh.nsdgeneral.mgz", "rh.nsdgeneral.mgz does not exist"),
    ],
)
def test_missing_files_are_named(load, root, path, message):
    (root / path).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "MNI"}, "space must be one of 'fsaverage', 'func1pt8mm', 'func1mm', got 'MNI'"),
        ({"atlases": ("floc-cars",)}, "atlases 'floc-cars' is unknown; nearest are 'floc-"),
        ({"split": "session-block=9-10"}, "must be a block of the sessions 1 to 6"),
        ({"split": "session-block=a"}, "split must be 'session-block=A-B', got 'session-block=a'"),
        ({"split": "session-block=1-6"}, "leaves no training stimulus"),
        ({"split": "kfold=1"}, "split kfold=1 must be between 2 and the number of stimuli, 33"),
    ],
)
def test_options(load, options, message):
    with pytest.raises(ValueError, match=message):
        load(**options)


def test_other_options(load, tmp_path):
    with pytest.raises(ValueError, match="subject must be a whole number between 1 and 8, got 9"):
        load_nsd("nowhere", 9)
    with pytest.raises(FileNotFoundError, match="split 'algonaut' is not a file"):
        load(split="algonaut")
    assert not (tmp_path / "cache").exists()  # it was found before the betas were read


# Scale


@pytest.mark.parametrize(("factor", "said"), [(1 / 300, "scaled twice"), (300, "scaled not at all")])
def test_betas_of_another_scale_are_warned_of(load, root, loaded, factor, said):
    for path in paths(root).betas_folder.glob("*betas*.mgh"):
        write_mgh(path, (read_mgh(path) * factor).astype(np.float32))
    for _ in range(2):  # also when the averages are found again
        with pytest.warns(UserWarning, match=rf"median standard deviation of [\d.e-]+, .* {said}"):
            recording = load()
    np.testing.assert_allclose(recording.responses[:], loaded.responses[:], atol=2e-5)


# Volumes

SHAPE = (5, 6, 4)
N_VOXELS = 24


@pytest.fixture
def volumes(root, truth):
    """Put betas of the first units into volumes; returns the voxel of each unit, left first."""
    layout = Layout(root, 1, "func1pt8mm", BETAS)
    rng = np.random.default_rng(0)
    flat = rng.permutation(np.prod(SHAPE))[:N_VOXELS]
    voxels = np.concatenate([np.sort(part) for part in np.split(flat, [10])])
    places = np.unravel_index(voxels, SHAPE)
    layout.volume_labels.mkdir(parents=True)
    layout.betas_folder.mkdir(parents=True)
    affine = np.diag([1.8, 1.8, 1.8, 1])

    def volume(values, fill, dtype):
        out = np.full((*SHAPE, *np.shape(values)[1:]), fill, dtype)
        out[places] = values
        return nibabel.Nifti1Image(out, affine)

    left = np.arange(N_VOXELS) < 10
    for h, here in (("lh", left), ("rh", ~left)):
        volume(here, -1, np.int16).to_filename(layout.volume_labels / f"{h}.nsdgeneral.nii.gz")
        labels = np.where(here, np.arange(N_VOXELS) % 3, 0)
        volume(labels, -1, np.int16).to_filename(layout.volume_labels / f"{h}.floc-places.nii.gz")
    ncsnr = truth.truth.ncsnr.values[:N_VOXELS].astype("f4")
    volume(ncsnr, np.nan, np.float32).to_filename(layout.ncsnr[0])
    _, session, betas = trials_of(truth)
    stored = np.rint(300 * betas[:, :N_VOXELS]).astype(np.int16)
    for number in range(1, N_SESSIONS + 1):
        image = volume(stored[session == number].T, 0, np.int16)
        name = layout.betas_folder / f"betas_session{number:02d}"
        if number % 2:
            with h5py.File(f"{name}.hdf5", "w") as file:
                file["betas"] = np.asarray(image.dataobj).T
        else:
            image.to_filename(f"{name}.nii.gz")
    (layout.native_labels / "floc-places.mgz.ctab").write_text("0 Unknown\n1 OPA\n2 PPA\n")
    return layout, voxels, stored


def test_volumes_are_read_in_percent(volumes, load, truth):
    layout, voxels, stored = volumes
    stimulus, session, _ = trials_of(truth)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recording = load(space="func1pt8mm", atlases=("floc-places",))
    row = np.where((session > 3) & ~truth.test[stimulus], -1, stimulus)
    as_read = dataclasses.replace(
        truth,
        truth=truth.truth.isel(unit=slice(N_VOXELS)).assign(trial_beta=(("trial", "unit"), stored / 300)),
    )
    np.testing.assert_allclose(recording.responses[:], average(as_read, row, len(truth.test)), atol=1e-5)
    rois = recording.rois
    assert rois.hemisphere.values.tolist() == ["left"] * 10 + ["right"] * 14
    np.testing.assert_array_equal(rois.sel(roi="PPA").values, np.arange(N_VOXELS) % 3 == 2)
    inside = np.asarray(nibabel.load(recording.mask).dataobj)
    np.testing.assert_array_equal(np.flatnonzero(inside)[rois.vertex_index.values], voxels)
    assert set(rois.unit_kind.values) == {"voxel"}
    np.testing.assert_allclose(recording.noise_ceiling, truth.noise_ceiling[:N_VOXELS], rtol=1e-6)
    assert all(check.found != "missing" for check in inspect_nsd(layout.root, 1, space="func1pt8mm")[:9])


@pytest.mark.parametrize("suffix", ["hdf5", "nii.gz"])
def test_volumes_in_floating_point_are_never_scaled(volumes, load, suffix):
    layout, _, _ = volumes
    plain = load(space="func1pt8mm", atlases=("floc-places",))
    for number in range(1, N_SESSIONS + 1):
        name = layout.betas_folder / f"betas_session{number:02d}"
        if number % 2:
            with h5py.File(f"{name}.hdf5", "r+") as file:
                values = file["betas"][()]
                del file["betas"]
                if suffix == "hdf5":
                    file["betas"] = values.astype("f4") / 300
                else:
                    file["betas"] = values
        elif suffix == "nii.gz":
            image = nibabel.load(f"{name}.nii.gz")
            values = np.asarray(image.dataobj).astype("f4") / 300
            nibabel.Nifti1Image(values, image.affine).to_filename(f"{name}.nii.gz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recording = load(space="func1pt8mm", atlases=("floc-places",))
    np.testing.assert_allclose(recording.responses[:], plain.responses[:], atol=1e-5)


@pytest.mark.parametrize(
    ("slope", "message"), [(1 / 300, None), (0.5, "must have no scaling in its header, got slope 0.5")]
)
def test_volumes_scaled_by_their_header(volumes, load, slope, message):
    layout, _, _ = volumes
    plain = load(space="func1pt8mm", atlases=("floc-places",))
    path = layout.betas_folder / "betas_session02.nii.gz"
    image = nibabel.load(path)
    values = np.asarray(image.dataobj)
    scaled = nibabel.Nifti1Image(values, image.affine)
    scaled.header.set_slope_inter(slope, 0)
    scaled.to_filename(path)
    if message:
        with pytest.raises(ValueError, match=message):
            load(space="func1pt8mm", atlases=("floc-places",))
    else:
        recording = load(space="func1pt8mm", atlases=("floc-places",))
        np.testing.assert_allclose(recording.responses[:], plain.responses[:], atol=1e-4)


def test_volumes_of_other_numbers_and_grids_are_refused(volumes, load):
    layout, _, _ = volumes
    labels = layout.volume_labels / "lh.floc-places.nii.gz"
    original = labels.read_bytes()
    nibabel.Nifti1Image(np.zeros((5, 6, 5), np.int16), np.eye(4)).to_filename(labels)
    with pytest.raises(ValueError, match=r"must have shape \(5, 6, 4\) like the betas, got \(5, 6, 5\)"):
        load(space="func1pt8mm", atlases=("floc-places",))
    labels.write_bytes(original)
    with h5py.File(layout.betas_folder / "betas_session01.hdf5", "r+") as file:
        values = file["betas"][()]
        del file["betas"]
        file["betas"] = values.astype(np.int32)
    with pytest.raises(ValueError, match="must hold betas as int16 or in floating point, got int32"):
        load(space="func1pt8mm", atlases=("floc-places",))


# Inspection and writing


def test_inspection_of_a_whole_subject_finds_everything(written):
    checks = inspect_nsd(written, 1)
    assert [check for check in checks if check.found != check.expected] == []
    assert sum("betas_session" in check.path.name for check in checks) == 2 * N_SESSIONS
    assert all(check.n_bytes for check in checks)


def test_inspection_says_what_is_wrong(root):
    truncate(f"{FOLDER}/rh.betas_session03.mgh")(root)
    (root / LABELS / "fsaverage/label/lh.streams.mgz").unlink()
    wrong = {check.path.name: check.found for check in inspect_nsd(root, 1) if check.found != check.expected}
    assert wrong == {"rh.betas_session03.mgh": "unreadable", "lh.streams.mgz": "missing"}


def test_nothing_is_overwritten(truth, written):
    with pytest.raises(FileExistsError, match="holds files; recordings are not overwritten"):
        write_nsd(truth, written, 1)


def test_only_trials_of_published_regions_can_be_written(truth, tmp_path):
    plain = make_nsd_like(20, 9, seed=0, rois=["V1v"], vertices_per_roi=4)
    with pytest.raises(ValueError, match="must hold single trials, as simulate_sessions makes them"):
        write_nsd(plain, tmp_path / "a", 1)
    with pytest.raises(ValueError, match="must have images"):
        write_nsd(simulate_sessions(plain, seed=0), tmp_path / "a", 1)
    named = truth.rois.assign_coords(roi=["mine", *ROIS[1:]])
    with pytest.raises(ValueError, match="must have no regions but the published ones"):
        write_nsd(dataclasses.replace(truth, rois=named), tmp_path / "a", 1)
    assert not (tmp_path / "a").exists()


def test_sessions_must_fit_the_images():
    plain = make_nsd_like(40, 3, seed=0, rois=["V1v"], vertices_per_roi=4)
    with pytest.raises(ValueError, match="n_sessions must be at least 4, got 3"):
        simulate_sessions(plain, 3, seed=0)
    with pytest.raises(ValueError, match="cannot be shown one to three times in 4 sessions"):
        simulate_sessions(plain, 4, seed=0)
    with pytest.raises(ValueError, match="must be simulated by make_nsd_like"):
        simulate_sessions(dataclasses.replace(plain, truth=None), seed=0)
