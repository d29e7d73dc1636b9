"""Partitions of stimuli: no stimulus is ever on both sides."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroattn._checks import check_shape


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
    try:
        content: Any = json.loads(path.read_text())
        sides = {side: np.asarray(content[side]).astype(str) for side in ("train", "test")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'split file {path} must be JSON {{"train": [ids], "test": [ids]}}: {error}'
        ) from None
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
