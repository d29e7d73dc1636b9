"""Commands that are asked for what cannot be: one line, and what exists stays."""

import pytest
from huggingface_hub.errors import HTTPError

from .cells import cell
from .outcomes import contents
from .verbs import BY_NAME, VERBS

REFUSED = "one line; what exists stays, nothing is written"


def refused(code, err):
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith("Error: ")


@pytest.mark.parametrize("verb", [cell("verb", verb.name, "bad arguments", REFUSED, verb) for verb in VERBS])
def test_bad_arguments(verb, run, tmp_path, inputs):
    before, out = contents(inputs), tmp_path / "out"
    for line, said in (
        (f"{verb.line(out)} --telepathy", "No such option: --telepathy"),
        (verb.line("").strip(), f"Option '{verb.target}' requires an argument"),
        (f"{verb.line(out)} {WRONG[verb.name][0]}", WRONG[verb.name][1]),
    ):
        code, err = run(line)
        refused(code, err)
        assert said in err
    assert not out.exists()
    assert contents(inputs) == before


# A value of an option, or a file, that cannot be, and what is said.
WRONG = {
    "fit-encoder": ("--split test=40", "must leave stimuli on both sides of 40"),
    "extract-features": ("--layers block99", "layer 'block99' is unknown"),
    "eval-encoder": ("--responses responses.npy", "has 40 stimuli"),
    "attention-maps": ("--model probe", "model must be one of"),
    "make-data algonauts": ("--n-train one", "Invalid value for '--n-train'"),
    "make-data nsd": ("--subject 9", "subject must be a whole number between 1 and 8, got 9"),
    "make-data scanpaths": ("--layout objar", "layout must be one of"),
    "decode-eeg fit": ("--band 30-8", "--band must be LOW-HIGH with 0 < LOW < HIGH"),
    "decode-eeg predict": ("nowhere.fif", "nowhere.fif does not exist"),
    "decode-eeg study": ("--window 1,9", "crop must lie within"),
    "predict-scanpath sample": ("--n 0", "n must be at least 1, got 0"),
    "predict-scanpath fit": ("--test-size 1.5", "test_size must be a share between 0 and 1"),
    "predict-scanpath evaluate": ("--folds 1", "--folds must be at least 2, got 1"),
    "search run": ("--box 0,0,99,99", "--box must lie within the image"),
    "search asymmetry": ("--trials 0", "--trials must be at least 1, got 0"),
    "compare-attention": ("--attention softmx", "--attention 'softmx' is unknown"),
}


@pytest.mark.parametrize(
    "verb", [cell("verb", verb.name, f"{verb.target} is a file", REFUSED, verb) for verb in VERBS]
)
def test_a_file_has_the_name_of_the_results(verb, run, tmp_path):
    out = tmp_path / "out"
    out.write_text("years of work")
    code, err = run(verb.line(out))
    assert (code, len([line for line in err.splitlines() if line.startswith("Error: ")])) == (2, 1), err
    assert str(out) in err
    assert contents(tmp_path) == {"out": b"years of work"}


KEPT = {
    "eval-encoder": "written beside them; they stay",
    "extract-features": "written beside them; they stay",
}
KEPT |= {"make-data algonauts": "written beside them; they stay"}


@pytest.mark.parametrize(
    "verb",
    [
        cell("verb", verb.name, f"{verb.target} holds other files", KEPT.get(verb.name, REFUSED), verb)
        for verb in VERBS
        if verb.name != "decode-eeg predict"  # which writes one file
    ],
)
def test_other_files_lie_where_results_should(verb, run, tmp_path):
    (tmp_path / "out" / "subj01").mkdir(parents=True)
    thesis = tmp_path / "out" / "thesis.txt"
    thesis.write_text("years of work")
    if verb.name in KEPT:
        (tmp_path / "out" / "subj01").rmdir()
    code, err = run(verb.line(tmp_path / "out"))
    assert thesis.read_text() == "years of work"
    if verb.name in KEPT:
        assert code == 0, err
        assert len(contents(tmp_path)) > 1
    else:
        refused(code, err)
        assert contents(tmp_path) == {"out/thesis.txt": b"years of work"}


@pytest.mark.parametrize(
    "verb",
    [cell("verb", verb.name, "--resume of another study", REFUSED, verb) for verb in VERBS if verb.resume],
)
def test_the_results_of_another_study_are_there(verb, run, whole):
    out, _ = whole(verb)
    before = contents(out)
    seed = "--until-target" if verb.name == "predict-scanpath fit" else ""
    code, err = run(f"{verb.line(out)} {verb.resume} --seed 7 {seed}")
    refused(code, err)
    assert "holds a study with another" in err
    code, err = run(verb.line(out))
    refused(code, err)
    assert "give --resume" in err
    assert contents(out) == before


DOWNLOADS = ("fit-encoder", "extract-features", "search run", "search asymmetry")
GIVE_A_FILE = "one line that names the file to give instead"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Nothing is stored, and no time is lost before it is tried again."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


def refuses_to_download(run, verb, out):
    line = verb.line(out).replace("--weights random", "").replace("--layers block1,block3", "")
    code, err = run(f"{line} --backbone resnet18")
    refused(code, err)
    assert "weights of resnet18 cannot be downloaded" in err
    assert "give weights=FILE, for instance model.safetensors of https://huggingface.co/timm/resnet18." in err
    assert not out.exists()


@pytest.mark.parametrize(
    "verb", [cell("verb", name, "no network", GIVE_A_FILE, BY_NAME[name]) for name in DOWNLOADS]
)
def test_weights_cannot_be_downloaded(verb, run, tmp_path, offline):
    refuses_to_download(run, verb, tmp_path / "out")


@pytest.mark.parametrize(
    "verb", [cell("verb", name, "a proxy that refuses", GIVE_A_FILE, BY_NAME[name]) for name in DOWNLOADS]
)
def test_a_proxy_refuses(verb, run, tmp_path, offline, monkeypatch):
    def refuse(*args, **options):
        raise HTTPError("403 Forbidden")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    refuses_to_download(run, verb, tmp_path / "out")
