import copy

import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroattn.attention import (
    GATES,
    SQUEEZES,
    CollaborativeGate,
    EfficientChannelGate,
    FrequencyGate,
    GatherExcite,
    LearnedFilter,
    SqueezeExcite,
    StyleRecalibration,
    load_reference_gate,
    make_gate,
)

N_CHANNELS = 8
OF_TIME = {"cbam", "cat"}  # their gate varies over time
SEEDS = st.integers(0, 999)
few = settings(max_examples=15, deadline=None)


def build(name, seed=1, dtype=torch.float64, **options):
    """Return a gate for eight channels whose parameters are all away from where they start.

    From some seeds both hidden units of a perceptron are silent, and its gate is one half; not from 1.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    gate = make_gate(name, N_CHANNELS, 40, **options)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return gate.to(dtype).eval()


def signal(seed=0, n_times=40, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(3, N_CHANNELS, n_times, generator=generator, dtype=dtype)


@pytest.mark.parametrize("n_times", [1, 2, 39, 40, 97])
@pytest.mark.parametrize("name", GATES)
def test_shapes_for_any_number_of_samples(name, n_times):
    gate, x = build(name), signal(n_times=n_times)
    y, factors = gate(x, return_gate=True)
    assert factors.shape == ((3, N_CHANNELS, n_times) if name in OF_TIME else (3, N_CHANNELS))
    scaled = x * (factors if name in OF_TIME else factors[..., None])
    torch.testing.assert_close(y, scaled)
    torch.testing.assert_close(gate(x), y)
    torch.testing.assert_close(gate.gate(x), factors)
    assert factors.min() >= 0
    assert factors.max() <= (2 if name.startswith("gct") else 1)
    assert factors.std() > 0


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", GATES)
def test_finite_outputs_and_gradients(name, training):
    constant = torch.arange(N_CHANNELS)[:, None] * torch.ones(3, N_CHANNELS, 40)
    for x in (
        torch.zeros(3, N_CHANNELS, 40),
        constant,
        1e4 * constant,
        signal(scale=1e4, dtype=torch.float32),
        signal(scale=1e-6, dtype=torch.float32),
        signal(dtype=torch.float32) + 1e4,
    ):
        gate = build(name, dtype=torch.float32).train(training)
        x.requires_grad_()
        y = gate(x)
        y.sum().backward()
        gradients = [x.grad, *(p.grad for p in gate.parameters())]
        assert torch.isfinite(y).all()
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("squeeze", SQUEEZES)
@pytest.mark.parametrize("gate", [SqueezeExcite, EfficientChannelGate, StyleRecalibration])
def test_every_squeeze_meets_every_excitation(gate, squeeze):
    torch.manual_seed(0)
    built = gate(N_CHANNELS, squeeze=("avg", squeeze)).double().eval()
    assert built.gate(signal()).shape == (3, N_CHANNELS)
    assert not torch.equal(built.gate(signal(1)), built.gate(signal(2)))


@few
@given(seed=SEEDS, name=st.sampled_from(sorted(set(SQUEEZES) - {"cov"})))
def test_own_statistics_permute_with_the_channels(seed, name):
    x, order = signal(seed), torch.randperm(N_CHANNELS, generator=torch.Generator().manual_seed(seed))
    gate = GatherExcite(N_CHANNELS, squeeze=name)
    torch.testing.assert_close(gate(x[:, order]), gate(x)[:, order])


@few
@given(seed=SEEDS, name=st.sampled_from(["se", "se-l2", "fca"]))
def test_perceptron_permutes_with_its_weights(seed, name):
    gate, x = build(name, seed), signal(seed)
    order = torch.randperm(N_CHANNELS, generator=torch.Generator().manual_seed(seed))
    other = copy.deepcopy(gate)
    with torch.no_grad():
        other.excite[0].weight.copy_(gate.excite[0].weight[:, order])
        other.excite[2].weight.copy_(gate.excite[2].weight[order])
    torch.testing.assert_close(other(x[:, order]), gate(x)[:, order])


ORDERLESS = [
    "se",
    "se-l2",
    "gsop",
    "fca",
    "encnet",
    "eca",
    "ge-theta-minus",
    "gct",
    "gct-gap",
    "srm",
    "srm-cross",
]


@few
@given(seed=SEEDS, name=st.sampled_from(ORDERLESS))
def test_gate_without_order_in_time(seed, name):
    gate, x = build(name, seed), signal(seed)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(gate.gate(x[..., order]), gate.gate(x))


@pytest.mark.parametrize("name", ["ge-theta", "ge-theta-plus", "cbam", "cat", "catlite"])
def test_gate_with_order_in_time(name):
    gate, x = build(name), signal()
    assert not torch.allclose(gate.gate(x.sort(-1).values), gate.gate(x), atol=1e-4)


@few
@given(seed=SEEDS, name=st.sampled_from(["std", "entropy", "dct", "cov"]))
def test_statistics_without_offset(seed, name):
    offset = torch.linspace(-3, 3, N_CHANNELS, dtype=torch.float64)[:, None]
    x = signal(seed)
    torch.testing.assert_close(SQUEEZES[name](x + offset), SQUEEZES[name](x))


@few
@given(seed=SEEDS, factor=st.floats(0.1, 10), name=st.sampled_from(["se", "fca", "eca", "ge-theta-minus"]))
def test_logits_grow_with_the_signal(seed, factor, name):
    gate, x = build(name, seed), signal(seed)
    torch.testing.assert_close(gate.gate(factor * x).logit(), factor * gate.gate(x).logit())


@few
@given(seed=SEEDS, factor=st.floats(1, 1e3))
def test_competition_does_not_see_the_scale(seed, factor):
    gate, x = build("gct", seed), signal(seed, scale=1e3)
    torch.testing.assert_close(gate.gate(factor * x), gate.gate(x))


@pytest.mark.parametrize("name", ["gct", "gct-gap"])
def test_competition_starts_as_the_identity(name):
    assert torch.equal(make_gate(name, N_CHANNELS)(signal(dtype=torch.float32)), signal(dtype=torch.float32))


@pytest.mark.parametrize("name", ["cat", "catlite"])
def test_collaborative_gates_start_at_a_half(name):
    x = signal(dtype=torch.float32)
    torch.testing.assert_close(make_gate(name, N_CHANNELS)(x), x / 2)


@few
@given(seed=SEEDS, frequency=st.integers(0, 39), n_times=st.integers(40, 60))
def test_frequency_is_a_coefficient_of_the_cosine_transform(seed, frequency, n_times):
    x = signal(seed, n_times)
    coefficient = FrequencyGate(N_CHANNELS, frequency=frequency).squeeze(x)[..., 0]
    expected = scipy.fft.dct(x.numpy(), norm="ortho")[..., frequency]
    torch.testing.assert_close(coefficient, torch.from_numpy(expected))


@few
@given(seed=SEEDS, repeat=st.integers(1, 5))
def test_learned_filter_stretches(seed, repeat):
    """Repeated samples, and a constant at any length, give the response that they gave before."""
    squeeze, x = LearnedFilter(N_CHANNELS, 40, normalize=False).double(), signal(seed)
    torch.testing.assert_close(squeeze(x.repeat_interleave(repeat, -1)), squeeze(x))
    ones = torch.ones(1, N_CHANNELS, 37 + 11 * repeat, dtype=torch.float64)
    torch.testing.assert_close(squeeze(ones)[0, :, 0], squeeze.weight.sum(1))


def test_learned_filter_meets_its_own_length_untouched():
    squeeze, x = LearnedFilter(N_CHANNELS, 40, normalize=False).double(), signal()
    torch.testing.assert_close(squeeze(x)[..., 0], torch.einsum("bct,ct->bc", x, squeeze.weight))


def published(gate):
    """Return the published form of our CAT gate with the same parameters."""
    state = {
        "gauss_filter.weight": gate.blur.view(1, 1, 1, 5),
        "conv.weight": gate.temporal.weight[:, :, None],
    }
    state |= {f"mlp.{i}.weight": gate.excite[i].weight[..., None, None] for i in (0, 2)}
    for half, weights in (("c", gate.channel_weights), ("s", gate.temporal_weights)):
        state |= {
            f"{half}_{name}": w[None] for name, w in zip(("alpha", "beta", "gamma"), weights, strict=True)
        }
    state |= {"c_w": gate.balance[:1], "s_w": gate.balance[1:]}
    return load_reference_gate("cat", {name: value.detach() for name, value in state.items()}, {})


def test_temporal_maximum_is_over_channels():
    """The course of our temporal half follows a peak; the published one is flat."""
    gate = CollaborativeGate(N_CHANNELS, kernel_size=1).double().eval()
    with torch.no_grad():
        gate.temporal.weight.fill_(1.0)
        gate.temporal_weights.copy_(torch.tensor([0.0, 1.0, 0.0]))
        gate.balance.copy_(torch.tensor([-1e3, 1e3]))
    x = torch.zeros(1, N_CHANNELS, 40, dtype=torch.float64)
    x[0, 2, 17] = 1.0
    ours, theirs = gate.gate(x)[0, 0], published(gate).gate(x)[0, 0]
    assert ours.argmax() == 17
    assert ours[17] > ours[0]
    assert (theirs == theirs[0]).all()
    order = torch.randperm(N_CHANNELS, generator=torch.Generator().manual_seed(0))
    noise = signal()
    torch.testing.assert_close(gate.gate(noise[:, order])[:, 0], gate.gate(noise)[:, 0])
    assert not torch.allclose(published(gate).gate(noise), gate.gate(noise), atol=1e-3)


@pytest.mark.parametrize("name", GATES)
def test_double_gradients_match_differences(name):
    gate, x = build(name), signal(n_times=5)[:2].requires_grad_()
    assert torch.autograd.gradcheck(gate, (x,), atol=1e-5)
