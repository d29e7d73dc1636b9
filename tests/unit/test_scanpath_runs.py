"""Training and scoring scanpath models: nothing is tested on what it was fitted to, and files are whole."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from neuroattn.analyses import evaluate_scanpath_models, fit_scanpath_model, scanpath_runs
from neuroattn.analyses.scanpath_runs import (
    estimate_training_seconds,
    held_out_trials,
    load_scanpath_model,
    prepare_scanpaths,
    simple_models,
)
from neuroattn.datasets import ObjectScene, ScanpathDataset, make_search_arrays
from neuroattn.results import Scanpath
from neuroattn.scanpath import ConditionalLogit, ObjectAttentionTransformer, PositionMarkov

TINY = {"target": "label", "appearance": "none", "dim": 8, "heads": 2, "layers": 1, "feedforward": 8}


@pytest.fixture(scope="module")
def searches():
    return make_search_arrays(n_scenes=15, n_observers=3, grid=(2, 3), seed=3)


@pytest.fixture(scope="module")
def model():
    return ObjectAttentionTransformer(**TINY, epochs=2, seed=1)


@pytest.fixture(scope="module")
def fitted(searches, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "fit"
    steps = []
    scores = fit_scanpath_model(
        searches,
        model,
        out,
        n_samples=1,
        source="arrays",
        command="fit arrays",
        progress=lambda *a: steps.append(a),
    )
    return out, scores, steps


def test_the_test_set_is_what_training_did_not_see(searches, model, fitted):
    out, scores, _ = fitted
    train, test = searches.split("image", test_size=0.2, seed=1)
    split = json.loads((out / "split.json").read_text())
    assert split == {"by": "image", "train": sorted(set(train.data.image.values.tolist()))}
    assert not set(split["train"]) & set(test.data.image.values.tolist())
    settings = json.loads(scores.attrs["config"])
    assert (settings["n_trials"], settings["n_images"]) == (len(test), 3)
    held_out = held_out_trials(searches, {"any": out})
    np.testing.assert_array_equal(held_out, np.isin(searches.data.image.values, test.data.image.values))


def test_simple_models_are_fitted_to_the_training_trials(searches, fitted):
    _, scores, _ = fitted
    train, test = searches.split("image", test_size=0.2, seed=1)
    for name, simple in (("conditional-logit", ConditionalLogit()), ("position-markov", PositionMarkov())):
        by_hand = float(simple.fit(train).bits_per_fixation(test).mean())
        assert float(scores.bits_per_fixation.sel(model=name)) == pytest.approx(by_hand)


def test_the_trained_model_is_scored_as_it_was_saved(searches, fitted):
    out, scores, _ = fitted
    test = searches[held_out_trials(searches, {"any": out})]
    by_hand = float(load_scanpath_model(out).bits_per_fixation(test).mean())
    assert float(scores.bits_per_fixation.sel(model="transformer")) == pytest.approx(by_hand)
    assert scores.attrs["trained"] == ["transformer"]


def test_files_hold_the_scores(fitted):
    out, scores, _ = fitted
    xr.testing.assert_allclose(xr.load_dataset(out / "scores.nc", engine="h5netcdf"), scores)
    table = pd.read_csv(out / "scores.csv").set_index("model")
    np.testing.assert_allclose(table.bits_per_fixation, scores.bits_per_fixation)
    gain = scores.difference.sel(model="transformer", other="conditional-logit")
    assert table.loc["transformer", "gain_over_conditional-logit"] == pytest.approx(float(gain))
    assert table.loc["transformer", "gain_low"] <= float(gain) <= table.loc["transformer", "gain_high"]
    page = (out / "report.html").read_text(encoding="utf-8")
    for text in (
        "The searches are simulated. Nothing here is evidence about people.",
        "Bits per fixation",
        "When the target is found",
        "inter-observer",
        "was given the category of the target",
        "fit arrays",
        "McFadden D (1974)",
        f"{float(scores.bits_per_fixation.sel(model='transformer')):.3f}",
    ):
        assert text in page, text


def test_progress_counts_passes_and_scores(fitted):
    _, _, steps = fitted
    assert [step for step in steps if step[0] == "training"] == [("training", 1, 2), ("training", 2, 2)]
    assert steps[-1] == ("scoring", 12, 12)  # three groups of images, four models


def test_a_trained_model_stays_when_a_run_goes_on(searches, model, fitted, tmp_path, monkeypatch):
    out, scores, _ = fitted
    (out / "report.html").unlink()
    monkeypatch.setattr(ObjectAttentionTransformer, "fit", lambda *a, **k: pytest.fail("trained again"))
    again = fit_scanpath_model(searches, model, out, n_samples=1, resume=True)
    xr.testing.assert_allclose(again, scores)
    assert (out / "report.html").is_file()
    with pytest.raises(ValueError, match="holds a study already; give --resume"):
        fit_scanpath_model(searches, model, out, n_samples=1)
    with pytest.raises(ValueError, match="holds a study with another test_size"):
        fit_scanpath_model(searches, model, out, n_samples=1, test_size=0.4, resume=True)


def test_an_interrupted_training_leaves_nothing(searches, model, tmp_path, monkeypatch):
    out = tmp_path / "fit"

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(ObjectAttentionTransformer, "fit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit_scanpath_model(searches, model, out, n_samples=1)
    assert not out.exists()


def test_on_other_data_all_trials_are_tested(searches, fitted, tmp_path):
    out, _, _ = fitted
    renamed = searches[:18].data.assign_coords(image=("trial", [f"other {i // 3}" for i in range(18)]))
    scores = evaluate_scanpath_models(
        ScanpathDataset(renamed, searches.scenes), {"mine": out}, tmp_path / "scores", n_folds=2, n_samples=1
    )
    assert (
        scores.attrs["held_out"] == "18 trials; the simple models were cross-validated in 2 folds of images"
    )
    assert scores.model.values.tolist() == ["uniform", "position-markov", "conditional-logit", "mine"]
    assert json.loads(scores.attrs["config"])["n_trials"] == 18


def test_what_cannot_be_scored_is_refused_before_anything_is_written(searches, fitted, tmp_path):
    out, _, _ = fitted
    scores = tmp_path / "scores"
    with pytest.raises(ValueError, match="must not have the name of a simple one, got 'uniform'"):
        evaluate_scanpath_models(searches, {"uniform": out}, scores)
    seen = searches[~held_out_trials(searches, {"any": out})]
    with pytest.raises(ValueError, match="two values of 'image' or more that no model was trained on, got 0"):
        evaluate_scanpath_models(seen, {"mine": out}, scores)
    with pytest.raises(FileNotFoundError, match=r"must hold config\.json"):
        evaluate_scanpath_models(searches, {"mine": tmp_path}, scores)
    assert not scores.exists()


def test_a_markov_chain_stands_beside_others_only_where_places_repeat(searches):
    assert "position-markov" in simple_models(searches)
    assert "position-markov" not in simple_models(make_search_arrays(n_scenes=3, n_observers=2, seed=0))


def test_preparing_assigns_objects_and_cuts_at_the_target(searches):
    bare = ScanpathDataset(searches.data.drop_vars("object"), searches.scenes)
    prepared = prepare_scanpaths(bare)
    np.testing.assert_array_equal(prepared.data.object, searches.data.object)
    kept = ScanpathDataset(searches.data.assign(object=searches.data.object * 0), searches.scenes)
    assert (prepare_scanpaths(kept).data.object.values == 0).all()  # what the data set says stays
    assert (prepare_scanpaths(kept, max_distance=5).data.object.values > 0).any()
    assert int(prepare_scanpaths(searches, until_target=True).data.length.sum()) <= int(
        searches.data.length.sum()
    )


def test_data_without_a_choice_are_refused():
    def dataset(boxes):
        scene = ObjectScene(boxes, (100, 80))
        path = Scanpath([50, 90], [40, 70], (100, 80), attrs={"scene": "a", "image": "a"})
        return ScanpathDataset.from_scanpaths([path], scenes={"a": scene})

    with pytest.raises(ValueError, match="scenes with two objects or more, got none: nothing can be chosen"):
        prepare_scanpaths(dataset([[0, 0, 99, 79]]))
    with pytest.raises(ValueError, match="fixations of objects, got none; a larger max_distance finds more"):
        prepare_scanpaths(dataset([[0, 0, 5, 5], [10, 0, 5, 5]]))
    assert prepare_scanpaths(dataset([[0, 0, 5, 5], [10, 0, 5, 5]]), max_distance=200) is not None


def test_the_estimate_scales_a_timed_pass_to_all_trials_and_passes(searches, monkeypatch):
    monkeypatch.setattr(scanpath_runs, "N_TIMED", 15)
    clock = SimpleNamespace(perf_counter=iter([10.0, 12.0]).__next__)
    monkeypatch.setattr(scanpath_runs, "time", clock)
    model = ObjectAttentionTransformer(**TINY, epochs=7)
    assert estimate_training_seconds(searches, model) == pytest.approx(2.0 * 45 / 15 * 7)
