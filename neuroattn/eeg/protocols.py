"""Partitions of trials by run, session and subject."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuroattn._checks import check_option

PROTOCOLS = ("leave-one-run-out", "train-to-evaluation", "leave-one-subject-out")


@dataclass(frozen=True, eq=False)
class TrialFold:
    """Rows of one partition: ``train`` and ``test`` hold row indices, shape (trial,).

    Parameters
    ----------
    subject : str
        Whose trials are tested.
    held_out : str
        The run, session or subject that is tested.
    train, test : int array, shape (trial,)

    Examples
    --------
    >>> TrialFold("1", "run 2", np.array([0, 1]), np.array([2])).held_out
    'run 2'
    """

    subject: str
    held_out: str
    train: NDArray[np.intp]
    test: NDArray[np.intp]


def split_trials(
    metadata: pd.DataFrame,
    protocol: str,
    *,
    train_sessions: Iterable[str] | None = None,
    test_sessions: Iterable[str] | None = None,
) -> list[TrialFold]:
    """Partition trials by a protocol of the literature.

    Parameters
    ----------
    metadata : DataFrame, one row a trial
        Columns ``subject``, ``session`` and ``run`` of :class:`neuroattn.datasets.Trials`.
    protocol : {"leave-one-run-out", "train-to-evaluation", "leave-one-subject-out"}
        "leave-one-run-out": within each subject, each run of each session is tested once, with all the subject's other
        runs for training. "train-to-evaluation": within each subject, from the training to the evaluation sessions of
        a competition. "leave-one-subject-out": the evaluation sessions of each subject, with the training sessions of
        all others for training.
    train_sessions, test_sessions : sequence of str, optional
        Of the last two protocols. By default the first and the last session of each subject, in the order of rows; for
        "leave-one-subject-out" a subject may have one session only.

    Returns
    -------
    list of TrialFold
        In the order of subjects.

    Raises
    ------
    ValueError
        If a fold would have no training or no test trials.

    Examples
    --------
    >>> metadata = pd.DataFrame({"subject": ["a", "a", "b", "b"], "session": "1", "run": ["1", "2", "1", "2"]})
    >>> [(fold.subject, fold.held_out, fold.test.tolist())
    ...  for fold in split_trials(metadata, "leave-one-run-out")][:2]
    [('a', 'session 1 run 1', [0]), ('a', 'session 1 run 2', [1])]
    """
    check_option("protocol", protocol, PROTOCOLS)
    table = metadata.reset_index(drop=True)[["subject", "session", "run"]].astype(str)
    of = {subject: (table.subject == subject).to_numpy() for subject in table.subject.unique()}
    if protocol == "leave-one-run-out":
        if train_sessions is not None or test_sessions is not None:
            raise ValueError("train_sessions and test_sessions must be None for 'leave-one-run-out'")
        folds = []
        for subject, own in of.items():
            for session, run in table[own][["session", "run"]].drop_duplicates().itertuples(index=False):
                test = own & ((table.session == session) & (table.run == run)).to_numpy()
                folds.append(_fold(subject, f"session {session} run {run}", own & ~test, test))
        return folds
    folds = []
    within = protocol == "train-to-evaluation"
    first, last = _first_and_last(table)
    training = first if train_sessions is None else _among(table, train_sessions, "train_sessions")
    evaluation = last if test_sessions is None else _among(table, test_sessions, "test_sessions")
    for subject, own in of.items():
        train = training & (own if within else ~own)
        test = evaluation & own
        sessions = table.session[test].unique()
        held_out = f"session {'+'.join(sessions)}" if within else f"subject {subject}"
        folds.append(_fold(subject, held_out, train, test))
    return folds


def _first_and_last(table: pd.DataFrame) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    sessions = table.groupby("subject").session
    first, last = (table.session == sessions.transform(which) for which in ("first", "last"))
    return first.to_numpy(), last.to_numpy()


def _among(table: pd.DataFrame, sessions: Iterable[str], name: str) -> NDArray[np.bool_]:
    wanted = [sessions] if isinstance(sessions, str) else [str(session) for session in sessions]
    present = set(table.session)
    for session in wanted:
        if session not in present:
            raise ValueError(f"{name} must be among {', '.join(sorted(present))}, got {session!r}")
    return table.session.isin(wanted).to_numpy()


def _fold(subject: str, held_out: str, train: NDArray[np.bool_], test: NDArray[np.bool_]) -> TrialFold:
    if not train.any():
        raise ValueError(f"subject {subject}: nothing is left for training when {held_out} is tested")
    if not test.any():
        raise ValueError(f"subject {subject}: no trial is left to test; it has none of the test sessions")
    if (train & test).any():
        raise ValueError(f"subject {subject}: {held_out} would be on both sides; name other sessions")
    return TrialFold(subject, held_out, np.flatnonzero(train), np.flatnonzero(test))
