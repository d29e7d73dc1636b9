"""A decoder that was fitted to the trials of recordings, kept with how those trials were cut."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from neuroattn._checks import check_option
from neuroattn._files import check_file, read_json, reading
from neuroattn.analyses.decoding import Condition, check_pipeline, new_estimator
from neuroattn.datasets.eeg import Trials, load_eeg
from neuroattn.eeg import MotorImageryClassifier
from neuroattn.results import provenance, replacing, write_json


@dataclass(frozen=True, eq=False)
class Decoder:
    """A fitted pipeline, the band and window it looks at, and how its trials were cut.

    Parameters
    ----------
    pipeline : str
        As for :func:`decode_trials`.
    estimator : estimator
        Fitted.
    condition : Condition
    ch_names : sequence of str
    sfreq : float
        Sampling rate in hertz.
    seed : int

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.array(["left", "right"] * 10)
    >>> X = rng.normal(size=(20, 2, 200)) * np.where((y == "left")[:, None] == [True, False], 1, 4)[..., None]
    >>> metadata = pd.DataFrame({"subject": ["1"] * 20, "session": "1", "run": "1"})
    >>> trials = Trials(X, y, metadata, ["C3", "C4"], sfreq=100, tmin=0)
    >>> decoder = Decoder.fit(trials, "csp-lda", Condition("imagery", (8, 30), 0.5, 2.0))
    >>> decoder.predict(trials).columns.tolist()
    ['subject', 'session', 'run', 'trial', 'label', 'predicted', 'p_left', 'p_right']
    """

    pipeline: str
    estimator: Any
    condition: Condition
    ch_names: Sequence[str]
    sfreq: float
    seed: int

    @classmethod
    def fit(
        cls,
        trials: Trials,
        pipeline: str,
        condition: Condition,
        *,
        n_epochs: int = 100,
        seed: int = 0,
        device: str = "cpu",
    ) -> Self:
        """Fit a pipeline to all trials.

        Parameters
        ----------
        trials : Trials
            Signals as recorded.
        pipeline : str
            As for :func:`decode_trials`.
        condition : Condition
        n_epochs, seed, device
            As for :func:`decode_trials`.
        """
        import mne

        estimator = new_estimator(
            pipeline,
            sfreq=trials.sfreq,
            ch_names=trials.ch_names,
            n_epochs=n_epochs,
            seed=seed,
            device=device,
        )
        with mne.use_log_level("error"):
            estimator.fit(condition.apply(trials).X, trials.y.astype(str))
        if isinstance(estimator, MotorImageryClassifier):
            estimator.ch_names_ = list(trials.ch_names)
        return cls(pipeline, estimator, condition, tuple(trials.ch_names), trials.sfreq, seed)

    def predict(self, trials: Trials) -> pd.DataFrame:
        """Return one row a trial: whose it is, its label, the predicted one, and the probability of each class.

        Raises
        ------
        ValueError
            If channels or sampling rate are not those of the fit.
        """
        if tuple(trials.ch_names) != tuple(self.ch_names):
            differing = sorted(set(trials.ch_names) ^ set(self.ch_names)) or ["their order"]
            raise ValueError(f"channels must be those of the model, differing: {', '.join(differing[:8])}")
        if trials.sfreq != self.sfreq:
            raise ValueError(
                f"sampling rate must be {self.sfreq:g} Hz as in the fit, got {trials.sfreq:g} Hz"
            )
        probability = self.estimator.predict_proba(self.condition.apply(trials).X)
        classes = self.estimator.classes_.astype(str)
        table = trials.metadata[["subject", "session", "run"]].copy()
        table["trial"] = table.groupby(["subject", "session", "run"]).cumcount() + 1
        table["label"] = trials.y.astype(str)
        table["predicted"] = classes[probability.argmax(axis=1)]
        for name, column in zip(classes, probability.T, strict=True):
            table[f"p_{name}"] = column
        return table

    def save(self, folder: str | Path, *, cut: Mapping[str, Any]) -> None:
        """Write a folder of safetensors and JSON that appears whole or not at all.

        Parameters
        ----------
        folder : str or Path
        cut : mapping
            Arguments of :func:`neuroattn.datasets.load_eeg` by which the trials were cut; :func:`read_trials` cuts
            others alike.
        """
        about = {
            "class": type(self).__name__,
            "pipeline": self.pipeline,
            "condition": asdict(self.condition),
            "ch_names": list(self.ch_names),
            "sfreq": self.sfreq,
            "seed": self.seed,
            "cut": dict(cut),
            "classes": self.estimator.classes_.tolist(),
            "neuroattn_version": provenance(self.seed, {})["neuroattn_version"],
        }
        with replacing(folder) as temporary:
            temporary.mkdir()
            if isinstance(self.estimator, MotorImageryClassifier):
                self.estimator.save(temporary / "network")
            else:
                save_file(_state(self.estimator), temporary / "model.safetensors")
            write_json(temporary / "decoder.json", about)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load a decoder that :meth:`save` wrote."""
        folder = Path(folder)
        about = _about(folder)
        estimator: Any = None
        tensors: dict[str, np.ndarray[Any, Any]] = {}
        if (folder / "network").is_dir():
            estimator = MotorImageryClassifier.load(folder / "network")
        else:
            check_file(folder / "model.safetensors")
            with reading(f"{folder / 'model.safetensors'} cannot be read:"):
                tensors = load_file(folder / "model.safetensors")
        with reading(f"{folder} must hold a decoder that save wrote, got"):
            if estimator is None:
                estimator = new_estimator(
                    check_pipeline(about["pipeline"]),
                    sfreq=about["sfreq"],
                    ch_names=about["ch_names"],
                    n_epochs=1,
                    seed=about["seed"],
                )
                _restore(estimator, tensors, about["classes"])
            condition = dict(about["condition"])
            band = condition.pop("band")
            return cls(
                about["pipeline"],
                estimator,
                Condition(band=None if band is None else tuple(band), **condition),
                tuple(about["ch_names"]),
                about["sfreq"],
                about["seed"],
            )


def read_trials(folder: str | Path, files: Sequence[str | Path]) -> Trials:
    """Cut trials from recordings as a saved decoder's own were cut.

    Parameters
    ----------
    folder : str or Path
        Of the decoder.
    files : sequence of str or Path
        See :func:`neuroattn.datasets.load_eeg`.

    Examples
    --------
    >>> read_trials("nowhere", [])
    Traceback (most recent call last):
    FileNotFoundError: nowhere must be the folder of a decoder, with decoder.json
    """
    about = _about(Path(folder))
    with reading(f"{Path(folder) / 'decoder.json'} must say how trials were cut, got"):
        cut = inspect.signature(load_eeg).bind([], channels=about["ch_names"], **about["cut"]).kwargs
    return load_eeg(files, **cut)


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "decoder.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} must be the folder of a decoder, with decoder.json")
    about: dict[str, Any] = read_json(path)
    with reading(f"{path} must describe a decoder, got"):
        check_option("class", about.get("class", ""), (Decoder.__name__,))
    return about


def _state(pipeline: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return the fitted numbers of every step; texts are the classes, which are kept elsewhere."""
    state = {}
    for step, transformer in pipeline.steps:
        for name, value in vars(transformer).items():
            array = np.asarray(value) if name.endswith("_") and not name.startswith("_") else None
            if array is not None and array.dtype.kind in "fiu":
                state[f"{step}.{name}"] = np.ascontiguousarray(array)
    return state


def _restore(pipeline: Any, state: Mapping[str, np.ndarray[Any, Any]], classes: Sequence[str]) -> None:
    """Give an unfitted pipeline the numbers of a fitted one."""
    for place, value in state.items():
        step, _, name = place.partition(".")
        if name.startswith("_") or not name.endswith("_"):
            raise ValueError(f"{place!r}, which is no fitted number")
        setattr(pipeline.named_steps[step], name, value if value.ndim else value.item())
    pipeline[-1].classes_ = np.asarray(classes)
