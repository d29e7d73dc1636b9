"""The claims about the integration and the attention over its slots, in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from neuroattn.kernels.workspace_integrate import workspace_integrate

seeds = st.integers(0, 999)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_inputs(seed=0, tokens=40, concepts=6, width=8, kappa=1.0):
    k, v = draw(seed, 2, 2, 3, tokens, width)
    concept_k, concept_v = draw(seed + 1, 2, 3, concepts, width)
    return k, v, concept_k, concept_v, torch.full((3, concepts), kappa, dtype=torch.float64).log()


def broadcast(q, slots):
    """Attention of token queries over the slots, with the log mass as bias."""
    bias = slots.log_mass[..., None, :].expand(*q.shape[:-1], -1)
    return F.scaled_dot_product_attention(q, slots.keys, slots.values, attn_mask=bias)


def assert_slots_close(got, want):
    torch.testing.assert_close(got[:3], want[:3], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tau", [1e-3, 1e-6])
def test_hard_assignment_of_few_distinct_tokens_is_exact_attention(tau):
    k, v, _, _, log_kappa = make_inputs(tokens=12, concepts=12, kappa=0.0)
    k, v = k[:1], v[:1]
    copies = torch.arange(965) % 12
    copies[:100] = 0  # unequal numbers of copies: only the log mass can tell
    q, many_k, many_v = draw(5, 1, 3, 20, 8), k[:, :, copies], v[:, :, copies]
    slots = workspace_integrate(many_k, many_v, k[0], v[0], log_kappa, tau)
    exact = F.scaled_dot_product_attention(q, many_k, many_v)
    torch.testing.assert_close(broadcast(q, slots), exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slots.log_mass.exp(), torch.bincount(copies).double().expand(1, 3, 12))


def test_towards_zero_temperature_attention_is_approached():
    k, v, _, _, log_kappa = make_inputs(tokens=12, concepts=12, kappa=0.0)
    q = draw(5, 1, 3, 20, 8)
    exact = F.scaled_dot_product_attention(q, k[:1], v[:1])
    errors = [
        (broadcast(q, workspace_integrate(k[:1], v[:1], k[0], v[0], log_kappa, tau)) - exact).norm().item()
        for tau in (1.0, 0.3, 0.1, 0.01, 0.001)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12 < 0.1 < errors[0]


@settings(max_examples=20, deadline=None)
@given(seed=seeds, spread=st.floats(0.01, 1.0))
def test_error_stays_below_its_bound(seed, spread):
    """|error| <= tanh(delta / 2) diam(V), delta the largest change of a logit by taking the slot's mean."""
    centres, members = draw(seed, 3, 8, 8), torch.arange(200) % 8
    k = (centres[:, members] + spread * draw(seed + 1, 3, 200, 8))[None]
    v, q = draw(seed + 2, 2, 1, 3, 200, 8)
    log_kappa = torch.full((3, 8), -torch.inf, dtype=torch.float64)
    slots = workspace_integrate(k, v, centres, centres, log_kappa, 1e-7, return_assignment=True)
    error = (broadcast(q, slots) - F.scaled_dot_product_attention(q, k, v)).norm(dim=-1)
    delta = (q @ (k - slots.assignment @ slots.keys).mT).abs().amax(-1) / 8**0.5
    diameter = torch.cdist(v, v).amax((-1, -2))
    assert (error <= torch.tanh(delta / 2) * diameter[..., None] + 1e-12).all()


@settings(max_examples=20, deadline=None)
@given(seed=seeds, tau=st.floats(0.05, 5))
def test_without_pseudo_counts_slots_are_convex_in_the_tokens(seed, tau):
    inputs = make_inputs(seed, kappa=0.0)
    slots = workspace_integrate(*inputs, tau, return_assignment=True)
    weights = slots.assignment.mT / slots.log_mass.exp()[..., None]
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(slots.log_mass))
    torch.testing.assert_close(weights @ inputs[1], slots.values)


def test_with_pseudo_counts_attention_leaves_the_span_of_the_tokens():
    inputs = make_inputs(tokens=4)
    q = draw(5, 2, 3, 10, 8)
    origin = inputs[1][:, :, :1]
    basis, out = inputs[1][:, :, 1:] - origin, broadcast(q, workspace_integrate(*inputs, 1.0)) - origin
    assert (out - out @ torch.linalg.pinv(basis) @ basis).norm(dim=-1).min() > 1e-3


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_evidence_is_conserved(seed):
    slots = workspace_integrate(*make_inputs(seed), 0.7, return_assignment=True)
    torch.testing.assert_close(slots.log_mass.exp().sum(-1), torch.full((2, 3), 46.0, dtype=torch.float64))
    torch.testing.assert_close(slots.assignment.sum(-1), torch.ones(2, 3, 40, dtype=torch.float64))


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_order_of_tokens_does_not_matter_and_slots_follow_their_concepts(seed):
    k, v, concept_k, concept_v, log_kappa = make_inputs(seed)
    log_kappa = draw(seed + 3, 3, 6)
    slots = workspace_integrate(k, v, concept_k, concept_v, log_kappa, 0.7)
    generator = torch.Generator().manual_seed(seed)
    tokens, concepts = torch.randperm(40, generator=generator), torch.randperm(6, generator=generator)
    shuffled = workspace_integrate(k[:, :, tokens], v[:, :, tokens], concept_k, concept_v, log_kappa, 0.7)
    assert_slots_close(shuffled, slots)
    moved = workspace_integrate(
        k, v, concept_k[:, concepts], concept_v[:, concepts], log_kappa[:, concepts], 0.7
    )
    assert_slots_close(moved, [x[:, :, concepts] for x in slots[:3]])


@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_duplicating_the_sequence_doubles_the_evidence_of_tokens_only(kappa):
    inputs = make_inputs(kappa=kappa)
    twice = [torch.cat([x, x], 2) for x in inputs[:2]]
    q = draw(5, 2, 3, 10, 8)
    once_slots = workspace_integrate(*inputs, 0.7)
    twice_slots = workspace_integrate(*twice, *inputs[2:], 0.7)
    change = broadcast(q, twice_slots) - broadcast(q, once_slots)
    if kappa == 0:
        assert change.abs().max() < 1e-12
        torch.testing.assert_close(twice_slots.log_mass.exp(), 2 * once_slots.log_mass.exp())
    else:
        assert change.abs().max() > 1e-3


@pytest.mark.parametrize("hidden", [1e3, torch.nan, torch.inf])
def test_masked_tokens_have_no_influence(hidden):
    inputs = [x.requires_grad_() for x in make_inputs()]
    short = [x[:, :, :30] for x in inputs[:2]]
    mask = torch.arange(40).expand(2, 40) < 30
    filled = [torch.where(mask[:, None, :, None], x, hidden) for x in inputs[:2]]
    masked = workspace_integrate(*filled, *inputs[2:], 0.7, mask, return_assignment=True)
    plain = workspace_integrate(*short, *inputs[2:], 0.7, return_assignment=True)
    assert_slots_close(masked, plain)
    torch.testing.assert_close(masked.assignment[:, :, :30], plain.assignment)
    assert (masked.assignment[:, :, 30:] == 0).all()
    loss = [s.keys.sin().sum() + s.values.sin().sum() + s.log_mass.sum() for s in (masked, plain)]
    for got, want in zip(*(torch.autograd.grad(x, inputs) for x in loss), strict=True):
        torch.testing.assert_close(got, want)


def test_with_all_tokens_masked_the_slots_are_the_concepts():
    inputs = make_inputs(kappa=0.25)
    slots = workspace_integrate(*inputs, 1.0, torch.zeros(2, 40, dtype=torch.bool))
    torch.testing.assert_close(slots.keys, inputs[2].expand(2, -1, -1, -1))
    torch.testing.assert_close(slots.values, inputs[3].expand(2, -1, -1, -1))
    torch.testing.assert_close(slots.log_mass.exp(), torch.full((2, 3, 6), 0.25, dtype=torch.float64))


def test_work_is_affine_in_the_number_of_tokens():
    def flops(tokens):
        leaves = [x.requires_grad_() for x in make_inputs(tokens=tokens)]
        with FlopCounterMode(display=False) as counter:
            slots = workspace_integrate(*leaves, 1.0)
            broadcast(leaves[0], slots).sum().backward()
        return counter.get_total_flops()

    counts = [flops(n) for n in (64, 128, 192, 256)]
    assert counts[0] > 0
    assert counts[1] - counts[0] == counts[2] - counts[1] == counts[3] - counts[2]


def test_backward_saves_inputs_and_slots_only():
    leaves = [x.requires_grad_() for x in make_inputs(tokens=500)]
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x):
        workspace_integrate(*leaves, 1.0)
    assert sum(sizes) == sum(x.numel() for x in leaves) + 3 + 2 * 3 * 6 * (8 + 8 + 1)


@pytest.mark.parametrize(
    ("place", "value", "error", "message"),
    [
        (0, torch.ones(2, 3, 4), ValueError, r"k must have shape \(batch, head, token, feature\)"),
        (1, torch.ones(2, 3, 5, 8), ValueError, r"v must have shape \(2, 3, 4, value_feature\)"),
        (2, torch.ones(3, 6, 7), ValueError, r"concept_k must have shape \(3, concept, 8\)"),
        (3, torch.ones(3, 5, 8), ValueError, r"concept_v must have shape \(3, 6, 8\)"),
        (4, torch.ones(6), ValueError, r"log_kappa must have shape \(3, 6\)"),
        (5, 0.0, ValueError, "tau must be above 0, got 0.0"),
        (5, torch.ones(2), ValueError, r"tau must have shape \(3,\), got \(2,\)"),
        (6, torch.ones(2, 5, dtype=torch.bool), ValueError, r"mask must have shape \(2, 4\)"),
        (6, torch.ones(2, 4), TypeError, "mask must be bool, got torch.float32"),
        (3, torch.ones(3, 6, 8), TypeError, "concept_v must have the dtype of k, torch.float64, got"),
    ],
)
def test_wrong_input_is_named(place, value, error, message):
    arguments = [*make_inputs(tokens=4), 1.0, None]
    arguments[place] = value
    with pytest.raises(error, match=message):
        workspace_integrate(*arguments)
