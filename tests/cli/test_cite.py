"""cite: every model has its paper, and the entries are whole."""

import inspect
import re
import sys
from functools import partial

import pytest

import neuroattn.cli
from neuroattn import eeg, encoding, metrics, scanpath, search
from neuroattn._references import KINDS, MODELS, REFERENCES, references_of
from neuroattn.analyses.fits import MODELS as ENCODERS
from neuroattn.analyses.scanpath_runs import SIMPLE_MODELS
from neuroattn.attention import ATTENTIONS, GATES
from neuroattn.eeg.baselines import BASELINES

#: What has no table of names of its own.
OTHERS = {
    "shared-attention": encoding.SharedBrainEncoder,
    "basenet": eeg.BaseNet,
    "oat": scanpath.ObjectAttentionTransformer,
    "saliency-sampling": scanpath.SaliencySampling,
    "gold-standard": scanpath.gold_standard,
    "eccnet": search.EccNet,
    "pixel-match": search.PixelMatch,
    "random-search": search.RandomSearch,
}
METRICS = {name: getattr(metrics, name) for name in metrics.__all__ if name != "Simplification"}  # an option
NAMED = {
    "Encoders": ENCODERS,
    "EEG decoders": dict.fromkeys(BASELINES, eeg.baseline),
    "Channel attention": {
        name: gate.func if isinstance(gate, partial) else gate for name, gate in GATES.items()
    },
    "Attention layers": ATTENTIONS,
    "Scanpath models": {name: type(model) for name, model in SIMPLE_MODELS.items()},
    "Metrics": METRICS,
}
CITED = [(name, item) for items in [*NAMED.values(), OTHERS] for name, item in items.items()]
ENTRY = re.compile(r"\.\. \[\d\] (.+?) \((\d{4})\)")


def families(authors):
    """Return the families of "Fang, Yu & Shi" or "Fang et al."; the latter says no more than the first."""
    return re.split(r", | & ", authors.removesuffix(" et al."))


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["neuroattn", "cite", *arguments])
        with pytest.raises(SystemExit) as stopped:
            neuroattn.cli.main()
        return (stopped.value.code or 0, *capsys.readouterr())

    return run


@pytest.mark.parametrize("kind", NAMED)
def test_everything_with_a_name_can_be_cited(kind):
    assert set(NAMED[kind]) <= set(KINDS[kind])


def test_public_models_have_a_name_to_be_cited_by():
    """A class is met under one name at least; the faces that models share are not."""
    classes = {item for _, item in CITED}
    for package, base in ((encoding, encoding.Encoder), (scanpath, scanpath.ScanpathModel)):
        for name in set(package.__all__) - {"Encoder", "NetworkEncoder", "ScanpathModel", "PixelModel"}:
            item = getattr(package, name)
            if inspect.isclass(item) and issubclass(item, base):
                assert item in classes, name


def test_each_entry_is_used_and_exists():
    cited = {key for keys in MODELS.values() for key in keys}
    assert cited <= set(REFERENCES)
    assert sum(map(len, KINDS.values())) - len(MODELS) == 1  # "probe", an encoder and a layer
    assert KINDS["Encoders"]["probe"] == KINDS["Attention layers"]["probe"]


@pytest.mark.parametrize(("name", "item"), CITED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_cited_is_the_first_reference_of_the_docstring(name, item):
    entries = ENTRY.findall(inspect.getdoc(item) or "")
    cited = {(reference.authors.split(" ")[0], str(reference.year)) for reference in references_of(name)}
    if entries and item is not eeg.baseline:  # one function, several papers
        authors, year = entries[0]
        assert any(families(authors)[0].startswith(family.rstrip(",")) and year == y for family, y in cited)


def test_authors_are_the_same_in_docstrings_and_entries():
    checked = 0
    for _, item in CITED:
        for authors, year in ENTRY.findall(inspect.getdoc(item) or ""):
            named = families(authors)
            same = [r for r in REFERENCES.values() if r.authors.startswith(named[0]) and str(r.year) == year]
            assert same, (authors, year)
            assert any("et al." in r.authors or all(name in r.authors for name in named) for r in same), (
                authors
            )
            checked += 1
    assert checked > 40


def test_text_names_the_software_and_each_paper_once(run):
    code, out, _ = run("basenet+eca", "basenet+se")
    assert code == 0
    lines = out.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["The", "Wimpff", "Wang", "Hu"]
    assert lines[1].endswith("https://doi.org/10.1088/1741-2552/ad48b9")


def test_bibtex_entries_are_balanced_and_keyed(run):
    out = run(*MODELS, "--bibtex")[1]
    entries = re.findall(r"^@(?:article|software)\{(\w+),\n((?:  .*\n)+)\}$", out, flags=re.M)
    assert len(entries) == len(re.findall("^@", out, flags=re.M))
    assert [key for key, _ in entries] == ["neuroattn", *dict.fromkeys(k for m in MODELS for k in MODELS[m])]
    for key, body in entries:
        assert body.count("{") == body.count("}"), key


def test_without_a_model_the_names_are_listed(run):
    listed = dict(line.split(": ", 1) for line in run()[1].splitlines())
    assert {kind: names.split(", ") for kind, names in listed.items()} == {
        k: list(v) for k, v in KINDS.items()
    }


def test_what_comes_from_no_paper_says_so(run):
    _, out, _ = run("slow-signals", "eca")
    lines = out.splitlines()
    assert lines[1] == "slow-signals comes from no paper: cite neuroattn alone."
    assert len(lines) == 3


def test_unknown_models_are_refused_in_one_line(run):
    code, _, err = run("basenet+ecca")
    assert code == 2
    assert err.startswith("Error: model 'ecca' is unknown; nearest are 'eca'")
    assert len(references_of("oat")) == 1
