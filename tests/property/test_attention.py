"""Attention against its definition in float64, and what must hold whatever its inputs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroattn.kernels import attention
from neuroattn.kernels.attention import _torch, reference

MAPS = ("none", "heads", "mean")
# Error allowed against float64: (out and map, log-sum-exp).
TOLERANCE = {torch.float32: 2e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2, torch.float64: 1e-12}


def draw(seed, *shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def double(x):
    if isinstance(x, tuple):
        return tuple(double(y) for y in x)
    return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x


def assert_matches_reference(q, k, v, map, **options):
    got = attention(q, k, v, map=map, **options)
    expected = reference.attention(*double((q, k, v)), map=map, **{n: double(x) for n, x in options.items()})
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            tolerance = TOLERANCE[q.dtype]
            torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)
    return got


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    sizes=st.tuples(*[st.integers(1, n) for n in (3, 3, 5, 9, 6, 6)]),
    shared=st.tuples(st.booleans(), st.booleans()),
    chosen=st.sets(st.sampled_from(["key_bias", "key_mask", "window", "head_gate", "affine", "scale"])),
    map=st.sampled_from(MAPS),
    dtype=st.sampled_from(sorted(TOLERANCE, key=str)),
    block=st.sampled_from([1, 40, 1 << 21]),
)
def test_matches_the_definition(seed, sizes, shared, chosen, map, dtype, block):
    batch, heads, n_queries, n_keys, width, value_width = sizes
    q, k, v, bias, gate, alpha, beta = draw(
        seed,
        (1 if shared[0] else batch, heads, n_queries, width),
        (batch, 1 if shared[1] else heads, n_keys, width),
        (batch, heads, n_keys, value_width),
        (batch, heads, n_keys),
        *[(batch, heads, n_queries)] * 3,
        dtype=dtype,
    )
    generator = torch.Generator().manual_seed(seed)
    options = {
        "key_bias": bias,
        "key_mask": torch.rand(batch, n_keys, generator=generator) < 0.6,
        "window": tuple(torch.randint(-1, n_keys + 2, (2, n_queries), generator=generator)),
        "head_gate": gate,
        "affine": (alpha, beta),
        "scale": 0.7,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_torch, "BLOCK_SCORES", block)
        assert_matches_reference(q, k, v, map, **{name: options[name] for name in chosen})


def test_rows_of_the_map_sum_to_one_and_make_the_output():
    q, k, v = draw(0, (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6))
    out, weights, _ = attention(q, k, v, map="heads")
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5))
    torch.testing.assert_close(weights @ v, out)


@pytest.mark.parametrize("map", MAPS)
def test_permuting_keys_permutes_the_map(map):
    q, k, v = draw(1, (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    a, b = attention(q, k, v, map=map), attention(q, k[:, :, order], v[:, :, order], map=map)
    torch.testing.assert_close(a.out, b.out)
    torch.testing.assert_close(a.lse, b.lse)
    if map != "none":
        torch.testing.assert_close(a.map[..., order], b.map)


@pytest.mark.parametrize("map", MAPS)
def test_masking_keys_equals_removing_them(map):
    q, k, v = draw(2, (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4))
    keep = torch.tensor([True, False, True, True, False, True, False])
    a = attention(q, k, v, key_mask=keep.expand(2, 7), map=map)
    b = attention(q, k[:, :, keep], v[:, :, keep], map=map)
    torch.testing.assert_close((a.out, a.lse), (b.out, b.lse))
    if map != "none":
        torch.testing.assert_close(a.map[..., keep], b.map)
        assert not a.map[..., ~keep].any()


@pytest.mark.parametrize("map", MAPS)
def test_a_constant_key_bias_moves_only_the_log_sum_exp(map):
    q, k, v = draw(3, (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4))
    a, b = attention(q, k, v, map=map), attention(q, k, v, key_bias=torch.full((2, 3, 7), 2.5), map=map)
    torch.testing.assert_close((a.out, a.lse + 2.5), (b.out, b.lse))
    if map != "none":
        torch.testing.assert_close(a.map, b.map)


def test_a_duplicated_key_halves_its_weight():
    q, k, v = draw(4, (1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4))
    k2, v2 = torch.cat([k, k[:, :, :1]], 2), torch.cat([v, v[:, :, :1]], 2)
    log_half = torch.zeros(1, 2, 6).index_fill_(2, torch.tensor([0, 5]), -math.log(2))
    a, b = attention(q, k, v, map="heads"), attention(q, k2, v2, key_bias=log_half, map="heads")
    torch.testing.assert_close(a.out, b.out)
    torch.testing.assert_close(b.map[..., 0], a.map[..., 0] / 2)
    torch.testing.assert_close(b.map[..., 5], a.map[..., 0] / 2)


@pytest.mark.parametrize("map", MAPS)
@pytest.mark.parametrize("width", [3, 4])
def test_hidden_keys_give_zeros_and_no_nan(map, width):
    q, k, v = (x.requires_grad_() for x in draw(5, (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, width)))
    mask = torch.tensor([[False] * 7, [True] * 7])
    out, weights, lse = attention(q, k, v, key_mask=mask, map=map)
    assert not out[0].any()
    assert (lse[0] == -math.inf).all()
    assert lse[1].isfinite().all()
    if map != "none":
        assert not weights[0].any()
        out = out.sum() + weights.square().sum()
    for grad in torch.autograd.grad(out.sum(), (q, k, v)):
        assert not grad[0].any()
        assert grad[1].isfinite().all()


@pytest.mark.parametrize("map", MAPS)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_scores(map, size):
    q = torch.full((1, 1, 2, 1), size)
    k = torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 3, 1)
    v = torch.eye(3).view(1, 1, 3, 3)
    out, _, lse = assert_matches_reference(q, k, v[..., :1], map, scale=1.0)
    assert out.isfinite().all()
    assert lse.isfinite().all()


@pytest.mark.parametrize("map", MAPS)
def test_layout_of_the_inputs_does_not_matter(map):
    q, k, v = draw(6, (1, 2, 5, 4), (2, 2, 4, 7), (2, 7, 2, 4))
    views = q.expand(2, -1, -1, -1), k.transpose(2, 3), v.transpose(1, 2)
    a, b = attention(*views, map=map), attention(*(x.contiguous() for x in views), map=map)
    torch.testing.assert_close([x for x in a if x is not None], [x for x in b if x is not None])


def test_the_map_is_float32_for_half_precision_and_two_runs_are_equal():
    q, k, v = draw(7, (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4), dtype=torch.bfloat16)
    a, b = attention(q, k, v, map="mean"), attention(q, k, v, map="mean")
    assert (a.out.dtype, a.map.dtype, a.lse.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert attention(q, k, v).map is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"map": "all"}, "map must be one of 'none', 'heads', 'mean', got 'all'"),
        ({"q": torch.zeros(3, 2, 5, 4)}, r"q must have shape \(2, 2, query, feature\), got \(3, 2, 5, 4\)"),
        ({"k": torch.zeros(2, 3, 7, 4)}, r"k must have shape \(2, 2, 7, 4\), got \(2, 3, 7, 4\)"),
        ({"k": torch.zeros(2, 1, 6, 4)}, r"k must have shape \(2, any, 7, 4\), got \(2, 1, 6, 4\)"),
        ({"v": torch.zeros(2, 7, 4)}, r"v must have shape \(batch, head, key, value_feature\)"),
        ({"q": torch.zeros(2, 2, 5, 4).half()}, "q, k and v must have one floating dtype, got torch.float16"),
        ({"key_bias": torch.zeros(2, 7)}, r"key_bias must have shape \(2, 2, 7\), got \(2, 7\)"),
        ({"key_mask": torch.ones(2, 7)}, "key_mask must be bool, got torch.float32"),
        ({"window": (torch.zeros(5), torch.ones(5))}, r"window\[0\] must hold whole numbers"),
        ({"window": (torch.zeros(5).int(), torch.ones(4).int())}, r"window\[1\] must have shape \(5,\)"),
        ({"head_gate": torch.ones(2, 2)}, r"head_gate must have shape \(2, 2, 5\), got \(2, 2\)"),
        ({"affine": (torch.ones(2, 2, 5), torch.ones(1))}, r"affine\[1\] must have shape \(2, 2, 5\)"),
    ],
)
def test_wrong_input_names_the_argument(change, message):
    arguments = {"q": torch.zeros(2, 2, 5, 4), "k": torch.zeros(2, 2, 7, 4), "v": torch.zeros(2, 2, 7, 4)}
    with pytest.raises(ValueError, match=message):
        attention(**{**arguments, **change})
