"""Regions are tested by the mean of their units under shared shuffles, and corrected over regions."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import false_discovery_control

from neuroattn.analyses import plot_regions, run_encoder_study, summarise_regions
from neuroattn.analyses.scores import Prediction, score_predictions
from neuroattn.datasets import Recording
from neuroattn.metrics import pearson_r, permutation_correlation
from neuroattn.results import label_rois

N, N_UNITS = 60, 24
REGIONS = ["strong", "weak", "noise"]


@pytest.fixture(scope="module")
def planted():
    """A region that is predicted well, one of weak units that is still predicted as a whole, and one of noise."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(N, N_UNITS)).astype("f4")
    share = np.repeat([1.0, 0.35, 0.0], 8)
    predicted = share * y + rng.normal(size=y.shape)
    rois = label_rois({name: np.arange(N_UNITS) // 8 == i for i, name in enumerate(REGIONS)})
    recording = Recording("cells", y, rois, np.arange(N).astype(str), features=y, test=np.arange(N) >= 0)
    return recording, predicted.astype("f4")


@pytest.fixture(scope="module")
def table(planted):
    recording, predicted = planted
    return summarise_regions(recording, {"one": predicted, "turned": predicted[::-1]}, n_shuffles=499)


def test_the_null_of_a_region_is_the_mean_of_its_units_under_the_same_shuffles(planted):
    recording, predicted = planted
    y = recording.responses
    members = recording.rois.reset_coords(drop=True)
    regions = permutation_correlation(y, predicted, n_permutations=20, seed=3, membership=members)
    single = []
    for u in range(8):
        alone = members.isel(roi=[0]).copy(data=[np.arange(N_UNITS) == u])
        one = permutation_correlation(y, predicted, n_permutations=20, seed=3, membership=alone)
        single.append(one.roi_null.values[:, 0])
    np.testing.assert_allclose(regions.roi_null.sel(roi="strong"), np.mean(single, axis=0), atol=1e-6)
    unit = permutation_correlation(y, predicted, n_permutations=20, seed=3)
    reached = (1 + (single[0] >= unit.correlation.values[0] - 1e-6).sum()) / 21
    assert unit.p.values[0] == pytest.approx(reached)


def test_units_without_a_correlation_do_not_count(planted):
    recording, predicted = planted
    y = recording.responses.copy()
    y[:, :7] = 1
    y[:, 16:] = 1
    tested = permutation_correlation(y, predicted, n_permutations=9, membership=recording.rois)
    alone = recording.rois.copy(data=(np.arange(N_UNITS) == 7)[None] & recording.rois.values)
    other = permutation_correlation(y, predicted, n_permutations=9, membership=alone)
    np.testing.assert_allclose(tested.roi_null.sel(roi="strong"), other.roi_null.sel(roi="strong"))
    assert tested.roi_null.sel(roi="noise").isnull().all()


def test_a_region_of_weak_units_is_found_as_a_whole(table):
    one = table.sel(model="one")
    assert one.p_fdr.sel(roi="weak") < 0.05 < one.p_fdr.sel(roi="noise")
    assert one.share_significant.sel(roi="strong") == 1
    assert one.share_significant.sel(roi="weak") < 0.8
    assert one.p.sel(roi="strong") == 1 / 500


def test_predictions_of_other_stimuli_are_not_significant(table):
    assert (table.p_fdr.sel(model="turned", roi=REGIONS) > 0.05).all()
    assert (table.share_significant.sel(model="turned") == 0).all()


def test_the_family_is_the_regions_and_not_all_units(table):
    p = table.p.sel(roi=REGIONS, model="one")
    np.testing.assert_allclose(table.p_fdr.sel(roi=REGIONS, model="one"), false_discovery_control(p.values))
    assert table.p_fdr.sel(roi="all").isnull().all()
    assert table.p.sel(roi="all", model="one") == 1 / 500


def test_means_and_intervals_are_over_units_and_stimuli(planted, table):
    recording, predicted = planted
    r = pearson_r(recording.responses, predicted).reshape(3, 8).mean(1)
    np.testing.assert_allclose(table.correlation.sel(roi=REGIONS, model="one"), r, rtol=1e-5)
    low, high = table.correlation_ci.sel(model="one").transpose("bound", "roi").values
    assert (low < table.correlation.sel(model="one")).all()
    assert (table.correlation.sel(model="one") < high).all()
    assert table.n_units.values.tolist() == [8, 8, 8, 24]
    assert table.attrs["resampled"] == "stimulus"
    assert "difference" not in table


def test_a_study_writes_the_same_table(planted, tmp_path):
    recording, _ = planted
    features = recording.responses * (np.arange(N_UNITS) < 8) + np.float32(0.01)
    given = Recording("cells", recording.responses, recording.rois, recording.stimulus_ids, features=features)
    options = {"models": ["ridge"], "split": "test=30,seed=0", "n_shuffles": 99}
    run_encoder_study(given, tmp_path / "study", **options)
    stored = xr.load_dataset(tmp_path / "study" / "roi_scores.nc", engine="h5netcdf")
    with xr.open_zarr(tmp_path / "study" / "predictions.zarr", consolidated=False) as file:
        predicted = file.load()
    own = summarise_regions(
        given, {"ridge": predicted.prediction[0, 0].values}, rows=predicted.row.values, n_shuffles=99
    )
    for name in ("correlation", "correlation_ci", "p", "p_fdr", "share_significant"):
        np.testing.assert_allclose(own[name], stored[name], err_msg=name)


def test_without_shuffles_there_is_no_p(planted):
    recording, predicted = planted
    _, regions = score_predictions(
        lambda label, seed: Prediction(predicted, seed), ["one"], [0], np.arange(N), recording, n_shuffles=0
    )
    assert "correlation" in regions
    assert not {"p", "p_fdr", "share_significant"} & set(regions)


def test_figure_leaves_open_what_is_not_significant(table):
    axes = plot_regions(table, "one").axes[0]
    filled = [
        line.get_markerfacecolor() == line.get_color() for line in axes.lines if line.get_marker() == "o"
    ]
    assert filled == [True, True, False, True]  # "all" is not tested, and so not open
    assert axes.texts[0].get_text() == "100 % of 8"
    with pytest.raises(ValueError, match="model must be one of 'one', 'turned', got 'two'"):
        plot_regions(table, "two")


def test_what_does_not_fit_is_refused(planted):
    recording, predicted = planted
    with pytest.raises(ValueError, match=r"predictions\['a'\] must have shape \(60, 24\), got \(59, 24\)"):
        summarise_regions(recording, {"a": predicted[1:]})
    with pytest.raises(ValueError, match="predictions must hold at least one model, got none"):
        summarise_regions(recording, {})
