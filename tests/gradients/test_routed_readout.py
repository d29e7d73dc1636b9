"""The readout operators under autograd, opcheck, torch.compile, vmap and autocast."""

import pytest
import torch

from neuroattn.kernels import Routing, routed_readout
from neuroattn.kernels.routed_readout import reference

MASKS = torch.tensor(
    [
        [True, False, True, False, False, True],
        [True, True, False, False, False, False],
        [False, False, True, False, True, True],
    ]
)
RUNS = torch.tensor([[True, True, False, False, False, False], [False, True, False, True, True, False]])
ROUTINGS = {"permuted": Routing.from_masks(MASKS), "in runs": Routing.from_masks(RUNS), "vertex": None}


def make_inputs(routing, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 6 if routing is None else routing.n_regions, 3), (6, 3), (6,))
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("routing", ROUTINGS.values(), ids=ROUTINGS.keys())
def test_gradients(routing):
    h, weight, bias = make_inputs(routing)
    assert torch.autograd.gradcheck(lambda *a: routed_readout(*a, routing), (h, weight, bias))
    assert torch.autograd.gradcheck(lambda *a: routed_readout(*a, None, routing), (h, weight))


@pytest.mark.parametrize("name", ["permuted", "in runs"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_operator_contract(name, with_bias):
    routing = ROUTINGS[name]
    h, weight, bias = make_inputs(routing)
    pooled = torch.randn(len(routing.signatures), 2, 3, dtype=h.dtype, requires_grad=True)
    rest = (routing.perm, routing.counts, routing.tiles, list(routing.bounds))
    torch.library.opcheck(
        torch.ops.neuroattn.grouped_readout, (pooled, weight, bias if with_bias else None, *rest)
    )
    grad = torch.ones(2, 6, dtype=h.dtype)
    args = (grad, pooled.detach(), weight.detach(), *rest)
    torch.library.opcheck(torch.ops.neuroattn.grouped_readout_backward, args)


def test_vertex_operator_contract():
    h, weight, bias = make_inputs(None)
    torch.library.opcheck(torch.ops.neuroattn.vertex_readout, (h, weight, bias))
    args = (torch.ones(2, 6, dtype=h.dtype), h.detach(), weight.detach())
    torch.library.opcheck(torch.ops.neuroattn.vertex_readout_backward, args)


@pytest.mark.parametrize("routing", ROUTINGS.values(), ids=ROUTINGS.keys())
def test_compiles_without_a_graph_break(routing):
    inputs = make_inputs(routing)

    def loss(*args):
        return routed_readout(*args, routing).sin().sum()

    expected = torch.autograd.grad(loss(*inputs), inputs)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(*inputs), inputs), expected)


@pytest.mark.parametrize("routing", ROUTINGS.values(), ids=ROUTINGS.keys())
@pytest.mark.parametrize("in_dims", [(1, None, None), (0, 1, None), (None, 0, 0)], ids=str)
def test_vmap_equals_a_loop(routing, in_dims):
    inputs = [
        x.detach() if d is None else torch.stack([x.detach(), 2 * x.detach(), x.detach() - 1], d)
        for x, d in zip(make_inputs(routing), in_dims, strict=True)
    ]

    loop = [
        routed_readout(
            *(x if d is None else x.select(d, i) for x, d in zip(inputs, in_dims, strict=True)), routing
        )
        for i in range(3)
    ]
    got = torch.vmap(lambda *args: routed_readout(*args, routing), in_dims)(*inputs)
    torch.testing.assert_close(got, torch.stack(loop))


@pytest.mark.parametrize("routing", ROUTINGS.values(), ids=ROUTINGS.keys())
def test_many_gradients_in_one_backward(routing):
    inputs = tuple(make_inputs(routing))

    def predict(*args):
        return routed_readout(*args, routing).flatten()

    rows = torch.autograd.functional.jacobian(predict, inputs)
    torch.testing.assert_close(torch.autograd.functional.jacobian(predict, inputs, vectorize=True), rows)


@pytest.mark.parametrize("routing", ROUTINGS.values(), ids=ROUTINGS.keys())
def test_autocast_and_half_precision(routing):
    h, weight, bias = make_inputs(routing, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = routed_readout(h, weight, bias, routing)
    assert out.dtype == torch.bfloat16
    masks = {"permuted": MASKS, "in runs": RUNS, "vertex": None}[
        next(name for name, r in ROUTINGS.items() if r is routing)
    ]
    expected = reference.routed_readout(h, weight, bias, masks)
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.05)
    out.float().sum().backward()
    assert h.grad.dtype == weight.grad.dtype == bias.grad.dtype == torch.float32
