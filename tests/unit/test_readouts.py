"""The nine published query sets train and predict on a simulated subject."""

from dataclasses import replace

import numpy as np
import pytest

from neuroattn.analyses.sources import READOUTS
from neuroattn.datasets import make_nsd_like, select_regions
from neuroattn.encoding import BrainEncoder
from neuroattn.results import label_rois

ROIS = ["V1v", "FFA-1", "EBA", "PPA", "VWFA-1"]


@pytest.fixture(scope="module")
def recording():
    simulated = make_nsd_like(60, 12, seed=0, rois=ROIS, vertices_per_roi=4)
    rois = simulated.rois
    masks = dict(zip(rois.roi.values.tolist(), rois.values, strict=True))
    everywhere = np.ones(rois.sizes["unit"], bool)
    labelled = label_rois(
        masks | {"early": masks["V1v"], "ventral": everywhere & ~masks["V1v"]},
        hemisphere=rois.hemisphere.values,
        unit_kind="vertex",
        vertex_index=rois.vertex_index.values,
        atlas=[*rois.atlas.values, "streams", "streams"],
    )
    return replace(simulated, rois=labelled)


@pytest.mark.parametrize("name", READOUTS)
def test_every_readout_trains(recording, name):
    group, readout = READOUTS[name]
    chosen = recording if group is None else select_regions(recording, group)
    X, y = np.asarray(chosen.features), np.asarray(chosen.responses)
    encoder = BrainEncoder(chosen.rois, readout=readout, heads=2, epochs=4, seed=0).fit(X, y)
    losses = [row["train_loss"] for row in encoder.history_]
    assert losses[-1] < losses[0]
    assert encoder.predict(X).shape == y.shape
    if readout == "roi":
        kept = {"streams": {"early", "ventral"}, "rois": set(ROIS)}.get(name)
        asked = set(encoder.queries_["roi"]) - {"rest"}
        assert asked == kept if kept else len(asked) == 1
