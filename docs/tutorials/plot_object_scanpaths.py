"""
Scanpaths over objects: who predicts the next fixation
======================================================

From fixations to a trained model and its scores beside people: simulate people who search arrays of objects by rules
that are known, fit simple models and the object attention transformer to some of the arrays, and ask on the others how
well each predicts where people look next, whether its samples search as people do, and what a difference is worth.

All people on this page are *simulated*: nothing here is evidence about eye movements. That is the point: the answer is
known.
"""

# %%
# People who search
# -----------------
# :func:`~neuroattn.datasets.make_search_arrays` draws arrays of objects and lets observers search each for the one
# object of a given category. Where they look next depends on five things, with weights that are known: how far an
# object is from the centre and from the present fixation, whether it lies sideways, whether it was looked at before,
# and whether it is the target. This is a conditional logit.

import matplotlib.pyplot as plt
from sklearn.frozen import FrozenEstimator

from neuroattn.analyses import (
    compare_scanpath_models,
    plot_fixation_density,
    plot_found_curve,
    plot_scanpath,
    plot_transitions,
    scanpath_table,
)
from neuroattn.datasets import make_search_arrays
from neuroattn.scanpath import (
    ConditionalLogit,
    ObjectAttentionTransformer,
    PositionMarkov,
    UniformChoice,
    sampled_scanpaths,
)

searches = make_search_arrays(n_scenes=200, n_observers=6, grid=(2, 4), seed=0)
print(searches)

# %%
# A scene knows its objects, their boxes and labels, and what is searched for. Fixations are numbered in their order;
# the one numbered 0 was not chosen, because the trial began there. The thick box holds the target.

scene = searches.scene_of(0)
people = [searches[trial] for trial in range(6)]
plt.figure(plot_scanpath(scene, {"simulated person 1": people[:1], "simulated person 2": people[1:2]}))

# %%
# Train on some images, test on others
# ------------------------------------
# No image is on both sides; else a model could learn by heart where people look in it.
#
# The conditional logit has ten weights and is fitted in a second. The simulated people obey five of them.

train, test = searches.split(by="image", test_size=0.2, seed=0)
logit = ConditionalLogit().fit(train)
print(logit.coefficients().estimate.to_series().round(2))

# %%
# The transformer is told nothing of such rules. What it knows of the target has to be said, because it decides what a
# score means: here ``target="exemplar"``, the looks of *another* object of the category, and neither its place nor
# which object it is. Objects' looks are the features that come with the arrays; with ``appearance="cnn"`` it would
# learn from the pictures themselves.

transformer = ObjectAttentionTransformer(
    target="exemplar", appearance="precomputed", dim=32, layers=1, lr=3e-3, epochs=25, patience=6, seed=0
).fit(train)
print(
    f"{len(transformer.history_)} passes, validation loss {transformer.history_[-1]['valid_loss']:.3f} nat an event"
)

# %%
# Bits per fixation
# -----------------
# The question at each step is: given the path so far, and that it goes on, which object is next? A model pays -log2 of
# the probability that it gave to the object that was fixated. Uniform choice among eight objects pays 3 bits.
#
# Models that are fitted stand in :class:`sklearn.frozen.FrozenEstimator`, so that they are scored as they are; others
# would be fitted anew in each fold. Intervals are over images and observers at once.

models = {
    "uniform": UniformChoice(),
    "position Markov": PositionMarkov().fit(train),
    "conditional logit": logit,
    "transformer": transformer,
}
models["uniform"].fit(train)
comparison = compare_scanpath_models(
    test, {name: FrozenEstimator(model) for name, model in models.items()}, n_samples=3, n_boot=500, seed=0
)
print(scanpath_table(comparison, against="conditional logit"))

# %%
# The conditional logit wins, as it must: it holds the rule by which these people were made, and needs no more than to
# find its weights. The transformer has learned a part of it from a thousand searches, more than the Markov chain, which
# knows places only. On recordings nobody knows the rule, and the order may be another; the logit beside the network
# says what the network adds, and the sign of the gain is reported as it comes.
#
# The last row predicts each person from the others who searched the same scene. It is no ceiling: five paths are few.

# %%
# When the target is found
# ------------------------
# A model that predicts single fixations well should also search as people do when it is left alone. Each model draws
# paths, and the share that has reached the target is counted by saccade, beside people and a random search that never
# returns to an object.

plt.figure(plot_found_curve(comparison))

# %%
# How alike paths are
# -------------------
# A similarity says little alone. Its anchors are the paths of the other observers of an image, of the same observer on
# other images, and random ones of equal length.

print(comparison.similarity.sel(metric="sequence score").to_series().round(3))

# %%
# Samples beside people
# ---------------------
# Samples come as a labelled data set with the probability of each fixation and how uncertain the model was. Thousands
# are drawn in one batch: the scene is encoded once.

scene = test.scene_of(0)
people = [path for path in test if path.attrs["scene"] == scene.name]
samples = transformer.sample(scene, n=500, seed=0)
print(samples.entropy.mean("sample").round(2).values[:4], "bits of uncertainty at the first four fixations")

groups = {"simulated people": people, "transformer": sampled_scanpaths(samples, scene)}
plt.figure(plot_scanpath(scene, {name: paths[:3] for name, paths in groups.items()}))

# %%
# Where fixations fall, and from which object people and the model go to which:

plt.figure(plot_fixation_density(scene, groups))

# %%

plt.figure(plot_transitions(scene, groups, at_least=0.1))

# %%
# On the command line
# -------------------
# The same from files, with a report:
#
# .. code-block:: bash
#
#    neuroattn make-data scanpaths --out arrays
#    neuroattn predict-scanpath fit arrays --target exemplar --appearance precomputed --out fitted
#    neuroattn predict-scanpath evaluate arrays --model fitted --out scores
#    neuroattn predict-scanpath sample objects.csv --size 1680x1050 --target cup --out desk
