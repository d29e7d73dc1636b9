"""MOABB benchmarks of networks and baselines in one call."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.base import BaseEstimator, clone

from neuroattn._checks import check_option
from neuroattn._extras import import_extra
from neuroattn.attention import GATES
from neuroattn.eeg.baselines import BASELINES, baseline
from neuroattn.eeg.classifier import MotorImageryClassifier

EVALUATIONS = ("WithinSession", "CrossSession", "CrossSubject")


def run_moabb(
    evaluation: str,
    pipelines: Mapping[str, BaseEstimator] | Sequence[str],
    datasets: Sequence[Any],
    *,
    paradigm: Any | None = None,
    classifier: MotorImageryClassifier | None = None,
    folder: str | Path | None = None,
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Evaluate pipelines with MOABB [1]_.

    Parameters
    ----------
    evaluation : {"WithinSession", "CrossSession", "CrossSubject"}
        MOABB's own schemes. Its "CrossSession" tests every session once, in both directions; it is not the
        training-to-evaluation split of a competition, for which see :func:`split_trials`.
    pipelines : dict of str to estimator, or sequence of str
        Estimators of trials (trial, channel, time) in microvolt; or names: those of
        :data:`neuroattn.attention.GATES` and "basenet" stand for ``classifier`` with that attention or none, those of
        :func:`baseline` for a baseline. Named pipelines do not filter: the paradigm does.
    datasets : sequence of MOABB data sets
    paradigm : MOABB paradigm, optional
        By default ``LeftRightImagery()``, 8 to 32 Hz from the cue on.
    classifier : MotorImageryClassifier, optional
        Settings of named networks; its attention, band, sampling rate and seed are replaced.
    folder : str or Path, optional
        Where MOABB keeps results; there, what has been evaluated is not evaluated again. By default nothing is kept.
    seed : int, default 0
        Of MOABB's folds and of named networks.
    **options
        Further arguments of MOABB's evaluation, such as ``n_jobs``.

    Returns
    -------
    DataFrame
        MOABB's results, one row a pipeline and fold or session: ``score`` (area under the ROC curve for two
        classes, accuracy for more), ``subject``, ``session``, ``dataset``, ``pipeline``, ``time`` and others. They go
        into ``moabb.analysis.plotting.score_plot`` and ``moabb.analysis.meta_analysis``.

    References
    ----------
    .. [1] Jayaram & Barachant (2018). MOABB: trustworthy algorithm benchmarking for BCIs. J. Neural Eng. 15.

    Examples
    --------
    >>> import mne
    >>> from moabb.datasets.fake import FakeDataset
    >>> with mne.use_log_level("error"):
    ...     data = FakeDataset(["left_hand", "right_hand"], n_subjects=1, n_sessions=1, n_runs=1, duration=40,
    ...                        n_events=20, seed=0)
    ...     results = run_moabb("WithinSession", ["tangent-space"], [data])
    >>> results[["pipeline", "subject"]].drop_duplicates().values.tolist()
    [['tangent-space', '1']]
    """
    check_option("evaluation", evaluation, EVALUATIONS)
    evaluations = import_extra("moabb.evaluations", "moabb", "run_moabb")
    if not datasets:
        raise ValueError("datasets must hold at least one data set, got none")
    if paradigm is None:
        paradigm = import_extra("moabb.paradigms", "moabb", "run_moabb").LeftRightImagery()
    if not isinstance(pipelines, Mapping):
        pipelines = _named(pipelines, datasets, paradigm, classifier or MotorImageryClassifier(), seed)
    with tempfile.TemporaryDirectory() as temporary:
        scheme = getattr(evaluations, f"{evaluation}Evaluation")(
            paradigm=paradigm,
            datasets=list(datasets),
            random_state=seed,
            hdf5_path=str(temporary if folder is None else folder),
            **options,
        )
        results: pd.DataFrame = scheme.process(dict(pipelines))
    return results


def _named(
    names: Sequence[str],
    datasets: Sequence[Any],
    paradigm: Any,
    classifier: MotorImageryClassifier,
    seed: int,
) -> dict[str, BaseEstimator]:
    """Return the pipelines of these names for signals as the paradigm gives them."""
    for name in names:
        check_option("pipelines", name, ("basenet", *GATES, *BASELINES))
    rates, montages = set(), set()
    for dataset in datasets:
        epochs, _, _ = paradigm.get_data(dataset, subjects=dataset.subject_list[:1], return_epochs=True)
        rates.add(float(epochs.info["sfreq"]))
        montages.add(tuple(epochs.ch_names))
    if len(rates) > 1:
        raise ValueError(
            f"datasets must have one sampling rate, got {', '.join(f'{rate:g}' for rate in sorted(rates))} Hz; "
            "give the paradigm resample="
        )
    (sfreq,) = rates
    chosen: dict[str, BaseEstimator] = {}
    for name in names:
        if name in BASELINES:
            ch_names = next(iter(montages)) if len(montages) == 1 else None
            chosen[name] = baseline(name, sfreq=sfreq, band=None, ch_names=ch_names)
        else:
            chosen[name] = clone(classifier).set_params(
                attention=None if name == "basenet" else name, band=None, sfreq=sfreq, seed=seed
            )
    return chosen
