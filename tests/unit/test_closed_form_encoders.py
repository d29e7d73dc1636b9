"""Encoders in closed form: blocks of units, banded ridge, regression on principal components."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

from neuroattn.datasets import Responses, Rows
from neuroattn.encoding import BandedRidgeEncoder, PcaRegressionEncoder, RidgeEncoder, load_encoder
from neuroattn.encoding.estimators import _linear_kernel, _solve, inner_folds
from neuroattn.metrics import pearson_r

BLOCKS = "neuroattn.encoding.estimators._BLOCK_NUMBERS"
CHECKS = [
    check for _, check in estimator_checks_generator(PcaRegressionEncoder()) if "array_api" not in str(check)
]


def make_data(n=90, n_units=7, seed=0):
    rng = np.random.default_rng(seed)
    X = {"useful": rng.normal(size=(n, 4)), "useless": rng.normal(size=(n, 10, 3, 5))}
    X = {name: x.astype(np.float32) for name, x in X.items()}
    noise = rng.normal(size=(n, n_units))
    y = X["useful"] @ rng.normal(size=(4, n_units)) + 0.5 * noise + 3
    return X, y.astype(np.float32)


def rows_of(X, rows):
    return {name: x[rows] for name, x in X.items()}


ENCODERS = {
    "ridge": lambda: RidgeEncoder(),
    "ridge, one penalty": lambda: RidgeEncoder(alpha_per_target=False),
    "banded": lambda: BandedRidgeEncoder(n_iter=4),
    "components": lambda: PcaRegressionEncoder(10),
}


def features_for(encoder, X):
    return X if isinstance(encoder, BandedRidgeEncoder) else X["useless"]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.func.__name__)
def test_regression_on_components_is_a_scikit_learn_estimator(check):
    check(PcaRegressionEncoder())


@pytest.mark.parametrize("name", ENCODERS)
def test_blocks_of_units_do_not_change_the_fit(name, monkeypatch):
    X, y = make_data()
    whole = ENCODERS[name]()
    features = features_for(whole, X)
    predicted = whole.fit(features, y).predict(features)
    monkeypatch.setattr(BLOCKS, 2 * len(y) + 1)  # two units at a time, and one
    blocks = ENCODERS[name]().fit(features, y)
    for array in ("alphas_", "dual_coef_", "block_weight_", "intercept_", "coef_"):
        if hasattr(whole, array):
            np.testing.assert_allclose(getattr(blocks, array), getattr(whole, array), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(blocks.predict(features), predicted, rtol=1e-9)


class Watched(Responses):
    """Responses that note the largest number of rows that is read at once."""

    most = 0

    def __getitem__(self, rows):
        out = super().__getitem__(rows)
        type(self).most = max(self.most, len(out))
        return out

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("responses must not be read whole")


@pytest.mark.parametrize("name", ENCODERS)
def test_responses_on_disk_are_never_read_whole(name, tmp_path, monkeypatch):
    X, y = make_data(n=270)
    np.save(tmp_path / "left.npy", y[:, :3])
    np.save(tmp_path / "right.npy", y[:, 3:])
    halves = [np.load(tmp_path / f"{side}.npy", mmap_mode="r") for side in ("left", "right")]
    monkeypatch.setattr(Watched, "most", 0)
    monkeypatch.setattr(BLOCKS, 4 * len(y))
    encoder = ENCODERS[name]()
    encoder.fit(features_for(encoder, X), Watched([halves]))
    assert 0 < Watched.most < 270
    expected = ENCODERS[name]().fit(features_for(encoder, X), y)
    features = features_for(encoder, X)
    np.testing.assert_allclose(encoder.predict(features), expected.predict(features), rtol=1e-6, atol=1e-6)


def test_rows_of_responses_are_checked():
    X, y = make_data()
    y[3, 2] = np.nan
    half = Rows(Responses([[y]]), np.arange(45))
    with pytest.raises(ValueError, match="y must be finite, got NaN or infinity"):
        RidgeEncoder().fit(X["useful"][:45], half)
    with pytest.raises(ValueError, match=r"y must have shape \(90, unit\), got \(45, 7\)"):
        RidgeEncoder().fit(X["useful"], half)


@pytest.mark.parametrize("n_units", [3, 40])
def test_one_penalty_for_all_units_is_the_one_with_the_least_error_over_all(n_units):
    X, y = make_data(n=30, n_units=n_units)
    y = y.astype(float) * np.where(np.arange(n_units) == 0, 5, 1)
    encoder = RidgeEncoder(alpha_per_target=False).fit(X["useful"], y)
    kernel = _linear_kernel(encoder.X_fit_, encoder.X_fit_)[None]
    alphas, folds = np.logspace(-5, 5, 21), inner_folds(30, 5)
    _, dual, alpha, _ = _solve(kernel, y - y.mean(0), alphas, np.ones((1, 1)), folds, alpha_per_target=False)
    np.testing.assert_allclose(encoder.alphas_, alpha)
    np.testing.assert_allclose(encoder.dual_coef_, dual, rtol=1e-6, atol=1e-8)


def test_class_tokens_fit_ridge():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(100, 16)).astype(np.float16)  # (stimulus, channel)
    y = tokens @ rng.normal(size=(16, 3))
    assert RidgeEncoder().fit(tokens[:80], y[:80]).score(tokens[80:], y[80:]) > 0.95


def test_bands_leave_out_a_wide_useless_space():
    X, y = make_data(n=120)
    train, test = slice(90), slice(90, 120)
    banded = BandedRidgeEncoder(n_iter=10).fit(rows_of(X, train), y[train])
    score = banded.score(rows_of(X, test), y[test])
    plain = np.concatenate([x.reshape(120, -1) for x in X.values()], axis=1)
    assert score > 0.85
    assert score > RidgeEncoder().fit(plain[train], y[train]).score(plain[test], y[test]) + 0.1
    share = banded.contributions(rows_of(X, test), y[test]).share
    np.testing.assert_allclose(share.sum("space"), 1)
    assert (share.sel(space="useful") > 0.9).all()


def test_every_unit_has_its_own_bands():
    rng = np.random.default_rng(0)
    X = {"a": rng.normal(size=(90, 5)), "b": rng.normal(size=(90, 40))}
    y = np.stack([X["a"][:, 0], X["b"][:, 0]], 1) + 0.1 * rng.normal(size=(90, 2))
    share = BandedRidgeEncoder(n_iter=10).fit(X, y).contributions(X, y).share
    assert share.sel(space="a")[0] > 0.9 > 0.1 > share.sel(space="a")[1]


def test_contributions_sum_to_the_score():
    X, y = make_data(n=120)
    y[:, 1] = 2.0
    train, test = slice(90), slice(90, 120)
    encoder = BandedRidgeEncoder(n_iter=4).fit(rows_of(X, train), y[train])
    parts = encoder.contributions(rows_of(X, test), y[test])
    assert parts.space.values.tolist() == ["useful", "useless"]
    predicted = encoder.predict(rows_of(X, test))
    varies = np.arange(7) != 1
    np.testing.assert_allclose(parts.correlation.sum("space")[varies], pearson_r(y[test], predicted)[varies])
    error = (y[test] - y[test].mean(0)) - (predicted - predicted.mean(0))
    r2 = 1 - (error**2).sum(0)[varies] / ((y[test] - y[test].mean(0)) ** 2).sum(0)[varies]
    np.testing.assert_allclose(parts.r2.sum("space")[varies], r2, rtol=1e-5)
    assert np.isnan(parts.r2[:, 1]).all()
    assert np.isnan(parts.correlation[:, 1]).all()


def test_bands_are_chosen_on_folds_that_share_no_stimulus():
    X, y = make_data()
    with pytest.raises(ValueError, match="at least 2 stimuli to choose the penalty"):
        BandedRidgeEncoder(n_iter=1).fit(X, y, groups=np.zeros(90))


def test_one_space_is_plain_ridge():
    X, y = make_data()
    banded = BandedRidgeEncoder().fit({"only": X["useless"]}, y)
    ridge = RidgeEncoder().fit(X["useless"], y)
    np.testing.assert_allclose(banded.predict({"only": X["useless"]}), ridge.predict(X["useless"]), rtol=1e-9)


def test_bands_depend_on_the_seed_and_not_on_the_order_of_spaces_in_predict():
    X, y = make_data()
    first, second, other = (BandedRidgeEncoder(n_iter=20, seed=s).fit(X, y) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.block_weight_, second.block_weight_)
    assert not np.allclose(first.block_weight_, other.block_weight_)
    backwards = dict(reversed(X.items()))
    np.testing.assert_array_equal(first.predict(backwards), first.predict(X))


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.ones((90, 4)), TypeError, "X must be a mapping of feature spaces.*got ndarray"),
        ({}, ValueError, "X must name at least one feature space"),
        ({"a": np.ones((90, 4)), "b": np.ones((3, 4))}, ValueError, "same stimuli in every space, got"),
        ({"a": np.full((90, 4), np.nan)}, ValueError, r"Input X\['a'\] contains NaN"),
        ({"a": np.ones((89, 4))}, ValueError, r"y must have shape \(89, unit\), got \(90, 7\)"),
    ],
    ids=["plain", "none", "lengths", "nan", "responses"],
)
def test_banded_ridge_refuses(X, error, message):
    with pytest.raises(error, match=message):
        BandedRidgeEncoder(n_iter=1).fit(X, make_data()[1])


def test_banded_ridge_refuses_other_spaces_than_those_of_fit():
    X, y = make_data()
    encoder = BandedRidgeEncoder(n_iter=1).fit(X, y)
    with pytest.raises(ValueError, match="X must hold the spaces of fit with their numbers of columns"):
        encoder.predict({"useful": X["useful"]})
    with pytest.raises(ValueError, match=r"'useless': 150}, got {'useful': 3, 'useless': 150}"):
        encoder.predict({**X, "useful": X["useful"][:, :3]})


def test_components_equal_principal_components_and_least_squares():
    X, y = make_data()
    flat = X["useless"].reshape(90, -1).astype(float)
    expected = make_pipeline(PCA(20, svd_solver="full"), LinearRegression()).fit(flat[:60], y[:60])
    encoder = PcaRegressionEncoder(20).fit(X["useless"][:60], y[:60])
    np.testing.assert_allclose(encoder.predict(X["useless"][60:]), expected.predict(flat[60:]), atol=1e-3)


def test_components_are_as_many_as_stimuli_determine():
    X, y = make_data()
    encoder = PcaRegressionEncoder().fit(X["useless"], y)
    assert encoder.components_.shape == (89, 150)
    twice = np.concatenate([X["useful"], X["useful"]], 1)  # rank 4 of 8 columns
    expected = LinearRegression().fit(X["useful"], y).predict(X["useful"])
    np.testing.assert_allclose(PcaRegressionEncoder().fit(twice, y).predict(twice), expected, atol=1e-4)


def test_randomised_components_depend_on_the_seed_alone():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 600)), rng.normal(size=(90, 2))  # wide enough for the randomised solver
    first, second, other = (PcaRegressionEncoder(5, seed=s).fit(X, y).coef_ for s in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", ["banded", "components"])
def test_store_and_clone(name, tmp_path):
    X, y = make_data()
    encoder = ENCODERS[name]()
    features = features_for(encoder, X)
    encoder.fit(features, y)
    encoder.save(tmp_path / "model")
    loaded = load_encoder(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict(features), encoder.predict(features), rtol=1e-12)
    assert loaded.get_params() == encoder.get_params() == clone(encoder).get_params()
    single = clone(encoder).fit(features, y[:, 0])
    np.testing.assert_allclose(single.predict(features), encoder.predict(features)[:, 0], rtol=1e-6)
