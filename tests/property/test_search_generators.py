"""Laws of the displays of search experiments, whatever is asked for."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroattn.search import Condition, Experiment, items
from neuroattn.search.experiments import EXPERIMENTS

# At half the published resolution, so that many displays can be drawn.
SMALL = {name: make(n_per_size=1, px_per_degree=15) for name, make in EXPERIMENTS.items()}
BARS = items.bar(0), items.bar(20)


def with_items(trial):
    """Return which cells hold something."""
    drawn = (trial.image != trial.background).any(-1)
    return (trial.cells & drawn).any((1, 2))


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(list(SMALL)),
    seed=st.integers(0, 10**6),
    condition=st.integers(0, 1),
    data=st.data(),
)
def test_published_displays(name, seed, condition, data):
    experiment = SMALL[name]
    set_size = data.draw(st.sampled_from(experiment.set_sizes))
    experiment = replace(experiment, seed=seed, set_sizes=[set_size])
    (trial,) = experiment.trials(experiment.conditions[condition].name)
    filled = with_items(trial)
    assert filled.sum() == set_size == trial.attrs["set_size"]
    assert (trial.cells.sum(0) <= 1).all()
    # All ink lies inside the cells, so items of different cells cannot overlap.
    assert not ((trial.image != trial.background).any(-1) & ~trial.cells.any(0)).any()
    cell = trial.attrs["target_cell"]
    assert filled[cell]
    np.testing.assert_array_equal(trial.target_mask, trial.cells[cell])
    assert places_of(trial) == [cell], "the target is in its own cell and in no other"


def places_of(trial):
    """Return the cells in which the target's patch occurs exactly."""
    (height, width), found = trial.target.shape[:2], []
    for i, cell in enumerate(trial.cells):
        rows, columns = np.nonzero(cell)
        part = trial.image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1, 0]
        windows = np.lib.stride_tricks.sliding_window_view(part, (height, width))
        if (windows == trial.target[..., 0]).all((2, 3)).any():
            found.append(i)
    return found


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    grid=st.tuples(st.integers(1, 4), st.integers(2, 4)),
    field=st.tuples(st.floats(10, 14), st.floats(10, 16)),
    scale=st.floats(6, 14),
)
def test_free_pairs_fill_any_field(seed, grid, field, scale):
    sizes = (1, grid[0] * grid[1])
    experiment = Experiment.pair(
        *BARS, set_sizes=sizes, field_deg=field, grid=grid, n_per_size=2, px_per_degree=scale, seed=seed
    )
    for trial in experiment.trials():
        assert trial.image.shape[:2] == experiment.size_px
        assert with_items(trial).sum() == trial.attrs["set_size"]
        assert trial.cells[trial.attrs["target_cell"]].sum() == np.prod(experiment.cell_px)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), more=st.integers(1, 4))
def test_a_display_depends_on_its_own_place_only(seed, more):
    experiment = replace(SMALL["lighting"], seed=seed)
    (kept,) = (t for t in experiment.trials("shaded top to bottom") if t.attrs["set_size"] == 6)
    longer = replace(experiment, n_per_size=1 + more, set_sizes=(6, 12)).trials()
    same = [t for t in longer if {**t.attrs, "target_cell": 0} == {**kept.attrs, "target_cell": 0}]
    assert len(same) == 1
    np.testing.assert_array_equal(same[0].image, kept.image)
    others = [t for t in longer if t is not same[0] and t.attrs["set_size"] == 6]
    assert others
    assert all((t.image != kept.image).any() for t in others)
    other_seed = replace(experiment, seed=seed + 1).trials("shaded top to bottom")
    assert any((t.image != kept.image).any() for t in other_seed if t.attrs["set_size"] == 6)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 30),
    variants=st.sampled_from(["cycle", "random", "distinct"]),
    n_variants=st.integers(1, 9),
)
def test_variants(seed, n, variants, n_variants):
    distractors = [items.bar(10 * i) for i in range(1, n_variants + 1)]
    target = items.bar(0)
    condition = Condition("bar", [target], distractors, variants)
    shown, place = condition.draw_items(n, np.random.default_rng(seed))
    assert len(shown) == n
    assert [i for i, item in enumerate(shown) if item is target] == [place]
    if variants == "cycle":
        assert all(shown[i] is distractors[i % n_variants] for i in range(n) if i != place)
    if variants == "distinct":
        counts = [sum(item is distractor for item in shown) for distractor in distractors]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("name", list(SMALL))
def test_experiments_of_one_seed_share_no_displays(name):
    ours = SMALL[name].trials()[0]
    renamed = replace(SMALL[name], name="another").trials()[0]
    assert (ours.image != renamed.image).any()
