"""Partitions: the published ones to the letter, and one clear line for what cannot be split."""

import json

import numpy as np
import pytest

from neuroattn.datasets import split_stimuli

IDS = [f"s{i}" for i in range(12)]


@pytest.mark.parametrize(("n", "size"), [(1200, 200), (640, 120)])
def test_split_of_the_v4_sessions(n, size):
    """`default_rng(0).permutation(n)`, first `size` = test, as the notes on these recordings say."""
    (fold,) = split_stimuli(np.arange(n), f"test={size},seed=0")
    permutation = np.random.default_rng(0).permutation(n)
    np.testing.assert_array_equal(fold.test, np.sort(permutation[:size]))
    np.testing.assert_array_equal(fold.train, np.sort(permutation[size:]))
    assert (fold.seed, fold.fold) == (0, 0)


def test_split_of_the_81_objects():
    """`default_rng(seed).permutation(81) % 9` for seeds 0..4, as the notes on this recording say."""
    folds = split_stimuli([f"object {i}" for i in range(81)], "kfold=9,seeds=0-4")
    assert [(fold.seed, fold.fold) for fold in folds] == [(s, k) for s in range(5) for k in range(9)]
    for fold in folds:
        expected = np.random.default_rng(fold.seed).permutation(81) % 9 == fold.fold
        np.testing.assert_array_equal(fold.test, np.flatnonzero(expected))
        assert len(fold.test) == 9


def test_numbers_count_stimuli_in_order_of_appearance():
    """Repeated rows follow their stimulus; the split of the distinct ones is unchanged."""
    (plain,) = split_stimuli(["b", "a", "c", "d"], "test=2,seed=1")
    (repeated,) = split_stimuli(["b", "b", "a", "b", "c", "d", "a"], "test=2,seed=1")
    names = np.array(["b", "b", "a", "b", "c", "d", "a"])
    assert set(names[repeated.test]) == set(np.array(["b", "a", "c", "d"])[plain.test])


def test_given_partition():
    test = np.arange(12) > 8
    (fold,) = split_stimuli(IDS, "given", test=test)
    np.testing.assert_array_equal(fold.test, [9, 10, 11])
    np.testing.assert_array_equal(fold.train, np.arange(9))


def test_file_of_ids(tmp_path):
    path = tmp_path / "split=1.json"  # a file wins over the syntax of options
    path.write_text(json.dumps({"train": ["s3", "s1"], "test": ["s0"]}))
    for spec in (path, str(path)):
        (fold,) = split_stimuli(IDS, spec)
        assert (fold.train.tolist(), fold.test.tolist()) == ([1, 3], [0])


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", [0]), ("2-4", [2, 3, 4]), ("7+2-3", [2, 3, 7]), ("1+1-2", [1, 2])],
)
def test_lists_of_seeds(text, seeds):
    folds = split_stimuli(IDS, f"kfold=2,seeds={text}")
    assert [fold.seed for fold in folds] == [seed for seed in seeds for _ in range(2)]


def test_seed_may_be_left_out():
    for short, long in (("test=3", "test=3,seed=0"), ("kfold=3", "kfold=3,seeds=0")):
        for a, b in zip(split_stimuli(IDS, short), split_stimuli(IDS, long), strict=True):
            np.testing.assert_array_equal(a.test, b.test)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("test=0", "split test=0 must leave stimuli on both sides of 12"),
        ("test=12,seed=3", "split test=12 must leave stimuli on both sides of 12"),
        ("kfold=1", "split kfold=1 must be between 2 and the number of stimuli, 12"),
        ("kfold=13", "split kfold=13 must be between 2"),
        ("test=2.5", "split 'test=2.5' must hold whole numbers, got '2.5'"),
        ("test=-1", "must hold whole numbers, got '-1'"),
        ("kfold=3,seeds=4-1", "must count seeds upwards, got '4-1'"),
        ("kfold=3,seeds=", "must hold whole numbers, got ''"),
        ("kfold=3,seed=0", "split must be 'test=N,seed=S', 'kfold=K,seeds=A-B' or a JSON file, got 'kfold"),
        ("test=3,folds=2", "split must be 'test=N,seed=S'"),
        ("folds=3", "split must be 'test=N,seed=S'"),
        ("given", "split 'given' needs a data set with a partition of its own"),
    ],
)
def test_specifications_that_cannot_be_read(spec, message):
    with pytest.raises(ValueError, match=message):
        split_stimuli(IDS, spec)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (np.zeros(12, bool), "must leave stimuli on both sides, got an empty one"),
        (np.ones(12, bool), "must leave stimuli on both sides, got an empty one"),
        (np.ones(11, bool), r"test must have shape \(12,\), got \(11,\)"),
    ],
)
def test_given_partitions_that_do_not_fit(test, message):
    with pytest.raises(ValueError, match=message):
        split_stimuli(IDS, "given", test=test)


def test_given_partition_with_a_shared_stimulus():
    ids = ["a", "b", "a", "b", "c"]
    with pytest.raises(ValueError, match="puts stimulus 'a' and 1 others on both sides"):
        split_stimuli(ids, "given", test=[False, False, True, True, True])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["s0", "s1"], "test": ["s1", "s2"]}, "lists stimulus 's1' and 0 others on both sides"),
        ({"train": ["s0"], "test": ["x"]}, "lists unknown test stimulus 'x'"),
        ({"train": ["s0"], "test": []}, "has no test stimuli"),
        ({"train": ["s0"]}, 'must be JSON {"train"'),
        (["s0"], 'must be JSON {"train"'),
    ],
)
def test_files_that_do_not_fit(tmp_path, content, message):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        split_stimuli(IDS, path)


def test_damaged_and_missing_files(tmp_path):
    (tmp_path / "split.json").write_text("{")
    with pytest.raises(ValueError, match=r'split.json must be JSON {"train"'):
        split_stimuli(IDS, tmp_path / "split.json")
    with pytest.raises(FileNotFoundError, match=r"gone.json' is not a file; it may be 'given', 'test=N"):
        split_stimuli(IDS, tmp_path / "gone.json")


@pytest.mark.shared_data
@pytest.mark.parametrize(("session", "size"), [("190923", 200), ("210325", 120)])
def test_v4_sessions_split_as_their_notes_say(shared, session, size):
    """No image of these sessions occurs twice, so ids made from pixels leave the published split alone."""
    from neuroattn.datasets import load_arrays

    folder = shared / "data/neural/cowley_v4"
    recording = load_arrays(
        responses=folder / f"responses_{session}.npy",
        orientation="unit-stimulus",
        images=folder / f"images_{session}.zip",
    )
    (fold,) = split_stimuli(recording.stimulus_ids, f"test={size},seed=0")
    expected = np.random.default_rng(0).permutation(recording.n_stimuli)[:size]
    np.testing.assert_array_equal(fold.test, np.sort(expected))
