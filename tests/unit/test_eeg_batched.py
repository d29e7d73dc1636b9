"""Networks trained together against the same networks trained alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose

from neuroattn.attention import GATES
from neuroattn.eeg import BaseNet, MotorImageryClassifier, batched, train_together
from neuroattn.eeg.batched import train_networks
from neuroattn.eeg.recipe import trial_orders

RATES = (0.0, 1e-3, 5e-4)
N_TRIALS = 11


def make_network(seed, attention, drop_prob=0.0, **options):
    torch.manual_seed(seed)
    sizes = {"n_filters": 8, "spatial_expansion": 2, "filter_length": 9, "pool_length": 20, "pool_stride": 5}
    network = BaseNet(
        n_chans=3, n_outputs=2, n_times=120, attention=attention, drop_prob=drop_prob, **sizes | options
    )
    return network.double()


def make_trials(n_sets=2):
    torch.manual_seed(7)
    x = torch.randn(n_sets, N_TRIALS, 3, 120, dtype=torch.float64)
    return x, torch.randint(2, (3, N_TRIALS))


def train(networks, x, of, y, seeds, batch_size):
    return train_networks(
        networks,
        x,
        of,
        y,
        orders=[trial_orders(N_TRIALS, seed) for seed in seeds],
        generators=[torch.Generator().manual_seed(seed) for seed in seeds],
        batch_size=batch_size,
        rates=RATES,
    )


def train_alone(network, x, y, seed, batch_size):
    """The recipe as a plain loop."""
    adam = torch.optim.Adam(network.train().parameters())
    orders, losses = trial_orders(len(x), seed), []
    for rate in RATES:
        adam.param_groups[0]["lr"] = rate
        losses.append(0.0)
        for rows in torch.from_numpy(next(orders)).split(batch_size):
            loss = F.cross_entropy(network(x[rows]), y[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses[-1] += loss.item() * len(rows) / len(x)
    return losses


def assert_same_state(a, b, **tolerance):
    for (name, ours), theirs in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert_allclose(ours.numpy(), theirs.numpy(), err_msg=name, **tolerance)


@pytest.mark.parametrize("attention", [None, *GATES])
@pytest.mark.parametrize("of", [(0, 0, 0), (0, 1, 1)], ids=["shared", "own"])
def test_each_becomes_what_it_becomes_alone(attention, of):
    x, y = make_trials()
    batch_size = 4 if of == (0, 1, 1) else 64
    seeds = (0, 1, 2)
    networks = [make_network(seed, attention) for seed in seeds]
    losses = train(networks, x, of, y, seeds, batch_size)
    for i, seed in enumerate(seeds):
        alone = make_network(seed, attention)
        assert_allclose(losses[:, i], train_alone(alone, x[of[i]], y[i], seed, batch_size), rtol=0, atol=1e-9)
        assert_same_state(networks[i], alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("batch_size", [4, 64])
def test_batches_and_sets_mix(batch_size):
    """Small batches of one shared set, and whole sets of the networks' own."""
    x, y = make_trials()
    of = (0, 0) if batch_size == 4 else (1, 0)
    networks = [make_network(seed, "se") for seed in (3, 4)]
    train(networks, x, of, y[:2], (3, 4), batch_size)
    for i, seed in enumerate((3, 4)):
        alone = make_network(seed, "se")
        train_alone(alone, x[of[i]], y[i], seed, batch_size)
        assert_same_state(networks[i], alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"filter_length": 8},
        {"feature_filter_length": 4, "pool_length": 7, "pool_stride": 7},
        {"activation": torch.nn.GELU},
    ],
)
def test_other_lengths_and_activations(options):
    x, y = make_trials()
    networks = [make_network(seed, "se", **options) for seed in (3, 4)]
    train(networks, x, (0, 1), y[:2], (3, 4), 6)
    for i, seed in enumerate((3, 4)):
        alone = make_network(seed, "se", **options)
        train_alone(alone, x[i], y[i], seed, 6)
        assert_same_state(networks[i], alone, rtol=0, atol=1e-9)


def test_stacks_of_any_size_and_parts_of_any_size_give_the_same(monkeypatch):
    x, y = make_trials()
    results = []
    for together, in_cache in ((1, 1), (2, 3000), (2**21, 2**21)):
        monkeypatch.setattr(batched, "SAMPLES_TOGETHER", together)
        monkeypatch.setattr(batched, "SAMPLES_IN_CACHE", in_cache)
        networks = [make_network(seed, "se") for seed in range(3)]
        train(networks, x, (0, 1, 1), y, range(3), 4)
        results.append(networks)
    for networks in results[1:]:
        for one, other in zip(results[0], networks, strict=True):
            assert_same_state(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("batch_size", [4, 64])
def test_dropout_depends_on_the_own_seed_alone(batch_size):
    x, y = make_trials()
    results = []
    for seeds in ((5,), (6, 5, 8), (5, 9)):
        networks = [make_network(seed, "eca", drop_prob=0.5) for seed in seeds]
        train(networks, x, [1] * len(seeds), y[:1].expand(len(seeds), -1), seeds, batch_size)
        results.append(networks[seeds.index(5)])
    for other in results[1:]:
        assert_same_state(results[0], other, rtol=0, atol=1e-9)
    dry = make_network(5, "eca")
    train([dry], x, [1], y[:1], (5,), batch_size)
    assert not torch.allclose(dry.final_layer.weight, results[0].final_layer.weight, atol=1e-5)


def make_data(n=24, seed=0):
    rng = np.random.default_rng(seed)
    y = np.array(["left", "right"])[rng.permutation(np.arange(n) % 2)]
    return rng.normal(size=(n, 3, 150)) * np.where(y == "left", 1.0, 2.0)[:, None, None], y


@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 7}, {"augment": True}, {"attention": lambda c, t: None}]
)
def test_fits_are_those_of_the_classifier(options):
    """Dropout included: seeds, labels and trials of each, of two lengths; and what cannot be stacked."""
    if "attention" in options:
        options = {"attention": torch.nn.Identity()}
    classifier = MotorImageryClassifier(
        **{"attention": "se", "sfreq": 100, "n_epochs": 3, "n_warmup": 0} | options
    )
    (X, y), (other, labels) = make_data(), make_data(20, seed=1)
    done = []
    fitted = train_together(
        classifier, [X, X, other], [y, y[::-1], labels], seeds=[3, 4, 5], progress=lambda *n: done.append(n)
    )
    assert done[-1] == (3, 3)
    for one, seed, signals, wanted in zip(
        fitted, (3, 4, 5), (X, X, other), (y, y[::-1], labels), strict=True
    ):
        alone = MotorImageryClassifier(**classifier.get_params() | {"seed": seed}).fit(signals, wanted)
        assert one.get_params()["seed"] == seed
        assert_allclose(one.history_, alone.history_, rtol=1e-4)
        assert_allclose(one.predict_proba(X), alone.predict_proba(X), atol=2e-3)
        assert one.network_.stem.norm.num_batches_tracked == alone.network_.stem.norm.num_batches_tracked
    assert not hasattr(classifier, "network_")


def test_trials_that_are_shared_are_prepared_once(monkeypatch):
    calls = []
    prepare = MotorImageryClassifier._prepare
    monkeypatch.setattr(
        MotorImageryClassifier, "_prepare", lambda self, X: calls.append(1) or prepare(self, X)
    )
    X, y = make_data()
    train_together(MotorImageryClassifier(sfreq=100, n_epochs=1), [X] * 3, [y] * 3)
    assert len(calls) == 1


def test_faults_are_named():
    X, y = make_data()
    classifier = MotorImageryClassifier(sfreq=100, n_epochs=1)
    with pytest.raises(ValueError, match="y must have one entry for each of the 2 of X, got 1"):
        train_together(classifier, [X, X], [y])
    with pytest.raises(ValueError, match="at least two classes"):
        train_together(classifier, [X, X], [y, y[:1].repeat(len(y))])
    with pytest.raises(ValueError, match=r"training must converge, got a loss of nan"):
        train_together(classifier.set_params(learning_rate=1e30, n_epochs=4), [X], [y])
