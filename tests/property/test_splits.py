"""For any identities of the rows: no stimulus on both sides, every row predicted once a seed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroattn.datasets import split_stimuli

# Few distinct ids, so that most rows repeat a stimulus; any text may be an id.
ids_strategy = st.lists(st.text(max_size=3), min_size=2, max_size=40).filter(lambda ids: len(set(ids)) > 1)


def check_fold(ids, fold):
    ids = np.asarray(ids)
    assert not set(ids[fold.train]) & set(ids[fold.test])
    assert len(fold.train)
    assert len(fold.test)
    assert sorted([*fold.train, *fold.test]) == list(range(len(ids)))
    assert np.all(np.diff(fold.train) > 0)
    assert np.all(np.diff(fold.test) > 0)


@given(ids_strategy, st.data())
def test_test_sets_are_disjoint_and_of_the_size_asked_for(ids, data):
    n = len(np.unique(ids))
    size = data.draw(st.integers(1, n - 1))
    (fold,) = split_stimuli(ids, f"test={size},seed={data.draw(st.integers(0, 2**40))}")
    check_fold(ids, fold)
    assert len(np.unique(np.asarray(ids)[fold.test])) == size


@given(ids_strategy, st.data())
def test_folds_are_disjoint_balanced_and_cover_every_row_once(ids, data):
    n = len(np.unique(ids))
    k = data.draw(st.integers(2, n))
    folds = split_stimuli(ids, f"kfold={k},seeds=0-1")
    assert len(folds) == 2 * k
    for seed in (0, 1):
        tests = [fold.test for fold in folds if fold.seed == seed]
        assert sorted(np.concatenate(tests)) == list(range(len(ids)))
        counts = [len(np.unique(np.asarray(ids)[test])) for test in tests]
        assert max(counts) - min(counts) <= 1
    for fold in folds:
        check_fold(ids, fold)


@given(ids_strategy, st.data())
def test_given_partition_is_kept_or_refused(ids, data):
    test = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
    ids_array = np.asarray(ids)
    shared = set(ids_array[test]) & set(ids_array[~test])
    if shared or test.all() or not test.any():
        with pytest.raises(ValueError, match="both sides"):
            split_stimuli(ids, "given", test=test)
    else:
        (fold,) = split_stimuli(ids, "given", test=test)
        check_fold(ids, fold)
        np.testing.assert_array_equal(fold.test, np.flatnonzero(test))


@given(ids=ids_strategy, data=st.data())
def test_splits_written_to_a_file_come_back(ids, data, tmp_path_factory):
    (fold,) = split_stimuli(ids, f"test=1,seed={data.draw(st.integers(0, 99))}")
    names = np.asarray(ids)
    path = tmp_path_factory.mktemp("split") / "split.json"
    path.write_text(json.dumps({"train": names[fold.train].tolist(), "test": names[fold.test].tolist()}))
    (again,) = split_stimuli(ids, path)
    np.testing.assert_array_equal(again.train, fold.train)
    np.testing.assert_array_equal(again.test, fold.test)
