import pytest
import torch

from neuroattn.kernels.channel_gate import channel_gate, op, reference

pytest.importorskip("triton", reason="no triton on this platform")
_triton = pytest.importorskip("neuroattn.kernels.channel_gate._triton")

POOLS = [(1, 1), (4, 4), (6, 3), (5, 3), (2, 5)]


def make_inputs(time=37, dtype=torch.float64):
    generator = torch.Generator().manual_seed(time)
    x = torch.randn(2, 3, time, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.rand(2, 3, generator=generator, dtype=torch.float64).to(dtype)


def expected(x, gate, grad, kernel, stride):
    x, gate = x.double().requires_grad_(), gate.double().requires_grad_()
    out = reference.channel_gate(x, gate, kernel, stride)
    return out.detach(), *torch.autograd.grad(out, (x, gate), grad.double())


def check_kernels(x, gate, kernel, stride, assert_close, grad=None, block=16):
    out = _triton.forward(x, gate, kernel, stride, block=block)
    grad = (
        torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out) if grad is None else grad
    )
    grad_x, grad_gate = _triton.backward(grad, x, gate, kernel, stride, block=block)
    want = expected(x.cpu(), gate.cpu(), grad.cpu(), kernel, stride)
    for got, reference_value in zip((out, grad_x, grad_gate), want, strict=True):
        assert_close(got, reference_value, x.dtype)
    assert (out.dtype, grad_x.dtype, grad_gate.dtype) == (x.dtype, x.dtype, gate.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_kernels_match_definition(pool, dtype, poison, guarded, assert_close):
    x, gate = make_inputs(dtype=dtype)
    check_kernels(guarded(x), guarded(gate), *pool, assert_close)


@pytest.mark.parametrize("time", [1, 15, 16, 17, 33], ids="time={}".format)
def test_kernels_at_block_edges(time, poison, guarded, assert_close):
    x, gate = make_inputs(time, torch.float32)
    check_kernels(guarded(x), guarded(gate), 1, 1, assert_close)
    check_kernels(guarded(x), guarded(gate), time, 1, assert_close)


def test_kernels_with_the_shipped_blocks(poison, guarded, assert_close):
    for time in (40, 300):  # both rows of the configuration table
        x, gate = make_inputs(time, torch.float32)
        check_kernels(guarded(x), guarded(gate), 8, 8, assert_close, block=None)


def test_kernels_read_strided_and_expanded_inputs(poison, device, assert_close):
    x, gate = (t.to(device) for t in make_inputs(dtype=torch.float32))
    channels_last = x.transpose(1, 2).contiguous().transpose(1, 2)
    check_kernels(channels_last[..., ::2], gate.t().contiguous().t(), 4, 2, assert_close)
    check_kernels(x[:1].expand(2, 3, 37), gate[:, :1].expand(2, 3), 4, 4, assert_close)
    ones = torch.ones((), device=device).expand(2, 3, 9)  # the gradient that .sum() sends
    check_kernels(x, gate, 4, 4, assert_close, grad=ones)


def test_samples_after_the_last_window_have_no_say(device):
    x, gate = (t.to(device) for t in make_inputs(10, torch.float32))
    x[..., 8:] = float("nan")
    grad = torch.ones(2, 3, 2, device=device)
    grad_x, grad_gate = _triton.backward(grad, x, gate, 4, 4)
    assert not torch.isnan(grad_gate).any()
    assert (grad_x[..., 8:] == 0).all()
    assert not torch.isnan(_triton.forward(x, gate, 4, 4)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_torch_route_matches_definition(pool, dtype, assert_close):
    x, gate = (t.requires_grad_() for t in make_inputs(dtype=dtype))
    out = channel_gate(x, gate, pool=pool)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    got = (out, *torch.autograd.grad(out, (x, gate), grad))
    for value, want in zip(got, expected(x.detach(), gate.detach(), grad, *pool), strict=True):
        assert_close(value, want, dtype)
        assert value.dtype == dtype


def test_half_precision_sums_in_float32():
    x, gate = torch.full((1, 1, 4096), 100.0, dtype=torch.float16), torch.ones(1, 1, dtype=torch.float16)
    assert channel_gate(x, gate, pool=4096).item() == 100.0  # 409,600 does not fit into float16
    gate.requires_grad_()
    channel_gate(x, gate).mul(0.125).sum().backward()
    assert gate.grad.item() == 51200.0


def test_gate_may_have_another_dtype():
    x, gate = make_inputs(dtype=torch.bfloat16)[0], make_inputs(dtype=torch.float32)[1].requires_grad_()
    out = channel_gate(x, gate)
    out.sum().backward()
    assert (out.dtype, gate.grad.dtype) == (torch.bfloat16, torch.float32)


def test_autocast_keeps_dtypes():
    x, gate = make_inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(channel_gate(x, gate, pool=4), reference.channel_gate(x, gate, 4, 4))


def test_compiles_as_one_graph():
    x, gate = (t.requires_grad_() for t in make_inputs())

    def loss(x, gate):
        return channel_gate(x, gate, pool=(6, 3)).sin().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    want = torch.autograd.grad(loss(x, gate), (x, gate))
    torch.testing.assert_close(torch.autograd.grad(compiled(x, gate), (x, gate)), want)


def test_only_float64_and_empty_signals_lack_a_kernel():
    assert [d for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64) if not op.has_kernel(
        torch.ones(1, 1, 4, dtype=d))] == [torch.float64]  # fmt: skip
    assert not op.has_kernel(torch.ones(0, 1, 4))


@pytest.mark.gpu
@pytest.mark.parametrize("pool", [(1, 1), (8, 8), (75, 15)], ids=str)
def test_large_shapes_and_bit_equal_reruns(pool, assert_close):
    x = torch.randn(64, 64, 1125, device="cuda")
    gate = torch.rand(64, 64, device="cuda")
    check_kernels(x, gate, *pool, assert_close, block=None)
    grad = torch.randn_like(channel_gate(x, gate, pool))
    first = _triton.backward(grad, x, gate, *pool)
    for _ in range(20):
        assert all(map(torch.equal, _triton.backward(grad, x, gate, *pool), first))
