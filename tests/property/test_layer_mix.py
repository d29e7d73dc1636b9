"""Mixed layers: what a query reads is attention to its own mixture of the layers' features."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroattn.attention import CrossAttention
from neuroattn.encoding import LayerMix


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 4)] * 5),
    batched=st.booleans(),
    placed=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_a_query_reads_its_mixture_of_layers(sizes, batched, placed, seed):
    batch, queries, layers, tokens, heads = sizes
    torch.manual_seed(seed)
    mix, attention = LayerMix(queries, layers).double(), CrossAttention(3 * heads, heads).double()
    for parameter in (mix.logits, attention.in_proj_bias, attention.out_proj.bias):
        torch.nn.init.normal_(parameter, std=0.1)
    query = torch.randn(batch if batched else 1, queries, 3 * heads, dtype=torch.float64)
    X = torch.randn(batch, layers, tokens, 3 * heads, dtype=torch.float64)
    position = torch.randn(tokens, 3 * heads, dtype=torch.float64) if placed else None
    out, maps = mix(attention, query, X, position, map="heads")
    mixed = torch.einsum("rl,blnd->brnd", mix.weights, X)
    each = [attention(query[:, [r]], mixed[:, r], position, map="heads") for r in range(queries)]
    expected, expected_maps = torch.cat([o for o, _ in each], 1), torch.cat([m for _, m in each], 2)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(maps, expected_maps, atol=1e-12, rtol=0)
    probe = torch.randn_like(out)
    grads = [
        torch.autograd.grad((o * probe).sum(), mix.logits, retain_graph=True)[0] for o in (out, expected)
    ]
    torch.testing.assert_close(*grads, atol=1e-11, rtol=0)
