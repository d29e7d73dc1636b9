"""Habits: commands, marks, network, and text that speaks of the project alone."""

import os
import re
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("demo", "test", "check", "docs", "bench", "bench-gpu", "lint", "wheel", "clean")
SOURCES = ("neuroattn", "kernels", "datasets", "analyses", "tests", "docs", ".ci")
BUILT = {"__pycache__", "_build", "generated"}


def text_files():
    """Return the text files of the project, built ones left out."""
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in SOURCES:
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    binary = {".npz", ".npy", ".png", ".pyc", ".ico", ".woff2"}
    return sorted(
        path
        for path in files
        if path.suffix not in binary and path.name != ".git" and not BUILT & set(path.relative_to(ROOT).parts)
    )


@pytest.mark.parametrize("target", TARGETS)
def test_makefile_has_the_target(target):
    # Without what a calling make hands down, which would change what is printed.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", target], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_continuous_integration_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"


@pytest.mark.parametrize("address", [("203.0.113.1", 80), ("example.org", 443)])
def test_network_is_blocked(address):
    with socket.socket() as connection, pytest.raises(OSError, match="tests must not use the network"):
        connection.connect(address)


def test_downloads_are_blocked():
    with pytest.raises(OSError, match="tests must not use the network"):
        urllib.request.urlopen("http://203.0.113.1/weights.safetensors", timeout=5)


def test_no_test_is_left_out_in_silence():
    """Tests run or are deselected by the marks gpu and shared_data, which a conftest.py counts and prints.

    The kernels' tests need Triton, which exists for Linux only.
    """
    # Split, so that this file does not find itself.
    words = [
        r"pytest\.sk" + "ip",
        r"importors" + "kip",
        r"mark\.sk" + "ip",
        r"mark\.xf" + "ail",
        r"\+SK" + "IP",
    ]
    pattern = re.compile("|".join(words))
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in text_files()
        if path.suffix == ".py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if pattern.search(line) and not (path.parent.name == "kernels" and words[1].replace("\\", "") in line)
    ]
    assert found == []


def test_marks_are_the_two_that_may_deselect(pytestconfig):
    ours = [line for line in pytestconfig.getini("markers") if line.split(":")[0] in ("gpu", "shared_data")]
    assert len(ours) == 2


@pytest.mark.parametrize("path", text_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_machine_is_named(path):
    """No path of somebody's computer and no package index of somebody's network."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.~/-])/(?:work|home|root|Users|engram|mnt|scratch)/", text)
    assert not re.search(r"(?i)\b[a-z]:\\users\b|extra-index-[u]rl|--index-[u]rl|[a]rtifactory", text)
