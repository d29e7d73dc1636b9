"""Laws of scanpath models over free layouts and paths."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroattn.datasets import ObjectScene, ScanpathDataset, make_search_arrays
from neuroattn.results import Scanpath
from neuroattn.scanpath import CentreBias, ConditionalLogit, MemoryFullRandom, NearestUnvisited, UniformChoice

FITTED = [
    model.fit(make_search_arrays(n_scenes=8, n_observers=3, seed=0))
    for model in (
        UniformChoice(),
        CentreBias(n_columns=16),
        ConditionalLogit(),
        MemoryFullRandom(lapse=0.2),
        NearestUnvisited(lapse=0.2),
    )
]
COMMON = settings(max_examples=25, deadline=None)


@st.composite
def scenes(draw):
    """Free boxes, which may overlap, and a path over them."""
    n = draw(st.integers(2, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    boxes = np.column_stack([rng.uniform(0, 150, n), rng.uniform(0, 90, n), rng.uniform(8, 40, (n, 2))])
    labels = rng.choice(["cup", "pen"], n)
    scene = ObjectScene(boxes, (200, 140), labels=labels, target_label="cup", name="free")
    return scene, rng.integers(n, size=draw(st.integers(0, 6)))


@pytest.mark.parametrize("model", FITTED, ids=lambda model: type(model).__name__)
@COMMON
@given(case=scenes())
def test_probabilities_sum_to_one_and_the_future_changes_nothing(model, case):
    scene, path = case
    steps = model.conditional(scene, path)
    np.testing.assert_allclose(np.exp(steps.log_prob).sum("object"), 1, rtol=1e-9)
    assert (steps.end_log_prob <= 1e-12).all()
    half = len(path) // 2
    earlier = model.conditional(scene, path[:half])
    np.testing.assert_allclose(earlier.log_prob, steps.log_prob[: half + 1], atol=1e-12)


@pytest.mark.parametrize("model", FITTED, ids=lambda model: type(model).__name__)
@COMMON
@given(case=scenes(), data=st.data())
def test_the_order_of_objects_does_not_matter(model, case, data):
    scene, path = case
    order = np.array(data.draw(st.permutations(range(scene.n_objects))))
    labels = None if scene.labels is None else [scene.labels[i] for i in order]
    other = ObjectScene(scene.boxes[order], scene.size, labels=labels, target_label="cup", name="free")
    place = np.argsort(order)
    here = model.conditional(scene, path).log_prob.values
    there = model.conditional(other, place[path]).log_prob.values
    np.testing.assert_allclose(there, here[:, order], atol=1e-9)


@pytest.mark.parametrize("model", FITTED, ids=lambda model: type(model).__name__)
@COMMON
@given(case=scenes(), seed=st.integers(0, 1000), no_return=st.booleans(), top_p=st.floats(0.1, 1))
def test_samples_score_what_they_say(model, case, seed, no_return, top_p):
    scene, _ = case
    samples = model.sample(scene, n=3, seed=seed, max_fixations=5, no_return=no_return, top_p=top_p)
    for i, n in enumerate(samples.length.values.tolist()):
        path = samples.object.values[i, :n]
        assert (samples.object.values[i, n:] == -1).all()
        if no_return:
            assert len(set(path.tolist())) == n
        steps = model.conditional(scene, path).log_prob.values
        np.testing.assert_allclose(samples.log_prob.values[i, :n], steps[np.arange(n), path], atol=1e-9)
    assert samples.occupancy.sum() == pytest.approx(1 if samples.length.sum() else 0)


@COMMON
@given(case=scenes(), gap=st.integers(0, 6))
def test_background_fixations_leave_the_others_as_they_are(case, gap):
    scene, path = case
    model = FITTED[2]

    def log_prob(objects):
        x = np.where(objects < 0, 1.0, scene.x[objects])
        one = Scanpath(
            x, np.where(objects < 0, 1.0, scene.y[objects]), scene.size, objects=objects, first_fixation="free",
            attrs={"scene": "free"},
        )  # fmt: skip
        values = model.log_prob(ScanpathDataset.from_scanpaths([one], scenes={"free": scene})).values[0]
        return values[np.isfinite(values)]

    with_gap = np.insert(path, min(gap, len(path)), -1)
    np.testing.assert_allclose(log_prob(with_gap), log_prob(path))
