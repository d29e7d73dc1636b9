"""Commands of a user whose home cannot be written: caches of all libraries are there by default."""

import json
import os
import subprocess
import sys

import pytest

from .cells import cell
from .outcomes import files
from .verbs import BY_NAME

SCRIPT = """
import contextlib, functools, io, json, shlex, sys
from neuroattn import cli
from neuroattn.analyses import demo

demo.make_demo_recording = functools.partial(demo.make_demo_recording, n_train=16, n_test=8)
said = {}
for name, line in json.load(open(sys.argv[1])).items():
    sys.argv[1:] = shlex.split(line)
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            said[name] = end.code or 0, err.getvalue()
print(json.dumps(said))
"""
DEMO = "fit-encoder --demo"
WORKS = "works"
BESIDE = "works; features are kept in OUT.features, which is said"
CELLS = {
    DEMO: BESIDE,
    "extract-features": "one line that names the folder; --cache gives another",
} | dict.fromkeys(("decode-eeg fit", "predict-scanpath sample", "search run", "make-data scanpaths"), WORKS)


@pytest.fixture(scope="module")
def said(inputs, tmp_path_factory):
    """What each command says and leaves where the home lies below a file, which even root cannot change."""
    folder = tmp_path_factory.mktemp("homeless")
    (folder / "file").touch()
    lines = {name: BY_NAME[name].line(folder / name.replace(" ", "-")) for name in CELLS if name != DEMO}
    lines[DEMO] = f"{DEMO} --model ridge --shuffles 19 --out {folder / 'demo'}"
    lines["extract-features"] = lines["extract-features"].partition("--cache")[0]
    (folder / "lines.json").write_text(json.dumps(lines))
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("XDG_", "HF_", "MNE_", "NILEARN_", "TORCH_", "MPLCONFIG"))
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / "lines.json")],
        cwd=inputs,
        env=own | {"HOME": str(folder / "file" / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "name",
    [cell("verb", name, "home that cannot be written", outcome, name) for name, outcome in CELLS.items()],
)
def test_home_cannot_be_written(said, name):
    folder, results = said
    code, err = results[name]
    if name == "extract-features":
        assert (code, err.count("\n")) == (2, 1), err
        assert err.startswith("Error: features cannot be written to ")
        return
    assert code == 0, err
    assert "Traceback" not in err
    if name == DEMO:
        assert f"features are kept in {folder / 'demo'}.features\n" in err
        assert (folder / "demo" / "report.html").is_file()
        assert list((folder / "demo.features").iterdir())
    else:
        assert files(folder / name.replace(" ", "-"))
