"""Trials and their readers."""

import hashlib
import warnings

import mne
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from neuroattn.datasets import Trials, load_eeg
from neuroattn.datasets.eeg import band_filter, filter_signals

SFREQ = 100
ONSETS = (2, 6, 10, 14)


def make_trials(n=8, n_chans=3, n_times=100, **changes):
    X = np.random.default_rng(0).normal(size=(n, n_chans, n_times)) * 10
    metadata = pd.DataFrame({"subject": np.arange(n) // 4, "session": 1, "run": np.arange(n) % 4 // 2})
    given = dict(
        X=X, y=np.arange(n) % 2, metadata=metadata, ch_names=["C3", "Cz", "C4"], sfreq=SFREQ, tmin=-0.5
    )
    return Trials(**(given | changes))


def make_raw(
    seed=0, ch_names=("C3..", "Cz..", "C4.."), sfreq=SFREQ, seconds=20, marks=("T1", "T2", "T1", "T2")
):
    signals = np.random.default_rng(seed).normal(size=(len(ch_names), int(seconds * sfreq))) * 1e-5
    raw = mne.io.RawArray(signals, mne.create_info(list(ch_names), sfreq, "eeg"), verbose="error")
    return raw.set_annotations(mne.Annotations(ONSETS[: len(marks)], 4, marks))


def save(raw, path):
    if path.suffix == ".fif":
        raw.save(path, verbose="error")
    else:
        mne.export.export_raw(path, raw, verbose="error")
    return path


@pytest.fixture
def recording(tmp_path):
    """One recording in a file named as PhysioNet names them."""
    return save(make_raw(), tmp_path / "S007R04.fif")


def test_trials_keep_text_for_subject_session_and_run():
    trials = make_trials()
    assert trials.X.dtype == np.float32
    assert trials.metadata.iloc[5].tolist() == ["1", "1", "0"]


def test_select_keeps_rows_together():
    trials = make_trials()
    part = trials.select(subject="1", run=["0"])
    assert_array_equal(part.X, trials.X[[4, 5]])
    assert_array_equal(part.y, trials.y[[4, 5]])
    assert part.metadata.index.tolist() == [0, 1]
    with pytest.raises(ValueError, match="subject must be one of 0, 1, got '7'"):
        trials.select(subject="7")


def test_crop_counts_from_the_cue_and_leaves_the_end_out():
    trials = make_trials()
    part = trials.crop(0, 0.25)
    assert part.tmin == 0
    assert_array_equal(part.X, trials.X[:, :, 50:75])
    with pytest.raises(ValueError, match=r"crop must lie within -0.5 to 0.5 s, got 0 to 0.6 s"):
        trials.crop(0, 0.6)


def test_epochs_and_back():
    trials = make_trials(y=np.array(["left", "right"] * 4))
    epochs = trials.to_epochs()
    assert_allclose(epochs.get_data(), trials.X * 1e-6)
    assert epochs.tmin == -0.5
    again = Trials.from_epochs(epochs)
    assert_allclose(again.X, trials.X, rtol=1e-6)
    assert_array_equal(again.y, trials.y)
    assert again.metadata[["subject", "session", "run"]].equals(trials.metadata)
    assert (again.sfreq, again.ch_names, again.tmin) == (trials.sfreq, trials.ch_names, trials.tmin)


def test_epochs_without_metadata_are_one_run_of_one_subject():
    epochs = make_trials().to_epochs()
    epochs.metadata = None
    assert Trials.from_epochs(epochs).metadata.to_numpy().tolist() == [["1", "1", "1"]] * 8


def faulty(place, value):
    X = np.random.default_rng(0).normal(size=(8, 3, 100)) * 10
    X[place] = value
    return X


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": faulty((2, 1, 5), np.nan)}, "X must be finite, got NaN or infinity in channel Cz"),
        (
            {"X": faulty((slice(None), [0, 2]), 3.0)},
            "X must vary in every channel, got a flat channels C3, C4",
        ),
        ({"X": np.ones((8, 3))}, r"X must have shape \(trial, channel, time\)"),
        ({"y": np.arange(7)}, r"y must have shape \(8,\), got \(7,\)"),
        ({"ch_names": ["C3"]}, "ch_names must name 3 channels like X, got 1"),
        (
            {"metadata": pd.DataFrame({"subject": ["1"] * 8})},
            "metadata must have columns .*; session, run missing",
        ),
        (
            {"metadata": pd.DataFrame({"subject": ["1"], "session": "1", "run": "1"})},
            "must have 8 rows .*, got 1",
        ),
        ({"sfreq": 0}, "sfreq must be more than 0, got 0"),
    ],
)
def test_faults_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make_trials(**changes)


def test_volts_are_noticed():
    with pytest.warns(UserWarning, match=r"X should be in microvolt, but .* deviation of 9\.9e-06"):
        make_trials(X=make_trials().X * 1e-6)


@pytest.mark.parametrize("suffix", [".fif", ".edf", ".vhdr"])
def test_formats_agree(tmp_path, suffix):
    """BrainVision and EDF keep 16 bits."""
    raw = make_raw(ch_names=("C3", "Cz", "C4"))
    prefix = "Comment/" if suffix == ".vhdr" else ""
    events = {f"{prefix}T1": "left", f"{prefix}T2": "right"}
    trials = load_eeg(save(raw, tmp_path / f"S01R02{suffix}"), events=events, tmin=-0.5, tmax=1.5)
    assert trials.ch_names == ("C3", "Cz", "C4")
    assert trials.y.tolist() == ["left", "right", "left", "right"]
    assert trials.metadata.iloc[0].tolist() == ["01", "1", "02"]
    start = ONSETS[1] * SFREQ - 50
    assert_allclose(trials.X[1], 1e6 * raw.get_data()[:, start : start + 200], atol=0.01)


def test_channels_are_spelt_as_in_the_10_05_system(recording):
    assert load_eeg(recording).ch_names == ("C3", "Cz", "C4")
    assert load_eeg(recording, channels=["C4", "C3"]).ch_names == ("C4", "C3")
    assert load_eeg(recording).info.get_montage() is not None


def test_the_filter_sees_the_continuous_recording(recording):
    """Cut after filtering, so that trials have no edges; forwards only where that is asked."""
    signals = 1e6 * make_raw().get_data()
    for causal in (False, True):
        filtered = filter_signals(signals, band_filter(8, 30, SFREQ), causal=causal)
        trials = load_eeg(recording, band=(8, 30), causal=causal, tmin=0, tmax=2)
        assert_allclose(trials.X[2], filtered[:, 1000:1200], atol=1e-4)


def test_a_causal_filter_sees_no_later_sample():
    x = np.random.default_rng(0).normal(size=(2, 300))
    y = x.copy()
    y[:, 200:] = 0
    for causal in (True, False):
        same = [filter_signals(s, band_filter(8, 30, SFREQ), causal=causal)[:, :200] for s in (x, y)]
        assert np.array_equal(*same) == causal


@pytest.mark.parametrize(
    ("band", "passes"),
    [((8, 30), [False, True, False]), ((None, 8), [True, False, False]), ((30, None), [False] * 2 + [True])],
)
def test_bands(band, passes):
    t = np.arange(1000) / 200
    x = np.sin(2 * np.pi * np.array([[2], [15], [60]]) * t)
    power = filter_signals(x, band_filter(*band, 200), causal=False)[:, 200:-200].std(axis=1) / x.std()
    assert_allclose(power, passes, atol=0.05)


@pytest.mark.parametrize("band", [(None, None), (0, 30), (30, 8), (8, 60)])
def test_impossible_bands_are_refused(band):
    with pytest.raises(ValueError, match="band must have"):
        band_filter(*band, 100)


def test_resampling(recording):
    trials = load_eeg(recording, band=(1, 20), resample=50, tmin=0, tmax=3)
    assert trials.sfreq == 50
    assert trials.X.shape == (4, 3, 150)
    full = load_eeg(recording, band=(1, 20), tmin=0, tmax=3)
    assert np.corrcoef(trials.X.ravel(), full.X[:, :, ::2].ravel())[0, 1] > 0.99


def test_a_folder_of_files_in_order(tmp_path):
    for i, name in enumerate(["a", "b"]):
        save(make_raw(seed=i), tmp_path / f"{name}_raw.fif")
    trials = load_eeg(tmp_path)
    assert trials.metadata.run.tolist() == ["1"] * 4 + ["2"] * 4
    named = load_eeg(tmp_path, names=r"(?P<subject>\w)_raw")
    assert named.metadata[["subject", "run"]].to_numpy().tolist() == [["a", "1"]] * 4 + [["b", "1"]] * 4
    assert_array_equal(named.X, trials.X)


def test_bids(tmp_path):
    import mne_bids

    raw = make_raw(ch_names=("C3", "Cz", "C4"))
    raw.info["line_freq"] = 50
    for subject in ("01", "02"):
        path = mne_bids.BIDSPath(
            subject=subject, session="a", run="3", task="hands", datatype="eeg", root=tmp_path
        )
        mne_bids.write_raw_bids(raw, path, format="BrainVision", allow_preload=True, verbose="error")
    trials = load_eeg(tmp_path)
    assert trials.metadata.drop_duplicates().to_numpy().tolist() == [["01", "a", "3"], ["02", "a", "3"]]
    assert_allclose(trials.X[:4], load_eeg(save(raw, tmp_path / "raw.fif")).X, atol=0.1)


def test_trials_beyond_the_recording_are_noted(recording):
    trials = load_eeg(recording, tmin=-3, tmax=1)
    assert len(trials) == 3
    assert trials.notes == ("S007R04.fif: 1 trials left out, marked as bad or beyond the recording",)


def test_bad_channels_are_noted(tmp_path):
    raw = make_raw()
    raw.info["bads"] = ["Cz.."]
    trials = load_eeg(save(raw, tmp_path / "x_raw.fif"))
    assert trials.ch_names == ("C3", "C4")
    assert trials.notes == ("x_raw.fif: bad channels left out: Cz",)


def test_the_eyes_are_not_eeg(tmp_path):
    path = save(make_raw(ch_names=("EEG-C3", "EOG-left", "EEG C4-REF")), tmp_path / "x_raw.fif")
    assert load_eeg(path).ch_names == ("C3", "C4")
    assert load_eeg(path, channels=["EOG-left"]).ch_names == ("EOG-left",)


def flat(raw):
    raw._data[1] = 0
    return raw


def with_nan(raw):
    raw._data[2, 7] = np.nan
    return raw


@pytest.mark.parametrize(
    ("raw", "options", "message"),
    [
        (make_raw(marks=()), {}, "x_raw.fif must have annotations that mark the cues, got none"),
        (
            make_raw(),
            {"events": {"769": "left"}},
            "events must name annotations of x_raw.fif, .*are 'T1', 'T2'",
        ),
        (
            make_raw(),
            {"events": {"T1": "a", "T3": "b"}},
            "events must occur, but 'T3' does not; .*'T1', 'T2'",
        ),
        (make_raw(), {"events": {"T1": "left"}}, "events must hold at least two classes, got 'left'"),
        (
            make_raw(),
            {"tmin": -7, "tmax": 7},
            "events must hold every class, got 1 trials and none of .right.",
        ),
        (flat(make_raw()), {}, "x_raw.fif must vary in every channel, got a flat channel Cz"),
        (
            with_nan(make_raw()),
            {"band": (8, 30)},
            "x_raw.fif must be finite, got NaN or infinity in channel C4",
        ),
        (make_raw(), {"channels": ["C3", "Oz"]}, "channels must be in x_raw.fif, missing: Oz"),
        (make_raw(), {"names": r"S(?P<subject>\d+)"}, "names must match the name of every file"),
        (make_raw(), {"band": (8, 60)}, "band must have 0 < low < high < 50 Hz"),
    ],
)
def test_faulty_files_are_refused(tmp_path, raw, options, message):
    with pytest.raises(ValueError, match=message):
        load_eeg(save(raw, tmp_path / "x_raw.fif"), **options)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            make_raw(ch_names=("C3", "Oz", "C4")),
            "channels of b_raw.fif must be those of a_raw.fif, differing: Cz, Oz",
        ),
        (make_raw(ch_names=("Cz", "C3", "C4")), "differing: their order"),
        (
            make_raw(sfreq=200),
            "files must have one sampling rate, got 100 Hz in a_raw.fif and 200 Hz in b_raw.fif",
        ),
    ],
)
def test_files_must_agree(tmp_path, other, message):
    save(make_raw(), tmp_path / "a_raw.fif")
    save(other, tmp_path / "b_raw.fif")
    with pytest.raises(ValueError, match=message):
        load_eeg(tmp_path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_eeg(tmp_path / "nothing.edf")
    with pytest.raises(FileNotFoundError, match=r"must hold files of type \.edf"):
        load_eeg(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"got notes\.txt"):
        load_eeg(tmp_path / "notes.txt")
    (tmp_path / "broken.edf").write_bytes(b"0" * 300)
    with pytest.raises(ValueError, match=r"broken\.edf cannot be read"):
        load_eeg(tmp_path)


@pytest.mark.shared_data
def test_physionet_recordings(shared):
    folder = shared / "data" / "eeg" / "eegmmi_raw_edf"
    lines = [line.split() for line in (folder / "SHA256SUMS").read_text().splitlines() if ".edf" in line]
    names = {line[-1].rpartition("/")[2].lstrip("*"): line[0] for line in lines}
    path = folder / "S007R04.edf"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == names[path.name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trials = load_eeg(sorted(folder.glob("*.edf")), tmin=0, tmax=4)
    assert trials.X.shape == (90, 64, 640)
    assert trials.metadata.groupby(["subject", "run"]).size().tolist() == [15] * 6
    assert trials.metadata.subject.unique().tolist() == ["007", "042"]
    assert {"FCz", "C3", "Cz", "C4", "Fp1"} <= set(trials.ch_names)
    assert 10 < trials.X.std() < 100
