"""What is written: commands parse, links lead somewhere, every public name has its place."""

import ast
import importlib.util
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import typer
import typer.main
import xarray as xr
from PIL import Image

import neuroattn
from neuroattn import cli
from neuroattn.analyses.fits import MODELS
from neuroattn.analyses.sources import READOUTS
from neuroattn.attention import ATTENTIONS
from neuroattn.cli import app, main
from neuroattn.datasets import make_nsd_like
from neuroattn.encoding.reference import READOUTS as PUBLISHED_READOUTS
from neuroattn.kernels.benchmarks import run as benchmarks

for verb in pkgutil.iter_modules(cli.__path__):  # each registers its verb, as the command does first
    importlib.import_module(f"neuroattn.cli.{verb.name}")

ROOT = Path(__file__).resolve().parents[2]
BUILT = {"_build", "generated"}
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
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
        if linked.parent.name == "generated":  # from a script
            linked = ROOT / "docs" / "tutorials" / linked.with_suffix(".py").name
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


def test_tables_of_models_and_readouts_are_complete():
    text = (ROOT / "docs" / "explanation" / "encoders.md").read_text(encoding="utf-8")
    models = dict(re.findall(r"^\| `([\w-]+)`, `(\w+)` \|", text, re.MULTILINE))
    assert models == {name: model.__name__ for name, model in MODELS.items()}
    readouts = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", text, re.MULTILINE)
    assert [ours for ours, _ in readouts] == list(READOUTS)
    assert {published for _, published in readouts} == set(PUBLISHED_READOUTS)


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("explanation/encoders.md", ["(60, 4)"]),
        (
            "how-to/new-attention.md",
            ["[8, 16]", "[8, 4]", "[2, 10, 16]) torch.Size([2, 10, 10])", "[2, 10, 16]"],
        ),
    ],
)
def test_python_of_a_page_runs(page, printed, capsys):
    code = "\n".join(blocks(ROOT / "docs" / page, "python"))
    with patch.dict(ATTENTIONS):  # a page may add one
        exec(compile(code, page, "exec"), {"__name__": "page"})
    lines = capsys.readouterr().out.splitlines()
    found = [next((i for i, line in enumerate(lines) if text in line), None) for text in printed]
    assert None not in found, lines


def test_attentions_of_the_page_pass_the_shared_tests(tmp_path):
    page = ROOT / "docs" / "how-to" / "new-attention.md"
    named = [*blocks(page, "python"), "from neuroattn.attention import GATES\nGATES['power'] = PowerGate\n"]
    (tmp_path / "own_attention.py").write_text("\n".join(named), encoding="utf-8")
    commands = [shlex.split(line) for line in shell_lines(page) if line.startswith("python -m pytest")]
    files = [word for words in commands for word in words if word.startswith("tests/")]
    keys = " or ".join(words[words.index("-k") + 1] for words in commands)
    assert len(set(files)) == 4
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "own_attention",
        "-p",
        "no:cacheprovider",
        *files,
        "-k",
        keys,
    ]
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) > 50


INCLUDE = re.compile(r"^:::\{literalinclude\} (\S+)\n(.*?)^:::", re.DOTALL | re.MULTILINE)
INCLUDES = [(page, *found) for page in PAGES for found in INCLUDE.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    ("page", "file", "options"), INCLUDES, ids=lambda value: getattr(value, "name", None)
)
def test_quoted_code_is_there(page, file, options):
    text = (page.parent / file).read_text(encoding="utf-8")
    chosen = dict(re.findall(r"^:([\w-]+): '?(.*?)'?$", options, re.MULTILINE))
    if "pyobject" in chosen:
        assert chosen["pyobject"] in {node.name for node in ast.parse(text).body if hasattr(node, "name")}
        return
    start = text.index(chosen["start-at"])
    assert chosen.get("end-before", chosen.get("end-at")) in text[start + 1 :]


def test_the_page_on_kernels_quotes_every_file_of_an_operator():
    quoted = {Path(file).name for page, file, _ in INCLUDES if page.name == "new-kernel.md"}
    assert quoted >= {"reference.py", "op.py", "_triton.py", "channel_gate.py", "test_channel_gate.py"}


def test_devices_are_those_of_the_commands():
    text = (ROOT / "docs" / "how-to" / "gpus.md").read_text(encoding="utf-8")
    stated = {
        tuple(name.split()): device
        for name, device in re.findall(r"^\| `([\w -]+)` \| `(\w+)` \|$", text, re.M)
    }

    def defaults(command, name=()):
        for word, sub in getattr(command, "commands", {}).items():
            yield from defaults(sub, (*name, word))
        for option in command.params:
            if "--device" in option.opts:
                yield name, option.default

    assert stated == dict(defaults(typer.main.get_command(app)))


def test_every_measurement_has_its_page():
    """Each file of results is shown once, by the directive that reads it when the pages are built."""
    shown = []
    for page in (ROOT / "docs" / "benchmarks").glob("*.md"):
        for names in re.findall(
            r"^:::\{benchmarks\} (.+)\n:::$", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            shown += names.split()
    measured = {path.stem.partition("-")[2] for path in benchmarks.RESULTS.glob("*.json")}
    assert sorted(shown) == sorted(measured)


@pytest.mark.parametrize("page", ["encoders", "eeg", "scanpaths", "search", "manar"])
def test_pages_on_papers_have_the_same_parts(page):
    parts = ["What the paper claims", "What is reproduced", "What differs", "What could not be checked"]
    text = (ROOT / "docs" / "explanation" / f"{page}.md").read_text(encoding="utf-8")
    places = [text.find(f"\n## {part}\n") for part in parts]
    assert places == sorted(places), dict(zip(parts, places, strict=True))
    assert places[0] > 0


def test_figures_of_the_landing_page_show_what_the_pages_say():
    spec = importlib.util.spec_from_file_location("landing", ROOT / "docs" / "landing.py")
    landing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(landing)
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    rows = {"fmri": landing.neurons(), "eeg": landing.decoders(), "gaze": landing.observers()}
    assert [len(found) for found in rows.values()] == [5, 5, 6]
    for name, found in rows.items():
        figure = (ROOT / "docs" / "_static" / f"landing-{name}.svg").read_text(encoding="utf-8")
        assert f"_static/landing-{name}.svg" in index
        shown = slice(1, 3) if name == "eeg" else slice(1, 2)
        written = [f"{value:.2f}" for row in found for value in row[shown] if value is not None]
        assert sorted(re.findall(r">(\d\.\d\d)<", figure)) == sorted(written), "run docs/landing.py"


def test_python_of_the_readme_uses_what_exists():
    code = blocks(ROOT / "README.md", "python")
    assert len(code) == 2
    for node in ast.walk(ast.parse("\n".join(code))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert {alias.name for alias in node.names} <= set(module.__all__)


@pytest.mark.parametrize("script", TUTORIALS, ids=lambda script: script.stem)
def test_tutorials_use_public_names(script):
    """The build of the documentation runs them."""
    assert script.stem.startswith("plot_"), "the gallery would not run it"
    text = script.read_text(encoding="utf-8")
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    assert any(node.module.startswith("neuroattn.") for node in imported)
    for node in imported:
        if node.module.startswith("neuroattn"):
            module = importlib.import_module(node.module)
            assert {alias.name for alias in node.names} <= set(module.__all__), node.module
    for name in re.findall(r"`~?(neuroattn(?:\.\w+)+)`", text):
        assert pkgutil.resolve_name(name) is not None


@pytest.mark.parametrize("script", TUTORIALS, ids=lambda script: script.stem)
def test_figures_of_tutorials_are_handed_to_pyplot(script):
    """The gallery shows the figures that pyplot knows, and ours are made without it."""
    code = script.read_text(encoding="utf-8")
    drawn = re.findall(r"^.*?(?<!mne\.viz\.)\bplot_\w+\(", code, re.MULTILINE)
    assert [line for line in drawn if "plt.figure(plot_" not in line] == []
    assert re.search(r"\bplt\.(figure|subplots)\(", code)


def test_names_in_prose_exist():
    """``neuroattn.x.y`` in back quotes is a module or a public name."""
    for page in PAGES:
        for name in re.findall(r"`(neuroattn(?:\.\w+)+)[`(]", page.read_text(encoding="utf-8")):
            item = neuroattn
            for part in name.split(".")[1:]:
                item = getattr(item, part, None)
            assert item is not None, f"{page.name}: {name}"


def test_readme_names_all_five_papers():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for paper in ("2505.17329", "Wimpff", "Fang", "Gupta", "2603.18676"):
        assert paper in text


def test_table_of_the_readme_is_that_of_the_measurements():
    """Speeds are generated, never typed."""
    command = [sys.executable, str(ROOT / "kernels" / "benchmarks" / "run.py"), "--table"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in (ROOT / "README.md").read_text(encoding="utf-8")


# The page on NSD runs on a simulated subject and a small network: options given last win.
NSD_PAGE = ROOT / "docs" / "how-to" / "nsd.md"
NETWORK = "--backbone test_vit --weights random --image-size 32 --device cpu"
SMALLER = {
    "make-data": "--n-train 40 --n-test 20 --sessions 6",
    "doctor": "",
    "extract-features": f"{NETWORK} --layers block1,block3",
    "fit-encoder": f"{NETWORK} --layers 1,3 --epochs 2 --seeds 1 --shuffles 19 --workers 0",
    "eval-encoder": "--device cpu --shuffles 19",
    "attention-maps": "--device cpu --model attention@block3",
}


def tokens(images):
    return images[:, ::32, ::32].transpose(0, 3, 1, 2).astype("f4")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder and return what it says."""
    monkeypatch.chdir(tmp_path)

    def run(words):
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        assert not stopped.value.code, (words, said.err)
        return said.out

    return run


def test_commands_of_the_page_on_nsd_run_one_after_the_other(run, monkeypatch, tmp_path):
    def make(network, cache, *, n_train, n_test, seed, progress):
        rois = ["V1v", "EBA", "FFA-1"]
        return make_nsd_like(n_train, n_test, seed=seed, features=tokens, rois=rois, vertices_per_roi=4)

    (tmp_path / "photos").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")

    commands = [shlex.split(line) for line in shell_lines(NSD_PAGE) if line.startswith("neuroattn ")]
    assert {words[1] for words in commands} == set(SMALLER)
    said, stores = {}, {}
    for words in commands:
        verb = words[1]
        with monkeypatch.context() as patch:
            if verb == "make-data":  # planted on pixels, as the demo network takes long
                patch.setattr("neuroattn.analyses.demo.make_demo_recording", make)
                patch.setattr("neuroattn.encoding.load_backbone", lambda name: None)
            said[verb, "--dry-run" in words] = run([*words, *SMALLER[verb].split()])
        stores[verb] = set(tmp_path.glob("features/*/*.json"))

    assert "nsd: subject 1, fsaverage" in said["doctor", False]
    assert "nothing was written" in said["fit-encoder", True]
    assert stores["extract-features"]
    assert stores["fit-encoder"] == stores["extract-features"]  # the fit found the features
    scores = xr.load_dataset("subj01/scores.nc", engine="h5netcdf")
    assert {"attention@block3", "attention@ensemble", "ridge@block1"} <= set(scores.model.values)
    assert Path("subj01/report.html").is_file()
    assert list(Path("subj01/maps").glob("*.gii"))
    assert xr.load_dataset("unseen/scores.nc", engine="h5netcdf").attrs["n_fitted"] > 0
    maps = xr.open_zarr("maps/attention.zarr", consolidated=False, chunks=None).attention
    assert set(maps.roi.values) == {"FFA-1", "EBA"}
    assert maps.sizes["stimulus"] == 3
