"""Train a scanpath model on a data set, and score trained models on trials that they have not seen."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from neuroattn._checks import check_option
from neuroattn.analyses.encoder_study import open_study
from neuroattn.analyses.fits import Progress
from neuroattn.analyses.scanpath_report import AGAINST, write_scanpath_report
from neuroattn.analyses.scanpath_study import compare_scanpath_models, cut_at_target
from neuroattn.datasets import ScanpathDataset
from neuroattn.results import filling, replacing, write_json, write_netcdf
from neuroattn.scanpath import (
    CentreBias,
    ConditionalLogit,
    MemoryFullRandom,
    NearestUnvisited,
    ObjectAttentionTransformer,
    PositionMarkov,
    ScanpathModel,
    UniformChoice,
)

#: Simple models by the names that the command has for them.
SIMPLE_MODELS: dict[str, ScanpathModel] = {
    "uniform": UniformChoice(),
    "centre-bias": CentreBias(),
    "memory-full-random": MemoryFullRandom(lapse=None),
    "nearest-unvisited": NearestUnvisited(lapse=None),
    "position-markov": PositionMarkov(),
    AGAINST: ConditionalLogit(),
}
N_BOOT = 1000
N_TIMED = 200  # trials whose training is timed to foretell how long all take


def prepare_scanpaths(
    dataset: ScanpathDataset, *, max_distance: float | None = None, until_target: bool = False
) -> ScanpathDataset:
    """Give fixations their objects, and check that there is something to choose between.

    Parameters
    ----------
    dataset : ScanpathDataset
    max_distance : float, optional
        See :meth:`~neuroattn.datasets.ScanpathDataset.assign_objects`, px. None: objects that the data set has
        stay, and fixations in no box are background.
    until_target : bool, default False
        Cut paths with :func:`cut_at_target`.

    Raises
    ------
    ValueError
        If a trial has no scene, no scene has two objects, or no fixation is on one.

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> data = make_search_arrays(n_scenes=3, n_observers=2, seed=0)
    >>> prepare_scanpaths(ScanpathDataset(data.data.drop_vars("object"), data.scenes)).data.object.shape[0]
    6
    """
    if "object" not in dataset.data or max_distance is not None:
        dataset = dataset.assign_objects(max_distance=max_distance)
    if all(dataset.scene_of(i).n_objects < 2 for i in range(len(dataset))):
        raise ValueError("dataset must have scenes with two objects or more, got none: nothing can be chosen")
    if not (dataset.data.object.values >= 0).any():
        raise ValueError("dataset must have fixations of objects, got none; a larger max_distance finds more")
    return cut_at_target(dataset) if until_target else dataset


def fit_scanpath_model(
    dataset: ScanpathDataset,
    model: ObjectAttentionTransformer,
    out: str | Path,
    *,
    test_size: float = 0.2,
    n_samples: int = 5,
    resume: bool = False,
    source: str = "",
    command: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Train a model on some groups of trials, score it on the others, and write all of it.

    Parameters
    ----------
    dataset : ScanpathDataset
        With objects assigned.
    model : ObjectAttentionTransformer
        Not fitted. Its ``by`` names the groups.
    out : str or Path
        Folder for ``model``, ``split.json`` and what :func:`evaluate_scanpath_models` writes.
    test_size : float, default 0.2
        Share of the groups that training does not see.
    n_samples : int, default 5
        See :func:`compare_scanpath_models`.
    resume : bool, default False
        Continue in ``out``: a model that is trained stays.
    source, command : str
        Shown in the report.
    progress : callable, optional
        Called with a stage, the steps done and the steps in all.

    Returns
    -------
    Dataset
        Of :func:`evaluate_scanpath_models`.

    Raises
    ------
    ValueError
        If ``out`` holds something else.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> data = make_search_arrays(n_scenes=12, n_observers=3, seed=0)
    >>> model = ObjectAttentionTransformer(target="label", appearance="none", dim=16, layers=1, epochs=1)
    >>> out = Path(tempfile.mkdtemp()) / "fit"
    >>> _ = fit_scanpath_model(data, model, out, n_samples=1)
    >>> sorted(path.name for path in out.iterdir())
    ['config.json', 'model', 'report.html', 'scores.csv', 'scores.nc', 'split.json']
    """
    out = Path(out)
    train, _ = dataset.split(model.by, test_size=test_size, seed=model.seed)
    groups = sorted(set(groups_of(train, model.by).tolist()))
    # A run may go on on another device.
    params = {name: value for name, value in model.get_params(deep=False).items() if name != "device"}
    config = {"data": _fingerprint(dataset), "test_size": test_size, "samples": n_samples, **params}
    created = not out.exists()
    open_study(out, config, resume)
    if not (out / "split.json").is_file():
        report = None if progress is None else lambda done: progress("training", done, model.epochs)
        try:
            clone(model).fit(train, progress=report).save(out / "model")
        except BaseException:
            if created:  # nothing in it is worth keeping yet
                shutil.rmtree(out)
            raise
        write_json(out / "split.json", {"by": model.by, "train": groups})
    return evaluate_scanpath_models(
        dataset,
        {"transformer": out},
        out,
        by=model.by,
        n_samples=n_samples,
        seed=model.seed,
        device=model.device,
        source=source,
        command=command,
        progress=progress,
    )


def load_scanpath_model(folder: str | Path, *, device: str = "cpu") -> ObjectAttentionTransformer:
    """Return a trained model.

    Parameters
    ----------
    folder : str or Path
        Of :func:`fit_scanpath_model`, or that the model's ``save`` wrote.
    device : str, default "cpu"

    Returns
    -------
    ObjectAttentionTransformer

    Raises
    ------
    FileNotFoundError
        If the folder holds no model.
    """
    inner = Path(folder) / "model"
    model = ObjectAttentionTransformer.load(inner if inner.is_dir() else folder)
    model.device = device
    return model


def held_out_trials(dataset: ScanpathDataset, folders: Mapping[str, str | Path]) -> NDArray[np.bool_]:
    """Return which trials no model was trained on, as far as the folders of the models say, shape (trial,)."""
    seen = np.zeros(len(dataset), bool)
    for folder in folders.values():
        file = Path(folder) / "split.json"
        if file.is_file():
            split = json.loads(file.read_text())
            seen |= np.isin(groups_of(dataset, split["by"]), split["train"])
    return ~seen


def evaluate_scanpath_models(
    dataset: ScanpathDataset,
    folders: Mapping[str, str | Path],
    out: str | Path,
    *,
    by: str = "image",
    n_folds: int = 5,
    n_samples: int = 5,
    seed: int = 0,
    device: str = "cpu",
    source: str = "",
    command: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Score trained models beside the simple ones on trials that none of them has seen.

    Where trained models have seen some of the trials, recognised by the names of their groups, all others are the
    test set, and the simple models are fitted to the seen ones. Where they have seen none, all trials are the test
    set, and the simple models are cross-validated in it.

    Parameters
    ----------
    dataset : ScanpathDataset
        With objects assigned.
    folders : mapping of str to str or Path
        Of trained models; see :func:`load_scanpath_model`. There may be none.
    out : str or Path
        Folder for ``scores.nc``, ``scores.csv`` and ``report.html``, made if it is missing.
    by : str, default "image"
        Groups of the folds in which simple models are cross-validated.
    n_folds, n_samples, seed
        See :func:`compare_scanpath_models`.
    device : str, default "cpu"
        Of the trained models.
    source, command : str
        Shown in the report.
    progress : callable, optional
        Called with a stage, the steps done and the steps in all.

    Returns
    -------
    Dataset
        Of :func:`compare_scanpath_models`. Further attributes: ``trained``, the names of the trained models, and
        ``held_out``, what the test set is.

    Raises
    ------
    ValueError
        If a trained model's name is that of a simple one, or fewer than two groups are left to test.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.datasets import make_search_arrays
    >>> data = make_search_arrays(n_scenes=12, n_observers=3, grid=(2, 3), seed=0)
    >>> scores = evaluate_scanpath_models(data, {}, Path(tempfile.mkdtemp()) / "scores", n_folds=2, n_samples=1)
    >>> scores.model.values.tolist()
    ['uniform', 'position-markov', 'conditional-logit']
    """
    for name in folders:
        if name in SIMPLE_MODELS:
            raise ValueError(f"trained models must not have the name of a simple one, got {name!r}")
    trained = {name: load_scanpath_model(folder, device=device) for name, folder in folders.items()}
    seen = ~held_out_trials(dataset, folders)
    test = dataset[~seen]
    groups = set(groups_of(test, by).tolist())
    if len(groups) < 2:
        raise ValueError(
            f"dataset must hold two values of {by!r} or more that no model was trained on, got {len(groups)}"
        )
    models: dict[str, Any] = {}
    for name, simple in simple_models(dataset).items():
        models[name] = FrozenEstimator(clone(simple).fit(dataset[seen])) if seen.any() else simple
    models |= {name: FrozenEstimator(model) for name, model in trained.items()}
    n_folds = min(n_folds, len(groups))
    comparison = compare_scanpath_models(
        test,
        models,
        by=by,
        n_folds=n_folds,
        n_samples=n_samples,
        n_boot=N_BOOT,
        seed=seed,
        progress=None if progress is None else lambda stage, done, total: progress("scoring", done, total),
    )
    if progress is not None:
        progress("scoring", n_folds * len(models), n_folds * len(models))
    comparison.attrs["trained"] = list(trained)
    comparison.attrs["held_out"] = (
        f"{len(test)} trials of {len(groups)} {by}s that no model was fitted to; the simple models were fitted to the "
        f"{int(seen.sum())} trials that the trained ones had seen"
        if seen.any()
        else f"{len(test)} trials; the simple models were cross-validated in {n_folds} folds of {by}s"
    )
    with filling(out) as folder:
        write_netcdf(folder / "scores.nc", comparison)
        with replacing(folder / "scores.csv") as temporary:
            scores_frame(comparison).to_csv(temporary, index=False)
        write_scanpath_report(
            folder / "report.html",
            comparison,
            dataset=test,
            models=trained,
            config={"source": source, "command": command},
        )
    return comparison


def simple_models(dataset: ScanpathDataset) -> dict[str, ScanpathModel]:
    """Return the simple models that stand beside others: with a position Markov chain only where places repeat.

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> list(simple_models(make_search_arrays(n_scenes=3, n_observers=2, seed=0)))
    ['uniform', 'conditional-logit']
    """
    names = ["uniform", "position-markov", AGAINST]
    try:
        clone(SIMPLE_MODELS["position-markov"]).fit(dataset)
    except ValueError:
        names.remove("position-markov")
    return {name: SIMPLE_MODELS[name] for name in names}


def scores_frame(comparison: xr.Dataset) -> pd.DataFrame:
    """Return the bits per fixation of every model as a table.

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> data = make_search_arrays(n_scenes=8, n_observers=3, seed=0)
    >>> table = scores_frame(compare_scanpath_models(data, simple_models(data), n_folds=2, n_samples=1, n_boot=50))
    >>> list(table)[:4], len(table)
    (['model', 'bits_per_fixation', 'low', 'high'], 2)
    """
    rows = []
    for name in comparison.model.values:
        one = comparison.sel(model=name)
        gain = one.sel(other=AGAINST)
        rows.append(
            {
                "model": str(name),
                "bits_per_fixation": float(one.bits_per_fixation),
                **_bounds(one.bits_per_fixation_interval, ""),
                f"gain_over_{AGAINST}": float(gain.difference),
                **_bounds(gain.difference_interval, "gain_"),
                "end_bits": float(one.end_bits),
            }
        )
    return pd.DataFrame(rows)


def estimate_training_seconds(train: ScanpathDataset, model: ObjectAttentionTransformer) -> float:
    """Return about how long training takes if it is not stopped early, from one pass over some trials."""
    rows = np.linspace(0, len(train) - 1, min(len(train), N_TIMED)).astype(int)
    start = time.perf_counter()
    clone(model).set_params(epochs=1).fit(train[rows])
    return (time.perf_counter() - start) * len(train) / len(rows) * model.epochs


def groups_of(dataset: ScanpathDataset, by: str) -> NDArray[np.str_]:
    """Return the label by which each trial is grouped."""
    check_option("by", by, ("image", "target", "observer", "scene", "task", "condition"))
    return np.asarray(dataset.data[by].values, dtype=str)


def _bounds(interval: xr.DataArray, prefix: str) -> dict[str, float]:
    return {f"{prefix}{bound}": float(interval.sel(bound=bound)) for bound in ("low", "high")}


def _fingerprint(dataset: ScanpathDataset) -> str:
    digest = hashlib.sha256()
    for name in ("x", "y", "object"):
        if name in dataset.data:
            digest.update(np.ascontiguousarray(dataset.data[name].values).tobytes())
    for name in ("image", "observer"):
        digest.update("\0".join(map(str, dataset.data[name].values.tolist())).encode())
    return digest.hexdigest()[:16]
