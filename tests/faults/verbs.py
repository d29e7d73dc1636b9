"""Every command that writes, at its smallest, and what it reads."""

import json
from typing import NamedTuple

import mne
import numpy as np
from PIL import Image

from neuroattn.datasets import make_nsd_like, make_search_arrays, write_scanpaths

ARRAYS = "--layout arrays --orientation stimulus-unit --rois rois.json --device cpu --cache cache"
NETWORK = "--backbone test_vit --weights random --image-size 32"
SIMULATED = "--n-train 12 --n-test 6 --cache cache"


class Verb(NamedTuple):
    """A command line without ``--out``, which here names its results."""

    name: str
    options: str
    resume: str | None = None  # what makes it go on; None where it starts anew
    target: str = "--out"

    def line(self, out):
        """Return the command line with its results in ``out``."""
        return f"{self.name} {self.options} {self.target} {out}"


VERBS = [
    Verb(
        "fit-encoder",
        f"{ARRAYS} {NETWORK} --responses responses.npy --images images.npy --model attention,ridge --epochs 1 "
        "--split test=12,seed=0 --shuffles 19",
        "--resume",
    ),
    Verb("extract-features", f"--images images.npy {NETWORK} --layers block1,block3", "", "--cache"),
    Verb(
        "eval-encoder",
        f"--encoder study {ARRAYS} --responses new_responses.npy --images new_images.npy --shuffles 19",
    ),
    Verb("attention-maps", "--encoder study --images new_images.npy --overlays 1 --cache cache --device cpu"),
    Verb("make-data algonauts", SIMULATED),
    Verb("make-data nsd", f"{SIMULATED} --sessions 6"),
    Verb("make-data scanpaths", "--layout coco-search18 --scenes 3 --observers 2"),
    Verb(
        "decode-eeg fit",
        "eeg/S001R04_raw.fif eeg/S001R08_raw.fif --model csp-lda --permutations 2 --device cpu",
        "--resume",
    ),
    Verb("decode-eeg predict", "decoded/models/csp-lda eeg/S002R04_raw.fif"),
    Verb(
        "decode-eeg study",
        r"eeg --names 'S(?P<subject>\d+)R(?P<run>\d+)' --attention eca --baseline csp-lda --epochs 1 --n-seeds 1 "
        "--device cpu",
        "--resume",
    ),
    Verb("predict-scanpath sample", "objects.csv --size 480x360 --target fork --model fitted --n 2"),
    Verb(
        "predict-scanpath fit",
        "arrays --target label --appearance none --dim 8 --layers 1 --epochs 1 --samples 1 --device cpu",
        "--resume",
    ),
    Verb("predict-scanpath evaluate", "arrays --model fitted --samples 1 --device cpu"),
    Verb("search run", "desk.png mug.png --weights random --px-per-degree 16 --max-fixations 2"),
    Verb(
        "search asymmetry",
        "--experiment lighting --trials 1 --backbone test_resnet --weights random --resamples 20 --no-controls",
        "--resume",
    ),
    Verb("compare-attention", "--attention inline --seeds 2 --steps 2 --n-train 64 --n-test 16", "--resume"),
]
BY_NAME = {verb.name: verb for verb in VERBS}


def write_inputs(folder):
    """Write what the commands read, apart from what commands make."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 32, 32, 3), np.uint8)
    images[::2] //= 3  # every other one is dark, which is what the units respond to
    responses = images.mean((1, 2, 3))[:, None] / 40 + rng.normal(size=(60, 4))
    for name, rows in {"": slice(40), "new_": slice(40, 60)}.items():
        np.save(folder / f"{name}images.npy", images[rows])
        np.save(folder / f"{name}responses.npy", responses[rows])
    (folder / "rois.json").write_text(json.dumps({"V1": [0, 1], "FFA-1": [2, 3]}))
    (folder / "eeg").mkdir()
    info = mne.create_info(["F3", "F4", "C3", "C4"], 100, "eeg")
    for name in ("S001R04", "S001R08", "S002R04", "S002R08"):
        raw = mne.io.RawArray(1e-5 * rng.normal(size=(4, 5000)), info, verbose="error")
        raw.set_annotations(mne.Annotations(2 + 6 * np.arange(8), 4, ["T1", "T2"] * 4))
        raw.save(folder / "eeg" / f"{name}_raw.fif", verbose="error")
    write_scanpaths(
        make_search_arrays(n_scenes=8, n_observers=2, seed=0), folder / "arrays", layout="coco-search18"
    )
    (folder / "objects.csv").write_text(
        "x,y,width,height,label\n40,60,90,70,cup\n200,30,60,80,fork\n350,200,99,90,cup\n"
    )
    Image.fromarray(images[0]).save(folder / "desk.png")
    Image.fromarray(images[0, :16, :16]).save(folder / "mug.png")


# What other commands read of theirs.
MADE = {"study": "fit-encoder", "decoded": "decode-eeg fit", "fitted": "predict-scanpath fit"}


def simulate(network, cache, *, n_train, n_test, seed, progress):
    """Make a subject as the demo does, planted on pixels: the demo network takes half a minute."""
    return make_nsd_like(
        n_train,
        n_test,
        seed=seed,
        features=lambda images: images[:, ::32, ::32].transpose(0, 3, 1, 2).astype("f4"),
        rois=["V1v", "PPA"],
        vertices_per_roi=3,
    )
