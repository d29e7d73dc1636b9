"""Feature stores: one pass, resumed after a kill, checked on every read; and the data set over them."""

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_array_equal
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Subset

from neuroattn._backbones import Backbone, Preprocessing, load_backbone
from neuroattn.datasets import ImageFiles, Rows
from neuroattn.encoding import features as module
from neuroattn.encoding.features import (
    ChunkShuffleSampler,
    FeatureDataset,
    FeatureStore,
    collate,
    estimate_cost,
    extract_features,
    token_statistics,
)

CHUNK = 4  # stimuli in a chunk of the stores made here
SCRIPT = """
import os, signal, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import test_features as t
t.module._CHUNK_BYTES = t.CHUNK * t.ROW_BYTES
done = 0
def progress(n):
    global done
    done += n
    if done == 7:  # inside the second chunk
        os.kill(os.getpid(), signal.SIGKILL)
t.extract_features(t.make_images(), t.make_backbone(), sys.argv[2], batch_size=3, progress=progress)
"""


class CountingBackbone(Backbone):
    """Counts the images that went through the network since it was made."""

    def __init__(self, model, preprocessing, **options):
        super().__init__(model, preprocessing, **options)
        self.n_images = 0
        model.register_forward_pre_hook(self._count)

    def _count(self, module, inputs):
        self.n_images += len(inputs[0])


def make_backbone(seed=0, cls=CountingBackbone, gain=1.0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1))
    net[0].weight.data *= gain
    return cls(net, Preprocessing((127.0,) * 3, (128.0,) * 3), layer="0", input_size=(6, 8))


def make_images(n=10, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 6, 8, 3), dtype=np.uint8)


ROW_BYTES = 5 * 3 * 4 * 4


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", CHUNK * ROW_BYTES)


def chunk_file(store, i):
    return store.path / "c" / str(i) / "0/0/0"


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_store_holds_the_features(tmp_path):
    images, backbone = make_images(), make_backbone()
    store = extract_features(images, backbone, tmp_path)
    assert (store.shape, store.dtype, store.chunk) == ((10, 5, 3, 4), np.float32, CHUNK)
    np.testing.assert_allclose(store[:], backbone.extract(images), atol=1e-6)
    assert store.attrs["fingerprint"] == backbone.fingerprint()
    assert store.attrs["backbone"] == backbone.config


@pytest.mark.parametrize("rows", [3, -1, [9, 0, 9], slice(2, 8), [], np.arange(10) % 3 == 0])
def test_store_is_indexed_like_an_array(tmp_path, rows):
    store = extract_features(make_images(), make_backbone(), tmp_path)
    assert_array_equal(store[rows], np.asarray(store)[rows])


@pytest.mark.parametrize(("grid", "pool"), [((14, 14), 7), ((9, 10), 7), ((3, 4), 2), ((3, 4), 1)])
def test_pooling_is_adaptive_average_pooling(tmp_path, grid, pool):
    y, x = (2 * n for n in grid)
    images, backbone = np.random.default_rng(0).integers(0, 256, (3, y, x, 3), np.uint8), make_backbone()
    store = extract_features(images, backbone, tmp_path, pool=pool)
    maps = backbone.extract(images)
    assert maps.shape[2:] == grid
    want = F.adaptive_avg_pool2d(torch.from_numpy(maps), pool).numpy()
    np.testing.assert_allclose(store[:], want, atol=1e-6)
    # The definition, written out for one cell.
    high = -(-grid[0] // pool), -(-grid[1] // pool)
    np.testing.assert_allclose(store[0][:, 0, 0], maps[0, :, : high[0], : high[1]].mean((1, 2)), atol=1e-5)


def test_second_call_does_not_run_the_backbone(tmp_path):
    images = make_images()
    first = extract_features(images, make_backbone(), tmp_path)
    backbone = make_backbone()
    done = []
    again = extract_features(images, backbone, tmp_path, progress=done.append)
    assert backbone.n_images == 0
    assert sum(done) == len(images)
    assert again.path == first.path


def test_progress_counts_every_image_once(tmp_path):
    done = []
    extract_features(make_images(), make_backbone(), tmp_path, batch_size=3, progress=done.append)
    assert done == [3, 1, 3, 1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": make_backbone(seed=1)},
        {"images": make_images(seed=1)},
        {"images": make_images()[::-1]},
        {"dtype": "float16"},
        {"pool": 1},
    ],
    ids=["weights", "pixels", "order", "dtype", "pool"],
)
def test_other_things_get_another_store(tmp_path, change):
    arguments = {"images": make_images(), "backbone": make_backbone()}
    first = extract_features(cache=tmp_path, **arguments)
    second = extract_features(cache=tmp_path, **{**arguments, **change})
    assert second.path != first.path
    assert second.shape != first.shape or not np.array_equal(second[:], first[:])


def test_kill_and_resume_gives_the_same_store(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path / "killed")],
        capture_output=True,
        check=False,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    (folder,) = (tmp_path / "killed").iterdir()
    with pytest.raises(ValueError, match="holds 1 of 3 chunks"):
        FeatureStore(folder)
    backbone = make_backbone()
    resumed = extract_features(make_images(), backbone, tmp_path / "killed", batch_size=3)
    assert backbone.n_images == 6
    whole = extract_features(make_images(), make_backbone(), tmp_path / "whole", batch_size=3)
    assert contents(resumed.path) == contents(whole.path)


def flip(raw):
    return raw[:100] + bytes([raw[100] ^ 1]) + raw[101:]


@pytest.mark.parametrize("i", [0, 1, 2])
@pytest.mark.parametrize(
    "damage", [flip, lambda raw: raw[:50], lambda raw: b""], ids=["flipped byte", "truncated", "empty"]
)
def test_damaged_chunk_is_found_and_rebuilt_alone(tmp_path, damage, i):
    store = extract_features(make_images(), make_backbone(), tmp_path)
    before = contents(store.path)
    file = chunk_file(store, i)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(OSError, match=rf"chunk {i} of .* is damaged .* extract features again"):
        FeatureStore(store.path)[:]
    backbone = make_backbone()
    extract_features(make_images(), backbone, tmp_path)
    assert backbone.n_images == (2 if i == 2 else CHUNK)
    assert contents(store.path) == before


def test_missing_chunk_is_found_and_rebuilt(tmp_path):
    store = extract_features(make_images(), make_backbone(), tmp_path)
    before = contents(store.path)
    chunk_file(store, 1).unlink()
    with pytest.raises(ValueError, match="holds 2 of 3 chunks"):
        FeatureStore(store.path)
    extract_features(make_images(), make_backbone(), tmp_path)
    assert contents(store.path) == before


@pytest.mark.parametrize("description", [b"", b'{"shape": [1', b"{}"])
def test_store_with_a_damaged_description_is_rebuilt(tmp_path, description):
    store = extract_features(make_images(), make_backbone(), tmp_path)
    before = contents(store.path)
    (store.path / "zarr.json").write_bytes(description)
    with pytest.raises(FileNotFoundError, match="holds no feature store"):
        FeatureStore(store.path)
    extract_features(make_images(), make_backbone(), tmp_path)
    assert contents(store.path) == before


def test_store_of_another_backbone_is_not_used(tmp_path):
    images = make_images()
    store = extract_features(images, make_backbone(), tmp_path)
    foreign = extract_features(images, make_backbone(seed=1), tmp_path)
    want = store[:]
    shutil.rmtree(store.path)
    foreign.path.rename(store.path)
    assert_array_equal(extract_features(images, make_backbone(), tmp_path)[:], want)


def test_moved_weights_keep_their_store(tmp_path):
    images, first, second = make_images(), make_backbone(), make_backbone()
    first.weights, second.weights = "here/net.pth", "there/net.pth"
    store = extract_features(images, first, tmp_path)
    assert extract_features(images, second, tmp_path).path == store.path
    assert second.n_images == 0
    assert FeatureStore(store.path).attrs["backbone"]["weights"] == "here/net.pth"


def test_two_processes_fill_one_store(tmp_path):
    """The second begins while the first is inside a chunk, and finishes first."""
    images, inner = make_images(), []

    def progress(n):
        if not inner:
            inner.append(extract_features(images, make_backbone(), tmp_path, batch_size=3))

    outer = extract_features(images, make_backbone(), tmp_path, batch_size=3, progress=progress)
    whole = extract_features(images, make_backbone(), tmp_path / "whole", batch_size=3)
    assert inner[0].path == outer.path
    assert contents(outer.path) == contents(whole.path)


def test_folder_that_cannot_be_made_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    with pytest.raises(OSError, match=r"features cannot be written to .*file.*: File exists"):
        extract_features(make_images(), make_backbone(), file)


def test_unreadable_store_is_not_deleted(tmp_path, monkeypatch):
    store = extract_features(make_images(), make_backbone(), tmp_path)
    before = contents(store.path)

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(module.zarr, "open_array", refuse)
        with pytest.raises(PermissionError):
            extract_features(make_images(), make_backbone(), tmp_path)
    assert contents(store.path) == before


def test_full_disk_is_named_and_resumed(tmp_path, monkeypatch):
    def full(path, value, exclusive=False):
        if "c" in path.parts[-5:] and path.parts[-4] == "1":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return put(path, value, exclusive)

    put = sys.modules["zarr.storage._local"]._put
    with monkeypatch.context() as patch:
        patch.setattr("zarr.storage._local._put", full)
        with pytest.raises(OSError, match=r"features cannot be written to .*: No space left on device"):
            extract_features(make_images(), make_backbone(), tmp_path)
    backbone = make_backbone()
    extract_features(make_images(), backbone, tmp_path)
    assert backbone.n_images == 6


def test_overflow_of_half_precision_is_an_error(tmp_path):
    backbone = make_backbone(gain=1e6)
    with pytest.raises(ValueError, match=r"features of images 0\.\.0 are not finite in float16"):
        extract_features(make_images(), backbone, tmp_path, dtype="float16")


def test_image_files_are_identified_by_their_bytes(tmp_path):
    images = make_images(3)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    files = ImageFiles([tmp_path / f"{i}.png" for i in range(3)])
    shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path, ".")
    zipped = ImageFiles([f"{i}.png" for i in range(3)], tmp_path / "all.zip")
    store = extract_features(files, make_backbone(), tmp_path / "cache")
    assert_array_equal(store[:], make_backbone().extract(images))
    backbone = make_backbone()
    assert extract_features(zipped, backbone, tmp_path / "cache").path == store.path
    assert backbone.n_images == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "dtype must be one of 'float32', 'float16', got 'int8'"),
        ({"pool": 0}, "pool must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"images": np.zeros((0, 6, 8, 3), np.uint8)}, "images must hold at least one image"),
        ({"images": np.zeros((2, 3, 6, 8), np.uint8)}, r"images must have shape \(stimulus, y, x, 3\)"),
    ],
)
def test_bad_input_is_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        extract_features(
            **{"images": make_images(), "backbone": make_backbone(), "cache": tmp_path, **arguments}
        )
    assert not list(tmp_path.iterdir())


def test_store_reads_each_chunk_once(tmp_path, monkeypatch):
    extract_features(make_images(), make_backbone(), tmp_path)
    store = FeatureStore(next(tmp_path.iterdir()))
    reads = []
    read = module._read_block
    monkeypatch.setattr(module, "_read_block", lambda array, i: reads.append(i) or read(array, i))
    _ = store[[9, 0, 8, 1, 5]]
    assert sorted(reads) == [0, 1, 2]
    _ = store[:]
    assert len(reads) == 3


def test_store_keeps_few_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CACHED_CHUNKS", 2)
    store = extract_features(make_images(), make_backbone(), tmp_path)
    _ = store[:]
    assert list(store._decoded) == [1, 2]


def test_store_survives_pickle(tmp_path):
    store = extract_features(make_images(), make_backbone(), tmp_path)
    _ = store[:]
    copy = pickle.loads(pickle.dumps(store))
    assert not copy._decoded
    assert_array_equal(copy[:], store[:])


def test_store_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no feature store; make one with extract_features"):
        FeatureStore(tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_cost_is_that_of_the_store(tmp_path):
    backbone = make_backbone()
    cost = estimate_cost(backbone, 10, pool=2, dtype="float16")
    store = extract_features(make_images(), backbone, tmp_path, pool=2, dtype="float16")
    assert cost["shape"] == store.shape
    assert cost["bytes"] == store[:].nbytes
    assert cost["seconds"] > 0
    assert estimate_cost(backbone, 10, image_size=(12, 8))["shape"] == (10, 5, 6, 4)


def make_layers(seed=0):
    """One network read at two layers whose rows differ in size."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Conv2d(5, 2, 1))
    first = CountingBackbone(net, Preprocessing((127.0,) * 3, (128.0,) * 3), layer="0", input_size=(6, 8))
    backbones = {"early": first, "late": first.at("1")}
    first.n_images = 0  # hashing is free, tracing was not
    return backbones


def test_layers_are_stored_in_one_pass(tmp_path):
    images, backbones = make_images(), make_layers()
    done = []
    stores = extract_features(images, backbones, tmp_path, batch_size=3, progress=done.append)
    assert list(stores) == ["early", "late"]
    assert backbones["early"].n_images == 1 + len(images)  # one image gives the shapes
    assert done == [3, 1, 3, 1, 2]
    for name, backbone in backbones.items():
        np.testing.assert_allclose(stores[name][:], backbone.extract(images), atol=1e-6)
        assert stores[name].attrs["backbone"] == backbone.config


def test_store_of_a_layer_is_the_same_alone_and_with_others(tmp_path):
    images = make_images()
    together = extract_features(images, make_layers(), tmp_path)
    backbones = make_layers()
    assert extract_features(images, backbones["late"], tmp_path).path == together["late"].path
    assert backbones["early"].n_images == 0


def test_only_missing_layers_and_chunks_are_computed(tmp_path):
    images = make_images()
    backbones = make_layers()
    alone = extract_features(images, backbones["late"], tmp_path)
    assert alone.chunk == 10  # its rows are small, so its chunks have other edges
    forward = make_layers()
    stores = extract_features(images, forward, tmp_path)
    assert forward["early"].n_images == 1 + 10
    chunk_file(stores["early"], 1).unlink()
    again = make_layers()
    before = contents(tmp_path)
    extract_features(images, again, tmp_path)
    assert again["early"].n_images == CHUNK
    chunk_file_2d = stores["late"].path / "c/0/0/0/0"
    chunk_file_2d.unlink()
    extract_features(images, make_layers(), tmp_path)
    assert len(contents(tmp_path)) == len(before) + 1
    for name, backbone in make_layers().items():
        np.testing.assert_allclose(FeatureStore(stores[name].path)[:], backbone.extract(images), atol=1e-6)


def test_layers_must_share_a_network(tmp_path):
    with pytest.raises(ValueError, match="backbones must share one network"):
        extract_features(make_images(), {"a": make_backbone(), "b": make_backbone(1)}, tmp_path)
    with pytest.raises(ValueError, match="backbone must name at least one layer"):
        extract_features(make_images(), {}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_class_token_is_stored_without_a_map(tmp_path):
    images = make_images()
    backbone = load_backbone("test_vit", layer="block0", facet="cls", weights="random")
    store = extract_features(images, backbone, tmp_path, dtype="float16")
    assert store.shape == (10, 64)
    np.testing.assert_allclose(store[:], backbone.extract(images), rtol=2e-3, atol=2e-3)
    assert extract_features(images, backbone, tmp_path, dtype="float16").path == store.path
    with pytest.raises(ValueError, match="pool must be None for features without spatial tokens, got 2"):
        extract_features(images, backbone, tmp_path, pool=2)


def test_interruption_costs_few_images(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_IMAGES", 3)
    assert extract_features(make_images(), make_backbone(), tmp_path).chunk == 3


def test_cost_of_layers_is_that_of_one_pass(tmp_path):
    backbones = make_layers()
    cost = estimate_cost(backbones, 10)
    stores = extract_features(make_images(), backbones, tmp_path)
    assert cost["shape"] == {name: store.shape for name, store in stores.items()}
    assert cost["bytes"] == sum(store[:].nbytes for store in stores.values())
    first = (
        2 * (3 * 3 * 3) * 5 * (3 * 4) * 10
    )  # a product and a sum for each weight, channel, place and image
    assert cost["flops"] == first + 2 * 5 * 2 * (3 * 4) * 10
    assert estimate_cost(backbones["early"], 10)["flops"] == first


def test_cost_counts_attention():
    backbone = load_backbone("test_vit", layer="block0", weights="random", image_size=32)
    n, d = 2 * 2 + 1, 64
    block = 2 * n * d * (3 * d + d + 2 * 3 * d) + 2 * 2 * n * n * d  # projections, MLP, scores and reading
    patches = 2 * (n - 1) * (3 * 16 * 16) * d
    assert estimate_cost(backbone, 1)["flops"] == block + patches


def make_dataset(**options):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 5, 2, 3)).astype(np.float16)
    return FeatureDataset(x, rng.permutation(20)[:13], rng.standard_normal((20, 4)), **options)


def test_batches_equal_direct_indexing():
    data = make_dataset()
    loader = DataLoader(data, batch_size=4, sampler=ChunkShuffleSampler(data, seed=3), collate_fn=collate)
    order = np.array(list(ChunkShuffleSampler(data, seed=3)))
    batches = list(loader)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert x.dtype == y.dtype == torch.float32
    assert_array_equal(x.numpy(), data.features[data.rows[order]].astype(np.float32))
    assert_array_equal(y.numpy(), data.responses[data.rows[order]].astype(np.float32))
    one_x, one_y = data[int(order[0])]
    assert_array_equal(one_x, x[0])
    assert_array_equal(one_y, y[0])


def test_store_in_worker_processes_equals_memory(tmp_path):
    store = extract_features(make_images(), make_backbone(), tmp_path)
    data = FeatureDataset(store, np.arange(10)[::-1])
    loader = DataLoader(data, batch_size=4, collate_fn=collate, num_workers=1)
    assert_array_equal(torch.cat([x for x, _ in loader]).numpy(), store[:][::-1])


def test_view_of_a_store_is_read_from_the_store(tmp_path):
    store = extract_features(make_images(), make_backbone(), tmp_path)
    view = Rows(store, np.array([9, 2, 0, 7, 5]))
    responses = np.arange(5.0)[:, None]
    data = FeatureDataset(view, [4, 0, 1], responses)
    assert data.chunk == CHUNK
    x, y = data.__getitems__([0, 2])
    assert_array_equal(x.numpy(), store[[5, 2]])
    assert_array_equal(y.numpy(), [[4], [1]])
    for got, want in zip(token_statistics(view, [4, 0]), token_statistics(store, [5, 9]), strict=True):
        assert_array_equal(got, want)


def test_subset_is_read_in_batches():
    data = make_dataset()
    x, y = next(iter(DataLoader(Subset(data, [2, 5]), batch_size=2, collate_fn=collate)))
    assert_array_equal(x, data.__getitems__([2, 5])[0])
    assert y.shape == (2, 4)


def test_skorch_trains_on_it():
    from skorch import NeuralNetRegressor

    data = make_dataset()
    net = NeuralNetRegressor(
        nn.Sequential(nn.Flatten(), nn.Linear(30, 4)),
        train_split=None,
        max_epochs=30,
        lr=0.05,
        verbose=0,
        iterator_train__collate_fn=collate,
        iterator_valid__collate_fn=collate,
        iterator_train__sampler=ChunkShuffleSampler(data, seed=0),
    ).fit(data, None)
    assert net.history[-1, "train_loss"] < 0.7 * net.history[0, "train_loss"]
    assert net.predict(FeatureDataset(data.features, [1, 2])).shape == (2, 4)


def test_targets_are_standardised():
    mean, scale = np.arange(4.0), np.arange(1.0, 5.0)
    plain, scaled = make_dataset(), make_dataset(target_mean=mean, target_scale=scale)
    _, y = plain.__getitems__([0, 7])
    _, z = scaled.__getitems__([0, 7])
    np.testing.assert_allclose(z.numpy(), (y.numpy() - mean) / scale, rtol=1e-5)


def test_without_responses_there_are_no_columns():
    data = FeatureDataset(np.ones((4, 2)), [3, 1])
    x, y = data.__getitems__([0, 1])
    assert (tuple(x.shape), tuple(y.shape)) == ((2, 2), (2, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": [0, 4]}, r"rows must lie in 0..3, got 0..4"),
        ({"rows": [-1]}, r"rows must lie in 0..3, got -1..-1"),
        ({"rows": [True, False]}, "rows must be one axis of whole numbers, got bool"),
        ({"responses": np.zeros((3, 2))}, r"responses must have shape \(4, unit\)"),
        ({"target_mean": np.zeros(3)}, r"target_mean must have shape \(2,\)"),
        ({"target_scale": np.zeros(2)}, r"target_scale must be positive, got 0"),
    ],
)
def test_dataset_names_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeatureDataset(np.zeros((4, 3)), **{"rows": [0, 1], "responses": np.zeros((4, 2)), **arguments})


@pytest.mark.parametrize("kind", ["store", "array", "vector"])
def test_token_statistics(tmp_path, kind):
    store = extract_features(make_images(), make_backbone(), tmp_path)
    table = {"store": store, "array": store[:] + 1e4, "vector": store[:].mean((2, 3))}[kind]
    rows = [8, 0, 3, 3, 9, 5]
    mean, std = token_statistics(table, rows)
    block = np.asarray(table, np.float64)[rows]
    axes = tuple(i for i in range(block.ndim) if i != 1)
    np.testing.assert_allclose(mean, block.mean(axes), rtol=1e-12)
    np.testing.assert_allclose(std, block.std(axes), rtol=1e-9)


def test_token_statistics_need_a_row():
    with pytest.raises(ValueError, match="rows must name at least one stimulus"):
        token_statistics(np.zeros((3, 2)), [])
