"""The tree: packages, guards, import direction, and what importing loads."""

import ast
import os
import subprocess
import sys
import tomllib
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINKED = ("kernels", "datasets", "analyses")

# From left to right; a module imports only from its left. Domains share a place and never import each other.
ORDER = [
    ("neuroattn",),
    ("_checks", "_extras"),
    ("_files",),
    ("_references",),
    ("_backbones",),
    ("results",),
    ("kernels",),
    ("attention",),
    ("metrics",),
    ("datasets",),
    ("encoding", "eeg", "scanpath", "search"),
    ("analyses",),
    ("cli",),
    ("benchmarks",),  # scripts of the source tree, which time all of the package
]
RANK = {layer: rank for rank, layers in enumerate(ORDER) for layer in layers}
# Slow or heavy to import, so imported by the function that needs them.
LAZY = {"accelerate", "braindecode", "dask", "matplotlib", "mne", "moabb", "nilearn", "timm", "triton"}


def python(code, *, cwd=ROOT, **environment):
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def source_files():
    """Return all modules of the package and of the folders that belong to it, by their dotted names."""
    files = {}
    for path in sorted((ROOT / "neuroattn").rglob("*.py")):
        if path.relative_to(ROOT / "neuroattn").parts[0] not in LINKED:
            files[path] = path.relative_to(ROOT)
    for folder in LINKED:
        for path in sorted((ROOT / folder).rglob("*.py")):
            files[path] = Path("neuroattn") / path.relative_to(ROOT)
    return {path: ".".join(name.with_suffix("").parts) for path, name in files.items()}


FILES = source_files()


def layer_of(module):
    """Return the layer of a dotted name inside the package: ``neuroattn.kernels.lint`` is in "kernels"."""
    parts = module.removesuffix(".__init__").split(".")
    if parts[1:3] == ["kernels", "benchmarks"]:
        return "benchmarks"
    return parts[1] if len(parts) > 1 else parts[0]


def imported_modules(tree, package):
    """Yield every imported name, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            )
            for alias in node.names:
                yield f"{base}.{alias.name}" if base == "neuroattn" and alias.name in RANK else base


def forbidden_imports(source, module):
    """Return the imports of a source that do not point to the left."""
    here = layer_of(module)
    package = module.rpartition(".")[0]
    found = []
    for name in imported_modules(ast.parse(source), package):
        there = layer_of(name)
        outside = name.partition(".")[0] != "neuroattn"
        if not outside and there != here and RANK[there] >= RANK[here]:
            found.append(name)
        if outside and name.partition(".")[0] in LINKED:
            found.append(name)
    return found


def test_packages_list_equals_the_folders():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {name.removesuffix(".__init__") for name in FILES.values() if name.endswith(".__init__")}
    assert sorted(listed) == listed
    assert set(listed) == found


def test_real_folders_are_linked_into_the_package():
    package_dir = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    assert package_dir == {f"neuroattn.{name}": name for name in LINKED}


@pytest.mark.parametrize("path", FILES, ids=lambda path: FILES[path])
def test_imports_point_one_way(path):
    assert forbidden_imports(path.read_text(), FILES[path]) == []


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    from neuroattn.encoding import load_backbone",
        "from neuroattn import cli",
        "import neuroattn.analyses",
        "import datasets",
        "from ..encoding import networks",
    ],
)
def test_a_wrong_import_is_found(source):
    assert forbidden_imports(source, "neuroattn.datasets.splits")


def test_domains_do_not_import_each_other():
    assert forbidden_imports("import neuroattn.search", "neuroattn.encoding.networks") == ["neuroattn.search"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: FILES[path])
def test_slow_packages_are_imported_where_they_are_needed(path):
    if path.name == "_triton.py":  # itself imported where it is needed
        return
    tree = ast.parse(path.read_text())
    top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    roots = {name.partition(".")[0] for name in imported_modules(top, FILES[path].rpartition(".")[0])}
    assert not roots & LAZY


@pytest.mark.parametrize("name", LINKED)
def test_top_level_names_belong_to_others(name, tmp_path):
    code = f"import importlib.util as u; s = u.find_spec({name!r}); print(s.origin if s else '')"
    # PYTHONPATH may hold a checkout, whose root has folders of these names.
    origin = python(code, cwd=tmp_path, PYTHONPATH="").strip()
    assert origin == "" or {"site-packages", "dist-packages"} & set(Path(origin).parts)


@pytest.mark.parametrize("name", LINKED)
def test_importing_a_folder_at_the_root_says_what_to_import(name):
    code = f"""
try:
    import {name}
except ImportError as error:
    print(error)
"""
    said = python(code, PYTHONSAFEPATH="")
    assert said.strip() == (
        f"import neuroattn.{name}; the top-level folder {name}/ is not a package of its own"
    )


LOADED = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"


def test_import_is_light():
    loaded = set(python(f"import neuroattn; {LOADED}").split())
    assert "neuroattn" in loaded
    assert not loaded & (LAZY | {"torch", "numpy", "xarray", "sklearn"})


def test_help_is_light():
    code = f"""
import sys
from neuroattn.cli import main
sys.argv = ["neuroattn", "--help"]
try:
    main()
except SystemExit as stopped:
    assert not stopped.code
{LOADED}
"""
    printed = python(code)
    assert "fit-encoder" in printed
    assert not set(printed.splitlines()[-1].split()) & (LAZY | {"torch", "xarray", "sklearn"})


@pytest.mark.parametrize("name", ["kernels", "attention"])
def test_primitives_need_torch_and_numpy_only(name):
    before = set(python(f"import torch, numpy; {LOADED}").split())
    after = set(python(f"import neuroattn.{name}; {LOADED}").split())
    assert after - before - set(sys.stdlib_module_names) == {"neuroattn"}
