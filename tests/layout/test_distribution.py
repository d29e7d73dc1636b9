"""What is built from the tree: the same wheel from a checkout, from an sdist and without symbolic links."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import neuroattn

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = neuroattn.__version__
LINKED = ("kernels", "datasets", "analyses")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(kind, tree):
    """Build a "wheel" or "sdist" of a tree without a network."""
    out = tree.parent / f"{tree.name}-dist"
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(out)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


def copy_tree(target):
    """Copy what belongs to the project, with its links."""
    ignored = shutil.ignore_patterns(
        ".git", ".venv", ".*_cache", "__pycache__", "_build", "generated", "build", "dist", "demo",
        "*.egg-info", "shared",
    )  # fmt: skip
    shutil.copytree(ROOT, target, symlinks=True, ignore=ignored)
    return target


def folder_of(package):
    """Return the real folder of a package; links may be text files."""
    parts = package.split(".")
    return ROOT.joinpath(*(parts[1:] if parts[1:2] and parts[1] in LINKED else parts))


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return copy_tree(tmp_path_factory.mktemp("build") / "tree")


@pytest.fixture(scope="module")
def wheel_file(tree):
    return build("wheel", tree)


@pytest.fixture(scope="module")
def wheel(wheel_file):
    return contents(wheel_file)


@pytest.fixture(scope="module")
def sdist(tree):
    return build("sdist", tree)


def test_wheel_holds_the_package_and_nothing_else(wheel):
    assert {name.split("/")[0] for name in wheel} == {"neuroattn", f"neuroattn-{VERSION}.dist-info"}
    modules = {name for name in wheel if name.endswith(".py")}
    expected = {
        f"{package.replace('.', '/')}/{path.name}"
        for package in PROJECT["tool"]["setuptools"]["packages"]
        for path in folder_of(package).glob("*.py")
    }
    assert modules == expected
    assert {"neuroattn/py.typed", "neuroattn/analyses/templates/report.html"} <= wheel.keys()
    assert f"neuroattn-{VERSION}.dist-info/licenses/LICENSE" in wheel


def test_sdist_holds_what_tests_and_docs_need(sdist):
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    root = f"neuroattn-{VERSION}"
    assert {name.split("/")[0] for name in names} == {root}
    wanted = (
        "kernels/__init__.py", "conftest.py", "Makefile", "tests/layout/test_distribution.py",
        "tests/parity/fmri/metrics.npz", "docs/conf.py", "README.md", "LICENSE", "CITATION.cff",
        "CHANGELOG.md", "CONTRIBUTING.md", "kernels/benchmarks/run.py",
    )  # fmt: skip
    assert [name for name in wanted if f"{root}/{name}" not in names] == []
    assert not [name for name in names if "__pycache__" in name or "_build" in name]


def test_wheel_from_sdist_is_the_same(wheel, sdist, tmp_path):
    # Not by tarfile: its filters differ between versions of Python 3.11 to 3.14.
    subprocess.run(["tar", "-xf", sdist, "-C", tmp_path], check=True)
    (unpacked,) = tmp_path.iterdir()
    assert contents(build("wheel", unpacked)) == wheel


@pytest.fixture(scope="module")
def plain_tree(tmp_path_factory):
    """Git without support for links checks them out as text files that hold their targets."""
    plain = copy_tree(tmp_path_factory.mktemp("plain") / "tree")
    for name in LINKED:
        link = plain / "neuroattn" / name
        link.unlink()
        link.write_text(f"../{name}")
    return plain


def test_wheel_without_symbolic_links_is_the_same(wheel, plain_tree):
    assert contents(build("wheel", plain_tree)) == wheel


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_editable_install_finds_every_package_from_elsewhere(tree, plain_tree, links, tmp_path):
    with zipfile.ZipFile(build("editable", tree if links else plain_tree)) as archive:
        archive.extractall(tmp_path)
    code = f"""
import site
site.addsitedir({str(tmp_path)!r})
import sys
from importlib.util import find_spec
for name in {LINKED}:
    if find_spec(f"neuroattn.{{name}}") is None or find_spec(name) is not None:
        sys.exit(name)
"""
    # -I -S: nothing but what the editable install brings.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def check_release(distribution, *names):
    """Run `make release-check` for one file; the versions that were tested last are those of one machine."""
    script = ROOT / "tests" / "layout" / "check_release.py"
    command = [sys.executable, str(script), str(distribution), *names]
    return subprocess.run(command, capture_output=True, text=True)


def test_wheel_works_in_a_fresh_environment(wheel_file):
    names = ("command", "doctor", "fit", "doctests", "types")
    done = check_release(wheel_file, *names)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{wheel_file.name}: {name} ok" for name in names]


@pytest.mark.parametrize(
    ("name", "lacking", "said"),
    [
        ("types", "neuroattn/py.typed", "py.typed marker"),
        ("command", f"neuroattn-{VERSION}.dist-info/entry_points.txt", "does not exist"),
    ],
)
def test_wheel_that_lacks_a_file_is_refused(name, lacking, said, wheel, wheel_file, tmp_path):
    with zipfile.ZipFile(tmp_path / wheel_file.name, "w") as archive:
        for member, content in wheel.items():
            if member != lacking:
                archive.writestr(member, content)
    done = check_release(tmp_path / wheel_file.name, name)
    assert done.returncode == 1
    assert said in done.stderr
