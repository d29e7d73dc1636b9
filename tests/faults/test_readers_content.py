"""Whole files with content that is odd or made to mislead: read alike where it is harmless, refused where it is not."""

import dataclasses
import io
import json
import zipfile

import h5py
import mne
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from neuroattn.datasets import SCANPATH_LAYOUTS, ScanpathDataset, write_scanpaths

from .cells import cell
from .readers import READERS, REFUSED, damaging, on, outcome, same, search_arrays, whole_of

TEXTS = [part for part, r in READERS.items() if r.file.endswith((".csv", ".tsv", ".ctab", ".toml", ".json"))]
TEXTS.remove("FeatureStore: zarr.json")  # which zarr reads
LINES = [part for part in TEXTS if not READERS[part].file.endswith(".json")]
OBJECTS = [part for part in TEXTS if READERS[part].file.endswith(".json")]
TABLES = [
    "load_arrays: trials",
    "load_scanpaths: events, sub-2_events.tsv",
    "load_scanpaths: events, objects.tsv",
    "load_scanpaths: multimatch, array0001.png_sub-2.tsv",
    "predict-scanpath --boxes",
]
SAME = "read alike"


def check_same(part, factory, change):
    with damaging(READERS[part], factory) as (folder, file, content):
        whole = whole_of(READERS[part], folder, file, content)
        file.write_bytes(change(content))
        found = outcome(READERS[part], folder)
    assert not isinstance(found, str), found
    assert same(found[0], whole)


def check_refused(part, factory, change):
    with damaging(READERS[part], factory) as (folder, file, content):
        file.write_bytes(content)
        changed = change(content)
        file.write_bytes(changed)
        assert changed != content
        found = outcome(READERS[part], folder)
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("part", on("a byte order mark", SAME, *TEXTS))
def test_byte_order_mark(part, tmp_path_factory):
    check_same(part, tmp_path_factory, lambda content: b"\xef\xbb\xbf" + content)


@pytest.mark.parametrize("part", on("lines of Windows", SAME, *LINES))
def test_lines_of_windows(part, tmp_path_factory):
    check_same(part, tmp_path_factory, lambda content: content.replace(b"\n", b"\r\n"))


@pytest.mark.parametrize("part", on("a link to a file elsewhere", "followed, as in git-annex", *READERS))
def test_links_are_followed(part, tmp_path, tmp_path_factory):
    with damaging(READERS[part], tmp_path_factory) as (folder, file, content):
        whole = whole_of(READERS[part], folder, file, content)
        (tmp_path / "elsewhere").write_bytes(content)
        file.symlink_to(tmp_path / "elsewhere")
        parts, _ = outcome(READERS[part], folder)
    assert same(parts, whole)


# Columns, entries and identities


def columns(content, order):
    """Write the columns of a table in another order."""
    separator = b"\t" if b"\t" in content else b","
    rows = [line.split(separator) for line in content.splitlines()]
    places = order(list(range(len(rows[0]))))
    return b"".join(separator.join([row[i] for i in places]) + b"\n" for row in rows)


@pytest.mark.parametrize("part", on("columns in another order", SAME, *TABLES))
def test_order_of_columns(part, tmp_path_factory):
    check_same(part, tmp_path_factory, lambda content: columns(content, lambda places: places[::-1]))


@pytest.mark.parametrize("part", on("a column twice", REFUSED, *TABLES))
def test_a_column_twice(part, tmp_path_factory):
    message = check_refused(
        part, tmp_path_factory, lambda content: columns(content, lambda places: [0, *places])
    )
    assert "twice in its first row" in message


@pytest.mark.parametrize("part", on("a row that is too short", REFUSED, *TABLES))
def test_short_rows(part, tmp_path_factory):
    def cut(content):
        separator = b"\t" if b"\t" in content else b","
        first, second, rest = content.split(b"\n", 2)
        return b"\n".join([first, second.rpartition(separator)[0], rest])

    assert "entries in row 2" in check_refused(part, tmp_path_factory, cut)


def with_entry_twice(content):
    """Write the first entry of the first object again, at its end."""
    loaded = json.loads(content)
    first = loaded[0] if isinstance(loaded, list) else loaded
    name, value = next(iter(first.items()))
    text = json.dumps(first)[:-1] + f", {json.dumps(name)}: {json.dumps(value)}}}"
    return (f"[{text}]" if isinstance(loaded, list) else text).encode()


@pytest.mark.parametrize("part", on("an entry twice", REFUSED, *OBJECTS))
def test_an_entry_twice(part, tmp_path_factory):
    assert "twice in one object" in check_refused(part, tmp_path_factory, with_entry_twice)


def changed_json(change):
    def apply(content):
        loaded = json.loads(content)
        change(loaded)
        return json.dumps(loaded).encode()

    return apply


def changed_mat(change):
    def apply(content):
        loaded = {k: v for k, v in loadmat(io.BytesIO(content)).items() if not k.startswith("__")}
        change(loaded)
        target = io.BytesIO()
        savemat(target, loaded)
        return target.getvalue()

    return apply


def changed_npz(**entries):
    def apply(content):
        target = io.BytesIO()
        with np.load(io.BytesIO(content)) as archive:
            np.savez(target, **{**archive, **entries})
        return target.getvalue()

    return apply


def changed_npy(place, value):
    def apply(content):
        loaded = np.load(io.BytesIO(content))
        loaded[place] = value
        target = io.BytesIO()
        np.save(target, loaded)
        return target.getvalue()

    return apply


def changed_hdf5(change):
    def apply(content):
        target = io.BytesIO(content)
        with h5py.File(target, "r+") as file:
            change(file)
        return target.getvalue()

    return apply


def changed_toml(old, new):
    return lambda content: content.replace(old, new, 1)


def image_twice(cells):
    cells["fixations"][1, 0]["img"][0, 0] = cells["fixations"][0, 0]["img"][0, 0]


def member_twice(content):
    target = io.BytesIO(content)
    with zipfile.ZipFile(target, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("2.png", archive.read("1.png"))
    return target.getvalue()


def name_twice(file):
    file["filenames"][...] = [file["filenames"][0]] * len(file["filenames"])


TWICE = [
    ("load_arrays: images.zip", member_twice),
    ("load_nsd: names .ctab", lambda content: content + b"1 again\n"),
    ("add_regions: ctab", lambda content: content + b"3 V4\n"),
    (
        "load_scanpaths: coco-search18, instances.json",
        changed_json(lambda c: c["images"].append(c["images"][0])),
    ),
    ("load_scanpaths: osie, fixations.mat", changed_mat(image_twice)),
    ("load_scanpaths: visions, trials_properties.json", changed_json(lambda c: c.append(c[0]))),
    ("load_scanpaths: pysaliency, stimuli.hdf5", changed_hdf5(name_twice)),
    ("--split split.json", changed_json(lambda c: c["test"].append("a"))),
]


@pytest.mark.parametrize(
    ("part", "change"),
    [cell("reader", part, "an identity twice", REFUSED, part, change) for part, change in TWICE],
)
def test_an_identity_twice(part, change, tmp_path_factory):
    check_refused(part, tmp_path_factory, change)


@pytest.mark.parametrize("part", on("members in another order", SAME, "load_arrays: images.zip"))
def test_order_of_members(part, tmp_path_factory):
    def reverse(content):
        target = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w") as archive:
            for name in source.namelist()[::-1]:
                archive.writestr(name, source.read(name))
        return target.getvalue()

    check_same(part, tmp_path_factory, reverse)


# Numbers that are none, or beyond all measure


def put(*place):
    """Return a change that puts a number of JSON into a place."""

    def change(text):
        def apply(content):
            loaded = json.loads(content)
            inner = loaded
            for key in place[:-1]:
                inner = inner[key] if key != "first" else next(iter(inner.values()))
            inner[place[-1]] = "@"
            return json.dumps(loaded).replace('"@"', text).encode()

        return apply

    return change


def in_column(name):
    def change(text):
        def apply(content):
            separator = b"\t" if b"\t" in content else b","
            rows = [line.split(separator) for line in content.splitlines()]
            rows[1][rows[0].index(name.encode())] = text.encode()
            return b"".join(separator.join(row) + b"\n" for row in rows)

        return apply

    return change


NUMBERS = {"NaN": "NaN", "infinity": "1e999", "10**400": "1" + "0" * 400}
PLACES = [
    ("load_arrays: rois.json", put("V1", 0)),
    ("load_scanpaths: neuroattn, scenes.json", put("first", "boxes", 0, 0)),
    ("load_scanpaths: coco-search18", put(0, "X", 0)),
    ("load_scanpaths: coco-search18", put(0, "RT")),
    ("load_scanpaths: coco-search18, instances.json", put("annotations", 0, "bbox", 0)),
    ("load_scanpaths: visions, trials_properties.json", put(0, "image_width")),
    ("load_scanpaths: visions, subj1_scanpaths.json", put("first", "T", 0)),
    ("load_scanpaths: book-covers, Amazon.json", put("first", "size", "width")),
    ("load_scanpaths: book-covers, Amazon.json", put("first", "fixations", "1", 0, 0)),
    ("load_scanpaths: events, sub-2_events.tsv", in_column("x")),
    ("load_scanpaths: events, sub-2_events.tsv", in_column("image_width")),
    ("load_scanpaths: events, objects.tsv", in_column("width")),
    ("load_scanpaths: multimatch, array0001.png_sub-2.tsv", in_column("duration")),
    ("predict-scanpath --boxes", in_column("width")),
    ("load_arrays: trials", in_column("stimulus")),
]
PLACES = [(next(p for p in READERS if p.startswith(part)), change) for part, change in PLACES]


def odd(part, change, name, text, number):
    """Return a cell; several places of one part share it."""
    mark = cell("reader", part, name, REFUSED).marks
    return pytest.param(part, change(text), marks=mark, id=f"{part}, {name}, {number}")


@pytest.mark.parametrize(
    ("part", "change"),
    [odd(*one, name, text, i) for i, one in enumerate(PLACES) for name, text in NUMBERS.items()],
)
def test_numbers_in_texts(part, change, tmp_path_factory):
    check_refused(part, tmp_path_factory, change)


def fix(name, value):
    def change(cells):
        cells["fixations"][0, 0]["subjects"][0, 0][0, 0][name][0, 0][0, 0] = value

    return changed_mat(change)


def dataset(name, value):
    def change(file):
        file[name][(0,) * file[name].ndim] = value

    return changed_hdf5(change)


BINARY = [
    ("load_scanpaths: osie, fixations.mat", "NaN", fix("fix_x", np.nan)),
    ("load_scanpaths: osie, fixations.mat", "infinity", fix("fix_duration", np.inf)),
    ("load_scanpaths: pysaliency, scanpaths.hdf5", "NaN", dataset("train_xs", np.nan)),
    ("load_scanpaths: pysaliency, scanpaths.hdf5", "infinity", dataset("train_ys", np.inf)),
    ("load_scanpaths: neuroattn, fixations.nc", "infinity", dataset("x", np.inf)),
    ("load_scanpaths: objarr", "infinity", changed_npz(object_xy=[[50.0, 50.0], [np.inf, 50.0]])),
    ("load_scanpaths: objarr", "NaN", changed_npz(target_index=[np.nan])),
    ("load_scanpaths: objarr", "10**300", changed_npz(screen_wh=[1e300, 1e300])),
    ("load_algonauts: labels", "an unnamed number", changed_npy(0, 99)),
    ("load_nsd: design", "NaN", changed_mat(lambda c: c.update(subjectim=np.full((8, 6), np.nan)))),
    ("load_nsd: design", "10**300", changed_mat(lambda c: c.update(masterordering=np.full((1, 12), 1e300)))),
    ("read_vgg16_weights: h5", "NaN", dataset("block1_conv1/block1_conv1/kernel:0", np.nan)),
]


@pytest.mark.parametrize(
    ("part", "change"), [cell("reader", part, name, REFUSED, part, change) for part, name, change in BINARY]
)
def test_numbers_in_binary_files(part, change, tmp_path_factory):
    check_refused(part, tmp_path_factory, change)


@pytest.mark.parametrize("part", on("NaN", "the unit is left out", "load_arrays: npy"))
def test_units_that_are_no_numbers(part, tmp_path_factory):
    with damaging(READERS[part], tmp_path_factory) as (folder, file, content):
        whole = whole_of(READERS[part], folder, file, content)
        file.write_bytes(changed_npy((1, 2), np.nan)(content))
        parts, _ = outcome(READERS[part], folder)
    np.testing.assert_array_equal(parts[0], np.delete(whole[0], 1, axis=1))


@pytest.mark.parametrize("part", on("NaN", REFUSED, "load_eeg: fif"))
def test_signals_that_are_no_numbers(part, tmp_path_factory):
    with damaging(READERS[part], tmp_path_factory) as (folder, file, content):
        whole = file.with_name("whole_raw.fif")
        whole.write_bytes(content)
        raw = mne.io.read_raw(whole, preload=True, verbose="error")
        raw._data[1, 300] = np.nan
        raw.save(file, verbose="error")
        whole.unlink()
        assert "NaN or infinity in channel C4" in outcome(READERS[part], folder)


# Names that lead out of a folder

OUT = {"a name that leads out": "../../{}", "an absolute name": "/etc/{}"}


def named(*place):
    def change(name):
        def apply(loaded):
            inner = loaded
            for key in place[:-1]:
                inner = inner[key] if key != "first" else next(iter(inner.values()))
            inner[place[-1]] = name

        return changed_json(apply)

    return change


def key_named(name):
    def apply(loaded):
        loaded[name] = loaded.pop(next(iter(loaded)))

    return changed_json(apply)


def osie_named(name):
    def change(cells):
        cells["fixations"][0, 0]["img"][0, 0] = np.array([name])

    return changed_mat(change)


def stimulus_named(name):
    def change(file):
        file["filenames"][0] = name

    return changed_hdf5(change)


def image_column(name):
    return in_column("image")(name)


def header_named(name):
    return lambda content: content.replace(b"DataFile=S001R04.eeg", f"DataFile={name}".encode())


def surface_named(name):
    def apply(content):
        text = content.decode()
        start = text.index('Encoding="')
        stop = text.index('"', start + 10)
        text = text[:start] + 'Encoding="ExternalFileBinary' + text[stop:]
        return text.replace('ExternalFileName=""', f'ExternalFileName="{name}"', 1).encode()

    return apply


NAMES = [
    ("load_arrays: gii", surface_named),
    ("load_scanpaths: neuroattn, scenes.json", named("first", "image")),
    ("load_scanpaths: coco-search18", named(0, "name")),
    ("load_scanpaths: osie, fixations.mat", osie_named),
    ("load_scanpaths: visions, dataset_info.json", named("scanpaths_dir")),
    ("load_scanpaths: visions, trials_properties.json", named(0, "target")),
    ("load_scanpaths: pysaliency, stimuli.hdf5", stimulus_named),
    ("load_scanpaths: events, sub-2_events.tsv", image_column),
    ("load_scanpaths: book-covers, Amazon.json", key_named),
    ("load_eeg: vhdr", header_named),
]
NAMES = [(next(p for p in READERS if p.startswith(part)), change) for part, change in NAMES]


@pytest.mark.parametrize(
    ("part", "change", "name"),
    [
        cell("reader", part, fault, REFUSED, part, change, name.format("passwd"))
        for part, change in NAMES
        for fault, name in OUT.items()
    ],
)
def test_names_that_lead_out(part, change, name, tmp_path_factory):
    with damaging(READERS[part], tmp_path_factory) as (folder, file, content):
        secret = file.parent / name
        if name.startswith(".."):
            secret.write_bytes(bytes(64))
        file.write_bytes(change(name)(content))
        found = outcome(READERS[part], folder)
        if name.startswith(".."):
            secret.unlink()
    assert isinstance(found, str)
    assert "must lie in" in found


@pytest.mark.parametrize(
    "part", on("members whose names lead out", "refused, nothing written", "load_arrays: images.zip")
)
def test_members_that_lead_out(part, tmp_path_factory):
    def rename(content):
        target = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w") as archive:
            for name in source.namelist():
                archive.writestr(f"../../{name}", source.read(name))
        return target.getvalue()

    with damaging(READERS[part], tmp_path_factory) as (folder, file, content):
        file.write_bytes(rename(content))
        before = sorted(folder.parent.rglob("*"))
        found = outcome(READERS[part], folder)
        assert sorted(folder.parent.rglob("*")) == before
    assert "found none" in found


WRITERS = [name for name in SCANPATH_LAYOUTS if name not in ("neuroattn", "objarr")]


def writer(layout):
    part = f"write_scanpaths: {layout}"
    return cell("reader", part, "a name that leads out", "refused, nothing written", layout)


@pytest.mark.parametrize("layout", [writer(name) for name in WRITERS])
def test_nothing_is_written_elsewhere(layout, tmp_path):
    """Names come from files that were read, so a writer must not trust them either."""
    source = search_arrays()
    paths = []
    for path in source:
        attrs = {**path.attrs, "image": "../../../escaped.png"}
        paths.append(dataclasses.replace(path, attrs=attrs))
    hostile = ScanpathDataset.from_scanpaths(paths[:1], scenes=source.scenes)
    target = tmp_path / "a" / "b"
    target.parent.mkdir()
    with pytest.raises(ValueError, match=r"escaped\.png"):
        write_scanpaths(hostile, target, layout=layout)
    assert not list(tmp_path.rglob("*escaped*"))
    assert not target.exists()


# Links of HDF5

HDF5 = [part for part, r in READERS.items() if r.file.endswith((".h5", ".hdf5", ".nc", "7.3.mat"))]


def first_numbers(file):
    """Return the name of a dataset of numbers."""
    names = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return next(name for name in names if file[name].dtype.kind in "fiuO")


def link_out(file, whole):
    name = first_numbers(file)
    del file[name]
    file[name] = h5py.ExternalLink(str(whole), name)


def store_out(file, whole):
    name = first_numbers(file)
    shape = file[name].shape
    del file[name]
    n_bytes = 4 * int(np.prod(shape))
    whole.write_bytes(bytes(n_bytes))
    file.create_dataset(name, shape, "f4", external=[(str(whole), 0, n_bytes)])


def virtual(file, whole):
    name = first_numbers(file)
    shape = file[name].shape
    del file[name]
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource(str(whole), name, shape)
    file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize(
    ("part", "lead"),
    [
        cell("reader", part, fault, REFUSED, part, lead)
        for fault, lead in (
            ("a link to another file", link_out),
            ("data stored in another file", store_out),
            ("a virtual dataset", virtual),
        )
        for part in HDF5
    ],
)
def test_hdf5_that_leads_out(part, lead, tmp_path, tmp_path_factory):
    with damaging(READERS[part], tmp_path_factory) as (folder, file, content):
        whole = tmp_path / "elsewhere.h5"
        whole.write_bytes(content)
        file.write_bytes(content)
        with h5py.File(file, "r+") as target:
            lead(target, whole)
        assert "lies in another file" in outcome(READERS[part], folder)
