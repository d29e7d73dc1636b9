"""``neuroattn decode-eeg fit`` and ``predict`` on files, and what they refuse."""

import sys

import mne
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from neuroattn.cli import main

SFREQ = 80
NAMES = ["F3", "F4", "C3", "C4"]


def write_recording(path, seed=0, n=10, names=NAMES, marks=("T1", "T2"), scale=1.0):
    """Eight-second trials with 12 Hz at C3 or C4 after the cue."""
    rng = np.random.default_rng(seed)
    signals = rng.normal(size=(len(names), (6 * n + 4) * SFREQ)) * 5
    onsets = 2.0 + 6 * np.arange(n)
    descriptions = [marks[i % len(marks)] for i in range(n)]
    for onset, name in zip(onsets, descriptions, strict=True):
        here = slice(round((onset + 0.3) * SFREQ), round((onset + 4) * SFREQ))
        wave = np.sin(2 * np.pi * 12 * np.arange(here.stop - here.start) / SFREQ + rng.uniform(0, 6))
        signals[2 + (name == "T2"), here] += 8 * wave
    raw = mne.io.RawArray(signals * 1e-6 * scale, mne.create_info(list(names), SFREQ, "eeg"), verbose="error")
    raw.set_annotations(mne.Annotations(onsets, 4, descriptions))
    if path.suffix == ".fif":
        raw.save(path, verbose="error")
    else:
        mne.export.export_raw(path, raw, verbose="error")
    return path


def call(monkeypatch, *words):
    """Run the command; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["neuroattn", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eeg")
    return [write_recording(folder / f"S001R0{i}.{suffix}", i) for i, suffix in enumerate(("edf", "fif"))]


@pytest.fixture(scope="module")
def study(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "study"
    patch = pytest.MonkeyPatch()
    words = (
        "--model",
        "csp-lda,basenet",
        "--epochs",
        2,
        "--permutations",
        5,
        "--device",
        "cpu",
        "--out",
        out,
    )
    assert call(patch, "decode-eeg", "fit", *files, *words) == 0
    patch.undo()
    return out


def test_a_fit_leaves_scores_models_and_a_report(study):
    scores = xr.load_dataset(study / "scores.nc", engine="h5netcdf")
    assert scores.pipeline.values.tolist() == ["csp-lda", "slow-signals", "basenet", "basenet+eca"]
    assert scores.condition.values.tolist() == ["imagery", "broadband", "slow", "pre-cue"]
    assert float(scores.accuracy.sel(pipeline="csp-lda", condition="imagery")) > 0.85
    assert len(pd.read_csv(study / "scores.csv")) == 15
    page = (study / "report.html").read_text(encoding="utf-8")
    for title in ("Scores, nulls and controls", "Which trials are confused", "Where on the scalp", "Methods"):
        assert title in page
    assert "mne.Annotations" not in page
    maps = xr.load_dataset(study / "maps.nc", engine="h5netcdf")
    assert set(maps) == {"csp-lda", "basenet", "basenet+eca"}


@pytest.mark.parametrize(("name", "least"), [("csp-lda", 0.85), ("basenet+eca", 0.0)])
def test_predict_reads_other_files_with_the_model(study, files, tmp_path, monkeypatch, name, least):
    table = tmp_path / "table.csv"
    other = write_recording(tmp_path / "S001R09.fif", 9)
    assert call(monkeypatch, "decode-eeg", "predict", study / "models" / name, other, "--out", table) == 0
    rows = pd.read_csv(table)
    assert len(rows) == 10
    assert (rows.label == rows.predicted).mean() >= least
    np.testing.assert_allclose(rows.p_left + rows.p_right, 1)


def test_a_dry_run_writes_nothing(files, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = ("--model", "csp-lda", "--dry-run", "--out", out)
    assert call(monkeypatch, "decode-eeg", "fit", *files, *words) == 0
    said = capsys.readouterr().out
    assert "20 trials, 4 channels, 80 Hz" in said
    assert "subject 001, session 1, run 00: 5 left, 5 right" in said
    assert "csp-lda: about" in said
    assert not out.exists()


def test_a_second_run_continues_or_is_refused(study, files, monkeypatch, capsys):
    words = (
        "--model",
        "csp-lda,basenet",
        "--epochs",
        2,
        "--permutations",
        5,
        "--device",
        "cpu",
        "--out",
        study,
    )
    assert call(monkeypatch, "decode-eeg", "fit", *files, *words) == 2
    assert "holds a study already; give --resume" in capsys.readouterr().err
    before = (study / "parts" / "csp-lda_imagery_score.npy").stat().st_mtime_ns
    assert call(monkeypatch, "decode-eeg", "fit", *files, *words, "--resume") == 0
    assert (study / "parts" / "csp-lda_imagery_score.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--events", "T1"], "--events must be ANNOTATION=LABEL"),
        (["--events", "T1=left,T2=left"], "--events must name each annotation once and two labels"),
        (
            ["--events", "left=a,right=b"],
            "events must name annotations of S001R00.edf, got none; annotations are 'T1', 'T2'",
        ),
        (["--events", "T1=left,T9=right"], "events must occur, but 'T9' does not"),
        (["--band", "8"], "--band must be LOW-HIGH in hertz"),
        (["--band", "30-8"], "--band must be LOW-HIGH with 0 < LOW < HIGH"),
        (["--band", "8-60"], "band must have 0 < low < high < 40 Hz, half the sampling rate"),
        (["--tmin", "5"], "--tmax must be at least 5.1"),
        (["--model", "basenet", "--tmax", "0.8"], "n_times must be at least"),
        (["--model", "svm"], "pipeline must be one of"),
        (["--model", "basenet", "--attention", "ecca"], "attention 'ecca' is unknown; nearest are"),
        (["--permutations", "-1"], "--permutations must be at least 0"),
        (["--protocol", "leave-one-subject-out"], "nothing is left for training"),
        (["--device", "cuda:99"], "--device 'cuda:99' is not available here"),
        (["--names", "(?P<run>x)"], "names must match the name of every file"),
        (["--seed", "-1"], "seed must be at least 0"),
    ],
)
def test_bad_input_ends_with_one_line(files, tmp_path, monkeypatch, capsys, words, message):
    out = tmp_path / "out"
    given = ["--model", "csp-lda", "--permutations", "0", *words, "--out", out]
    assert call(monkeypatch, "decode-eeg", "fit", *files, *given) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0
    assert not out.exists()


def test_recordings_without_pairs_have_no_slow_control(tmp_path, monkeypatch, capsys):
    lonely = write_recording(tmp_path / "S001R01.fif", names=["Fz", "FCz", "Cz", "Pz"])
    words = ("--model", "tangent-space", "--permutations", 0, "--out", tmp_path / "out")
    assert call(monkeypatch, "decode-eeg", "fit", lonely, *words) == 0
    assert "without the slow-signal control" in capsys.readouterr().err
    assert (tmp_path / "out" / "models" / "tangent-space").is_dir()
    assert not (tmp_path / "out" / "models" / "slow-signals").exists()


def test_bad_files_end_with_one_line(files, study, tmp_path, monkeypatch, capsys):
    (tmp_path / "S1.txt").write_text("no EEG")
    (tmp_path / "S2.edf").write_text("no EEG")
    other = write_recording(tmp_path / "S001R03.fif", 3, names=["F3", "F4", "C3", "Pz"])
    flat = write_recording(tmp_path / "S001R04.fif", 3, scale=0.0)
    model = study / "models" / "csp-lda"
    for words, message in (
        (["fit", tmp_path / "none.edf"], "none.edf does not exist"),
        (["fit", tmp_path / "S1.txt"], "paths must be files of type"),
        (["fit", tmp_path / "S2.edf"], "S2.edf cannot be read"),
        (["fit", files[0], other], "channels of S001R03.fif must be those of S001R00.edf"),
        (["fit", flat], "must vary in every channel, got a flat"),
        (["predict", tmp_path, files[0]], "must be the folder of a decoder"),
        (["predict", model, other], "channels must be in S001R03.fif, missing: C4"),
    ):
        assert call(monkeypatch, "decode-eeg", *words, "--out", tmp_path / "result") == 2
        error = capsys.readouterr().err.strip()
        assert message in error
        assert error.count("\n") == 0
        assert not (tmp_path / "result").exists()
