"""Laws that attention layers obey whatever the tokens and masks, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroattn.attention import ATTENTIONS, make_attention

DIM, HEADS = 8, 2
OPTIONS = {
    "manar": {"n_concepts": 4, "kappa": 0.3},
    "latent": {"n_latents": 3},
    "isab": {"n_points": 3},
    "agent": {"n_agents": 3},
    "hilo": {"window": 3},
    "static": {"max_len": 24},
}
each_name = pytest.mark.parametrize("name", ATTENTIONS)
laws = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 999)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(name, seed, **options):
    options = {"batch_first": True, "dtype": torch.float64, **OPTIONS.get(name, {}), **options}
    layer = make_attention(name, DIM, HEADS, **options)
    for i, parameter in enumerate(layer.parameters()):
        if parameter.isfinite().all():
            parameter.data += 0.3 * draw(seed + i, *parameter.shape)
    return layer


@each_name
@laws
@given(seed=seeds, n_tokens=st.integers(1, 9), n_padding=st.integers(1, 5), causal=st.booleans())
def test_padding_at_the_end_is_as_if_it_were_not_there(name, seed, n_tokens, n_padding, causal):
    """But for agent attention to itself, whose segments depend on the length of the sequence."""
    layer = make(name, seed)
    causal = causal and "causal self" in layer.patterns
    x = draw(seed, 2, n_tokens + n_padding, DIM)
    query = draw(seed + 1, 2, n_tokens, DIM) if name == "agent" else None
    ignored = (torch.arange(n_tokens + n_padding) >= n_tokens).expand(2, -1)
    real = x[:, :n_tokens]
    padded, weights = layer(x if query is None else query, x, x, ignored, is_causal=causal)
    short, short_weights = layer(real if query is None else query, real, real, is_causal=causal)
    torch.testing.assert_close(padded[:, :n_tokens], short)
    if weights is not None:
        torch.testing.assert_close(weights[:, :n_tokens, :n_tokens], short_weights)
        assert (weights[:, :n_tokens, n_tokens:] == 0).all()


@pytest.mark.parametrize("name", [name for name, kind in ATTENTIONS.items() if kind.equivariant])
@laws
@given(seed=seeds, data=st.data(), n_tokens=st.integers(1, 9))
def test_tokens_may_come_in_any_order(name, seed, data, n_tokens):
    layer, x = make(name, seed), draw(seed, 2, n_tokens, DIM)
    order = torch.tensor(data.draw(st.permutations(range(n_tokens))))
    ignored = draw(seed + 1, 2, n_tokens) > 0.5
    out, weights = layer(x, x, x, ignored)
    moved, moved_weights = layer(*[x[:, order]] * 3, ignored[:, order])
    torch.testing.assert_close(moved, out[:, order])
    if weights is not None:
        torch.testing.assert_close(moved_weights, weights[:, order][:, :, order])


@pytest.mark.parametrize(
    "name", [name for name, kind in ATTENTIONS.items() if kind.equivariant and "cross" in kind.patterns]
)
@laws
@given(seed=seeds, n_tokens=st.integers(1, 6), copies=st.integers(2, 4))
def test_copies_of_all_tokens_change_nothing(name, seed, n_tokens, copies):
    """Where no memory counts beside the tokens."""
    layer = make(name, seed, **({"kappa": 0} if name == "manar" else {}))
    query, x = draw(seed, 2, 3, DIM), draw(seed + 1, 2, n_tokens, DIM)
    many = x.repeat(1, copies, 1)
    torch.testing.assert_close(layer(query, many, many)[0], layer(query, x, x)[0])


@each_name
@laws
@given(seed=seeds, n_queries=st.integers(1, 8), n_tokens=st.integers(1, 8), causal=st.booleans())
def test_rows_of_weights_sum_as_declared(name, seed, n_queries, n_tokens, causal):
    layer = make(name, seed)
    causal = causal and "causal self" in layer.patterns
    query = draw(seed, 2, n_queries, DIM)
    tokens = draw(seed + 1, 2, n_tokens, DIM) if "cross" in layer.patterns else query
    ignored = draw(seed + 2, *tokens.shape[:2]) > 0.5
    weights = layer(query, tokens, tokens, ignored, average_attn_weights=False, is_causal=causal)[1]
    if not layer.has_weights:
        assert weights is None
        return
    total = torch.ones(2, HEADS, n_queries, dtype=torch.float64)
    if name == "manar":
        total -= layer.view(query, tokens, tokens, ignored, is_causal=causal).memory_share
    elif name == "affine":
        scale, shift = layer.affine(query).mT.chunk(2, 1)
        total = 2 * scale.sigmoid() + shift
    seen = (~ignored).cumsum(1) > 0
    last = torch.arange(n_queries).clamp_max(tokens.shape[1] - 1) if causal else torch.full((n_queries,), -1)
    total = total.masked_fill(~seen[:, last][:, None], 0)
    if name == "hilo":  # a window may be empty where the sequence is not
        empty = weights.sum(-1) == 0
        assert not empty[:, -1][seen[:, -1]].any()
        total = total.masked_fill(empty, 0)
    torch.testing.assert_close(weights.sum(-1), total)
    if name not in ("inline", "affine"):
        assert (weights >= 0).all()
