"""Backbones of a search: VGG16 weights of a user, and networks read through layer taps."""

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from neuroattn.search.weights import VGG16Weights, read_vgg16_weights

LAYERS = [f"block{i}_conv{j}" for i, n in enumerate((2, 2, 3, 3, 3), 1) for j in range(1, n + 1)]
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
            if form == "2016":
                names = f"{layer}_W_1:0", f"{layer}_b_1:0"
            else:
                names = f"{layer}/kernel:0", f"{layer}/bias:0"
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
    with pytest.raises(ValueError, match=r"must be 'torchvision' for vgg16.pth, got 'caffe'.*58 times too large"):
        read_vgg16_weights(tmp_path / "vgg16.pth", preprocessing="caffe")
    path = write_keras(tmp_path / "vgg16.h5", arrays, "2016")
    with pytest.raises(ValueError, match=r"must be 'caffe' for vgg16.h5, got 'torchvision'.*58 times too small"):
        read_vgg16_weights(path, preprocessing="torchvision")


def test_broken_files_are_named(tmp_path, arrays):
    for suffix in (".h5", ".pth", ".safetensors"):
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(b"not weights")
        with pytest.raises(ValueError, match=f"broken{suffix}"):
            read_vgg16_weights(path)
    with pytest.raises(ValueError, match=r"must be a \.h5, \.pth, \.pt or \.safetensors file, got 'vgg16.npz'"):
        read_vgg16_weights(tmp_path / "vgg16.npz")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"must hold features\.0\.weight.*got conv1\.weight"):
        read_vgg16_weights(tmp_path / "resnet.pth")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["dense/kernel:0"] = np.zeros((2, 2))
    with pytest.raises(ValueError, match="must hold w_block1_conv1 of VGG16, got nothing"):
        read_vgg16_weights(tmp_path / "other.h5")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("w_block2_conv1", np.zeros((3, 3, 5, 8), "float32"), r"block2_conv1 must have shapes \(3, 3, 4, out\)"),
        ("b_block1_conv1", np.full(4, np.nan, "float32"), "block1_conv1 must be finite"),
    ],
)
def test_arrays_must_be_a_vgg16(arrays, name, value, message):
    with pytest.raises(ValueError, match=message):
        VGG16Weights({**arrays, name: value}, "caffe")
