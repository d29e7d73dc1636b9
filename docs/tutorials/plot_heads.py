"""
Which head does what
====================

Attention has heads, and it is tempting to name them: the face head, the target head. This page asks four questions
that such a name would have to answer, each beside its control. What drives a head? What is lost without it? Do regions
share heads? And what does the decoder of a scanpath model attend to as a path goes on?

The recordings and searches on this page are *simulated*: what the heads should find is known, and nothing here is
evidence about brains or eyes.
"""

# %%
# An encoder whose truth is known
# -------------------------------
# Twenty-four tokens an image, and three regions. One reads the marked token, which may be anywhere in the upper half;
# one reads the same token of every image; one reads the mean of all tokens.

import matplotlib.pyplot as plt
import numpy as np

from neuroattn.analyses import (
    ablate_heads,
    attention_shifts,
    decoder_profile,
    head_overlap,
    path_attention,
    plot_attention_shifts,
    plot_decoder_profile,
    plot_driven_heads,
    plot_head_ablation,
    plot_head_overlap,
    stimulus_driven_heads,
    target_driven_heads,
)
from neuroattn.datasets import make_search_arrays
from neuroattn.encoding import BrainEncoder
from neuroattn.results import label_rois
from neuroattn.scanpath import ObjectAttentionTransformer

rng = np.random.default_rng(0)
n, n_tokens = 800, 24
tokens = rng.normal(size=(n, 8, n_tokens)).astype("float32")
marked = rng.integers(12, size=n)
tokens[:, [0, 5]] *= 0.1
tokens[np.arange(n), 0, marked] = tokens[:, 5, 20] = 5
read = np.stack([tokens[np.arange(n), 1:5, marked], tokens[:, 1:5, 20], tokens[:, 1:5].mean(2) * 3], axis=1)
y = np.einsum("nrc,rcu->nru", read, rng.normal(size=(3, 4, 8))) + rng.normal(size=(n, 3, 8))
X, y = tokens.reshape(n, 8, 4, 6), y.reshape(n, 24).astype("float32")

regions = ["marked", "fixed", "mean"]
rois = label_rois({name: np.arange(24) // 8 == i for i, name in enumerate(regions)})
encoder = BrainEncoder(rois, heads=4, epochs=25, seed=0).fit(X[:600], y[:600])
X, y = X[600:], y[600:]  # held out

# %%
# What drives a head
# ------------------
# :func:`~neuroattn.analyses.stimulus_driven_heads` compares what a head reads of an image with what it reads of the
# mean image, and of the same image with its tokens shuffled; lines span the regions. The noise level is the distance
# between two other images. All heads of an encoder answer to the image, or it would predict nothing; a head beyond the
# noise level moves more when there is no image to speak of than when there is another one.

driven = stimulus_driven_heads(encoder, X)
plt.figure(plot_driven_heads(driven))

# %%
# What is lost without it
# -----------------------
# :func:`~neuroattn.analyses.ablate_heads` edits the map of one head at a time and scores every region again. The edits
# take away different things:
#
# - "zero": all that the head reads;
# - "uniform": where it looks;
# - "mean": where it looks in *this* image. It goes on to look where it looks on average.
#
# The region that follows the mark must lose by all three; the one with the fixed token by the first two, for its map is
# the same on all images; the one that reads the mean of all tokens by "zero" alone.

effect = ablate_heads(encoder, X, y)
plt.figure(plot_head_ablation(effect))
print(
    effect["drop"].sel(strength=1.0).sum("head").isel(layer=0).to_pandas().set_axis(regions, axis=1).round(2)
)

# %%
# A dot marks a drop whose interval over images lies above zero. The control is a head drawn at random from the same
# layer: ``effect.excess``. A head with a large excess is one that the region needs more than others, given that all
# others stay. That a head is *not* missed does not show that it does nothing: others may stand in for it.
#
# Do regions share heads?
# -----------------------
# :func:`~neuroattn.analyses.head_overlap` takes the heads that each region needs most and asks whether they are the
# same ones, against sets drawn at random. With three regions and four heads there is little to find; with the regions
# of both hemispheres and several layers there is more. Head 2 of another network is another head: compare subjects only
# where they read through one decoder (:class:`~neuroattn.encoding.SharedBrainEncoder`).

drop = effect["drop"].sel(edit="zero", strength=1.0)
overlap = head_overlap(drop, k=2)
plt.figure(plot_head_overlap(overlap))

# %%
# Heads that look for the target
# ------------------------------
# The same question of a model of scanpaths: which heads know what is searched for? Each scene and path is given to the
# model with its target, without one, and with two others.

searches = make_search_arrays(n_scenes=120, n_observers=5, seed=0)
train, test = searches.split(by="image", test_size=0.25, seed=0)
model = ObjectAttentionTransformer(
    target="label", appearance="none", dim=32, layers=2, lr=3e-3, epochs=20, patience=6, seed=0
).fit(train)
plt.figure(plot_driven_heads(target_driven_heads(model, test)))

# %%
# Heads of the encoder relate objects, marked or not; path heads read the objects fixated so far; scene heads look for
# the next. For a head whose distance without a target lies far above the noise level, having a target matters more than
# which.
#
# Does attention move before the eyes?
# ------------------------------------
# :func:`~neuroattn.analyses.path_attention` returns the maps of the decoder at every step of people's paths. If the
# eyes follow attention, what a map *gains* from one step to the next should lie where the next fixation falls.
# :func:`~neuroattn.analyses.attention_shifts` scores this beside the controls without which it means little: the map
# itself, the map of the step before, the shifts of other steps, the next fixation of another trial.

maps = path_attention(model, test)
shifts = attention_shifts(maps.scene.mean(("layer", "head")), test)
plt.figure(plot_attention_shifts(shifts))

# %%
# Here the shifts tell nothing: the maps do, and they did so a step earlier. The model attends to the target from the
# start, and most people get there; it has no need to move its attention ahead of them.
#
# What the decoder remembers
# --------------------------
# Weights on earlier fixations fall with their age in any causal decoder, because old paths share their attention among
# more fixations. :func:`~neuroattn.analyses.decoder_profile` puts uniform attention beside them, and what counts is the
# difference: recency where the line is high on the left of the left panel, primacy on the left of the right one.

profile = decoder_profile(maps)
plt.figure(plot_decoder_profile(profile.isel(place=slice(0, 7))))

# %%
# What this does not show
# -----------------------
# Heads are a basis that training happened to choose. Another seed gives others, and what one head does here two may
# share there. A distance says that a head moves, not that anything downstream listens; a drop says that the rest cannot
# make up for a head at once, not that the region computes as the head does. See :doc:`/explanation/heads`.
