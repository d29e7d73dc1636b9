"""The Triton kernels of attention against the definition in float64: interpreted, or compiled on a GPU."""

import math

import pytest
import torch

from neuroattn.kernels.attention import op, reference

pytest.importorskip("triton", reason="no triton on this platform")
_triton = pytest.importorskip("neuroattn.kernels.attention._triton")

# Error allowed relative to the largest number: outputs and maps, gradients.
TOLERANCE = {torch.float32: (2e-5, 2e-5), torch.float16: (4e-3, 8e-3), torch.bfloat16: (2e-2, 5e-2)}
if torch.cuda.is_available():  # float32 gradients are TF32 products there
    TOLERANCE[torch.float32] = (2e-5, 5e-3)
SMALL = _triton.Blocks(16, 16, 4, 1)


def normal(seed, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def make_inputs(
    batch=1, heads=2, n_queries=5, n_keys=7, width=8, value_width=8, dtype=torch.float32, q_batch=None,
    k_heads=None,
):  # fmt: skip
    return (
        normal(0, q_batch or batch, heads, n_queries, width, dtype=dtype),
        normal(1, batch, k_heads or heads, n_keys, width, dtype=dtype),
        normal(2, batch, heads, n_keys, value_width, dtype=dtype),
    )


def check(q, k, v, device, map="heads", bias=None, window=None, blocks=SMALL, through=("out", "map", "lse")):
    """Compare outputs and every gradient; ``through`` names the outputs that are differentiated."""
    lo, hi = (None, None) if window is None else (x.to(device) for x in window)
    tensors = [None if x is None else x.to(device) for x in (q, k, v, bias)]
    out, weights, lse = _triton.forward(*tensors, lo, hi, 0.3, map, blocks)
    leaves = [x.double().detach().requires_grad_() for x in (q, k, v, bias) if x is not None]
    options = {} if bias is None else {"key_bias": leaves[3]}
    want = reference.attention(*leaves[:3], scale=0.3, window=window, map=map, **options)
    got = {"out": out, "lse": lse} | ({} if map == "none" else {"map": weights})
    want = {name: x for name, x in zip(("out", "map", "lse"), want, strict=True) if x is not None}
    for name, x in got.items():
        compare(x, want[name], TOLERANCE[q.dtype][0])
    names = [name for name in through if name in got]
    grads = {name: normal(3 + i, *got[name].shape, dtype=got[name].dtype) for i, name in enumerate(names)}
    expected = torch.autograd.grad(
        sum((want[n].nan_to_num(neginf=0.0) * grads[n].double()).sum() for n in names),
        leaves,
        allow_unused=True,
    )
    given = [grads[n].to(device) if n in grads else None for n in ("out", "map", "lse")]
    found = _triton.backward(*given, *tensors, lo, hi, out, lse, 0.3, bias is not None, blocks)
    for x, y, leaf in zip(found, expected, leaves, strict=False):
        compare(x, torch.zeros_like(leaf) if y is None else y, TOLERANCE[q.dtype][1])


def compare(got, want, tolerance):
    finite = want[want.isfinite()].abs()
    scale = max(1.0, finite.max().item()) if finite.numel() else 1.0
    torch.testing.assert_close(got.double().cpu(), want.double(), rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("n_queries", [1, 15, 16, 17], ids="queries={}".format)
@pytest.mark.parametrize("n_keys", [1, 15, 16, 17], ids="keys={}".format)
def test_sizes_around_the_block(n_queries, n_keys, device, poison, guarded):
    inputs = make_inputs(heads=1, n_queries=n_queries, n_keys=n_keys)
    check(*(guarded(x) for x in inputs), device)


@pytest.mark.parametrize("width", [16, 24, 48, 64, 72, 128], ids="width={}".format)
@pytest.mark.parametrize("map", ["none", "mean"])
def test_head_sizes(width, map, device, poison, guarded):
    q, k, v = make_inputs(width=width, value_width=144 - width if width > 64 else width)
    check(guarded(q), guarded(k), guarded(v), device, map)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("map", ["none", "heads", "mean"])
@pytest.mark.parametrize("n_queries", [5, 18])
def test_dtypes_maps_and_both_backwards(dtype, map, n_queries, device, poison, guarded):
    inputs = make_inputs(batch=2, n_queries=n_queries, n_keys=19, dtype=dtype)
    check(*(guarded(x) for x in inputs), device, map)


@pytest.mark.parametrize("n_queries", [5, 18])
@pytest.mark.parametrize("through", [("out",), ("map",), ("lse",)], ids=str)
@pytest.mark.parametrize("map", ["heads", "mean"])
def test_each_output_is_differentiated_alone(n_queries, through, map, device, poison):
    check(*make_inputs(n_queries=n_queries, n_keys=17), device, map, through=through)


@pytest.mark.parametrize("n_queries", [5, 18])
@pytest.mark.parametrize("map", ["none", "heads", "mean"])
def test_bias_and_hidden_keys(n_queries, map, device, poison):
    bias = normal(9, 2, 2, 19)
    bias[0, :, 3:17] = -math.inf
    bias[1, 1] = -math.inf  # nothing to see
    check(*make_inputs(batch=2, n_queries=n_queries, n_keys=19), device, map, bias)


@pytest.mark.parametrize("n_queries", [5, 18])
@pytest.mark.parametrize("map", ["none", "heads", "mean"])
def test_windows(n_queries, map, device, poison):
    first = torch.arange(n_queries, dtype=torch.int32)
    end = (first + torch.tensor([3, 40, 0, -2, 17])[first % 5]).int()  # beyond the end, empty, reversed
    check(*make_inputs(n_queries=n_queries, n_keys=19), device, map, window=(first, end))


@pytest.mark.parametrize("n_queries", [5, 18])
@pytest.mark.parametrize(("q_batch", "k_heads"), [(1, 2), (2, 1), (1, 1)])
def test_shared_queries_and_keys(n_queries, q_batch, k_heads, device, poison):
    inputs = make_inputs(batch=2, n_queries=n_queries, n_keys=17, q_batch=q_batch, k_heads=k_heads)
    check(*inputs, device, "mean")


@pytest.mark.parametrize("n_queries", [5, 18])
def test_strided_and_expanded_inputs(n_queries, device, poison):
    q = normal(0, 1, 1, n_queries, 8).expand(2, 2, -1, -1)
    k = normal(1, 2, 2, 8, 17).transpose(2, 3)
    v = normal(2, 2, 17, 2, 16).transpose(1, 2)[..., ::2]
    bias = normal(3, 2, 1, 17).expand(2, 2, 17)
    check(q, k, v, device, "heads", bias)


@pytest.mark.parametrize("n_queries", [3, 20, 70])
def test_shipped_configurations(n_queries, device, poison):
    inputs = make_inputs(heads=1, n_queries=n_queries, n_keys=67, value_width=16)
    check(*inputs, device, "mean", blocks=None)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_scores(size, device, poison):
    q, v = torch.full((1, 1, 2, 16), size / 16), normal(0, 1, 1, 3, 16)
    k = torch.tensor([1.0, 1.0, 0.0])[None, None, :, None].expand(1, 1, 3, 16)
    out, weights, lse = _triton.forward(
        q.to(device), k.to(device), v.to(device), None, None, None, 1.0, "heads", SMALL
    )
    want = torch.tensor([0.5, 0.5, 0.0] if size > 0 else [0.0, 0.0, 1.0])
    compare(weights, want.double().expand(1, 1, 2, 3), 1e-6)
    compare(out, (want @ v[0, 0]).double().expand(1, 1, 2, 16), 1e-5)
    assert lse.isfinite().all()


def test_which_tensors_have_a_kernel():
    for dtype, width, served in [
        (torch.float32, 64, True),
        (torch.float32, 65, False),
        (torch.bfloat16, 128, True),
        (torch.float16, 129, False),
        (torch.float64, 16, False),
    ]:
        q = torch.empty(1, 1, 1, width, dtype=dtype, device="meta")
        on_gpu = type("OnGpu", (), {"is_cuda": True, "dtype": q.dtype, "shape": q.shape})()
        assert op._has_kernel(on_gpu, on_gpu) is served
        assert op._has_kernel(q, q) is False


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("map", ["none", "heads", "mean"])
@pytest.mark.parametrize("n_queries", [48, 200])
def test_full_size_and_bit_equal_reruns(dtype, map, n_queries):
    q, k, v = (x.cuda() for x in make_inputs(4, 16, n_queries, 961, 48, 48, dtype))
    check(q.cpu(), k.cpu(), v.cpu(), "cuda", map, blocks=None)
    first = None
    for _ in range(20):
        out, weights, lse = _triton.forward(q, k, v, None, None, None, 0.3, map)
        grad_map = None if map == "none" else torch.ones_like(weights)
        given = (torch.ones_like(out), grad_map, torch.ones_like(lse))
        grads = _triton.backward(*given, q, k, v, None, None, None, out, lse, 0.3, False)
        result = (out, weights, lse, *grads)
        first = first or result
        assert all(torch.equal(a, b) for a, b in zip(first, result, strict=True))
