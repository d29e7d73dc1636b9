"""Decoding of one recording: nulls, controls, verdicts, stored decoders."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from neuroattn.analyses import Condition, Decoder, decode_recording, decode_trials, decoding
from neuroattn.analyses.decoding import (
    IMAGERY,
    NOTHING,
    SLOW,
    _Decoder,
    _learning_sizes,
    _thinned,
    adjusted_chance,
    decoding_folds,
    default_conditions,
    estimate_seconds,
    new_estimator,
    second_moments,
    shuffle_within_runs,
    verdicts,
)
from neuroattn.analyses.decoding_report import summarise_decoding
from neuroattn.datasets import Trials

SFREQ = 80
NAMES = ["F3", "F4", "C3", "C4", "P3", "P4"]


def make_trials(n_subjects=1, n_runs=3, per_run=10, *, band=0.0, slow=0.0, seed=0):
    """Noise from -1 to 3 s; after the cue 12 Hz at C3 or C4, and a slow wave at F3 or F4."""
    rng = np.random.default_rng(seed)
    n = n_subjects * n_runs * per_run
    y = np.array(["left", "right"] * (n // 2))
    X = rng.normal(size=(n, len(NAMES), 4 * SFREQ)) * 5
    t = np.arange(4 * SFREQ) / SFREQ - 1
    side = np.where(y == "left", 0, 1)
    phase = rng.uniform(0, 2 * np.pi, size=(n, 1))
    after = (t > 0.3)[None] * np.sin(2 * np.pi * 12 * t + phase)
    X[np.arange(n), 2 + side] += band * after
    X[np.arange(n), side] += slow * ((t > 0.1) & (t < 1.0)) * np.sin(np.pi * (t - 0.1) / 0.9)
    metadata = pd.DataFrame(
        {
            "subject": np.repeat(np.arange(n_subjects), n_runs * per_run),
            "session": "1",
            "run": np.tile(np.repeat(np.arange(n_runs), per_run), n_subjects),
        }
    )
    return Trials(X, y, metadata, NAMES, sfreq=SFREQ, tmin=-1)


CLASSICAL = ["csp-lda", "tangent-space", "slow-signals"]


@pytest.fixture(scope="module")
def imagery_scores():
    return decode_trials(make_trials(band=8), CLASSICAL, n_permutations=20)


@pytest.fixture(scope="module")
def slow_scores():
    return decode_trials(make_trials(slow=40), CLASSICAL, n_permutations=20)


def test_imagery_is_found_where_it_was_planted(imagery_scores):
    accuracy = imagery_scores.accuracy.sel(condition="imagery")
    assert (accuracy.sel(pipeline=["csp-lda", "tangent-space"]) > 0.85).all()
    assert imagery_scores.verdict.values.tolist() == [IMAGERY, IMAGERY, NOTHING]
    assert np.isnan(accuracy.sel(pipeline="slow-signals"))


def test_slow_waves_are_not_called_imagery(slow_scores):
    assert slow_scores.accuracy.sel(pipeline="slow-signals", condition="slow") > 0.9
    assert slow_scores.verdict.values[2] == SLOW
    assert (slow_scores.verdict.values[:2] != IMAGERY).all()
    assert (slow_scores.accuracy <= slow_scores.null_95).sel(condition="pre-cue").all()


def test_null_is_centred_on_chance_and_p_counts_the_score_itself(imagery_scores):
    null = imagery_scores.null.sel(condition="imagery", pipeline="csp-lda")
    assert abs(float(null.mean()) - 0.5) < 0.08
    assert null.std() > 0.03
    score = imagery_scores.accuracy.sel(condition="imagery", pipeline="csp-lda")
    assert_allclose(
        imagery_scores.p_value.sel(condition="imagery", pipeline="csp-lda"), (1 + (null >= score).sum()) / 21
    )
    assert (
        (null > float(imagery_scores.null_95.sel(condition="imagery", pipeline="csp-lda"))).mean()
    ) <= 0.05


def test_confusion_and_predictions_agree_with_the_accuracy(imagery_scores):
    cell = imagery_scores.sel(pipeline="csp-lda", condition="imagery")
    assert int(cell.confusion.sum()) == cell.sizes["trial"]
    assert_allclose(np.trace(cell.confusion.values) / 30, cell.accuracy)
    assert_allclose((cell.prediction == cell.label).mean(), cell.accuracy)
    assert_array_equal(cell.confusion.sum("predicted"), [15, 15])
    assert_allclose(imagery_scores.learning_curve.sel(pipeline="csp-lda")[-1], cell.accuracy)


@pytest.mark.parametrize("name", CLASSICAL)
def test_what_is_computed_once_gives_what_the_whole_pipeline_gives(name):
    trials = make_trials(band=4, slow=5)
    condition = default_conditions(trials)[1]
    _, folds = decoding_folds(trials)
    codes = np.unique(trials.y, return_inverse=True)[1]
    predicted = _Decoder(name, trials, condition, 1, 0, "cpu").predict(folds, codes[None])[0]
    X = condition.apply(trials).X.astype(np.float64)
    for fold in folds:
        whole = new_estimator(name, sfreq=SFREQ, ch_names=NAMES, n_epochs=1, seed=0)
        assert_array_equal(
            whole.fit(X[fold.train], codes[fold.train]).predict(X[fold.test]), predicted[fold.test]
        )


@pytest.mark.parametrize("n_times", [3, 4, 200])
def test_short_trials_have_the_second_moments_of_long_ones(n_times):
    X = np.random.default_rng(0).normal(size=(5, 4, n_times))
    short = second_moments(X)
    assert short.shape[2] == min(4, n_times)
    assert_allclose(short @ short.swapaxes(1, 2) / short.shape[2], X @ X.swapaxes(1, 2) / n_times, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_labels_stay_within_their_run(seed):
    trials = make_trials(n_subjects=2, per_run=4)
    y = np.arange(len(trials))
    shuffled = shuffle_within_runs(y, trials, seed)
    assert_array_equal(np.sort(shuffled.reshape(-1, 4), axis=1), y.reshape(-1, 4))


def test_nothing_after_a_window_reaches_it():
    trials = make_trials()
    changed = make_trials()
    changed.X[:, :, SFREQ:] += 1000
    condition = Condition("before", (None, 4.0), -1, 0)
    assert_array_equal(condition.apply(trials).X, condition.apply(changed).X)


@pytest.mark.parametrize(
    ("sizes", "protocol", "n_folds"),
    [
        ({}, "leave-one-run-out", 3),
        ({"n_runs": 1, "per_run": 12}, "blocks", 5),
        ({"n_subjects": 3}, "leave-one-subject-out", 3),
    ],
)
def test_protocol_follows_the_data(sizes, protocol, n_folds):
    trials = make_trials(**sizes)
    name, folds = decoding_folds(trials)
    assert (name, len(folds)) == (protocol, n_folds)
    assert_array_equal(np.sort(np.concatenate([fold.test for fold in folds])), np.arange(len(trials)))
    assert all(not set(fold.test) & set(fold.train) for fold in folds)


def test_groups_of_subjects_share_none():
    trials = make_trials(n_subjects=7, n_runs=1, per_run=2)
    _, folds = decoding_folds(trials, "subject-folds")
    subject = trials.metadata.subject.to_numpy()
    assert len(folds) == 5
    assert all(not set(subject[fold.train]) & set(subject[fold.test]) for fold in folds)
    with pytest.raises(ValueError, match="subjects must be at least 5, got 2"):
        decoding_folds(trials.select(subject=["0", "1"]), "subject-folds")


def test_learning_curves_take_balanced_parts_of_the_training_trials():
    trials = make_trials()
    _, folds = decoding_folds(trials)
    codes = np.unique(trials.y, return_inverse=True)[1]
    sizes = _learning_sizes(folds, 2)
    assert sizes[-1] == 20
    for thin, fold in zip(_thinned(folds, codes, 10, 0), folds, strict=True):
        assert set(thin.train) <= set(fold.train)
        assert_array_equal(np.bincount(codes[thin.train]), [5, 5])
        assert_array_equal(thin.test, fold.test)


def table(rows, names=("csp-lda", "basenet")):
    return xr.Dataset(
        {
            "accuracy": (("pipeline", "condition"), rows),
            "null_95": (("pipeline", "condition"), np.full(np.shape(rows), 0.6)),
            "adjusted_chance": 0.7,
        },
        {"pipeline": list(names), "condition": ["imagery", "broadband"]},
    )


@pytest.mark.parametrize(
    ("network", "verdict"),
    [
        ((0.75, 0.9), SLOW),
        ((0.85, 0.9), IMAGERY),
        ((0.75, 0.7), IMAGERY),
        ((0.5, 0.9), SLOW),
        ((0.5, 0.5), NOTHING),
    ],
)
def test_a_network_that_wins_broadband_only_decodes_slow_signals(network, verdict):
    assert verdicts(table([(0.8, 0.8), network]))["basenet"] == verdict


def test_without_a_null_the_adjusted_chance_level_decides():
    scores = table([(0.65, 0.5), (0.75, 0.5)])
    assert verdicts(scores)["csp-lda"] == IMAGERY
    scores["null_95"] *= np.nan
    assert list(verdicts(scores).values()) == [NOTHING, IMAGERY]


def test_adjusted_chance_is_that_of_moabb():
    from moabb.analysis.chance_level import adjusted_chance_level

    for n_trials, n_classes in ((45, 2), (288, 4), (1110, 2)):
        assert adjusted_chance(n_trials, n_classes) == adjusted_chance_level(n_classes, n_trials)


def test_finished_parts_are_not_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "N_TOGETHER", 2)
    trials = make_trials(band=8)
    given = dict(conditions=[Condition("imagery", (8, 30), 0.5, 3)], n_permutations=3, store=tmp_path)
    first = decode_trials(trials, ["csp-lda"], **given)
    (tmp_path / "csp-lda_imagery_null-2-1.npy").unlink()
    calls = []
    predict = _Decoder.predict
    monkeypatch.setattr(_Decoder, "predict", lambda self, *args: calls.append(1) or predict(self, *args))
    again = decode_trials(trials, ["csp-lda"], **given)
    assert len(calls) == 1
    xr.testing.assert_equal(first, again)


def test_networks_are_scored_with_their_null():
    trials = make_trials(n_runs=2, per_run=6)
    condition = Condition("imagery", (8, 30), 0.5, 3)
    scores = decode_trials(
        trials, ["basenet", "basenet+eca"], conditions=[condition], n_permutations=2, n_epochs=2
    )
    assert scores.null.notnull().all()
    assert json.loads(scores.attrs["config"])["n_epochs"] == 2
    seconds = estimate_seconds(
        trials,
        "basenet",
        condition,
        decoding_folds(trials)[1],
        n_permutations=1,
        n_epochs=3,
        seed=0,
        device="cpu",
    )
    assert seconds > 0


def test_subjects_are_averaged_and_resampled():
    scores = decode_trials(
        make_trials(n_subjects=3, n_runs=1, per_run=8, band=8), ["csp-lda"], n_permutations=0
    )
    assert scores.attrs["protocol"] == "leave-one-subject-out"
    assert_allclose(scores.accuracy, scores.subject_accuracy.mean("subject"))
    assert scores.null_95.isnull().all()
    low, high = scores.accuracy_ci.transpose("bound", ...).values
    assert (low <= scores.accuracy).all()
    assert (high >= scores.accuracy).all()


def test_null_of_predictions_shuffles_within_runs_and_fits_nothing_again(monkeypatch):
    trials = make_trials(n_subjects=5, n_runs=2, per_run=6, band=8)
    calls = []
    predict = _Decoder.predict
    monkeypatch.setattr(_Decoder, "predict", lambda self, *args: calls.append(1) or predict(self, *args))
    conditions = [Condition("imagery", (8, 30), 0.5, 3)]
    given = dict(protocol="subject-folds", n_permutations=60, null="predictions", conditions=conditions)
    scores = decode_trials(trials, ["csp-lda"], **given)
    assert len(calls) == len(scores.n_train)  # the score and the learning curve
    predicted = scores.prediction.values[0, 0]
    expected = [(predicted == shuffle_within_runs(trials.y, trials, [0, i])).mean() for i in range(60)]
    assert_allclose(scores.null.values[0, 0], expected)
    assert abs(scores.null.mean() - 0.5) < 0.05
    assert scores.accuracy.item() > scores.null_95.item()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"null": "predictions"},
            "null 'predictions' needs a protocol across subjects, got 'leave-one-run-out'",
        ),
        ({"null": "refits"}, "null must be one of 'refit', 'predictions'"),
        ({"pipelines": ["cps-lda"]}, "pipeline must be one of"),
        ({"pipelines": ["basenet+ecca"]}, "attention 'ecca' is unknown; nearest are"),
        ({"pipelines": ["csp-lda", "csp-lda"]}, "pipelines must differ"),
        ({"pipelines": []}, "must each hold at least one"),
        ({"n_permutations": -1}, "n_permutations must be at least 0, got -1"),
        ({"protocol": "loso"}, "protocol must be one of"),
    ],
)
def test_bad_requests_are_refused_in_one_line(changes, message):
    given = {"pipelines": ["csp-lda"], "n_permutations": 0} | changes
    with pytest.raises(ValueError, match=message):
        decode_trials(make_trials(), **given)


def test_trials_that_start_after_the_cue_are_refused():
    with pytest.raises(ValueError, match=r"trials must hold the cue and 0\.5 s, got 0\.5 to 3 s"):
        default_conditions(make_trials().crop(0.5, 3))


@pytest.mark.parametrize("name", [*CLASSICAL, "basenet+se"])
def test_a_saved_decoder_predicts_the_same(name, tmp_path):
    trials = make_trials(band=8, slow=40)
    condition = default_conditions(trials)[1 if name == "slow-signals" else 0]
    decoder = Decoder.fit(trials, name, condition, n_epochs=2)
    decoder.save(tmp_path / "decoder", cut={})
    table = Decoder.load(tmp_path / "decoder").predict(trials)
    pd.testing.assert_frame_equal(table, decoder.predict(trials))
    if name in CLASSICAL:
        assert (table.label == table.predicted).mean() > 0.9
    assert table.trial.tolist()[:11] == [*range(1, 11), 1]
    with pytest.raises(ValueError, match="channels must be those of the model, differing: C3, Cz"):
        decoder.predict(
            Trials(trials.X, trials.y, trials.metadata, ["Cz" if n == "C3" else n for n in NAMES], SFREQ, -1)
        )


def test_a_leak_before_the_cue_is_reported(imagery_scores):
    leaking = imagery_scores.copy(deep=True)
    leaking.accuracy.loc["csp-lda", "pre-cue"] = 0.99
    assert "no other score can be trusted" in " ".join(summarise_decoding(leaking))
    assert "no other score can be trusted" not in " ".join(summarise_decoding(imagery_scores))


def test_a_study_is_whole_and_knows_its_data(tmp_path):
    trials = make_trials(band=8)
    out = tmp_path / "study"
    given = dict(pipelines=["csp-lda", "slow-signals"], cut={"tmin": -1.0}, n_permutations=10)
    scores = decode_recording(trials, out, **given)
    stored = xr.load_dataset(out / "scores.nc", engine="h5netcdf")
    assert_allclose(stored.accuracy, scores.accuracy)
    rows = pd.read_csv(out / "scores.csv")
    assert len(rows) == 7  # slow signals have no score in the imagery band
    assert set(rows.verdict) == {IMAGERY, NOTHING}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "csp-lda: decodes imagery-band activity." in page
    assert "permutations of the labels within each run" in page
    assert {path.name for path in (out / "models").iterdir()} == {"csp-lda", "slow-signals"}
    with pytest.raises(ValueError, match="holds a study already"):
        decode_recording(trials, out, **given)
    with pytest.raises(ValueError, match="holds a study with another data"):
        decode_recording(make_trials(band=9), out, **given, resume=True)
