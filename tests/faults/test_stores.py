"""Stores of features and large files: other processes, kills, and little memory."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from neuroattn._backbones import extract_layers
from neuroattn.encoding import FeatureStore, extract_features
from neuroattn.encoding import features as module

from .cells import FOLDER, cell
from .outcomes import check_whole
from .processes import MARGIN, make_backbone, make_images

KILLS = (1, 2, 4)  # the description, the first chunk, a later one
TOGETHER = 3
N_MAPS = 4400
BOUNDED = "read in bounded memory"


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Run all that needs processes of its own, and return folder and exit codes by name."""
    folder = tmp_path_factory.mktemp("stores")
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (1500, 256, 256, 3))
    images[::500] = 255
    images.flush()
    maps = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float32, (N_MAPS, 64, 16, 16))
    maps[:] = rng.normal(size=(1, 64, 16, 16)) * rng.normal(size=(N_MAPS, 1, 1, 1))
    maps.flush()
    np.save(folder / "responses.npy", rng.normal(size=(N_MAPS, 3)))
    attrs = {"format": 1, "fingerprint": "", "backbone": {}, "pool": None, "image_digest": ""}
    store = module._create(folder / "large", maps.shape, 16, "float32", attrs)
    for start in range(0, N_MAPS, 200):
        store[start : start + 200] = maps[start : start + 200]
    for path in (folder / "images.npy", folder / "features.npy"):
        assert path.stat().st_size > 1.5 * MARGIN
    groups = {f"killed {at}": [["die", [str(folder / f"killed-{at}"), at]]] for at in KILLS}
    groups["together"] = [["fill", [str(folder), f"ready-{i}", TOGETHER]] for i in range(TOGETHER)]
    groups["images"] = [["extract_large", [str(folder / "images.npy"), str(folder / "from-images")]]]
    groups["store"] = [["fit_large", [str(folder / "large")]]]
    fit = (
        f"fit-encoder --layout arrays --orientation stimulus-unit --features {folder / 'features.npy'} "
        f"--responses {folder / 'responses.npy'} --epochs 1 --split test=200,seed=0 --shuffles 19 --device cpu"
    )
    for model in ("factorized", "ridge"):
        groups[model] = [["run_limited", f"{fit} --model {model} --out {folder / model}".split()]]
    done = subprocess.run(
        [sys.executable, str(FOLDER / "processes.py"), json.dumps(list(groups.values()))],
        cwd=folder,
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},  # what threads reserve for themselves counts as taken
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder, dict(zip(groups, json.loads(done.stdout.splitlines()[-1]), strict=True)), done.stderr


@pytest.fixture
def whole(tmp_path):
    return extract_features(make_images(), make_backbone(), tmp_path / "whole")


@pytest.mark.fault(
    kind="verb",
    part="FeatureStore",
    fault="filled by three processes at once",
    outcome="all finish, one whole store",
)
def test_processes_fill_one_store_at_once(ends, whole):
    folder, codes, said = ends
    assert codes["together"] == [0] * TOGETHER, said
    (path,) = (folder / "cache").iterdir()
    check_whole(folder / "cache")
    assert_array_equal(FeatureStore(path)[:], whole[:])


@pytest.mark.parametrize(
    "at",
    [
        cell("verb", "FeatureStore", f"killed while it writes {what}", "the next call completes it", at)
        for what, at in zip(("its description", "its first chunk", "a later chunk"), KILLS, strict=True)
    ],
)
def test_killed_while_it_writes(ends, whole, at, monkeypatch):
    folder, codes, said = ends
    assert codes[f"killed {at}"] == [-9], said
    monkeypatch.setattr(module, "_CHUNK_BYTES", 4 * 240)
    n = []
    store = extract_features(
        make_images(), make_backbone(), folder / f"killed-{at}" / "cache", progress=n.append
    )
    assert_array_equal(store[:], whole[:])


@pytest.mark.fault(
    kind="verb",
    part="FeatureStore",
    fault="made by another process meanwhile",
    outcome="the other's chunks are used",
)
def test_a_store_made_meanwhile_is_used(tmp_path, whole, monkeypatch):
    """The other process makes the store and fills it between our look for it and our own making."""
    n_images = []

    def extract(backbones, images, **options):
        n_images.append(len(images))
        if len(n_images) == 1:
            extract_features(make_images(), make_backbone(), tmp_path / "cache")
        return extract_layers(backbones, images, **options)

    monkeypatch.setattr(module, "extract_layers", extract)
    store = extract_features(make_images(), make_backbone(), tmp_path / "cache")
    assert_array_equal(store[:], whole[:])
    # Our first image, to know its shape; and what the other has computed.
    assert sum(n_images) == 1 + 1 + len(whole)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [store.path.name]


@pytest.mark.parametrize(
    "name",
    [
        cell("verb", "extract-features", "images larger than memory", BOUNDED, "images"),
        cell(
            "verb", "FeatureStore", "larger than memory", f"encoders trained in batches: {BOUNDED}", "store"
        ),
        cell(
            "verb",
            "fit-encoder",
            "features file larger than memory",
            f"models trained in batches: {BOUNDED}",
            "factorized",
        ),
    ],
)
def test_larger_than_memory(ends, name):
    _, codes, said = ends
    assert codes[name] == [0], said


@pytest.mark.fault(
    kind="verb",
    part="fit-encoder",
    fault="features file larger than memory",
    outcome="models in closed form: one line",
)
def test_memory_is_not_enough(ends):
    folder, codes, said = ends
    assert codes["ridge"] == [2], said
    assert "Error: Unable to allocate" in said
    check_whole(folder / "ridge")
