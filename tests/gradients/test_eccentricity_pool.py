import pytest
import torch

from neuroattn.kernels.eccentricity_pool import LinearLaw, eccentricity_pool

OPERATOR = torch.ops.neuroattn.eccentricity_pool.default
BACKWARD = torch.ops.neuroattn.eccentricity_pool_backward.default
LAW = LinearLaw(slope=0.5, px_per_degree=2, fovea_deg=1)
GAZE = torch.tensor([[3.0, 2.0], [-1.0, 9.0]])


def make_x(batch=2):
    # Values apart from each other by far more than gradcheck's step, so that no maximum changes.
    order = torch.randperm(batch * 2 * 6 * 8, generator=torch.Generator().manual_seed(0))
    return (order.double().view(batch, 2, 6, 8) / 10).requires_grad_()


@pytest.mark.parametrize("gaze", [None, GAZE], ids=["centre", "gaze"])
@pytest.mark.parametrize("mode", ["mean", "max"])
def test_gradients(mode, gaze):
    assert torch.autograd.gradcheck(lambda x: eccentricity_pool(x, gaze, LAW, mode=mode), make_x())


@pytest.mark.parametrize("gaze", [None, GAZE], ids=["centre", "gaze"])
@pytest.mark.parametrize("mode", ["mean", "max"])
def test_operator_contract(mode, gaze):
    x, windows = make_x(), LAW.windows(6, 8, 2, gaze)
    torch.library.opcheck(OPERATOR, (x, windows, [8, 8], 2, mode))
    out, place = OPERATOR(x.detach().transpose(2, 3), windows, [8, 8], 2, mode)
    torch.library.opcheck(BACKWARD, (torch.ones_like(out), windows, place, [8, 6], [8, 8], 2, mode))


@pytest.mark.parametrize("mode", ["mean", "max"])
def test_vmap_equals_a_loop(mode):
    x = torch.unflatten(make_x(4).detach(), 0, (2, 2))
    gaze = torch.stack([GAZE, GAZE + 2])

    def pool(x, gaze):
        return eccentricity_pool(x, gaze, LAW, mode=mode)

    loop = torch.stack([pool(*sample) for sample in zip(x, gaze, strict=True)])
    torch.testing.assert_close(torch.func.vmap(pool)(x, gaze), loop)
    torch.testing.assert_close(torch.func.vmap(pool, (None, 0))(x[0], gaze)[1], pool(x[0], gaze[1]))
    torch.testing.assert_close(torch.func.vmap(pool, (1, None))(x.transpose(0, 1), None)[1], pool(x[1], None))


@pytest.mark.parametrize("gaze", [None, GAZE], ids=["centre", "gaze"])
@pytest.mark.parametrize("mode", ["mean", "max"])
def test_batched_gradients_equal_a_loop(mode, gaze):
    x = make_x()
    out = eccentricity_pool(x, gaze, LAW, mode=mode)
    grads = torch.randn(3, *out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batched = torch.autograd.grad(out, x, grads, is_grads_batched=True, retain_graph=True)[0]
    loop = [torch.autograd.grad(out, x, grad, retain_graph=True)[0] for grad in grads]
    torch.testing.assert_close(batched, torch.stack(loop))
