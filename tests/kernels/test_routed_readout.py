"""The Triton kernels of the readout against the definition in float64: interpreted, or compiled on a GPU."""

import pytest
import torch

from neuroattn.kernels import Routing
from neuroattn.kernels.routed_readout import op, reference

pytest.importorskip("triton", reason="no triton on this platform")
_triton = pytest.importorskip("neuroattn.kernels.routed_readout._triton")

# Error allowed relative to the largest number.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


SMALL = _triton.Steps(16, 4, 2)


def normal(seed, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def make_masks(n_units, runs=False):
    masks = torch.rand(2, n_units, generator=torch.Generator().manual_seed(n_units)) < 0.5
    return masks[:, (2 * masks[0] + masks[1].int()).argsort()] if runs else masks


def compare(got, want, dtype):
    scale = max(1.0, want.abs().max().item()) if want.numel() else 1.0
    torch.testing.assert_close(got.double().cpu(), want, rtol=0, atol=TOLERANCE[dtype] * scale)


def check(masks, batch, width, device, dtype=torch.float32, with_bias=True, steps=SMALL, guard=lambda x: x):
    routing = Routing.from_masks(masks).to(device)
    groups, units = len(routing.signatures), masks.shape[1]
    h, weight, bias = normal(0, batch, groups, width), normal(1, units, width), normal(2, units)
    pooled, weight, bias = (x.to(dtype) for x in (h.transpose(0, 1).contiguous(), weight, bias))
    grad = normal(3, batch, units, dtype=dtype)
    # In terms of the pooled tokens each group is a region of its own, and the bias counts the true regions.
    member = torch.zeros(groups, units, dtype=torch.bool)
    for group, first, end in routing.tiles.tolist():
        places = torch.arange(first, end)
        member[group, places if routing.perm is None else routing.perm.cpu()[places]] = True
    counts = routing.counts.cpu()
    leaves = [x.double().requires_grad_() for x in (pooled, weight, bias)]
    want = reference.routed_readout(leaves[0].transpose(0, 1), leaves[1], None, member)
    want = want + leaves[2] * counts if with_bias else want
    expected = torch.autograd.grad(want, leaves, grad.double(), allow_unused=True)

    pooled, weight, bias, grad = (guard(x).to(device) for x in (pooled, weight, bias, grad))
    shared = (routing.perm, routing.counts, routing.tiles)
    out = _triton.forward(pooled, weight, bias if with_bias else None, *shared, routing.bounds, steps)
    compare(out, want.detach(), dtype)
    found = _triton.backward(grad, pooled, weight, *shared, routing.chunks, routing.bounds, steps)
    for x, y in zip(found, expected, strict=True):
        if y is not None:
            compare(x, y, dtype)
    assert [x.dtype for x in (out, *found)] == [dtype] * 4


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("runs", [False, True], ids=["permuted", "runs"])
def test_kernels_match_the_definition(dtype, runs, device, poison, guarded):
    check(make_masks(100, runs), 5, 24, device, dtype, guard=guarded)


@pytest.mark.parametrize("n_units", [1, 63, 64, 65], ids="units={}".format)
@pytest.mark.parametrize(("batch", "width"), [(1, 1), (16, 16), (17, 17)])
def test_sizes_around_the_block(n_units, batch, width, device, poison, guarded):
    check(torch.ones(1, n_units, dtype=torch.bool), batch, width, device, guard=guarded)


def test_more_samples_than_a_block_and_no_bias(device, poison):
    check(make_masks(20), 65, 16, device, with_bias=False)


def test_units_in_no_region_are_zero(device, poison):
    masks = torch.zeros(2, 70, dtype=torch.bool)
    check(masks, 2, 16, device)
    masks[0, 3] = True
    check(masks, 2, 16, device)


def test_large_groups_are_split(device, poison):
    masks = torch.ones(2, 1100, dtype=torch.bool)
    masks[1, 1050:] = False
    assert len(Routing.from_masks(masks).chunks) == 3
    check(masks, 2, 16, device)


def test_strided_weights_and_gradients(device, poison):
    routing = Routing.from_masks(make_masks(20)).to(device)
    pooled, weight = normal(0, len(routing.signatures), 3, 16).to(device), normal(1, 20, 16).to(device)
    grad = normal(2, 3, 20).to(device)
    args = (routing.perm, routing.counts, routing.tiles)
    out = _triton.forward(pooled, weight, None, *args, routing.bounds)
    turned = weight.T.contiguous().T
    assert torch.equal(_triton.forward(pooled, turned, None, *args, routing.bounds), out)
    args = (*args, routing.chunks, routing.bounds)
    for a, b in zip(
        _triton.backward(grad, pooled, weight, *args),
        _triton.backward(grad.T.contiguous().T, pooled, turned, *args),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    expanded = grad[:, :1].expand(3, 20)
    for a, b in zip(
        _triton.backward(expanded, pooled, weight, *args),
        _triton.backward(expanded.contiguous(), pooled, weight, *args),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("n_units", "width"), [(1, 1), (15, 127), (16, 128), (17, 129)])
def test_a_token_per_unit(n_units, width, dtype, device, poison, guarded):
    values = normal(0, 3, n_units, width), normal(1, n_units, width), normal(2, n_units)
    h, weight, bias = (guarded(x.to(dtype)).to(device) for x in values)
    grad = guarded(normal(3, 3, n_units, dtype=dtype)).to(device)
    leaves = [x.double().cpu().requires_grad_() for x in (h, weight, bias)]
    want = reference.routed_readout(*leaves, None)
    compare(_triton.vertex_forward(h, weight, bias), want.detach(), dtype)
    compare(_triton.vertex_forward(h, weight, None), (want - leaves[2]).detach(), dtype)
    expected = torch.autograd.grad(want, leaves, grad.double().cpu())
    for x, y in zip(_triton.vertex_backward(grad, h, weight), expected, strict=True):
        compare(x, y, dtype)
    turned = h.transpose(0, 1).contiguous().transpose(0, 1), weight.T.contiguous().T
    assert torch.equal(_triton.vertex_forward(*turned, bias), _triton.vertex_forward(h, weight, bias))
    for x, y in zip(
        _triton.vertex_backward(grad, *turned), _triton.vertex_backward(grad, h, weight), strict=True
    ):
        assert torch.equal(x, y)


def test_which_tensors_have_a_kernel():
    for dtype, served in [(torch.float32, True), (torch.bfloat16, True), (torch.float64, False)]:
        assert op._has_kernel(type("OnGpu", (), {"is_cuda": True, "dtype": dtype})()) is served
        assert op._has_kernel(torch.empty(1, dtype=dtype)) is False


@pytest.mark.gpu
def test_full_size_and_bit_equal_reruns():
    masks = torch.rand(25, 20_000, generator=torch.Generator().manual_seed(0)) < 0.05
    check(masks, 32, 768, "cuda", steps=None)
    routing = Routing.from_masks(masks).cuda()
    pooled, weight = normal(0, len(routing.signatures), 32, 768).cuda(), normal(1, 20_000, 768).cuda()
    grad, args = normal(2, 32, 20_000).cuda(), (routing.perm, routing.counts, routing.tiles)
    first = None
    for _ in range(20):
        out = _triton.forward(pooled, weight, None, *args, routing.bounds)
        result = (out, *_triton.backward(grad, pooled, weight, *args, routing.chunks, routing.bounds))
        first = first or result
        assert all(torch.equal(a, b) for a, b in zip(first, result, strict=True))
