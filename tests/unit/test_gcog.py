"""Questions about grids of coloured shapes: answers, splits, encoding."""

import numpy as np
import pytest
import xarray as xr

from neuroattn.datasets import make_gcog
from neuroattn.datasets.gcog import N_SLOTS, SPLITS


@pytest.fixture(scope="module")
def data():
    return make_gcog(n_train=1500, n_test=300, seed=1)


def interpret(tokens, words, colours, shapes, answers):
    """Answer from the tokens alone, by another way than the generator: a stack over the program read backwards."""
    cells = [tuple(cell[1:]) for cell in tokens[1 + N_SLOTS :] if cell[0]]
    stack = []
    for word, colour, shape in tokens[N_SLOTS:0:-1]:
        match words[word]:
            case "exist":
                stack.append("yes" if cells.count((colour, shape)) else "no")
            case "colour":
                assert sum(cell[1] == shape for cell in cells) == 1
                stack.append(next(colours[c - 1] for c, s in cells if s == shape))
            case "shape":
                assert sum(cell[0] == colour for cell in cells) == 1
                stack.append(next(shapes[s - 1] for c, s in cells if c == colour))
            case "same":
                stack.append("yes" if stack.pop() == stack.pop() else "no")
            case "if":
                condition, then, otherwise = stack.pop(), stack.pop(), stack.pop()
                stack.append(then if condition == "yes" else otherwise)
    (answer,) = stack
    return answers.index(answer)


def test_answers_are_those_of_another_interpreter(data):
    names = [list(data.attrs[name]) for name in ("words", "colours", "shapes", "answers")]
    found = [interpret(tokens.tolist(), *names) for tokens in data.tokens.values]
    np.testing.assert_array_equal(found, data.label)
    np.testing.assert_array_equal(np.asarray(data.attrs["answers"])[data.label], data.answer)


def test_splits_share_no_item(data):
    """An item is its program and its scene, wherever the program stands among the slots."""
    keys = [
        (program, scene.tobytes())
        for program, scene in zip(data.program.values, data.tokens.values[:, 1 + N_SLOTS :], strict=True)
    ]
    assert len(set(keys)) == len(keys) == data.sizes["item"]


def part(data, split):
    return data.isel(item=np.flatnonzero(data.split == split))


def novelty(one):
    """Return whether items hold an object, or an operand, that is kept from training."""
    word, colour, shape = (one.tokens.sel(field=name) for name in ("word", "colour", "shape"))
    ring, orange = len(one.attrs["shapes"]), len(one.attrs["colours"])
    objects = ((colour == shape) & (colour > 0)).any("token")
    words = list(one.attrs["words"])
    rings = (word == words.index("colour")) & (shape == ring)
    oranges = (word == words.index("shape")) & (colour == orange)
    return objects.values, (rings | oranges).any("token").values


def test_each_split_is_new_in_one_way(data):
    expected = {"train": ((5, 8), {1, 2}), "familiar": ((5, 8), {1, 2}), "distractor": ((12, 15), {1, 2})}
    expected |= {"systematic": ((5, 8), {1, 2}), "productive": ((5, 8), {3})}
    for split, ((few, many), depths) in expected.items():
        one = part(data, split)
        assert (int(one.n_objects.min()), int(one.n_objects.max())) == (few, many), split
        assert set(one.depth.values.tolist()) == depths
        held_object, held_operand = novelty(one)
        if split == "systematic":
            np.testing.assert_array_equal(held_object, one.novel == "object")
            np.testing.assert_array_equal(held_operand, one.novel == "operand")
            assert (one.novel == "object").sum() == (one.novel == "operand").sum() == 150
        else:
            assert not held_object.any(), split
            assert not held_operand.any(), split
    assert set(data.split.values) == set(SPLITS)


def test_training_meets_every_place_and_answer(data):
    train = part(data, "train")
    assert (train.tokens.sel(field="word") > 0).any("item").all()
    assert set(train.label.values) == set(range(len(data.attrs["answers"])))


def test_neither_answer_is_the_better_guess(data):
    for task in ("exist", "same(colour, colour)", "same(shape, shape)"):
        yes = (part(data, "train").answer[part(data, "train").task == task] == "yes").mean()
        assert 0.4 < yes < 0.6, task


def test_seed_decides():
    first, again, other = (make_gcog(30, 5, seed=seed) for seed in (3, 3, 4))
    xr.testing.assert_identical(first, again)
    assert (first.tokens != other.tokens).any()


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match="n_train must be at least 1, got 0"):
        make_gcog(0)
