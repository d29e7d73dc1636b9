import pytest
import torch

from neuroattn.kernels.eccentricity_pool import LinearLaw, eccentricity_pool, op, reference

pytest.importorskip("triton", reason="no triton on this platform")
_triton = pytest.importorskip("neuroattn.kernels.eccentricity_pool._triton")

RINGS = LinearLaw(slope=0.3, px_per_degree=2, fovea_deg=1)
SMOOTH = LinearLaw(slope=0.3, px_per_degree=2, fovea_deg=1, ring_deg=None)
GAZE = torch.tensor([[3.0, 6.5], [-2.0, 11.0]])
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def make_x(height=7, width=10, channels=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(height * width)
    return torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64).to(dtype)


def expected(x, windows, canvas, stride, mode, grad):
    x = x.double().cpu().requires_grad_()
    out = reference.eccentricity_pool(x, windows.cpu(), canvas, stride, mode)
    return out.detach(), torch.autograd.grad(out, x, grad.double().cpu())[0]


def check_kernels(x, law, gaze, mode, assert_close, *, stride=2, blocks=(2, 32), grad=None):
    size, canvas = tuple(x.shape[2:]), law.canvas(*x.shape[2:])
    windows = law.windows(*size, stride, gaze).to(x.device)
    out, place = _triton.forward(x, windows, list(canvas), stride, mode, blocks)
    grad = (
        torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out) if grad is None else grad
    )
    grad_x = _triton.backward(grad, windows, place, size, list(canvas), stride, mode, blocks)
    want = expected(x, windows, canvas, stride, mode, grad)
    assert_close(out, want[0], x.dtype)
    assert_close(grad_x, want[1], x.dtype)
    assert (out.dtype, grad_x.dtype) == (x.dtype, x.dtype)


@pytest.mark.parametrize("mode", ["mean", "max"])
@pytest.mark.parametrize("gaze", [None, GAZE], ids=["centre", "gaze"])
@pytest.mark.parametrize("law", [RINGS, SMOOTH], ids=["rings", "smooth"])
def test_kernels_match_definition(law, gaze, mode, poison, guarded, assert_close):
    check_kernels(guarded(make_x(dtype=torch.float32)), law, gaze, mode, assert_close)


@pytest.mark.parametrize("mode", ["mean", "max"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_kernels_in_half_precision(dtype, mode, poison, guarded, assert_close):
    check_kernels(guarded(make_x(5, 6, dtype=dtype)), RINGS, GAZE, mode, assert_close)


@pytest.mark.parametrize("mode", ["mean", "max"])
@pytest.mark.parametrize("stride", [1, 3])
def test_kernels_at_other_strides(stride, mode, poison, guarded, assert_close):
    x = guarded(make_x(5, 6, 1, torch.float32))
    for law in (RINGS, SMOOTH):
        check_kernels(x, law, None, mode, assert_close, stride=stride)


@pytest.mark.parametrize("mode", ["mean", "max"])
@pytest.mark.parametrize("n", [1, 15, 16, 17])
def test_kernels_at_block_edges(n, mode, poison, guarded, assert_close):
    law = LinearLaw(slope=0.1, px_per_degree=2, fovea_deg=1, ring_deg=None)
    wide, tall = make_x(1, n, 1, torch.float32)[:1], make_x(n, 1, 3, torch.float32)[:1]
    check_kernels(guarded(wide), law, None, mode, assert_close, stride=1, blocks=(2, 16))
    check_kernels(guarded(tall), law, None, mode, assert_close, stride=1, blocks=(2, 16))


@pytest.mark.parametrize("mode", ["mean", "max"])
@pytest.mark.parametrize("side", [6, 34])
def test_kernels_with_the_shipped_blocks(side, mode, poison, guarded, assert_close):
    law = LinearLaw(slope=0.05, px_per_degree=2)
    check_kernels(guarded(make_x(side, side, 1, torch.float32)), law, GAZE, mode, assert_close, blocks=None)


@pytest.mark.parametrize("mode", ["mean", "max"])
def test_kernels_read_strided_and_expanded_inputs(mode, poison, device, assert_close):
    x = make_x(6, 8, dtype=torch.float32).to(device)
    check_kernels(x.contiguous(memory_format=torch.channels_last)[..., ::2], SMOOTH, GAZE, mode, assert_close)
    check_kernels(x[:1, :1].expand(2, 2, 6, 8), RINGS, None, mode, assert_close)
    check_kernels(x, SMOOTH, None, mode, assert_close, grad=torch.ones((), device=device).expand(2, 2, 3, 4))


def routes(x, law, stride=2):
    """The maximum, its gradient of ones and its places by the torch route and by the kernels."""
    windows, canvas = law.windows(*x.shape[2:], stride), list(law.canvas(*x.shape[2:]))
    for forward, backward, device in (
        (op._max, op._eccentricity_pool_backward, "cpu"),
        (lambda *args: _triton.forward(*args, "max"), _triton.backward, x.device),
    ):
        out, place = forward(x.to(device), windows.to(device), canvas, stride)
        size = list(x.shape[2:])
        grad = backward(torch.ones_like(out), windows.to(device), place, size, canvas, stride, "max")
        yield out.cpu(), grad.cpu(), place.cpu()


def test_padding_of_the_canvas_counts_in_the_maximum(device):
    x = -1 - torch.rand(1, 1, 4, 12, device=device)
    for out, grad, place in routes(x, RINGS):
        assert (out[0, 0, 0] == 0).all()
        assert (place[0, 0, 0] == -1).all()
        assert grad.sum() == (place >= 0).sum()
        assert (out < 0).any()


def test_first_of_equal_pixels_takes_the_gradient(device):
    for _, grad, _ in routes(torch.zeros(1, 1, 4, 4, device=device), LinearLaw(slope=0)):
        assert torch.equal(grad[0, 0], torch.tensor([1.0, 0, 1, 0]) * torch.tensor([1.0, 0, 1, 0])[:, None])


@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf")])
def test_nan_and_infinity_are_not_hidden(bad, device):
    x = torch.rand(1, 1, 8, 8, device=device)
    x[0, 0, 3, 3] = bad
    for out, _, _ in routes(x, LinearLaw(slope=0)):
        assert torch.equal(out[0, 0, 1, 1], torch.tensor(bad)) or out[0, 0, 1, 1].isnan()
        assert out.isfinite().sum() == 15
    assert eccentricity_pool(x, law=LinearLaw(slope=0)).isfinite()[..., 0, 0].all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["mean", "max"])
@pytest.mark.parametrize("gaze", [None, GAZE], ids=["centre", "gaze"])
def test_torch_route_matches_definition(gaze, mode, dtype, assert_close):
    for law, stride in ((RINGS, 2), (SMOOTH, 3)):
        x = make_x(dtype=dtype, channels=70).requires_grad_()  # more channels than one piece holds
        out = eccentricity_pool(x, gaze, law, stride, mode)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        windows = law.windows(7, 10, stride, gaze)
        want = expected(x.detach(), windows, law.canvas(7, 10), stride, mode, grad)
        assert_close(out.detach(), want[0], dtype)
        assert_close(torch.autograd.grad(out, x, grad)[0], want[1], dtype)
        assert out.dtype == dtype


def test_small_windows_keep_their_digits_on_a_large_map():
    x = 1000 + torch.rand(1, 1, 300, 300)
    got = eccentricity_pool(x, law=LinearLaw(slope=0))
    torch.testing.assert_close(got, torch.nn.functional.avg_pool2d(x, 2), rtol=0, atol=2e-4)


@pytest.mark.parametrize("mode", ["mean", "max"])
def test_compiles_as_one_graph(mode):
    x = make_x().requires_grad_()

    def loss(x, gaze):
        return eccentricity_pool(x, gaze, RINGS, mode=mode).sin().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for gaze in (None, GAZE):
        want = torch.autograd.grad(loss(x, gaze), x)
        torch.testing.assert_close(torch.autograd.grad(compiled(x, gaze), x), want)


def test_autocast_keeps_the_dtype():
    x = make_x(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(eccentricity_pool(x), eccentricity_pool(x.clone()))
        assert eccentricity_pool(x).dtype == torch.float32


def test_only_float64_and_empty_maps_lack_a_kernel():
    dtypes = [*DTYPES, torch.float64]
    assert [op.has_kernel(torch.ones(1, 1, 2, 2, dtype=d)) for d in dtypes] == [True, True, True, False]
    assert not op.has_kernel(torch.ones(0, 1, 2, 2))


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["mean", "max"])
def test_large_shapes_and_bit_equal_reruns(mode, assert_close):
    x = torch.randn(2, 64, 160, 160, device="cuda")
    gaze = torch.tensor([[80.0, 80.0], [10.0, 150.0]])
    check_kernels(x, LinearLaw(), gaze, mode, assert_close, blocks=None)
    x.requires_grad_()
    out = eccentricity_pool(x, gaze.cuda(), mode=mode)
    grad = torch.randn_like(out)
    first = torch.autograd.grad(out, x, grad, retain_graph=True)[0]
    for _ in range(20):
        assert torch.equal(eccentricity_pool(x, gaze.cuda(), mode=mode), out)
        assert torch.equal(torch.autograd.grad(out, x, grad, retain_graph=True)[0], first)
