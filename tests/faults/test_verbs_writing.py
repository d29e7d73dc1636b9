"""Commands that cannot write, or are stopped while they write: one line, whole files, and a way on."""

import errno
import io
import os
import signal

import pytest

from neuroattn._backbones import extract_layers

from .cells import cell
from .conftest import Commits, full_disk
from .outcomes import check_equal, check_whole, contents, files
from .verbs import BY_NAME, VERBS

NOTHING = "one line; nothing is left"
RESUMED = "one line; what is there is whole, and the same command completes it"
IN_ORDER = "exit code 130; nothing half-written is left"
STOPPED_RESUMED = f"{IN_ORDER}; --resume completes it"


def outcome(verb, resumed, nothing):
    return nothing if verb.resume is None else resumed


def refused(code, err):
    """Check that a command ended with one clear line."""
    lines = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert (code, len(lines)) == (2, 1), err
    assert "Traceback" not in err
    assert len(lines[0]) > 30, "says what is wrong"


def completed(verb, out, whole, run):
    """Check that what is left is whole, and that the command makes an undisturbed result of it."""
    if verb.resume is None:
        assert not files(out)
        return
    check_whole(out)
    go_on = verb.resume if out.exists() and any(out.iterdir()) else ""
    assert run(f"{verb.line(out)} {go_on}")[0] == 0
    check_equal(out, whole(verb)[0])


@pytest.mark.parametrize(
    "verb", [cell("verb", verb.name, "disk full from the start", NOTHING, verb) for verb in VERBS]
)
def test_nothing_can_be_written(verb, run, tmp_path, inputs):
    before = contents(inputs)
    with full_disk(0):
        code, err = run(verb.line(tmp_path / "out"))
    refused(code, err)
    assert not files(tmp_path)
    assert contents(inputs) == before


@pytest.mark.parametrize(
    "verb",
    [
        cell("verb", verb.name, "disk full at its largest file", outcome(verb, RESUMED, NOTHING), verb)
        for verb in VERBS
    ],
)
def test_the_largest_file_cannot_be_written(verb, run, tmp_path, whole, inputs):
    largest = max(path.stat().st_size for path in files(whole(verb)[0]).values())
    before, out = contents(inputs), tmp_path / "out"
    with full_disk(largest * 9 // 10):  # reports name their folder, which is another one here
        code, err = run(verb.line(out))
    refused(code, err)
    assert contents(inputs) == before
    completed(verb, out, whole, run)


STOPPED = [
    verb for verb in VERBS if verb.name != "extract-features"
]  # whose store commits chunks, not results


@pytest.fixture
def stopped(run, monkeypatch):
    """Run a command line that gets a signal just before some result gets its name."""

    def stopped(line, at, signum):
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a command that left it so would not stop
        try:
            with monkeypatch.context() as patch:
                patch.setattr("neuroattn.results.os", Commits(at, signum))
                code, err = run(line)
        finally:
            signal.signal(signal.SIGTERM, before)
        assert (code, err.splitlines()[-1][:11]) == (130, "Interrupted"), err

    return stopped


@pytest.mark.parametrize(
    "verb",
    [
        cell("verb", verb.name, "SIGTERM in the middle", outcome(verb, STOPPED_RESUMED, IN_ORDER), verb)
        for verb in STOPPED
    ],
)
def test_terminated_half_way(verb, stopped, run, tmp_path, whole):
    out, n_commits = tmp_path / "out", whole(verb)[1]
    stopped(verb.line(out), (n_commits + 1) // 2, signal.SIGTERM)
    completed(verb, out, whole, run)


@pytest.mark.parametrize(
    "verb",
    [cell("verb", verb.name, "Ctrl-C at the first result", IN_ORDER, verb) for verb in STOPPED],
)
def test_interrupted_at_the_first_result(verb, stopped, tmp_path):
    stopped(verb.line(tmp_path / "out"), 1, signal.SIGINT)
    assert not files(tmp_path)


@pytest.mark.fault(
    kind="verb",
    part="extract-features",
    fault="SIGTERM in the middle",
    outcome=f"{IN_ORDER}; a second call completes it",
)
def test_extraction_is_terminated(run, tmp_path, whole, monkeypatch):
    verb, out, calls = BY_NAME["extract-features"], tmp_path / "out", []

    def extract(*args, **options):
        calls.append(args)
        if len(calls) == 3:  # the first image, a batch, and another
            signal.raise_signal(signal.SIGTERM)
        return extract_layers(*args, **options)

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("neuroattn.encoding.features.extract_layers", extract)
            code, err = run(verb.line(out))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (code, err.splitlines()[-1][:11]) == (130, "Interrupted"), err
    completed(verb, out, whole, run)


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """Folder that refuses to be written to, as read-only ones do unless the user is root."""
    folder = tmp_path / "read-only"
    folder.mkdir()

    def guarded(function, writes):
        def call(path, *args, **more):
            if str(path).startswith(str(folder)) and writes(*args):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return function(path, *args, **more)

        return call

    monkeypatch.setattr(os, "mkdir", guarded(os.mkdir, lambda *args: True))
    opened = guarded(io.open, lambda mode="r", *args: not mode.startswith("r") or "+" in mode)
    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr("builtins.open", opened)
    return folder


@pytest.mark.parametrize(
    "verb", [cell("verb", verb.name, "read-only folder", NOTHING, verb) for verb in VERBS]
)
def test_the_folder_is_read_only(verb, run, read_only):
    code, err = run(verb.line(read_only / "out"))
    refused(code, err)
    assert "Read-only file system" in err
    assert not list(read_only.iterdir())


@pytest.mark.fault(
    kind="verb",
    part="make-data algonauts",
    fault="disk full when an array is mapped",
    outcome=NOTHING,
)
def test_a_mapped_array_has_no_space(run, tmp_path, monkeypatch):
    """A map of a file has the disk's space only when it is written to, and then it is a signal that says no."""

    def refuse(file, start, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    code, err = run(BY_NAME["make-data algonauts"].line(tmp_path / "out"))
    refused(code, err)
    assert "No space left on device" in err
    assert not files(tmp_path)
