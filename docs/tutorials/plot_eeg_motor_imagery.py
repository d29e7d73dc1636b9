"""
Motor imagery: what a decoder decodes
=====================================

From recordings to a claim that holds: cut trials around a cue, score simple pipelines and BaseNet with channel
attention in the imagery band, and put every score beside its null and beside the controls that could explain it away.
Then look at what the network attends to, and what that does not mean.

The trials are those of one subject of the PhysioNet motor imagery data (imagined left or right fist): from the folder
``data/eeg/eegmmi_raw_edf`` in ``NEUROATTN_SHARED`` if there is one, otherwise from the internet through MNE, and
otherwise *simulated*; the first line of the output says which.
"""

# %%
# Trials around a cue
# -------------------
# :func:`~neuroattn.datasets.load_eeg` reads EDF, BDF, GDF, FIF and BrainVision files and BIDS folders. Signals are
# kept as recorded, from one second before the cue: the filter belongs to the analysis, and the time before the cue is
# a control.

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from neuroattn.analyses import Condition, Decoder, decode_trials
from neuroattn.datasets import Trials, load_eeg
from neuroattn.eeg import attention_gates, attention_maps, saliency

RUNS = (4, 8, 12)


def recordings():
    """Return the files of one subject, or none where there are neither files nor a network connection."""
    shared = Path(os.environ.get("NEUROATTN_SHARED", "../shared")) / "data" / "eeg" / "eegmmi_raw_edf"
    if shared.is_dir():
        return [shared / f"S007R{run:02d}.edf" for run in RUNS]
    import mne

    try:
        return mne.datasets.eegbci.load_data(7, RUNS, update_path=False, verbose="error")
    except OSError:  # no connection
        return []


def simulate():
    """Return trials with a 12 Hz rhythm over the hemisphere opposite to the hand."""
    rng = np.random.default_rng(0)
    names = ["F3", "F4", "C3", "Cz", "C4", "P3", "P4"]
    y = np.tile(["left", "right"], 18)
    t = np.arange(-80, 320) / 80
    X = rng.normal(size=(36, len(names), len(t))) * 5
    wave = 4 * np.sin(2 * np.pi * 12 * t + rng.uniform(0, 6, size=(36, 1))) * (t > 0.4)
    X[np.arange(36), np.where(y == "left", 4, 2)] -= wave
    run = np.repeat(["1", "2", "3"], 12)
    metadata = pd.DataFrame({"subject": "simulated", "session": "1", "run": run})
    return Trials(X, y, metadata, names, sfreq=80, tmin=-1)


files = recordings()
if files:
    trials = load_eeg(files, events={"T1": "left", "T2": "right"}, tmin=-1, tmax=4, resample=80)
    print("recorded: PhysioNet EEGMMI, subject 7")
else:
    trials = simulate()
    print("SIMULATED trials: nothing below is evidence about brains")
print(f"{len(trials)} trials, {len(trials.ch_names)} channels, {trials.sfreq:g} Hz")

# %%
# The claim and its controls
# --------------------------
# A cue on one side of a screen moves the eyes and evokes slow waves. A decoder that sees everything from the cue on
# may read those and no imagery at all. So the claim is made in one condition only, 8-30 Hz from half a second after
# the cue, and the same pipelines are scored on broadband signals, on signals below 4 Hz and before the cue.
#
# The null shuffles the labels within each run and fits again all that uses labels. Few permutations and epochs keep
# this page quick; a study takes 200 permutations or more.

conditions = [
    Condition("imagery", (8, 30), 0.5, 4.0),
    Condition("broadband", None, 0.0, 4.0),
    Condition("slow", (None, 4), 0.0, 2.0),
    Condition("pre-cue", None, -1.0, 0.0),
]
simple = ["csp-lda", "tangent-space", "slow-signals"]
scores = decode_trials(trials, simple, conditions=conditions, n_permutations=20, seed=0)
print(scores.accuracy.to_pandas().round(2))
print("95 % point of the null")
print(scores.null_95.to_pandas().round(2))
for name, verdict in zip(scores.pipeline.values, scores.verdict.values, strict=True):
    print(f"{name}: {verdict}")

# %%
# Where ``slow-signals`` scores high, a high broadband score of any other pipeline is no evidence of imagery. It says
# nothing against a score in the imagery band, which holds no such signals.
#
# A network with channel attention
# --------------------------------
# The network is scored in the same folds. Thirty training trials are little for it, and simple pipelines usually win;
# on the real recordings they do, see the explanation of EEG decoding.

network = decode_trials(trials, ["basenet+eca"], conditions=conditions[:2], n_permutations=0, n_epochs=20)
print(network.accuracy.to_pandas().round(2))
print(f"guessing reaches {float(network.adjusted_chance):.2f} in 5 % of such experiments")

# %%
# What it attends to
# ------------------
# The attention weighs 16 features of the network, not electrodes. Its gates come back as a labelled array, and a map
# on the scalp follows from the spatial patterns (not the filter weights) of the features that are weighed.

decoder = Decoder.fit(trials, "basenet+eca", conditions[0], n_epochs=20)
X = conditions[0].apply(trials).X
gates = attention_gates(decoder.estimator, X, trials.y)
print(gates.groupby("label").mean().round(3).values)

maps = attention_maps(decoder.estimator, X, trials.y)
print(f"mean gates of the classes differ by {maps.attrs['gate_spread']:.4f} at most")

# %%
# Where the gates of the two classes hardly differ, neither do the maps: the attention is then a fixed weighting of
# features, and a map per class would suggest a difference that is not there.

if trials.info is not None:
    import mne

    figure, axes = plt.subplots(1, 2, figsize=(6, 3))
    for axis, label in zip(axes, maps.label.values, strict=True):
        mne.viz.plot_topomap(maps.sel(label=label).values, trials.info, axes=axis, show=False, contours=0)
        axis.set_title(str(label))

# %%
# The gradient of the class by the signals says to which samples and electrodes the network is sensitive.

gradient = saliency(decoder.estimator, X, trials.y).mean("epoch")
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(gradient.time + conditions[0].tmin, gradient.mean("channel"))
_ = axes.set(xlabel="Seconds after the cue", ylabel="Mean |gradient|")

# %%
# On the command line
# -------------------
# The same comparison with a report, models that can be used again, and tables:
#
# .. code-block:: bash
#
#    neuroattn decode-eeg fit S007R04.edf S007R08.edf S007R12.edf --resample 80 --out S007
#    neuroattn decode-eeg predict S007/models/csp-lda S007R12.edf --out predictions.csv
