"""The face of workspace attention: that of torch's multi-head attention, its masks, and what it refuses."""

import copy
import math

import pytest
import torch
from torch import nn

from neuroattn.analyses import inspect_workspace, lesion_concepts
from neuroattn.attention import MANAR, CrossAttention

KINDS = {
    "plain": {},
    "no bias": {"bias": False},
    "other keys": {"kdim": 6, "vdim": 6},
    "other keys and values": {"kdim": 6, "vdim": 10},
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_state_of_multihead_attention_loads(options):
    mha = nn.MultiheadAttention(8, 2, **options)
    layer = MANAR(8, 2, n_concepts=5, **options)
    loaded = layer.load_state_dict(mha.state_dict(), strict=False)
    assert loaded.unexpected_keys == []
    assert all(name.startswith("workspace.") for name in loaded.missing_keys)
    state = layer.state_dict()
    assert all(torch.equal(state[name], value) for name, value in mha.state_dict().items())


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_from_multihead_with_a_concept_for_each_token_is_multihead_attention(options):
    mha = nn.MultiheadAttention(8, 2, batch_first=True, **options).eval()
    query, key, value = draw(1, 3, 8), draw(1, 7, mha.kdim, seed=1), draw(1, 7, mha.vdim, seed=2)
    layer = MANAR.from_multihead(mha, 7, calibration=(key, value), tau=1e-6, kappa=0)
    assert not layer.training
    for average in (True, False):
        out, weights = layer(query, key, value, average_attn_weights=average)
        wanted, wanted_weights = mha(query, key, value, average_attn_weights=average)
        torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weights, wanted_weights, rtol=1e-4, atol=1e-5)


def test_concepts_are_centroids_of_the_tokens():
    centres = 10 * draw(4, 8)
    member = torch.arange(80) % 4
    tokens = (centres[member] + 0.1 * draw(80, 8, seed=1)).view(2, 40, 8)
    mha = nn.MultiheadAttention(8, 2)
    layer = MANAR.from_multihead(mha, 4, calibration=tokens, seed=3)
    means = torch.stack([tokens.flatten(0, 1)[member == i].mean(0) for i in range(4)])
    nearest = torch.cdist(means, layer.workspace.concepts.data).min(1)
    assert sorted(nearest.indices.tolist()) == [0, 1, 2, 3]
    assert nearest.values.max() < 1e-5
    same = MANAR.from_multihead(mha, 4, calibration=tokens, seed=3)
    assert torch.equal(same.workspace.concepts, layer.workspace.concepts)


def test_layouts_agree():
    layer = MANAR(8, 2, n_concepts=4)
    swapped = copy.deepcopy(layer)
    swapped.batch_first = True
    x, memory = draw(5, 3, 8), draw(6, 3, 8, seed=1)
    out, weights = layer(x, memory, memory)
    assert out.shape == (5, 3, 8)
    assert weights.shape == (3, 5, 6)
    transposed, same = swapped(x.transpose(0, 1), memory.transpose(0, 1), memory.transpose(0, 1))
    torch.testing.assert_close(transposed.transpose(0, 1), out)
    torch.testing.assert_close(same, weights)
    single, single_weights = layer(x[:, 1], memory[:, 1], memory[:, 1])
    torch.testing.assert_close(single, out[:, 1])
    torch.testing.assert_close(single_weights, weights[1])
    assert layer(x, memory, memory, need_weights=False)[1] is None
    assert layer(x, memory, memory, average_attn_weights=False)[1].shape == (3, 2, 5, 6)


def test_bool_and_additive_masks_agree():
    layer = MANAR(8, 2, n_concepts=4, batch_first=True)
    x = draw(2, 6, 8)
    ignored = torch.tensor([[False] * 4 + [True] * 2, [True] + [False] * 5])
    additive = torch.zeros(2, 6).masked_fill(ignored, -math.inf)
    lowest = torch.zeros(2, 6).masked_fill(ignored, torch.finfo(torch.float32).min)
    out = layer(x, x, x, key_padding_mask=ignored)[0]
    assert not torch.allclose(out, layer(x, x, x)[0])
    for mask in (additive, lowest):
        torch.testing.assert_close(layer(x, x, x, key_padding_mask=mask)[0], out)
    causal = nn.Transformer.generate_square_subsequent_mask(6)
    wanted = layer(x, x, x, is_causal=True)[0]
    assert not torch.allclose(wanted, layer(x, x, x)[0])
    for mask in (causal, causal < 0, causal.expand(4, 6, 6)):
        torch.testing.assert_close(layer(x, x, x, attn_mask=mask)[0], wanted)
    torch.testing.assert_close(layer(x, x, x, attn_mask=torch.zeros(6, 6))[0], layer(x, x, x)[0])


@pytest.mark.parametrize(
    ("options", "causal"),
    [({}, False), ({}, True), ({"retrieve": 2}, False), ({"competition": "sparsemax"}, False)],
    ids=str,
)
@pytest.mark.parametrize("training", [False, True])
def test_what_sees_no_token_reads_zeros(options, causal, training):
    layer = MANAR(8, 2, dropout=0.3, n_concepts=4, kappa=1.0, batch_first=True, **options).train(training)
    x = draw(2, 6, 8).requires_grad_()
    ignored = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    out, weights = layer(x, x, x, key_padding_mask=ignored, is_causal=causal)
    assert (out[0] == 0).all()  # the bias of a new layer is 0
    assert (weights[0] == 0).all()
    assert (out[1, :2] == 0).all() == causal
    assert (out[1, 2:] != 0).any()
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_dropout_acts_in_training_only():
    layer = MANAR(8, 2, dropout=0.5, n_concepts=4, batch_first=True)
    x = draw(2, 6, 8)
    torch.manual_seed(0)
    for causal in (False, True):
        once, again = (layer.train()(x, x, x, is_causal=causal)[0] for _ in range(2))
        assert not torch.allclose(once, again)
        once, again = (layer.eval()(x, x, x, is_causal=causal)[0] for _ in range(2))
        assert torch.equal(once, again)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"retrieve": 2}, {"competition": "sparsemax"}], ids=str)
def test_half_precision_with_large_logits_is_finite(dtype, options):
    layer = MANAR(16, 2, n_concepts=4, batch_first=True, **options)
    x = 30 * draw(2, 9, 16)
    half = copy.deepcopy(layer).to(dtype)
    q, k = (layer._project(part, x) for part in "qk")
    assert (q @ k.mT).abs().max() > 1000
    out = half(x.to(dtype), x.to(dtype), x.to(dtype))[0]
    assert out.dtype == dtype
    assert out.isfinite().all()
    if not options:
        causal = half(x.to(dtype), x.to(dtype), x.to(dtype), is_causal=True)[0]
        assert causal.isfinite().all()
    with torch.autocast("cpu", dtype=dtype):
        assert layer(x, x, x, need_weights=False)[0].dtype == dtype


def test_retrieval_takes_the_concepts_that_gather_most_tokens():
    concepts = 10 * torch.eye(6)
    layer = MANAR(6, 1, n_concepts=6, retrieve=2, batch_first=True)
    layer.in_proj_weight.data.copy_(torch.eye(6).repeat(3, 1))
    layer.workspace.concepts.data.copy_(concepts)
    x = concepts[torch.tensor([[1, 1, 1, 4, 4, 3], [0, 0, 5, 5, 2, 0]])]
    view = layer.view(x, x, x)
    assert view.concept[:, 0].tolist() == [[1, 4], [0, 5]]
    assert view.assignment.shape == (2, 1, 6, 2)
    everything = MANAR(6, 1, n_concepts=6, retrieve=6, batch_first=True)
    everything.load_state_dict(layer.state_dict())
    every = everything(x, x, x)[0]
    everything.workspace.retrieve = None
    torch.testing.assert_close(everything(x, x, x)[0], every)


def test_sparsemax_leaves_shares_at_zero():
    x = 3 * draw(2, 20, 8)
    layer = MANAR(8, 2, n_concepts=6, competition="sparsemax", tau=0.3, batch_first=True)
    share = layer.view(x, x, x).assignment
    torch.testing.assert_close(share.sum(-1), torch.ones(2, 2, 20))
    assert 0.2 < (share == 0).float().mean() < 0.9


def test_a_temperature_for_each_head():
    layer = MANAR(8, 2, n_concepts=6, batch_first=True)
    layer.workspace.log_tau.data.copy_(torch.tensor([3.0, -6.0]))
    share = layer.view(*[draw(2, 20, 8)] * 3).assignment.amax(-1)
    assert share[:, 0].mean() < 0.4
    assert share[:, 1].mean() > 0.95


def test_a_lesioned_concept_is_gone_and_comes_back():
    layer = MANAR(8, 2, n_concepts=4, kappa=1.0, batch_first=True)
    x = draw(2, 6, 8)
    intact = layer(x, x, x)[0]
    without = MANAR(8, 2, n_concepts=2, kappa=1.0, batch_first=True)
    state = layer.state_dict()
    state["workspace.concepts"] = state["workspace.concepts"][[0, 3]]
    state["workspace.log_kappa"] = state["workspace.log_kappa"][:, [0, 3]]
    without.load_state_dict(state)
    with layer.workspace.lesion([1]), layer.workspace.lesion([2]):
        torch.testing.assert_close(layer(x, x, x)[0], without(x, x, x)[0])
    assert torch.equal(layer(x, x, x)[0], intact)
    with (
        pytest.raises(ValueError, match="concepts must leave at least one of 4"),
        layer.workspace.lesion(range(4)),
    ):
        pass


def test_views_are_labelled():
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1)
    net.layers[0].self_attn = MANAR(8, 2, n_concepts=4, retrieve=3, batch_first=True)
    x = draw(2, 6, 8)
    (name,) = views = inspect_workspace(net, x)
    assert net.training
    view = views[name]
    assert name == "layers.0.self_attn"
    assert dict(view.sizes) == {"sample": 2, "head": 2, "token": 6, "slot": 3, "query": 6}
    assert view["concept"].dims == ("sample", "head", "slot")
    torch.testing.assert_close(
        torch.tensor((view["weights"].sum("token") + view["memory_share"]).values), torch.ones(2, 2, 6)
    )
    pseudo = 3 * 0.01
    assert abs(view["mass"].sum("slot") - 6 - pseudo).max() < 1e-5
    assert view["mass"].attrs["units"] == "tokens"
    causal = inspect_workspace(MANAR(8, 2, n_concepts=4, batch_first=True), x, x, x, is_causal=True)[""]
    assert causal["mass"].dims == ("sample", "head", "query", "slot")
    assert (causal["mass"].diff("query") >= 0).all()


def test_lesions_show_which_concept_matters():
    layer = MANAR(6, 1, n_concepts=6, kappa=0, tau=0.1, batch_first=True)
    layer.in_proj_weight.data.copy_(torch.eye(6).repeat(3, 1))
    layer.workspace.concepts.data.copy_(10 * torch.eye(6))
    x = 10 * torch.eye(6)[torch.tensor([[1, 1, 4], [5, 5, 5]])]
    change = lesion_concepts(layer, "", x, x, x)
    assert change.dims == ("concept", "sample")
    assert (change > 1e-3).values.T.tolist() == [[i in (1, 4) for i in range(6)], [False] * 6]
    with pytest.raises(ValueError, match="layer must be one of '', got 'head'"):
        lesion_concepts(layer, "head", x, x, x)
    for look in (inspect_workspace, lambda model, x: lesion_concepts(model, "", x)):
        with pytest.raises(ValueError, match="found none in CrossAttention"):
            look(CrossAttention(8, 2), x)


X = torch.zeros(2, 5, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "num_heads must divide embed_dim 8, got 3"),
        ({"num_heads": 0}, "num_heads must divide embed_dim 8, got 0"),
        ({"add_bias_kv": True}, "add_bias_kv must be False: the concepts are learned keys and values"),
        ({"add_zero_attn": True}, "add_zero_attn must be False"),
        ({"n_concepts": 0}, "n_concepts must be at least 1, got 0"),
        ({"n_concepts": 8, "retrieve": 9}, "retrieve must be between 1 and 8, got 9"),
        ({"competition": "top"}, "competition must be one of 'softmax', 'sparsemax', got 'top'"),
        ({"tau": 0}, "tau must be above 0, got 0"),
        ({"kappa": -1}, "kappa must be at least 0, got -1"),
        ({"dropout": 2}, "dropout must be between 0 and 1, got 2"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MANAR(8, options.pop("num_heads", 2), **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"key_padding_mask": torch.zeros(2, 4, dtype=torch.bool)},
            ValueError,
            r"must have shape \(2, 5\), got \(2, 4\)",
        ),
        (
            {"key_padding_mask": torch.zeros(2, 5).int()},
            TypeError,
            "key_padding_mask must be bool or floating, got",
        ),
        (
            {"key_padding_mask": torch.full((2, 5), -0.5)},
            ValueError,
            "key_padding_mask must hold 0 and minus infinity only, got -0.5",
        ),
        ({"attn_mask": torch.zeros(5, 4)}, ValueError, r"attn_mask must have shape \(5, 5\), got \(5, 4\)"),
        ({"attn_mask": torch.zeros(2, 5, 5)}, ValueError, r"attn_mask must have shape \(4, 5, 5\)"),
        (
            {"attn_mask": torch.eye(5, dtype=torch.bool)},
            ValueError,
            "attn_mask must be causal or mask nothing",
        ),
        ({"attn_mask": torch.zeros(5, 5).long()}, TypeError, "attn_mask must be bool or floating"),
        ({"query": X[..., :7]}, ValueError, r"query must have shape \(batch, query, 8\), got \(2, 5, 7\)"),
        ({"value": X[:, :4]}, ValueError, r"value must have shape \(2, 5, 8\), got \(2, 4, 8\)"),
    ],
)
def test_bad_inputs_are_refused(options, error, message):
    arguments = {"query": X, "key": X, "value": X, **options}
    with pytest.raises(error, match=message):
        MANAR(8, 2, batch_first=True)(**arguments)


def test_retrieval_with_a_causal_mask_is_refused():
    layer = MANAR(8, 2, n_concepts=4, retrieve=2, batch_first=True)
    with pytest.raises(ValueError, match="retrieve must be None with a causal mask, got 2"):
        layer(X, X, X, is_causal=True)


@pytest.mark.parametrize(
    ("options", "calibration", "message"),
    [
        ({}, torch.zeros(2, 3, 8), "at least n_concepts=7 tokens, got 6"),
        ({}, torch.zeros(2, 30, 6), r"shape \(..., token, 8\), got \(2, 30, 6\)"),
        ({}, torch.full((2, 30, 8), math.nan), "calibration must be finite"),
        ({"kdim": 6}, torch.zeros(2, 30, 6), "calibration must be a pair, keys and values"),
        ({"add_bias_kv": True}, None, "add_bias_kv must be False"),
    ],
)
def test_bad_calibration_is_refused(options, calibration, message):
    with pytest.raises(ValueError, match=message):
        MANAR.from_multihead(nn.MultiheadAttention(8, 2, **options), 7, calibration)
