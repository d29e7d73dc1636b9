"""Decode one recording honestly: every pipeline in every condition, beside its null and its controls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import binom, binomtest

from neuroattn._checks import check_option, check_range, check_seed
from neuroattn.attention import GATES
from neuroattn.datasets.eeg import Trials, band_filter, check_labels, filter_signals
from neuroattn.eeg import MotorImageryClassifier, TrialFold, baseline, split_trials, train_together
from neuroattn.eeg.baselines import BASELINES
from neuroattn.eeg.pipelines import TrialTransformer
from neuroattn.results import provenance, replacing

NETWORK = "basenet"
PROTOCOLS = ("leave-one-run-out", "blocks", "leave-one-subject-out", "subject-folds")
ACROSS = ("leave-one-subject-out", "subject-folds")
NULLS = ("refit", "predictions")
N_FOLDS = 5  # of "blocks" and "subject-folds"
N_SIZES = 4  # of a learning curve
N_TOGETHER = 50  # permutations that are computed, and stored, at once
N_RESAMPLES = 1000
IMAGERY = "decodes imagery-band activity"
SLOW = "decodes cue-locked slow signals"
NOTHING = "not above chance"

Progress = Callable[[str, int, int], None]
"""Called with a stage, the steps done and the steps in all."""


@dataclass(frozen=True)
class Condition:
    """A pass band and a window that a score is computed in.

    Parameters
    ----------
    name : str
        :func:`decode_trials` reads its verdicts from the conditions "imagery", "broadband" and "slow".
    band : (float or None, float or None) or None
        Pass band in hertz; None takes the signals as they were recorded.
    tmin, tmax : float
        Window in seconds relative to the cue; the end is not included.

    Examples
    --------
    >>> Condition("imagery", (8, 30), 0.5, 4.0)
    Condition(name='imagery', band=(8, 30), tmin=0.5, tmax=4.0)
    """

    name: str
    band: tuple[float | None, float | None] | None
    tmin: float
    tmax: float

    def apply(self, trials: Trials) -> Trials:
        """Return the trials filtered and cropped.

        The filter (Butterworth, forwards and backwards) sees each trial from its beginning to the end of the
        window: what comes after the window cannot leak into it.
        """
        if self.band is not None:
            seen = trials.crop(trials.tmin, self.tmax)
            sos = band_filter(*self.band, trials.sfreq)
            trials = replace(seen, X=filter_signals(seen.X, sos, causal=False).astype(np.float32))
        return trials.crop(self.tmin, self.tmax)


def default_conditions(
    trials: Trials, *, band: tuple[float | None, float | None] = (8.0, 30.0), tmin: float = 0.5
) -> tuple[Condition, ...]:
    """Return the claim and its three controls for trials that start before the cue.

    Parameters
    ----------
    trials : Trials
        Signals as recorded.
    band : (float or None, float or None), default (8, 30)
        Pass band of the claim, in hertz.
    tmin : float, default 0.5
        Start of the claim's window in seconds after the cue. The first half second holds the response to the cue.

    Returns
    -------
    tuple of Condition
        "imagery": the band, from ``tmin`` to the end. "broadband": as recorded, from the cue to the end. "slow": below
        4 Hz, at most two seconds from the cue. "pre-cue": as recorded, before the cue, where nothing can be decoded
        unless the recording or its filter leaks; left out of trials that start less than 0.9 s before the cue.

    Examples
    --------
    >>> import pandas as pd
    >>> metadata = pd.DataFrame({"subject": ["1"] * 2, "session": "1", "run": "1"})
    >>> X = np.random.default_rng(0).normal(size=(2, 1, 500))
    >>> trials = Trials(X, np.array(["left", "right"]), metadata, ["C3"], sfreq=100, tmin=-1)
    >>> [(c.name, c.band, c.tmin, c.tmax) for c in default_conditions(trials)][2:]
    [('slow', (None, 4.0), 0.0, 2.0), ('pre-cue', None, -1, 0.0)]
    """
    end = trials.tmin + trials.X.shape[2] / trials.sfreq
    if trials.tmin > 0 or end <= tmin:
        raise ValueError(f"trials must hold the cue and {tmin:g} s, got {trials.tmin:g} to {end:g} s")
    found = (
        Condition("imagery", band, tmin, end),
        Condition("broadband", None, 0.0, end),
        Condition("slow", (None, 4.0), 0.0, min(2.0, end)),
    )
    return (*found, Condition("pre-cue", None, trials.tmin, 0.0)) if trials.tmin <= -0.9 else found


def decode_trials(
    trials: Trials,
    pipelines: Sequence[str] = ("csp-lda", "tangent-space", "slow-signals", "basenet", "basenet+eca"),
    *,
    conditions: Sequence[Condition] | None = None,
    protocol: str | None = None,
    n_permutations: int = 200,
    null: str = "refit",
    n_epochs: int = 100,
    seed: int = 0,
    device: str = "cpu",
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Score pipelines in the claim's condition and in its controls, beside their nulls.

    The claim is that imagery is decoded: 8-30 Hz from half a second after the cue. A cue on one side of the screen
    also moves the eyes and evokes slow waves, which a broadband score may rest on; so every pipeline is scored on
    broadband and on slow signals alike, and before the cue, where nothing should be found.

    Parameters
    ----------
    trials : Trials
        Signals as recorded, from a second before the cue.
    pipelines : sequence of str
        "csp-lda", "tangent-space", "slow-signals" (see :func:`neuroattn.eeg.baseline`), "basenet" and "basenet+GATE"
        with a name of :data:`neuroattn.attention.GATES`. "slow-signals" has no score in "imagery".
    conditions : sequence of Condition, optional
        By default :func:`default_conditions`.
    protocol : str, optional
        "leave-one-run-out" and "blocks" (five runs of neighbouring trials) within each subject,
        "leave-one-subject-out" and "subject-folds" (five groups of subjects) across subjects. By default the first
        that the trials allow, across subjects if there are several.
    n_permutations : int, default 200
        Labels are shuffled so many times within each run.
    null : {"refit", "predictions"}, default "refit"
        "refit" fits all that uses labels again, in every fold, to each shuffled set. "predictions" compares the
        shuffled labels with the predictions as they are, which costs nothing: for protocols across subjects only,
        whose decoders have seen no label of the subjects they are tested on. Each fold's null is then exact given
        its decoder; that the folds' decoders were trained on each other's labels is left out.
    n_epochs : int, default 100
        Epochs of the networks, for scores and nulls alike. The paper trains for 1000 [1]_.
    seed : int
    device : str
        Of the networks.
    store : str or Path, optional
        Folder that keeps finished parts; the same call with the same trials continues there.
    progress : callable, optional

    Returns
    -------
    Dataset, dims (pipeline, condition, subject, trial, permutation, n_train, true, predicted, bound)
        ``subject_accuracy``, their mean ``accuracy`` and its 95 % ``accuracy_ci`` (Wilson over the trials of one
        subject, a bootstrap over several), ``null`` (of each permutation), ``null_95`` (its 95 % point), ``p_value``,
        ``adjusted_chance`` (the binomial 95 % point [2]_), ``label``, ``prediction``, ``confusion`` (trials),
        ``learning_curve`` (pipeline, n_train) of the first condition and ``verdict`` (pipeline).

    References
    ----------
    .. [1] Wimpff, Gizzi, Zerfowski & Yang (2024). EEG motor imagery decoding: a framework for comparative analysis
       with channel attention mechanisms. J. Neural Eng.
    .. [2] Combrisson & Jerbi (2015). Exceeding chance level by chance. J. Neurosci. Methods 250.

    Examples
    --------
    >>> import pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> y = np.array(["left", "right"] * 12)
    >>> power = np.where((y == "left")[:, None] == [True, False], 1.0, 4.0)
    >>> X = rng.normal(size=(24, 2, 400)) * power[:, :, None]
    >>> metadata = pd.DataFrame({"subject": "1", "session": "1", "run": np.repeat(["1", "2", "3"], 8)})
    >>> trials = Trials(X, y, metadata, ["C3", "C4"], sfreq=100, tmin=-1)
    >>> scores = decode_trials(trials, ["csp-lda"], n_permutations=20)
    >>> float(scores.accuracy.sel(pipeline="csp-lda", condition="imagery")), scores.verdict.values.tolist()
    (1.0, ['decodes imagery-band activity'])
    """
    names = [check_pipeline(name) for name in pipelines]
    conditions = default_conditions(trials) if conditions is None else conditions
    if not names or not conditions:
        raise ValueError("pipelines and conditions must each hold at least one, got none")
    for label, given in (("pipelines", names), ("conditions", [one.name for one in conditions])):
        if len(set(given)) < len(given):
            raise ValueError(f"{label} must differ, got {', '.join(given)}")
    check_range("n_permutations", n_permutations, 0)
    check_range("n_epochs", n_epochs, 1)
    check_seed(seed)
    classes = check_labels("y", trials.y)
    protocol, folds = decoding_folds(trials, protocol)
    check_null(null, protocol)
    for fold in folds:
        check_labels(f"y without {fold.held_out} of subject {fold.subject}", trials.y[fold.train], classes)
    codes = np.searchsorted(classes, trials.y)
    parts = None if store is None else Path(store)
    if parts is not None:
        parts.mkdir(parents=True, exist_ok=True)

    cells = [(name, c) for name in names for c in conditions if (name, c.name) != ("slow-signals", "imagery")]
    decoders = {(name, c.name): _Decoder(name, trials, c, n_epochs, seed, device) for name, c in cells}
    sizes = _learning_sizes(folds, len(classes))
    curves = [name for name, c in cells if c == conditions[0]]
    refits = range(0, n_permutations, N_TOGETHER) if null == "refit" else range(0)
    total = len(cells) * (1 + len(refits)) + len(curves) * (len(sizes) - 1)
    done = 0

    def predict(
        name: str, condition: str, part: str, some: Sequence[TrialFold], labels: NDArray[np.intp]
    ) -> NDArray[np.intp]:
        """Return predicted classes (labels, trial), from the folder if they are there."""
        nonlocal done
        path = None if parts is None else parts / f"{name}_{condition}_{part}.npy"
        if path is not None and path.is_file():
            predicted: NDArray[np.intp] = np.load(path)
        else:
            predicted = decoders[name, condition].predict(some, labels)
            if path is not None:
                with replacing(path) as temporary, temporary.open("wb") as file:
                    np.save(file, predicted.astype(np.int16))
        done += 1
        if progress is not None:
            progress("parts", done, total)
        return predicted

    subjects = trials.metadata.subject.unique()
    owner = [(trials.metadata.subject == subject).to_numpy() for subject in subjects]

    def accuracy(predicted: NDArray[np.intp], labels: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the share of hits (labels, subject)."""
        hits = predicted == labels
        return np.stack([hits[:, own].mean(axis=1) for own in owner], axis=1)

    scores = _empty(names, conditions, subjects, trials, classes, sizes, n_permutations)
    shuffled = [shuffle_within_runs(codes, trials, seed=[seed, i]) for i in range(n_permutations)]
    # What is cheap and what is needed most comes first: a run that is stopped keeps it.
    for name, condition in cells:
        cell = {"pipeline": name, "condition": condition.name}
        predicted = predict(name, condition.name, "score", folds, codes[None])
        scores.subject_accuracy.loc[cell] = accuracy(predicted, codes[None])[0]
        scores.prediction.loc[cell] = classes[predicted[0]].astype(str)
        np.add.at(scores.confusion.loc[cell].values, (codes, predicted[0]), 1)
        if null == "predictions" and shuffled:
            scores.null.loc[cell] = accuracy(predicted, np.stack(shuffled)).mean(axis=1)
    for name in curves:
        first = conditions[0].name
        scores.learning_curve.loc[name, sizes[-1]] = scores.subject_accuracy.loc[name, first].mean()
        for size in sizes[:-1]:
            some = _thinned(folds, codes, size, seed)
            predicted = predict(name, first, f"train-{size}", some, codes[None])
            scores.learning_curve.loc[name, size] = accuracy(predicted, codes[None]).mean()
    for name, condition in sorted(cells, key=lambda cell: cell[0].startswith(NETWORK)):
        for start in refits:
            labels = np.stack(shuffled[start : start + N_TOGETHER])
            predicted = predict(name, condition.name, f"null-{start}-{len(labels)}", folds, labels)
            scores.null.loc[name, condition.name, start : start + len(labels) - 1] = accuracy(
                predicted, labels
            ).mean(axis=1)
    config = {
        "pipelines": names,
        "conditions": [asdict(condition) for condition in conditions],
        "protocol": protocol,
        "n_permutations": n_permutations,
        "null": null,
        "n_epochs": n_epochs,
    }
    return _summarised(scores, seed).assign_attrs(provenance(seed, config) | {"protocol": protocol})


def check_pipeline(name: str) -> str:
    """Return the name of a pipeline if there is such a one.

    Examples
    --------
    >>> check_pipeline("basenet+eca")
    'basenet+eca'
    >>> check_pipeline("csp")
    Traceback (most recent call last):
    ValueError: pipeline must be one of 'tangent-space', 'csp-lda', 'slow-signals', 'basenet', got 'csp'
    """
    network, plus, gate = name.partition("+")
    if plus and network == NETWORK:
        check_option("attention", gate, GATES)
    else:
        check_option("pipeline", name, (*BASELINES, NETWORK))
    return name


def check_null(null: str, protocol: str) -> None:
    """Check that there is such a null and that it holds for the protocol.

    Examples
    --------
    >>> check_null("predictions", "subject-folds")
    >>> check_null("predictions", "blocks")
    Traceback (most recent call last):
    ValueError: null 'predictions' needs a protocol across subjects, got 'blocks'
    """
    check_option("null", null, NULLS)
    if null == "predictions" and protocol not in ACROSS:
        raise ValueError(f"null 'predictions' needs a protocol across subjects, got {protocol!r}")


def new_estimator(
    name: str, *, sfreq: float, ch_names: Sequence[str], n_epochs: int, seed: int, device: str = "cpu"
) -> Any:
    """Return the unfitted estimator of a pipeline, for trials that are filtered already.

    Examples
    --------
    >>> new_estimator("basenet+eca", sfreq=250, ch_names=["C3", "C4"], n_epochs=100, seed=0).attention
    'eca'
    """
    network, _, gate = check_pipeline(name).partition("+")
    if network == NETWORK:
        return MotorImageryClassifier(
            gate or None, sfreq=sfreq, band=None, n_epochs=n_epochs, seed=seed, device=device
        )
    return baseline(name, sfreq=sfreq, band=None, ch_names=ch_names)


def decoding_folds(trials: Trials, protocol: str | None = None) -> tuple[str, list[TrialFold]]:
    """Return the protocol and its partitions of the trials.

    Parameters
    ----------
    trials : Trials
    protocol : {"leave-one-run-out", "blocks", "leave-one-subject-out", "subject-folds"}, optional
        By default across subjects if there are several, and else by runs if there are several.

    Examples
    --------
    >>> import pandas as pd
    >>> metadata = pd.DataFrame({"subject": ["1"] * 10, "session": "1", "run": "1"})
    >>> X = np.random.default_rng(0).normal(size=(10, 1, 9))
    >>> trials = Trials(X, np.array(["left", "right"] * 5), metadata, ["C3"], sfreq=9, tmin=0)
    >>> name, folds = decoding_folds(trials)
    >>> name, [fold.test.tolist() for fold in folds][:2]
    ('blocks', [[0, 1], [2, 3]])
    """
    of_subject = trials.metadata.groupby("subject", sort=False).indices
    if protocol is None:
        n_runs = (
            trials.metadata.groupby("subject")[["session", "run"]].value_counts().groupby("subject").size()
        )
        within = "leave-one-run-out" if n_runs.min() > 1 else "blocks"
        protocol = within if len(of_subject) == 1 else "leave-one-subject-out"
    check_option("protocol", protocol, PROTOCOLS)
    if protocol in ("leave-one-run-out", "leave-one-subject-out"):
        return protocol, _whole_folds(trials, protocol)
    everyone = np.arange(len(trials))
    folds = []
    if protocol == "blocks":
        for subject, rows in of_subject.items():
            check_range(f"trials of subject {subject}", len(rows), 2 * N_FOLDS)
            for k, test in enumerate(np.array_split(rows, N_FOLDS), start=1):
                folds.append(TrialFold(str(subject), f"block {k}", np.setdiff1d(rows, test), test))
    else:
        check_range("subjects", len(of_subject), N_FOLDS)
        for group in np.array_split(np.asarray(list(of_subject)), N_FOLDS):
            test = np.concatenate([of_subject[subject] for subject in group])
            folds.append(TrialFold("+".join(group), "", np.setdiff1d(everyone, test), test))
    return protocol, folds


def shuffle_within_runs(
    y: NDArray[Any], trials: Trials, seed: int | Sequence[int] | np.random.Generator
) -> NDArray[Any]:
    """Return the labels in random order within each run of each session of each subject.

    Parameters
    ----------
    y : array, shape (trial,)
    trials : Trials
    seed : int, sequence of int or Generator

    Examples
    --------
    >>> import pandas as pd
    >>> metadata = pd.DataFrame({"subject": ["1"] * 4, "session": "1", "run": ["1", "1", "2", "2"]})
    >>> X = np.random.default_rng(0).normal(size=(4, 1, 9))
    >>> trials = Trials(X, np.array(["left", "right", "left", "left"]), metadata, ["C3"], sfreq=9, tmin=0)
    >>> shuffle_within_runs(trials.y, trials, 0)[2:].tolist()
    ['left', 'left']
    """
    rng = np.random.default_rng(seed)
    shuffled = y.copy()
    for rows in trials.metadata.groupby(["subject", "session", "run"], sort=False).indices.values():
        shuffled[rows] = rng.permutation(y[rows])
    return shuffled


def adjusted_chance(n_trials: int, n_classes: int) -> float:
    """Return the accuracy that guessing reaches in 5 % of experiments with so many trials [1]_.

    References
    ----------
    .. [1] Combrisson & Jerbi (2015). Exceeding chance level by chance. J. Neurosci. Methods 250.

    Examples
    --------
    >>> round(adjusted_chance(45, 2), 3)
    0.622
    """
    return float(binom.isf(0.05, n_trials, 1 / n_classes) / n_trials)


def verdicts(scores: xr.Dataset) -> dict[str, str]:
    """Say what each pipeline decodes.

    A score counts where it is above the 95 % point of its null, or above the adjusted chance level where no null
    was computed. A network that beats csp-lda with broadband signals only is said to decode slow signals: what it
    adds does not come from the imagery band.

    Parameters
    ----------
    scores : Dataset
        ``accuracy``, ``null_95`` (pipeline, condition) and ``adjusted_chance``.

    Returns
    -------
    dict of str to str
        Pipeline to "decodes imagery-band activity", "decodes cue-locked slow signals" or "not above chance".

    Examples
    --------
    >>> scores = xr.Dataset(
    ...     {"accuracy": (("pipeline", "condition"), [[0.8, 0.8], [0.7, 0.9], [0.5, 0.8]]),
    ...      "null_95": (("pipeline", "condition"), np.full((3, 2), 0.6)), "adjusted_chance": 0.62},
    ...     {"pipeline": ["csp-lda", "basenet", "basenet+eca"], "condition": ["imagery", "broadband"]})
    >>> verdicts(scores)
    {'csp-lda': 'decodes imagery-band activity', 'basenet': 'decodes cue-locked slow signals',
     'basenet+eca': 'decodes cue-locked slow signals'}
    """
    limit = scores.null_95.fillna(scores.adjusted_chance)
    above = scores.accuracy > limit
    conditions = scores.condition.values.tolist()
    cue = [name for name in ("broadband", "slow") if name in conditions]
    found = {}
    for name in scores.pipeline.values.tolist():
        imagery = "imagery" in conditions and bool(above.sel(pipeline=name, condition="imagery"))
        slow = bool(above.sel(pipeline=name, condition=cue).any())
        if slow and {"imagery", "broadband"} <= set(conditions) and "csp-lda" in scores.pipeline:
            ahead = scores.accuracy.sel(pipeline=name) > scores.accuracy.sel(pipeline="csp-lda")
            wins_broadband_only = bool(ahead.sel(condition="broadband") & ~ahead.sel(condition="imagery"))
            imagery &= not (name.startswith(NETWORK) and wins_broadband_only)
        found[name] = IMAGERY if imagery else SLOW if slow else NOTHING
    return found


def estimate_seconds(
    trials: Trials,
    pipeline: str,
    condition: Condition,
    folds: Sequence[TrialFold],
    *,
    n_permutations: int,
    n_epochs: int,
    seed: int,
    device: str,
) -> float:
    """Estimate from one fold how long scores and null of one pipeline in one condition take, in seconds.

    Parameters
    ----------
    trials, pipeline, condition, folds, n_permutations, n_epochs, seed, device
        As for :func:`decode_trials`.
    """
    codes = np.unique(trials.y, return_inverse=True)[1]
    few = 2  # epochs, or sets of labels: what is computed once is not counted again
    network = pipeline.startswith(NETWORK)
    decoder = _Decoder(pipeline, trials, condition, few if network else 1, seed, device)
    seconds = []
    for n in (1, few):
        if network:
            decoder.estimator.set_params(n_epochs=n)
        start = time.perf_counter()
        decoder.predict(folds[:1], np.stack([codes] * (1 if network else n)))
        seconds.append(time.perf_counter() - start)
    more = max(seconds[1] - seconds[0], 0.0) * (n_epochs if network else 1) * (n_permutations + 1)
    return len(folds) * (seconds[0] + more)


class _Decoder:
    """One pipeline in one condition: what needs no labels is computed once for all sets of labels."""

    def __init__(
        self, name: str, trials: Trials, condition: Condition, n_epochs: int, seed: int, device: str
    ) -> None:
        self.name, self.trials, self.condition, self.seed = name, trials, condition, seed
        self.estimator = new_estimator(
            name, sfreq=trials.sfreq, ch_names=trials.ch_names, n_epochs=n_epochs, seed=seed, device=device
        )

    def predict(self, folds: Sequence[TrialFold], labels: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the predicted class (labels, trial), each set of labels fitted by itself in each fold."""
        X = self.condition.apply(self.trials).X
        predicted = np.full(labels.shape, -1, dtype=np.intp)
        each = self._networks if self.name.startswith(NETWORK) else self._classical
        for fold, some in each(X, folds, labels):
            predicted[:, fold.test] = some
        return predicted

    def _networks(
        self, X: NDArray[np.float32], folds: Sequence[TrialFold], labels: NDArray[np.intp]
    ) -> Iterator[tuple[TrialFold, NDArray[np.intp]]]:
        for fold in folds:
            train, test = X[fold.train], X[fold.test]
            fitted = train_together(
                self.estimator,
                [train] * len(labels),
                [one[fold.train] for one in labels],
                seeds=[self.seed + i for i in range(len(labels))],
            )
            yield fold, np.stack([one.predict(test) for one in fitted])

    def _classical(
        self, X: NDArray[np.float32], folds: Sequence[TrialFold], labels: NDArray[np.intp]
    ) -> Iterator[tuple[TrialFold, NDArray[np.intp]]]:
        import mne
        from pyriemann.estimation import Covariances
        from pyriemann.tangentspace import TangentSpace
        from sklearn.base import clone
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        steps = [step for _, step in self.estimator.steps]
        signals = second_moments(X) if self.name == "csp-lda" else X.astype(np.float64)
        while isinstance(steps[0], TrialTransformer | Covariances):  # each trial by itself
            signals = steps.pop(0).fit_transform(signals)
        unlabelled = steps.pop(0) if isinstance(steps[0], TangentSpace | StandardScaler) else None
        for fold in folds:
            train, test = signals[fold.train], signals[fold.test]
            if unlabelled is not None:
                train = unlabelled.fit_transform(train)
                test = unlabelled.transform(test)
            some = []
            with mne.use_log_level("error"):
                for one in labels:
                    model = clone(make_pipeline(*steps)).fit(train, one[fold.train])
                    some.append(model.predict(test))
            yield fold, np.stack(some)


def second_moments(X: NDArray[Any]) -> NDArray[np.float64]:
    """Return trials of as few samples as channels whose uncentred second moments are those of ``X``.

    Common spatial patterns know a trial by these alone, so the short trials give the same filters and features.

    Parameters
    ----------
    X : float array, shape (trial, channel, time)

    Returns
    -------
    array, shape (trial, channel, channel)
        Or ``X`` itself where it is not longer.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(3, 2, 50))
    >>> short = second_moments(X)
    >>> np.allclose((short**2).mean(2), (X**2).mean(2)), short.shape
    (True, (3, 2, 2))
    """
    X = np.asarray(X, dtype=np.float64)
    _, n_chans, n_times = X.shape
    if n_times <= n_chans:
        return X
    values, vectors = np.linalg.eigh(X @ X.swapaxes(1, 2) * (n_chans / n_times))
    short: NDArray[np.float64] = vectors * np.sqrt(np.clip(values, 0, None))[:, None]
    return short


def _whole_folds(trials: Trials, protocol: str) -> list[TrialFold]:
    if protocol == "leave-one-run-out":
        return split_trials(trials.metadata, protocol)
    # Without a training and an evaluation session all trials of a subject are tested.
    return split_trials(trials.metadata.assign(session="1"), protocol)


def _learning_sizes(folds: Sequence[TrialFold], n_classes: int) -> list[int]:
    """Return numbers of training trials up to all of the smallest fold."""
    most = min(len(fold.train) for fold in folds)
    wanted = {round(most * k / N_SIZES / n_classes) * n_classes for k in range(1, N_SIZES)}
    return [*sorted(size for size in wanted if 4 * n_classes <= size < most), most]


def _thinned(folds: Sequence[TrialFold], codes: NDArray[np.intp], size: int, seed: int) -> list[TrialFold]:
    """Return the folds with fewer training trials, as many of each class as there are of the rarest at most."""
    thin = []
    for k, fold in enumerate(folds):
        rng = np.random.default_rng([seed, size, k])
        rows = rng.permutation(fold.train)
        rank = np.empty(len(rows), dtype=np.intp)  # of a trial within its class
        for code in np.unique(codes):
            rank[codes[rows] == code] = np.arange((codes[rows] == code).sum())
        thin.append(replace(fold, train=np.sort(rows[np.argsort(rank, kind="stable")[:size]])))
    return thin


def _empty(
    names: Sequence[str],
    conditions: Sequence[Condition],
    subjects: NDArray[Any],
    trials: Trials,
    classes: NDArray[Any],
    sizes: Sequence[int],
    n_permutations: int,
) -> xr.Dataset:
    """Return the table of scores, nothing computed."""
    texts = classes.astype(str)
    coords: dict[str, Any] = {
        "pipeline": list(names),
        "condition": [condition.name for condition in conditions],
        "subject": np.asarray(subjects, dtype=str),
        "true": texts,
        "predicted": texts,
        "n_train": list(sizes),
        "permutation": np.arange(n_permutations),
        **{
            f"trial_{key}": ("trial", trials.metadata[key].to_numpy(str))
            for key in ("subject", "session", "run")
        },
    }
    dims = {
        "subject_accuracy": ("pipeline", "condition", "subject"),
        "null": ("pipeline", "condition", "permutation"),
        "confusion": ("pipeline", "condition", "true", "predicted"),
        "learning_curve": ("pipeline", "n_train"),
    }
    size = {name: len(values) for name, values in coords.items() if not isinstance(values, tuple)}
    table: dict[str, Any] = {
        name: (axes, np.full([size[axis] for axis in axes], 0.0 if name == "confusion" else np.nan))
        for name, axes in dims.items()
    }
    table["label"] = ("trial", trials.y.astype(str))
    blank = np.full((len(names), len(conditions), len(trials)), "", dtype=np.asarray([*texts, ""]).dtype)
    table["prediction"] = (("pipeline", "condition", "trial"), blank)
    return xr.Dataset(table, coords)


def _summarised(scores: xr.Dataset, seed: int) -> xr.Dataset:
    """Add means, intervals, null points, and verdicts."""
    accuracy = scores.subject_accuracy.mean("subject")
    computed = scores.null.notnull().any("permutation").transpose("pipeline", "condition").values
    scores["accuracy"] = accuracy
    null = scores.null.values
    limit = np.full(null.shape[:2], np.nan)
    if computed.any():
        limit[computed] = np.quantile(null[computed], 0.95, axis=-1, method="higher")
    scores["null_95"] = (("pipeline", "condition"), limit)
    scores["p_value"] = (
        ((scores.null >= accuracy - 1e-12).sum("permutation") + 1)
        / (scores.null.notnull().sum("permutation") + 1)
    ).where(computed)
    scores["adjusted_chance"] = adjusted_chance(scores.sizes["trial"], scores.sizes["true"])
    scores["accuracy_ci"] = (("pipeline", "condition", "bound"), _intervals(scores, seed))
    scores["verdict"] = ("pipeline", list(verdicts(scores).values()))
    return scores.assign_coords(bound=["low", "high"])


def _intervals(scores: xr.Dataset, seed: int) -> NDArray[np.float64]:
    values = scores.subject_accuracy.values
    bounds = np.full((*values.shape[:2], 2), np.nan)
    if values.shape[2] > 1:
        rng = np.random.default_rng(seed)
        draws = rng.integers(values.shape[2], size=(N_RESAMPLES, values.shape[2]))
        bounds[...] = np.moveaxis(np.quantile(values[:, :, draws].mean(-1), [0.025, 0.975], axis=-1), 0, -1)
        return bounds
    n_trials = scores.sizes["trial"]
    for place, share in np.ndenumerate(values[:, :, 0]):
        if np.isfinite(share):
            bounds[place] = binomtest(round(share * n_trials), n_trials).proportion_ci(method="wilson")
    return bounds
