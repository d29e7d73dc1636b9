"""What a release states: one version, what it was tested with, a card for each model and a sheet for each data set."""

import importlib.util
import inspect
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import neuroattn
from neuroattn import attention, datasets, eeg, encoding, scanpath, search
from neuroattn._references import KINDS, MODELS, REFERENCES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CARDS = {
    "encoders": "Encoders",
    "eeg": "EEG decoders",
    "scanpaths": "Scanpath models",
    "search": "Searchers",
    "attention-layers": "Attention layers",
    "networks": "Image networks",
}
CARD = ["Intended use", "Not for", "Inputs and outputs", "Training data", "Results", "Limits", "Citation"]
SHEET = [
    "What it is", "Made by", "Licence", "Where it says so", "Read by", "What is read", "Splits", "Known defects",
    "Tested on", "Cite",
]  # fmt: skip
SHEETS = sorted(path for path in (DOCS / "data").glob("*.md") if path.stem != "index")


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def rows(text):
    """Return the first two cells of each row of the tables."""
    return dict(re.findall(r"^\| ([^|]+) \| (.*?) \|", text, re.MULTILINE))


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


def sections(text):
    """Return the text below each heading of the second level."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# -- versions


def test_version_is_stated_once_and_repeated_rightly():
    version = neuroattn.__version__
    assert "version" in PROJECT["dynamic"]
    assert "version" not in PROJECT
    assert re.findall(r"^version: (\S+)$", read("CITATION.cff"), re.MULTILINE) == [version]
    (newest, *_) = re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert newest == version.partition(".dev")[0]
    minor = ".".join(version.split(".")[:2])
    for page in ("README.md", "docs/index.md"):
        assert set(re.findall(r"[Vv]ersion (\d+\.\d+)\b", read(page))) <= {minor}, page


def test_citation_file_names_the_papers_of_the_five_systems():
    text = read("CITATION.cff")
    papers = [
        REFERENCES[key] for name in ("attention", "basenet", "oat", "eccnet", "manar") for key in MODELS[name]
    ]
    titles = re.findall(r"^    title: \"?(.+?)\"?$", text, re.MULTILINE)
    assert titles == [paper.title for paper in papers]
    cited = [
        re.findall(r"family-names: (.+)", part)
        for part in text.split("references:")[1].split("  - type: ")[1:]
    ]
    for families, paper in zip(cited, papers, strict=True):
        assert families == [re.sub(r" [A-Z-]+$", "", name) for name in paper.authors.split(", ")]


REQUIRED = [Requirement(text) for text in PROJECT["dependencies"]]
OPTIONAL = {
    Requirement(text).name: (Requirement(text), extra)
    for extra, texts in PROJECT["optional-dependencies"].items()
    if extra not in ("dev", "docs")
    for text in texts
}


@pytest.fixture(scope="module")
def release():
    """Return the script of ``make release-check``, which reads the table of versions too."""
    spec = importlib.util.spec_from_file_location(
        "check_release", Path(__file__).with_name("check_release.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_of_versions_is_that_of_the_project(release):
    text = read("docs/supported-versions.md")
    declared = re.findall(r"^\| `([\w-]+)` \| (\S+) \| (not run|\S+) \|(?: `(\w+)` \|)?$", text, re.MULTILINE)
    table = {name: (bound, extra) for name, bound, _, extra in declared}
    wanted = {item.name: (str(item.specifier) or "any", "") for item in REQUIRED}
    wanted |= {name: (str(item.specifier) or "any", extra) for name, (item, extra) in OPTIONAL.items()}
    assert table == wanted
    tested = release.tested_versions(text)
    assert set(table) - set(tested) == {name for name, _, version, _ in declared if version == "not run"}
    for name, version in tested.items():
        assert SpecifierSet("" if table[name][0] == "any" else table[name][0]).contains(version), name


def test_pythons_that_are_claimed_are_those_that_were_run():
    python = re.search(
        r"^\| Python \| (\S+) or newer \| ([\d., ]+) \|", read("docs/supported-versions.md"), re.MULTILINE
    )
    assert PROJECT["requires-python"] == f">={python[1]}"
    classified = [text.split(" :: ")[-1] for text in PROJECT["classifiers"] if "Python :: 3." in text]
    assert classified == python[2].split(", ")


# -- cards


def card(name):
    return read(f"docs/models/{name}.md")


@pytest.mark.parametrize("name", CARDS)
def test_card_has_every_part_and_its_names(name):
    text = card(name)
    assert list(sections(text)) == CARD
    assert set(quoted(rows(text)["Names"])) == set(KINDS[CARDS[name]])
    assert all(body.strip() for body in sections(text).values())


def test_card_of_eeg_names_every_channel_attention():
    assert quoted(rows(card("eeg"))["Channel attention"]) == list(KINDS["Channel attention"])


def test_every_card_is_in_the_index():
    cards = {path.stem for path in (DOCS / "models").glob("*.md")} - {"index"}
    assert cards == set(CARDS) == set(re.findall(r"\]\(([\w-]+)\.md\)", read("docs/models/index.md")))


def public_models():
    """Return the classes that fit, decode, search or attend, by their public names."""
    bases = {
        encoding: encoding.Encoder,
        scanpath: scanpath.ScanpathModel,
        eeg: (eeg.BaseNet, eeg.MotorImageryClassifier, eeg.StreamingDecoder),
        attention: attention.AttentionLayer,
        search: (search.EccNet, search.PixelMatch, search.RandomSearch),
    }
    faces = {"Encoder", "NetworkEncoder", "ScanpathModel", "PixelModel", "AttentionLayer"}
    for package, base in bases.items():
        for name in set(package.__all__) - faces:
            item = getattr(package, name)
            if inspect.isclass(item) and issubclass(item, base):
                yield f"{package.__name__}.{name}"


def test_every_model_has_a_card():
    carded = {name for stem in CARDS for name in quoted(rows(card(stem))["Classes"])}
    models = set(public_models())
    assert len(models) > 30
    assert models <= carded


@pytest.mark.parametrize("name", CARDS)
def test_numbers_of_a_card_are_those_of_the_pages_it_links(name):
    results = sections(card(name))["Results"]
    linked = [DOCS / "models" / target for target in re.findall(r"\]\(([^)#]+\.md)", results)]
    text = "\n".join(page.read_text(encoding="utf-8") for page in linked)
    numbers = re.findall(r"(?<![\w.])[+-]?\d*\.\d+", results)
    assert linked
    assert [number for number in numbers if number not in text] == []


@pytest.mark.parametrize("name", CARDS)
def test_models_of_a_citation_are_on_the_card(name):
    (line,) = re.findall(r"^neuroattn cite (.+)$", card(name), re.MULTILINE)
    named = {part for word in line.split() for part in word.split("+")}
    assert named <= {*KINDS[CARDS[name]], *KINDS["Channel attention"]}


# -- sheets


@pytest.mark.parametrize("path", SHEETS, ids=lambda path: path.stem)
def test_sheet_has_every_row(path):
    for heading, body in sections(path.read_text(encoding="utf-8")).items():
        table = rows(body)
        assert list(table) == SHEET, heading
        assert all(cell.strip() for cell in table.values()), heading


def test_every_reader_and_maker_has_a_sheet():
    read_by = " ".join(
        rows(body)["Read by"]
        for path in SHEETS
        for body in sections(path.read_text(encoding="utf-8")).values()
    )
    wanted = {
        name
        for name in datasets.__all__
        if name.startswith(("load_", "make_", "simulate_", "inspect_", "read_", "list_"))
    }
    assert len(wanted) > 15
    assert wanted <= set(quoted(read_by))


def test_every_sheet_is_in_the_index():
    assert {path.stem for path in SHEETS} == set(
        re.findall(r"^\| \[[^]]+\]\((\w+)\.md\)", read("docs/data/index.md"), re.MULTILINE)
    )
