"""Unique and shared variance come out as planted, and a space that knows nothing adds nothing."""

import numpy as np
import pytest

from neuroattn.analyses import partition_variance, plot_variance
from neuroattn.datasets import Recording
from neuroattn.encoding import BandedRidgeEncoder
from neuroattn.results import label_rois

N = 300


@pytest.fixture(scope="module")
def planted():
    """Spaces that share one latent; a region of each own latent, of the shared one, of all, and of none."""
    rng = np.random.default_rng(0)
    own_a, own_b, both = rng.normal(size=(3, N, 2))
    spaces = {"a": np.hstack([own_a, both]), "b": np.hstack([own_b, both])}
    signals = [own_a, own_b, both, (own_a + own_b + both) / np.sqrt(3), np.zeros((N, 2))]
    y = np.hstack([signal + 0.5 * rng.normal(size=(N, 2)) for signal in signals])
    names = ["own a", "own b", "both", "mixed", "noise"]
    rois = label_rois({name: np.arange(10) // 2 == i for i, name in enumerate(names)})
    ids = np.arange(N).astype(str)
    ceiling = np.full(10, 0.8)
    return Recording("cells", y.astype("f4"), rois, ids, features=own_a, noise_ceiling=ceiling), spaces


@pytest.fixture(scope="module")
def result(planted):
    recording, spaces = planted
    few = {"encoder": BandedRidgeEncoder(np.logspace(-3, 3, 7), n_iter=6), "n_resamples": 50}
    return partition_variance(recording, spaces, split="test=100,seed=0", **few)


def test_planted_parts_are_recovered(result):
    expected = {
        "own a": [0.8, 0, 0],
        "own b": [0, 0.8, 0],
        "both": [0, 0, 0.8],
        "mixed": [0.8 / 3, 0.8 / 3, 0.8 / 3],
        "noise": [0, 0, 0],
    }
    assert result.part.values.tolist() == ["a", "b", "a & b"]
    for roi, parts in expected.items():
        np.testing.assert_allclose(result.explained.sel(roi=roi), parts, atol=0.08, err_msg=roi)


def test_parts_sum_to_the_joint_model(result):
    np.testing.assert_allclose(result.explained.sum("part"), result.r2.sel(model="a + b"))


def test_intervals_hold_the_parts_and_separate_what_was_planted(result):
    low, high = (result.explained_interval.sel(bound=bound) for bound in ("low", "high"))
    assert ((low <= result.explained) & (result.explained <= high)).all()
    assert (low.sel(roi="mixed") > 0.1).all()
    assert result.explained_interval.dims == ("part", "roi", "bound")
    assert result.attrs["resampled"] == "stimulus"


def test_exchanged_stimuli_add_nothing(result):
    assert (abs(result.explained_permuted) < 0.05).all()
    assert result.explained_permuted.dims == ("space", "roi")


def test_folds_predict_every_stimulus_once(planted):
    recording, spaces = planted
    few = {"encoder": BandedRidgeEncoder([0.01, 1], n_iter=2), "n_resamples": 2}
    result = partition_variance(recording, spaces, split="kfold=3,seeds=0", **few)
    np.testing.assert_allclose(result.explained.sel(roi="mixed"), 0.8 / 3, atol=0.08)
    with pytest.raises(ValueError, match="split must test every stimulus once at most"):
        partition_variance(recording, spaces, split="kfold=3,seeds=0-1", **few)


def test_repeats_of_a_stimulus_are_resampled_together(planted):
    """With every stimulus shown three times an interval is that of the stimuli, not of the rows."""
    recording, spaces = planted
    rows = np.tile(np.arange(90), 3)
    again = Recording(
        "cells",
        recording.responses[rows],
        recording.rois,
        recording.stimulus_ids[rows],
        features=rows[:, None],
    )
    once = Recording(
        "cells",
        recording.responses[:90],
        recording.rois,
        recording.stimulus_ids[:90],
        features=rows[:90, None],
    )
    options = {"encoder": BandedRidgeEncoder([0.1], n_iter=0), "split": "test=40,seed=0", "n_resamples": 100}
    widths = []
    for one, n in ((again, rows), (once, rows[:90])):
        bounds = partition_variance(one, {k: x[n] for k, x in spaces.items()}, **options).r2_interval
        widths.append(bounds.sel(model="a + b", roi="mixed").diff("bound").item())
    assert widths[0] > 0.75 * widths[1]


def test_ceilings_and_units_are_labelled(planted, result):
    assert (result.noise_ceiling == 0.8).all()
    assert result.n_units.sel(roi="all") == 10
    assert dict(result.unit_explained.sizes) == {"part": 3, "unit": 10}


def test_figure_names_regions_parts_and_controls(result):
    figure = plot_variance(result)
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert texts == [
        "a alone",
        "a, stimuli exchanged",
        "b alone",
        "b, stimuli exchanged",
        "a & b",
        "noise ceiling",
    ]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == result.roi.values.tolist()


def test_what_does_not_fit_is_refused(planted):
    recording, spaces = planted
    with pytest.raises(ValueError, match="two or more feature spaces, got \\['a'\\]"):
        partition_variance(recording, {"a": spaces["a"]})
    with pytest.raises(ValueError, match="spaces\\['b'\\] must have the 300 rows of the recording, got 299"):
        partition_variance(recording, {"a": spaces["a"], "b": spaces["b"][1:]})
