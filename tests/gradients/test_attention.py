"""The attention operator under autograd, opcheck, torch.compile, vmap and autocast."""

import pytest
import torch
from torch import Tensor

from neuroattn.kernels import attention
from neuroattn.kernels.attention import reference

KEY_MASK = torch.tensor([[True, False, True, True, False], [False] * 5])
WINDOW = (torch.tensor([0, 1, 2, 5]), torch.tensor([3, 4, 5, 2]))


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


def make_inputs(
    *, batch: int = 2, heads: int = 2, width: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        normal(batch, 2, 4, 3, seed=0, dtype=dtype),
        normal(2, heads, 5, 3, seed=1, dtype=dtype),
        normal(2, 2, 5, width, seed=2, dtype=dtype),
    )


OPTIONS = {
    "plain": {},
    "mask": {"key_mask": KEY_MASK},
    "window": {"window": WINDOW},
    "bias": {"key_bias": (2, 2, 5)},
    "bias, mask and window": {"key_bias": (2, 2, 5), "key_mask": KEY_MASK, "window": WINDOW},
    "gate": {"head_gate": (2, 2, 4)},
    "affine": {"affine": ((2, 2, 4), (2, 2, 4)), "key_mask": KEY_MASK, "window": WINDOW},
}


def build(options: dict) -> tuple[list[Tensor], list[str]]:
    """Differentiable arguments in the order gradcheck passes them, and their names."""
    leaves, names = [], []
    for name in ("key_bias", "head_gate"):
        if name in options:
            leaves.append(normal(*options[name], seed=3))
            names.append(name)
    for i, shape in enumerate(options.get("affine", ())):
        leaves.append(normal(*shape, seed=4 + i))
        names.append("affine")
    return leaves, names


def call(function, q, k, v, *leaves, names, options, map):
    given = {n: x for n, x in zip(names, leaves, strict=True) if n != "affine"}
    pair = tuple(x for n, x in zip(names, leaves, strict=True) if n == "affine")
    fixed = {n: x for n, x in options.items() if n in ("key_mask", "window")}
    return function(q, k, v, map=map, **given, **fixed, **({"affine": pair} if pair else {}))


@pytest.mark.parametrize("map", ["none", "heads", "mean"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_gradients_flow_through_output_map_and_lse(options, map):
    leaves, names = build(options)
    inputs = (*make_inputs(), *leaves)

    def finite(*args):
        out, weights, lse = call(attention, *args, names=names, options=options, map=map)
        return [x.nan_to_num(neginf=0.0) for x in (out, weights, lse) if x is not None]

    assert torch.autograd.gradcheck(finite, inputs, fast_mode=True)


@pytest.mark.parametrize(("batch", "heads", "width"), [(1, 2, 3), (2, 1, 3), (1, 1, 3), (2, 2, 4), (1, 1, 2)])
@pytest.mark.parametrize("through", ["out", "map"])
def test_gradients_of_shared_queries_shared_keys_and_wider_values(batch, heads, width, through):
    inputs = make_inputs(batch=batch, heads=heads, width=width)
    assert torch.autograd.gradcheck(
        lambda *a: getattr(attention(*a, map="heads"), through), inputs, fast_mode=True
    )


def test_the_output_alone_keeps_its_gradient_when_the_map_is_dropped():
    q, k, v = make_inputs()
    expected = torch.autograd.grad(reference.attention(q, k, v)[0].sin().sum(), (q, k, v))
    for map in ("none", "heads", "mean"):
        got = torch.autograd.grad(attention(q, k, v, map=map).out.sin().sum(), (q, k, v))
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("map", ["none", "heads", "mean"])
@pytest.mark.parametrize(("heads", "width", "with_bias"), [(2, 3, False), (1, 4, True)])
def test_operator_contract(map, heads, width, with_bias):
    inputs = make_inputs(heads=heads, width=width)
    bias = normal(2, 2, 5, seed=3) if with_bias else None
    bounds = [b.int() for b in WINDOW] if with_bias else [None, None]
    torch.library.opcheck(torch.ops.neuroattn.attention, (*inputs, bias, *bounds, 0.5, map))


@pytest.mark.parametrize("bias_grad", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_backward_operator_contract(bias_grad, batch):
    q, k, v = (x.detach() for x in make_inputs(batch=batch, heads=3 - batch))
    bias = torch.zeros(2, 2, 5, dtype=q.dtype)
    out, _, lse = torch.ops.neuroattn.attention(q, k, v, bias, None, None, 0.5, "none")
    grads = (torch.ones_like(out), None, torch.ones_like(lse) if bias_grad else None)
    args = (*grads, q, k, v, bias, None, None, out, lse, 0.5, bias_grad)
    torch.library.opcheck(torch.ops.neuroattn.attention_backward, args)


@pytest.mark.parametrize("map", ["none", "mean"])
def test_compiles_without_a_graph_break(map):
    q, k, v = make_inputs(dtype=torch.float32)

    def loss(q, k, v):
        out, weights, lse = attention(q, k, v, key_mask=KEY_MASK[[0, 0]], map=map)
        return out.sin().sum() + lse.cos().sum() + (0.0 if weights is None else weights.square().sum())

    expected = torch.autograd.grad(loss(q, k, v), (q, k, v))
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(q, k, v), (q, k, v)), expected)


@pytest.mark.parametrize("in_dims", [(0, None, None), (None, 0, 2), (1, 0, 0)], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_vmap_equals_a_loop(in_dims, batch):
    inputs = [
        x if d is None else torch.stack([x, 2 * x, x - 1], d)
        for x, d in zip((x.detach() for x in make_inputs(batch=batch)), in_dims, strict=True)
    ]

    def outputs(q, k, v):
        return tuple(attention(q, k, v, key_mask=KEY_MASK[[0, 0]], map="mean"))

    loop = [
        outputs(*(x if d is None else x.select(d, i) for x, d in zip(inputs, in_dims, strict=True)))
        for i in range(3)
    ]
    expected = tuple(torch.stack(x) for x in zip(*loop, strict=True))
    torch.testing.assert_close(torch.vmap(outputs, in_dims)(*inputs), expected)


def test_vmap_over_windows_equals_a_loop():
    q, k, v = make_inputs()
    ends = torch.tensor([[3, 4, 5, 2], [1, 1, 1, 1]])
    got = torch.vmap(lambda end: attention(q, k, v, window=(WINDOW[0], end)).out)(ends)
    torch.testing.assert_close(
        got, torch.stack([attention(q, k, v, window=(WINDOW[0], end)).out for end in ends])
    )


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("map", ["none", "heads"])
def test_many_gradients_in_one_backward(batch, map):
    inputs = make_inputs(batch=batch)

    def loss(*args):
        return attention(*args, map=map).out.sum((1, 3)).flatten()

    rows = torch.autograd.functional.jacobian(loss, inputs)
    torch.testing.assert_close(torch.autograd.functional.jacobian(loss, inputs, vectorize=True), rows)


def test_autocast_casts_the_inputs_and_keeps_the_map_in_full_precision():
    q, k, v = make_inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out, weights, lse = attention(q, k, v, key_bias=torch.zeros(2, 2, 5), map="heads")
    assert (out.dtype, weights.dtype, lse.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    low = (x.detach().bfloat16().double() for x in (q, k, v))
    torch.testing.assert_close(weights.double(), reference.attention(*low, map="heads")[1], rtol=0, atol=2e-2)
    out.float().sum().backward()
    assert q.grad.dtype == torch.float32


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2)], ids=str)
@pytest.mark.parametrize("map", ["none", "heads", "mean"])
def test_half_precision_gradients(map, dtype, tolerance):
    inputs = [x.detach().to(dtype).requires_grad_() for x in make_inputs()]
    wide = [x.detach().double().requires_grad_() for x in inputs]

    def loss(outputs):
        return sum(x.double().sin().sum() for x in outputs if x is not None)

    expected = torch.autograd.grad(loss(reference.attention(*wide, map=map)), wide)
    got = torch.autograd.grad(loss(attention(*inputs, map=map)), inputs)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * float(b.abs().max()))
