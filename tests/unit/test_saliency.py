"""Saliency must add up to the prediction, and maps must be compared with it beside their controls and their ceiling."""

import numpy as np
import pytest

from neuroattn.analyses import map_saliency, saliency_maps
from neuroattn.encoding import BrainEncoder
from neuroattn.results import label_rois

GRID = (4, 6)
N_TEST = 40


class Subject:
    """A region that reads the marked token of each image, one that reads a fixed token, and one that reads none."""

    def __init__(self, n=400, seed=0):
        rng = np.random.default_rng(seed)
        tokens = rng.normal(size=(n, 8, 24)).astype(np.float32)
        self.place = rng.integers(12, size=n)  # the marked token lies in the upper half
        rows = np.arange(n)
        tokens[:, [0, 5]] *= 0.1
        tokens[rows, 0, self.place] = tokens[:, 5, 20] = 5
        read = np.stack([tokens[rows, 1:5, self.place], tokens[:, 1:5, 20], np.zeros((n, 4))], axis=1)
        y = np.einsum("nrc,rcu->nru", read, rng.normal(size=(3, 4, 5))) + 0.3 * rng.normal(size=(n, 3, 5))
        self.features, self.y = tokens.reshape(n, 8, *GRID), y.reshape(n, 15).astype(np.float32)
        self.X = self.features[-N_TEST:]
        names = ["routed", "elsewhere", "noise"]
        self.rois = label_rois({name: np.arange(15) // 5 == i for i, name in enumerate(names)})

    def fit(self, seed):
        encoder = BrainEncoder(self.rois, heads=2, epochs=20, seed=seed)
        return encoder.fit(self.features[:-N_TEST], self.y[:-N_TEST])


@pytest.fixture(scope="module")
def subject():
    return Subject()


@pytest.fixture(scope="module")
def encoders(subject):
    return [subject.fit(seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def result(subject, encoders):
    return map_saliency(encoders[0], subject.X, others=encoders[1:], top=1 / 24)


def mean_prediction(encoder, X):
    """Return the mean prediction of the units of each region, (stimulus, region)."""
    return encoder.predict(X).reshape(len(X), 3, 5).mean(2)


def blank(encoder, X):
    return np.broadcast_to(encoder.network_.input_mean.numpy()[:, None, None], X.shape)


def test_integrated_gradients_sum_to_the_change_of_the_mean_prediction(subject, encoders):
    encoder, X = encoders[0], subject.X
    change = mean_prediction(encoder, X) - mean_prediction(encoder, blank(encoder, X))
    errors = {
        n: np.abs(
            saliency_maps(encoder, X, n_steps=n).sel(saliency="integrated").sum(("y", "x")) - change
        ).max()
        for n in (2, 64)
    }
    assert errors[64] < 0.05 * change.std()
    assert errors[64] < 0.1 * errors[2]


def test_gradient_times_input_is_the_slope_towards_the_mean_token(subject, encoders):
    encoder, X, step = encoders[0], subject.X[:4], 1e-2
    away = X - blank(encoder, X)
    maps = saliency_maps(encoder, X).sel(saliency="gradient")
    for y, x in ((0, 1), (3, 2)):
        moved = []
        for sign in (1, -1):
            near = X.copy()
            near[:, :, y, x] += sign * step * away[:, :, y, x]
            moved.append(mean_prediction(encoder, near))
        slope = (moved[0] - moved[1]) / (2 * step)
        np.testing.assert_allclose(maps.isel(y=y, x=x), slope, atol=0.02 * np.abs(maps).max().item())


def test_saliency_finds_the_token_that_the_planted_region_reads(subject, encoders):
    maps = abs(saliency_maps(encoders[0], subject.X).sel(saliency="integrated")).stack(token=("y", "x"))
    found = maps.argmax("token").values
    assert (found[:, 0] == subject.place[-N_TEST:]).mean() > 0.8


def test_attention_agrees_with_saliency_where_it_routes_by_content(result):
    overlap = result.sel(statistic="overlap", head="mean", saliency="integrated").isel(query=0)
    assert overlap.agreement > 0.4
    assert overlap.agreement_excess_interval.sel(bound="low") > 0.1
    np.testing.assert_allclose(
        overlap.agreement_excess, overlap.agreement - overlap.agreement_shuffled, rtol=1e-5
    )


def test_deleting_what_is_attended_costs_more_than_either_control(result):
    deletion = result.area_excess.sel(change="deletion").isel(query=0)
    assert (deletion.sel(ranking=["attention", "integrated"]) > 0.1).all()
    assert abs(deletion.sel(ranking="other image", control="random")) < 0.1
    assert (deletion.sel(ranking="random", control="random") == 0).all()


def test_curves_are_those_of_the_definition(subject, encoders):
    encoder, X = encoders[0], subject.X
    result = map_saliency(encoder, X, fractions=[0.125], n_random=1)
    order = (-encoder.attention(X).values.reshape(N_TEST, 3, 24)).argsort(-1)
    mean_token = encoder.network_.input_mean.numpy()
    intact, empty = mean_prediction(encoder, X), mean_prediction(encoder, blank(encoder, X))
    whole = ((intact - empty) ** 2).mean(0)
    for region in range(3):
        deleted, inserted = X.reshape(-1, 8, 24).copy(), X.reshape(-1, 8, 24).copy()
        rows = np.arange(N_TEST)[:, None]
        deleted[rows, :, order[:, region, :3]] = mean_token
        inserted[rows, :, order[:, region, 3:]] = mean_token
        changes = [
            ((mean_prediction(encoder, x.reshape(X.shape))[:, region] - intact[:, region]) ** 2).mean()
            for x in (deleted, inserted)
        ]
        expected = [changes[0] / whole[region], 1 - changes[1] / whole[region]]
        curve = result.curve.sel(ranking="attention").isel(query=region, fraction=0)
        np.testing.assert_allclose(curve, expected, rtol=1e-3, atol=1e-4)
        area = result.area.sel(ranking="attention").isel(query=region)
        np.testing.assert_allclose(area, np.array(expected) / 2 + 0.875 / 2, rtol=1e-3, atol=1e-4)
    assert result.curve.fraction.values == [0.125]


def test_seeds_are_the_ceiling_of_what_a_map_says_of_a_region(subject, encoders, result):
    overlap, spearman = (result.sel(statistic=name).isel(query=0) for name in ("overlap", "spearman"))
    assert overlap.between_seeds.sel(source="integrated") > 0.4
    assert (spearman.between_seeds < 0.99).all()
    across = overlap.agreement_across.sel(head="mean", saliency="integrated")
    assert result.agreement_shuffled.sel(statistic="overlap", head="mean", saliency="integrated")[0] < across
    same = map_saliency(encoders[0], subject.X, others=[encoders[0]], fractions=[0.5], n_random=1)
    np.testing.assert_allclose(same.between_seeds.sel(statistic="spearman"), 1, rtol=1e-5)
    np.testing.assert_allclose(
        same.agreement_across.sel(statistic="spearman"), same.agreement.sel(statistic="spearman"), rtol=1e-5
    )
    means = result.between_seeds.clip(min=0).sel(statistic="spearman")
    expected = np.sqrt(means.sel(source="attention") * means.sel(source="gradient"))
    np.testing.assert_allclose(result.ceiling.sel(statistic="spearman", saliency="gradient"), expected)
    alone = map_saliency(encoders[0], subject.X, fractions=[0.5], n_random=1)
    assert alone.between_seeds.isnull().all()
    assert alone.ceiling.isnull().all()
    assert alone.agreement_across.isnull().all()


def test_intervals_hold_the_means_and_the_dims_are_as_said(result):
    for name in ("agreement", "agreement_across", "agreement_excess", "between_seeds", "area", "area_excess"):
        low, high = (result[f"{name}_interval"].sel(bound=bound) for bound in ("low", "high"))
        assert ((low <= result[name]) & (result[name] <= high)).all(), name
        assert (low < high).any()
    assert result.agreement.dims == ("statistic", "head", "saliency", "query")
    assert result.area_excess.dims == ("change", "ranking", "control", "query")
    assert result.roi.values.tolist() == ["routed", "elsewhere", "noise"]
    assert result.attrs["resampled"] == "stimulus"
    assert result.completeness_error.isel(query=0) < 0.2


def test_a_seed_fixes_the_result(subject, encoders):
    options = {"fractions": [0.2], "n_random": 2, "seed": 3}
    a, b = (map_saliency(encoders[0], subject.X[:6], **options) for _ in range(2))
    assert a.identical(b)


def test_what_cannot_be_explained_is_refused(subject, encoders):
    encoder, X = encoders[0], subject.X
    with pytest.raises(ValueError, match="fractions must increase"):
        map_saliency(encoder, X, fractions=[0.2, 0.1])
    other = BrainEncoder(None, epochs=1, heads=2).fit(subject.features[:40], subject.y[:40])
    with pytest.raises(ValueError, match=r"others\[0\] must have the queries of encoder"):
        map_saliency(encoder, X, others=[other])
    by_unit = BrainEncoder(subject.rois, readout="unit", epochs=1, heads=2)
    with pytest.raises(ValueError, match="readout must be 'roi' or 'hemisphere'"):
        saliency_maps(by_unit.fit(subject.features[:40], subject.y[:40]), X)
    layers = {name: subject.features[:40] for name in "ab"}
    mixed = BrainEncoder(subject.rois, epochs=1, heads=2).fit(layers, subject.y[:40])
    with pytest.raises(ValueError, match="encoder must read features of one layer"):
        saliency_maps(mixed, layers)
