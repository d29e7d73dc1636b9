"""make-data nsd and doctor: the same subject in two layouts, and what a folder holds."""

import shlex
import sys

import numpy as np
import pytest

import neuroattn.cli
from neuroattn.cli import doctor, make_data
from neuroattn.datasets import list_subjects, load_algonauts, load_nsd, make_nsd_like, write_algonauts


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command in a folder of its own and return exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(command):
        monkeypatch.setattr(sys, "argv", ["neuroattn", *shlex.split(command)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            neuroattn.cli.main()
        return (stopped.value.code or 0, *capsys.readouterr())

    return run


def tokens(images):
    return images[:, ::32, ::32].transpose(0, 3, 1, 2).astype("f4")


@pytest.fixture
def quick(monkeypatch):
    """Plant responses on pixels: the demo network takes half a minute."""

    def make(network, cache, *, n_train, n_test, seed, progress):
        return make_nsd_like(
            n_train, n_test, seed=seed, features=tokens, rois=["V1v", "PPA"], vertices_per_roi=3
        )

    monkeypatch.setattr("neuroattn.analyses.demo.make_demo_recording", make)


SIZES = "--n-train 20 --n-test 8 --cache cache"


def test_both_layouts_hold_the_same_subject(run, quick, tmp_path):
    code, said, _ = run(f"make-data nsd --out raw {SIZES} --sessions 6 --subject 2 --seed 5")
    assert code == 0
    assert "Simulated subject 2 in raw" in said
    assert run(f"make-data algonauts --out challenge {SIZES} --sessions 6 --subjects 2 --seed 5")[0] == 0
    raw, challenge = load_nsd("raw", 2, cache="cache"), load_algonauts("challenge", 2)
    np.testing.assert_array_equal(raw.responses[:], challenge.responses[:])
    np.testing.assert_array_equal(raw.images[:], challenge.images[:])
    np.testing.assert_array_equal(raw.stimulus_ids, challenge.stimulus_ids)

    assert list_subjects("raw", "nsd") == list_subjects("challenge", "algonauts") == [2]
    code, said, _ = run("doctor --data raw")
    assert code == 0
    assert "nsd: subject 2, fsaverage" in said
    assert "34 of 34 files as expected" in said
    assert "naturalscenesdataset.org" not in said  # nothing is missing

    code, _, error = run(f"make-data nsd --out raw {SIZES}")
    assert (code, error) == (2, "Error: raw exists; subjects are not overwritten\n")


def test_dry_run_tells_the_size_and_writes_nothing(run, tmp_path):
    code, said, _ = run("make-data nsd --out raw --dry-run")
    assert code == 0
    assert "1 subject, about 157.2 MB in raw; nothing was written" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("make-data nsd --out raw --subject 9", "subject must be a whole number between 1 and 8, got 9"),
        ("doctor --data nowhere", "--data nowhere does not exist; expected the folder of a data set"),
    ],
)
def test_bad_input_is_one_line(run, command, message, tmp_path):
    code, _, error = run(command)
    assert code == 2
    assert error == f"Error: {message}\n"
    assert not list(tmp_path.iterdir())


def test_doctor_says_what_is_missing_and_where_it_is(run, quick, tmp_path):
    assert run(f"make-data nsd --out data {SIZES}")[0] == 0
    folder = tmp_path / "data/nsddata_betas/ppdata/subj01/fsaverage/betas_fithrf_GLMdenoise_RR"
    (folder / "lh.betas_session04.mgh").unlink()
    recording = make_nsd_like(6, 3, seed=0, features=tokens, rois=["V1v"], vertices_per_roi=3)
    mean_mask = write_algonauts(recording, tmp_path / "data", 3) / "roi_masks"
    (mean_mask / "mapping_streams.npy").unlink()
    np.save(tmp_path / "data/v4.npy", np.zeros(100))
    code, said, _ = run("doctor --data data")
    assert code == 0
    lines = said.splitlines()
    assert any("lh.betas_session04.mgh: found missing, expected betas (10242, " in line for line in lines)
    assert "  Natural Scenes Dataset, after accepting its terms: https://naturalscenesdataset.org" in lines
    assert any("mapping_streams.npy: found missing, expected names" in line for line in lines)
    assert any(line.endswith("https://algonautsproject.com/2023/challenge.html") for line in lines)
    assert "arrays: v4.npy, 928 B" in lines


def test_doctor_names_versions_devices_and_sources(run, tmp_path):
    code, said, _ = run("doctor --data .")
    assert code == 0
    assert all(f"  {package} " in said for package in doctor.PACKAGES)
    assert f"  neuroattn {neuroattn.__version__}" in said
    assert "cpu: " in said
    assert ". holds no data set" in said
    assert all(source in said for source in doctor.SOURCES.values())


def test_lists_of_subjects(tmp_path):
    for path in (
        "subj03/roi_masks",
        "subj01/training_split",
        "other/roi_masks",
        "nsddata_betas/ppdata/subj05/a/b",
    ):
        (tmp_path / path).mkdir(parents=True)
    assert list_subjects(tmp_path, "algonauts") == [1, 3]
    assert list_subjects(tmp_path, "nsd") == [5]
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        list_subjects(tmp_path / "nowhere", "nsd")
    with pytest.raises(ValueError, match="layout must be one of 'algonauts', 'nsd', got 'bids'"):
        list_subjects(tmp_path, "bids")


def test_verbs_have_an_example():
    for verb in (make_data.make_nsd, doctor.doctor):
        assert "Example: neuroattn " in verb.__doc__
