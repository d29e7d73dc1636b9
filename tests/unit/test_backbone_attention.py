"""Maps of a vision transformer must be those that make the network's own output, or be refused."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from neuroattn._backbones import Backbone, Preprocessing, load_backbone
from neuroattn.analyses import self_attention
from neuroattn.analyses.backbone_attention import covered_size, describe_blocks, patch_places, prepare


def random_images(n, y, x, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, y, x, 3), dtype=np.uint8)


def small(name, patch=16, **options):
    """A network of timm's with two narrow blocks."""
    model = timm.create_model(name, depth=2, embed_dim=48, num_heads=2, **options)
    size = model.patch_embed.img_size
    grey = Preprocessing((127.0,) * 3, (128.0,) * 3, multiple=patch)
    return Backbone(model, grey, name=name, input_size=size)


def randomize(model, seed=0):
    """Draw all weights, so that norms and biases that begin as ones and zeros matter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def output_of(maps, attention, tokens):
    """What an attention module returns: the values of its tokens, read by the maps and projected."""
    if attention.qkv is None:
        value = attention.v_proj(tokens)
    else:
        bias = getattr(attention, "v_bias", None)
        if bias is None and attention.qkv.bias is not None:
            bias = attention.qkv.bias.chunk(3)[2]
        value = nn.functional.linear(tokens, attention.qkv.weight.chunk(3)[2], bias)
    value = value.view(*value.shape[:2], attention.num_heads, -1).transpose(1, 2)
    read = (torch.from_numpy(maps) @ value[0]).transpose(0, 1).flatten(1)[None]
    return attention.proj(attention.norm(read))


FREE = {"dynamic_img_size": True}


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("vit_tiny_patch16_224", (40, 64), FREE),
        ("vit_tiny_patch16_224", (32, 48), FREE | {"qk_norm": True, "reg_tokens": 4}),
        (
            "vit_tiny_patch16_224",
            (32, 48),
            FREE | {"scale_attn_norm": True},
        ),
        ("vit_medium_patch16_rope_reg1_gap_256", (32, 48), FREE),  # rotary positions
        ("eva02_tiny_patch14_224", (224, 224), {"patch": 14}),  # the same, with separate projections
        ("vit_small_patch16_dinov3_qkvb", (32, 48), FREE),
    ],
    ids=["plain", "norms and registers", "scaled", "rotary", "separate projections", "dinov3"],
)
def test_maps_times_values_are_the_output_of_the_networks_attention(name, size, options):
    backbone = small(name, **options)
    randomize(backbone.model)
    number = len(backbone.model.blocks) - 1
    attention = backbone.model.blocks[number].attn
    seen = {}
    handle = attention.register_forward_hook(
        lambda module, inputs, output: seen.update(tokens=inputs[0], output=output)
    )
    maps = next(self_attention(backbone, random_images(1, *size), layers=[f"block{number}"]))
    handle.remove()
    weights = maps.values[0]
    assert weights.std() > 0
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    with torch.inference_mode():
        want = output_of(weights, attention, seen["tokens"])
    torch.testing.assert_close(want, seen["output"], rtol=1e-4, atol=1e-4)


def test_normed_queries_and_keys_enter_the_maps():
    """The map of a network with norms on queries and keys, from the projections by hand."""
    backbone = small("vit_tiny_patch16_224", qk_norm=True, **FREE)
    attention = backbone.model.blocks[0].attn
    randomize(backbone.model)
    seen = {}
    handle = attention.qkv.register_forward_hook(lambda module, inputs, output: seen.update(qkv=output))
    maps = next(self_attention(backbone, random_images(1, 64, 96), layers=["block0"]))
    handle.remove()
    qkv = seen["qkv"].reshape(1, -1, 3, attention.num_heads, attention.head_dim).permute(2, 0, 3, 1, 4)
    with torch.inference_mode():
        q, k = attention.q_norm(qkv[0]), attention.k_norm(qkv[1])
        want = (q @ k.mT * attention.head_dim**-0.5).softmax(-1)[0]
    np.testing.assert_allclose(maps.values[0], want.numpy(), atol=1e-5)


def test_tokens_are_labelled_in_the_order_of_the_network():
    backbone = small("vit_tiny_patch16_224", reg_tokens=4, **FREE)
    maps = next(self_attention(backbone, random_images(1, 32, 48), layers=["block1", "block0"]))
    assert maps.layer.values.tolist() == ["block1", "block0"]
    assert maps.kind.values.tolist() == ["class"] + ["register"] * 4 + ["patch"] * 6
    assert maps.y.values.tolist() == [-1] * 5 + [0, 0, 0, 1, 1, 1]
    assert maps.x.values.tolist() == [-1] * 5 + [0, 1, 2, 0, 1, 2]
    without = small("vit_medium_patch16_rope_reg1_gap_256", **FREE)
    maps = next(self_attention(without, random_images(1, 16, 32), layers=["block0"]))
    assert maps.kind.values.tolist() == ["register", "patch", "patch"]


def test_images_are_read_one_by_one_and_hooks_are_taken_away():
    backbone = load_backbone("test_vit", weights="random")
    images = random_images(2, 32, 32)
    first, second = self_attention(backbone, images)
    assert first.sizes == {"layer": 6, "head": 2, "query": 5, "key": 5}
    assert abs(first.values - second.values).max() > 0
    np.testing.assert_allclose(next(self_attention(backbone, images[1:])).values, second.values, atol=1e-6)
    ran = []
    handle = backbone.model.blocks[0].register_forward_pre_hook(lambda *_: ran.append(1))
    stream = self_attention(backbone, images)
    assert ran == []
    next(stream)
    assert ran == [1]
    handle.remove()
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in backbone.model.blocks)


def test_networks_without_tokens_are_refused():
    with pytest.raises(
        ValueError, match="backbone must be a vision transformer with blocks, got timm:test_resnet"
    ):
        self_attention(load_backbone("test_resnet", weights="random"), random_images(1, 32, 32))


def test_position_biases_and_differential_attention_are_refused_in_one_line():
    biased = small("beit_base_patch16_224")
    reason = (
        "backbone must attend once from all 197 tokens to all .* by fused attention .*; block0 of beit_base"
    )
    with pytest.raises(ValueError, match=reason):
        next(self_attention(biased, random_images(1, 224, 224)))
    twice = small("vit_dwee_patch16_reg1_gap_256", **FREE)
    with pytest.raises(ValueError, match="block0 of vit_dwee_patch16_reg1_gap_256 does not"):
        next(self_attention(twice, random_images(1, 32, 32)))


def test_attention_that_is_not_fused_is_refused():
    backbone = load_backbone("test_vit", weights="random")
    backbone.model.blocks[3].attn.fused_attn = False
    with pytest.raises(ValueError, match="block3 of timm:test_vit does not"):
        next(self_attention(backbone, random_images(1, 32, 32)))
    assert not backbone.model.blocks[0]._forward_hooks


def test_wrong_images_and_layers_are_refused():
    backbone = load_backbone("test_vit", weights="random")
    with pytest.raises(ValueError, match="layers must be one of 'block0'"):
        self_attention(backbone, random_images(1, 32, 32), layers=["norm"])
    with pytest.raises(TypeError, match="images must be uint8"):
        self_attention(backbone, np.zeros((1, 32, 32, 3)))
    with pytest.raises(ValueError, match="number of images must be at least 1"):
        self_attention(backbone, random_images(0, 32, 32))


def test_blocks_are_described_in_order_with_the_tokens_that_leave_them():
    backbone = load_backbone("test_vit", weights="random")
    images = random_images(2, 32, 48)
    tokens = describe_blocks(
        backbone, prepare(backbone, images), lambda block, weights, tokens: tokens + 0 * block
    )
    assert tokens.shape == (2, 6, 7, 64)
    patches = tokens[:, 5, 1:].reshape(2, 2, 3, 64)
    np.testing.assert_allclose(np.moveaxis(patches, -1, 1), backbone.at("block5").extract(images), atol=1e-5)


def test_places_are_in_degrees_of_what_the_patches_cover():
    place, unit = patch_places((2, 4), (80, 20), 10)
    assert unit == "deg"
    np.testing.assert_allclose(place[0], [-0.5, -3])
    np.testing.assert_allclose(place.mean(0), 0)
    place, unit = patch_places((2, 4), None, None)
    assert unit == "patches"
    np.testing.assert_allclose(place[-1], [0.5, 1.5])
    with pytest.raises(ValueError, match="image_size must be given with px_per_degree"):
        patch_places((2, 4), None, 10)
    resized = load_backbone("test_vit", weights="random", image_size=(20, 40))
    assert covered_size(resized, random_images(1, 100, 100)) == (120.0, 160.0)
