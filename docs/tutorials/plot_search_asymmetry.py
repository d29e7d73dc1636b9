"""
Why finding A among B is not finding B among A
==============================================

People find a curved line among straight ones at once, however many there are. A straight line among curved ones they
have to look for, item by item. Target and distractors differ by the same amount in both directions; only their roles
are exchanged. Gupta, Zhang, Wu, Wolfe and Kreiman (2021) showed that a network which was trained to name photographs
and sees less and less detail away from its gaze has such asymmetries too.

This page runs one small experiment with another network than theirs, beside the controls that a claim needs. The
displays are drawn here, the network has real ImageNet weights that install with pip, and nothing is simulated. What
comes out is what is shown.
"""

# %%
# One experiment, two conditions
# ------------------------------
# The six published experiments are generators with the published geometry, in degrees of visual angle. Here is the
# second: discs that are lit from one side or from above. The display stands still while the number of items grows.

import matplotlib.pyplot as plt
import numpy as np

from neuroattn.analyses import plot_asymmetry, plot_displays, plot_search_times, search_asymmetry
from neuroattn.search import EccNet, SearchConfig, experiments, load_search_backbone

experiment = experiments.lighting(n_per_size=4, seed=0)
print(experiment.n_trials, "displays of", " x ".join(map(str, experiment.size_px)), "px")
plt.figure(plot_displays([experiment]))

# %%
# A searcher
# ----------
# :class:`~neuroattn.search.EccNet` looks at the display from its gaze. Pooling windows grow with the distance from the
# gaze, so that what is far away is blurred *in the features*. It compares the features with those of the target, and
# looks where they match best, until the target lies at the gaze. Cells that were visited are not visited again.
#
# The published network is VGG16. ``load_search_backbone("vgg16", weights="vgg16.h5")`` reads your copy. Here it is
# "demo", EfficientNet-Lite0, read at the strides of the layers that are read in VGG16.

model = EccNet(load_search_backbone("demo"), SearchConfig.paper())
trial = experiment.trials()[-1]
path = model.search_batch([trial], return_maps=True)[0]
print(path.to_frame()[["x", "y"]].astype(int).T.to_string(header=False))
print("found" if path.found else "not found", "after", path.n_saccades, "saccades;", trial.attrs["condition"])

# %%
# The numbers are pixels. From which map was the first saccade chosen? The square is what the network sees around its
# gaze, larger than the display; bright is where the features match.

figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
left.imshow(trial.image)
left.plot(path.x, path.y, "o-", color="#cf5400")
left.set_title(f"{path.n_saccades} saccades")
right.imshow(path.attrs["maps"][0], cmap="gray")
right.set_title("map at the first fixation")
for axes in (left, right):
    axes.set(xticks=[], yticks=[])

# %%
# The experiment
# --------------
# The number of saccades is the measure. The slope over set size says what each further item costs: zero where the
# target pops out, half a saccade where one looks at random without looking twice. Beside the network stand its
# controls: the same network without eccentricity, with random weights, the match of plain pixels, and chance. The
# controls matter: an asymmetry that plain pixels have as well is one of the displays and says nothing about vision.

result = search_asymmetry({"demo": model}, [experiment], n_resamples=500, seed=0)
slopes = result.slope.sel(unfound="cap").isel(experiment=0).to_pandas().round(2)
slopes.columns = [
    f"{role}: {condition.name}" for role, condition in zip(slopes, experiment.conditions, strict=True)
]
print(slopes)

# %%
# "hard" and "easy" are the roles of the conditions *for people*.

plt.figure(plot_search_times(result))

# %%
# The asymmetry index is the difference of the slopes over their sum: 1 if only the condition that is hard for people is
# hard, 0 without asymmetry, -1 if it is the other way round. It saturates: where one slope is zero, the index is 1
# however small the other slope. So it is shown with an interval over displays and a mark.

index = result["index"].sel(unfound="cap").isel(experiment=0)
low, high = result.index_ci.sel(unfound="cap").isel(experiment=0).transpose("bound", "model").values
for name, value, a, b in zip(result.model.values, index.values, low, high, strict=True):
    print(f"{name:16s} {value:+.2f} ({a:+.2f} to {b:+.2f})")
print("people", np.round(result.human_index.item(), 2), "(read off published figures, no errors)")
plt.figure(plot_asymmetry(result))

# %%
# What may be claimed
# -------------------
# A polarity is claimed only where its interval leaves out 0 and lies beyond the intervals of all controls.

claim = int(result.claim.sel(model="demo", unfound="cap").item())
print(
    {1: "the asymmetry of people", -1: "the asymmetry is reversed", 0: "no asymmetry may be claimed"}[claim]
)

# %%
# So few displays of one experiment decide little, and this is not the network of the paper. All six experiments
# run with
#
# .. code-block:: bash
#
#    neuroattn search asymmetry --experiment all --out asymmetry --dry-run
#
# which states the time they take; without ``--dry-run`` it takes it. :doc:`/explanation/search` says what the paper
# claims and what could be checked.
