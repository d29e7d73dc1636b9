"""Partitions of stimuli: no stimulus is ever on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroattn._checks import check_shape
from neuroattn._files import read_json, reading

# Partitions that say which trials are averaged, besides which stimuli are tested on.
TRIAL_SPLITS = ("algonauts", "shared1000", "shared515", "session-block")
N_LAST_SESSIONS = 3


@dataclass(frozen=True)
class Fold:
    """Rows of one partition: ``train`` and ``test`` hold row indices, shape (row,).

    Examples
    --------
    >>> split_stimuli(["a", "b", "c", "a"], "test=1,seed=0")[0].train
    array([0, 1, 3])
    """

    seed: int
    fold: int
    train: NDArray[np.intp]
    test: NDArray[np.intp]


def split_stimuli(stimulus_ids: ArrayLike, spec: str | Path, *, test: ArrayLike | None = None) -> list[Fold]:
    """Partition rows by the identity of their stimuli.

    Parameters
    ----------
    stimulus_ids : array of str, shape (row,)
        Rows with equal ids stay together.
    spec : str or Path
        ``"given"``: the data set's own partition in ``test``.
        ``"test=200,seed=0"``: the first 200 stimuli of ``default_rng(0).permutation(n)`` are the test set.
        ``"kfold=9,seeds=0-4"``: stimulus i is in fold ``default_rng(seed).permutation(n)[i] % 9``, so that
        every row is predicted once a seed; ``seeds`` is a number, a range or a list joined by ``+``.
        A path to a JSON file ``{"train": [ids], "test": [ids]}``.
        Partitions that also say which trials are averaged ("algonauts", "shared1000", "shared515",
        "session-block") are made by :func:`load_nsd`, and are "given" from then on.
    test : bool array, shape (row,), optional
        The partition that ``"given"`` refers to.

    Returns
    -------
    list of Fold
        Sorted by seed, then fold. Numbers count distinct stimuli, in order of first appearance.

    Raises
    ------
    ValueError
        If the specification cannot be read, leaves a side empty, or puts a stimulus on both sides.

    Examples
    --------
    >>> folds = split_stimuli(["a", "b", "c", "a"], "kfold=3,seeds=0")
    >>> len(folds), folds[0].test.tolist()
    (3, [1])
    """
    ids = np.asarray(stimulus_ids).astype(str)
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    stimulus = order[inverse]  # numbered by first appearance
    n = len(first)
    if str(spec) == "given":
        if test is None:
            raise ValueError(
                "split 'given' needs a data set with a partition of its own; use 'test=N,seed=S'"
            )
        given = np.asarray(test, dtype=bool)
        check_shape("test", given, len(ids))
        return [_fold(ids, 0, 0, given)]
    if str(spec).partition("=")[0] in TRIAL_SPLITS:
        raise ValueError(
            f"split {str(spec)!r} is made while trials are read; read with it, then split by 'given'"
        )
    options = _parse(str(spec))
    if options is None:
        return [_fold_from_file(ids, Path(spec))]
    if "test" in options:
        size, seed = _number(spec, options["test"]), _number(spec, options.get("seed", "0"))
        if not 0 < size < n:
            raise ValueError(f"split test={size} must leave stimuli on both sides of {n}")
        chosen = np.random.default_rng(seed).permutation(n)[:size]
        return [_fold(ids, seed, 0, np.isin(stimulus, chosen))]
    k = _number(spec, options["kfold"])
    if not 2 <= k <= n:
        raise ValueError(f"split kfold={k} must be between 2 and the number of stimuli, {n}")
    return [
        _fold(ids, seed, fold, np.random.default_rng(seed).permutation(n)[stimulus] % k == fold)
        for seed in _seeds(spec, options.get("seeds", "0"))
        for fold in range(k)
    ]


def _parse(spec: str) -> dict[str, str] | None:
    """Return the options of ``key=value,...``, or None if the text is a path."""
    if "=" not in spec or Path(spec).exists():
        return None
    options = dict(part.partition("=")[::2] for part in spec.split(","))
    allowed = {"test", "seed"} if "test" in options else {"kfold", "seeds"}
    if not ({"test", "kfold"} & options.keys()) or not options.keys() <= allowed:
        raise ValueError(f"split must be 'test=N,seed=S', 'kfold=K,seeds=A-B' or a JSON file, got {spec!r}")
    return options


def _number(spec: str | Path, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"split {str(spec)!r} must hold whole numbers, got {text!r}")
    return int(text)


def _seeds(spec: str | Path, text: str) -> list[int]:
    seeds: set[int] = set()
    for part in text.split("+"):
        low, dash, high = part.partition("-")
        first, last = _number(spec, low), _number(spec, high if dash else low)
        if last < first:
            raise ValueError(f"split {str(spec)!r} must count seeds upwards, got {part!r}")
        seeds.update(range(first, last + 1))
    return sorted(seeds)


def _fold(ids: NDArray[np.str_], seed: int, fold: int, test: NDArray[np.bool_]) -> Fold:
    shared = np.intersect1d(ids[test], ids[~test])
    if len(shared):
        raise ValueError(f"split puts stimulus {str(shared[0])!r} and {len(shared) - 1} others on both sides")
    if test.all() or not test.any():
        raise ValueError("split must leave stimuli on both sides, got an empty one")
    return Fold(seed, fold, np.flatnonzero(~test), np.flatnonzero(test))


def _fold_from_file(ids: NDArray[np.str_], path: Path) -> Fold:
    if not path.is_file():
        raise FileNotFoundError(
            f"split {str(path)!r} is not a file; it may be 'given', 'test=N,seed=S' or 'kfold=K,seeds=A-B'"
        )
    complaint = f'split file {path} must be JSON {{"train": [ids], "test": [ids]}}:'
    content = read_json(path, complaint)
    with reading(complaint):
        sides = {side: np.asarray(content[side]).astype(str) for side in ("train", "test")}
        if any(listed.ndim != 1 for listed in sides.values()):
            raise ValueError("ids must be a list")
    both = np.intersect1d(sides["train"], sides["test"])
    if len(both):
        raise ValueError(
            f"split file {path} lists stimulus {str(both[0])!r} and {len(both) - 1} others on both sides"
        )
    for side, listed in sides.items():
        unknown = np.setdiff1d(listed, ids)
        if len(unknown):
            raise ValueError(f"split file {path} lists unknown {side} stimulus {str(unknown[0])!r}")
        if not len(listed):
            raise ValueError(f"split file {path} has no {side} stimuli")
    rows = {side: np.flatnonzero(np.isin(ids, listed)) for side, listed in sides.items()}
    return Fold(0, 0, rows["train"], rows["test"])


# Trials


class TrialSplit(NamedTuple):
    """Rows that trials are averaged to: training rows first, ascending by stimulus in both parts.

    Parameters
    ----------
    stimuli : int array, shape (row,)
    test : bool array, shape (row,), or None where the specification leaves the partition to the rows
    row : int array, shape (trial,)
        Row that each trial is averaged into, -1 for those left out.
    notes : tuple of str
    """

    stimuli: NDArray[np.int64]
    test: NDArray[np.bool_] | None
    row: NDArray[np.intp]
    notes: tuple[str, ...]

    @property
    def counts(self) -> NDArray[np.intp]:
        """Trials of each row."""
        return np.bincount(self.row[self.row >= 0], minlength=len(self.stimuli))


def split_trials(
    stimulus: NDArray[np.int64],
    session: NDArray[np.int64],
    spec: str,
    *,
    available: NDArray[np.bool_],
    shared: Mapping[str, NDArray[np.int64]],
    complete: bool,
) -> TrialSplit:
    """Partition trials so that no stimulus is on both sides and repeats are averaged on one side only.

    Parameters
    ----------
    stimulus, session : int array, shape (trial,)
        Of every trial that the subject saw; sessions count from 1.
    spec : str
        "algonauts": the published partition of the Algonauts 2023 challenge. Training stimuli are those of
        all sessions but the last three, averaged over these sessions. Test stimuli were seen in the last three
        sessions only, and are not shared between subjects, or, for subjects who completed every session,
        are shared and were seen three times there.
        "shared1000": tests on the stimuli that all subjects share.
        "shared515": tests on those that every subject saw three times; the other shared ones are left out.
        "session-block=A-B": tests on stimuli seen in sessions A to B only; stimuli seen on both sides are left
        out. "session-block" alone is the last three sessions.
        Any other text makes no partition: every trial is averaged by stimulus.
    available : bool array, shape (trial,)
        Trials whose response exists.
    shared : mapping of "shared1000" and "shared515" to the numbers of these stimuli
    complete : bool
        The subject completed every session of the experiment.
    """
    ids, of = np.unique(stimulus, return_inverse=True)
    n_sessions = int(session.max())
    used = available.copy()
    left_out = np.zeros(len(ids), bool)
    lost = ""
    if spec == "algonauts":
        late = session > n_sessions - N_LAST_SESSIONS
        only_late = _all_of(late, of)
        is_shared = np.isin(ids, shared["shared1000"])
        test = only_late & (~is_shared | (complete & (np.bincount(of) == 3)))
        left_out = only_late & ~test
        used &= ~late | test[of]
        lost = "shared with other subjects but not seen three times"
    elif spec in ("shared1000", "shared515"):
        test = np.isin(ids, shared[spec])
        left_out = np.isin(ids, shared["shared1000"]) & ~test
        lost = "shared with other subjects but not seen three times by all"
    elif spec.partition("=")[0] == "session-block":
        first, last = _block(spec, n_sessions)
        inside = (session >= first) & (session <= last)
        test = _all_of(inside, of)
        left_out = ~test & ~_all_of(~inside, of)
        lost = f"seen both in sessions {first} to {last} and in others"
    else:
        test = None
    used &= ~left_out[of]
    present = np.bincount(of[used], minlength=len(ids)) > 0
    notes = [f"left out {left_out.sum()} stimuli {lost}"] if left_out.any() else []
    n_gone = int((~present & ~left_out).sum())
    if n_gone:
        notes.append(f"left out {n_gone} stimuli whose sessions are missing")
    sides = np.zeros(len(ids), bool) if test is None else test
    if test is not None and len(np.unique(test[present])) < 2:
        side = "training" if test[present].all() else "test"
        raise ValueError(f"split {spec!r} leaves no {side} stimulus in the {n_sessions} sessions")
    order = np.flatnonzero(present)
    order = order[np.argsort(sides[order], kind="stable")]
    row_of = np.full(len(ids), -1, np.intp)
    row_of[order] = np.arange(len(order))
    return TrialSplit(
        stimuli=ids[order],
        test=None if test is None else test[order],
        row=np.where(used, row_of[of], -1),
        notes=tuple(notes),
    )


def describe_repeats(split: TrialSplit) -> tuple[str, ...]:
    """Say how many stimuli were averaged from how many trials, for each side of the partition."""
    parts = {"": np.ones(len(split.stimuli), bool)}
    if split.test is not None:
        parts = {"training ": ~split.test, "test ": split.test}
    said = []
    for part, rows in parts.items():
        values, n = np.unique(split.counts[rows], return_counts=True)
        repeats = ", ".join(f"{b} x {a}" for a, b in zip(values.tolist(), n.tolist(), strict=True))
        said.append(
            f"{rows.sum()} {part}stimuli, means of {split.counts[rows].sum()} trials (stimuli x repeats: {repeats})"
        )
    return tuple(said)


def _all_of(trials: NDArray[np.bool_], of: NDArray[Any]) -> NDArray[np.bool_]:
    """Return for each stimulus whether all of its trials are so."""
    return np.asarray(np.bincount(of, weights=~trials) == 0)


def _block(spec: str, n_sessions: int) -> tuple[int, int]:
    _, _, text = spec.partition("=")
    if not text:
        return max(n_sessions - N_LAST_SESSIONS + 1, 1), n_sessions
    first, dash, last = text.partition("-")
    if not first.isdecimal() or not (last if dash else first).isdecimal():
        raise ValueError(f"split must be 'session-block=A-B', got {spec!r}")
    a, b = int(first), int(last if dash else first)
    if not 1 <= a <= b <= n_sessions:
        raise ValueError(f"split {spec!r} must be a block of the sessions 1 to {n_sessions}")
    return a, b
