"""neuroattn search: one image, and asymmetries."""

import json
import shlex
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

from neuroattn import cli


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command line in an empty folder; return exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def call(line):
        monkeypatch.setattr(sys, "argv", ["neuroattn", *shlex.split(line)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    pixels = np.full((96, 128, 3), 200, np.uint8)
    pixels[40:72, 80:112] = rng.integers(0, 256, (32, 32, 3))
    Image.fromarray(pixels).save(tmp_path / "desk.png")
    Image.fromarray(pixels[40:72, 80:112]).save(tmp_path / "mug.png")
    mask = np.zeros((96, 128), np.uint8)
    mask[40:72, 80:112] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


RUN = "search run desk.png mug.png --weights random --px-per-degree 16 --max-fixations 4 "


def test_a_search_leaves_fixations_maps_and_a_figure(run, pictures):
    code, out, err = run(RUN + "--box 80,40,32,32 --dry-run --out mug")
    assert (code, err) == (0, "")
    assert "desk.png: 128 x 96 px, up to 4 fixations of" in out
    assert "nothing was written" in out
    assert not (pictures / "mug").exists()
    code, out, err = run(RUN + "--box 80,40,32,32 --out mug")
    assert (code, err) == (0, "")
    table = pd.read_csv(pictures / "mug/fixations.csv")
    settings = json.loads((pictures / "mug/search.json").read_text())
    assert table[["x", "y"]].iloc[0].tolist() == [64, 48]
    assert len(table) == settings["n_saccades"] + 1
    assert "search run desk.png" in settings["command"]
    maps = xr.load_dataarray(pictures / "mug/maps.nc", engine="h5netcdf")
    drawn = sorted(path.name for path in (pictures / "mug/maps").iterdir())
    assert drawn == [f"saccade_{i:02d}.png" for i in range(1, settings["n_saccades"] + 1)]
    with Image.open(pictures / "mug/maps/saccade_01.png") as picture:
        first = np.asarray(picture, float)
    np.testing.assert_allclose(first.ravel().argmax(), maps[0].values.ravel().argmax())
    with Image.open(pictures / "mug/search.png") as picture:
        assert picture.size[0] > 500
    assert len(settings["without_features"]["random"]) == 100
    assert "mug/report.html" in out
    assert "demo (random weights)" in (pictures / "mug/report.html").read_text(encoding="utf-8")
    code, _, err = run(RUN + "--out mug")
    assert code == 2
    assert "out mug must not exist yet" in err


def test_a_target_that_lies_where_the_search_begins_is_found_without_a_map(run, pictures):
    code, out, err = run(RUN + "--box 80,40,32,32 --start 96,56 --out mug")
    assert (code, err) == (0, "")
    assert "found after 0 saccades" in out
    assert xr.load_dataarray(pictures / "mug/maps.nc", engine="h5netcdf").sizes["saccade"] == 0
    assert len(pd.read_csv(pictures / "mug/fixations.csv")) == 1
    assert (pictures / "mug/search.png").is_file()
    assert not list((pictures / "mug/maps").iterdir())


def test_a_mask_says_the_same_as_a_box(run, pictures):
    assert run(RUN + "--box 80,40,32,32 --out box")[0] == 0
    assert run(RUN + "--mask mask.png --out mask")[0] == 0
    box, mask = (json.loads((pictures / name / "search.json").read_text()) for name in ("box", "mask"))
    assert (box["found"], box["n_saccades"]) == (mask["found"], mask["n_saccades"])
    code, out, _ = run(RUN + "--out nowhere")
    assert code == 0
    assert "target place unknown after 3 saccades" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--box 80,40,32", "--box must be X,Y,WIDTH,HEIGHT in whole px, got '80,40,32'"),
        ("--box 120,40,32,32", "--box must lie within the image, 128 x 96 px"),
        ("--box 80,40,32,32 --mask mask.png", "--box must not be given with --mask"),
        ("--mask none.png", "mask none.png does not exist"),
        ("--mask text.txt", "mask text.txt is not a picture file that can be read"),
        ("--start 3", "--start must be X,Y in px, got '3'"),
        ("--start 300,3", "start[0] must be between 0 and 127, got 300.0"),
        ("--preset best", "--preset must be one of 'clean', 'paper', 'natural', 'ivsn', got 'best'"),
        ("--preset ivsn", "--preset ivsn needs --backbone vgg16, whose conv5_3 it reads, got demo"),
        ("--taps layer9", "tap 'layer9' is unknown"),
        ("--backbone vgg99", "backbone 'vgg99' is unknown"),
        ("--backbone vgg16 --weights none.h5", "weights none.h5 do not exist"),
        ("--temperature -1", "temperature must be at least 0, got -1.0"),
        ("--background 300", "background must be between 0 and 255, got 300"),
        ("--max-fixations 0", "max_fixations must be at least 1, got 0"),
    ],
)
def test_bad_input_ends_with_one_line(run, pictures, change, message):
    (pictures / "text.txt").write_text("not a picture")
    code, out, err = run(f"{RUN} {change} --out mug")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (pictures / "mug").exists()


def test_pixels_per_degree_must_come_from_somewhere(run, pictures):
    code, _, err = run("search run desk.png mug.png --weights random --out mug")
    assert (code, err) == (2, "Error: --px-per-degree must be given with --preset clean\n")
    code, _, err = run(
        "search run mask.png desk.png --weights random --px-per-degree 9 --box 0,0,9,9 --out mug"
    )
    assert code == 0
    code, _, err = run("search run mug.png desk.png --weights random --px-per-degree 9 --out big")
    assert (code, err.count("\n")) == (2, 1)
    assert "target must not be larger than the image, 32 x 32 px, got 128 x 96 px" in err


def test_asymmetries_are_planned_measured_and_resumed(run, tmp_path, monkeypatch):
    line = "search asymmetry --experiment lighting --trials 1 --weights random --resamples 20 --no-controls --out asy"
    code, out, err = run(line + " --dry-run")
    assert (code, err) == (0, "")
    assert "lighting: 6 displays, " in out
    assert "nothing was written" in out
    assert not (tmp_path / "asy").exists()
    code, out, err = run(line)
    assert code == 0
    assert "lighting" in out
    result = xr.load_dataset(tmp_path / "asy/asymmetry.nc", engine="h5netcdf")
    assert result.model.values.tolist() == ["demo"]
    table = pd.read_csv(tmp_path / "asy/asymmetry.csv")
    assert table.unfound.tolist() == ["dropped", "cap", "set_size"]
    assert table["index"].iloc[1] == pytest.approx(float(result["index"].sel(unfound="cap").item()))
    assert (tmp_path / "asy/asymmetry.png").stat().st_size > 10_000
    assert "No controls were run" in (tmp_path / "asy/report.html").read_text(encoding="utf-8")
    code, _, err = run(line)
    assert code == 2
    assert "give --resume" in err
    # Only what is missing is searched again.
    parts = sorted((tmp_path / "asy/trials").rglob("*.nc"))
    assert len(parts) == 2
    parts[1].unlink()
    kept = parts[0].stat().st_mtime_ns
    assert run(line + " --resume")[0] == 0
    assert (parts[0].stat().st_mtime_ns, parts[1].exists()) == (kept, True)
    code, _, err = run(line.replace("--trials 1", "--trials 2") + " --resume")
    assert code == 2
    assert "another experiments" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--experiment curves", "--experiment must be one of 'curvature', 'lighting'"),
        ("--trials 0", "--trials must be at least 1, got 0"),
        ("--backbone vgg16", "weights must be given for vgg16"),
    ],
)
def test_bad_studies_end_with_one_line(run, tmp_path, change, message):
    code, out, err = run(
        f"search asymmetry --weights random {change} --out asy".replace(
            "--weights random --backbone", "--backbone"
        )
    )
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "asy").exists()
