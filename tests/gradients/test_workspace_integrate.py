import pytest
import torch

from neuroattn.kernels.workspace_integrate import workspace_integrate

OPERATOR = torch.ops.neuroattn.workspace_integrate.default
BACKWARD = torch.ops.neuroattn.workspace_integrate_backward.default


def make_inputs(tokens=6, concepts=3):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    k, v, concept_k, concept_v = (
        draw(2, 2, tokens, 4),
        draw(2, 2, tokens, 5),
        draw(2, concepts, 4),
        draw(2, concepts, 5),
    )
    tau = torch.tensor([0.7, 1.3], dtype=torch.float64, requires_grad=True)
    return k, v, concept_k, concept_v, draw(2, concepts), tau


def make_mask(tokens=6):
    mask = torch.ones(2, tokens, dtype=torch.bool)
    mask[0, 2:4] = False
    mask[1] = False
    return mask


@pytest.mark.parametrize("mask", [None, make_mask()], ids=["all", "masked"])
def test_gradients(mask):
    def slots_and_shares(*leaves):
        return workspace_integrate(*leaves, mask, return_assignment=True)

    assert torch.autograd.gradcheck(slots_and_shares, make_inputs())


def test_gradient_of_a_shared_temperature():
    *leaves, _ = make_inputs()
    tau = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda tau: workspace_integrate(*leaves, tau)[:3], tau)


def test_empty_slots_send_no_gradient():
    k, v, concept_k, concept_v, log_kappa, tau = make_inputs()
    log_kappa = torch.full_like(log_kappa, -torch.inf).requires_grad_()
    leaves = (k, v, concept_k, concept_v, log_kappa, tau)
    keys, values, log_mass, _ = workspace_integrate(*leaves, make_mask())
    assert (log_mass[1] == -torch.inf).all()
    assert (keys[1] == 0).all()
    assert (values[1] == 0).all()
    loss = keys.sin().sum() + values.sin().sum() + log_mass.exp().sum()
    grads = torch.autograd.grad(loss, leaves)
    assert all(grad.isfinite().all() for grad in grads)
    assert (grads[0][1] == 0).all()
    assert grads[0][0, :, :2].abs().min() > 0


@pytest.mark.parametrize("mask", [None, make_mask()[:, None]], ids=["all", "masked"])
def test_operator_contract(mask):
    inputs = (*make_inputs(), mask)
    torch.library.opcheck(OPERATOR, inputs)
    plain = [None if x is None else x.detach() for x in inputs]
    plain[0] = plain[0].transpose(1, 2).contiguous().transpose(1, 2)
    slots = OPERATOR(*plain)
    torch.library.opcheck(BACKWARD, (*map(torch.ones_like, slots), *plain, *slots))


@pytest.mark.parametrize("mapped", range(7))
def test_vmap_over_each_input_equals_a_loop(mapped):
    inputs = [*(x.detach() for x in make_inputs()), make_mask()]
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(inputs[mapped].shape[-1], generator=generator)
    stacked = torch.stack([inputs[mapped], inputs[mapped][..., order]], -1)
    in_dims = tuple(stacked.ndim - 1 if i == mapped else None for i in range(7))
    args = [stacked if i == mapped else x for i, x in enumerate(inputs)]
    got = torch.func.vmap(lambda *x: workspace_integrate(*x)[:3], in_dims)(*args)
    for i in range(2):
        inputs[mapped] = stacked[..., i]
        for one, want in zip(got, workspace_integrate(*inputs)[:3], strict=True):
            torch.testing.assert_close(one[i], want)


@pytest.mark.parametrize("mask", [None, make_mask()], ids=["all", "masked"])
def test_batched_gradients_equal_a_loop(mask):
    leaves = make_inputs()
    slots = workspace_integrate(*leaves, mask)[:3]
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(3, *x.shape, generator=generator, dtype=torch.float64) for x in slots]
    batched = torch.autograd.grad(slots, leaves, grads, is_grads_batched=True, retain_graph=True)
    loop = [torch.autograd.grad(slots, leaves, one, retain_graph=True) for one in zip(*grads, strict=True)]
    for got, want in zip(batched, zip(*loop, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(want))
