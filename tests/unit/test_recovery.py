"""Every planted kind of region is won by the model made for it, and the model finds what was planted."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from neuroattn.datasets import make_nsd_like
from neuroattn.encoding import (
    BrainEncoder,
    FactorizedEncoder,
    PooledRidgeEncoder,
    ProbeEncoder,
    RidgeEncoder,
)
from neuroattn.metrics import bootstrap_correlation, pearson_r, r2_over_ceiling


def channel_products(features):
    """The second moment of tokens, column by column of the channels as they come rather than of their components."""
    tokens = features.reshape(*features.shape[:2], -1)
    moment = tokens @ tokens.transpose(0, 2, 1) / tokens.shape[2]
    return moment[:, *np.triu_indices(moment.shape[1])]


ROIS = ["V1d", "V3v", "EBA", "FFA-1", "VWFA-1", "RSC", "aTL-faces"]
RIDGES = {
    "ridge": RidgeEncoder(),
    "ridge mean": PooledRidgeEncoder(("mean",)),
    "ridge mean max std": PooledRidgeEncoder(("mean", "max", "std")),
    "ridge second moment": PooledRidgeEncoder(("second-moment",)),
    "ridge all pooled": PooledRidgeEncoder(),
    "ridge channel products": make_pipeline(FunctionTransformer(channel_products), RidgeEncoder()),
}
POOLED = [name for name in RIDGES if name != "ridge"]


class Subject:
    """A simulated subject and what every model makes of it."""

    def __init__(self, seed):
        self.recording = recording = make_nsd_like(500, 200, seed=seed, rois=ROIS, vertices_per_roi=15)
        rois, train = recording.rois, ~recording.test
        self.truth = recording.truth.isel(stimulus=recording.test)
        self.features, self.measured = recording.features[recording.test], recording.responses[recording.test]
        models = {
            "attention": BrainEncoder(rois, seed=seed),
            "factorized": FactorizedEncoder(rois, seed=seed),
            "probe": ProbeEncoder(rois, seed=seed),
            **RIDGES,
        }
        self.fitted = {
            name: model.fit(recording.features[train], recording.responses[train])
            for name, model in models.items()
        }
        self.predicted = {name: model.predict(self.features) for name, model in self.fitted.items()}

    def accuracy(self):
        """Mean r2_over_ceiling, a row for each kind of region that responds and a column for each model."""
        kinds = self.truth.kind.values
        table = {}
        for name, predicted in self.predicted.items():
            score = r2_over_ceiling(pearson_r(self.measured, predicted), self.recording.noise_ceiling)
            table[name] = {
                kind: np.mean(
                    [score[members].mean() for members in self.recording.rois.values[kinds == kind]]
                )
                for kind in ("routed", "pooled-linear", "retinotopic")
            }
        return pd.DataFrame(table)


@pytest.fixture(scope="module", params=[0, 1, 2], ids="seed={}".format)
def subject(request):
    return Subject(request.param)


def test_each_kind_is_won_by_the_model_made_for_it(subject, record_property):
    accuracy = subject.accuracy()
    print(accuracy.T.round(2))
    record_property("probe", accuracy["probe"].round(3).to_dict())
    winner = accuracy.idxmax(axis=1)
    assert winner["routed"] == "attention"
    assert winner["pooled-linear"] in POOLED
    assert winner["retinotopic"] == "factorized"


def test_attention_beats_every_ridge_in_every_routed_region(subject):
    recording, truth = subject.recording, subject.truth
    score = {
        name: r2_over_ceiling(pearson_r(subject.measured, predicted), recording.noise_ceiling)
        for name, predicted in subject.predicted.items()
    }
    for members in recording.rois.values[truth.kind.values == "routed"]:
        best_ridge = max(score[name][members].mean() for name in RIDGES)
        assert best_ridge < 0.5
        assert score["attention"][members].mean() > best_ridge + 0.2


def test_planted_receptive_fields_are_recovered(subject):
    maps, truth = subject.fitted["factorized"].spatial_maps().values, subject.truth
    row, column = np.unravel_index(maps.reshape(len(maps), -1).argmax(1), maps.shape[1:])
    error = np.hypot(column - truth.center_x.values, row - truth.center_y.values)
    shuffled = np.random.default_rng(0).permutation(np.flatnonzero(np.isfinite(error)))
    chance = np.hypot(
        column[shuffled] - truth.center_x.values[np.sort(shuffled)],
        row[shuffled] - truth.center_y.values[np.sort(shuffled)],
    )
    assert np.nanmedian(error) < 2 < np.median(chance)


def test_intervals_exclude_zero_no_more_often_than_they_should_where_nothing_responds(subject):
    silent = subject.truth.ncsnr.values == 0
    limit = stats.binom.ppf(0.999, silent.sum(), 0.06) / silent.sum()
    for predicted in subject.predicted.values():
        draws = bootstrap_correlation(subject.measured[:, silent], predicted[:, silent], seed=0)
        low, high = np.percentile(draws, [2.5, 97.5], axis=0)
        assert np.mean((low > 0) | (high < 0)) <= limit


def auc(maps, targets, weights):
    """Chance that attention on a target token exceeds that on another, drawn by weight, mean over images."""
    found = []
    for attention, target, weight in zip(maps, targets, weights, strict=True):
        on, others = attention[target], attention[weight > 0]
        above = (on[:, None] > others).mean(0) + (on[:, None] == others).mean(0) / 2
        found.append(np.average(above, weights=weight[weight > 0]))
    return np.mean(found)


def test_attention_finds_the_cued_object(subject):
    truth = subject.truth
    maps = subject.fitted["attention"].attention(subject.features)
    cue = truth.cue.to_series().to_dict()
    routed = [query for query in range(maps.sizes["query"]) if cue.get(str(maps.roi.values[query]))]
    assert len(routed) == 5  # VWFA-1 has no right half
    objects = (truth.object_mask | truth.decoy_mask).any("category").values
    for query in routed:
        category = cue[str(maps.roi.values[query])]
        attention, cued = maps.values[:, query], truth.object_mask.sel(category=category).values
        elsewhere = np.where(cued, 0, cued.mean(0))  # where it lies in other images: removes a bias to places
        assert auc(attention, cued, elsewhere) > 0.9
        assert auc(attention, cued, truth.decoy_mask.sel(category=category).values) > 0.8
        assert auc(attention, cued, objects & ~cued) > 0.9
