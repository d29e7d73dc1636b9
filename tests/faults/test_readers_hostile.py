"""Input made to harm: nothing is run, nothing outside its folder is touched, and memory stays bounded."""

import itertools
import json
import os
import pickle
import re
import resource
import struct
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch

from neuroattn._backbones import load_backbone
from neuroattn.datasets import load_arrays

from .cells import cell
from .readers import N_STIMULI, READERS, REFUSED, damaging, on, outcome, same, whole_of

ENOUGH = 256 * 2**20  # bytes beyond what the process has, for inputs that claim very much more


@contextmanager
def bounded(n_bytes=ENOUGH):
    """Let the process allocate only so much more memory."""
    if sys.platform != "linux":
        yield
        return
    used = int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


class Planted:
    """Makes a folder when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


# Code in files


def object_npy(path, planted):
    np.save(path, np.array([planted] * 4, dtype=object), allow_pickle=True)


def scalar_npy(path, planted):
    np.save(path, np.array({"betasmd": planted}, dtype=object), allow_pickle=True)


def names_npy(path, planted):
    np.save(path, np.array({1: planted}, dtype=object), allow_pickle=True)


def object_npz(path, planted):
    np.savez(path, x=np.array([planted], dtype=object), scanpath=np.array([planted], dtype=object))


def bare_pickle(path, planted):
    path.write_bytes(pickle.dumps(planted))


def torch_pickle(path, planted):
    torch.save({"features.0.weight": planted}, path)


CODE = [
    ("load_arrays: npy", object_npy),
    ("load_arrays: GLMsingle", scalar_npy),
    ("load_arrays: npz", object_npz),
    ("load_arrays: npy", bare_pickle),
    ("load_algonauts: responses", object_npy),
    ("load_algonauts: names", names_npy),
    ("load_algonauts: labels", object_npy),
    ("load_scanpaths: objarr", object_npz),
    ("load_encoder: attention, model.safetensors", torch_pickle),
    ("Decoder.load: model.safetensors", bare_pickle),
    ("Decoder.load: network/model.safetensors", torch_pickle),
    ("ObjectAttentionTransformer.load: model.safetensors", torch_pickle),
    ("read_vgg16_weights: pth", torch_pickle),
    ("read_vgg16_weights: pth", bare_pickle),
    ("read_vgg16_weights: safetensors", torch_pickle),
]


def code(part, write):
    fault = "code in a bare pickle" if write is bare_pickle else "code in a pickle"
    return cell("reader", part, fault, "refused, nothing run", part, write)


@pytest.mark.parametrize(("part", "write"), [code(*one) for one in CODE])
def test_code_is_not_run(part, write, tmp_path, tmp_path_factory):
    canary = tmp_path / "canary"
    with damaging(READERS[part], tmp_path_factory) as (folder, file, _):
        write(file, Planted(canary))
        message = outcome(READERS[part], folder)
    assert isinstance(message, str)
    assert not canary.exists()


@pytest.mark.parametrize("part", on("code in a pickle", "refused, nothing run", "load_backbone"))
def test_weights_of_networks_are_not_run(part, tmp_path):
    canary = tmp_path / "canary"
    torch_pickle(tmp_path / "weights.pth", Planted(canary))
    with pytest.raises(ValueError, match="weights"):
        load_backbone("test_vit", weights=tmp_path / "weights.pth")
    assert not canary.exists()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(
    "part",
    on(
        "PostScript under its name",
        "refused, not run",
        "load_arrays: images in a folder",
        "load_algonauts: images",
    ),
)
def test_postscript_is_not_run(part, tmp_path_factory, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: pytest.fail("a program was started"))
    with damaging(READERS[part], tmp_path_factory) as (folder, file, _):
        file.write_bytes(POSTSCRIPT)
        assert "cannot identify" in outcome(READERS[part], folder)


def laughs(value):
    """Return lists in lists: small as a pickle, without end as text."""
    for _ in range(30):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    "part", on("lists in lists without end", REFUSED, "load_algonauts: names", "load_arrays: GLMsingle")
)
def test_lists_in_lists(part, tmp_path_factory):
    with damaging(READERS[part], tmp_path_factory) as (folder, file, _):
        names_npy(file, laughs("x"))
        with bounded():
            assert isinstance(outcome(READERS[part], folder), str)


# Claims of more than there is, and archives that expand


def header_npy(shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


def huge_npy(file, content):
    file.write_bytes(header_npy("(1000000, 1000000)") + bytes(64))


def overflowing_npy(file, content):
    file.write_bytes(header_npy("(4611686018427387904, 16)") + bytes(64))


def huge_npz(file, content):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x", "scanpath"):
            archive.writestr(f"{name}.npy", header_npy("(1000000, 1000000)") + bytes(64))


def bomb_npz(file, content):
    """Write 512 MB of zeros in half of one."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("x", "scanpath"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(header_npy("(8192, 16384)"))
                for _ in range(512):
                    member.write(bytes(2**20))


def huge_hdf5(file, content):
    with h5py.File(file, "r+") as target:
        names = []
        target.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        for name in names:
            dtype, ndim = target[name].dtype, max(target[name].ndim, 1)
            if dtype.kind in "fiu":
                del target[name]
                shape = (2**36,) + (64,) * (ndim - 1)
                target.create_dataset(name, shape, dtype, chunks=(64,) * ndim, compression="gzip")


def huge_nifti(file, content):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((30000, 30000, 30, 30))
    raw = bytearray(header.binaryblock)
    raw[344:348], raw[108:112] = b"n+1\x00", struct.pack("<f", 352)
    opened = nibabel.openers.Opener(str(file), "wb")
    with opened:
        opened.write(bytes(raw) + bytes(64))


def huge_mgh(file, content):
    raw = struct.pack(">iiiiiii", 1, 30000, 30000, 30, 30, 3, 0) + bytes(256)
    opened = nibabel.openers.Opener(str(file), "wb")
    with opened:
        opened.write(raw)


def huge_mat(file, content):
    """Write a variable of version 4 that claims 4 TB."""
    file.write_bytes(struct.pack("<iiiii", 0, 2**20, 2**20, 0, 2) + b"x\x00" + bytes(64))


def huge_png(file, content):
    head = b"IHDR" + struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zipfile.crc32(head))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + crc + bytes(64))


def huge_member(file, content):
    inner = file.with_name("inner.png")
    huge_png(inner, b"")
    with zipfile.ZipFile(file, "w") as archive:
        for i in range(N_STIMULI):
            archive.write(inner, f"{i}.png")
    inner.unlink()


def huge_edf(file, content):
    changed = bytearray(content)
    changed[236:244] = b"99999999"  # records
    file.write_bytes(changed)


def huge_safetensors(file, content):
    file.write_bytes(struct.pack("<Q", 2**60) + content[8:])


def huge_claim_safetensors(file, content):
    text = json.dumps({"x": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)


def huge_pth(file, content):
    """Write weights of 4 TB that are one number, repeated by a stride of nothing."""
    state = torch.load(file.with_name("whole.pth"), weights_only=True)
    state["features.0.weight"] = torch.zeros(1).expand(2**20, 2**20)
    torch.save(state, file)


def many_chunks(file, content):
    about = json.loads(content)
    about["shape"][0] = 10**13
    about["chunk_grid"]["configuration"]["chunk_shape"][0] = 1
    file.write_text(json.dumps(about))


def huge_chunk(file, content):
    about = json.loads(content)
    about["shape"][0] = about["chunk_grid"]["configuration"]["chunk_shape"][0] = 10**10
    file.write_text(json.dumps(about))


def wide_model(file, content):
    about = json.loads(content)
    about["params"]["width" if "width" in about["params"] else "dim"] = 2**20
    file.write_text(json.dumps(about))


def many_scanpaths(file, content):
    file.write_bytes(content)
    with h5py.File(file, "r+") as target:
        target["train_ns"][...] = 10**12


def many_trials(file, content):
    file.write_bytes(content.replace(b"\n2,1", b"\n999999999,1"))


CLAIMS = [
    ("load_arrays: npy", huge_npy),
    ("load_arrays: npy", overflowing_npy),
    ("load_arrays: npz", huge_npz),
    ("load_arrays: npz", bomb_npz),
    ("load_arrays: mat", huge_mat),
    ("load_arrays: 7.3.mat", huge_hdf5),
    ("load_arrays: h5", huge_hdf5),
    ("load_arrays: nii", huge_nifti),
    ("load_arrays: nii.gz", huge_nifti),
    ("load_arrays: images in a folder", huge_png),
    ("load_arrays: images.zip", huge_member),
    ("load_arrays: trials", many_trials),
    ("load_algonauts: responses", huge_npy),
    ("load_algonauts: images", huge_png),
    ("load_nsd: design", huge_mat),
    ("load_nsd: betas .mgh", huge_mgh),
    ("load_nsd: labels .mgz", huge_mgh),
    ("load_nsd: betas .hdf5", huge_hdf5),
    ("load_nsd: betas .nii.gz", huge_nifti),
    ("load_nsd: labels .nii.gz", huge_nifti),
    ("add_regions: mgz", huge_mgh),
    ("load_scanpaths: neuroattn, fixations.nc", huge_hdf5),
    ("load_scanpaths: osie, fixations.mat", huge_mat),
    ("load_scanpaths: pysaliency, scanpaths.hdf5", huge_hdf5),
    ("load_scanpaths: pysaliency, scanpaths.hdf5", many_scanpaths),
    ("load_scanpaths: objarr", huge_npz),
    ("load_scanpaths: objarr", bomb_npz),
    ("load_encoder: ridge, model.safetensors", huge_safetensors),
    ("load_encoder: ridge, model.safetensors", huge_claim_safetensors),
    ("load_encoder: attention, config.json", wide_model),
    ("ObjectAttentionTransformer.load: config.json", wide_model),
    ("FeatureStore: zarr.json", many_chunks),
    ("FeatureStore: zarr.json", huge_chunk),
    ("read_vgg16_weights: h5", huge_hdf5),
    ("read_vgg16_weights: safetensors", huge_claim_safetensors),
]
KINDS = {
    bomb_npz: "an archive that expands a thousandfold",
    overflowing_npy: "sizes whose product overflows",
    many_scanpaths: "a number of images without end",
    many_trials: "a number of stimuli without end",
    many_chunks: "chunks without end",
    huge_chunk: "a chunk that claims 10 TB",
    huge_claim_safetensors: "an array that claims 4 TB",
    wide_model: "a network that claims 4 TB",
}
IN_MEMORY = f"{REFUSED}, in bounded memory"


def claim(part, write):
    return cell("reader", part, KINDS.get(write, "claims far more than it holds"), IN_MEMORY, part, write)


@pytest.mark.parametrize(("part", "write"), [claim(*one) for one in CLAIMS])
def test_claims(part, write, tmp_path_factory):
    with damaging(READERS[part], tmp_path_factory) as (folder, file, content):
        if write is huge_hdf5:
            file.write_bytes(content)
        write(file, content)
        with bounded():
            message = outcome(READERS[part], folder)
    assert isinstance(message, str), message


@pytest.mark.parametrize("part", on("an array that claims 4 TB", IN_MEMORY, "read_vgg16_weights: pth"))
def test_numbers_that_are_not_in_the_file(part, tmp_path_factory):
    with damaging(READERS[part], tmp_path_factory) as (folder, file, content):
        file.with_name("whole.pth").write_bytes(content)
        huge_pth(file, content)
        with bounded():
            assert isinstance(outcome(READERS[part], folder), str)


@pytest.mark.parametrize(
    "part", on("claims far more than it holds", "what is there is read, said so", "load_eeg: edf")
)
def test_records_that_are_not_there(part, tmp_path_factory):
    with damaging(READERS[part], tmp_path_factory) as (folder, file, content):
        whole = whole_of(READERS[part], folder, file, content)
        huge_edf(file, content)
        with bounded():
            parts, n_warnings = outcome(READERS[part], folder)
    assert n_warnings == 1
    assert same(parts, whole)


@pytest.mark.parametrize("part", on("larger than memory", "read in bounded memory", "load_arrays: npy"))
def test_larger_than_memory(part, tmp_path):
    """Responses and features of 256 MB each, most of it holes in the files."""
    for name, width in (("r", 1024), ("x", 1024)):
        with (tmp_path / f"{name}.npy").open("wb") as file:
            file.write(header_npy(f"(65536, {width})"))
            file.truncate(file.tell() + 4 * 65536 * width)
    with bounded(64 * 2**20):
        recording = load_arrays(
            responses=tmp_path / "r.npy", orientation="stimulus-unit", features=tmp_path / "x.npy"
        )
        assert recording.responses[[0, 65535]].sum() == 0
    assert recording.n_stimuli == 65536


TABLES = [
    "load_arrays: csv",
    "load_arrays: trials",
    "load_scanpaths: events, sub-2_events.tsv",
    "load_scanpaths: multimatch, array0001.png_sub-2.tsv",
    "predict-scanpath --boxes",
]


@pytest.mark.parametrize("part", on("a first row of 2 million columns", IN_MEMORY, *TABLES))
def test_wide_tables(part, tmp_path_factory):
    with damaging(READERS[part], tmp_path_factory) as (folder, file, content):
        separator = b"\t" if file.suffix == ".tsv" else b","
        file.write_bytes(b"1" + 2_000_000 * (separator + b"1") + b"\n" + content)
        with bounded(96 * 2**20):
            assert isinstance(outcome(READERS[part], folder), str)


JSON = [part for part, reader in READERS.items() if reader.file.endswith(".json")]


@pytest.mark.parametrize("part", on("lists nested 100,000 deep", REFUSED, *JSON, "--config options.toml"))
def test_nested(part, tmp_path_factory):
    with damaging(READERS[part], tmp_path_factory) as (folder, file, _):
        before = "a = " if file.suffix == ".toml" else ""
        file.write_text(before + "[" * 100_000 + "]" * 100_000)
        assert isinstance(outcome(READERS[part], folder), str)


@pytest.mark.parametrize("part", on("entities that expand without end", IN_MEMORY, "load_arrays: gii"))
def test_entities(part, tmp_path_factory):
    with damaging(READERS[part], tmp_path_factory) as (folder, file, content):
        names = "abcdefghij"
        entities = '<!ENTITY a "lol">' + "".join(
            f'<!ENTITY {b} "{f"&{a};" * 20}">' for a, b in itertools.pairwise(names)
        )
        text = content.decode()
        start = text.index("<GIFTI")
        text = f"{text[: text.index('?>') + 2]}<!DOCTYPE GIFTI [{entities}]>{text[start:]}"
        file.write_text(text.replace("CortexLeft", "&j;", 1))
        with bounded():
            assert isinstance(outcome(READERS[part], folder), str)
