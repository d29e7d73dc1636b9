import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import estimator_checks_generator

from neuroattn.encoding import (
    BrainEncoder,
    ConvolutionEncoder,
    FactorizedEncoder,
    GaussianEncoder,
    PooledRidgeEncoder,
    ProbeEncoder,
    RidgeEncoder,
    load_encoder,
)
from neuroattn.encoding.estimators import inner_folds
from neuroattn.encoding.network_encoders import _holdout, query_masks
from neuroattn.encoding.networks import AttentionNetwork
from neuroattn.results import label_rois

NETWORKS = [BrainEncoder, ConvolutionEncoder, FactorizedEncoder, GaussianEncoder, ProbeEncoder]
ALL = [RidgeEncoder, PooledRidgeEncoder, *NETWORKS]


def make_data(n=60, channels=8, grid=(3, 5), n_units=6, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, channels, *grid)).astype(np.float32)
    y = X.mean((2, 3)) @ rng.normal(size=(channels, n_units)).astype(np.float32)
    rois = label_rois(
        {
            "V1": np.arange(n_units) < 3,
            "FFA": np.isin(np.arange(n_units), (2, 4)),
            "RSC": np.zeros(n_units, bool),
        },
        hemisphere=["left"] * 4 + ["right"] * (n_units - 4),
    )
    return X, 3 * y + 7, rois


def small(cls, rois=None, **options):
    if cls in NETWORKS:
        return cls(rois, epochs=options.pop("epochs", 2), **options)
    return cls(**options)


# Estimators take numpy only; scikit-learn would leave out its checks of other array libraries in silence.
CHECKS = [check for _, check in estimator_checks_generator(RidgeEncoder()) if "array_api" not in str(check)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.func.__name__)
def test_ridge_is_a_scikit_learn_estimator(check):
    check(RidgeEncoder())


@pytest.mark.parametrize("cls", ALL, ids=lambda c: c.__name__)
def test_fit_predict_score_clone_and_store(cls, tmp_path):
    X, y, rois = make_data()
    encoder = small(cls, rois).fit(X, y)
    predicted = encoder.predict(X)
    assert predicted.shape == y.shape
    assert -1 <= encoder.score(X, y) <= 1
    assert clone(encoder).get_params()["backbone"] is None
    encoder.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    np.testing.assert_allclose(load_encoder(tmp_path / "model").predict(X), predicted, atol=1e-5)


@pytest.mark.parametrize("cls", NETWORKS, ids=lambda c: c.__name__)
def test_a_seed_fixes_the_result_and_leaves_the_global_state_alone(cls):
    X, y, rois = make_data()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (small(cls, rois, seed=s).fit(X, y).predict(X) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first, other)


@pytest.mark.parametrize("cls", [PooledRidgeEncoder, *NETWORKS], ids=lambda c: c.__name__)
def test_features_without_tokens_are_refused_in_one_line(cls):
    X, y, rois = make_data()
    with pytest.raises(ValueError, match=r"\(stimulus, channel, y, x\)") as error:
        small(cls, rois).fit(X.mean((2, 3)), y)
    assert "\n" not in str(error.value)


def test_ridge_recovers_a_linear_map_and_chooses_penalties_by_unit():
    rng = np.random.default_rng(0)
    X, noise = rng.normal(size=(200, 20)), rng.normal(size=(200, 2))
    y = np.stack([X[:, 0], np.zeros(200)], 1) + [0.05, 5] * noise
    per_unit = RidgeEncoder().fit(X, y)
    assert per_unit.alphas_[0] < per_unit.alphas_[1]
    shared = RidgeEncoder(alpha_per_target=False).fit(X, y)
    assert shared.alphas_[0] == shared.alphas_[1]
    assert np.corrcoef(per_unit.predict(X)[:, 0], y[:, 0])[0, 1] > 0.99


def test_ridge_equals_scikit_learn_at_a_fixed_penalty():
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    X, y, _ = make_data()
    flat = StandardScaler().fit_transform(X.reshape(60, -1).astype(float)) / np.sqrt(X[0].size)
    expected = Ridge(alpha=0.3).fit(flat, y).predict(flat)
    np.testing.assert_allclose(RidgeEncoder(alphas=[0.3]).fit(X, y).predict(X), expected, atol=1e-4)


def test_pooled_ridge_reads_the_second_moment():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4, 6, 6)).astype(np.float32)
    y = np.einsum("nyx,nyx->n", X[:, 0], X[:, 1])[:, None]
    bound = PooledRidgeEncoder(["second-moment"]).fit(X[:200], y[:200]).score(X[200:], y[200:])
    plain = PooledRidgeEncoder(["mean", "std"]).fit(X[:200], y[:200]).score(X[200:], y[200:])
    assert bound > 0.95 > 0.3 > plain


def test_queries_follow_hemispheres_and_leave_out_empty_regions():
    _, _, rois = make_data()
    masks, queries = query_masks(rois, "roi")
    assert queries.hemisphere.str.cat(queries.roi, " ").tolist() == [
        "left V1", "left FFA", "left rest", "right FFA", "right rest",
    ]  # fmt: skip
    assert masks.sum(0).tolist() == [1, 1, 2, 1, 1, 1]


def test_units_of_two_regions_get_the_sum_of_both():
    masks = torch.tensor([[True, True, False], [False, True, True]])
    network = AttentionNetwork(8, 3, masks, heads=2).double().eval()
    features = torch.randn(4, 8, 2, 2, dtype=torch.float64)
    tokens, _ = network.read(features, "none")
    raw = torch.einsum("vd,brd->brv", network.readout.weight, tokens) + network.readout.bias
    torch.testing.assert_close(network(features), (raw * masks).sum(1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("readout", BrainEncoder.READOUTS)
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("position", ["sine", "learned", "none"])
def test_every_form_trains_and_maps_sum_to_one(readout, norm, position):
    X, y, rois = make_data(n=20)
    encoder = BrainEncoder(rois, readout=readout, norm=norm, position=position, layers=2, epochs=1, heads=2)
    maps = encoder.fit(X, y).attention(X[:3], per_head=True)
    assert maps.dims == ("stimulus", "query", "head", "y", "x")
    assert maps.sizes["query"] == {"roi": 5, "hemisphere": 2, "unit": 6}[readout]
    np.testing.assert_allclose(maps.sum(("y", "x")), 1, atol=1e-5)
    np.testing.assert_allclose(encoder.attention(X[:3]), maps.mean("head"), atol=1e-6)


def test_width_projects_the_tokens():
    X, y, rois = make_data(n=20, channels=6)
    encoder = BrainEncoder(rois, width=8, epochs=1).fit(X, y)
    assert encoder.network_.input_proj.weight.shape == (8, 6)
    with pytest.raises(ValueError, match="heads must divide dim 6, got 4"):
        BrainEncoder(rois, epochs=1).fit(X, y)


def test_factorized_finds_where_the_signal_is():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4, 5, 7)).astype(np.float32)
    y = np.stack([X[:, 0, 1, 2], X[:, 1, 3, 5]], 1)
    maps = FactorizedEncoder(epochs=40, lr=0.1).fit(X, y).spatial_maps()
    assert [int(m.argmax()) for m in maps.values.reshape(2, -1)] == [1 * 7 + 2, 3 * 7 + 5]


@pytest.mark.parametrize("cls", [BrainEncoder, ConvolutionEncoder])
def test_early_stopping_keeps_the_best_weights(cls):
    X, _, rois = make_data()
    y = np.random.default_rng(1).normal(size=(60, 6)).astype(np.float32)
    encoder = cls(rois, epochs=40, patience=3).fit(X, y)
    losses = [row["valid_loss"] for row in encoder.history_]
    assert len(losses) < 40
    rows = _holdout(60, 0.1, 0, None)[1]
    standard = (encoder.predict(X[rows]) - y[rows]) / encoder.target_scale_
    assert np.mean(standard**2) == pytest.approx(min(losses), rel=1e-4)


def test_stimuli_are_never_shared_between_training_and_validation():
    groups = np.random.default_rng(0).integers(12, size=50)
    train, valid = _holdout(50, 0.2, 0, groups)
    assert len(train) + len(valid) == 50
    assert not set(groups[train]) & set(groups[valid])
    for inner_train, inner_valid in inner_folds(50, 5, groups).split():
        assert not set(groups[inner_train]) & set(groups[inner_valid])


def test_nan_responses_are_refused():
    X, y, rois = make_data()
    y[3, 2] = np.nan
    with pytest.raises(ValueError, match="y must be finite"):
        small(BrainEncoder, rois).fit(X, y)


def test_interrupted_training_continues_to_the_same_weights(tmp_path):
    X, y, rois = make_data()
    whole = BrainEncoder(rois, epochs=6).fit(X, y)
    checkpoint = tmp_path / "state"
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        sys.path.insert(0, {str(os.path.dirname(__file__))!r})
        import neuroattn.encoding.training as training
        from test_encoders import BrainEncoder, make_data
        X, y, rois = make_data()
        real = training.train_network.__kwdefaults__
        real["checkpoint_every"] = 0.0
        def die(done):
            if done == 4:
                os.kill(os.getpid(), signal.SIGKILL)
        from pathlib import Path
        BrainEncoder(rois, epochs=6).fit(X, y, checkpoint=Path({str(checkpoint)!r}), progress=die)
        """
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert (checkpoint / "state.json").is_file()
    seen = []
    resumed = BrainEncoder(rois, epochs=6).fit(X, y, checkpoint=checkpoint, progress=seen.append)
    assert seen[0] == 4  # the state is written after three epochs; the fourth died
    np.testing.assert_array_equal(resumed.predict(X), whole.predict(X))


def test_an_interruption_by_the_user_is_not_a_stopping_rule():
    X, y, rois = make_data()

    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BrainEncoder(rois, epochs=5).fit(X, y, progress=interrupt)


def test_unknown_device_is_one_line():
    X, y, rois = make_data()
    with pytest.raises(ValueError, match="device 'abacus' cannot be used"):
        BrainEncoder(rois, device="abacus", epochs=1).fit(X, y)


def test_predictions_are_held_once():
    """Predictions of all units for many stimuli may take most of the memory there is."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4, 1, 1)).astype("f4")
    encoder = ProbeEncoder(epochs=1, width=8, queries=2).fit(X[:20], rng.normal(size=(20, 5000)))
    tracemalloc.start()
    try:
        predicted = encoder.predict(X)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * predicted.nbytes
    np.testing.assert_allclose(predicted[150:], encoder.predict(X[150:]), atol=1e-5)
