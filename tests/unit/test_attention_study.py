"""The study of attentions: what it trains, what it tests, and that it can be interrupted."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.testing import assert_allclose
from scipy import stats

from neuroattn.analyses import attention_study as study_module
from neuroattn.analyses import compare_attentions
from neuroattn.analyses.attention_study import (
    estimate_cost,
    paired_effects,
    plan_study,
    run_subject,
    score_trials,
)
from neuroattn.datasets import Trials
from neuroattn.eeg import BandPass, MotorImageryClassifier, baseline
from neuroattn.metrics import combine_datasets

SFREQ = 100.0
QUICK = MotorImageryClassifier(n_epochs=2, batch_size=8)


def make_trials(subjects=("a", "b"), seed=0, informative=True):
    """Sixteen trials a subject in two runs; "right" has more power at 12 Hz in the first channel from 0.5 s on."""
    rng = np.random.default_rng(seed)
    n = 16 * len(subjects)
    metadata = pd.DataFrame(
        {
            "subject": np.repeat(subjects, 16),
            "session": "1",
            "run": np.tile(np.repeat(["1", "2"], 8), len(subjects)),
        }
    )
    y = np.tile(["left", "right"], n // 2)
    X = rng.normal(size=(n, 3, 300))
    wave = np.sin(2 * np.pi * 12 * np.arange(300) / SFREQ)
    X[:, 0] += 2 * wave * ((y == "right") & informative)[:, None]
    return Trials(X, y, metadata, ["C3", "Cz", "C4"], sfreq=SFREQ, tmin=-0.5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("attention") / "study"
    data = {"one": make_trials(), "two": make_trials(("a", "c", "d"), seed=1)}
    study = compare_attentions(
        data, ["eca", "ge-theta"], out=out, n_seeds=2, seed=3, classifier=QUICK, command="x <y>"
    )
    return out, data, study


def test_every_subject_pipeline_and_seed_is_scored(finished):
    out, _, study = finished
    assert study.subject.values.tolist() == ["one/a", "one/b", "two/a", "two/c", "two/d"]
    assert study.pipeline.values.tolist() == [
        "basenet",
        "eca",
        "ge-theta",
        "tangent-space",
        "csp-lda",
        "slow-signals",
    ]
    assert study.role.values.tolist() == ["reference", *["attention"] * 2, *["baseline"] * 2, "control"]
    assert study.seed.values.tolist() == [3, 4]
    assert study.accuracy.isel(pipeline=slice(3)).notnull().all()
    assert study.accuracy.sel(seed=3).notnull().all()
    assert study.accuracy.sel(seed=4, pipeline="csp-lda").isnull().all()  # it draws nothing
    assert study.n_trials.values.tolist() == [16] * 5
    table = pd.read_csv(out / "scores.csv")
    assert len(table) == 5 * (3 * 2 + 3)
    assert {"subject", "pipeline", "seed", "accuracy", "kappa", "auc", "role"} <= set(table)
    assert_allclose(table.kappa, 2 * table.accuracy - 1, atol=1e-12)  # as many trials of each class


def test_accuracies_are_those_of_the_classifier_alone(finished):
    """Filtered, cut, trained and tested by hand."""
    _, data, study = finished
    trials = data["one"].select(subject="b")
    X = Trials(
        BandPass(8, 30, SFREQ).fit_transform(trials.X), trials.y, trials.metadata, trials.ch_names, SFREQ, -0.5
    ).crop(0.5, 2.5).X  # fmt: skip
    for name, make in {
        "eca": lambda: MotorImageryClassifier(
            "eca", sfreq=SFREQ, band=None, n_epochs=2, batch_size=8, seed=4
        ),
        "csp-lda": lambda: baseline("csp-lda", sfreq=SFREQ, band=None),
    }.items():
        right = 0
        for run in ("1", "2"):
            test = (trials.metadata.run == run).to_numpy()
            right += (make().fit(X[~test], trials.y[~test]).predict(X[test]) == trials.y[test]).sum()
        seed = 4 if name == "eca" else 3
        assert study.accuracy.sel(subject="one/b", pipeline=name, seed=seed) == right / 16
    assert study.accuracy.sel(pipeline="csp-lda", seed=3).mean() > 0.9  # the band holds the signal


def test_the_control_sees_what_the_filter_takes_away(tmp_path):
    """Slow lateral signals right after the cue, and nothing else."""
    trials = make_trials(informative=False)
    slow = np.zeros(300, "f4")
    slow[50:90] = 8 * np.hanning(40)
    shift = np.where(trials.y == "right", 1, -1)[:, None] * slow
    X = trials.X.copy()
    X[:, 0] -= shift
    X[:, 2] += shift
    data = Trials(X, trials.y, trials.metadata, trials.ch_names, SFREQ, -0.5)
    study = compare_attentions(
        data, [], out=tmp_path / "s", n_seeds=1, baselines=["tangent-space", "slow-signals"], classifier=QUICK
    )
    mean = study.accuracy.mean(("subject", "seed"))
    assert mean.sel(pipeline="slow-signals") > 0.8
    assert mean.sel(pipeline="tangent-space") < 0.75
    text = (tmp_path / "s/report.html").read_text()
    assert "What it reads is not imagery" in text


def test_an_interrupted_study_goes_on(finished, monkeypatch):
    out, data, study = finished
    options = {"out": out, "n_seeds": 2, "seed": 3, "classifier": QUICK, "command": "x <y>"}
    with pytest.raises(ValueError, match="holds a study already"):
        compare_attentions(data, ["eca", "ge-theta"], **options)
    with pytest.raises(ValueError, match="another n_seeds"):
        compare_attentions(data, ["eca", "ge-theta"], **options | {"n_seeds": 3}, resume=True)
    with pytest.raises(ValueError, match="another data"):
        compare_attentions(data | {"two": make_trials(seed=9)}, ["eca", "ge-theta"], **options, resume=True)
    lost = out / "fits/two/eca/c"
    before = xr.load_dataset(lost / "predictions.nc", engine="h5netcdf")
    (lost / "predictions.nc").unlink()
    lost.rmdir()
    done = []
    monkeypatch.setattr(
        study_module, "run_subject", lambda spec, data=None: done.append(spec) or run_subject(spec)
    )
    again = compare_attentions(data, ["eca", "ge-theta"], **options, resume=True)
    assert [spec.folder for spec in done] == [lost]
    xr.testing.assert_identical(xr.load_dataset(lost / "predictions.nc", engine="h5netcdf"), before)
    xr.testing.assert_allclose(again.accuracy, study.accuracy)


def test_the_report_says_what_was_found(finished):
    out, _, study = finished
    text = (out / "report.html").read_text()
    assert "x &lt;y&gt;" in text
    assert "neither" not in text
    for name in ("ge-theta", "two/d", "Stouffer", "8-30 Hz", "sign-flip"):
        assert name in text
    effect = 100 * study.difference.sel(dataset="two", pipeline="csp-lda").item()
    assert f"{effect:+.1f}" in text


def test_effects_are_paired_within_subjects(finished):
    _, _, study = finished
    delta = study.accuracy.mean("seed")
    delta = (
        (delta - delta.sel(pipeline="basenet"))
        .sel(pipeline="eca", subject=["two/a", "two/c", "two/d"])
        .values
    )
    effect = study.sel(dataset="two", pipeline="eca")
    assert_allclose(effect.difference, delta.mean())
    half = stats.t.ppf(0.975, 2) * delta.std(ddof=1) / np.sqrt(3)
    assert_allclose(effect.difference_ci, [delta.mean() - half, delta.mean() + half])
    assert effect.n == 3
    assert effect.smallest_p == 0.25
    assert np.isnan(study.difference.sel(pipeline="basenet")).all()


def test_seeds_do_not_count_as_subjects():
    """More seeds with the same scores leave interval and p as they are."""
    rng = np.random.default_rng(0)
    accuracy = rng.random((6, 2, 1))

    def effects(values):
        coords = {"pipeline": ["basenet", "eca"], "role": ("pipeline", ["reference", "attention"])}
        scores = xr.Dataset({"accuracy": (("subject", "pipeline", "seed"), values)}, coords)
        return paired_effects(scores.assign_coords(dataset_of=("subject", ["a"] * 6)))

    xr.testing.assert_allclose(effects(accuracy), effects(np.repeat(accuracy, 10, axis=2)))


def test_combination_over_data_sets_is_that_of_moabb():
    from moabb.analysis.meta_analysis import combine_effects, combine_pvalues

    difference, p, n = np.array([0.02, -0.01, 0.05]), np.array([0.04, 0.6, 0.01]), np.array([9, 14, 25])
    ours = combine_datasets(*(xr.DataArray(values, dims="dataset") for values in (difference, p, n)))
    one_sided = combine_pvalues(np.where(difference > 0, p / 2, 1 - p / 2), n)
    assert_allclose(ours.p, 2 * min(one_sided, 1 - one_sided))
    assert_allclose(ours.difference, combine_effects(difference, n))
    alone = combine_datasets(*(xr.DataArray(values[:1], dims="dataset") for values in (difference, p, n)))
    assert_allclose([alone.difference, alone.p], [0.02, 0.04])


def test_nested_tuning_sees_training_trials_only(tmp_path, monkeypatch):
    """Every row that is fitted or scored while options are chosen belongs to the training part of its fold."""
    seen = []
    fit_all = study_module.fit_all

    def spying(estimator, X, y, runs):
        seen.append([rows for rows, _, _ in runs])
        return fit_all(estimator, X, y, runs)

    monkeypatch.setattr(study_module, "fit_all", spying)
    study = compare_attentions(
        make_trials(),
        ["se"],
        out=tmp_path / "s",
        n_seeds=1,
        baselines=["csp-lda"],
        tuning="nested",
        classifier=QUICK,
    )
    runs = make_trials().metadata
    inner = [rows for call in seen for rows in call if len(rows) < 8]
    assert len(seen) == 2 * 3 * 3  # subjects, pipelines: two choices, then the fit
    assert all(runs.loc[rows].drop_duplicates(["subject", "run"]).shape[0] == 1 for rows in inner)
    stored = xr.load_dataset(tmp_path / "s/fits/recording/se/a/predictions.nc", engine="h5netcdf")
    chosen = json.loads(stored.attrs["chosen"])
    assert len(chosen) == 2
    assert all(options["attention_options"]["reduction"] in (2, 4, 8) for options in chosen)
    assert "cross-validation within the training trials" in (tmp_path / "s/report.html").read_text()
    assert study.accuracy.notnull().all()


def test_options_of_the_paper_are_labelled(tmp_path):
    trials = make_trials()
    plan = plan_study(
        {"bcic2b": trials}, ["cbam"], protocol="leave-one-run-out", n_seeds=1, seed=0, tuning="paper", baselines=[],
        classifier=QUICK, window=None,
    )  # fmt: skip
    specs = plan.specs(tmp_path, "bcic2b", tmp_path)
    assert [spec.candidates for spec in specs[:2]] == [
        [{}],
        [{"attention_options": {"reduction": 1, "kernel_size": 15}}],
    ]
    study = compare_attentions(
        {"bcic2b": trials},
        ["cbam"],
        out=tmp_path / "s",
        n_seeds=1,
        baselines=[],
        tuning="paper",
        classifier=QUICK,
    )
    assert study.sizes["pipeline"] == 2
    assert "test session in view" in (tmp_path / "s/report.html").read_text()


def test_networks_of_braindecode_have_the_same_budget(tmp_path):
    study = compare_attentions(
        make_trials(), [], out=tmp_path / "s", n_seeds=1, baselines=["ShallowFBCSPNet"], classifier=QUICK
    )
    assert study.accuracy.notnull().all()
    assert study.role.values.tolist() == ["reference", "baseline"]


def test_broadband_studies_carry_a_warning(tmp_path):
    compare_attentions(
        make_trials(("a",)), [], out=tmp_path / "s", n_seeds=1, baselines=["csp-lda"],
        classifier=MotorImageryClassifier(n_epochs=1, band=(0.5, 30)),
    )  # fmt: skip
    text = (tmp_path / "s/report.html").read_text()
    assert "no accuracy here shows imagery by itself" in text
    assert "one subject" in text


def test_a_fit_is_decided_by_what_travels(finished, tmp_path):
    """Pickled, as a worker gets it."""
    out, data, _ = finished
    options = {"protocol": "leave-one-run-out", "n_seeds": 2, "seed": 3, "tuning": "fixed", "baselines": []}
    plan = plan_study(data, ["eca"], **options, classifier=QUICK, window=None)
    spec = plan.specs(tmp_path, "two", out / "trials/two")[3]
    assert len(pickle.dumps(spec)) < 4000
    run_subject(pickle.loads(pickle.dumps(spec)))
    ours, theirs = (
        xr.load_dataset(root / "fits/two/eca/c/predictions.nc", engine="h5netcdf") for root in (tmp_path, out)
    )
    xr.testing.assert_identical(ours, theirs)


def test_scores_of_several_classes():
    labels = np.array(["a", "b", "c", "c"])
    probability = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.1, 0.2, 0.7], [0.1, 0.1, 0.8]])
    scores = score_trials(labels, probability, np.array(["a", "b", "c"]))
    assert scores["accuracy"] == 0.75
    assert_allclose(scores["kappa"], (0.75 - 0.4375) / (1 - 0.4375))
    assert np.isnan(scores["auc"])


def test_cost_is_known_before():
    plan = plan_study(
        make_trials(), ["se", "eca"], protocol="leave-one-run-out", n_seeds=5, seed=0, tuning="fixed",
        baselines=["csp-lda", "EEGNet"], classifier=QUICK, window=(0.5, 2.5),
    )  # fmt: skip
    cost = estimate_cost(plan).iloc[0]
    assert (cost.subjects, cost.folds, cost.n_train, cost.networks) == (2, 4, 8, 4 * 4 * 5)
    assert cost.hours > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attentions": ["sea"]}, "attentions 'sea' is unknown; nearest are"),
        ({"baselines": ["csp"]}, "baselines 'csp' is unknown; nearest are"),
        ({"tuning": "best"}, "tuning must be one of"),
        ({"tuning": "paper"}, "data must be one of 'bcic2a'"),
        ({"protocol": "kfold"}, "protocol must be one of"),
        ({"n_seeds": 0}, "n_seeds must be at least 1, got 0"),
        ({"window": (0.5, 9.0)}, "crop must lie within -0.5 to 2.5 s, got 0.5 to 9 s"),
        ({"classifier": MotorImageryClassifier(band=(8, 60))}, "band must have 0 < low < high < 50 Hz"),
        ({"classifier": MotorImageryClassifier(n_epochs=0)}, "n_epochs must be at least 1, got 0"),
        ({"window": (0.5, 0.8)}, "n_times must be at least"),
        ({"data": {}}, "data must hold at least one data set, got none"),
    ],
)
def test_faults_are_named_before_anything_is_written(tmp_path, changes, message):
    options = {"data": make_trials(), "attentions": ["se"], "classifier": QUICK, "n_seeds": 1, **changes}
    with pytest.raises(ValueError, match=message):
        compare_attentions(options.pop("data"), options.pop("attentions"), out=tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()
