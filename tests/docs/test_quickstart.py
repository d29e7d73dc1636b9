"""The quick start, command after command as a newcomer types it, on smaller data and an untrained network."""

import re
import shlex
from pathlib import Path

import pytest

from neuroattn.cli import main
from neuroattn.datasets import make_nsd_like

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
NETWORK = "--backbone test_vit --weights random --image-size 32 --device cpu --epochs 1 --shuffles 19"
# Options given last win.
SMALLER = {
    "doctor": "",
    "fit-encoder": NETWORK,
    "make-data algonauts": "",
    "make-data scanpaths": "",
    "decode-eeg fit": "--permutations 3",
    "decode-eeg predict": "",
    "search run": "",
    "predict-scanpath sample": "",
}
NUMBER = re.compile(r"-?\d*\.?\d+")


def commands(block):
    """Return the words of each command of neuroattn in a block."""
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("neuroattn ")]


def same_but_for_numbers(line):
    """Return a pattern of what a command prints, in which any number, any size and any "…" is the same."""
    words = [re.escape(NUMBER.sub("0", word)).replace("0", NUMBER.pattern) for word in line.split()]
    return r"\s+".join(r"\w*B" if word == "MB" else word for word in words).replace("…", ".*?")


def tokens(images):
    return images[:, ::32, ::32].transpose(0, 3, 1, 2).astype("f4")


def make(network, cache, *, seed, n_train=24, n_test=16, progress=None):
    rois = ["V1v", "FFA-1", "OFA"]
    return make_nsd_like(100, 20, seed=seed, features=tokens, rois=rois, vertices_per_roi=4)


def test_quick_start_runs_from_its_first_line_to_its_last(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("neuroattn.analyses.demo.make_demo_recording", make)
    said, run, compared = "", [], 0
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "quickstart.md", "exec"), {"__name__": "page"})
            said = capsys.readouterr().out
        elif language == "bash" and (found := commands(block)):
            for words in found:
                (verb,) = (verb for verb in SMALLER if words[: len(verb.split())] == verb.split())
                monkeypatch.setattr("sys.argv", ["neuroattn", *words, *SMALLER[verb].split()])
                with pytest.raises(SystemExit) as stopped:
                    main()
                captured = capsys.readouterr()
                assert not stopped.value.code, (words, captured.err)
                said += captured.out
                run.append(verb)
        elif language == "text":
            for line in block.splitlines():
                if not set("┃│") & set(line) and line.strip() != "…":  # tables have other regions here
                    assert re.search(same_but_for_numbers(line), said, re.DOTALL), (line, said)
                    compared += 1
            said = ""
    assert set(run) == set(SMALLER)
    assert compared > 25
    assert "'query': 2" in said  # of the last block
    for name in ("demo/report.html", "mine/report.html", "subj01/report.html", "eeg/report.html"):
        assert Path(name).is_file()
    for name in ("ring/search.png", "paths/scanpaths.png", "people.png"):
        assert Path(name).stat().st_size > 5000


def test_what_a_command_prints_is_compared_but_for_its_numbers():
    pattern = same_but_for_numbers("380 stimuli, about 3.5 s in …, r .063")
    assert re.search(pattern, "40 stimuli,  about 12 s\n in /tmp/x, r .5")
    assert not re.search(pattern, "40 images, about 12 s in /tmp/x, r .5")
