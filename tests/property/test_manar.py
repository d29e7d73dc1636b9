"""The claims about workspace attention, as statements about the layer in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from neuroattn.attention import MANAR

DIM, HEADS = 16, 2
seeds = st.integers(0, 999)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_mha(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mha = nn.MultiheadAttention(DIM, HEADS, batch_first=True, dtype=torch.float64)
        nn.init.normal_(mha.in_proj_bias, std=0.3)
        nn.init.normal_(mha.out_proj.bias)
    return mha


def make_layer(concepts, **options):
    """Workspace attention with given concepts and the weights of `make_mha`."""
    layer = MANAR.from_multihead(make_mha(), len(concepts), **options)
    layer.workspace.concepts.data.copy_(concepts)
    return layer


def attend(layer, x):
    return layer(x, x, x, need_weights=False)[0]


def by_head(x, layer, part):
    """Queries (0), keys (1) or values (2) of tokens."""
    weight, bias = layer.in_proj_weight.chunk(3)[part], layer.in_proj_bias.chunk(3)[part]
    return (x @ weight.T + bias).unflatten(-1, (HEADS, -1)).transpose(1, 2)


def test_with_a_concept_for_each_token_it_becomes_multihead_attention_as_tau_falls():
    mha, x = make_mha(), draw(1, 1, 12, DIM)
    exact = mha(x, x, x)[0]
    errors = [
        ((attend(make_layer(x[0], tau=tau, kappa=0), x) - exact).norm() / exact.norm()).item()
        for tau in (1.0, 0.3, 0.1, 0.01, 1e-3, 1e-4)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12
    assert errors[0] > 1e-2


def test_few_distinct_tokens_pass_exactly_through_as_many_slots():
    copies = torch.arange(965) % 12
    copies[:100] = 0  # unequal numbers of copies: only the mass can tell
    few = draw(1, 1, 12, DIM)
    x, mha = few[:, copies], make_mha()
    layer = make_layer(few[0], tau=1e-5, kappa=0)
    torch.testing.assert_close(attend(layer, x), mha(x, x, x)[0], rtol=1e-12, atol=1e-12)
    # K-means finds them.
    found = MANAR.from_multihead(mha, 12, calibration=x, tau=1e-5, kappa=0)
    torch.testing.assert_close(attend(found, x), mha(x, x, x)[0], rtol=1e-10, atol=1e-10)


@settings(max_examples=10, deadline=None)
@given(seed=seeds, spread=st.sampled_from([0.01, 0.1, 0.3, 1.0]))
def test_error_is_below_the_bound(seed, spread):
    """|o - MHA| <= tanh(delta / 2) diam(V), delta the largest change of a logit as keys move to their slot's mean."""
    centres = draw(seed, 8, DIM)
    x = centres[torch.arange(80) % 8][None] + spread * draw(seed + 1, 2, 80, DIM) / DIM**0.5
    layer = make_layer(centres, tau=1e-8, kappa=0)
    view = layer.view(x, x, x)
    q, k, v = (by_head(x, layer, part) for part in range(3))
    exact = (q @ k.mT / k.shape[-1] ** 0.5).softmax(-1) @ v
    means = (view.assignment.mT @ k) / view.mass.clamp_min(1e-9).mT
    moved = (q @ (k - view.assignment @ means).mT).abs().amax(-1) / k.shape[-1] ** 0.5
    bound = (moved / 2).tanh() * torch.cdist(v, v).amax((-1, -2))[..., None]
    error = (view.out - exact).norm(dim=-1)
    assert (error <= bound + 1e-12).all()
    assert error.max() > 1e-6  # there is an error to bound


@settings(max_examples=10, deadline=None)
@given(seed=seeds, tau=st.sampled_from([0.1, 1.0]), causal=st.booleans())
def test_without_memory_outputs_are_convex_combinations(seed, tau, causal):
    x = draw(seed, 2, 70, DIM)
    layer = make_layer(draw(seed + 1, 5, DIM), tau=tau, kappa=0)
    view = layer.view(x, x, x, is_causal=causal)
    assert view.weights.min() >= 0
    torch.testing.assert_close(view.weights.sum(-1), torch.ones_like(view.memory_share))
    torch.testing.assert_close(view.weights @ by_head(x, layer, 2), view.out)
    assert view.memory_share.abs().max() == 0


@settings(max_examples=10, deadline=None)
@given(seed=seeds, causal=st.booleans(), competition=st.sampled_from(["softmax", "sparsemax"]))
def test_memory_and_tokens_share_each_output(seed, causal, competition):
    x = draw(seed, 2, 70, DIM)
    layer = make_layer(draw(seed + 1, 5, DIM), kappa=0.5, competition=competition)
    view = layer.view(x, x, x, is_causal=causal)
    assert view.memory_share.min() > 0
    assert view.memory_share.max() < 1
    torch.testing.assert_close(view.weights.sum(-1) + view.memory_share, torch.ones_like(view.memory_share))
    # The rest is concepts' values, in the same proportion as the pseudo-counts.
    own = 0.5 * view.reading / view.mass
    concepts = by_head(layer.workspace.concepts[None], layer, 2)
    torch.testing.assert_close(view.weights @ by_head(x, layer, 2) + own @ concepts, view.out)


def test_with_memory_outputs_leave_the_affine_span_of_few_values():
    x = draw(1, 2, 4, DIM)  # fewer tokens than features of a head
    layer = make_layer(draw(2, 6, DIM), kappa=1.0)
    v, out = by_head(x, layer, 2), layer.view(x, x, x).out
    span, there = v - v[..., :1, :], out - v[..., :1, :]
    residual = there - there @ torch.linalg.pinv(span) @ span
    assert (residual.norm(dim=-1) > 1e-3).all()


def test_with_memory_outputs_leave_the_hull_of_many_values():
    x = draw(1, 2, 40, DIM)
    layer = make_layer(50 * draw(2, 1, DIM) + draw(3, 6, DIM), kappa=50.0)
    v, out = by_head(x, layer, 2), layer.view(x, x, x).out
    direction = out.mean(-2, keepdim=True)
    assert ((out * direction).sum(-1).amin(-1) > (v * direction).sum(-1).amax(-1)).all()


@pytest.mark.parametrize("causal", [False, True])
def test_operations_are_affine_in_tokens(causal):
    layer = make_layer(draw(1, 6, DIM))

    def operations(n):
        x = draw(2, 1, n, DIM)
        with FlopCounterMode(display=False) as counter:
            layer(x, x, x, need_weights=False, is_causal=causal)
        return counter.get_total_flops()

    counts = [operations(n) for n in (128, 256, 384)]
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0


@pytest.mark.parametrize("causal", [False, True])
def test_memory_kept_for_gradients_is_affine_in_tokens(causal):
    layer = make_layer(draw(1, 6, DIM))

    def kept(n):
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        x = draw(2, 1, n, DIM).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = layer(x, x, x, need_weights=False, is_causal=causal)[0]
        assert out.requires_grad
        return sum(sizes.values())

    sizes = [kept(n) for n in (512, 1024, 1536)]
    assert sizes[2] - sizes[1] == pytest.approx(sizes[1] - sizes[0], rel=0.05)
    assert sizes[1] > 512 * DIM * 8


@settings(max_examples=10, deadline=None)
@given(seed=seeds, competition=st.sampled_from(["softmax", "sparsemax"]), retrieve=st.sampled_from([None, 3]))
def test_symmetries(seed, competition, retrieve):
    x, concepts = draw(seed, 2, 20, DIM), draw(seed + 1, 6, DIM)
    options = {"competition": competition, "retrieve": retrieve}
    out = attend(make_layer(concepts, **options), x)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    close = {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(attend(make_layer(concepts, **options), x[:, order]), out[:, order], **close)
    torch.testing.assert_close(attend(make_layer(concepts.flip(0), **options), x), out, **close)
    without_memory = make_layer(concepts, kappa=0, **options)
    twice = attend(without_memory, x.repeat(1, 2, 1))[:, :20]
    torch.testing.assert_close(twice, attend(without_memory, x), **close)


@settings(max_examples=10, deadline=None)
@given(seed=seeds, n_kept=st.integers(1, 19), causal=st.booleans())
def test_masked_tokens_have_no_influence(seed, n_kept, causal):
    x, layer = draw(seed, 2, 20, DIM), make_layer(draw(seed + 1, 6, DIM), kappa=1.0)
    other = x.clone()
    other[:, n_kept:] = torch.nan
    ignored = torch.zeros(2, 20, dtype=torch.bool)
    ignored[:, n_kept:] = True
    query, short = x[:, :n_kept], x[:, :n_kept]
    options = {"need_weights": False, "is_causal": causal}
    out = layer(query, other, other, key_padding_mask=ignored, **options)[0]
    torch.testing.assert_close(out, layer(query, short, short, **options)[0])


@settings(max_examples=10, deadline=None)
@given(
    seed=seeds,
    lengths=st.sampled_from([(1, 1), (63, 63), (64, 64), (65, 65), (130, 130), (5, 90), (90, 5)]),
    competition=st.sampled_from(["softmax", "sparsemax"]),
)
def test_a_causal_query_reads_what_it_would_read_from_the_tokens_so_far(seed, lengths, competition):
    n_queries, n_tokens = lengths
    query, tokens = draw(seed, 2, n_queries, DIM), draw(seed + 1, 2, n_tokens, DIM)
    layer = make_layer(draw(seed + 2, 5, DIM), kappa=0.3, competition=competition)
    out = layer(query, tokens, tokens, need_weights=False, is_causal=True)[0]
    for i in {0, n_queries // 2, n_queries - 1}:
        past = tokens[:, : i + 1]
        alone = layer(query[:, i : i + 1], past, past, need_weights=False)[0]
        torch.testing.assert_close(out[:, i : i + 1], alone)
    weights = layer(query, tokens, tokens, is_causal=True)[1]
    assert (weights.triu(1) == 0).all()
