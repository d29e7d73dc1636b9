"""Compare attentions on EEG data sets: every subject, attention and seed in one call that can be resumed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from sklearn.model_selection import GroupKFold, StratifiedKFold

from neuroattn._checks import check_option, check_range
from neuroattn.analyses.attention_report import write_attention_report
from neuroattn.analyses.encoder_study import open_study
from neuroattn.analyses.fits import Progress
from neuroattn.analyses.grid import Job, check_workers, run_fits
from neuroattn.analyses.report import installed_versions
from neuroattn.attention import GATES
from neuroattn.datasets import Trials
from neuroattn.datasets.eeg import band_filter
from neuroattn.eeg import (
    BandPass,
    MotorImageryClassifier,
    TrialFold,
    baseline,
    paper_settings,
    split_trials,
    train_together,
)
from neuroattn.eeg.baselines import BASELINES
from neuroattn.eeg.protocols import PROTOCOLS
from neuroattn.metrics import combine_datasets, group_summary
from neuroattn.results import provenance, replacing, write_netcdf

WITHOUT = "basenet"  # the network without attention, to which all are compared
CONTROL = "slow-signals"
TUNINGS = ("fixed", "nested", "paper")
PAPER_DATASETS = ("bcic2a", "bcic2b", "hgd", "bcic3")
INNER_FOLDS = 3

# What "nested" chooses among: three settings for every pipeline.
_REDUCTIONS = [{"attention_options": {"reduction": r}} for r in (2, 4, 8)]
_RATES = [{"learning_rate": rate} for rate in (5e-4, 1e-3, 2e-3)]
_CANDIDATES: dict[str, list[dict[str, Any]]] = {
    **dict.fromkeys(("se", "se-l2", "gsop", "fca", "ge-theta-plus", "srm-cross", "catlite"), _REDUCTIONS),
    "eca": [{"attention_options": {"kernel_size": k}} for k in (3, 9, 15)],
    "encnet": [{"attention_options": {"n_codewords": k}} for k in (2, 4, 8)],
    "cbam": [
        {"attention_options": {"reduction": r, "kernel_size": k}} for r, k in ((2, 15), (8, 7), (8, 15))
    ],
    "cat": [{"attention_options": {"reduction": r, "kernel_size": k}} for r, k in ((2, 9), (4, 3), (8, 7))],
    "tangent-space": [{"logisticregression__C": c} for c in (0.1, 1.0, 10.0)],
    "slow-signals": [{"logisticregression__C": c} for c in (0.1, 1.0, 10.0)],
    "csp-lda": [{"csp__n_components": n} for n in (4, 6, 8)],
}


def compare_attentions(
    data: Trials | Mapping[str, Trials],
    attentions: Sequence[str] = tuple(GATES),
    *,
    out: str | Path,
    protocol: str = "leave-one-run-out",
    n_seeds: int = 5,
    seed: int = 0,
    tuning: str = "fixed",
    baselines: Sequence[str] = BASELINES,
    classifier: MotorImageryClassifier | None = None,
    window: tuple[float, float] | None = None,
    resume: bool = False,
    workers: int = 0,
    scheduler: str | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> xr.Dataset:
    """Train BaseNet with and without attention on every subject and seed, and test what attention changes.

    The primary result is the difference to the network without attention, paired within subjects: seeds are averaged
    within each subject, subjects are the unit of inference, intervals are Student's t, and p-values flip the signs of
    whole subjects, corrected over the attentions by the largest t. Data sets are combined by :func:`combine_datasets`.

    Parameters
    ----------
    data : Trials, or mapping of name to Trials
        Broadband trials: the filter is a part of the study. Let them start before the window, so that the filter has
        room.
    attentions : sequence of str, default all of :data:`neuroattn.attention.GATES`
        The network without attention, "basenet", is always there.
    out : str or Path
        Folder for ``study.nc``, ``scores.csv``, ``report.html``, and the predictions of every fit.
    protocol : {"leave-one-run-out", "train-to-evaluation", "leave-one-subject-out"}
        See :func:`neuroattn.eeg.split_trials`.
    n_seeds, seed : int, default 5, 0
        Networks are trained with seeds ``seed .. seed + n_seeds - 1``.
    tuning : {"fixed", "nested", "paper"}, default "fixed"
        "fixed": the default options of each attention, for all subjects. "nested": the best of three settings in
        cross-validation within the training trials, for every pipeline alike. "paper": the options of
        :func:`neuroattn.eeg.paper_settings`, which were chosen with the test session in view; names of data sets must
        then be those of the paper.
    baselines : sequence of str, default ("tangent-space", "csp-lda", "slow-signals")
        Names of :func:`neuroattn.eeg.baseline`, or of networks of :mod:`braindecode.models`, which are trained as
        BaseNet is. "slow-signals" is the control: it alone sees unfiltered trials from the cue on.
    classifier : MotorImageryClassifier, optional
        Settings of all networks; its band (default 8 to 30 Hz) is that of all pipelines but the control. Its seed,
        attention, model and sampling rate are replaced.
    window : (float, float), optional
        Seconds after the cue that pipelines see; by default from 0.5 s to the end of the trials.
    resume : bool, default False
        Continue in ``out``: subjects that are finished are not trained again.
    workers : int, default 0
        Processes of a local dask cluster.
    scheduler : str, optional
        Address of a dask scheduler whose workers see ``out``.
    progress : callable, optional
        Called with a stage, the steps done and of all steps.
    command : str
        Shown in the report.

    Returns
    -------
    Dataset
        ``accuracy``, ``kappa`` and, with two classes, ``auc`` (subject, pipeline, seed), NaN where a pipeline has no
        seeds; ``difference``, ``difference_ci``, ``p``, ``p_fwe``, ``smallest_p`` and ``n`` (dataset, pipeline), each
        against "basenet"; ``combined_difference`` and ``combined_p`` (pipeline). ``role`` (pipeline) is "reference",
        "attention", "baseline" or "control"; p-values are corrected within a role. Subjects are labelled
        ``DATASET/SUBJECT`` and have coordinates ``dataset`` and ``n_trials``.

    Raises
    ------
    ValueError
        If a name is unknown, a data set does not fit the protocol or the window, or ``out`` holds another study.

    Examples
    --------
    >>> import tempfile
    >>> rng = np.random.default_rng(0)
    >>> metadata = pd.DataFrame({"subject": np.repeat(["a", "b"], 16), "session": "1", "run": np.tile([1, 2], 16)})
    >>> trials = Trials(rng.normal(size=(32, 3, 300)), rng.permutation(["left", "right"] * 16), metadata,
    ...                 ["C3", "Cz", "C4"], sfreq=100, tmin=0)
    >>> study = compare_attentions(trials, ["eca"], out=Path(tempfile.mkdtemp()) / "study", n_seeds=2,
    ...                            baselines=["csp-lda"], classifier=MotorImageryClassifier(n_epochs=2))
    >>> study.accuracy.sizes["pipeline"], study.difference.dims
    (3, ('dataset', 'pipeline'))
    """
    started = time.monotonic()
    report_step = progress or (lambda stage, done, total: None)
    check_workers(workers, scheduler)
    out = Path(out)
    plan = plan_study(
        data, attentions, protocol=protocol, n_seeds=n_seeds, seed=seed, tuning=tuning, baselines=baselines,
        classifier=classifier, window=window,
    )  # fmt: skip
    open_study(out, plan.config, resume)
    jobs = []
    for name, trials in plan.data.items():
        folder = out / "trials" / quote(name, safe="")
        store_trials(folder, trials, plan)
        jobs += [Job(spec) for spec in plan.specs(out, name, folder)]
    run_fits(
        jobs,
        run=run_subject,
        workers=workers,
        scheduler=scheduler,
        progress=lambda done, total: report_step("fits", done, total),
    )
    report_step("scores", 0, 1)
    scores = collect_scores(jobs, plan)
    study = scores.merge(paired_effects(scores)).assign_attrs(
        provenance(seed, plan.config),
        n_classes=plan.n_classes,
        seconds=time.monotonic() - started,
        versions=json.dumps(installed_versions("braindecode", "mne", "pyriemann", "scikit-learn")),
    )
    write_netcdf(out / "study.nc", study)
    with replacing(out / "scores.csv") as temporary:
        table = study[[name for name in ("accuracy", "kappa", "auc") if name in study]]
        table.to_dataframe().dropna(subset="accuracy").reset_index().to_csv(temporary, index=False)
    write_attention_report(out / "report.html", study, command=command)
    report_step("scores", 1, 1)
    return study


@dataclass(frozen=True)
class StudyPlan:
    """A study that has been checked: what is trained on what."""

    data: dict[str, Trials]
    pipelines: dict[str, str]
    classifier: MotorImageryClassifier
    windows: dict[str, tuple[float, float]]
    config: dict[str, Any]
    n_classes: int

    def specs(self, out: Path, name: str, folder: Path) -> list[SubjectSpec]:
        """Return the fits of one data set, subject by subject."""
        tuning, first = self.config["tuning"], self.config["seed"]
        seeds = tuple(range(first, first + self.config["n_seeds"]))
        specs = []
        for subject in self.data[name].metadata.subject.unique():
            for pipeline in self.pipelines:
                candidates: list[dict[str, Any]] = [{}]
                if tuning == "nested":
                    candidates = _CANDIDATES.get(pipeline, _RATES)
                elif tuning == "paper" and pipeline in GATES:
                    candidates = [
                        {"attention_options": paper_settings(name, pipeline).model["attention_options"]}
                    ]
                specs.append(
                    SubjectSpec(
                        folder=out / "fits" / quote(name, safe="") / pipeline / quote(subject, safe=""),
                        trials=folder,
                        pipeline=pipeline,
                        subject=subject,
                        protocol=self.config["protocol"],
                        seeds=seeds[:1] if pipeline in BASELINES else seeds,
                        params=self.classifier.get_params(),
                        candidates=candidates,
                    )
                )
        return specs


def plan_study(
    data: Trials | Mapping[str, Trials],
    attentions: Sequence[str],
    *,
    protocol: str,
    n_seeds: int,
    seed: int,
    tuning: str,
    baselines: Sequence[str],
    classifier: MotorImageryClassifier | None,
    window: tuple[float, float] | None,
) -> StudyPlan:
    """Check the arguments of :func:`compare_attentions` before anything is written."""
    import braindecode.models

    check_option("protocol", protocol, PROTOCOLS)
    check_option("tuning", tuning, TUNINGS)
    check_range("n_seeds", n_seeds, 1)
    for name in attentions:
        check_option("attentions", name, GATES)
    for name in baselines:
        check_option("baselines", name, (*BASELINES, *braindecode.models.__all__))
    named = {"recording": data} if isinstance(data, Trials) else dict(data)
    if not named:
        raise ValueError("data must hold at least one data set, got none")
    settings = MotorImageryClassifier() if classifier is None else clone(classifier)
    settings.set_params(attention=None, attention_options=None, model=None, sfreq=None)
    windows = {}
    for name, trials in named.items():
        if tuning == "paper":
            check_option("data", name, PAPER_DATASETS)
        split_trials(trials.metadata, protocol)
        end = trials.tmin + trials.X.shape[2] / trials.sfreq
        windows[name] = window if window is not None else (max(0.5, trials.tmin), end)
        inside = trials.crop(*windows[name])
        if settings.band is not None:
            low, high = settings.band
            band_filter(low, high, trials.sfreq)
        for pipeline in (WITHOUT, *attentions, *(name for name in baselines if name not in BASELINES)):
            probe = build_pipeline(pipeline, trials.sfreq, trials.ch_names, settings.get_params())
            probe.check_network(*inside.X.shape[1:], len(np.unique(trials.y)))
    roles = {WITHOUT: "reference"} | dict.fromkeys(attentions, "attention")
    roles |= {name: "control" if name == CONTROL else "baseline" for name in baselines}
    if CONTROL in roles:
        for trials in named.values():
            baseline(CONTROL, sfreq=trials.sfreq, ch_names=trials.ch_names).fit(
                trials.X[:2].astype(np.float64) + np.arange(2)[:, None, None], [0, 1]
            )
    config = {
        "data": {name: fingerprint(trials) for name, trials in named.items()},
        "attentions": list(attentions),
        "baselines": list(baselines),
        "protocol": protocol,
        "n_seeds": n_seeds,
        "seed": seed,
        "tuning": tuning,
        "window": {name: list(seconds) for name, seconds in windows.items()},
        "classifier": settings.get_params(),
    }
    n_classes = max(len(np.unique(trials.y)) for trials in named.values())
    return StudyPlan(named, roles, settings, windows, config, n_classes)


def fingerprint(trials: Trials) -> str:
    """Return a hash by which a resumed study knows its data.

    Examples
    --------
    >>> metadata = pd.DataFrame({"subject": ["1", "1"], "session": "1", "run": "1"})
    >>> one = Trials(np.random.default_rng(0).normal(size=(2, 1, 9)), [0, 1], metadata, ["C3"], sfreq=100, tmin=0)
    >>> fingerprint(one) == fingerprint(Trials(2 * one.X, one.y, metadata, ["C3"], sfreq=100, tmin=0))
    False
    """
    digest = hashlib.sha256(np.ascontiguousarray(trials.X).tobytes())
    digest.update(repr((trials.y.tolist(), trials.ch_names, trials.sfreq, trials.tmin)).encode())
    digest.update(trials.metadata[["subject", "session", "run"]].to_csv().encode())
    return digest.hexdigest()[:16]


def store_trials(folder: Path, trials: Trials, plan: StudyPlan) -> None:
    """Write what the fits of a data set read: filtered trials in the window, unfiltered ones from the cue on.

    No filter learns from trials, so that one pass over all of them is as good as one in each fold.
    """
    if folder.is_dir():
        return
    name = next(name for name, known in plan.data.items() if known is trials)
    band, causal = plan.classifier.band, plan.classifier.causal
    X = trials.X if band is None else BandPass(*band, trials.sfreq, causal=causal).fit_transform(trials.X)
    filtered = Trials(X, trials.y, trials.metadata, trials.ch_names, trials.sfreq, trials.tmin)
    end = trials.tmin + trials.X.shape[2] / trials.sfreq
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
        temporary.mkdir()
        np.save(temporary / "filtered.npy", filtered.crop(*plan.windows[name]).X)
        np.save(temporary / "broadband.npy", trials.crop(max(0.0, trials.tmin), end).X)
        trials.metadata[["subject", "session", "run"]].assign(label=trials.y.astype(str)).to_csv(
            temporary / "trials.csv", index=False
        )
        (temporary / "signal.json").write_text(
            json.dumps({"sfreq": trials.sfreq, "ch_names": list(trials.ch_names)})
        )


@dataclass(frozen=True, kw_only=True)
class SubjectSpec:
    """Everything that decides the fits of one pipeline whose test trials are those of one subject.

    Parameters
    ----------
    folder : Path
        Written whole or not at all.
    trials : Path
        Folder of :func:`store_trials`.
    pipeline, subject, protocol : str
    seeds : tuple of int
        One where the pipeline draws nothing.
    params : dict
        Of the networks.
    candidates : list of dict
        Settings to choose among within the training trials; one leaves no choice.
    """

    folder: Path
    trials: Path
    pipeline: str
    subject: str
    protocol: str
    seeds: tuple[int, ...]
    params: dict[str, Any] = field(default_factory=dict)
    candidates: list[dict[str, Any]] = field(default_factory=lambda: [{}])


def run_subject(spec: SubjectSpec, data: None = None) -> None:
    """Fit one pipeline on all folds of a subject with all seeds, and store what it predicts of the test trials.

    A pure function of ``spec``: it may be killed and run again, here or on another machine that sees the same files.
    """
    if spec.folder.is_dir():
        return
    stored = "broadband.npy" if spec.pipeline == CONTROL else "filtered.npy"
    X = np.load(spec.trials / stored, mmap_mode="r")
    table = pd.read_csv(spec.trials / "trials.csv", dtype=str)
    signal = json.loads((spec.trials / "signal.json").read_text())
    y = table.label.to_numpy()
    folds = [fold for fold in split_trials(table, spec.protocol) if fold.subject == spec.subject]
    estimator = build_pipeline(spec.pipeline, signal["sfreq"], signal["ch_names"], spec.params)
    chosen = [choose(estimator, spec, X, y, table, fold) for fold in folds]
    classes = np.unique(y)
    runs = [(fold, options, seed) for fold, options in zip(folds, chosen, strict=True) for seed in spec.seeds]
    fitted = fit_all(estimator, X, y, [(fold.train, options, seed) for fold, options, seed in runs])
    rows = np.concatenate([fold.test for fold in folds])
    probability = np.zeros((len(spec.seeds), len(rows), len(classes)))
    start = 0
    for i, fold in enumerate(folds):
        place = slice(start, start := start + len(fold.test))
        for s in range(len(spec.seeds)):
            model = fitted[i * len(spec.seeds) + s]
            columns = np.searchsorted(classes, model.classes_)
            probability[s, place][:, columns] = model.predict_proba(np.asarray(X[fold.test]))
    result = xr.Dataset(
        {"probability": (("seed", "trial", "class"), probability)},
        coords={
            "seed": list(spec.seeds),
            "trial": rows,
            "label": ("trial", y[rows].astype(str)),
            "fold": (
                "trial",
                np.repeat([fold.held_out for fold in folds], [len(fold.test) for fold in folds]),
            ),
            "class": classes.astype(str),
        },
        attrs={"chosen": json.dumps(chosen), "n_train": [len(fold.train) for fold in folds]},
    )
    spec.folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(spec.folder) as temporary:
        temporary.mkdir()
        write_netcdf(temporary / "predictions.nc", result)


def build_pipeline(name: str, sfreq: float, ch_names: Sequence[str], params: Mapping[str, Any]) -> Any:
    """Return the estimator of a pipeline for trials that are filtered already.

    Examples
    --------
    >>> build_pipeline("eca", 250, ["C3", "C4"], {}).attention
    'eca'
    """
    if name in BASELINES:
        return baseline(name, sfreq=sfreq, band=None, ch_names=ch_names)
    # What trials are filtered by is done; what the filter needs ahead of the window lies before it.
    network = MotorImageryClassifier(**{**params, "sfreq": sfreq, "band": None, "lead_seconds": 0.0})
    if name in GATES:
        return network.set_params(attention=name)
    return network if name == WITHOUT else network.set_params(model=name)


def fit_all(
    estimator: Any,
    X: NDArray[Any],
    y: NDArray[Any],
    runs: Sequence[tuple[NDArray[np.intp], dict[str, Any], int]],
) -> list[Any]:
    """Fit an estimator to rows with options and a seed, networks with the same options together."""
    import mne

    fitted: list[Any] = [None] * len(runs)
    groups: dict[str, list[int]] = {}
    for i, (_, options, _) in enumerate(runs):
        groups.setdefault(json.dumps(options, sort_keys=True), []).append(i)
    sets = {id(rows): np.asarray(X[rows]) for rows, _, _ in runs}
    for members in groups.values():
        one = clone(estimator).set_params(**runs[members[0]][1])
        signals = [sets[id(runs[i][0])] for i in members]
        labels = [y[runs[i][0]] for i in members]
        if isinstance(one, MotorImageryClassifier):
            done = train_together(one, signals, labels, seeds=[runs[i][2] for i in members])
        else:
            with mne.use_log_level("error"):
                done = [clone(one).fit(a, b) for a, b in zip(signals, labels, strict=True)]
        for i, model in zip(members, done, strict=True):
            fitted[i] = model
    return fitted


def choose(
    estimator: Any, spec: SubjectSpec, X: NDArray[Any], y: NDArray[Any], table: pd.DataFrame, fold: TrialFold
) -> dict[str, Any]:
    """Return the setting that is best within the training trials, for all seeds."""
    if len(spec.candidates) == 1:
        return spec.candidates[0]
    train = fold.train
    keys = ["subject"] if spec.protocol == "leave-one-subject-out" else ["subject", "session", "run"]
    groups = table.loc[train, keys].agg("\t".join, axis=1).to_numpy()
    n_groups = len(np.unique(groups))
    if n_groups > 1:
        inner = GroupKFold(min(INNER_FOLDS, n_groups)).split(train, groups=groups)
    else:
        inner = StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=0).split(train, y[train])
    halves = [(train[a], train[b]) for a, b in inner]
    fits = [(a, options, spec.seeds[0]) for options in spec.candidates for a, _ in halves]
    models = fit_all(estimator, X, y, fits)
    tests = [b for _ in spec.candidates for _, b in halves]
    scores = [float(np.mean(m.predict(np.asarray(X[b])) == y[b])) for m, b in zip(models, tests, strict=True)]
    means = np.reshape(scores, (len(spec.candidates), len(halves))).mean(1)
    return spec.candidates[int(means.argmax())]


def collect_scores(jobs: Sequence[Job], plan: StudyPlan) -> xr.Dataset:
    """Score the predictions of every subject, pipeline and seed over the trials of all folds."""
    rows: list[dict[str, Any]] = []
    counts: dict[str, tuple[str, int]] = {}
    names = {quote(name, safe=""): name for name in plan.data}
    for job in jobs:
        spec: Any = job.spec
        name = names[spec.trials.name]
        predictions = xr.load_dataset(spec.folder / "predictions.nc", engine="h5netcdf")
        labels, classes = predictions["label"].values.astype(str), predictions["class"].values.astype(str)
        subject = f"{name}/{spec.subject}"
        counts[subject] = (name, len(labels))
        for seed in predictions.seed.values:
            probability = predictions.probability.sel(seed=seed).values
            row = {"subject": subject, "pipeline": spec.pipeline, "seed": int(seed)}
            rows.append(row | score_trials(labels, probability, classes))
    table = pd.DataFrame(rows).set_index(["subject", "pipeline", "seed"]).dropna(axis=1, how="all")
    scores = xr.Dataset.from_dataframe(table).reindex(subject=list(counts), pipeline=list(plan.pipelines))
    return scores.assign_coords(
        dataset_of=("subject", [name for name, _ in counts.values()]),
        n_trials=("subject", [n for _, n in counts.values()]),
        role=("pipeline", list(plan.pipelines.values())),
    )


def score_trials(
    labels: NDArray[np.str_], probability: NDArray[np.float64], classes: NDArray[np.str_]
) -> dict[str, float]:
    """Return accuracy, kappa and, for two classes that both occur, the area under the ROC curve.

    Examples
    --------
    >>> score_trials(np.array(["a", "b"]), np.array([[0.9, 0.1], [0.6, 0.4]]), np.array(["a", "b"]))
    {'accuracy': 0.5, 'kappa': 0.0, 'auc': 1.0}
    """
    predicted = classes[probability.argmax(1)]
    both = len(classes) == 2 and len(np.unique(labels)) == 2
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "kappa": float(cohen_kappa_score(labels, predicted, labels=classes)),
        "auc": float(roc_auc_score(labels == classes[1], probability[:, 1])) if both else float("nan"),
    }


def paired_effects(scores: xr.Dataset) -> xr.Dataset:
    """Compare the accuracy of every pipeline with that of the network without attention.

    Parameters
    ----------
    scores : Dataset, dims (subject, pipeline, seed)
        ``accuracy``, and coordinates ``dataset_of`` and ``role``.

    Returns
    -------
    Dataset, dims (dataset, pipeline, bound)
        See :func:`compare_attentions`.

    Examples
    --------
    >>> accuracy = [[[0.6, 0.6], [0.7, 0.6]], [[0.5, 0.7], [0.7, 0.8]], [[0.5, 0.5], [0.6, 0.6]]]
    >>> scores = xr.Dataset({"accuracy": (("subject", "pipeline", "seed"), accuracy)},
    ...                     {"pipeline": ["basenet", "eca"], "role": ("pipeline", ["reference", "attention"]),
    ...                      "dataset_of": ("subject", ["a"] * 3)})
    >>> effect = paired_effects(scores).sel(dataset="a", pipeline="eca")
    >>> effect.difference.item().__round__(3), effect.p_fwe.item(), effect.smallest_p.item()
    (0.1, 0.25, 0.25)
    """
    accuracy = scores["accuracy"].mean("seed")
    delta = (accuracy - accuracy.sel(pipeline=WITHOUT)).reset_coords(drop=True)
    others = scores["pipeline"].values[scores["role"].values != "reference"]
    tables = []
    datasets = list(dict.fromkeys(scores["dataset_of"].values.tolist()))
    for name in datasets:
        own = delta.isel(subject=np.flatnonzero(scores["dataset_of"].values == name)).rename(pipeline="roi")
        families = []
        for role in ("attention", "baseline", "control"):
            members = scores["pipeline"].values[scores["role"].values == role]
            if len(members):
                families.append(group_summary(own.sel(roi=members)))
        tables.append(xr.concat(families, "roi").rename(roi="pipeline"))
    table = xr.concat(tables, xr.DataArray(datasets, dims="dataset", name="dataset"))
    table = table.rename(mean="difference", interval="difference_ci").drop_vars("p_fdr")
    combined = combine_datasets(table["difference"], table["p"], table["n"])
    table["combined_difference"], table["combined_p"] = combined["difference"], combined["p"]
    table.attrs = {}
    return table.sel(pipeline=others).reindex(pipeline=scores["pipeline"].values)


def estimate_cost(plan: StudyPlan) -> pd.DataFrame:
    """Estimate how many networks a study trains and how long that takes, from a pass of one network each.

    Returns
    -------
    DataFrame, one row a data set
        ``dataset``, ``subjects``, ``folds``, ``n_train`` (trials of the first fold), ``networks`` and ``hours``, in
        this process on this machine.
    """
    rows = []
    for name, trials in plan.data.items():
        folds = split_trials(trials.metadata, plan.config["protocol"])
        n_networks = sum(pipeline not in BASELINES for pipeline in plan.pipelines)
        settings = max(1, 3 * INNER_FOLDS) if plan.config["tuning"] == "nested" else 0
        trainings = len(folds) * n_networks * (plan.config["n_seeds"] + settings)
        cropped = trials.crop(*plan.windows[name])
        train = folds[0].train
        classifier = build_pipeline(WITHOUT, trials.sfreq, trials.ch_names, plan.classifier.get_params())
        start = time.perf_counter()
        train_together(classifier.set_params(n_epochs=1, n_warmup=0), [cropped.X[train]], [trials.y[train]])
        seconds = (time.perf_counter() - start) * plan.classifier.n_epochs * trainings
        rows.append(
            {
                "dataset": name,
                "subjects": trials.metadata.subject.nunique(),
                "folds": len(folds),
                "n_train": len(train),
                "networks": trainings,
                "hours": seconds / 3600,
            }
        )
    return pd.DataFrame(rows)
