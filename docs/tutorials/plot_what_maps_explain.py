"""
What maps explain
=================

A map says from where a region reads, not what moves its prediction, nor which features it reads. This page asks those
questions of a simulated subject whose answers are known: which regions are predicted at all, does saliency agree with
the maps, do the maps find the planted objects better than the center of the image does, and which features does each
region read?
"""

# %%
# A subject with known answers, and two seeds of one model
# ---------------------------------------------------------
# Images hold one *cued* object of each category among decoys; FFA-1 follows the cued face and PPA the cued scene,
# wherever they stand. RSC reads the mean and the spread of every channel over the image. The region aTL-faces is noise.
# The same model is fitted with two seeds: what only one of them shows is about its weights, not about the region.

import tempfile

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from neuroattn.analyses import (
    contrastive_maps,
    map_saliency,
    partition_variance,
    plot_map_saliency,
    plot_map_scores,
    plot_regions,
    plot_variance,
    score_maps,
    summarise_regions,
)
from neuroattn.datasets import make_nsd_like
from neuroattn.encoding import BandedRidgeEncoder, BrainEncoder, extract_features, load_backbone

network = load_backbone("demo")
cache = tempfile.TemporaryDirectory()


def features(images):
    """Return features (stimulus, channel, y, x) of uint8 images."""
    return np.asarray(extract_features(images, network, cache.name)[:])


recording = make_nsd_like(
    n_train=380,
    n_test=80,
    seed=0,
    rois=["FFA-1", "PPA", "RSC", "aTL-faces"],
    vertices_per_roi=12,
    features=features,
)
X, y = features(recording.images), recording.responses
train, test = ~recording.test, recording.test
encoder, other = (BrainEncoder(recording.rois, seed=seed).fit(X[train], y[train]) for seed in (0, 1))

# %%
# Which regions are predicted at all?
# -----------------------------------
# The first question, since a map of a region that nothing predicts is not to be read.
# :func:`~neuroattn.analyses.summarise_regions` tests the mean correlation of each region under shuffled images and
# corrects over regions; the share of units that are significant by themselves stands on the right.

table = summarise_regions(recording, {"attention": encoder.predict(X[test])})
print(table[["p_fdr", "share_significant"]].sel(model="attention").to_dataframe().round(3))
plt.figure(plot_regions(table, "attention"))

# %%
# Does it look at what moves the prediction?
# ------------------------------------------
# :func:`~neuroattn.analyses.map_saliency` follows the mean prediction of each region back to the tokens and compares
# the result with the maps. The open dots are the agreement with the map of *another* image. Triangles compare the map
# of one seed with the saliency of the other, and the grey bars are what the noise between seeds leaves for that to
# reach. On the right, tokens are put back into an empty image in the order of a ranking: how much of the prediction
# comes back, beyond random order?

saliency = map_saliency(encoder, X[test][:40], others=[other])
plt.figure(plot_map_saliency(saliency))

# %%
# In FFA-1 and PPA the map of one seed agrees with the saliency of the other about as well as it could, and the tokens
# of the map bring the prediction back, while those of another image do not. Within one network, map and saliency agree
# in the region of noise, too: that agreement is about networks, not about regions.
#
# Integrated gradients must add up to the prediction. The largest error says whether ``n_steps`` was enough:

print(saliency.completeness_error.round(3).values)

# %%
# Do maps find objects, or the center?
# ------------------------------------
# In this simulation objects stand anywhere, so there is no bias to the center to take out. Photographs have one, so
# let us plant one: every map is multiplied by a blob in the middle of the image, and made to sum to one again.

maps = encoder.attention(X[test])
place = (np.arange(maps.sizes["x"]) + 0.5) / maps.sizes["x"] - 0.5
blob = xr.DataArray(np.exp(-(place[:, None] ** 2 + place**2) / (2 * 0.15**2)), dims=("y", "x"))
biased = (maps * blob).transpose(*maps.dims)
biased = biased / biased.sum(("y", "x"))

cues = {"FFA-1": "faces", "PPA": "places"}
masks = recording.truth.object_mask.isel(stimulus=test)
objects = np.stack(
    [
        masks.sel(category=cues[roi]) if roi in cues else np.zeros(masks[:, 0].shape, bool)
        for roi in maps.roi.values
    ],
    axis=1,
)
objects = xr.DataArray(objects, dims=maps.dims, coords=maps.coords)

scores = score_maps(biased, objects)
plt.figure(plot_map_scores(scores))

# %%
# The blob costs the maps their score; :func:`~neuroattn.analyses.contrastive_maps` takes out what all regions share,
# and with it the blob. The Gaussian in the center and the maps of other images stand beside every score, since on
# photographs, where objects *do* stand in the center, they would score well without having seen anything.

before, after = (contrastive_maps(one) for one in (maps, biased))
print(f"correlation of the contrasts without and with the blob: {xr.corr(before, after).item():.2f}")

# %%
# Which features?
# ---------------
# No map answers this. :func:`~neuroattn.analyses.partition_variance` fits every combination of feature spaces: here the
# means and the spreads of the channels over the image, which RSC was made to read.

spaces = {"mean": X.mean((2, 3)), "spread": X.std((2, 3))}
parts = partition_variance(recording, spaces, encoder=BandedRidgeEncoder(n_iter=10), n_resamples=100)
plt.figure(plot_variance(parts))

# %%
# Both spaces explain RSC, each alone and both together, and they explain little of the others, which is what was
# planted. Exchanging the images of one space (open marks) leaves nothing of its part.
#
# The subject on this page is simulated: that the methods find what was planted is no evidence about brains.

cache.cleanup()

# sphinx_gallery_thumbnail_number = 2
