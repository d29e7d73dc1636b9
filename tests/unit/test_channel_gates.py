import copy
import pickle

import pytest
import torch
from torch import nn

from neuroattn.attention import (
    GATES,
    EfficientChannelGate,
    GatedChannelTransformation,
    GatherExcite,
    LearnedFilter,
    SqueezeExcite,
    make_gate,
)


@pytest.mark.parametrize("name", GATES)
def test_gates_copy_pickle_and_load(name):
    gate, x = make_gate(name, 8, 20).eval(), torch.randn(2, 8, 20)
    for other in (copy.deepcopy(gate), pickle.loads(pickle.dumps(gate))):
        assert torch.equal(other(x), gate(x))
    fresh = make_gate(name, 8, 20).eval()
    fresh.load_state_dict(gate.state_dict())
    assert torch.equal(fresh(x), gate(x))


@pytest.mark.parametrize("name", [name for name in GATES if name != "ge-theta-minus"])
def test_training_moves_every_parameter(name):
    torch.manual_seed(0)
    gate, x = make_gate(name, 8, 20), torch.randn(6, 8, 20)
    target = x * torch.rand(8, 1)
    before = {key: value.clone() for key, value in gate.named_parameters()}
    optimizer = torch.optim.Adam(gate.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        loss = (gate(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert [key for key, value in gate.named_parameters() if torch.equal(value, before[key])] == []


def test_names_differ_in_their_squeeze():
    se, l2 = make_gate("se", 8, reduction=2), make_gate("se-l2", 8, reduction=2)
    l2.load_state_dict(se.state_dict())
    x = torch.ones(1, 8, 4)
    assert se.squeeze(x).unique().tolist() == [1]
    torch.testing.assert_close(l2.squeeze(x), torch.full((1, 8, 1), 2.0))
    assert make_gate("gct", 8).squeeze(x)[0, 0, 0] == pytest.approx(2, rel=1e-5)
    assert make_gate("gct-gap", 8).squeeze(x)[0, 0, 0] == 1
    assert make_gate("srm", 8).excite.weight.shape == (8, 1, 2)
    assert make_gate("srm-cross", 8, reduction=2).excite[1].weight.shape == (8, 16)


def test_factories_and_modules():
    module = GatherExcite(8)
    assert make_gate(module, 8) is module
    assert make_gate(None, 8) is None
    made = make_gate(lambda n_channels, n_times: LearnedFilter(n_channels, n_times), 8, 20)
    assert made.weight.shape == (8, 20)


def test_options_reach_the_gate():
    assert make_gate("eca", 8, kernel_size=5).excite.kernel_size == (5,)
    assert make_gate("se", 8, squeeze=["avg", "std"], reduction=2).excite[0].weight.shape == (8, 16)
    assert make_gate("ge-theta", 8, 33).squeeze.weight.shape == (8, 33)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: make_gate("senet", 8),
            ValueError,
            r"attention must be one of 'se', .*'catlite', got 'senet'$",
        ),
        (
            lambda: make_gate("se", 8, reduction=9),
            ValueError,
            "reduction must be between 1 and the 8 channels, got 9",
        ),
        (lambda: make_gate("gsop", 8, reduction=0), ValueError, "reduction must be .* got 0"),
        (lambda: make_gate("srm-cross", 8, reduction=9), ValueError, "reduction must be .* got 9"),
        (
            lambda: make_gate("eca", 8, kernel_size=4),
            ValueError,
            "kernel_size must be odd and positive, got 4",
        ),
        (
            lambda: make_gate("cbam", 8, kernel_size=2),
            ValueError,
            "kernel_size must be odd and positive, got 2",
        ),
        (
            lambda: make_gate("cat", 8, kernel_size=0),
            ValueError,
            "kernel_size must be odd and positive, got 0",
        ),
        (lambda: make_gate("fca", 8, frequency=-1), ValueError, "frequency must be at least 0, got -1"),
        (lambda: make_gate("encnet", 8, n_codewords=0), ValueError, "n_codewords must be at least 1, got 0"),
        (lambda: make_gate("se", 0), ValueError, "n_channels must be at least 1, got 0"),
        (lambda: make_gate("ge-theta", 8), ValueError, "n_times must be given for 'ge-theta', got None"),
        (lambda: make_gate("ge-theta-plus", 8, 0), ValueError, "n_times must be at least 1, got 0"),
        (lambda: make_gate("eca", 8, reduction=4), TypeError, "unexpected keyword argument 'reduction'"),
        (
            lambda: make_gate(None, 8, reduction=4),
            TypeError,
            "options go with a name .* got reduction for None",
        ),
        (lambda: make_gate(3, 8), TypeError, "attention must be a name, a factory, a module or None, got 3"),
        (lambda: make_gate(lambda c, t: c, 8), TypeError, "a factory of modules, it returned 8"),
        (lambda: SqueezeExcite(8, squeeze="mean"), ValueError, "squeeze must be one of 'avg', .* got 'mean'"),
        (lambda: SqueezeExcite(8, squeeze=()), ValueError, "squeeze must name at least one statistic"),
        (lambda: GatherExcite(8, squeeze="cov"), ValueError, "squeeze must give one statistic .* got 'cov'"),
        (
            lambda: GatedChannelTransformation(8, squeeze=("avg", "max")),
            ValueError,
            "squeeze must give one statistic for a channel here",
        ),
        (
            lambda: make_gate("se", 8)(torch.ones(2, 7, 5)),
            ValueError,
            r"x must have shape \(batch, 8, time\), got",
        ),
        (
            lambda: make_gate("cat", 8)(torch.ones(2, 8, 1, 5)),
            ValueError,
            r"x must have shape \(batch, 8, time\)",
        ),
    ],
)
def test_wrong_input_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", GATES)
def test_gates_export(name):
    gate, x = make_gate(name, 8, 20).eval(), torch.randn(2, 8, 20)
    torch.testing.assert_close(torch.export.export(gate, (x,)).module()(x), gate(x))


@pytest.mark.parametrize("name", ["srm-cross", "ge-theta", "cat"])
def test_gates_compile_in_one_graph(name):
    gate, x = make_gate(name, 8, 20).eval(), torch.randn(2, 8, 33)
    torch.testing.assert_close(torch.compile(gate, backend="eager", fullgraph=True)(x), gate(x))
    torch.compiler.reset()


def test_many_gates_at_once():
    """Gates stacked and mapped over give what each gives alone."""
    gates = [EfficientChannelGate(8).eval() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(gates)
    x = torch.randn(2, 8, 20)

    def call(parameters, buffers):
        return torch.func.functional_call(gates[0], (parameters, buffers), (x,))

    together = torch.func.vmap(call)(parameters, buffers)
    torch.testing.assert_close(together, torch.stack([gate(x) for gate in gates]))


def test_a_module_of_the_callers_own_squeezes():
    class Range(nn.Module):
        def forward(self, x):
            return x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True)

    gate = GatherExcite(2, squeeze=Range())
    x = torch.tensor([[[0.0, 3.0], [1.0, 1.0]]])
    torch.testing.assert_close(gate.gate(x), torch.tensor([[3.0, 0.0]]).sigmoid())
