import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroattn.kernels.channel_gate import channel_gate


@settings(max_examples=40, deadline=None)
@given(time=st.integers(1, 60), kernel=st.integers(1, 60), stride=st.integers(1, 20), seed=st.integers(0, 99))
def test_pooling_inside_equals_pooling_after(time, kernel, stride, seed):
    kernel = min(kernel, time)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, time, generator=generator, dtype=torch.float64)
    gate = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    after = F.avg_pool1d(channel_gate(x, gate), kernel, stride)
    torch.testing.assert_close(channel_gate(x, gate, (kernel, stride)), after)


def test_gate_of_one_is_the_identity():
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(channel_gate(x, torch.ones(2, 3)), x)


def test_channels_permute_with_their_gates():
    x, gate = torch.arange(12.0).view(1, 3, 4), torch.tensor([[1.0, 2.0, 3.0]])
    order = torch.tensor([2, 0, 1])
    assert torch.equal(channel_gate(x[:, order], gate[:, order], 2), channel_gate(x, gate, 2)[:, order])


@pytest.mark.parametrize(
    ("x", "gate", "pool", "error", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 3), None, ValueError, r"x must have shape \(batch, channel, time\)"),
        (torch.ones(2, 3, 4), torch.ones(3), None, ValueError, r"gate must have shape \(2, 3\), got \(3,\)"),
        (torch.ones(2, 3, 4), torch.ones(2, 3), 5, ValueError, "pool must not be longer than the 4 samples"),
        (torch.ones(2, 3, 4), torch.ones(2, 3), (2, 0), ValueError, r"stride of at least 1, got \(2, 0\)"),
        (torch.ones(2, 3, 4).int(), torch.ones(2, 3), None, TypeError, "x must be floating, got torch.int32"),
    ],
)
def test_wrong_input_is_named(x, gate, pool, error, message):
    with pytest.raises(error, match=message):
        channel_gate(x, gate, pool)
