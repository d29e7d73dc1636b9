"""Damaged input of every reader: read right or refused in one line that names the file, never waited for."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .cells import cell
from .readers import READERS, REFUSED, damaging, outcome, same, whole_of

ALL = list(READERS.values())
drawn = settings(
    max_examples=4,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def cells(fault, result, readers=ALL):
    return [cell("reader", r.part, fault, result(r) if callable(result) else result, r) for r in readers]


@pytest.mark.parametrize("reader", ALL, ids=repr)
def test_whole_input_is_read(reader, tmp_path_factory):
    """Without which nothing below would mean anything."""
    with damaging(reader, tmp_path_factory) as (folder, file, content):
        assert all(part.size for part in whole_of(reader, folder, file, content))


def after_cut(reader):
    if reader.warns:
        return "refused, file named, or whole records kept, said so"
    return (
        "refused, file named, or the lines before" if reader.text else "refused, file named, or the same data"
    )


@pytest.mark.parametrize("reader", cells("truncated", after_cut))
@given(share=st.floats(0.02, 0.99))
@drawn
def test_truncated(reader, share, tmp_path_factory):
    with damaging(reader, tmp_path_factory) as (folder, file, content):
        whole = whole_of(reader, folder, file, content)
        file.write_bytes(content[: int(share * len(content))])
        found = outcome(reader, folder)
    if isinstance(found, str):
        return
    parts, n_warnings = found
    if reader.warns and (n_warnings or parts[-1] > 0):  # a note says so
        return
    assert same(parts, whole) or (reader.text and all(map(begins, parts, whole)))


def begins(part, whole):
    """Return whether an array is the beginning of another along an axis, but for its last entry, which may be cut."""
    return any(
        np.array_equal(*(np.take(values, range(part.shape[axis] - 1), axis) for values in (part, whole)))
        for axis in range(part.ndim)
    )


@pytest.mark.parametrize("reader", cells("bytes changed", "refused, file named, or read to its end"))
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4
    )
)
@drawn
def test_bytes_changed(reader, changes, tmp_path_factory):
    with damaging(reader, tmp_path_factory) as (folder, file, content):
        damaged = bytearray(content)
        for share, byte in changes:
            damaged[int(share * len(damaged))] = byte
        file.write_bytes(damaged)
        outcome(reader, folder)


FOREIGN = {
    "empty": b"",
    "another kind of file": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n\xff\xfe\x00showpage\n" * 40,
    "not UTF-8": b"\xff\xfe,\xe9\t\x80\n",
}


@pytest.mark.parametrize(
    ("reader", "content"),
    [
        cell("reader", reader.part, fault, REFUSED, reader, content)
        for fault, content in FOREIGN.items()
        for reader in ALL
        if (fault, reader.part) != ("empty", "--config options.toml")  # no options
    ],
)
def test_foreign_content(reader, content, tmp_path_factory):
    with damaging(reader, tmp_path_factory) as (folder, file, _):
        file.write_bytes(content)
        message = outcome(reader, folder)
    assert isinstance(message, str), message
    assert file.stem in message or file.parent.name in message or "store has chunks" in message


def put_folder(file):
    file.mkdir()


def put_loop(file):
    file.symlink_to(file)


PLACES = {"a folder in its place": put_folder, "a link in a loop": put_loop, "a pipe in its place": os.mkfifo}


@pytest.mark.parametrize(
    ("reader", "put"),
    [
        cell("reader", r.part, fault, "left out like a missing file" if r.optional else REFUSED, r, put)
        for fault, put in PLACES.items()
        for r in ALL
    ],
)
def test_what_is_no_file(reader, put, tmp_path_factory):
    with damaging(reader, tmp_path_factory) as (folder, file, _):
        put(file)
        message = outcome(reader, folder)
    assert isinstance(message, str) is not reader.optional, message
