"""Backbones of a search: VGG16 weights of a user, and networks read through layer taps."""

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from neuroattn.search.config import SearchConfig
from neuroattn.search.taps import TapBackbone, load_search_backbone
from neuroattn.search.weights import VGG16Weights, read_vgg16_weights

LAYERS = [f"block{i}_conv{j}" for i, n in enumerate((2, 2, 3, 3, 3), 1) for j in range(1, n + 1)]
MEAN = np.array([123.68, 116.779, 103.939])
PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@pytest.fixture(scope="module")
def arrays():
    """Return weights of VGG16 at 1/16 of its width."""
    rng = np.random.default_rng(0)
    found, n_in = {}, 3
    for layer in LAYERS:
        n_out = min(2 ** (int(layer[5]) + 1), 32)
        found[f"w_{layer}"] = rng.normal(size=(3, 3, n_in, n_out)).astype("float32") / n_in
        found[f"b_{layer}"] = rng.normal(size=n_out).astype("float32")
        n_in = n_out
    return found


def write_keras(path, arrays, form):
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if form == "model" else file
        root.create_group("block1_pool")
        for layer in LAYERS:
            group = root.create_group(layer)
            names = (
                (f"{layer}_W_1:0", f"{layer}_b_1:0") if form == "2016" else ("inner/kernel:0", "inner/bias:0")
            )
            for name, kind in zip(names, "wb", strict=True):
                group[name] = arrays[f"{kind}_{layer}"]
    return path


def torch_state(arrays, *, classifier=0.0):
    state = {"classifier.6.bias": torch.full((4,), classifier)}
    for place, layer in zip(PLACES, LAYERS, strict=True):
        kernel = arrays[f"w_{layer}"].transpose(3, 2, 0, 1).copy()
        state[f"features.{place}.weight"] = torch.from_numpy(kernel)
        state[f"features.{place}.bias"] = torch.from_numpy(arrays[f"b_{layer}"])
    return state


def assert_same(read, arrays):
    assert set(read.arrays) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read.arrays[name], array)


@pytest.mark.parametrize("form", ["2016", "weights", "model"])
def test_keras_files_of_every_age_are_caffe_weights(tmp_path, arrays, form):
    read = read_vgg16_weights(write_keras(tmp_path / "vgg16.h5", arrays, form))
    assert read.preprocessing == "caffe"
    assert_same(read, arrays)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_state_dicts_are_rgb_normalised(tmp_path, arrays, suffix):
    path = tmp_path / f"vgg16{suffix}"
    (torch.save if suffix == ".pth" else save_file)(torch_state(arrays), path)
    read = read_vgg16_weights(path, preprocessing="torchvision")
    assert read.preprocessing == "torchvision"
    assert_same(read, arrays)


def test_caffe_weights_in_a_state_dict_are_known_by_their_empty_classifier(tmp_path, arrays):
    torch.save(torch_state(arrays, classifier=np.nan), tmp_path / "features.pth")
    read = read_vgg16_weights(tmp_path / "features.pth")
    assert read.preprocessing == "caffe"
    turned = {**arrays, "w_block1_conv1": arrays["w_block1_conv1"][:, :, ::-1]}
    assert_same(read, turned)


def test_the_wrong_preprocessing_is_refused_with_the_reason(tmp_path, arrays):
    torch.save(torch_state(arrays), tmp_path / "vgg16.pth")
    with pytest.raises(
        ValueError, match=r"must be 'torchvision' for vgg16.pth, got 'caffe'.*58 times too large"
    ):
        read_vgg16_weights(tmp_path / "vgg16.pth", preprocessing="caffe")
    path = write_keras(tmp_path / "vgg16.h5", arrays, "2016")
    with pytest.raises(
        ValueError, match=r"must be 'caffe' for vgg16.h5, got 'torchvision'.*58 times too small"
    ):
        read_vgg16_weights(path, preprocessing="torchvision")


def test_broken_files_are_named(tmp_path, arrays):
    for suffix in (".h5", ".pth", ".safetensors"):
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(b"not weights")
        with pytest.raises(ValueError, match=f"broken{suffix}"):
            read_vgg16_weights(path)
    with pytest.raises(
        ValueError, match=r"must be a \.h5, \.pth, \.pt or \.safetensors file, got 'vgg16.npz'"
    ):
        read_vgg16_weights(tmp_path / "vgg16.npz")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"must hold features\.0\.weight.*got conv1\.weight"):
        read_vgg16_weights(tmp_path / "resnet.pth")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["dense/kernel:0"] = np.zeros((2, 2))
    with pytest.raises(ValueError, match="must hold w_block1_conv1 of VGG16, got none"):
        read_vgg16_weights(tmp_path / "other.h5")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "w_block2_conv1",
            np.zeros((3, 3, 5, 8), "float32"),
            r"block2_conv1 must have shapes \(3, 3, 4, out\)",
        ),
        ("b_block1_conv1", np.full(4, np.nan, "float32"), "block1_conv1 must be finite"),
    ],
)
def test_arrays_must_be_a_vgg16(arrays, name, value, message):
    with pytest.raises(ValueError, match=message):
        VGG16Weights({**arrays, name: value}, "caffe")


@pytest.fixture(scope="module")
def demo():
    return TapBackbone("demo", weights="random")


@pytest.fixture(scope="module")
def views(demo):
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8))
    return demo.preprocess(images)


SHARP = SearchConfig(slopes=(0.0,) * 5)
ECCENTRIC = SearchConfig(slopes=(0.0, 0.0, 0.3, 0.3, 0.3), fovea_deg=4)


def test_default_taps_are_the_last_blocks_at_the_strides_of_vgg16(demo):
    assert demo.strides == {"blocks.1.1": 4, "blocks.2.1": 8, "blocks.4.2": 16}
    assert demo.stride == 16


def test_pixels_are_those_of_the_network(demo):
    white = demo.preprocess(torch.full((1, 2, 3, 3), 255, dtype=torch.uint8))
    torch.testing.assert_close(white, torch.ones(1, 3, 2, 3))


def test_without_eccentricity_the_maps_are_the_features_of_the_network(demo, views):
    maps = demo.search_maps(views, SHARP, 30.0)
    features = demo.model.bn1(demo.model.conv_stem(views))
    expected = {}
    for i, block in enumerate(demo.model.blocks[:5]):
        features = block(features)
        expected[i] = features
    torch.testing.assert_close(maps["blocks.4.2"], expected[4])
    torch.testing.assert_close(maps["blocks.2.1"], F.avg_pool2d(expected[2], 2))
    torch.testing.assert_close(maps["blocks.1.1"], F.avg_pool2d(F.avg_pool2d(expected[1], 2), 2))


def test_each_tap_is_read_before_its_own_pooling(demo, views):
    sharp, eccentric = (demo.search_maps(views, c, 16.0) for c in (SHARP, ECCENTRIC))
    first, second, third = demo.taps
    torch.testing.assert_close(eccentric[first], sharp[first])
    first_only = demo.search_maps(views, SearchConfig(slopes=(0, 0, 0.3, 0, 0), fovea_deg=4), 16.0)
    torch.testing.assert_close(eccentric[second], first_only[second])
    assert not torch.allclose(eccentric[third], first_only[third])
    # In the fovea nothing changes, nor near it within the reach of the convolutions in between.
    change = (eccentric[second] - sharp[second]).abs().amax((0, 1))
    assert change[8, 8] == 0
    assert change[1, 1] > 0.01


def test_pooling_follows_the_gaze_of_each_view(demo, views):
    middle = demo.search_maps(views, ECCENTRIC, 16.0)
    gaze = torch.tensor([[128.0, 128.0], [32.0, 224.0]])
    moved = demo.search_maps(views, ECCENTRIC, 16.0, gaze)
    alone = demo.search_maps(views[1:], ECCENTRIC, 16.0, gaze[1:])
    sharp = demo.search_maps(views, SHARP, 16.0)
    for tap in demo.taps[1:]:
        torch.testing.assert_close(moved[tap][0], middle[tap][0])
        torch.testing.assert_close(moved[tap][1:], alone[tap])
    second = demo.taps[1]
    torch.testing.assert_close(moved[second][1, :, 2, 14], sharp[second][1, :, 2, 14])
    assert not torch.allclose(middle[second][1, :, 2, 14], sharp[second][1, :, 2, 14])


def test_windows_are_the_same_in_degrees(demo, views):
    wide = demo.search_maps(views, ECCENTRIC, 32.0)
    narrow = demo.search_maps(views, ECCENTRIC, 16.0)
    same = demo.search_maps(views, SearchConfig(slopes=ECCENTRIC.slopes, fovea_deg=8), 16.0)
    torch.testing.assert_close(same["blocks.4.2"], wide["blocks.4.2"])
    assert not torch.allclose(narrow["blocks.4.2"], wide["blocks.4.2"])


def test_the_gradient_passes_through_the_pooling(demo, views):
    views = views[:1].clone().requires_grad_()
    demo.search_maps(views, ECCENTRIC, 16.0)["blocks.4.2"].square().sum().backward()
    assert views.grad.abs().sum() > 0


@pytest.mark.parametrize(("compressed", "side"), [(False, 3), (True, 2)])
def test_target_kernels_share_the_channels_of_the_maps(demo, compressed, side):
    targets = demo.preprocess(torch.zeros(1, 48, 40, 3, dtype=torch.uint8))
    kernels = demo.target_kernels(targets, SearchConfig(compressed_template=compressed), 30.0)
    assert {tap: tuple(kernel.shape) for tap, kernel in kernels.items()} == {
        "blocks.1.1": (1, 24, side, side),
        "blocks.2.1": (1, 40, side, side),
        "blocks.4.2": (1, 112, side, side),
    }


def test_taps_of_a_configuration_leave_the_pooling_of_the_others(demo, views):
    last = demo.taps[-1]
    one = demo.search_maps(views, SearchConfig(slopes=ECCENTRIC.slopes, fovea_deg=4, taps=(last,)), 16.0)
    assert list(one) == [last]
    torch.testing.assert_close(one[last], demo.search_maps(views, ECCENTRIC, 16.0)[last])
    with pytest.raises(ValueError, match=r"taps of the configuration must be one of .* got 'conv5_3'"):
        demo.search_maps(views, SearchConfig(taps=("conv5_3",)), 16.0)


def test_taps_are_sorted_by_the_network():
    backbone = TapBackbone("resnet18", taps=["block5", "layer1"], weights="random")
    assert backbone.strides == {"layer1": 4, "layer3.1": 16}


@pytest.mark.parametrize(
    ("name", "taps", "message"),
    [
        ("test_vit", None, "must be a convolutional network that takes images of any size, got 'test_vit'"),
        ("resnet18", ["layer9"], "tap 'layer9' is unknown; nearest are 'layer"),
        ("resnet18", [], r"taps must be a list of different layers, got \[\]"),
        ("vgg11", None, "taps must be given for vgg11, which has no block at stride 4; it has features, "),
    ],
)
def test_what_cannot_be_tapped_is_refused(name, taps, message):
    with pytest.raises(ValueError, match=message):
        TapBackbone(name, taps=taps, weights="random")


def test_vgg16_sees_the_same_through_either_file(tmp_path, arrays):
    # One network in two conventions: inputs of 1/58 of the size, colours the other way round.
    std = np.array([58.395, 57.12, 57.375])
    scaled = arrays["w_block1_conv1"][:, :, ::-1] * std[:, None]
    shift = (
        arrays["w_block1_conv1"][:, :, ::-1] * (np.array([123.675, 116.28, 103.53]) - MEAN)[:, None]
    ).sum((0, 1, 2))
    torchvision = {
        **arrays,
        "w_block1_conv1": scaled.astype("float32"),
        "b_block1_conv1": (arrays["b_block1_conv1"] + shift).astype("float32"),
    }
    torch.save(torch_state(torchvision), tmp_path / "vgg16.pth")
    image = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8))
    maps = []
    for path in (write_keras(tmp_path / "vgg16.h5", arrays, "2016"), tmp_path / "vgg16.pth"):
        network = load_search_backbone("vgg16", weights=path)
        maps.append(network.search_maps(network.preprocess(image), SHARP, 30.0)["conv4_3"])
    # Padding is the mean colour, which differs by the fraction of a grey level; only the inside is equal.
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(
        maps[0][inside], maps[1][inside], rtol=1e-3, atol=1e-3 * float(maps[0].abs().max())
    )
    assert maps[0].abs().max() > 0


def test_an_untrained_vgg16_is_the_same_each_time_and_leaves_the_random_numbers():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, second = (load_search_backbone("vgg16", weights="random") for _ in range(2))
    torch.testing.assert_close(torch.rand(2), expected)
    torch.testing.assert_close(first.block5_conv3.weight, second.block5_conv3.weight)
    assert first.block5_conv3.weight.std() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)


def test_vgg16_needs_weights_and_has_its_own_taps():
    with pytest.raises(ValueError, match="weights must be given for vgg16"):
        load_search_backbone("vgg16")
    with pytest.raises(ValueError, match="taps must not be given for vgg16"):
        load_search_backbone("vgg16", weights="random", taps=["conv1"])
