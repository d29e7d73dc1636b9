import pytest
import torch

from neuroattn.kernels.channel_gate import channel_gate

OPERATOR = torch.ops.neuroattn.channel_gate.default
BACKWARD = torch.ops.neuroattn.channel_gate_backward.default


def make_inputs(batch=2, time=11):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, time, generator=generator, dtype=torch.float64)
    gate = torch.rand(batch, 3, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), gate.requires_grad_()


@pytest.mark.parametrize("pool", [None, 4, (6, 3), (5, 3), (2, 5), (1, 2)], ids=str)
def test_gradients(pool):
    assert torch.autograd.gradcheck(lambda x, gate: channel_gate(x, gate, pool), make_inputs())


@pytest.mark.parametrize("pool", [(1, 1), (6, 3)], ids=str)
def test_operator_contract(pool):
    x, gate = make_inputs()
    torch.library.opcheck(OPERATOR, (x, gate, *pool))
    grad = torch.ones_like(channel_gate(x, gate, pool))
    torch.library.opcheck(BACKWARD, (grad, x.detach(), gate.detach(), *pool))


def test_operator_contract_for_strided_inputs():
    x, gate = (t.detach() for t in make_inputs(batch=4))
    torch.library.opcheck(OPERATOR, (x.transpose(0, 2)[::2, :, :2], gate[:1].t().expand(3, 6).t(), 1, 1))


def test_vmap_equals_a_loop():
    x, gate = (t.detach() for t in make_inputs(batch=4))
    x, gate = torch.unflatten(x, 0, (2, 2)), gate[:2]
    mapped = torch.func.vmap(channel_gate, (0, None, None))(x, gate, 3)
    torch.testing.assert_close(mapped, torch.stack([channel_gate(sample, gate, 3) for sample in x]))
    mapped = torch.func.vmap(channel_gate, (1, 0), 1)(x.transpose(0, 1), torch.stack([gate, gate + 1]))
    torch.testing.assert_close(mapped[:, 1], channel_gate(x[1], gate + 1))


def test_batched_gradients_equal_a_loop():
    x, gate = make_inputs()
    out = channel_gate(x, gate, 3)
    grads = torch.randn(4, *out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batched = torch.autograd.grad(out, (x, gate), grads, is_grads_batched=True, retain_graph=True)
    loop = [torch.autograd.grad(out, (x, gate), grad, retain_graph=True) for grad in grads]
    for got, want in zip(batched, zip(*loop, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(want))
