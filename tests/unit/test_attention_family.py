"""One suite for all attention layers with the face of multi-head attention, then what is particular to each."""

import copy
import inspect
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from neuroattn.attention import (
    ATTENTIONS,
    AffineAttention,
    AgentAttention,
    GatedHeadsAttention,
    HiLoAttention,
    InducedSetAttention,
    LatentAttention,
    MultiQueryProbe,
    ProbeAttention,
    SoftmaxAttention,
    StaticAttention,
    make_attention,
    sine_position,
)

DIM, HEADS = 8, 2
OPTIONS = {
    "manar": {"n_concepts": 4, "kappa": 0},
    "latent": {"n_latents": 3},
    "isab": {"n_points": 3},
    "agent": {"n_agents": 3},
    "hilo": {"window": 2},
    "static": {"max_len": 12},
}
CALLS = {
    "self": (True, False),
    "cross": (False, False),
    "causal self": (True, True),
    "causal cross": (False, True),
}
SUPPORTED = [(name, pattern) for name, kind in ATTENTIONS.items() for pattern in kind.patterns]
WEIGHTED = [(name, pattern) for name, pattern in SUPPORTED if ATTENTIONS[name].has_weights]
each_name = pytest.mark.parametrize("name", ATTENTIONS)
each_pattern = pytest.mark.parametrize(("name", "pattern"), SUPPORTED)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(name, heads=HEADS, **options):
    """Build a small layer in float64 none of whose parameters is at a special value."""
    layer = make_attention(
        name, DIM, heads, **{"batch_first": True, "dtype": torch.float64, **OPTIONS.get(name, {}), **options}
    )
    for i, parameter in enumerate(layer.parameters()):
        if parameter.isfinite().all():  # the logarithm of no pseudo-count is not
            parameter.data += 0.3 * draw(*parameter.shape, seed=i)
    return layer


def attend(layer, pattern, x, memory, **options):
    """Call a layer in a pattern, with a memory where it is cross-attention."""
    is_self, causal = CALLS[pattern]
    tokens = x if is_self else memory
    return layer(x, tokens, tokens, is_causal=causal, **options)


def read_by_head(layer, heads):
    """Put heads together as the layer does."""
    return layer.out_proj(heads.transpose(1, 2).flatten(2))


@each_name
@pytest.mark.parametrize("pattern", CALLS)
def test_patterns_are_supported_as_declared(name, pattern):
    layer, x, memory = make(name), draw(2, 6, DIM), draw(2, 6, DIM, seed=1)
    if pattern in layer.patterns:
        assert attend(layer, pattern, x, memory)[0].shape == x.shape
    else:
        with pytest.raises(
            ValueError, match=f"{type(layer).__name__} supports .*, got '{pattern}' attention"
        ):
            attend(layer, pattern, x, memory)


@each_pattern
def test_layouts_agree(name, pattern):
    layer, x, memory = make(name), draw(2, 6, DIM), draw(2, 6 + 3 * (pattern == "cross"), DIM, seed=1)
    other = copy.deepcopy(layer)
    other.batch_first = False
    out, weights = attend(layer, pattern, x, memory)
    swapped, same = attend(other, pattern, x.transpose(0, 1), memory.transpose(0, 1))
    torch.testing.assert_close(swapped.transpose(0, 1), out)
    torch.testing.assert_close(same, weights)
    single, single_weights = attend(layer, pattern, x[1], memory[1])
    torch.testing.assert_close(single, out[1])
    assert (weights is None) == (not layer.has_weights)
    n_tokens = 6 if pattern.endswith("self") else memory.shape[1]
    if weights is not None:
        torch.testing.assert_close(single_weights, weights[1])
        assert weights.shape == (2, 6, n_tokens)
        by_head = attend(layer, pattern, x, memory, average_attn_weights=False)[1]
        assert by_head.shape == (2, HEADS, 6, n_tokens)
        torch.testing.assert_close(by_head.mean(1), weights)
    unweighted = attend(layer, pattern, x, memory, need_weights=False)
    assert unweighted[1] is None
    torch.testing.assert_close(unweighted[0], out)


@pytest.mark.parametrize("name", [name for name, kind in ATTENTIONS.items() if "cross" in kind.patterns])
def test_keys_and_values_may_have_other_channels(name):
    layer, x = make(name, kdim=6, vdim=10), draw(2, 5, DIM)
    out, _ = layer(x, draw(2, 7, 6, seed=1), draw(2, 7, 10, seed=2))
    assert out.shape == x.shape
    assert not torch.allclose(out, layer(x, draw(2, 7, 6, seed=1), draw(2, 7, 10, seed=3))[0])


@pytest.mark.parametrize(("name", "pattern"), WEIGHTED)
def test_weights_are_those_that_made_the_output(name, pattern):
    layer, x, memory = make(name), draw(2, 6, DIM), draw(2, 7, DIM, seed=1)
    ignored = torch.tensor([[False] * 6 + [True], [False, True, False, True] + [False] * 3])
    if pattern.endswith("self"):
        ignored = ignored[:, :6]
    out, weights = attend(layer, pattern, x, memory, key_padding_mask=ignored, average_attn_weights=False)
    heads = weights @ layer._project("v", x if pattern.endswith("self") else memory)
    if name == "gated-heads":  # the weights are those before the gates
        heads = heads * layer.gates(x)[..., None]
    torch.testing.assert_close(read_by_head(layer, heads), out)
    hidden = ignored[:, None, None].expand_as(weights)
    assert (weights[hidden] == 0).all()
    if name != "affine":
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, 6, dtype=torch.float64))


@each_pattern
@pytest.mark.parametrize("content", [1e3, math.nan])
def test_masked_tokens_have_no_influence(name, pattern, content):
    layer, x, memory = make(name), draw(2, 6, DIM), draw(2, 6, DIM, seed=1)
    ignored = torch.tensor([[False] * 4 + [True] * 2, [False, True, False, True, True, False]])
    out, weights = attend(layer, pattern, x, memory, key_padding_mask=ignored)
    assert not torch.allclose(out[~ignored], attend(layer, pattern, x, memory)[0][~ignored])
    other_x, other_memory = (t.masked_fill(ignored[..., None], content) for t in (x, memory))
    other, other_weights = attend(layer, pattern, other_x, other_memory, key_padding_mask=ignored)
    seen = ~ignored if pattern.endswith("self") else torch.ones_like(ignored)
    if pattern.endswith("cross"):
        other, other_weights = attend(layer, pattern, x, other_memory, key_padding_mask=ignored)
    torch.testing.assert_close(other[seen], out[seen])
    if weights is not None:
        torch.testing.assert_close(other_weights[seen], weights[seen])
    additive = torch.zeros(2, 6, dtype=torch.float64).masked_fill(ignored, -math.inf)
    torch.testing.assert_close(attend(layer, pattern, x, memory, key_padding_mask=additive)[0], out)


@each_pattern
def test_what_sees_no_token_reads_zeros(name, pattern):
    layer = make(name)
    x, memory = draw(2, 6, DIM).requires_grad_(), draw(2, 6, DIM, seed=1).requires_grad_()
    ignored = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    out, weights = attend(layer, pattern, x, memory, key_padding_mask=ignored)
    nothing = out == layer.out_proj.bias
    assert nothing[0].all()
    assert nothing[1, :2].all() == pattern.startswith("causal")
    assert not nothing[1, 2:].any()
    if weights is not None:
        assert (weights[0] == 0).all()
    out.sum().backward()
    read = x if pattern.endswith("self") else memory
    assert read.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize(("name", "pattern"), [case for case in SUPPORTED if case[1].startswith("causal")])
def test_no_query_sees_a_later_token(name, pattern):
    layer, x, memory = make(name), draw(1, 6, DIM), draw(1, 6, DIM, seed=1)
    which = x if pattern == "causal self" else memory

    def outputs(tokens):
        pair = (tokens, memory) if pattern == "causal self" else (x, tokens)
        return attend(layer, pattern, *pair)[0][0].sum(-1)

    slope = torch.autograd.functional.jacobian(outputs, which)[:, 0].abs().sum(-1)  # (output, token)
    assert (slope.triu(1) == 0).all()
    assert (slope.tril() > 0).sum() == 21
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    tokens = x if pattern == "causal self" else memory
    torch.testing.assert_close(
        layer(x, tokens, tokens, attn_mask=mask)[0], attend(layer, pattern, x, memory)[0]
    )


@each_pattern
def test_order_of_tokens_matters_as_declared(name, pattern):
    if pattern.startswith("causal"):
        pattern = pattern.removeprefix("causal ")
    layer, x, memory = make(name), draw(1, 7, DIM), draw(1, 7, DIM, seed=1)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    moved, _ = attend(layer, pattern, x[:, order], memory[:, order])
    assert torch.allclose(moved, attend(layer, pattern, x, memory)[0][:, order]) == layer.equivariant


@each_pattern
def test_every_parameter_learns(name, pattern):
    options = {"manar": {"kappa": 0.5}, "gated-heads": {"heads": 4, "n_active": 2}}.get(name, {})
    layer = make(name, **options)
    attend(layer, pattern, draw(2, 6, DIM), draw(2, 6, DIM, seed=1))[0].square().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad.isfinite().all()
        assert (parameter.grad != 0).any()


@each_pattern
def test_gradients(name, pattern):
    layer, memory = make(name), draw(1, 5, DIM, seed=1).requires_grad_()
    parameters = {n: p for n, p in layer.named_parameters() if p.isfinite().all()}

    def function(x, memory, *values):
        state = dict(zip(parameters, values, strict=True))
        is_self, causal = CALLS[pattern]
        tokens = x if is_self else memory
        out, weights = torch.func.functional_call(layer, state, (x, tokens, tokens), {"is_causal": causal})
        return out if weights is None else (out, weights)

    x = draw(1, 5, DIM).requires_grad_()
    assert torch.autograd.gradcheck(function, (x, memory, *parameters.values()), fast_mode=True)


@each_name
def test_state_survives_a_round_trip(name):
    layer, other, x = make(name), make(name, bias=True), draw(2, 6, DIM)
    for parameter in other.parameters():
        nn.init.ones_(parameter)
    assert not torch.allclose(other(x, x, x)[0], layer(x, x, x)[0])
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x, x, x)[0], layer(x, x, x)[0])


@each_name
def test_layer_works_without_bias_and_in_half_precision(name):
    layer, x = make(name, bias=False, dtype=torch.float32), (30 * draw(2, 6, DIM)).float()
    assert layer.in_proj_bias is layer.out_proj.bias is None
    half = x.bfloat16()
    out, _ = layer.bfloat16()(half, half, half)
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.float()(x, x, x)[0].isfinite().all()


def count_attention(q, k, v, *_, **__):
    """Multiplications and additions of the attention operator, from shapes (batch, head, token, feature)."""
    batch, heads, n_tokens, width = v
    return 2 * batch * heads * q[2] * n_tokens * (q[3] + width)


def count_integration(k, v, concepts, *_, **__):
    """Multiplications and additions of scores, keys and values of a workspace."""
    batch, heads, n_tokens, width = k
    return 2 * batch * heads * n_tokens * concepts[-2] * (2 * width + v[3])


@each_name
def test_operations_are_linear_in_tokens_as_declared(name):
    layer = make(name, **({"max_len": 384} if name == "static" else {}))
    # The counter does not look into operators of its own accord.
    counts = {
        torch.ops.neuroattn.attention: count_attention,
        torch.ops.neuroattn.workspace_integrate: count_integration,
    }

    def operations(n, causal):
        x = draw(1, n, DIM)
        with FlopCounterMode(display=False, custom_mapping=counts) as counter:
            layer(x, x, x, need_weights=False, is_causal=causal)
        return counter.get_total_flops()

    for causal in {False, "causal self" in layer.patterns}:
        few, more, most = (operations(n, causal) for n in (128, 256, 384))
        assert more > few
        assert (most - more == more - few) == layer.linear


@each_name
def test_layer_replaces_attention_in_a_transformer_of_torch(name):
    """In eval mode too, where torch takes a path of its own past attention that looks like its own."""
    block = nn.TransformerEncoderLayer(DIM, HEADS, 16, 0.0, batch_first=True, dtype=torch.float64)
    block.self_attn = make(name)
    x, ignored = draw(2, 6, DIM), torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    with torch.no_grad():
        out = block.eval()(x, src_key_padding_mask=ignored)
        attended = block.self_attn(x, x, x, key_padding_mask=ignored)[0]
        residual = block.norm1(x + attended)
        wanted = block.norm2(residual + block.linear2(block.linear1(residual).relu()))
    torch.testing.assert_close(out, wanted)


def test_table_of_the_family_is_as_declared():
    rows = {}
    for line in inspect.getdoc(make_attention).splitlines():
        cells = line.split("  ")
        if cells[0] in ATTENTIONS:
            rows[cells[0]] = [cell.strip() for cell in cells if cell.strip()]
    for name, kind in ATTENTIONS.items():
        patterns = "all" if len(kind.patterns) == 4 else ", ".join(kind.patterns)
        order = "does not matter" if kind.equivariant else "matters"
        assert rows[name][1] == patterns
        assert rows[name][-2:] == ["yes" if kind.linear else "no", order]
    assert len(rows) == len(ATTENTIONS)


X = torch.zeros(2, 5, DIM)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("sofmax", DIM, 2), ValueError, "name 'sofmax' is unknown; nearest are 'softmax'"),
        (("softmax", DIM, 3), ValueError, "num_heads must divide embed_dim 8, got 3"),
    ],
)
def test_unknown_layers_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        make_attention(*arguments)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("latent", {"n_latents": 0}, "n_latents must be at least 1, got 0"),
        ("isab", {"n_points": 0}, "n_points must be at least 1, got 0"),
        ("agent", {"n_agents": 0}, "n_agents must be at least 1, got 0"),
        ("hilo", {"alpha": 1.5}, "alpha must be between 0 and 1, got 1.5"),
        ("hilo", {"window": 0}, "window must be at least 1, got 0"),
        ("static", {"max_len": 0}, "max_len must be at least 1, got 0"),
        ("gated-heads", {"n_shared": 3}, "n_shared must be between 1 and 2, got 3"),
        ("gated-heads", {"n_active": 2}, "n_active must be between 0 and 1, got 2"),
    ],
)
def test_bad_settings_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_attention(name, DIM, HEADS, **options)


def test_unknown_options_are_refused():
    for name in ATTENTIONS:
        with pytest.raises(TypeError, match="unexpected keyword argument 'telepathy'"):
            make_attention(name, DIM, HEADS, telepathy=True)


@each_name
def test_bad_inputs_are_refused(name):
    layer = make_attention(name, DIM, HEADS, batch_first=True)
    for options, message in [
        (
            {"key_padding_mask": torch.zeros(2, 4, dtype=torch.bool)},
            r"must have shape \(2, 5\), got \(2, 4\)",
        ),
        ({"key_padding_mask": torch.full((2, 5), -0.5)}, "must hold 0 and minus infinity only, got -0.5"),
        ({"attn_mask": torch.eye(5, dtype=torch.bool)}, "attn_mask must be causal or mask nothing"),
        ({"value": X[:, :4]}, r"value must have shape \(2, 5, 8\), got \(2, 4, 8\)"),
        ({"query": X[..., :7]}, r"query must have shape \(batch, query, 8\), got \(2, 5, 7\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            layer(**{"query": X, "key": X, "value": X, **options})


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 6, "vdim": 10}], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_softmax_attention_is_multihead_attention(options, causal):
    mha = nn.MultiheadAttention(DIM, HEADS, batch_first=True, dtype=torch.float64, **options)
    layer = SoftmaxAttention(DIM, HEADS, batch_first=True, dtype=torch.float64, **options)
    layer.load_state_dict(mha.state_dict())
    x, key, value = draw(2, 6, DIM), draw(2, 6, mha.kdim, seed=1), draw(2, 6, mha.vdim, seed=2)
    ignored = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    mask = torch.ones(6, 6, dtype=torch.bool).triu(1) if causal else None
    for average in (True, False):
        wanted = mha(x, key, value, ignored, attn_mask=mask, average_attn_weights=average)
        found = layer(x, key, value, ignored, average_attn_weights=average, is_causal=causal)
        torch.testing.assert_close(found, wanted)


def test_affine_attention_starts_as_softmax_attention_and_can_leave_it():
    layer = AffineAttention(DIM, HEADS, batch_first=True, dtype=torch.float64)
    softmax = make("softmax")
    assert set(layer.load_state_dict(softmax.state_dict(), strict=False).missing_keys) == {
        "affine.weight",
        "affine.bias",
    }
    x = draw(2, 6, DIM)
    torch.testing.assert_close(layer(x, x, x), softmax(x, x, x))
    # The first half of the outputs is the scale of each head, the other its shift.
    layer.affine.bias.data.copy_(torch.tensor([math.log(3), -math.log(3), 0.5, -2.0]))
    for causal in (False, True):
        rows = layer(x, x, x, average_attn_weights=False, is_causal=causal)[1].sum(-1)
        torch.testing.assert_close(rows, torch.tensor([2.0, -1.5]).double()[None, :, None].expand(2, 2, 6))


def test_gates_are_those_of_mixture_of_head_attention():
    layer, x = make("gated-heads", heads=4, n_shared=1, n_active=2), draw(2, 5, DIM)
    gates = layer.gates(x)
    logits = x @ layer.router.weight.T
    balance = (x @ layer.balance.weight.T).softmax(-1)
    torch.testing.assert_close(gates[:, 0], 4 * balance[..., 0])
    routed = logits[..., 1:].softmax(-1)
    closed = routed.argmin(-1)
    wanted = (4 * balance[..., 1:] * routed).scatter(-1, closed[..., None], 0)
    torch.testing.assert_close(gates[:, 1:], wanted.mT)


def test_equal_gates_leave_multihead_attention():
    softmax, x = make("softmax", heads=4), draw(2, 5, DIM)
    layer = GatedHeadsAttention(DIM, 4, n_shared=2, n_active=2, batch_first=True, dtype=torch.float64)
    layer.load_state_dict(softmax.state_dict(), strict=False)
    assert not torch.allclose(layer(x, x, x)[0], softmax(x, x, x)[0])
    nn.init.zeros_(layer.router.weight)
    nn.init.zeros_(layer.balance.weight)
    torch.testing.assert_close(layer(x, x, x)[0], softmax(x, x, x)[0])
    every = make("gated-heads", heads=4, n_shared=4)
    assert every.n_active == 0
    assert (every.gates(x) > 0).all()


@pytest.mark.parametrize("kind", [LatentAttention, InducedSetAttention])
def test_points_read_by_multihead_attention_and_are_read_by_it(kind):
    layer, x, tokens = (
        make("latent" if kind is LatentAttention else "isab"),
        draw(2, 5, DIM),
        draw(2, 7, DIM, seed=1),
    )
    assert type(layer) is kind
    own_q, own_k, own_v = zip(layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True)

    def multihead(query, tokens, projections, out=None):
        mha = nn.MultiheadAttention(DIM, HEADS, batch_first=True, dtype=torch.float64)
        mha.in_proj_weight.data = torch.cat([weight for weight, _ in projections])
        mha.in_proj_bias.data = torch.cat([bias for _, bias in projections])
        if out is not None:
            mha.out_proj = out
        return mha(query, tokens, tokens)[0]

    points = layer.points.expand(2, -1, -1)
    query = layer.norm_read(points) if kind is LatentAttention else points
    point_query = (layer.point_query.weight, layer.point_query.bias)
    points = points + multihead(query, tokens, (point_query, own_k, own_v), layer.point_out)
    if kind is LatentAttention:
        normed = layer.norm_exchange(points)
        points = points + layer.exchange(normed, normed, normed)[0]
        points = points + layer.perceptron(layer.norm_perceptron(points))
        points = layer.norm_out(points)
    else:
        points = layer.norm_attention(points)
        points = layer.norm_perceptron(points + F.relu(layer.perceptron(points)))
    halves = zip(layer.point_key_value.weight.chunk(2), layer.point_key_value.bias.chunk(2), strict=True)
    wanted = multihead(x, points, (own_q, *halves), layer.out_proj)
    torch.testing.assert_close(layer(x, tokens, tokens)[0], wanted)


def test_agents_are_means_of_segments_of_queries():
    layer, x = make("agent"), draw(2, 6, DIM)
    q, k, v = (layer._project(part, x) for part in "qkv")
    agents = q.unflatten(2, (3, 2)).mean(3)
    scale = (DIM // HEADS) ** -0.5
    heads = (scale * q @ agents.mT).softmax(-1) @ ((scale * agents @ k.mT).softmax(-1) @ v)
    torch.testing.assert_close(layer(x, x, x)[0], read_by_head(layer, heads))


def test_segments_without_a_token_make_no_agent():
    layer, x = make("agent"), draw(1, 6, DIM)
    ignored = torch.tensor([[False, False, True, False, True, True]])
    q, k, v = (layer._project(part, x) for part in "qkv")
    agents = torch.stack([q[:, :, :2].mean(2), q[:, :, 3]], 2)
    scale = (DIM // HEADS) ** -0.5
    seen = (scale * agents @ k.mT).masked_fill(ignored, -math.inf)
    heads = (scale * q @ agents.mT).softmax(-1) @ (seen.softmax(-1) @ v)
    torch.testing.assert_close(layer(x, x, x, ignored)[0], read_by_head(layer, heads))
    few = AgentAttention(DIM, HEADS, n_agents=64, batch_first=True)
    assert few(X, X, X)[0].shape == X.shape


def test_inline_weights_are_those_of_the_paper_and_tell_queries_apart():
    layer, x = make("inline"), draw(1, 5, DIM)
    x[:, 1] = 2 * x[:, 0]  # two queries of one direction
    nn.init.zeros_(layer.in_proj_bias)
    q, k = (layer._project(part, x) for part in "qk")
    score = q @ k.mT / (DIM // HEADS) ** 0.5
    weights = layer(x, x, x, average_attn_weights=False)[1]
    torch.testing.assert_close(5 * weights, score - score.mean(-1, keepdim=True) + 1)
    assert not torch.allclose(weights[:, :, 0], weights[:, :, 1])


@pytest.mark.parametrize("n_tokens", [63, 64, 65, 130])
def test_causal_inline_attention_is_exact_across_chunks(n_tokens):
    layer, x, memory = make("inline"), draw(1, 100, DIM), draw(1, n_tokens, DIM, seed=1)
    ignored = (torch.arange(n_tokens) % 7 == 0)[None]
    out, weights = layer(x, memory, memory, ignored, average_attn_weights=False, is_causal=True)
    torch.testing.assert_close(out, read_by_head(layer, weights @ layer._project("v", memory)))


@pytest.mark.parametrize(
    "options", [{"alpha": 1, "window": 1}, {"alpha": 0, "window": 7}, {"alpha": 0, "window": 9}], ids=str
)
def test_hilo_in_its_limits_is_multihead_attention(options):
    softmax, x = make("softmax"), draw(2, 7, DIM)
    layer = HiLoAttention(DIM, HEADS, batch_first=True, dtype=torch.float64, **options)
    layer.load_state_dict(softmax.state_dict())
    ignored = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    torch.testing.assert_close(layer(x, x, x, ignored), softmax(x, x, x, ignored))


def test_high_heads_attend_within_windows_and_low_heads_to_their_averages():
    layer, softmax, x = make("hilo", window=3), make("softmax"), draw(2, 7, DIM)
    softmax.load_state_dict(layer.state_dict())
    high, low = layer(x, x, x, average_attn_weights=False)[1].unbind(1)
    for start, stop in itertools.pairwise([0, 3, 6, 7]):
        part = x[:, start:stop]
        within = softmax(part, part, part, average_attn_weights=False)[1][:, 0]
        torch.testing.assert_close(high[:, start:stop, start:stop], within)
    averages = torch.stack([x[:, 0:3].mean(1), x[:, 3:6].mean(1), x[:, 6]], 1)
    coarse = softmax(x, averages, averages, average_attn_weights=False)[1][:, 1]
    spread = torch.tensor([3, 3, 1]).double()
    torch.testing.assert_close(low, (coarse / spread).repeat_interleave(spread.long(), -1))


def test_probe_reads_what_the_probe_of_a_model_reads():
    layer, x, tokens = make("probe"), draw(2, 3, DIM), draw(2, 7, DIM, seed=1)
    probe = MultiQueryProbe(DIM, HEADS).double()
    probe.queries.data = layer.queries.data
    probe.value.data = layer.in_proj_weight.data.unflatten(0, (HEADS, -1)).mT
    probe.value_bias.data = layer.in_proj_bias.data
    pooled, weights = probe(tokens, map="heads")
    out, found = layer(x, tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(out, layer.out_proj(pooled)[:, None].expand(-1, 3, -1))
    torch.testing.assert_close(found, weights[:, :, None].expand(-1, -1, 3, -1))
    assert type(layer) is ProbeAttention


def test_static_weights_are_the_softmax_of_a_table():
    layer = make("static")
    table = layer.table.detach()[:, :3, :5].softmax(-1)
    for seed in (0, 1):
        x, memory = draw(2, 3, DIM, seed=seed), draw(2, 5, DIM, seed=seed + 2)
        weights = layer(x, memory, memory, average_attn_weights=False)[1]
        torch.testing.assert_close(weights, table.expand(2, -1, -1, -1))
    short = StaticAttention(DIM, HEADS, max_len=4, batch_first=True)
    with pytest.raises(ValueError, match="max_len must be at least 5, the length of the sequence, got 4"):
        short(X, X, X)


def test_position_weights_are_those_of_softmax_attention_to_position_codes():
    layer = make("position")
    softmax = make("softmax")
    softmax.load_state_dict(layer.state_dict())
    code = sine_position(6, DIM).double()[None]
    for seed in (0, 1):
        x = draw(1, 6, DIM, seed=seed)
        out, weights = layer(x, x, x)
        torch.testing.assert_close(weights, softmax(code, code, x)[1])
        torch.testing.assert_close(out, softmax(code, code, x)[0])
