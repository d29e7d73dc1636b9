"""The object attention transformer as an estimator: training, likelihood, samples, storing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping, GradientNormClipping, LRScheduler
from skorch.helper import predefined_split
from torch import Tensor, nn
from torch.utils.data import Dataset

from neuroattn._backbones import Backbone
from neuroattn._checks import check_option, check_range, check_seed
from neuroattn._files import read_config, reading
from neuroattn.attention import ATTENTIONS
from neuroattn.datasets import ObjectScene, ScanpathDataset
from neuroattn.results import Scanpath, provenance, replacing, write_json
from neuroattn.scanpath.base import (
    Floats,
    Objects,
    PathState,
    ScanpathModel,
    _scanpath,
    object_paths,
)
from neuroattn.scanpath.decoding import Decoding, search_beam
from neuroattn.scanpath.transformer import CUE, MATCH, OBJECT, ObjectAttentionNetwork, SceneBatch, SceneMemory

TARGETS = ("label", "exemplar", "oracle", "none")
APPEARANCES = ("cnn", "precomputed", "none")
_WARM_UP = 100  # steps


class ObjectAttentionTransformer(ScanpathModel):
    """Predict which object is fixated next by attention among objects and to the path so far [1]_.

    Objects, with their looks and places, are the tokens of a transformer encoder. Its decoder reads the objects
    fixated so far and points at the next.

    Parameters
    ----------
    target : {"label", "exemplar", "oracle", "none"}
        What the model knows of the target; there is no default, because it decides what a result means.
        "label": the category, and so which objects belong to it. "exemplar": another picture of it, not where
        it is. "oracle": which object it is, as in the published model, which is told where to look. "none": nothing, as
        in free viewing.
    appearance : {"cnn", "precomputed", "none"} or Backbone, default "cnn"
        A small network trained along on crops, the scene's ``features``, nothing, or the mean over places of a frozen
        network's features of each crop. With ``target="label"`` objects have their category as well.
    crop_size : tuple of int, (width, height), default (48, 48)
        Size of crops for "cnn", px.
    sigma : float, default 0.15
        Width of the position code as a share of the longer side of the image; see
        :func:`neuroattn.attention.gaussian_position`. The published 2 columns of 14 are 0.14.
    observers : bool, default False
        Learn a code for each observer; an unknown one gets their mean.
    durations : bool, default False
        Learn how long fixations last, a log-normal given the path and the object.
    dim, heads, layers, feedforward : int, default 64, 4, 2, 128
        Channels of a token; attention heads; layers of the encoder and of the decoder; hidden units. The published
        ones are 512, 4, 4, 512.
    encoder_attention : str, default "softmax"
        Attention between the objects of a scene: a name in :data:`neuroattn.attention.ATTENTIONS`, such as "manar".
    dropout : float, default 0.1
    epochs, patience : int, default 100, 10
        Training ends this many passes after the last improvement of the validation loss, with the best weights.
    batch_size : int, default 64
        Trials. The looks of a scene are computed once a batch, whoever saw it.
    lr, weight_decay, clip : float, default 1e-3, 1e-2, 1.0
    validation_fraction : float, default 0.1
        Share of the groups that early stopping watches.
    by : {"image", "target", "observer", "scene", "task", "condition", "trial"}, default "image"
        Groups for early stopping; none is on both sides.
    seed : int, default 0
    device : str, default "cpu"

    Attributes
    ----------
    network_ : ObjectAttentionNetwork
    history_ : list of dict
        ``train_loss`` and ``valid_loss`` of each pass, nat an event: mean negative log likelihood of fixations, ends
        and, where they are predicted, durations.
    categories_, observers_ : list of str
        Known ones.
    max_fixations_ : int
        Length of the longest path in training.

    Raises
    ------
    ValueError
        In ``fit`` and after it, if a scene lacks what ``target`` or ``appearance`` needs.

    Notes
    -----
    Differs from the paper: boxes may be anywhere and scenes may have any number of objects; positions are coded by
    a closed form rather than a trained table; what is known of the target is a choice; an object's token also holds its
    size and how much it looks like the cue (the cosine of their looks); the end of a path has an output
    of its own instead of the target's score; there is no padding in the softmax; AdamW with a warm-up and smaller
    default sizes; early stopping on likelihood. The published behaviour is that of
    :func:`neuroattn.scanpath.load_reference`.

    A fixation of the background, and an initial one, is no part of a path. All paths begin alike.

    Where every scene has one object of the target's category, "label" tells as much as "oracle".

    References
    ----------
    .. [1] Fang et al. (2024). OAT: object-level attention transformer for gaze scanpath prediction. ECCV.
       arXiv:2407.13335.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> scenes = {str(i): ObjectScene(np.c_[rng.uniform(0, 180, (4, 2)), np.full((4, 2), 20)], (200, 200),
    ...                               labels=["cup", "cup", "pen", "pen"], target_label="pen") for i in range(10)}
    >>> paths = [Scanpath(s.x[[0, 2]], s.y[[0, 2]], (200, 200), objects=[0, 2], first_fixation="free",
    ...                   attrs={"image": name, "scene": name}) for name, s in scenes.items()]
    >>> dataset = ScanpathDataset.from_scanpaths(paths, scenes=scenes)
    >>> model = ObjectAttentionTransformer(target="label", appearance="none", dim=16, layers=1, epochs=3).fit(dataset)
    >>> dict(model.sample(scenes["0"], n=5, seed=1).sizes)
    {'sample': 5, 'fixation': 2, 'scene_object': 4}
    >>> model.log_prob(dataset).dims
    ('trial', 'fixation')
    """

    def __init__(
        self,
        *,
        target: str,
        appearance: str | Backbone = "cnn",
        crop_size: tuple[int, int] = (48, 48),
        sigma: float = 0.15,
        observers: bool = False,
        durations: bool = False,
        dim: int = 64,
        heads: int = 4,
        layers: int = 2,
        feedforward: int = 128,
        encoder_attention: str = "softmax",
        dropout: float = 0.1,
        epochs: int = 100,
        patience: int = 10,
        batch_size: int = 64,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        clip: float = 1.0,
        validation_fraction: float = 0.1,
        by: str = "image",
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.target = target
        self.appearance = appearance
        self.crop_size = crop_size
        self.sigma = sigma
        self.observers = observers
        self.durations = durations
        self.dim = dim
        self.heads = heads
        self.layers = layers
        self.feedforward = feedforward
        self.encoder_attention = encoder_attention
        self.dropout = dropout
        self.epochs = epochs
        self.patience = patience
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.validation_fraction = validation_fraction
        self.by = by
        self.seed = seed
        self.device = device

    def fit(
        self,
        dataset: ScanpathDataset,
        y: None = None,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> Self:
        """Train on scanpaths.

        Parameters
        ----------
        dataset : ScanpathDataset
            With objects assigned, a scene for each trial, and ``duration`` where durations are to be learned.
        y : None
            Ignored.
        progress : callable, optional
            Called with the number of finished passes.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a scene lacks what the model needs, or there are fewer than two groups to split.
        """
        self._check_options()
        train, valid = dataset.split(self.by, test_size=self.validation_fraction, seed=self.seed)
        self.__dict__.pop("network_", None)  # an old network must not outlive a fit that fails
        lengths = object_paths(dataset)[1]
        self.max_fixations_ = max(int(lengths.max(initial=0)), 1)
        self.categories_: list[str] = []
        if self.target == "label":
            named = [label for scene in train.scenes.values() for label in scene.labels or ()]
            self.categories_ = sorted({*named, *(s.target_label or "" for s in train.scenes.values())} - {""})
        self.observers_: list[str] = []
        if self.observers:
            self.observers_ = sorted(set(train.data["observer"].values.astype(str)) - {""})
            if not self.observers_:
                raise ValueError("observers must be named in the data set to learn their codes, got none")
        inputs = {name: self._inputs(scene) for name, scene in dataset.scenes.items()}
        self.n_features_ = self._count_features(inputs)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = self._build()
            if self.n_features_:
                rows = np.concatenate([inputs[name].looks[inputs[name].seen] for name in train.scenes])
                network.feature_mean.copy_(torch.from_numpy(rows.mean(0)))
                network.feature_scale.copy_(torch.from_numpy(rows.std(0)).clamp_min(1e-6))
            trials = [_Trials(part, inputs, self._observer_index, self.durations) for part in (train, valid)]
            self.history_ = self._train(network, *trials, progress=progress)
        self.network_ = network.cpu().eval()
        return self

    def sample(
        self,
        scene: ObjectScene,
        *,
        n: int = 1,
        seed: int | np.random.Generator,
        max_fixations: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        no_return: bool = False,
        observer: str | None = None,
    ) -> xr.Dataset:
        """Draw new paths.

        The scene is encoded once; each step decodes the last object of all paths, with the keys and values of the
        earlier steps kept.

        Parameters
        ----------
        scene, n, seed, max_fixations, temperature, top_p, no_return, observer
            As for :meth:`ScanpathModel.sample`.

        Returns
        -------
        Dataset, dims (sample, fixation) and object
            As for :meth:`ScanpathModel.sample`; with durations also ``duration`` (s).
        """
        draws = check_seed(seed).spawn(1)[0]  # another stream than that of the objects
        samples = super().sample(
            scene,
            n=n,
            seed=seed,
            max_fixations=max_fixations,
            temperature=temperature,
            top_p=top_p,
            no_return=no_return,
            observer=observer,
        )
        if not self.durations:
            return samples
        limit = self.max_fixations_ if max_fixations is None else max_fixations
        normal = draws.standard_normal((n, limit))[:, : samples.sizes["fixation"]]
        objects = samples["object"].values
        mean, log_scale = self._duration_parameters(scene, np.maximum(objects, 0), [observer] * n)
        duration = np.where(objects >= 0, np.exp(mean + np.exp(log_scale) * normal), np.nan)
        return samples.assign(duration=(("sample", "fixation"), duration, {"units": "s"}))

    def predict(
        self, scene: ObjectScene, *, max_fixations: int | None = None, observer: str | None = None
    ) -> Scanpath:
        """Return the path of the most probable object at every step, until ending is more probable than not.

        Parameters
        ----------
        scene : ObjectScene
        max_fixations : int, optional
            By default the length of the longest path in training.
        observer : str, optional

        Returns
        -------
        Scanpath
            Chosen fixations at the centres of their objects; with durations, their medians.
        """
        path = super().predict(scene, max_fixations=max_fixations, observer=observer)
        if not self.durations or path.objects is None:
            return path
        mean, _ = self._duration_parameters(scene, path.objects[None], [observer])
        return replace(path, duration=np.exp(mean[0]))

    def beam(
        self,
        scene: ObjectScene,
        width: int = 10,
        *,
        max_fixations: int | None = None,
        observer: str | None = None,
    ) -> list[Scanpath]:
        """Return the most probable whole paths that beam search finds.

        Parameters
        ----------
        scene : ObjectScene
        width : int, default 10
            Beginnings that are followed, and at most so many paths.
        max_fixations : int, optional
            Paths are cut here, and then their end costs nothing. By default the length of the longest in training.
        observer : str, optional

        Returns
        -------
        list of Scanpath
            The most probable first; ``attrs["path_log_prob"]`` is the natural logarithm of the probability of the
            path with its end.
        """
        limit = self.max_fixations_ if max_fixations is None else max_fixations
        check_range("width", width, 1)
        check_range("max_fixations", limit, 1)
        state = PathState(scene, (observer,), np.zeros((1, 0), np.int64))
        return [
            _scanpath(scene, objects, log_prob, {**self._attrs(scene), "path_log_prob": total})
            for objects, log_prob, total in search_beam(self._step, state, width, limit)
        ]

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder that appears whole or not at all.

        Parameters
        ----------
        folder : str or Path
            Replaced if it exists.
        """
        check_is_fitted(self, "network_")
        params = self.get_params(deep=False)
        if isinstance(self.appearance, Backbone):
            params["appearance"] = {**self.appearance.config, "fingerprint": self.appearance.fingerprint()}
        config = {
            "class": type(self).__name__,
            "params": params,
            "max_fixations": self.max_fixations_,
            "categories": self.categories_,
            "observers": self.observers_,
            "n_features": self.n_features_,
            "history": self.history_,
            "neuroattn_version": provenance(self.seed, {})["neuroattn_version"],
        }
        with replacing(folder) as temporary:
            temporary.mkdir()
            save_file(
                {k: v.detach().clone().contiguous() for k, v in self.network_.state_dict().items()},
                temporary / "model.safetensors",
            )
            write_json(temporary / "config.json", config)

    @classmethod
    def load(cls, folder: str | Path, *, backbone: Backbone | None = None) -> Self:
        """Load a model that :meth:`save` wrote.

        Parameters
        ----------
        folder : str or Path
        backbone : Backbone, optional
            Needed if the model's appearance is one: the same.

        Raises
        ------
        FileNotFoundError
            If the folder holds no model.
        ValueError
            If the backbone is missing or another one.
        """
        folder = Path(folder)
        config = read_config(folder, [cls.__name__])
        with reading(f"{folder / 'model.safetensors'} cannot be read:"):
            tensors = load_file(folder / "model.safetensors")
        params = config["params"]
        wanted = params.get("appearance")
        if isinstance(wanted, dict):
            if backbone is None or backbone.fingerprint() != wanted.get("fingerprint"):
                known = f"{wanted.get('name')} layer {wanted.get('layer')}"
                raise ValueError(f"backbone must be the one of training, {known}, got {backbone}")
            params["appearance"] = backbone
        with reading(f"{folder} must hold a model that save wrote, got"):
            params["crop_size"] = tuple(params["crop_size"])
            model = cls(**params)
            model.max_fixations_, model.history_ = config["max_fixations"], config["history"]
            model.categories_, model.observers_ = config["categories"], config["observers"]
            model.n_features_ = config["n_features"]
            with torch.random.fork_rng():
                model.network_ = model._build()
            model.network_.load_state_dict(tensors)
            model.network_.eval()
        return model

    # What the base class asks for

    def _object_log_prob(self, state: PathState) -> Floats:
        return self._step(state)[0]

    def _step(self, state: PathState) -> tuple[Floats, Floats]:
        if state.cache is None:
            observer = self._observer_index(state.observers).to(self.device)
            memory = self._memory(state.scene)
            state.cache = Decoding.start(self.network_, memory, observer, self.max_fixations_ + 1)
        # Everything in the first call, then the last object.
        done: int = max(state.cache.cache.n_steps - 1, 0)
        decoding: Decoding = state.cache
        return decoding.advance(torch.tensor(state.past[:, done:], device=self.device))

    @torch.no_grad()
    def _teacher_forced(
        self, scene: ObjectScene, paths: Objects, observers: Sequence[str | None]
    ) -> tuple[Floats, Floats]:
        decoded, _, memory = self._decode(scene, paths, observers)
        scores, end = self.network_.read(decoded, memory)
        return scores[0].double().log_softmax(-1).cpu().numpy(), F.logsigmoid(end[0].double()).cpu().numpy()

    # Inside

    @torch.no_grad()
    def _decode(
        self, scene: ObjectScene, paths: Objects, observers: Sequence[str | None]
    ) -> tuple[Tensor, Tensor, SceneMemory]:
        """Decode whole paths (path, step); return that, the paths as a tensor and what they read, with a scene axis."""
        memory = self._memory(scene)
        objects = torch.tensor(paths, device=self.device)[None]  # a copy: a path's own array is read-only
        observer = self._observer_index(observers)[None].to(self.device)
        return self.network_.continue_paths(objects, memory, observer), objects, memory

    def _duration_parameters(
        self, scene: ObjectScene, paths: Objects, observers: Sequence[str | None]
    ) -> tuple[Floats, Floats]:
        decoded, objects, memory = self._decode(scene, paths, observers)
        with torch.no_grad():
            mean, log_scale = self.network_.read_durations(decoded[:, :, :-1], objects, memory)
        return mean[0].double().cpu().numpy(), log_scale[0].double().cpu().numpy()

    @torch.no_grad()
    def _memory(self, scene: ObjectScene) -> SceneMemory:
        check_is_fitted(self, "network_")
        inputs = self._inputs(scene)
        if self.n_features_ and inputs.looks.shape[1] != self.n_features_:
            raise ValueError(
                f"scene {scene.name!r} must have {self.n_features_} features as in training, "
                f"got {inputs.looks.shape[1]}"
            )
        return self.network_.to(self.device).memory(_collate_scenes([inputs]).to(self.device))

    def _observer_index(self, observers: Sequence[str | None]) -> Tensor:
        index = {name: i for i, name in enumerate(self.observers_)}
        return torch.tensor([index.get(name or "", -1) for name in observers])

    def _check_options(self) -> None:
        check_option("target", self.target, TARGETS)
        check_option("encoder_attention", self.encoder_attention, ATTENTIONS)
        if not isinstance(self.appearance, Backbone):
            check_option("appearance", self.appearance, APPEARANCES)
        if self.target == "exemplar" and self.appearance == "none":
            raise ValueError(
                "appearance must not be 'none' with target='exemplar', which is shown by its looks"
            )
        for name, low, high in (
            ("epochs", 1, None), ("patience", 1, None), ("batch_size", 1, None), ("layers", 1, None),
            ("feedforward", 1, None), ("dropout", 0, 1), ("lr", 0, None), ("weight_decay", 0, None),
            ("clip", 0, None), ("sigma", 0.01, 10),
        ):  # fmt: skip
            check_range(name, getattr(self, name), low, high)
        check_seed(self.seed)

    def _build(self) -> ObjectAttentionNetwork:
        return ObjectAttentionNetwork(
            dim=self.dim,
            heads=self.heads,
            layers=self.layers,
            feedforward=self.feedforward,
            encoder_attention=self.encoder_attention,
            dropout=self.dropout,
            sigma=self.sigma,
            n_features=self.n_features_,
            n_categories=len(self.categories_),
            n_observers=len(self.observers_),
            durations=self.durations,
        )

    def _count_features(self, inputs: dict[str, _SceneInputs]) -> int | None:
        """Return the number of features of an object, None for pictures."""
        if self.appearance == "cnn":
            return None
        counts = sorted({int(scene.looks.shape[1]) for scene in inputs.values()})
        if len(counts) > 1:
            raise ValueError(f"features must be equally many in all scenes, got {counts}")
        return counts[0]

    def _inputs(self, scene: ObjectScene) -> _SceneInputs:
        """Return what the network is given of a scene, and nothing that ``target`` keeps from it."""
        n = scene.n_objects
        if not n:
            raise ValueError(f"scene {scene.name!r} must have objects, got none")
        boxes = np.stack([scene.x, scene.y, scene.boxes[:, 2], scene.boxes[:, 3]], 1) / max(scene.size)
        place = np.concatenate([boxes, np.full((1, 4), np.nan)]).astype(np.float32)
        category, kind = np.zeros(n + 1, np.int64), np.full(n + 1, OBJECT)
        kind[-1] = CUE
        seen, mask = np.ones(n + 1, bool), np.ones(n + 1, bool)
        looks = self._looks(scene)
        cue = np.zeros_like(looks[:1])
        seen[-1] = False
        if self.target == "label":
            if scene.labels is None or scene.target_label is None:
                raise ValueError(f"scene {scene.name!r} must have labels and target_label for target='label'")
            known = {name: i + 1 for i, name in enumerate(self.categories_)}
            category = np.array([known.get(name, 0) for name in (*scene.labels, scene.target_label)])
            kind[:-1][np.array(scene.labels) == scene.target_label] = MATCH
        elif self.target == "exemplar":
            cue, seen[-1] = self._exemplar(scene), True
        elif self.target == "oracle":
            if scene.target is None:
                raise ValueError(f"scene {scene.name!r} must have a target for target='oracle', got None")
            cue, place[-1], seen[-1] = looks[[scene.target]], place[scene.target], True
            kind[scene.target] = MATCH
        else:
            mask[-1] = False
        if self.appearance == "none":
            seen[:] = False
        return _SceneInputs(place, np.concatenate([looks, cue]), seen, category, kind, mask)

    def _looks(self, scene: ObjectScene) -> NDArray[Any]:
        """Return features (object, feature) or pictures (object, 3, y, x)."""
        if self.appearance == "cnn":
            return scene.crops(self.crop_size).transpose(0, 3, 1, 2)
        if self.appearance == "none":
            return np.zeros((scene.n_objects, 0), np.float32)
        if isinstance(self.appearance, Backbone):
            return _features(self.appearance, scene.crops(self.appearance.input_size[::-1]))
        if scene.features is None:
            raise ValueError(
                f"scene {scene.name!r} must have features for appearance='precomputed', got None"
            )
        if not np.isfinite(scene.features).all():
            raise ValueError(f"features of scene {scene.name!r} must be finite, got NaN or infinity")
        return scene.features.astype(np.float32)

    def _exemplar(self, scene: ObjectScene) -> NDArray[Any]:
        """Return the looks of the cue, with a leading axis of one."""
        if self.appearance == "precomputed":
            if scene.exemplar_features is None:
                raise ValueError(f"scene {scene.name!r} must have exemplar_features for target='exemplar'")
            return scene.exemplar_features.astype(np.float32)[None]
        if isinstance(self.appearance, Backbone):
            return _features(self.appearance, scene.exemplar_crop(self.appearance.input_size[::-1])[None])
        return scene.exemplar_crop(self.crop_size).transpose(2, 0, 1)[None]

    def _train(
        self,
        network: ObjectAttentionNetwork,
        train: _Trials,
        valid: _Trials,
        *,
        progress: Callable[[int], None] | None,
    ) -> list[dict[str, float]]:
        """Train in place and leave the best weights; return the losses of each pass."""
        order = (
            np.unique(train.scene, return_inverse=True)[1]
            if self.appearance == "cnn"
            else np.arange(len(train))
        )
        stop = EarlyStopping(patience=self.patience, load_best=True, sink=_silent)
        net = _Net(
            _LossOf(network, self.durations),
            criterion=nn.Identity,  # the module returns the loss
            optimizer=torch.optim.AdamW,
            optimizer__weight_decay=self.weight_decay,
            lr=self.lr,
            max_epochs=self.epochs,
            batch_size=self.batch_size,
            train_split=predefined_split(valid),
            iterator_train__collate_fn=train.collate,
            iterator_valid__collate_fn=valid.collate,
            iterator_train__shuffle=False,
            iterator_train__sampler=_Shuffled(order, self.seed),
            iterator_train__generator=torch.Generator(),  # dropout alone draws from the global one
            iterator_valid__generator=torch.Generator(),
            callbacks=[
                ("stop", stop),
                ("clip", GradientNormClipping(self.clip)),
                ("progress", _Progress(progress)),
                (
                    "rate",
                    LRScheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=_warm_up, step_every="batch"),
                ),
            ],
            callbacks__print_log=None,
            device=self.device,
            verbose=0,
        )
        net.fit(train)
        if len(net.history) < self.epochs and stop.misses_ < self.patience:
            raise KeyboardInterrupt  # skorch takes the user's interruption for a stopping rule
        history = [{k: float(row[k]) for k in ("train_loss", "valid_loss")} for row in net.history]
        if not math.isfinite(history[-1]["train_loss"]):
            raise ValueError(f"training must converge, got a loss of {history[-1]['train_loss']}; lower lr")
        return history


@dataclass(frozen=True)
class _SceneInputs:
    """The fields of `SceneBatch` for one scene, as arrays without padding."""

    place: NDArray[np.float32]
    looks: NDArray[Any]
    seen: NDArray[np.bool_]
    category: NDArray[np.int64]
    kind: NDArray[np.int64]
    mask: NDArray[np.bool_]


def _collate_scenes(scenes: Sequence[_SceneInputs]) -> SceneBatch:
    """Pad scenes to the same number of objects, the cue last."""
    n_tokens = max(len(scene.mask) for scene in scenes)

    def join(name: str) -> Tensor:
        arrays = [getattr(scene, name) for scene in scenes]
        padded = np.zeros((len(arrays), n_tokens, *arrays[0].shape[1:]), arrays[0].dtype)
        for row, array in zip(padded, arrays, strict=True):
            row[: len(array) - 1], row[-1] = array[:-1], array[-1]
        return torch.from_numpy(padded)

    return SceneBatch(*(join(name) for name in ("place", "looks", "seen", "category", "kind", "mask")))


def _features(backbone: Backbone, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the features of crops, averaged over places."""
    features = backbone.extract(np.ascontiguousarray(crops))
    return features if features.ndim == 2 else features.mean((2, 3))


@dataclass
class _TrialBatch:
    """Trials, the scenes they are in (each once), and what happened."""

    scenes: SceneBatch
    scene: Tensor  # (trial,): row of `scenes`
    objects: Tensor  # (trial, step): 0 behind the end
    lengths: Tensor  # (trial,)
    observer: Tensor  # (trial,)
    log_duration: Tensor  # (trial, step): NaN where it is not known

    def __len__(self) -> int:
        """Return the number of events, fixations and ends: losses are weighted by it."""
        return int(self.lengths.sum()) + len(self.lengths)

    def to(self, device: str) -> _TrialBatch:
        return _TrialBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class _Trials(Dataset[int]):
    """Trials of a data set; items are their numbers, which `collate` turns into a batch."""

    def __init__(
        self, dataset: ScanpathDataset, inputs: dict[str, _SceneInputs], observer_index: Any, durations: bool
    ) -> None:
        paths, self.lengths, column = object_paths(dataset)
        self.inputs = inputs
        self.scene = dataset.data["scene"].values.astype(str)
        for i in range(len(dataset)):
            dataset.scene_of(i)  # names a trial without a scene
        self.objects = np.maximum(paths, 0)
        self.observer = observer_index(dataset.data["observer"].values.astype(str).tolist())
        self.log_duration = np.full(paths.shape, np.nan, np.float32)
        if durations:
            if "duration" not in dataset.data:
                raise ValueError("dataset must have durations for durations=True, got none")
            seconds = np.take_along_axis(dataset.data["duration"].values, np.maximum(column, 0), 1)
            known = (column >= 0) & (seconds > 0)
            self.log_duration[known] = np.log(seconds[known])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, trials: list[int]) -> tuple[_TrialBatch, Tensor]:
        names, scene = np.unique(self.scene[trials], return_inverse=True)
        lengths = self.lengths[trials]
        steps = slice(int(lengths.max()))
        batch = _TrialBatch(
            _collate_scenes([self.inputs[name] for name in names]),
            torch.from_numpy(scene),
            torch.from_numpy(self.objects[trials, steps]),
            torch.from_numpy(lengths),
            self.observer[trials],
            torch.from_numpy(self.log_duration[trials, steps]),
        )
        return batch, torch.empty(0)  # skorch wants a target


class _LossOf(nn.Module):
    """The mean negative log likelihood of the events of a batch, nat."""

    def __init__(self, network: ObjectAttentionNetwork, durations: bool) -> None:
        super().__init__()
        self.network, self.durations = network, durations

    def forward(self, batch: _TrialBatch) -> Tensor:
        network = self.network
        memory = network.memory(batch.scenes).take(batch.scene)
        objects = batch.objects[:, None]
        decoded = network.continue_paths(objects, memory, batch.observer[:, None])
        scores, end = (x[:, 0] for x in network.read(decoded, memory))
        step = torch.arange(end.shape[1], device=end.device)
        before, last = step < batch.lengths[:, None], step == batch.lengths[:, None]
        chosen = scores[:, :-1].log_softmax(-1).gather(-1, batch.objects[..., None])[..., 0]
        loss = (
            -chosen[before[:, :-1]].sum() - F.logsigmoid(-end[before]).sum() - F.logsigmoid(end[last]).sum()
        )
        if self.durations:
            mean, log_scale = network.read_durations(decoded[:, :, :-1], objects, memory)
            known = ~batch.log_duration.isnan()
            mean, log_scale = mean[:, 0][known], log_scale[:, 0][known]
            z = (batch.log_duration[known] - mean) / log_scale.exp()
            loss = loss + (z**2 / 2 + log_scale + math.log(2 * math.pi) / 2).sum()
        return loss / len(batch)


class _Shuffled:
    """Go through the groups of trials in another order in every pass; trials of a group stay together."""

    def __init__(self, group: NDArray[np.intp], seed: int) -> None:
        self.group, self.rng = group, np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.group)

    def __iter__(self) -> Iterator[int]:
        order = self.rng.permutation(self.group.max() + 1)
        return iter(np.argsort(order[self.group], kind="stable").tolist())


def _warm_up(step: int) -> float:
    return min(1.0, (step + 1) / _WARM_UP)


class _Progress(Callback):  # type: ignore[misc]
    """Report every finished pass."""

    def __init__(self, report: Callable[[int], None] | None) -> None:
        self.report = report

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        if self.report is not None:
            self.report(len(net.history))


def _silent(*args: Any) -> None:
    """Take the place of print."""


class _Net(NeuralNet):  # type: ignore[misc]
    """skorch's loop for a module that takes a batch and returns its loss."""

    def infer(self, x: _TrialBatch, **fit_params: Any) -> Tensor:
        loss: Tensor = self.module_(x.to(self.device))
        return loss

    def get_loss(self, y_pred: Tensor, y_true: Any, X: Any = None, training: bool = False) -> Tensor:
        return y_pred
