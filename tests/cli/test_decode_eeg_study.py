"""``neuroattn decode-eeg study`` on recordings on disk."""

import mne
import numpy as np
import pytest
import xarray as xr

from neuroattn.cli import main
from neuroattn.cli.decode_eeg_study import parse_band, parse_events, parse_window

STUDY = (
    "decode-eeg study data --attention eca --baseline csp-lda,slow-signals --epochs 2 --n-seeds 1 --out study"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two subjects with two runs of eight cues."""
    root = tmp_path_factory.mktemp("eeg")
    (root / "data").mkdir()
    rng = np.random.default_rng(0)
    info = mne.create_info(["C3", "Cz", "C4"], 100, "eeg")
    for subject in (1, 2):
        for run in (4, 8):
            raw = mne.io.RawArray(1e-5 * rng.normal(size=(3, 5000)), info, verbose="error")
            marks = ["T1", "T2"] * 4
            raw.set_annotations(mne.Annotations(2 + 6 * np.arange(8), 4, marks))
            raw.save(root / "data" / f"S00{subject}R0{run}_raw.fif", verbose="error")
    return root


@pytest.fixture
def run(root, monkeypatch, capsys):
    def run(command):
        monkeypatch.chdir(root)
        monkeypatch.setattr("sys.argv", ["neuroattn", *command.split()])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return (stopped.value.code or 0, *capsys.readouterr())

    return run


NAMES = r" --names S(?P<subject>\d+)R(?P<run>\d+)"


def test_a_study_from_files_to_a_report(root, run):
    code, out, _ = run(STUDY + NAMES + " --dry-run")
    assert code == 0
    assert "recording: 32 trials, 3 channels, 100 Hz, subjects 001, 002" in out
    assert "4 folds of 8 training trials, 8 networks" in out
    assert "nothing was written" in out
    assert not (root / "study").exists()
    code, out, err = run(STUDY + NAMES)
    assert (code, err.partition("Error")[1]) == (0, "")
    assert "csp-lda" in out
    assert "the smallest p that 2 subjects can attain is 0.5" in out
    study = xr.load_dataset(root / "study/study.nc", engine="h5netcdf")
    assert study.subject.values.tolist() == ["recording/001", "recording/002"]
    assert "decode-eeg study data" in (root / "study/report.html").read_text()
    code, _, err = run(STUDY + NAMES)
    assert code == 2
    assert "give --resume" in err
    assert run(STUDY + NAMES + " --resume")[0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--attention sea", "attentions 'sea' is unknown"),
        ("--baseline lda", "baselines 'lda' is unknown"),
        ("--events T1", "--events must be ANNOTATION=LABEL joined by commas, got 'T1'"),
        ("--events T1=left,T9=right", "'T9' does not"),
        ("--band 30", "--band must be LOW-HIGH in hertz or none, got '30'"),
        ("--band 30-8", "band must have 0 < low < high"),
        ("--window 1", "--window must be START,END in seconds, got '1'"),
        ("--window 1,9", "crop must lie within"),
        ("--workers -1", "workers must be at least 0"),
    ],
)
def test_bad_input_ends_in_one_line(root, run, change, message):
    code, _, err = run(STUDY.replace("--out study", "--out bad") + NAMES + " " + change)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (root / "bad").exists()


def test_edges_may_be_open():
    assert parse_band("-40") == (None, 40.0)
    assert parse_band("4-") == (4.0, None)
    assert parse_window("-0.5,2") == (-0.5, 2.0)
    assert parse_events("769=left") == {"769": "left"}
