"""The grid of fits: the same scores on workers as in one process, whatever dies on the way."""

import multiprocessing
import os
import signal
import socket
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from distributed import LocalCluster

from neuroattn.analyses import run_encoder_study
from neuroattn.analyses.fits import Column, FitSpec, Source, run_fit
from neuroattn.analyses.grid import check_workers, cluster
from neuroattn.datasets import load_arrays
from neuroattn.encoding import load_backbone

LAYERS = ["block1", "block4"]
SUBJECTS = ("subj01", "subj02")


def load(folder, subject):
    """Return a function that loads a subject, as travels to workers."""
    return partial(
        load_arrays,
        responses=f"{folder}/{subject}.npy",
        orientation="stimulus-unit",
        images=f"{folder}/images.npy",
        rois=f"{folder}/rois.json",
        name=subject,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 32, 32, 3), np.uint8)
    images[:20] //= 3  # half of them are dark, which is what the units respond to
    np.save(folder / "images.npy", images)
    for i, subject in enumerate(SUBJECTS):
        noise = np.random.default_rng(i).normal(size=(40, 6))
        np.save(folder / f"{subject}.npy", images.mean((1, 2, 3))[:, None] / 30 + noise)
    (folder / "rois.json").write_text('{"V1": [0, 1, 2], "FFA": [3, 4, 5]}')
    return folder


@pytest.fixture(scope="module")
def study(folder):
    """Run the grid of 2 subjects, 2 layers and 2 seeds, without drawing its reports."""
    backbone = load_backbone("test_vit", layers=LAYERS, weights="random", image_size=32)
    arguments = {
        "models": ["attention", "ridge"],
        "options": {"attention": {"epochs": 2, "heads": 2, "feedforward": 8, "validation_fraction": 0.25}},
        "backbone": backbone,
        "split": "test=16,seed=0",
        "n_seeds": 2,
        "ensemble": True,
        "n_shuffles": 19,
        "threads": 1,
        "device": "cpu",
        "cache": folder / "cache",
    }

    def study(out, **more):
        return run_encoder_study({name: load(folder, name) for name in SUBJECTS}, out, **arguments | more)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_encoder_report", "write_group_report"):
            patch.setattr(f"neuroattn.analyses.encoder_study.{name}", lambda *args, **more: None)
        yield study


@pytest.fixture(scope="module")
def serial(folder, study):
    study(folder / "serial")
    return folder / "serial"


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_cluster_that_loses_a_worker_gives_the_scores_of_one_process(folder, study, serial):
    killed = []

    def kill_one(stage, done, total):
        workers = multiprocessing.active_children()
        if stage == "fits" and done and not killed:
            killed.append(workers[0])
            os.kill(workers[0].pid, signal.SIGKILL)

    study(folder / "cluster", workers=2, progress=kill_one)
    assert killed[0].exitcode == -signal.SIGKILL
    for path in (
        "group.nc",
        "subj01/scores.nc",
        "subj02/scores.nc",
        "subj02/roi_scores.nc",
        "subj01/attention.nc",
    ):
        one, other = (
            xr.load_dataset(root / path, engine="h5netcdf") for root in (folder / "cluster", serial)
        )
        xr.testing.assert_identical(one, other)
    assert listing(folder / "cluster") == listing(serial)


def test_a_scheduler_at_an_address_gives_the_scores_of_one_process(folder, study, serial):
    """A worker of a scheduler that was there before; here it is a thread, which starts at once."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp"
    ) as running:
        study(folder / "joined", scheduler=running.scheduler_address)
    one, other = (
        xr.load_dataset(root / "subj02" / "scores.nc", engine="h5netcdf")
        for root in (folder / "joined", serial)
    )
    xr.testing.assert_identical(one, other)


def test_a_fit_is_a_pure_function_of_its_description(folder, serial):
    """Described anew and run again elsewhere, without the study, a fit predicts the same bits."""
    fit = serial / "subj01" / "models" / "ridge@block1" / "seed-0" / "fold-0"
    stores = [path for path in (folder / "cache").iterdir() if path.is_dir()]
    backbone = load_backbone("test_vit", layer="block1", weights="random", image_size=32)
    (store,) = [
        path
        for path in stores
        if zarr.open_array(path, mode="r").attrs["fingerprint"] == backbone.fingerprint()
    ]
    spec = FitSpec(
        folder=folder / "again" / "fold-0",
        source=Source(load(folder, "subj01"), "test=16,seed=0"),
        features=store,
        column=Column("ridge", "block1"),
        threads=1,
    )
    before = torch.get_num_threads()
    run_fit(spec)
    assert torch.get_num_threads() == before
    assert (spec.folder / "predictions.npy").read_bytes() == (fit / "predictions.npy").read_bytes()
    assert listing(spec.folder) == listing(fit)
    (spec.folder / "predictions.npy").unlink()
    run_fit(spec)  # the folder is there, so it is done
    assert not (spec.folder / "predictions.npy").exists()


def test_ensembles_average_seeds_and_weigh_layers(serial):
    """A column of the ensemble equals the published formula on what the fits left behind."""
    models = serial / "subj01" / "models"
    folders = [[models / f"attention@{layer}" / f"seed-{s}" / "fold-0" for s in (0, 1)] for layer in LAYERS]
    predictions = np.array([[np.load(f / "predictions.npy") for f in row] for row in folders])
    validation = np.array([[np.load(f / "validation_correlation.npy") for f in row] for row in folders])
    weight = np.exp(40 * validation.mean(1))
    weight /= weight.sum(0)
    expected = (predictions.mean(1) * weight[:, None]).sum(0)
    stored = xr.open_zarr(serial / "subj01" / "predictions.zarr", consolidated=False, chunks=None).prediction
    found = stored.sel(model="attention@ensemble")
    np.testing.assert_allclose(found.isel(seed=0), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.isel(seed=0), found.isel(seed=1))
    assert 0.01 < weight.min() < weight.max() < 0.99


def test_group_pairs_models_within_subjects(serial):
    group = xr.load_dataset(serial / "group.nc", engine="h5netcdf")
    regions = [xr.load_dataset(serial / s / "roi_scores.nc", engine="h5netcdf") for s in SUBJECTS]
    assert group.attrs["contender"] == "attention@ensemble"
    assert group.smallest_p.values.tolist() == [0.5] * 3  # two signs of two subjects, two-sided
    for label in ("ridge@block1", "ridge@block4"):
        delta = [
            r.correlation.sel(roi="FFA", model="attention@ensemble")
            - r.correlation.sel(roi="FFA", model=label)
            for r in regions
        ]
        assert float(group.difference.sel(roi="FFA", model=label)) == pytest.approx(np.mean(delta))
    assert group.difference.sel(model="attention@block1").isnull().all()


def test_p_values_are_those_of_so_many_shuffles(serial):
    scores = xr.load_dataset(serial / "subj01" / "scores.nc", engine="h5netcdf")
    assert scores.attrs["n_shuffles"] == 19
    for name in ("p", "p_fdr", "p_fwe"):
        assert scores[name].dims == ("subject", "model", "seed", "unit")
        assert 0.05 <= float(scores[name].min()) <= float(scores[name].max()) <= 1
    assert (scores.p_fwe >= scores.p).all()
    assert (
        scores.p.sel(model="ridge@block1").isel(seed=0) == scores.p.sel(model="ridge@block1").isel(seed=1)
    ).all()


def test_a_recording_of_this_process_cannot_travel(folder, tmp_path):
    with pytest.raises(ValueError, match="recording must be given as a function that loads it"):
        run_encoder_study(
            load(folder, "subj01")(),
            tmp_path / "study",
            models=["ridge"],
            backbone=load_backbone("test_vit", weights="random", image_size=32),
            split="test=16,seed=0",
            workers=1,
        )


def test_a_scheduler_that_does_not_answer_is_one_line():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound, not listening: nobody answers here
        address = "tcp://{}:{}".format(*reserved.getsockname())
        with pytest.raises(OSError, match=f"scheduler {address} does not answer within 5 s"):
            check_workers(0, address)
    with pytest.raises(
        ValueError, match="scheduler must be an address such as tcp://host:8786, got 'nonsense'"
    ):
        check_workers(0, "nonsense")


def test_workers_keep_freed_memory():
    """dask's own setting, to return it at once, makes small networks train up to twice as slow."""
    with cluster(1, None) as client:
        (threshold,) = client.run(os.getenv, "MALLOC_TRIM_THRESHOLD_").values()
    assert threshold is None
