"""cite: every model has its paper, and the entries are whole."""

import re
import sys

import pytest

import neuroattn.cli
from neuroattn._references import MODELS, REFERENCES, references_of
from neuroattn.analyses.fits import MODELS as ENCODERS
from neuroattn.attention import GATES
from neuroattn.eeg.baselines import BASELINES

OWN = {"slow-signals"}  # a control of ours, from no paper


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["neuroattn", "cite", *arguments])
        with pytest.raises(SystemExit) as stopped:
            neuroattn.cli.main()
        return (stopped.value.code or 0, *capsys.readouterr())

    return run


def test_every_model_and_gate_can_be_cited():
    assert {*ENCODERS, *GATES, *BASELINES} - OWN <= set(MODELS)
    assert {key for keys in MODELS.values() for key in keys} <= set(REFERENCES)


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
    assert run()[1].startswith("Models: attention, ")


def test_unknown_models_are_refused_in_one_line(run):
    code, _, err = run("basenet+ecca")
    assert code == 2
    assert err.startswith("Error: model 'ecca' is unknown; nearest are 'eca'")
    assert len(references_of("oat")) == 1
