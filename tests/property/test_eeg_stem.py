"""Mixing electrodes first is the published order: outputs, gradients, running statistics."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroattn.eeg import SpatioTemporalStem, plain_stem, stem


def make(n_chans=6, seed=0, **sizes):
    torch.manual_seed(seed)
    module = SpatioTemporalStem(n_chans, **{"n_filters": 5, "pool_length": 10, "pool_stride": 5} | sizes)
    for norm in (module.temporal_norm, module.norm):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            torch.nn.init.normal_(tensor)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    return module


def run(module, x, order):
    """Return outputs, gradients and buffers."""
    module, x = copy.deepcopy(module), x.detach().clone().requires_grad_()
    out = order(module, x)
    weights = torch.sin(torch.arange(out.numel(), dtype=x.dtype)).view(out.shape)
    out.backward(weights)
    gradients = {name: p.grad for name, p in module.named_parameters()}
    return {"out": out.detach(), "x": x.grad} | gradients | dict(module.named_buffers())


def mixed_first(module, x):
    """Run the reordered stem whatever the size."""
    mixed = stem._filtered_mixtures(module, x)
    y = module.norm(mixed.reshape(1, mixed.shape[0], 1, -1)).view(mixed.shape[0], len(x), 1, -1)
    return module.pool(module.activation(y)).transpose(0, 1)


def relative(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm().clamp_min(1e-30))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(30, 130),
    st.integers(1, 30),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 99),
)
def test_both_orders_are_the_same_function(n_trials, n_chans, n_times, length, expansion, training, seed):
    module = make(n_chans, seed, filter_length=length, spatial_expansion=expansion).double().train(training)
    x = torch.randn(n_trials, n_chans, n_times, dtype=torch.float64) + 3
    ours, published = run(module, x, mixed_first), run(module, x, plain_stem)
    for name, value in published.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("n_times", [75, 200, 211])
def test_moments_are_those_of_the_windows(n_times):
    x = torch.randn(3, 2, n_times, dtype=torch.float64) + 10
    mean, covariance = stem.lag_moments(x, 8)
    windows = torch.nn.functional.pad(x, (4, 4)).unfold(2, 8, 1).reshape(-1, 8)
    torch.testing.assert_close(mean, windows.mean(0))
    torch.testing.assert_close(covariance, torch.cov(windows.T, correction=0))


@pytest.mark.parametrize("signal", ["white", "drifting", "offset", "volts", "offset volts"])
def test_single_precision_is_as_good_as_the_published_order(signal):
    """Variances formed from products would drown under a large offset."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 6, 400, generator=generator)
    if signal == "drifting":
        x = x.cumsum(-1)
    if signal.startswith("offset"):
        x = x + 1e3 * torch.randn(1, 6, 1, generator=generator)
    if signal.endswith("volts"):
        x = 1e-5 * x
    single = make(filter_length=25)
    with torch.no_grad():  # the filters remove what is slow
        single.temporal.weight -= single.temporal.weight.mean(-1, keepdim=True)
    exact = run(copy.deepcopy(single).double(), x.double(), plain_stem)
    ours, published = run(single, x, mixed_first), run(single, x, plain_stem)
    for name in ("out", "temporal.weight", "spatial.weight", "temporal_norm.running_mean"):
        assert relative(ours[name], exact[name]) <= 5 * relative(published[name], exact[name]) + 1e-6, name
    variance = "temporal_norm.running_var"
    torch.testing.assert_close(ours[variance], exact[variance].float(), rtol=1e-5, atol=0)


def test_silence_has_finite_gradients():
    out = run(make(), torch.zeros(4, 6, 100), mixed_first)
    assert all(torch.isfinite(value).all() for value in out.values())


@pytest.mark.parametrize("momentum", [0.3, None])
def test_running_statistics_over_several_batches(momentum):
    ours = make().double()
    ours.temporal_norm.momentum = momentum
    published = copy.deepcopy(ours)
    for seed in range(3):
        x = torch.randn(4, 6, 100, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        mixed_first(ours, x), plain_stem(published, x)
    for (name, mine), theirs in zip(ours.named_buffers(), published.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10, msg=name)


def test_a_frozen_normalisation_keeps_its_statistics():
    module = make().double().train()
    module.temporal_norm.eval()
    x = torch.randn(4, 6, 100, dtype=torch.float64)
    ours, published = run(module, x, mixed_first), run(module, x, plain_stem)
    torch.testing.assert_close(ours["out"], published["out"])
    assert torch.equal(ours["temporal_norm.running_mean"], module.temporal_norm.running_mean)


def saved_bytes(module, x, order):
    """Return the bytes that a forward pass keeps for its backward pass."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        order(module, x)
    return sum(size for _, size in kept.values())


def test_activations_need_a_tenth_of_the_memory():
    module, x = SpatioTemporalStem(22), torch.randn(16, 22, 1000)
    assert saved_bytes(module, x, plain_stem) > 10 * saved_bytes(module, x, lambda module, x: module(x))


def test_route_follows_the_shape(monkeypatch):
    taken = []

    def mixed(module, x):
        taken.append(tuple(x.shape))
        return torch.zeros(5, len(x), x.shape[2])

    monkeypatch.setattr(stem, "_filtered_mixtures", mixed)
    for shape in ((4, 3, 1000), (1, 22, 1000), (64, 44, 200)):
        make(shape[1]).eval()(torch.zeros(shape))
        assert taken.pop() == shape
    for shape in ((64, 2, 1000), (1, 8, 1000), (64, 22, 20)):
        make(shape[1]).eval()(torch.zeros(shape))
    assert taken == []


def test_gradients_of_gradients(monkeypatch):
    monkeypatch.setattr(stem, "_mixes_first", lambda *shape: True)
    sizes = {"filter_length": 5, "pool_length": 4, "pool_stride": 4, "n_filters": 2}
    module = make(3, activation=torch.nn.Tanh, **sizes).double()
    x = torch.randn(2, 3, 40, dtype=torch.float64, requires_grad=True)
    taps = module.temporal.weight.detach().clone().requires_grad_()

    def function(x, taps):
        return torch.func.functional_call(module, {"temporal.weight": taps}, (x,))

    assert torch.autograd.gradcheck(function, (x, taps), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, taps), fast_mode=True)
