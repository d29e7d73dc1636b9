"""Commands that are run in this process, undisturbed and disturbed."""

import contextlib
import os
import resource
import shlex
import signal
import sys

import pytest

from neuroattn import cli

from .verbs import BY_NAME, MADE, simulate, write_inputs


@pytest.fixture(scope="session")
def smaller():
    """Make what no option makes smaller cheap."""
    from neuroattn.analyses import attention_layers

    measure = attention_layers.measure_cost
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neuroattn.analyses.demo.make_demo_recording", simulate)
        patch.setattr(
            attention_layers, "measure_cost", lambda names, lengths, **more: measure(names, [16], **more)
        )
        yield


def call(line):
    """Run a command line and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["neuroattn", *shlex.split(line)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return ended.value.code or 0


@pytest.fixture(scope="session")
def inputs(tmp_path_factory, smaller):
    """Folder with all that commands read."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    with contextlib.chdir(folder):
        for name, verb in MADE.items():
            assert call(BY_NAME[verb].line(name)) == 0, verb
    return folder


class Commits:
    """Stands for ``os`` where results are renamed to their names; sends a signal just before one of them."""

    def __init__(self, at=0, signum=None):
        self.n, self.at, self.signum = 0, at, signum

    def __getattr__(self, name):
        return getattr(os, name)

    def replace(self, source, target):
        self.n += 1
        if self.n == self.at:
            signal.raise_signal(self.signum)
        os.replace(source, target)


@pytest.fixture(scope="session")
def whole(inputs, tmp_path_factory):
    """Return what an undisturbed run of a command leaves, and in how many steps; each is run once."""
    done = {}
    folder = tmp_path_factory.mktemp("whole")

    def whole(verb):
        if verb.name not in done:
            out, commits = folder / verb.name.replace(" ", "-"), Commits()
            with contextlib.chdir(inputs), pytest.MonkeyPatch.context() as patch:
                patch.setattr("neuroattn.results.os", commits)
                assert call(verb.line(out)) == 0
            done[verb.name] = out, commits.n
        return done[verb.name]

    return whole


@pytest.fixture
def run(inputs, monkeypatch, capsys):
    """Run a command line where the inputs are and return exit code and standard error."""
    monkeypatch.chdir(inputs)

    def run(line):
        capsys.readouterr()
        code = call(line)
        return code, capsys.readouterr().err

    return run


@contextlib.contextmanager
def full_disk(n_bytes):
    """Let no file grow beyond some bytes, whoever writes it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
