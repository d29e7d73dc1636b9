"""``neuroattn predict-scanpath``: from files to paths, models and scores, and what it refuses."""

import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

from neuroattn.cli import main
from neuroattn.datasets import make_search_arrays, write_scanpaths

TINY = ("--appearance", "none", "--dim", 8, "--layers", 1, "--epochs", 2, "--samples", 1, "--device", "cpu")
OBJECTS = (
    "x,y,width,height,label\n40,60,90,70,cup\n200,30,60,80,fork\n350,200,100,90,plate\n60,260,80,60,cup\n"
)


def call(monkeypatch, *words):
    """Run the command; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["neuroattn", "predict-scanpath", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scanpaths")
    data = make_search_arrays(n_scenes=15, n_observers=3, seed=0)
    write_scanpaths(data, folder / "arrays", layout="coco-search18")
    (folder / "objects.csv").write_text(OBJECTS)
    Image.fromarray(np.full((360, 480, 3), 90, np.uint8)).save(folder / "desk.png")
    patch = pytest.MonkeyPatch()
    words = ("fit", folder / "arrays", "--target", "label", *TINY, "--out", folder / "fitted")
    assert call(patch, *words) == 0
    patch.undo()
    return folder


def test_a_model_by_name_draws_paths_at_once(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "desk"
    words = ("--image", folder / "desk.png", "--target", "fork", "--n", 8, "--seed", 3)
    assert call(monkeypatch, "sample", folder / "objects.csv", *words, "--out", out) == 0
    assert "was fitted to simulated searches" in capsys.readouterr().out
    written = ["report.html", "scanpaths.csv", "scanpaths.nc", "scanpaths.png"]
    assert sorted(path.name for path in out.iterdir()) == written
    assert "The model was fitted to simulated searches" in (out / "report.html").read_text(encoding="utf-8")
    table = pd.read_csv(out / "scanpaths.csv")
    samples = xr.load_dataset(out / "scanpaths.nc", engine="h5netcdf")
    assert samples.sizes["sample"] == 8
    assert len(table) == int(samples.length.sum())
    assert set(table["sample"]) <= set(range(8))
    boxes = pd.read_csv(folder / "objects.csv").iloc[table.object].reset_index()
    assert (table.label == boxes.label).all()
    np.testing.assert_allclose(table.x, boxes.x + boxes.width / 2)
    assert samples.attrs["fitted_to"].startswith("simulated")
    with Image.open(out / "scanpaths.png") as figure:
        assert np.asarray(figure.convert("L")).std() > 5
    again = tmp_path / "again"
    assert call(monkeypatch, "sample", folder / "objects.csv", *words, "--out", again) == 0
    pd.testing.assert_frame_equal(table, pd.read_csv(again / "scanpaths.csv"))


def test_the_target_draws_fixations(folder, tmp_path, monkeypatch):
    shares = {}
    for name, words in {"label": ("--target", "plate"), "row": ("--target-row", 2), "none": ()}.items():
        out = tmp_path / name
        words = ("--size", "480x360", "--n", 300, "--max-fixations", 1, *words, "--out", out)
        assert call(monkeypatch, "sample", folder / "objects.csv", *words) == 0
        shares[name] = (pd.read_csv(out / "scanpaths.csv").object == 2).mean()
    assert shares["label"] == shares["row"] > shares["none"] + 0.15


def test_a_fitted_model_and_options_of_sampling(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "desk"
    words = ("--size", "480x360", "--target", "cup", "--model", folder / "fitted", "--n", 30, "--no-return")
    assert call(monkeypatch, "sample", folder / "objects.csv", *words, "--out", out) == 0
    assert "was fitted to the data of" in capsys.readouterr().out
    table = pd.read_csv(out / "scanpaths.csv")
    assert not table.duplicated(["sample", "object"]).any()
    sharp = tmp_path / "sharp"
    words = (*words[:-1], "--temperature", 0.001)
    assert call(monkeypatch, "sample", folder / "objects.csv", *words, "--out", sharp) == 0
    assert pd.read_csv(sharp / "scanpaths.csv").query("fixation == 0").object.nunique() == 1


def test_a_model_by_name_is_fitted_to_given_data(folder, tmp_path, monkeypatch, capsys):
    words = (
        "--size",
        "480x360",
        "--model",
        "uniform",
        "--data",
        folder / "arrays",
        "--out",
        tmp_path / "desk",
    )
    assert call(monkeypatch, "sample", folder / "objects.csv", *words) == 0
    assert "uniform was fitted to arrays" in capsys.readouterr().out


def test_a_fit_leaves_a_model_its_scores_and_a_report(folder):
    out = folder / "fitted"
    names = ["config.json", "model", "report.html", "scores.csv", "scores.nc", "split.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    scores = xr.load_dataset(out / "scores.nc", engine="h5netcdf")
    assert scores.model.values.tolist() == ["uniform", "conditional-logit", "transformer"]
    assert float(scores.uniform_bits) == pytest.approx(np.log2(6))


def test_evaluate_scores_models_by_their_names(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "scores"
    words = ("--model", f"mine={folder / 'fitted'}", "--samples", 1, "--device", "cpu", "--out", out)
    assert call(monkeypatch, "evaluate", folder / "arrays", *words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Tested: 9 trials of 3 images that no model was fitted to" in said
    table = pd.read_csv(out / "scores.csv").set_index("model")
    first = pd.read_csv(folder / "fitted" / "scores.csv").set_index("model")
    assert table.loc["mine"].tolist() == pytest.approx(first.loc["transformer"].tolist(), nan_ok=True)
    assert call(monkeypatch, "evaluate", folder / "arrays", *words) == 2
    assert "scores are not overwritten" in capsys.readouterr().err


def test_dry_runs_write_nothing(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = ("--target", "label", *TINY, "--dry-run", "--out", out)
    assert call(monkeypatch, "fit", folder / "arrays", *words) == 0
    said = capsys.readouterr().out
    assert "36 trials to train on, 9 to test, no image in both" in said
    assert "training: at most about" in said
    words = ("--model", folder / "fitted", "--dry-run", "--out", out)
    assert call(monkeypatch, "evaluate", folder / "arrays", *words) == 0
    said = capsys.readouterr().out
    assert "models: uniform, conditional-logit, fitted" in said
    assert "9 trials to test" in said
    assert not out.exists()


def test_resume_continues_and_a_second_run_is_refused(folder, monkeypatch, capsys):
    words = ("fit", folder / "arrays", "--target", "label", *TINY, "--out", folder / "fitted")
    assert call(monkeypatch, *words) == 2
    assert "give --resume to continue it" in capsys.readouterr().err
    assert call(monkeypatch, *words, "--resume") == 0
    capsys.readouterr()
    assert call(monkeypatch, *words, "--resume", "--dim", 16) == 2
    assert "holds a study with another dim (8, now 16)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sample", "absent.csv", "--size", "9x9"), "boxes absent.csv does not exist"),
        (("sample", "objects.csv"), "--image or --size must be given"),
        (
            ("sample", "objects.csv", "--size", "480"),
            "--size must be WIDTHxHEIGHT in px, such as 1680x1050, got '480'",
        ),
        (("sample", "objects.csv", "--image", "absent.png"), "image absent.png does not exist"),
        (
            ("sample", "objects.csv", "--size", "9x9", "--target-row", 7),
            "target must be the index of one of 4",
        ),
        (
            ("sample", "objects.csv", "--size", "9x9", "--model", "ridge"),
            "--model must be a folder of a fit or one of",
        ),
        (("sample", "objects.csv", "--size", "9x9", "--n", 0), "n must be at least 1, got 0"),
        (
            ("sample", "objects.csv", "--size", "9x9", "--model", "position-markov"),
            "position-markov needs --data",
        ),
        (
            ("sample", "objects.csv", "--size", "9x9", "--model", "fitted", "--data", "arrays"),
            "--data must not be given with the folder of a fit",
        ),
        (("sample", "words.csv", "--size", "9x9"), "could not convert string to float: 'left'"),
        (("sample", "narrow.csv", "--size", "9x9"), "no column 'height' among x, y, width"),
        (("sample", "empty.csv", "--size", "9x9"), "must name at least one object, got none"),
        (("sample", "plain.csv", "--size", "9x9", "--target", "cup"), "--target needs a column label"),
        (("fit", "absent", "--target", "label"), "absent does not exist; expected scanpaths"),
        (
            ("fit", "arrays", "--target", "place"),
            "--target must be one of 'label', 'exemplar', 'oracle', 'none'",
        ),
        (
            ("fit", "arrays", "--target", "label", "--by", "trial"),
            "--by must be one of 'image', 'target', 'observer'",
        ),
        (
            ("fit", "arrays", "--target", "label", "--test-size", 1.5),
            "test_size must be a share between 0 and 1",
        ),
        (("fit", "arrays", "--target", "label", "--layout", "osi"), "'osi'"),
        (("fit", "arrays", "--target", "label", "--layers", 0), "layers must be at least 1, got 0"),
        (
            ("fit", "table", "--target", "none", "--instances", "x"),
            "--instances must be given with coco-search18 only",
        ),
        (
            ("evaluate", "arrays", "--model", "a=fitted", "--model", "a=x"),
            "--model must have a name of its own",
        ),
        (
            ("evaluate", "arrays", "--model", "table"),
            "must hold config.json and model.safetensors of a model",
        ),
        (("evaluate", "arrays", "--folds", 1), "--folds must be at least 2, got 1"),
    ],
)
def test_bad_input_ends_with_one_line_and_nothing_written(folder, words, message, monkeypatch, capsys):
    (folder / "words.csv").write_text("x,y,width,height\nleft,1,2,3\n")
    (folder / "narrow.csv").write_text("x,y,width\n1,2,3\n")
    (folder / "empty.csv").write_text("x,y,width,height\n")
    (folder / "plain.csv").write_text("x,y,width,height\n1,1,2,3\n")
    (folder / "table").mkdir(exist_ok=True)
    (folder / "table" / "sub-1_events.tsv").write_text("x\ty\n1\t2\n")
    monkeypatch.chdir(folder)
    before = sorted(path.name for path in folder.iterdir())
    assert call(monkeypatch, *words, "--out", "out") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("Error: ")
    assert message in said[0]
    assert sorted(path.name for path in folder.iterdir()) == before


def test_an_absent_target_is_said(folder, tmp_path, monkeypatch, capsys):
    words = ("--size", "480x360", "--target", "spoon", "--out", tmp_path / "out")
    assert call(monkeypatch, "sample", folder / "objects.csv", *words) == 0
    assert "has the label 'spoon': the target is absent" in capsys.readouterr().err
