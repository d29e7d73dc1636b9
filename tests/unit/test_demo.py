"""The demo's folder gives back what was fitted, on what was held out."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from neuroattn.analyses import demo, load_demo, run_encoder_study
from neuroattn.encoding import load_backbone
from neuroattn.metrics import pearson_r

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "maps.md"
whole_demo = demo.make_demo_recording


def small_demo(backbone, cache, *, seed=0):
    """Return the demo's subject with fewer images, and without a surface to draw."""
    return replace(whole_demo(backbone, cache, n_train=24, n_test=6, seed=seed), surface=None)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study as ``fit-encoder --demo`` runs it, of fewer images."""
    folder = tmp_path_factory.mktemp("demo")
    network, cache = load_backbone("demo"), folder / "cache"
    options = {
        "models": ["attention"],
        "options": {"attention": {"epochs": 1}},
        "n_seeds": 2,
        "n_shuffles": 0,
    }
    run_encoder_study(small_demo(network, cache), folder / "demo", backbone=network, cache=cache, **options)
    return folder


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(demo, "make_demo_recording", small_demo)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("seed", [None, 1])
def test_scores_of_what_is_loaded_are_those_of_the_study(study, seed):
    found = load_demo(study / "demo", seed=seed, cache=study / "cache")
    scores = xr.load_dataset(study / "demo" / "scores.nc", engine="h5netcdf")
    stored = scores.correlation.sel(seed=seed or 0, model="attention").isel(subject=0)
    np.testing.assert_allclose(pearson_r(found.y, found.encoder.predict(found.X)), stored, atol=1e-5)
    assert found.encoder.seed == (seed or 0)
    assert found.images.shape == (6, 224, 224, 3)
    assert found.images.dtype == np.uint8
    np.testing.assert_array_equal(found.recording.features[found.recording.test], found.X)


@pytest.mark.usefixtures("_small")
def test_objects_are_those_that_were_planted(study):
    found = load_demo(study / "demo", cache=study / "cache")
    objects, truth = found.objects, found.recording.truth
    assert objects.dims == ("stimulus", "query", "y", "x")
    assert objects.roi.values.tolist() == found.encoder.queries_.roi.tolist()
    masks = truth.object_mask.isel(stimulus=np.flatnonzero(found.recording.test))
    for roi, cue in (("FFA-1", "faces"), ("PPA", "places")):
        planted = masks.sel(category=cue).values
        assert planted.any()
        for own in objects.isel(query=objects.roi.values == roi).values.swapaxes(0, 1):
            np.testing.assert_array_equal(own, planted)
    assert not objects.isel(query=objects.roi.values == "RSC").any()


@pytest.mark.usefixtures("_small")
def test_what_is_no_demo_is_refused(study, tmp_path):
    with pytest.raises(ValueError, match=r"seed must be one of \[0, 1\], got 7"):
        load_demo(study / "demo", seed=7, cache=study / "cache")
    config = json.loads((study / "demo" / "config.json").read_text())
    (tmp_path / "models").symlink_to(study / "demo" / "models")
    for changed, message in (
        ({"recording": "subj01"}, "must hold the study of neuroattn fit-encoder --demo"),
        ({"data": "0" * 16}, "got other data"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | changed))
        with pytest.raises(ValueError, match=message):
            load_demo(tmp_path, cache=study / "cache")


@pytest.mark.usefixtures("_small")
def test_lines_of_the_page_on_maps_run(study, monkeypatch, capsys):
    monkeypatch.chdir(study)
    monkeypatch.setattr(demo, "user_cache", lambda: study / "cache")
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    long, short = "demo.X[:40], others=[other]", "demo.X[:2], others=[other], n_steps=2"
    assert long in code[1]
    names = {}
    exec(compile("\n".join(code).replace(long, short), PAGE.name, "exec"), names)
    demo_, saliency, found, parts, table = (names[n] for n in ("demo", "saliency", "found", "parts", "table"))
    assert saliency.between_seeds.notnull().any()
    assert saliency.sizes["query"] == len(demo_.encoder.queries_)
    assert (found.n_stimuli.values > 0).sum() == 11
    assert parts.space.values.tolist() == ["mean", "spread"]
    assert table.model.values.tolist() == ["attention"]
