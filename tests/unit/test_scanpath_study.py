"""Comparison of scanpath models: paired and grouped, beside anchors, on simulated and recorded searches."""

import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from neuroattn.analyses import (
    compare_scanpath_models,
    cut_at_target,
    free_viewing_consistency,
    scanpath_table,
)
from neuroattn.analyses.scanpath_study import ANCHORS, MEMORY_FULL, PEOPLE
from neuroattn.datasets import ScanpathDataset, load_objarr, make_search_arrays
from neuroattn.results import Scanpath
from neuroattn.scanpath import (
    ConditionalLogit,
    MemoryFullRandom,
    PositionMarkov,
    ScanpathModel,
    UniformChoice,
)

MODELS = {"uniform": UniformChoice(), "logit": ConditionalLogit(), "random": MemoryFullRandom(lapse=None)}


@pytest.fixture(scope="module")
def searches():
    return make_search_arrays(n_scenes=24, n_observers=5, grid=(2, 3), seed=1)


@pytest.fixture(scope="module")
def comparison(searches):
    return compare_scanpath_models(searches, MODELS, n_folds=3, n_samples=2, n_boot=200, seed=4)


def test_bits_are_the_mean_over_held_out_fixations(searches, comparison):
    total = n = 0.0
    for train, test in searches.folds("image", n_folds=3, seed=4):
        bits = ConditionalLogit().fit(train).bits_per_fixation(test)
        total, n = total + float(bits.sum()), n + int(bits.count())
    assert float(comparison.bits_per_fixation.sel(model="logit")) == pytest.approx(total / n)
    assert json.loads(comparison.attrs["config"])["n_fixations"] == n
    assert float(comparison.uniform_bits) == pytest.approx(np.log2(6))
    assert float(comparison.bits_per_fixation.sel(model="uniform")) == pytest.approx(np.log2(6))


def test_differences_are_gains_and_their_intervals_contain_them(comparison):
    gain = comparison.difference.sel(model="logit", other="uniform")
    by_hand = comparison.bits_per_fixation.sel(model="uniform") - comparison.bits_per_fixation.sel(
        model="logit"
    )
    assert float(gain) == pytest.approx(float(by_hand))
    assert (comparison.difference_interval.sel(bound="low") <= comparison.difference + 1e-12).all()
    assert (comparison.difference_interval.sel(bound="high") >= comparison.difference - 1e-12).all()
    assert float(comparison.difference_interval.sel(bound="low", model="logit", other="uniform")) > 0.3
    assert comparison.attrs["resampled"] == "image x observer"


def test_no_group_is_on_both_sides(searches):
    class Remembering(UniformChoice):
        seen: list = []  # noqa: RUF012  clones must share it

        def _fit(self, dataset):
            self.images_ = set(dataset.data.image.values.tolist())

        def bits_per_fixation(self, dataset):
            self.seen.append(self.images_ & set(dataset.data.image.values.tolist()))
            return super().bits_per_fixation(dataset)

    compare_scanpath_models(searches, {"spy": Remembering()}, n_folds=2, n_samples=1, n_boot=10)
    assert Remembering.seen == [set(), set()]


def test_found_curves_by_hand(searches, comparison):
    finds = []
    for i, path in enumerate(searches):
        on = np.flatnonzero(path.objects[1:] == searches.scene_of(i).target)
        finds.append(on[0] + 1 if len(on) else np.inf)
    by_hand = [(np.array(finds) <= k).mean() for k in comparison.saccade.values]
    np.testing.assert_allclose(comparison.found.sel(source=PEOPLE), by_hand)
    expected = np.minimum(comparison.saccade.values / 6, 1)
    np.testing.assert_allclose(comparison.found.sel(source=MEMORY_FULL), expected)
    # The model that made the data finds as people do; at random it takes longer.
    logit, uniform = (comparison.found.sel(source=name, saccade=3) for name in ("logit", "uniform"))
    assert float(logit) == pytest.approx(float(comparison.found.sel(source=PEOPLE, saccade=3)), abs=0.12)
    assert float(logit) > float(uniform) + 0.1


def test_the_searchers_resemble_each_other_more_than_chance(comparison):
    score = comparison.similarity.sel(metric="sequence score")
    assert float(score.sel(path_source=ANCHORS[0])) > float(score.sel(path_source=ANCHORS[2])) + 0.1
    # Samples of the model that made the data are like another searcher's path.
    logit, others = float(score.sel(path_source="logit")), float(score.sel(path_source=ANCHORS[0]))
    assert logit == pytest.approx(others, abs=0.08)
    assert comparison.metric.values.tolist()[1:] == [
        f"MultiMatch {dimension}" for dimension in ("shape", "direction", "length", "position")
    ]


def test_the_same_seed_gives_the_same_result(searches):
    few = {"logit": ConditionalLogit()}
    one, two, other = (
        compare_scanpath_models(searches, few, n_folds=2, n_samples=1, n_boot=20, seed=seed)
        for seed in (1, 1, 2)
    )
    xr.testing.assert_identical(one, two)
    assert not one.found.equals(other.found)


def test_the_table_holds_the_numbers(comparison):
    rows = scanpath_table(comparison, against="logit").splitlines()
    assert len(rows) == 2 + len(MODELS) + 1
    assert rows[2].startswith("| uniform | 2.585 | 2.585 to 2.585 | -")
    bits = float(comparison.bits_per_fixation.sel(model="logit"))
    assert rows[3].startswith(f"| logit | {bits:.3f} |")
    with pytest.raises(
        ValueError, match="against must be one of the models uniform, logit, random, got 'net'"
    ):
        scanpath_table(comparison, against="net")


def test_scenes_without_targets_have_no_found_curve(searches):
    scenes = {k: replace(scene, target=None, target_label=None) for k, scene in searches.scenes.items()}
    result = compare_scanpath_models(
        ScanpathDataset(searches.data, scenes),
        {"uniform": UniformChoice()},
        n_folds=2,
        n_samples=1,
        n_boot=10,
    )
    assert "found" not in result


def test_paths_are_cut_at_their_target():
    data = make_search_arrays(n_scenes=10, n_observers=4, stop_on_target=0.1, give_up=0.1, seed=2)
    cut = cut_at_target(data)
    for i, (before, after) in enumerate(zip(data, cut, strict=True)):
        on = np.flatnonzero(before.objects[1:] == data.scene_of(i).target)
        n = on[0] + 2 if len(on) else len(before)
        np.testing.assert_array_equal(after.objects, before.objects[:n])
        np.testing.assert_array_equal(after.duration, before.duration[:n])
    assert len(cut[0].attrs) == len(data[0].attrs)
    assert cut.data.object.dtype == data.data.object.dtype


def test_bad_input_is_named(searches):
    with pytest.raises(ValueError, match="models must name at least one model, got none"):
        compare_scanpath_models(searches, {})
    with pytest.raises(ValueError, match="n_boot must be at least 1, got 0"):
        compare_scanpath_models(searches, MODELS, n_boot=0)
    without = ScanpathDataset(searches.data.drop_vars("object"), searches.scenes)
    with pytest.raises(ValueError, match="dataset must have objects"):
        compare_scanpath_models(without, MODELS)
    with pytest.raises(ValueError, match="dataset must have objects"):
        cut_at_target(without)


def test_consistency_of_free_viewing_names_its_parameters():
    rng = np.random.default_rng(0)

    def path(image, observer):
        x, y = rng.normal(centres[image], 6, (6, 2)).T
        return Scanpath(
            x, y, (80, 60), first_fixation="free", attrs={"image": str(image), "observer": str(observer)}
        )

    centres = rng.uniform([15, 15], [65, 45], (8, 2))
    paths = [path(image, observer) for image in range(8) for observer in range(4)]
    result = free_viewing_consistency(
        ScanpathDataset.from_scanpaths(paths),
        sigma=5,
        edge="reflect",
        kinds=["uniform", "shuffled"],
        n_boot=100,
    )
    assert result.metric.values.tolist() == ["AUC uniform", "AUC shuffled", "NSS"]
    assert (result.difference_interval.sel(bound="low") > 0).all()
    np.testing.assert_allclose(result.difference, result.inter_observer - result.prior)
    assert float(result.prior.sel(metric="AUC shuffled")) < 0.55
    assert {"sigma_px", "edge", "first_fixation", "n_outside", "seed", "config"} <= set(result.attrs)


@pytest.mark.shared_data
def test_objarr_models_in_their_order(shared):
    # A part of the recordings; the figures of all are in the documentation.
    data = load_objarr(shared / "data" / "eye" / "objarr")
    data = cut_at_target(data[np.isin(data.data.image.values, np.unique(data.data.image.values)[:40])])
    models: dict[str, ScanpathModel] = {
        "uniform": UniformChoice(), "Markov": PositionMarkov(), "logit": ConditionalLogit(),
    }  # fmt: skip
    result = compare_scanpath_models(data, models, n_folds=3, n_samples=1, n_boot=200)
    low = result.difference_interval.sel(bound="low")
    assert float(low.sel(model="Markov", other="uniform")) > 0.2
    assert float(low.sel(model="logit", other="Markov")) > 0.05
    # Recorded elsewhere: 2.211 and 1.948 on all scenes, another definition of the logit.
    assert float(result.bits_per_fixation.sel(model="Markov")) == pytest.approx(2.211, abs=0.06)
    assert float(result.bits_per_fixation.sel(model="logit")) == pytest.approx(1.948, abs=0.11)


@pytest.mark.shared_data
def test_objarr_found_curve(shared):
    data = load_objarr(shared / "data" / "eye" / "objarr")
    lengths = []
    for i, path in enumerate(data):
        on = np.flatnonzero(path.objects[1:] == data.scene_of(i).target)
        lengths.append(on[0] + 1 if len(on) else np.inf)
    curve = [(np.array(lengths) <= k).mean() for k in range(1, 7)]
    np.testing.assert_allclose(curve, [0.271, 0.528, 0.694, 0.807, 0.890, 0.936], atol=6e-4)


def test_one_observer_has_no_others_to_be_compared_with(searches):
    alone = searches[searches.data.observer.values == "1"]
    result = compare_scanpath_models(alone, {"uniform": UniformChoice()}, n_folds=2, n_samples=1, n_boot=20)
    assert result.similarity.sel(path_source=ANCHORS[0]).isnull().all()
    assert (
        result.similarity.sel(path_source=[*ANCHORS[1:], "uniform"], metric="sequence score").notnull().all()
    )
