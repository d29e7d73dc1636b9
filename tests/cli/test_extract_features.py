"""The verb extract-features: one store a layer, its cost beforehand, nothing on bad input."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from neuroattn.cli import main
from neuroattn.datasets import make_nsd_like, write_algonauts
from neuroattn.encoding import FeatureStore, load_backbone
from neuroattn.encoding import features as module

BASE = "extract-features --backbone test_vit --device cpu --cache stores"


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Five images as a folder and as an array, in a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), np.uint8)
    Path("photos").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(f"photos/{i}.png")
    np.save("images.npy", images)
    np.save("floats.npy", images / 255)
    save_file(timm.create_model("test_vit").state_dict(), "vit.safetensors")
    return images


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process and return exit code, standard output and standard error."""

    def run(command):
        monkeypatch.setattr(sys, "argv", ["neuroattn", *shlex.split(command)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return (stopped.value.code or 0, *capsys.readouterr())

    return run


@pytest.mark.parametrize("source", ["photos", "images.npy"])
def test_layers_are_stored_and_named(images, run, source):
    command = f"{BASE} --images {source} --weights vit.safetensors --layers block1,block3:cls --dtype float16"
    code, out, _ = run(command)
    assert code == 0
    assert "block1 of timm:test_vit: float16 (5, 64, 2, 3)\n" in out
    assert "block3:cls of timm:test_vit: float16 (5, 64)\n" in out
    assert re.search(r"5 images: 4.5 kB in stores, about \d+ s, [\d.e-]+ TFLOP\n", out)
    stores = dict(line.split(": ", 1) for line in out.splitlines()[-2:])
    backbones = load_backbone("test_vit", layers=list(stores), weights="vit.safetensors")
    for name, path in stores.items():
        store = FeatureStore(path)
        assert store.dtype == np.float16
        np.testing.assert_allclose(store[:], backbones[name].extract(images), rtol=2e-3, atol=2e-3)


def test_second_call_computes_nothing(images, run, monkeypatch):
    command = f"{BASE} --images images.npy --weights random --facet k --pool 1"
    _, first, _ = run(command)
    assert f"blocks.5 of timm:test_vit: float32 {(5, 64, 1, 1)}" in first
    monkeypatch.setattr(
        module, "estimate_cost", lambda *a, **k: {"shape": {}, "bytes": 0, "seconds": 0, "flops": 0}
    )
    monkeypatch.setattr(module, "extract_layers", None)
    code, second, _ = run(command)
    assert code == 0
    assert second.splitlines()[-1] == first.splitlines()[-1]


def test_dry_run_writes_nothing(images, run):
    code, out, _ = run(f"{BASE} --images images.npy --weights random --image-size 64 --dry-run")
    assert code == 0
    assert "float32 (5, 64, 4, 4)" in out
    assert out.endswith("nothing was written\n")
    assert not Path("stores").exists()


def test_images_of_a_data_set(images, run, tmp_path):
    rng = np.random.default_rng(0)
    recording = make_nsd_like(
        24,
        6,
        seed=0,
        features=lambda images: rng.standard_normal((len(images), 8, 14, 14), np.float32),
        rois=["V1v", "FFA-1"],
        vertices_per_roi=5,
    )
    write_algonauts(recording, tmp_path / "data", 1)
    code, out, err = run(
        f"{BASE} --data data --subject 1 --weights random --layers block0:q_cls --image-size 32"
    )
    assert code == 0, err
    path = out.splitlines()[-1].split(": ")[1]
    assert FeatureStore(path).shape == (30, 64)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "either --images or --data must be given, got neither"),
        ("--images images.npy --data data", "either --images or --data must be given, got both"),
        ("--images nowhere", "images nowhere does not exist"),
        (
            "--images floats.npy",
            r"images floats.npy must be uint8 of shape \(stimulus, y, x, 3\), got float64",
        ),
        ("--data nowhere --layout bids", "layout must be one of 'algonauts', 'nsd', got 'bids'"),
        ("--data nowhere", "nowhere"),
        ("--images images.npy --layers block99", "layer 'block99' is unknown; nearest are"),
        ("--images images.npy --layers block1,block1", "layers must be a list of different layers"),
        ("--images images.npy --facet mood", "facet 'mood' is unknown"),
        ("--images images.npy --facet cls --pool 2", "pool must be None for features without spatial tokens"),
        ("--images images.npy --dtype int8", "dtype must be one of 'float32', 'float16', got 'int8'"),
        ("--images images.npy --batch-size 0", "batch_size must be at least 1, got 0"),
        ("--images images.npy --device abacus", "device 'abacus' cannot be used"),
        ("--images images.npy --backbone vit_81", "backbone 'vit_81' is unknown"),
        ("--images images.npy --weights none.pth", "weights none.pth do not exist"),
        ("--images images.npy --cache images.npy/x", "features cannot be written to images.npy/x"),
    ],
)
def test_bad_input_is_one_line(images, run, options, said):
    before = sorted(Path().rglob("*"))
    code, _, err = run(f"{BASE} --weights random {options}")
    assert code == 2
    assert re.fullmatch(rf"Error: .*{said}.*\n", err), err
    assert sorted(Path().rglob("*")) == before
