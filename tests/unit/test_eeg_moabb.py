"""MOABB's evaluations under its own names, on its own fake data."""

from typing import ClassVar

import mne
import numpy as np
import pytest
from moabb.analysis.plotting import score_plot
from moabb.datasets.fake import FakeDataset
from moabb.paradigms import LeftRightImagery, MotorImagery
from sklearn.base import BaseEstimator, ClassifierMixin

from neuroattn.eeg import MotorImageryClassifier, baseline, run_moabb

HANDS = ("left_hand", "right_hand")


def make_dataset(**changes):
    given = dict(event_list=HANDS, n_subjects=2, n_sessions=1, n_runs=1, duration=40, n_events=20, seed=0)
    return FakeDataset(**(given | changes))


@pytest.fixture(autouse=True)
def _quiet():
    with mne.utils.use_log_level("error"):
        yield


def test_attentions_and_a_riemannian_baseline_in_one_table_and_plot():
    names = ["basenet", "se", "eca", "tangent-space"]
    classifier = MotorImageryClassifier(n_epochs=1)
    results = run_moabb("WithinSession", names, [make_dataset()], classifier=classifier, n_splits=2)
    assert sorted(results.pipeline.unique()) == sorted(names)
    assert set(results.subject) == {"1", "2"}
    assert results.score.between(0, 1).all()
    assert results.groupby("pipeline").size().nunique() == 1
    figure, colours = score_plot(results)
    assert set(colours) == set(names)
    assert figure.axes[0].collections


class Recorded(ClassifierMixin, BaseEstimator):
    """Say how many trials were seen, in microvolt, and answer by chance."""

    seen: ClassVar[list] = []

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        Recorded.seen.append((len(X), float(np.std(X))))
        return self

    def predict_proba(self, X):
        return np.full((len(X), 2), 0.5)

    def decision_function(self, X):
        return np.zeros(len(X))

    def predict(self, X):
        return np.repeat(self.classes_[:1], len(X))


@pytest.mark.parametrize(("evaluation", "training"), [("CrossSession", 20), ("CrossSubject", 40)])
def test_schemes_are_those_of_moabb(evaluation, training):
    Recorded.seen.clear()
    results = run_moabb(evaluation, {"recorded": Recorded()}, [make_dataset(n_sessions=2)])
    assert len(results) == 4
    assert (results.score == 0.5).all()  # area under the curve of a constant
    assert {n for n, _ in Recorded.seen} == {training}


def test_results_are_kept_where_that_is_asked(tmp_path):
    Recorded.seen.clear()
    for _ in range(2):
        results = run_moabb(
            "CrossSession", {"recorded": Recorded()}, [make_dataset(n_sessions=2)], folder=tmp_path
        )
        assert len(results) == 4
    assert len(Recorded.seen) == 4
    assert list(tmp_path.rglob("*.hdf5"))


def test_named_pipelines_know_rate_and_channels(monkeypatch):
    given = {}

    class Scheme:
        def __init__(self, **options):
            given.update(options)

        def process(self, pipelines):
            given["pipelines"] = pipelines

    monkeypatch.setattr("moabb.evaluations.WithinSessionEvaluation", Scheme)
    paradigm = LeftRightImagery(resample=64)
    classifier = MotorImageryClassifier(n_epochs=3, batch_size=16)
    names = ["gct", "slow-signals"]
    run_moabb(
        "WithinSession", names, [make_dataset()], paradigm=paradigm, classifier=classifier, seed=4, n_jobs=1
    )
    network, control = given["pipelines"].values()
    expected = {"attention": "gct", "sfreq": 64.0, "band": None, "seed": 4, "n_epochs": 3, "batch_size": 16}
    assert network.get_params().items() >= expected.items()
    assert control.get_params()["lateraldifferences__ch_names"] == ["C3", "Cz", "C4"]
    assert control.get_params()["lateraldifferences__sfreq"] == 64
    assert (given["random_state"], given["n_jobs"], given["paradigm"]) == (4, 1, paradigm)
    assert classifier.attention is None


def test_faults_are_named():
    data = make_dataset()
    with pytest.raises(
        ValueError, match="evaluation must be one of 'WithinSession', 'CrossSession', 'CrossSubject'"
    ):
        run_moabb("cross", {"a": baseline("csp-lda", sfreq=128)}, [data])
    with pytest.raises(ValueError, match="pipelines 'lda' is unknown; nearest are 'csp-lda'"):
        run_moabb("WithinSession", ["lda"], [data])
    with pytest.raises(ValueError, match="datasets must hold at least one data set"):
        run_moabb("WithinSession", ["se"], [])
    with pytest.raises(
        ValueError, match=r"datasets must have one sampling rate, got 100, 128 Hz; .* resample="
    ):
        run_moabb(
            "WithinSession",
            ["se"],
            [data, make_dataset(sfreq=100)],
            paradigm=MotorImagery(events=list(HANDS), n_classes=2),
        )
