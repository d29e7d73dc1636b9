"""Every reader of files, with a small whole input for each, and what counts as reading or refusing a damaged one."""

import json
import shutil
import signal
import warnings
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import h5py
import mne
import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat

from neuroattn.analyses import Condition, Decoder, read_trials
from neuroattn.cli._options import read_config
from neuroattn.cli.predict_scanpath import read_scene
from neuroattn.datasets import (
    ObjectScene,
    Recording,
    ScanpathDataset,
    Trials,
    add_regions,
    load_algonauts,
    load_arrays,
    load_eeg,
    load_nsd,
    load_scanpaths,
    make_search_arrays,
    split_stimuli,
    write_algonauts,
    write_scanpaths,
)
from neuroattn.encoding import (
    BrainEncoder,
    FeatureStore,
    RidgeEncoder,
    extract_features,
    load_backbone,
    load_encoder,
)
from neuroattn.results import Scanpath, label_rois
from neuroattn.scanpath import ObjectAttentionTransformer
from neuroattn.search import read_vgg16_weights
from neuroattn.search.weights import LAYERS

from .cells import cell

REFUSED = "refused, file named"
N_UNITS, N_STIMULI = 4, 6
SUBJECT = "nsddata_betas/ppdata/subj01"
LABELS = "nsddata/freesurfer/fsaverage/label"


OPTIONAL = ("instances.json", "objects.tsv", "streams.mgz.ctab", "a.mgz.ctab")


class Reader(NamedTuple):
    """A way to read one kind of file: how its input is written and read, and which file is damaged."""

    part: str
    file: str
    make: Any  # (folder) -> None
    load: Any  # (folder) -> a list of arrays
    text: bool = False  # a cut may end a table or a number early without a trace
    warns: bool = False  # what is left is read, and a warning says so

    @property
    def optional(self):
        """Whether input is whole without this file."""
        return Path(self.file).name in OPTIONAL

    def __repr__(self):
        return self.part


def array(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


RESPONSES = array(N_UNITS, N_STIMULI)
PIXELS = np.random.default_rng(1).integers(0, 256, (N_STIMULI, 12, 16, 3), dtype=np.uint8)


# A lab's own arrays


def write_array(path, values=RESPONSES):
    """Write an array as the kind of file that its name says."""
    if path.name.endswith("7.3.mat"):
        with h5py.File(path, "w") as file:
            file["x"] = values.T
    elif path.suffix == ".mat":
        savemat(path, {"x": values}, do_compression=True)
    elif path.suffix == ".npz":
        np.savez_compressed(path, x=values)
    elif path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=values, chunks=values.shape, fletcher32=True)
    elif path.suffix == ".csv":
        np.savetxt(path, values, delimiter=",")
    else:
        nibabel.Nifti1Image(values.reshape(N_UNITS, 1, 1, -1), np.eye(4)).to_filename(path)


def write_gifti(path, values, **labels):
    side = "Left" if path.name.startswith("lh") else "Right"
    meta = nibabel.gifti.GiftiMetaData({"AnatomicalStructurePrimary": f"Cortex{side}"})
    columns = [nibabel.gifti.GiftiDataArray(np.ascontiguousarray(x, np.float32)) for x in values.T]
    nibabel.gifti.GiftiImage(meta=meta, darrays=columns).to_filename(path)


def seen(recording):
    """Read what a recording refers to."""
    parts = [recording.responses[:], recording.rois.values.astype(float), recording.stimulus_ids.astype(str)]
    parts += [recording.features[:]] if recording.features is not None else []
    parts += [recording.images[:]] if recording.images is not None else []
    return parts + [recording.noise_ceiling] * (recording.noise_ceiling is not None)


def arrays(part, file, make, *, text=False, **options):
    """Return a reader of one argument of load_arrays."""

    def write(folder):
        np.save(folder / "responses.npy", RESPONSES)
        np.save(folder / "features.npy", array(N_STIMULI, 3))
        make(folder)

    def load(folder):
        given = {"responses": "responses.npy", "features": "features.npy", **options}
        paths = {
            name: ",".join(str(folder / one) for one in value.split(","))
            for name, value in given.items()
            if value is not None
        }
        return seen(load_arrays(orientation="unit-stimulus", **paths))

    return Reader(part, file, write, load, text)


def table(name):
    return arrays(
        f"load_arrays: {name}",
        f"r.{name}",
        lambda folder: write_array(folder / f"r.{name}"),
        responses=f"r.{name}",
        text=name == "csv",
    )


def volume(suffix):
    def make(folder):
        nibabel.Nifti1Image(np.ones((N_UNITS, 1, 1), np.uint8), np.eye(4)).to_filename(folder / "mask.nii")
        write_array(folder / f"r{suffix}")

    return arrays(f"load_arrays: {suffix[1:]}", f"r{suffix}", make, responses=f"r{suffix}", mask="mask.nii")


def write_surface(folder):
    for h in ("lh", "rh"):
        write_gifti(folder / f"{h}.r.gii", array(5, N_STIMULI))


def write_images(folder):
    (folder / "images").mkdir()
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")


def write_archive(folder):
    write_images(folder)
    shutil.make_archive(str(folder / "images"), "zip", folder / "images")
    shutil.rmtree(folder / "images")


def write_trials(folder):
    stimulus = np.arange(N_STIMULI) % 3
    lines = [f"{row},{trial % 2}" for trial, row in enumerate(stimulus)]
    (folder / "trials.csv").write_text("\n".join(["stimulus,session", *lines]) + "\n")
    np.save(folder / "few.npy", array(3, 2))


def write_glmsingle(folder):
    content = {"betasmd": RESPONSES.reshape(N_UNITS, 1, 1, -1)}
    np.save(folder / "r.npy", np.array(content, dtype=object), allow_pickle=True)


def write_rois(folder):
    (folder / "rois.json").write_text(json.dumps({"V1": [0, 1], "V4": [3]}))


ARRAYS = [
    *map(table, ["npy", "npz", "mat", "7.3.mat", "h5", "csv"]),
    arrays("load_arrays: GLMsingle", "r.npy", write_glmsingle, responses="r.npy"),
    volume(".nii"),
    volume(".nii.gz"),
    arrays("load_arrays: gii", "lh.r.gii", write_surface, responses="lh.r.gii,rh.r.gii"),
    arrays("load_arrays: images in a folder", "images/2.png", write_images, images="images", features=None),
    arrays("load_arrays: images.zip", "images.zip", write_archive, images="images.zip", features=None),
    arrays(
        "load_arrays: trials", "trials.csv", write_trials, trials="trials.csv", features="few.npy", text=True
    ),
    arrays("load_arrays: rois.json", "rois.json", write_rois, rois="rois.json"),
]


# Published layouts


def write_challenge(folder):
    rois = label_rois(
        {"V1v": [True, False] * 2, "V2v": [False, True] * 2},
        hemisphere=["left"] * 2 + ["right"] * 2,
        unit_kind="vertex",
        vertex_index=[3, 9, 2, 5],
    )
    ids = np.array([f"nsd-{i:05d}" for i in (3, 7, 9, 11, 4, 6)])
    recording = Recording(
        "one", RESPONSES.T, rois, ids, images=PIXELS, test=np.arange(6) > 3, surface="fsaverage"
    )
    write_algonauts(recording, folder, 1)


def challenge(name, file):
    return Reader(
        f"load_algonauts: {name}",
        f"subj01/{file}",
        write_challenge,
        lambda folder: seen(load_algonauts(folder, 1)),
    )


ALGONAUTS = [
    challenge("responses", "training_split/training_fmri/lh_training_fmri.npy"),
    challenge("vertices", "roi_masks/rh.all-vertices_fsaverage_space.npy"),
    challenge("names", "roi_masks/mapping_prf-visualrois.npy"),
    challenge("labels", "roi_masks/lh.prf-visualrois_challenge_space.npy"),
    challenge("images", "training_split/training_images/train-0002_nsd-00007.png"),
]


def write_experiment(folder):
    """Write the design and the images of two sessions."""
    for name in ("nsddata/experiments/nsd", "nsddata_stimuli/stimuli/nsd"):
        (folder / name).mkdir(parents=True)
    order = np.random.default_rng(0).permutation(np.tile(np.arange(N_STIMULI), 2)) + 1
    savemat(
        folder / "nsddata/experiments/nsd/nsd_expdesign.mat",
        {
            "masterordering": order[None],
            "subjectim": np.tile(np.arange(N_STIMULI) + 1, (8, 1)),
            "sharedix": np.array([[1, 2]]),
        },
    )
    with h5py.File(folder / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5", "w") as file:
        file.create_dataset("imgBrick", data=PIXELS, chunks=(1, *PIXELS.shape[1:]), fletcher32=True)


def write_mgh(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.MGHImage(values.reshape(len(values), 1, 1, *values.shape[1:]), np.eye(4)).to_filename(path)


def write_surfaces(folder):
    write_experiment(folder)
    betas = folder / SUBJECT / "fsaverage" / "betas_fithrf_GLMdenoise_RR"
    for h in ("lh", "rh"):
        for atlas in ("nsdgeneral", "nsdgeneralRSC", "streams"):
            write_mgh(folder / LABELS / f"{h}.{atlas}.mgz", (np.arange(5) % 3).astype(np.int32))
        for session in (1, 2):
            write_mgh(betas / f"{h}.betas_session{session:02d}.mgh", array(5, N_STIMULI, seed=session))
        write_mgh(betas / f"{h}.ncsnr.mgh", np.abs(array(5)))
    (folder / LABELS / "streams.mgz.ctab").write_text("0 Unknown\n1 early\n2 ventral\n")


def write_volumes(folder):
    write_experiment(folder)
    space = folder / SUBJECT / "func1pt8mm" / "betas_fithrf_GLMdenoise_RR"
    rois = folder / "nsddata/ppdata/subj01/func1pt8mm/roi"
    for path in (space, rois, folder / LABELS):
        path.mkdir(parents=True)

    def write(values, path):
        nibabel.Nifti1Image(values, np.eye(4)).to_filename(path)

    halves = np.indices((3, 2, 2))[0]
    for number, h in enumerate(("lh", "rh")):
        write((halves == number).astype(np.int16), rois / f"{h}.nsdgeneral.nii.gz")
        write(np.where(halves == number, 1, 0).astype(np.int16), rois / f"{h}.streams.nii.gz")
    write(np.abs(array(3, 2, 2)), space / "ncsnr.nii.gz")
    betas = np.rint(300 * array(3, 2, 2, N_STIMULI)).astype(np.int16)
    with h5py.File(space / "betas_session01.hdf5", "w") as file:
        file.create_dataset("betas", data=betas.T, chunks=betas.T.shape, fletcher32=True)
    write(betas, space / "betas_session02.nii.gz")
    (folder / LABELS / "streams.mgz.ctab").write_text("1 early\n")


def nsd(name, file, space="fsaverage", text=False):
    def load(folder):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        options = {
            "space": space,
            "atlases": ("streams",),
            "split": "kfold=2,seeds=0",
            "cache": folder / "cache",
        }
        return seen(load_nsd(folder, 1, **options))

    return Reader(
        f"load_nsd: {name}", file, write_surfaces if space == "fsaverage" else write_volumes, load, text
    )


VOLUMES = f"{SUBJECT}/func1pt8mm/betas_fithrf_GLMdenoise_RR"
NSD = [
    nsd("design", "nsddata/experiments/nsd/nsd_expdesign.mat"),
    nsd("images", "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"),
    nsd("betas .mgh", f"{SUBJECT}/fsaverage/betas_fithrf_GLMdenoise_RR/rh.betas_session02.mgh"),
    nsd("labels .mgz", f"{LABELS}/lh.streams.mgz"),
    nsd("names .ctab", f"{LABELS}/streams.mgz.ctab", text=True),
    nsd("betas .hdf5", f"{VOLUMES}/betas_session01.hdf5", "func1pt8mm"),
    nsd("betas .nii.gz", f"{VOLUMES}/betas_session02.nii.gz", "func1pt8mm"),
    nsd("labels .nii.gz", "nsddata/ppdata/subj01/func1pt8mm/roi/lh.nsdgeneral.nii.gz", "func1pt8mm"),
]


def write_atlas(folder):
    write_surface(folder)
    np.save(folder / "features.npy", array(N_STIMULI, 3))
    for h in ("lh", "rh"):
        write_mgh(folder / f"{h}.a.mgz", np.array([0, 1, 2, 0, 1], np.int32))
    (folder / "a.mgz.ctab").write_text("0 none\n1 V1\n2 V4\n")


def load_atlas(folder):
    gifti = ",".join(str(folder / f"{h}.r.gii") for h in ("lh", "rh"))
    recording = load_arrays(responses=gifti, orientation="unit-stimulus", features=folder / "features.npy")
    return seen(add_regions(recording, f"{folder / 'lh.a.mgz'},{folder / 'rh.a.mgz'}"))


ATLASES = [
    Reader("add_regions: mgz", "rh.a.mgz", write_atlas, load_atlas),
    Reader("add_regions: ctab", "a.mgz.ctab", write_atlas, load_atlas, text=True),
]


# Scanpaths


def ring():
    """Return search among objects with numbers for names, all that ObjArr can hold."""
    scene = ObjectScene([[0, 0, 100, 100], [200, 0, 100, 100]], (300, 100), labels=["16", "18"], target=0)
    attrs = {"image": "a", "scene": "a"}
    paths = [
        Scanpath(
            [150, 250, 50], [50, 50, 50], scene.size, objects=[-1, 1, 0], attrs={**attrs, "observer": str(k)}
        )
        for k in (1, 2)
    ]
    return ScanpathDataset.from_scanpaths(paths, scenes={"a": scene})


def search_arrays():
    return make_search_arrays(n_scenes=2, n_observers=2, seed=0)


def scanpaths(layout, file, *, text=False, **options):
    def make(folder):
        target = folder / "objarr.npz" if layout == "objarr" else folder / "data"
        write_scanpaths(ring() if layout == "objarr" else search_arrays(), target, layout=layout)

    def load(folder):
        dataset = load_scanpaths(
            folder / "objarr.npz" if layout == "objarr" else folder / "data", layout=layout, **options
        )
        frame = dataset.to_frame()
        return [frame["x"].to_numpy(), frame["y"].to_numpy()]

    name = Path(file).name
    part = f"load_scanpaths: {layout}" + ("" if name.startswith(layout[:4]) else f", {name}")
    return Reader(part, file, make, load, text)


SCANPATHS = [
    scanpaths("neuroattn", "data/fixations.nc"),
    scanpaths("neuroattn", "data/scenes.json"),
    scanpaths("coco-search18", "data/coco_search18_fixations_TP_train_split1.json"),
    scanpaths("coco-search18", "data/instances.json"),
    scanpaths("osie", "data/fixations.mat"),
    scanpaths("visions", "data/dataset_info.json"),
    scanpaths("visions", "data/trials_properties.json"),
    scanpaths("visions", "data/human_scanpaths/subj1_scanpaths.json"),
    scanpaths("pysaliency", "data/scanpaths.hdf5"),
    scanpaths("pysaliency", "data/stimuli.hdf5"),
    scanpaths("objarr", "objarr.npz"),
    scanpaths("events", "data/sub-2_events.tsv", text=True),
    scanpaths("events", "data/objects.tsv", text=True),
    scanpaths("multimatch", "data/array0001.png_sub-2.tsv", image_size=(320, 240), text=True),
    scanpaths("book-covers", "data/Amazon.json", grid=(2, 5)),
]


def write_boxes(folder):
    (folder / "boxes.csv").write_text("x,y,width,height,label\n0,0,40,30,cup\n60,10,20,20,fork\n")


SCANPATHS.append(
    Reader(
        "predict-scanpath --boxes",
        "boxes.csv",
        write_boxes,
        lambda folder: [read_scene(folder / "boxes.csv", size="100x80").boxes],
        text=True,
    )
)


# EEG


def eeg(suffix, attacked=None):
    name = f"S001R04{suffix}"

    def make(folder):
        signals = np.random.default_rng(0).normal(size=(2, 1200)) * 1e-5
        raw = mne.io.RawArray(signals, mne.create_info(["C3", "C4"], 100, "eeg"), verbose="error")
        raw.set_annotations(mne.Annotations([1, 4, 7, 9], 2, ["T1", "T2", "T1", "T2"]))
        if suffix == ".fif":
            raw.save(folder / name, verbose="error")
        else:
            mne.export.export_raw(folder / name, raw, verbose="error")

    def load(folder):
        prefix = "Comment/" if suffix == ".vhdr" else ""
        events = {f"{prefix}T1": "left", f"{prefix}T2": "right"}
        trials = load_eeg(folder / name, events=events, tmin=0, tmax=1)
        return [trials.X, trials.y, np.array([len(trials.notes)])]

    file = f"S001R04{attacked or suffix}"
    return Reader(
        f"load_eeg: {(attacked or suffix)[1:]}", file, make, load, text=attacked == ".vmrk", warns=True
    )


EEG = [eeg(".edf"), eeg(".fif"), eeg(".vhdr"), eeg(".vhdr", ".eeg"), eeg(".vhdr", ".vmrk")]


# Models and stores


def write_ridge(folder):
    RidgeEncoder().fit(array(20, 3), array(20, 2, seed=1)).save(folder / "m")


def load_model(folder):
    return [load_encoder(folder / "m").predict(array(5, 3))]


def write_attention(folder):
    features = array(20, 4, 2, 2)
    BrainEncoder(width=8, heads=2, epochs=1).fit(features, array(20, 2, seed=1)).save(folder / "m")


def load_attention(folder):
    return [load_encoder(folder / "m").predict(array(5, 4, 2, 2))]


def trials_of_two_classes():
    y = np.array(["left", "right"] * 10)
    X = array(20, 2, 200) * np.where((y == "left")[:, None] == [True, False], 10, 40)[..., None]
    metadata = pd.DataFrame({"subject": ["1"] * 20, "session": "1", "run": "1"})
    return Trials(X, y, metadata, ["C3", "C4"], sfreq=100, tmin=0)


def write_decoder(folder):
    trials = trials_of_two_classes()
    decoder = Decoder.fit(trials, "csp-lda", Condition("imagery", (8, 30), 0.5, 2.0))
    decoder.save(folder / "m", cut={"tmin": 0.0, "tmax": 1.0})
    eeg(".fif").make(folder)


def load_decoder(folder):
    decoder = Decoder.load(folder / "m")
    return [
        decoder.predict(trials_of_two_classes())["p_left"].to_numpy(),
        read_trials(folder / "m", [folder / "S001R04.fif"]).X,
    ]


def write_network(folder):
    trials = trials_of_two_classes()
    decoder = Decoder.fit(trials, "basenet", Condition("imagery", None, 0.5, 2.0), n_epochs=1)
    decoder.save(folder / "m", cut={})


def load_network(folder):
    return [Decoder.load(folder / "m").predict(trials_of_two_classes())["p_left"].to_numpy()]


def write_transformer(folder):
    model = ObjectAttentionTransformer(
        target="label", appearance="none", dim=16, heads=2, layers=1, feedforward=16, epochs=1
    )
    model.fit(search_arrays().assign_objects()).save(folder / "m")


def load_transformer(folder):
    return [ObjectAttentionTransformer.load(folder / "m").predict(search_arrays().scene_of(0)).x]


def write_store(folder):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)
    store = extract_features(images, load_backbone("test_vit", weights="random"), folder)
    store.path.rename(folder / "store")


def load_store(folder):
    return [FeatureStore(folder / "store")[:]]


def vgg16_arrays():
    rng, n_in, out = np.random.default_rng(0), 3, {}
    for layer in LAYERS:
        out[layer] = (rng.normal(size=(3, 3, n_in, 2)).astype("f4"), np.zeros(2, "f4"))
        n_in = 2
    return out


def write_keras(folder):
    with h5py.File(folder / "vgg16.h5", "w") as file:
        for layer, (kernel, bias) in vgg16_arrays().items():
            file[f"{layer}/{layer}/kernel:0"], file[f"{layer}/{layer}/bias:0"] = kernel, bias


def state_dict():
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    state = {}
    for place, (kernel, bias) in zip(places, vgg16_arrays().values(), strict=True):
        state[f"features.{place}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        state[f"features.{place}.bias"] = torch.from_numpy(bias)
    return state


def vgg16(suffix, make):
    def load(folder):
        weights = read_vgg16_weights(folder / f"vgg16{suffix}")
        return [weights.arrays[f"w_{layer}"] for layer in LAYERS]

    return Reader(f"read_vgg16_weights: {suffix[1:]}", f"vgg16{suffix}", make, load)


MODELS = [
    Reader("load_encoder: ridge, config.json", "m/config.json", write_ridge, load_model),
    Reader("load_encoder: ridge, model.safetensors", "m/model.safetensors", write_ridge, load_model),
    Reader("load_encoder: attention, config.json", "m/config.json", write_attention, load_attention),
    Reader(
        "load_encoder: attention, model.safetensors", "m/model.safetensors", write_attention, load_attention
    ),
    Reader("Decoder.load: decoder.json", "m/decoder.json", write_decoder, load_decoder),
    Reader("Decoder.load: model.safetensors", "m/model.safetensors", write_decoder, load_decoder),
    Reader("Decoder.load: network/config.json", "m/network/config.json", write_network, load_network),
    Reader(
        "Decoder.load: network/model.safetensors", "m/network/model.safetensors", write_network, load_network
    ),
    Reader(
        "ObjectAttentionTransformer.load: config.json", "m/config.json", write_transformer, load_transformer
    ),
    Reader(
        "ObjectAttentionTransformer.load: model.safetensors",
        "m/model.safetensors",
        write_transformer,
        load_transformer,
    ),
    Reader("FeatureStore: zarr.json", "store/zarr.json", write_store, load_store),
    Reader("FeatureStore: chunk", "store/c/0/0/0/0", write_store, load_store),
    vgg16(".h5", write_keras),
    vgg16(".pth", lambda folder: torch.save(state_dict(), folder / "vgg16.pth")),
    vgg16(".safetensors", lambda folder: save_file(state_dict(), folder / "vgg16.safetensors")),
]


# Settings


def read_toml(folder):
    option = SimpleNamespace(name="seed", opts=["--seed"])
    context = SimpleNamespace(command=SimpleNamespace(params=[option]), default_map=None, obj=None)
    read_config(context, None, folder / "options.toml")
    return [np.array([f"{key}={value}" for key, value in {**context.default_map, **context.obj}.items()])]


def read_split(folder):
    fold = split_stimuli(["a", "b", "c", "d"], str(folder / "split.json"))[0]
    return [fold.train, fold.test]


SETTINGS = [
    Reader(
        "--config options.toml",
        "options.toml",
        lambda folder: (folder / "options.toml").write_text("seed = 12\n[ridge]\nalphas = [1, 20]\n"),
        read_toml,
        text=True,
    ),
    Reader(
        "--split split.json",
        "split.json",
        lambda folder: (folder / "split.json").write_text('{"train": ["a", "b"], "test": ["d"]}'),
        read_split,
    ),
]

READERS = {
    reader.part: reader
    for reader in (*ARRAYS, *ALGONAUTS, *NSD, *ATLASES, *SCANPATHS, *EEG, *MODELS, *SETTINGS)
}

_folders: dict[Any, Path] = {}
_read: dict[str, Any] = {}


def on(fault, result, *parts):
    """Return the cells of one fault."""
    return [cell("reader", part, fault, result, part) for part in parts]


@contextmanager
def damaging(reader, factory):
    """Yield a folder of input, its file that is to be damaged, now gone, and what it held; the file comes back."""
    key = (reader.make, reader.part.split(",")[0])
    if key not in _folders:
        _folders[key] = factory.mktemp("input")
        reader.make(_folders[key])
    folder = _folders[key]
    file = folder / reader.file
    content = file.read_bytes()
    file.unlink()
    try:
        yield folder, file, content
    finally:
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)
        file.write_bytes(content)


def whole_of(reader, folder, file, content):
    """Return what is read where nothing is wrong."""
    if reader.part not in _read:
        file.write_bytes(content)
        parts, _ = outcome(reader, folder)
        file.unlink()
        _read[reader.part] = parts
    return _read[reader.part]


@contextmanager
def in_time(seconds=30):
    """Fail where reading waits for what never comes."""

    def stop(*_):
        pytest.fail(f"reading did not end in {seconds} s")  # no Exception, which a reader would report

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(reader, folder):
    """Read; return the arrays and how many warnings were raised, or the one line that names the file."""
    with in_time(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            parts = reader.load(folder)
        except (ValueError, TypeError, FileNotFoundError) as error:
            return refusal_of(reader, folder, error)
        except OSError as error:
            if reader.part != "FeatureStore: chunk":  # which extraction repairs
                raise
            return refusal_of(reader, folder, error)
    if not reader.warns:
        silly = [str(one.message) for one in said if issubclass(one.category, RuntimeWarning)]
        assert not silly, silly  # numbers that were cast to what cannot hold them
    return parts, len(said)


def refusal_of(reader, folder, error):
    text = str(error)
    assert "\n" not in text
    assert len(text.replace(str(folder), "")) < 900
    assert Path(reader.file).stem in text or str(folder) in text, text  # of an .eeg, its header
    return text


def same(parts, others):
    return len(parts) == len(others) and all(
        a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(map(np.asarray, parts), map(np.asarray, others), strict=True)
    )
