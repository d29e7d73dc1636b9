"""What is written: commands parse, links lead somewhere, every public name has its place."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import typer.main

import neuroattn
from neuroattn.cli import app

# Registering the verbs is what the command does first.
from neuroattn.cli import (  # noqa: F401  # isort: skip
    attention_maps,
    decode_eeg,
    decode_eeg_study,
    doctor,
    eval_encoder,
    extract_features,
    fit_encoder,
    make_data,
)

ROOT = Path(__file__).resolve().parents[2]
BUILT = {"_build", "generated"}
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted(path for path in (ROOT / "docs").rglob("*.md") if not BUILT & set(path.parts))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page, language):
    return [code for name, code in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def shell_lines(page):
    """Return the lines of shell blocks, continued lines joined."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip()]


COMMANDS = [(page, line) for page in PAGES for line in shell_lines(page) if line.startswith("neuroattn ")]
MAKE = [
    (page, word)
    for page in PAGES
    for word in re.findall(r"\bmake ([a-z-]+)\b`?", "\n".join(shell_lines(page)))
]


def parse(line):
    """Parse a command without running it."""
    command, words = typer.main.get_command(app), shlex.split(line)[1:]
    context = command.make_context("neuroattn", list(words), resilient_parsing=False)
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        context = command.make_context(name, list(words), parent=context)
    return command


def anchors(page):
    """Return the anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_is_something_to_check():
    verbs = {line.split()[1] for _, line in COMMANDS}
    assert verbs == set(typer.main.get_command(app).commands)
    assert MAKE


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: getattr(value, "name", None))
def test_commands_parse(page, line):
    parse(line)


def test_a_wrong_command_does_not_parse():
    with pytest.raises(typer.TyperException, match="--telepathy"):
        parse("neuroattn fit-encoder --out o --telepathy")


@pytest.mark.parametrize(("page", "target"), MAKE, ids=lambda value: getattr(value, "name", None))
def test_make_targets_exist(page, target):
    assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name) if name else page
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_page_is_in_a_table_of_contents():
    docs = ROOT / "docs"
    listed = {docs / "index.md"}
    for page in PAGES:
        for body in blocks_of_contents(page):
            for entry in body.split():
                if not entry.startswith(":"):
                    listed |= set(page.parent.glob(f"{entry}.md"))
    assert {page for page in PAGES if docs in page.parents} == listed


def blocks_of_contents(page):
    return re.findall(
        r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def test_every_public_name_is_in_the_reference():
    """A page documents what its package lists in ``__all__``; automodule leaves out what has no docstring."""
    for name in neuroattn._SUBMODULES:
        page = ROOT / "docs" / "reference" / f"{name}.md"
        assert f".. automodule:: neuroattn.{name}\n   :members:\n" in page.read_text(), name
        module = importlib.import_module(f"neuroattn.{name}")
        assert module.__doc__
        for public in module.__all__:
            assert getattr(module, public).__doc__, public


def test_python_of_the_quick_start_runs(capsys):
    (code,) = blocks(ROOT / "docs" / "quickstart.md", "python")
    exec(compile(code, "quickstart.md", "exec"), {"__name__": "quickstart"})
    assert "'query': 2" in capsys.readouterr().out


def test_python_of_the_readme_uses_what_exists():
    (code,) = blocks(ROOT / "README.md", "python")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert {alias.name for alias in node.names} <= set(module.__all__)


def test_names_in_prose_exist():
    """``neuroattn.x.y`` in back quotes is a module or a public name."""
    for page in PAGES:
        for name in re.findall(r"`(neuroattn(?:\.\w+)+)[`(]", page.read_text(encoding="utf-8")):
            item = neuroattn
            for part in name.split(".")[1:]:
                item = getattr(item, part, None)
            assert item is not None, f"{page.name}: {name}"


def test_version_is_the_same_everywhere():
    version = neuroattn.__version__
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_readme_names_all_five_papers():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for paper in ("2505.17329", "Wimpff", "Fang", "Gupta", "2603.18676"):
        assert paper in text


def test_table_of_the_readme_is_that_of_the_measurements():
    """Speeds are generated, never typed."""
    command = [sys.executable, str(ROOT / "kernels" / "benchmarks" / "run.py"), "--table"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in (ROOT / "README.md").read_text(encoding="utf-8")
