"""Masking what a region attends to must hurt where a planted region looks at one token, and nowhere else."""

import numpy as np
import pytest
import xarray as xr
from sklearn.exceptions import NotFittedError

from neuroattn.analyses import masking_effect
from neuroattn.encoding import BrainEncoder
from neuroattn.metrics import pearson_r
from neuroattn.results import label_rois

GRID = (4, 6)
ROIS = ["routed", "elsewhere", "noise"]


class Subject:
    """A region that reads the marked token of each image, one that reads a fixed token, and one that reads none."""

    def __init__(self, n=550, n_test=150, seed=0):
        rng = np.random.default_rng(seed)
        tokens = rng.normal(size=(n, 8, 24)).astype(np.float32)
        place = rng.integers(12, size=n)  # the marked token lies in the upper half
        rows = np.arange(n)
        tokens[:, [0, 5]] *= 0.1
        tokens[rows, 0, place] = tokens[:, 5, 20] = 5
        read = np.stack([tokens[rows, 1:5, place], tokens[:, 1:5, 20], np.zeros((n, 4))], axis=1)
        weights = rng.normal(size=(3, 4, 5))
        noise = rng.normal(size=(n, 3, 5))
        y = (np.einsum("nrc,rcu->nru", read, weights) + noise).reshape(n, 15).astype(np.float32)
        self.place = place[-n_test:]
        self.X, self.y = tokens.reshape(n, 8, *GRID)[-n_test:], y[-n_test:]
        self.rois = label_rois({name: np.arange(15) // 5 == i for i, name in enumerate(ROIS)})
        self.encoder = BrainEncoder(self.rois, heads=2, epochs=20, seed=seed)
        self.encoder.fit(tokens.reshape(n, 8, *GRID)[:-n_test], y[:-n_test])

    def maps(self, values):
        """Label maps (stimulus, query, token) as the encoder does."""
        own = self.encoder.attention(self.X)
        return own.copy(data=np.asarray(values, dtype=float).reshape(own.shape))


@pytest.fixture(scope="module")
def subject():
    return Subject()


@pytest.fixture(scope="module")
def effect(subject):
    return masking_effect(subject.encoder, subject.X, subject.y, fractions=[0.05, 0.1], n_random=5)


def by_region(values, roi):
    return values.isel(query=values.roi.values.tolist().index(roi))


def test_masking_hurts_the_region_that_looks_at_one_token(effect):
    routed = by_region(effect, "routed")
    assert routed.correlation > 0.5
    assert routed.explanatory
    assert (routed["drop"].sel(mask="attended") > 0.5 * routed.correlation).all()
    assert (routed["excess_interval"].sel(bound="low") > 0.2).all()


def test_a_map_that_is_the_same_on_all_images_beats_random_tokens_only(effect):
    fixed = by_region(effect, "elsewhere")
    assert fixed.explanatory
    assert abs(fixed.mean_excess.sel(control="shuffled")) < 0.05 < fixed.mean_excess.sel(control="random")


def test_a_region_without_signal_is_not_explained(effect):
    noise = by_region(effect, "noise")
    assert not noise.explanatory
    assert (abs(noise["drop"]) < 0.1).all()


def test_random_maps_explain_nothing(subject):
    rng = np.random.default_rng(1)
    maps = subject.maps(rng.random((len(subject.X), 3, 24)))
    effect = masking_effect(
        subject.encoder, subject.X, subject.y, fractions=[0.1], attention=maps, n_random=5
    )
    assert not effect.explanatory.any()
    assert (abs(effect.mean_excess) < 0.1).all()


def test_maps_of_the_planted_token_are_explanatory_for_the_region_that_reads_it(subject):
    truth = np.zeros((len(subject.X), 3, 24))
    truth[np.arange(len(subject.X)), :, subject.place] = 1
    effect = masking_effect(
        subject.encoder, subject.X, subject.y, fractions=[1 / 24], attention=subject.maps(truth), n_random=5
    )
    assert effect.explanatory.values.tolist() == [True, False, False]


def test_drops_are_those_of_the_definition(subject):
    """The attended token replaced by the mean of training, and r of the region's units before and after."""
    truth = np.zeros((len(subject.X), 3, 24))
    truth[np.arange(len(subject.X)), :, subject.place] = 1
    effect = masking_effect(
        subject.encoder, subject.X, subject.y, fractions=[1 / 24], attention=subject.maps(truth), n_random=1
    )
    masked = subject.X.reshape(-1, 8, 24).copy()
    masked[np.arange(len(masked)), :, subject.place] = subject.encoder.network_.input_mean.numpy()
    before, after = (
        pearson_r(subject.y, subject.encoder.predict(x)) for x in (subject.X, masked.reshape(-1, 8, *GRID))
    )
    np.testing.assert_allclose(effect.correlation, before.reshape(3, 5).mean(1), rtol=1e-6)
    drop = effect["drop"].sel(mask="attended")[0]
    np.testing.assert_allclose(drop, (before - after).reshape(3, 5).mean(1), rtol=1e-5, atol=1e-7)
    unit_drop = effect.unit_drop.sel(mask="attended")[0]
    np.testing.assert_allclose(unit_drop, before - after, rtol=1e-5, atol=1e-7)
    low, high = effect.drop_interval.sel(mask="attended", bound="low"), effect.drop_interval.sel(bound="high")
    assert (low <= drop).all()
    assert (drop <= high.sel(mask="attended")).all()


def test_a_seed_fixes_the_result_and_constant_units_are_left_out(subject):
    y = subject.y.copy()
    y[:, 0] = 1.0
    first, second, other = (
        masking_effect(subject.encoder, subject.X, y, fractions=[0.1], n_random=2, seed=s) for s in (0, 0, 1)
    )
    xr.testing.assert_identical(first, second)
    assert not first.equals(other)
    assert np.isnan(first.unit_drop[..., 0]).all()
    assert np.isfinite(first["drop"]).all()
    np.testing.assert_allclose(
        first["drop"].sel(mask="attended")[0, 0], first.unit_drop.sel(mask="attended")[0, 1:5].mean()
    )


def test_wrong_maps_and_encoders_are_refused(subject):
    X, y, maps = subject.X, subject.y, subject.encoder.attention(subject.X)
    with pytest.raises(ValueError, match="attention must have dims stimulus, query, y and x"):
        masking_effect(subject.encoder, X, y, attention=subject.encoder.attention(X, per_head=True))
    with pytest.raises(ValueError, match=r"attention must have shape \(150, 3, 4, 6\), got \(149, 3, 4, 6\)"):
        masking_effect(subject.encoder, X, y, attention=maps[1:])
    with pytest.raises(ValueError, match="attention must have the coordinate roi of the encoder's queries"):
        masking_effect(subject.encoder, X, y, attention=maps[:, ::-1])
    with pytest.raises(ValueError, match="fractions must be between 0 and 1"):
        masking_effect(subject.encoder, X, y, fractions=[1.5])
    with pytest.raises(ValueError, match="number of fractions must be at least 1, got 0"):
        masking_effect(subject.encoder, X, y, fractions=[])
    with pytest.raises(NotFittedError):
        masking_effect(BrainEncoder(), X, y)
    with pytest.raises(ValueError, match="readout must be 'roi' or 'hemisphere' to tell regions, got 'unit'"):
        masking_effect(BrainEncoder(readout="unit", epochs=1, heads=2).fit(X[:20], y[:20]), X, y)
