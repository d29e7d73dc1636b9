"""What can be done with fits: options from a file, evaluation on other data, maps over other images."""

import json

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from neuroattn.cli import main
from neuroattn.cli._options import layer_names, parse_subjects
from neuroattn.cli.fit_encoder import model_options
from neuroattn.datasets import content_ids

ARRAYS = "--layout arrays --orientation stimulus-unit --rois rois.json --device cpu --cache cache"
FIT = (
    f"fit-encoder {ARRAYS} --responses responses.npy --images images.npy --backbone test_vit --weights random "
    "--image-size 64 --layers block1,block3 --model attention,ridge --split test=20,seed=0 --shuffles 99"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A study of 60 images at two layers, and 30 images more: 10 of the old ones and 20 new ones."""
    root = tmp_path_factory.mktemp("verbs")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 32, 40, 3), np.uint8)
    images[::2] //= 3  # every other one is dark, which is what the units respond to
    responses = images.mean((1, 2, 3))[:, None] / 40 + rng.normal(size=(80, 4))
    np.save(root / "images.npy", images[:60])
    np.save(root / "responses.npy", responses[:60])
    np.save(root / "more_images.npy", images[50:])
    np.save(root / "more_responses.npy", responses[50:])
    (root / "rois.json").write_text(json.dumps({"V1": [0, 1], "FFA-1": [2, 3]}))
    (root / "study.toml").write_text(
        "seeds = 1\nepochs = 9\nheads = 2\n\n[attention]\nfeedforward = 16\n\n[ridge]\nalphas = [1.0, 100.0]\n"
    )
    return root


@pytest.fixture
def run(root, monkeypatch, capsys):
    """Run the command there and return exit code, standard output and standard error."""

    def run(command):
        monkeypatch.chdir(root)
        monkeypatch.setattr("sys.argv", ["neuroattn", *command.split()])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return (stopped.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def study(root, run):
    if not (root / "study").exists():
        code, _, err = run(f"{FIT} --config study.toml --epochs 2 --out study")
        assert (code, err.partition("Error")[1]) == (0, "")
    return root / "study"


def test_options_come_from_a_file_and_flags_win(study):
    config = json.loads((study / "config.json").read_text())
    assert config["options"]["attention"]["epochs"] == 2  # the flag
    assert config["options"]["attention"]["heads"] == 2  # a key
    assert config["options"]["attention"]["feedforward"] == 16  # a table
    assert config["options"]["ridge"] == {"alpha_per_target": True, "alphas": [1.0, 100.0]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sedes = 3", "config o.toml has an unknown key 'sedes'; did you mean 'seeds'?"),
        ("seeds = 'three'", "Invalid value for '--seeds'"),
        ("seeds = ", "config o.toml is not TOML"),
        ("[attention]\nhaeds = 2", "parameter of attention 'haeds' is unknown; nearest are 'heads'"),
        ("[attenton]\nheads = 2", "table of --config 'attenton' is unknown"),
    ],
)
def test_what_a_file_gets_wrong_is_named(run, root, text, said):
    (root / "o.toml").write_text(text)
    code, _, err = run(f"{FIT} --config o.toml --out o")
    assert (code, err.count("\n"), said in err) == (2, 1, True), err
    assert not (root / "o").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--scheduler nonsense", "scheduler must be an address such as tcp://host:8786, got 'nonsense'"),
        ("--scheduler tcp://127.0.0.1:1", "scheduler tcp://127.0.0.1:1 does not answer within 5 s"),
        ("--readout retina", "readout 'retina' is unknown"),
        ("--readout faces --regions V1", "--regions must not be given with --readout faces"),
        ("--regions V9", "must be one of 'V1', 'FFA-1', got 'V9'"),
        ("--subjects 1,two", None),
        ("--layers block1,block99", "layer 'block99' is unknown"),
        ("--model attention-layermix --layers block1", "needs several layers of one shape"),
    ],
)
def test_bad_grids_are_one_line(run, root, flags, said):
    command = FIT if said else "fit-encoder --data ."
    code, _, err = run(f"{command} {flags} --out o")
    said = said or "--subjects must be 'all' or numbers joined by commas, got '1,two'"
    assert (code, err.count("\n"), said in err) == (2, 1, True), err
    assert not (root / "o").exists()


def test_regions_restrict_units(run, root):
    code, out, _ = run(f"{FIT} --model ridge --layers block1 --regions FFA-1 --dry-run --out o")
    assert (code, "60 stimuli, 2 units, 1 regions" in out) == (0, True)


def test_numbers_of_layers_and_subjects():
    assert layer_names("1, 11,layer4,block2:q") == ["block1", "block11", "layer4", "block2:q"]
    assert parse_subjects("5,1,5", list) == [5, 1]
    assert parse_subjects("all", lambda: [3]) == [3]


def test_flags_reach_the_models_that_have_them():
    options = model_options(["attention", "probe"], {"heads": 8}, {"lr": 0.1, "alpha_per_target": True}, {})
    assert options == {"attention": {"lr": 0.1, "heads": 8}, "probe": {"lr": 0.1}}


def test_evaluation_leaves_out_what_was_fitted(run, root, study):
    """40 of 60 images were fitted to; of the 30 given, those are left out, and the rest is predicted."""
    trained = set(json.loads(next(study.glob("models/*/*/*/fit.json")).read_text())["train"])
    more = f"eval-encoder --encoder study {ARRAYS} --responses more_responses.npy --images more_images.npy"
    code, out, err = run(f"{more} --shuffles 99 --out evaluated")
    assert code == 0, err
    scores = xr.load_dataset(root / "evaluated" / "scores.nc", engine="h5netcdf")
    assert 0 < scores.attrs["n_fitted"] < 10
    assert f"left out {scores.attrs['n_fitted']} stimuli" in out
    assert len(trained) == 40
    assert scores.model.values.tolist() == [
        f"{m}@{la}" for m in ("attention", "ridge") for la in ("block1", "block3")
    ]
    assert float(scores.correlation.sel(model="ridge@block3").mean()) > 0.3
    assert float(scores.p.min()) == pytest.approx(0.01)
    assert "Units above chance" in out
    page = (root / "evaluated" / "report.html").read_text(encoding="utf-8")
    assert "eval-encoder --encoder study" in page
    assert (
        f"Models were fitted to 40 images and tested on {30 - scores.attrs['n_fitted']} other images" in page
    )
    code, _, err = run(f"{more} --out evaluated")
    assert (code, "exists; choose another folder" in err) == (2, True)


def test_evaluation_on_other_units_is_refused(run, root, study):
    np.save(root / "other.npy", np.zeros((30, 5)))
    (root / "five.json").write_text('{"V1": [0, 1, 2, 3, 4]}')
    code, _, err = run(
        f"eval-encoder --encoder study {ARRAYS} --rois five.json --responses other.npy "
        "--images more_images.npy --out refused"
    )
    assert (code, err.count("Error: "), "must have the 4 units of study" in err) == (2, 1, True), err
    assert not (root / "refused").exists()


def test_only_fitted_stimuli_are_nothing_to_evaluate(run, root, study):
    train = json.loads(next(study.glob("models/*/*/*/fit.json")).read_text())["train"]
    assert len(train) == 40
    np.save(root / "two.npy", np.load(root / "images.npy")[:2])
    np.save(root / "two_responses.npy", np.load(root / "responses.npy")[:2])
    code, _, err = run(
        f"eval-encoder --encoder study {ARRAYS} --responses two_responses.npy --images two.npy --out none"
    )
    assert (code, "must have at least 3 stimuli that the encoders were not fitted to" in err) == (2, True)


@pytest.mark.parametrize("heads", [0, 2])
def test_maps_are_those_of_the_encoder(run, root, study, heads):
    flags = "--per-head " if heads else ""
    code, _, err = run(
        f"attention-maps --encoder study --model attention@block3 --images more_images.npy --regions FFA-1 "
        f"{flags}--overlays 2 --cache cache --device cpu --out maps{heads}"
    )
    assert code == 0, err
    stored = xr.open_zarr(root / f"maps{heads}" / "attention.zarr", consolidated=False, chunks=None).attention
    assert dict(stored.sizes) == {"seed": 1, "stimulus": 30, "query": 1} | ({"head": 2} if heads else {}) | {
        "y": 4,
        "x": 4,
    }
    assert stored.dtype == np.float16
    assert stored.roi.values.tolist() == ["FFA-1"]
    np.testing.assert_allclose(stored.astype(float).sum(["y", "x"]), 1, atol=5e-3)
    if not heads:  # some of the first ten images were tested in the study, which kept their maps
        fit = study / "models" / "attention@block3" / "seed-0" / "fold-0"
        ids = content_ids(np.load(root / "images.npy"))
        tested = np.flatnonzero(~np.isin(ids, json.loads((fit / "fit.json").read_text())["train"]))
        kept = xr.load_dataset(fit / "attention.nc", engine="h5netcdf").attention
        expected = kept.isel(query=kept.roi.values == "FFA-1", stimulus=tested >= 50)
        found = stored.isel(seed=0, stimulus=tested[tested >= 50] - 50)
        assert found.sizes["stimulus"] > 0
        np.testing.assert_allclose(found.astype(float), expected, atol=1e-3)
    assert "more_images.npy, 30" in (root / f"maps{heads}" / "report.html").read_text(encoding="utf-8")
    drawings = sorted(path.name for path in (root / f"maps{heads}").glob("*.png"))
    assert drawings == ["0000_0.png", "0001_1.png"]
    with Image.open(root / f"maps{heads}" / drawings[0]) as drawing:
        assert drawing.width > 200


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--encoder nowhere", "nowhere holds no fitted encoder"),
        ("--encoder study --model probe", "model must be one of"),
        ("--encoder study --model ridge", "must be an attention encoder"),
        ("--encoder study --regions V9", "region must be one of 'V1', 'FFA-1', got 'V9'"),
    ],
)
def test_maps_that_cannot_be_made_are_one_line(run, root, study, flags, said):
    code, _, err = run(f"attention-maps --images more_images.npy --cache cache --out bad {flags}")
    lines = [line for line in err.splitlines() if line.startswith("Error")]
    assert (code, len(lines), said in err) == (2, 1, True), err
    assert not (root / "bad").exists()
