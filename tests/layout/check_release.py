"""Try a built wheel or sdist as users have it: in a fresh environment, away from the source tree.

    python tests/layout/check_release.py FILE [CHECK ...]

What neuroattn depends on is lent by the Python that runs this, so that it takes seconds.
"""

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

DATA = """
import numpy as np
rng = np.random.default_rng(0)
X = rng.normal(size=(40, 8, 3, 3)).astype("f4")
np.savez("data.npz", X=X, y=X.mean((2, 3))[:, :4])
"""
DOCTESTS = """
import doctest, sys
import neuroattn.metrics.correlation as module
print(module.__file__)
result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
sys.exit(result.failed > 0 or result.attempted == 0)
"""
# Where the types of neuroattn are not seen, the call is no error, and its comment is one.
CLIENT = """
from neuroattn.results import Scanpath


def width(path: Scanpath) -> int:
    return path.image_size[0]


width("a path")  # type: ignore[arg-type]
"""
# Types of other packages are not the question, and take minutes.
MYPY = """
[mypy]
strict = true
cache_dir = cache
[mypy-numpy.*,pandas.*,scipy.*,torch.*,xarray.*]
follow_imports = skip
follow_imports_for_stubs = true
"""


class Refused(Exception):
    """What is wrong with the distribution."""


def run(*command, cwd):
    """Return what a command prints; it must end well."""
    words = [str(word) for word in command]
    if not Path(words[0]).exists():
        raise Refused(f"{words[0]} does not exist")
    done = subprocess.run(words, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"{shlex.join(words)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def expect(wanted, text, what):
    if wanted not in text:
        raise Refused(f"{what} must hold {wanted!r}, got\n{text}")


def install(distribution, folder):
    """Install a wheel or an sdist into a new environment in a folder, and return its Python."""
    pip = (sys.executable, "-m", "pip")
    offline = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    if distribution.name.endswith(".tar.gz"):
        run(*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder, distribution, cwd=folder)
        (distribution,) = folder.glob("*.whl")
    environment = folder / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder)
    python = environment / "bin" / "python"
    run(*pip, "--python", python, "install", *offline, "--no-compile", distribution, cwd=folder)
    (packages,) = environment.glob("lib/python*/site-packages")
    # A path, and no more: path files that lie there, such as that of an editable neuroattn, are not read.
    lent = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (packages / "lent.pth").write_text("\n".join(lent) + "\n")
    return python


def check_command(python, folder, version):
    command = python.parent / "neuroattn"
    expect(version, run(command, "--version", cwd=folder), "neuroattn --version")
    expect("--demo", run(command, "fit-encoder", "--help", cwd=folder), "neuroattn fit-encoder --help")


def check_doctor(python, folder, version):
    said = run(python.parent / "neuroattn", "doctor", cwd=folder)
    expect(f"neuroattn {version}\n", said, "neuroattn doctor")


def check_fit(python, folder, version):
    run(python, "-c", DATA, cwd=folder)
    options = "--features data.npz:X --responses data.npz:y --orientation stimulus-unit --model ridge"
    more = "--split test=10,seed=0 --shuffles 19 --device cpu --out fitted"
    command = (python.parent / "neuroattn", "fit-encoder", "--layout", "arrays", *f"{options} {more}".split())
    run(*command, cwd=folder)
    expect(f"neuroattn {version}", (folder / "fitted" / "report.html").read_text(), "report.html")


def check_doctests(python, folder, version):
    expect(str(python.parents[1]), run(python, "-c", DOCTESTS, cwd=folder), "the file of a module")


def check_types(python, folder, version):
    (folder / "client.py").write_text(CLIENT)
    (folder / "mypy.ini").write_text(MYPY)
    options = ("--config-file", "mypy.ini", "--python-executable", python)
    run(sys.executable, "-m", "mypy", *options, "client.py", cwd=folder)


def tested_versions(page):
    """Return the versions in the table of supported versions: package, and what was tested last."""
    return dict(re.findall(r"^\| `([\w-]+)` \|[^|]*\| ([\w.]+) \|", page, re.MULTILINE))


def check_versions(python, folder, version):
    page = (ROOT / "docs" / "supported-versions.md").read_text(encoding="utf-8")
    for name, tested in tested_versions(page).items():
        found = importlib.metadata.version(name)
        if found.partition("+")[0] != tested:
            raise Refused(f"docs/supported-versions.md says {name} {tested}, here is {found}")


CHECKS = {
    "command": check_command,
    "doctor": check_doctor,
    "fit": check_fit,
    "doctests": check_doctests,
    "types": check_types,
    "versions": check_versions,
}


def main(distribution, *names):
    version = distribution.name.removesuffix(".tar.gz").split("-")[1]
    with tempfile.TemporaryDirectory() as folder:
        python = install(distribution, Path(folder))
        for name in names or CHECKS:
            CHECKS[name](python, Path(folder), version)
            print(f"{distribution.name}: {name} ok", flush=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]).resolve(), *sys.argv[2:])
    except Refused as error:
        sys.exit(f"Error: {error}")
