"""The command: examples in its help, one line for bad input, nothing half-written, resuming."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import typer.main
import xarray as xr

import neuroattn
from neuroattn.cli import app, main, register_verbs


def verbs(command=None, name=()):
    """Yield the words and the click command of every verb."""
    command = command or typer.main.get_command(app)
    if hasattr(command, "commands"):
        for word, sub in command.commands.items():
            yield from verbs(sub, (*name, word))
    else:
        yield name, command


register_verbs()
VERBS = dict(verbs())


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Small recordings in a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 8, 4, 4)).astype("f4")
    responses = features.mean((2, 3))[:, :6] + 0.1 * rng.normal(size=(60, 6))
    np.save("features.npy", features)
    np.save("flat.npy", features.mean((2, 3)))
    np.save("responses.npy", responses)
    np.save("short.npy", responses[:50])
    np.save("long_labels.npy", np.ones(7, int))
    np.save("images.npy", np.zeros((60, 8, 8, 3), np.uint8))
    with_gaps = responses.copy()
    with_gaps[3, 1] = np.nan
    np.save("gaps.npy", with_gaps)
    np.savez("rois.npz", rois=np.array([[1] * 6, [0] * 6]), roi_names=["V1", "RSC"])
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process and return exit code, standard output and standard error."""

    def run(command):
        monkeypatch.setattr(sys, "argv", ["neuroattn", *shlex.split(command)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return (stopped.value.code or 0, *capsys.readouterr())

    return run


BASE = (
    "fit-encoder --layout arrays --responses responses.npy --orientation stimulus-unit "
    "--split test=20,seed=0 --epochs 2 --device cpu"
)
TOKENS = f"{BASE} --features features.npy"


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_help_has_an_example_that_parses(run, words):
    code, out, err = run(f"{' '.join(words)} --help")
    assert (code, err) == (0, "")
    assert f"Example: neuroattn {' '.join(words)}" in " ".join(out.split())


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_help_has_no_brackets_that_are_read_as_markup(words):
    command = VERBS[words]
    shown = [command.help, *(parameter.help for parameter in command.params if hasattr(parameter, "help"))]
    assert not [text for text in shown if text and re.search(r"\[[a-z]", text)]


def test_what_braindecode_warns_of_is_kept_from_those_who_run_a_command(monkeypatch):
    def warn(**options):
        warnings.warn("Montage name 'standard_1020' is deprecated", FutureWarning, stacklevel=1)
        raise SystemExit(7)

    monkeypatch.setattr("neuroattn.cli.app", warn)
    with pytest.raises(SystemExit, match="7"):  # the warning would be an error here
        main()


def test_version(run):
    assert run("--version") == (0, f"{neuroattn.__version__}\n", "")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("fit-encoder --out o --telepathy", "No such option: --telepathy"),
        ("fit-encoder --out o --seed one", "Invalid value for '--seed'"),
        ("fit-encoders --out o", "No such command 'fit-encoders'"),
        (f"{TOKENS} --out o --model attentoin", "model 'attentoin' is unknown; nearest are 'attention'"),
        (f"{TOKENS} --out o --layout bids", "layout must be one of 'algonauts', 'nsd', 'arrays', got 'bids'"),
        (f"{TOKENS} --out o --device abacus", "device 'abacus' cannot be used"),
        (f"{TOKENS} --out o --heads 3", "heads must divide dim 8, got 3"),
        (f"{TOKENS} --out o --norm batch", "norm must be one of 'pre', 'post', got 'batch'"),
        (f"{TOKENS} --out o --epochs 0", "epochs must be at least 1, got 0"),
        (f"{TOKENS} --out o --pool 0", "pool must be at least 1, got 0"),
        (f"{TOKENS} --out o --min-ceiling 2", "min_ceiling must be between 0 and 1, got 2"),
        (f"{TOKENS} --out o --n-seeds 0", "n_seeds must be at least 1, got 0"),
        (f"{TOKENS} --out o --export tiff", "format must be one of .* got 'tiff'"),
        (f"{TOKENS} --out o --export mgh", "recording 'responses' has no surface"),
        (f"{TOKENS} --out o --split test=60", "split test=60 must leave stimuli on both sides of 60"),
        (f"{TOKENS} --out o --split given", "split 'given' needs a data set with a partition"),
        (f"{TOKENS} --out o --unit-kind axon", "unit_kind must be one of .* got 'axon'"),
        (f"{TOKENS} --out o --responses none.npy", "responses none.npy does not exist"),
        (f"{TOKENS} --out o --data nowhere", "responses nowhere/responses.npy does not exist"),
        (f"{TOKENS} --out o --responses short.npy", "has 50 stimuli .* features.npy has 60"),
        (f"{TOKENS} --out o --rois long_labels.npy", r"rois .* must have shape .* got \(7,\)"),
        (f"{TOKENS} --out responses.npy", "out responses.npy must be a folder, got a file"),
        (f"{BASE} --features flat.npy --out o --model attention", "model attention needs spatial tokens"),
        (f"{BASE} --features flat.npy --out o --pool 2", "pool must be None for features without spatial"),
        (f"{BASE} --out o --images images.npy --backbone resnet81", "nearest are .*'resnet18'"),
        (
            f"{BASE} --out o --images images.npy --backbone resnet18 --weights random --layer blok1",
            "layer 'blok1' is unknown; nearest are 'block1'",
        ),
        ("fit-encoder --out o --layout arrays --features features.npy", "--responses must be given"),
        ("fit-encoder --out o --data nowhere", "nowhere"),
        ("fit-encoder --out o", "--data must name the folder"),
    ],
    ids=lambda value: value.removeprefix(BASE) if value.startswith(BASE) else None,
)
def test_bad_input_is_one_line_and_writes_nothing(run, files, command, said):
    before = listing(files)
    code, _, err = run(command)
    assert code == 2
    assert err.count("\n") == 1
    assert re.match(f"Error: .*{said}", err)
    assert listing(files) == before


def test_dry_run_lists_files_and_writes_nothing(run, files):
    before = listing(files)
    code, out, err = run(f"{TOKENS} --model ridge --out o --dry-run")
    assert (code, err) == (0, "")
    assert "60 stimuli, 6 units" in out
    assert "nothing was written" in out
    assert listing(files) == before


def test_units_and_regions_that_cannot_be_scored_are_said_so(run, files):
    """NaN units are dropped and counted, an empty region is no region of zeros, and the report names both."""
    command = f"{TOKENS} --model ridge --responses gaps.npy --rois rois.npz:rois --out o"
    code, out, _ = run(command)
    assert code == 0
    assert re.search(r"RSC\W+0\W+no units", out)
    scores = xr.load_dataset("o/scores.nc", engine="h5netcdf")
    assert scores.sizes["unit"] == 5
    regions = xr.load_dataset("o/roi_scores.nc", engine="h5netcdf").correlation.sel(model="ridge")
    assert np.isnan(regions.sel(roi="RSC"))
    assert regions.sel(roi="V1") > 0.2
    assert "dropped 1 of 6 units" in (files / "o" / "report.html").read_text()


def test_models_that_do_not_apply_are_said_so(run, files):
    assert run(f"{BASE} --features flat.npy --model attention,ridge --out o")[0] == 0
    assert "not applicable: no spatial tokens" in (files / "o" / "report.html").read_text()
    scores = xr.load_dataset("o/scores.nc", engine="h5netcdf")
    assert scores.model.values.tolist() == ["ridge"]
    assert scores.correlation.mean() > 0.5


def test_a_study_is_not_overwritten_but_resumed(run, files):
    command = f"{TOKENS} --model ridge --out o"
    assert run(command)[0] == 0
    scores = (files / "o" / "scores.nc").read_bytes()
    before = listing(files)
    code, _, err = run(command)
    assert (code, "holds a study already; give --resume" in err) == (2, True)
    code, _, err = run(f"{command} --seed 1 --resume")
    assert (code, "holds a study with another seed (0, now 1)" in err) == (2, True)
    assert (files / "o" / "scores.nc").read_bytes() == scores
    assert listing(files) == before
    (files / "o" / "scores.nc").unlink()
    assert run(f"{command} --resume")[0] == 0
    assert listing(files) == before


def test_another_folder_with_files_is_refused(run, files):
    (files / "o").mkdir()
    (files / "o" / "thesis.txt").write_text("years of work")
    code, _, err = run(f"{TOKENS} --model ridge --out o")
    assert (code, err) == (2, "Error: out o must be empty or hold a study to resume, got other files\n")
    assert listing(files / "o") == ["thesis.txt"]


def test_make_data_does_not_overwrite_and_tells_its_size(run, files):
    code, out, _ = run("make-data algonauts --out data --subjects 1 2 --dry-run")
    assert (code, "2 subjects" in out, "nothing was written" in out) == (0, True, True)
    (files / "data" / "subj02").mkdir(parents=True)
    code, _, err = run("make-data algonauts --out data --subjects 1 2")
    assert (code, err) == (2, "Error: data/subj02 exists; subjects are not overwritten\n")


COMMAND = "import sys; from neuroattn.cli import main; sys.argv[0] = 'neuroattn'; main()"


def test_a_killed_fit_resumes_to_the_same_result(run, files):
    """Kill the process in the middle of its second fit; --resume makes of it what a whole run makes."""
    command = f"{TOKENS} --model attention,factorized --epochs 12"
    killed = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *shlex.split(command), "--out", "killed"], stderr=subprocess.DEVNULL
    )
    done = files / "killed" / "models" / "attention" / "seed-0" / "fold-0"
    while killed.poll() is None and not done.is_dir():
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (files / "killed" / "scores.nc").exists()
    first = (done / "model.safetensors").stat().st_mtime_ns
    assert run(f"{command} --out killed --resume")[0] == 0
    assert (done / "model.safetensors").stat().st_mtime_ns == first
    assert run(f"{command} --out whole")[0] == 0
    xr.testing.assert_identical(
        xr.load_dataset("killed/scores.nc", engine="h5netcdf"),
        xr.load_dataset("whole/scores.nc", engine="h5netcdf"),
    )
    assert listing(files / "killed") == listing(files / "whole")
