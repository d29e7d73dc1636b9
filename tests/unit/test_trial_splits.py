"""Partitions of trials: the published rules to the letter, and no stimulus on both sides of any fold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroattn.datasets import split_stimuli
from neuroattn.datasets.splits import describe_repeats, split_trials
from neuroattn.datasets.trials import add_trials, divide_rows, standardize
from neuroattn.encoding.estimators import inner_folds
from neuroattn.encoding.network_encoders import _holdout

SHARED = {"shared1000": np.array([1, 2, 3, 4, 5]), "shared515": np.array([2, 3])}


def split(trials, spec, *, available=None, complete=True):
    """``trials`` lists (stimulus, session)."""
    stimulus, session = np.array(trials).T
    available = np.ones(len(stimulus), bool) if available is None else np.array(available)
    return split_trials(stimulus, session, spec, available=available, shared=SHARED, complete=complete)


# Sessions 4 to 6 are the last three of six.
TRIALS = [
    (10, 1), (10, 2), (10, 5),  # training: its trial in the last sessions is left out
    (11, 3),                    # training
    (1, 1), (1, 4), (1, 6),     # shared, seen before: training
    (20, 4), (20, 6),           # test
    (21, 5),                    # test
    (2, 4), (2, 5), (2, 6),     # shared, all three in the last sessions: test for those who completed all
    (3, 4), (3, 6),             # shared, seen twice: on neither side
]  # fmt: skip


@pytest.mark.parametrize(("complete", "test"), [(True, [2, 20, 21]), (False, [20, 21])])
def test_rule_of_the_algonauts_challenge(complete, test):
    found = split(TRIALS, "algonauts", complete=complete)
    assert found.stimuli[~found.test].tolist() == [1, 10, 11]
    assert found.stimuli[found.test].tolist() == test
    row_of = {stimulus: row for row, stimulus in enumerate(found.stimuli.tolist())}
    for (stimulus, session), row in zip(TRIALS, found.row.tolist(), strict=True):
        used = session < 4 or stimulus in test
        assert row == (row_of[stimulus] if used else -1)
    assert found.counts.tolist() == ([1, 2, 1, 3, 2, 1] if complete else [1, 2, 1, 2, 1])
    n_left_out = 1 if complete else 2
    assert found.notes == (
        f"left out {n_left_out} stimuli shared with other subjects but not seen three times",
    )


@pytest.mark.parametrize(
    ("spec", "train", "test"),
    [
        ("shared1000", [10, 11, 20, 21], [1, 2, 3]),
        ("shared515", [10, 11, 20, 21], [2, 3]),
        ("session-block", [11], [2, 3, 20, 21]),
        ("session-block=4-6", [11], [2, 3, 20, 21]),
        ("session-block=5", [1, 3, 11, 20], [21]),
        ("kfold=3", [1, 2, 3, 10, 11, 20, 21], None),
    ],
)
def test_other_rules(spec, train, test):
    found = split(TRIALS, spec)
    assert (found.test is None) == (test is None)
    assert found.stimuli.tolist() == train + (test or [])
    if test is not None:
        assert found.stimuli[found.test].tolist() == test
    seen = {stimulus for stimulus, _ in TRIALS}
    n_lost = len(seen) - len(found.stimuli)
    assert [note.split(" stimuli")[0] for note in found.notes] == ([f"left out {n_lost}"] if n_lost else [])
    # Every trial of a stimulus that is kept is averaged.
    kept = np.isin([stimulus for stimulus, _ in TRIALS], found.stimuli)
    assert np.array_equal(found.row >= 0, kept)


def test_missing_sessions_take_their_stimuli_along():
    available = [session != 5 for _, session in TRIALS]
    found = split(TRIALS, "algonauts", available=available)
    assert found.stimuli[found.test].tolist() == [2, 20]  # by the design, not by what is left of it
    assert found.counts[found.test].tolist() == [2, 2]
    assert "left out 1 stimuli whose sessions are missing" in found.notes
    said = describe_repeats(found)
    assert said[0] == "3 training stimuli, means of 4 trials (stimuli x repeats: 2 x 1, 1 x 2)"
    assert said[1] == "2 test stimuli, means of 4 trials (stimuli x repeats: 2 x 2)"


@pytest.mark.parametrize(("spec", "side"), [("session-block=1-6", "training"), ("session-block=2", "test")])
def test_a_side_without_stimuli_is_refused(spec, side):
    with pytest.raises(ValueError, match=f"split '{spec}' leaves no {side} stimulus in the 6 sessions"):
        split(TRIALS, spec)


@pytest.mark.parametrize(
    "spec", ["algonauts", "shared1000", "shared515", "session-block", "session-block=1-2"]
)
def test_splits_of_trials_are_not_made_from_rows(spec):
    with pytest.raises(ValueError, match=f"split '{spec}' is made while trials are read"):
        split_stimuli(["a", "b"], spec)


trials_strategy = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 7)), min_size=8, max_size=60)
SPECS = [
    "algonauts",
    "shared1000",
    "shared515",
    "session-block",
    "session-block=2-4",
    "kfold=3,seeds=0-1",
    "test=2",
]


@given(trials_strategy, st.sampled_from(SPECS), st.booleans())
def test_no_stimulus_is_on_both_sides_of_any_fold_outer_or_inner(trials, spec, complete):
    try:
        found = split(trials, spec, complete=complete)
    except ValueError:
        return  # one side is empty
    assert len(np.unique(found.stimuli)) == len(found.stimuli)
    assert found.counts.min() >= 1
    used = found.row >= 0
    stimulus = np.array(trials)[:, 0]
    np.testing.assert_array_equal(found.stimuli[found.row[used]], stimulus[used])
    ids = np.array([f"nsd-{number}" for number in found.stimuli])
    if found.test is None:
        if len(ids) < 4:
            return
        folds = split_stimuli(ids, spec)
    else:
        folds = split_stimuli(ids, "given", test=found.test)
    for fold in folds:
        assert not set(ids[fold.train]) & set(ids[fold.test])
        groups = ids[fold.train]
        if len(groups) < 2:
            continue
        for train, test in inner_folds(len(groups), 3, groups).split():
            assert not set(groups[train]) & set(groups[test])
        train, watched = _holdout(len(groups), 0.2, 0, groups)
        assert not set(groups[train]) & set(groups[watched])


@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(1, 3))
def test_standardization_forgets_offset_and_scale(seed, n_trials, n_units):
    rng = np.random.default_rng(seed)
    trials = rng.normal(size=(n_trials, n_units))
    z, deviation = standardize(trials)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose((z**2).mean(0), 1, atol=1e-5)
    np.testing.assert_allclose(deviation, trials.std(0), rtol=1e-5)
    np.testing.assert_allclose(standardize(7 + 3 * trials)[0], z, atol=1e-4)


def test_units_that_cannot_be_standardized_are_marked():
    z, deviation = standardize([[1, 2, np.nan, np.inf], [1, 4, 0, 0], [1, 3, 1, 1]])
    assert np.isnan(z).all(0).tolist() == [True, False, True, True]
    assert np.isnan(deviation).tolist() == [True, False, True, True]


def test_trials_are_averaged_by_row():
    total = np.zeros((3, 2), np.float32)
    add_trials(total, np.arange(8, dtype=np.float32).reshape(4, 2), np.array([2, 0, -1, 2]))
    divide_rows(total, np.array([1, 1, 2]))
    assert total.tolist() == [[2, 3], [0, 0], [3, 4]]
