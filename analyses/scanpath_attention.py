"""What a scanpath model attends to along a path: shifts towards the next fixation, and memory of earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from neuroattn._checks import check_seed
from neuroattn.analyses.style import INK, MARKERS, MODEL_COLOURS, MUTED, WIDTH, label_rows, styled
from neuroattn.datasets import ObjectScene, ScanpathDataset
from neuroattn.metrics import auc, crossed_bootstrap, nss
from neuroattn.results import Scanpath, provenance
from neuroattn.scanpath import ObjectAttentionTransformer
from neuroattn.scanpath.base import object_paths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

MAPS = ("shift", "map", "earlier map", "other steps", "another trial")
UNITS = ("image", "observer")


def path_attention(model: ObjectAttentionTransformer, dataset: ScanpathDataset) -> xr.Dataset:
    """Return what the decoder of a scanpath model attends to at every step of given paths.

    Parameters
    ----------
    model : ObjectAttentionTransformer
        Fitted.
    dataset : ScanpathDataset
        With objects assigned and a scene for each trial: people's paths, or a model's samples as
        ``ScanpathDataset.from_scanpaths(sampled_scanpaths(samples, scene), scenes={scene.name: scene})``.

    Returns
    -------
    Dataset, dims (trial, layer, head, step, object) and (trial, layer, head, step, earlier)
        Step t is after t chosen fixations of objects and before the next; the last is before the end.

        - ``scene`` (..., object): weights of the objects;
        - ``cue`` (trial, layer, head, step): weight of the token that says what is searched for, 0 for
          ``target="none"``; with those of the objects it sums to one;
        - ``path`` (..., earlier): weights of the path so far, which sum to one; ``earlier`` 0 is its start, before
          any fixation, and n the n-th fixation.

        NaN behind the end of a path and for objects that the scene does not have. Coordinates ``image`` (or the scene,
        where no image is named) and ``observer`` along trial.

    Examples
    --------
    >>> from neuroattn.datasets import make_search_arrays
    >>> data = make_search_arrays(n_scenes=8, n_observers=2, seed=0)
    >>> model = ObjectAttentionTransformer(
    ...     target="label", appearance="none", dim=16, heads=2, layers=1, epochs=2).fit(data)
    >>> maps = path_attention(model, data)
    >>> (maps.scene.sum("object") + maps.cue).isel(step=0).values.round(4).max()
    np.float32(1.0)
    """
    paths, lengths, _ = object_paths(dataset)
    names = dataset.data["scene"].values.astype(str)
    observers = dataset.data["observer"].values.astype(str)
    scenes = {str(name): dataset.scene_of(int(np.flatnonzero(names == name)[0])) for name in np.unique(names)}
    n_steps = paths.shape[1] + 1
    n_objects = max(scene.n_objects for scene in scenes.values())
    lead = (len(dataset), model.layers, model.heads, n_steps)
    on_scene = np.full((*lead, n_objects), np.nan, np.float32)
    on_cue = np.full(lead, np.nan, np.float32)
    on_path = np.full((*lead, n_steps), np.nan, np.float32)
    for name, scene in scenes.items():
        rows = np.flatnonzero(names == name)
        steps = slice(int(lengths[rows].max()) + 1)
        padded = np.maximum(paths[rows, : steps.stop - 1], 0)
        for k, (path, tokens) in enumerate(_maps_of(model, scene, padded, observers[rows].tolist())):
            on_path[rows, k, :, steps, steps] = path
            on_scene[rows, k, :, steps, : scene.n_objects] = tokens[..., :-1]
            on_cue[rows, k, :, steps] = tokens[..., -1]
    there = np.arange(n_steps) <= lengths[:, None]
    for values in (on_scene, on_cue, on_path):
        values.swapaxes(1, 3)[~there] = np.nan
    on_path[..., np.arange(n_steps)[:, None] < np.arange(n_steps)] = np.nan
    dims = ("trial", "layer", "head", "step")
    return xr.Dataset(
        {
            "scene": ((*dims, "object"), on_scene),
            "cue": (dims, on_cue),
            "path": ((*dims, "earlier"), on_path),
        },
        coords=_labels(dataset),
        attrs={
            "units": "share of attention",
            **provenance(model.seed, {"class": type(model).__name__, "target": model.target}),
        },
    )


def attention_shifts(maps: xr.DataArray, paths: Sequence[Scanpath], *, seed: int = 0) -> xr.Dataset:
    """Ask whether attention moves to the place that is fixated next.

    The shift at a step is the positive part of what the map gained since the step before, ``max(map_t - map_t-1, 0)``.
    After the gaze shifts by which [1]_ find what a vision-language model looks at; that they are compared with where
    people look is ours. Each shift is scored at the next fixation, beside controls:

    - "map": the map itself, at the same step. A shift that tells no more than it adds nothing;
    - "earlier map": the map of the step before, which knows all but the last fixation;
    - "other steps": the shifts at the other steps of the path, so what all shifts of a path share;
    - "another trial": the shift at the fixation of another trial, of another image if there is one, at that step.

    Parameters
    ----------
    maps : DataArray, dims (trial, step, object) or (trial, step, y, x), and any others
        Not negative, such as ``path_attention(model, dataset).scene``. Step t is after t chosen fixations. NaN where
        there is nothing. Other dims, such as layer and head, are scored one by one.
    paths : ScanpathDataset or sequence of Scanpath, one for each trial
        People's or a model's: the next fixations. With objects, fixations of the background are left out, as models of
        objects do; for maps over (y, x), which cover the image, all chosen fixations count.
    seed : int, default 0
        Of other trials and resamples.

    Returns
    -------
    Dataset, dims (metric, map, control, bound) and the other dims of ``maps``
        - ``score`` (metric: "NSS", "AUC"; map: "shift" and the controls), averaged over fixations from the second on,
          the first that has a shift. NSS is 0 and AUC .5 at chance; AUC is against all other places;
        - ``excess`` (metric, control): score of the shift minus that of the control, at the same fixations;
        - ``score_interval``, ``excess_interval``, with ``bound``: 95 % percentiles over 1000 resamples of images and
          observers.

    Raises
    ------
    ValueError
        If dims or numbers of trials do not fit, or no path has a second fixation.

    References
    ----------
    .. [1] Qi, Shang, Spiliopoulou & Pappas (2025). Capturing gaze shifts for guidance: cross-modal fusion enhancement
       for VLM hallucination mitigation. arXiv:2510.22067.

    Examples
    --------
    >>> maps = xr.DataArray([[[0.4, 0.3, 0.3], [0.3, 0.6, 0.1], [0.3, 0.2, 0.5]]], dims=("trial", "step", "object"))
    >>> path = Scanpath([0, 1, 2], [0, 0, 0], (3, 1), objects=[0, 1, 2], first_fixation="free")
    >>> attention_shifts(maps, [path]).score.sel(metric="AUC", map=["shift", "earlier map"]).values
    array([1.   , 0.125])
    """
    places = ("object",) if "object" in maps.dims else ("y", "x")
    if not {"trial", "step", *places} <= set(maps.dims):
        raise ValueError(
            f"maps must have dims trial, step and object, or trial, step, y and x, got {maps.dims}"
        )
    if len(paths) != maps.sizes["trial"]:
        raise ValueError(f"paths must be one for each of {maps.sizes['trial']} trials, got {len(paths)}")
    kept = [dim for dim in maps.dims if dim not in ("trial", "step", *places)]
    table = maps.transpose("trial", "step", *kept, *places)
    values = table.values.astype(np.float64)
    n_steps = values.shape[1]
    shape = tuple(table.sizes[dim] for dim in kept)
    values = values.reshape(len(paths), n_steps, int(np.prod(shape)), -1)
    shifts = np.maximum(np.diff(values, axis=1, prepend=np.nan), 0)
    coords = _labels(paths)
    targets = np.full((len(paths), n_steps), -1)
    for i, path in enumerate(paths):
        at = _fixated(path, tuple(maps.sizes[dim] for dim in places))[:n_steps]
        targets[i, : len(at)] = at
    # A place counts where the map has one, and a step where the map has any.
    real = np.take_along_axis(~np.isnan(values[:, :, 0]), np.maximum(targets, 0)[..., None], -1)[..., 0]
    targets[~real | (targets < 0)] = -1
    scored = targets >= 0
    scored[:, 0] = False
    if not scored.any():
        raise ValueError("paths must have a second fixation that the maps cover, got none")
    elsewhere = _targets_of_others(values, targets, coords["image"][1], check_seed(seed))

    scores = np.full((len(paths), n_steps, len(MAPS), 2, values.shape[2]), np.nan)
    for i, t in zip(*np.nonzero(scored), strict=True):
        others = [s for s in np.flatnonzero(scored[i]) if s != t]
        for j in range(values.shape[2]):
            now = shifts[i, t, j]
            scores[i, t, :, :, j] = (
                _score(now, targets[i, t]),
                _score(values[i, t, j], targets[i, t]),
                _score(values[i, t - 1, j], targets[i, t]),
                np.mean(
                    [_score(shifts[i, s, j], targets[i, t]) for s in others] or [(np.nan, np.nan)], axis=0
                ),
                _score(now, elsewhere[i, t]),
            )
    labelled = xr.DataArray(
        scores.reshape(*scores.shape[:4], *shape),
        dims=("trial", "step", "map", "metric", *kept),
        coords={
            **coords,
            "map": list(MAPS),
            "metric": ["NSS", "AUC"],
            **{dim: table[dim] for dim in kept if dim in table.coords},
        },
    )
    controls = labelled.drop_sel(map="shift").rename(map="control")
    result = xr.Dataset()
    for name, rows in (("score", labelled), ("excess", labelled.sel(map="shift", drop=True) - controls)):
        summary = crossed_bootstrap(rows, units=UNITS, pool=("step",), seed=seed)
        result[name] = summary["mean"].transpose("metric", ...)
        result[f"{name}_interval"] = summary.interval.transpose("metric", ..., "bound")
        result.attrs["resampled"] = summary.attrs["resampled"]
    return result.assign_attrs(n_fixations=int(scored.sum()), **provenance(seed, {"maps": str(maps.name)}))


def decoder_profile(maps: xr.Dataset, *, seed: int = 0) -> xr.Dataset:
    """Ask which of the earlier fixations the decoder of a scanpath model remembers: the first ones, or the last.

    Weights are averaged over steps by how many fixations ago a fixation was (its lag), and by its position from the
    start. Beside them stands what the same average is for a decoder that attends to all it may see alike, 1/(t + 1) at
    step t, which is not flat: a step that sees few fixations gives much to each, and what a causal map does to first
    tokens compounds over layers [1]_. What counts is the ``excess`` over it.

    A token of a later layer is a mixture of earlier ones. The rollout [2]_ follows weights through the layers to the
    fixations themselves: the product over layers of (P + 1) / 2, with P the mean map of the heads and half for the
    residual path. It takes no account of what values and feed-forward blocks do. Its uniform reference is the rollout
    of uniform attention.

    Parameters
    ----------
    maps : Dataset
        Of :func:`path_attention`.
    seed : int, default 0
        Of resamples.

    Returns
    -------
    Dataset, dims (order, layer, head, place, bound)
        ``order`` "lag": place 0 is the present fixation, 1 the one before. ``order`` "position": place 0 is the start
        of the path, where nothing is fixated, and n the n-th fixation. Averages are over all steps after at least one
        fixation that have such a place.

        - ``weight`` (order, layer, head, place), ``uniform`` (order, place) and their difference ``excess``;
        - ``rollout``, ``rollout_uniform``, ``rollout_excess`` (order, place);
        - ``weight_interval``, ``excess_interval``, ``rollout_interval``, ``rollout_excess_interval``, with ``bound``:
          95 % percentiles over 1000 resamples of images and observers.

    References
    ----------
    .. [1] Wu, Wang, Jegelka & Jadbabaie (2025). On the emergence of position bias in transformers. ICML.
    .. [2] Abnar & Zuidema (2020). Quantifying attention flow in transformers. ACL.

    Examples
    --------
    >>> path = np.full((1, 1, 1, 3, 3), np.nan)
    >>> path[0, 0, 0][np.tril_indices(3)] = 1, 0.25, 0.75, 0.2, 0.3, 0.5
    >>> maps = xr.Dataset({"path": (("trial", "layer", "head", "step", "earlier"), path)},
    ...                   {"image": ("trial", ["a"]), "observer": ("trial", ["1"])})
    >>> profile = decoder_profile(maps).sel(order="lag")
    >>> profile.weight.values.ravel(), profile.uniform.values.round(3)
    (array([0.625, 0.275, 0.2  ]), array([0.417, 0.417, 0.333]))
    """
    path = maps["path"].transpose("trial", "layer", "head", "step", "earlier")
    weights = path.values.astype(np.float64)
    n_steps = weights.shape[-1]
    seen = np.tril(np.ones((n_steps, n_steps), bool))
    there = seen & ~np.isnan(weights[:, 0, 0])
    there[:, 0] = False  # before the first fixation there is no choice
    if not there.any():
        raise ValueError("maps must hold a path with a fixation, got none")
    flat = seen / seen.sum(1, keepdims=True)
    heads_mean = np.nan_to_num(weights.mean(2))
    rolled, rolled_flat = np.eye(n_steps), np.eye(n_steps)
    for layer in range(weights.shape[1]):
        rolled = (heads_mean[:, layer] + np.eye(n_steps)) / 2 @ rolled
        rolled_flat = (flat + np.eye(n_steps)) / 2 @ rolled_flat

    coords = {"image": maps["image"], "observer": maps["observer"], "order": ["lag", "position"]}

    def profile(values: Floats, *extra: str) -> xr.DataArray:
        """Arrange weights (trial, *extra, step, earlier) by lag and by position."""
        between = (slice(None), *[None] * len(extra))
        known = np.where(there[between], values, np.nan)
        lag = np.arange(n_steps)[:, None] - np.arange(n_steps)
        by_lag = np.where(lag < 0, np.nan, np.take_along_axis(known, np.broadcast_to(lag, known.shape), -1))
        return xr.DataArray(
            np.stack([by_lag, known], 1),
            dims=("trial", "order", *extra, "step", "place"),
            coords=coords,
        )

    result = xr.Dataset()
    for names, weight, reference in (
        (("weight", "uniform", "excess"), profile(weights, "layer", "head"), flat),
        (("rollout", "rollout_uniform", "rollout_excess"), profile(rolled), rolled_flat),
    ):
        uniform = profile(np.broadcast_to(reference, there.shape))
        for name, rows in zip(names, (weight, uniform, weight - uniform), strict=True):
            summary = crossed_bootstrap(rows, units=UNITS, pool=("step",), seed=seed)
            result[name] = summary["mean"]
            if rows is not uniform:
                result[f"{name}_interval"] = summary.interval.transpose(..., "bound")
            result.attrs["resampled"] = summary.attrs["resampled"]
    return result.assign_attrs(units="share of attention", **provenance(seed, {}))


def _maps_of(
    model: ObjectAttentionTransformer, scene: ObjectScene, paths: NDArray[np.int64], observers: Sequence[str]
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return each layer's maps (path, head, step, earlier) and (path, head, step, token) of paths in one scene."""
    maps: list[tuple[Tensor, Tensor]] = []

    def ask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "map": "heads"}

    def keep(module: nn.Module, args: Any, output: tuple[Tensor, tuple[Tensor, Tensor]]) -> None:
        maps.append(output[1])

    handles: list[Any] = []
    for layer in model.network_.core.decoder:
        handles += [
            layer.register_forward_pre_hook(ask, with_kwargs=True),
            layer.register_forward_hook(keep),
        ]
    try:
        model._decode(scene, paths, [observer or None for observer in observers])
    finally:
        for handle in handles:
            handle.remove()
    return [
        (
            on_path.cpu().numpy(),
            on_scene[0].view(model.heads, len(paths), -1, on_scene.shape[-1]).transpose(0, 1).cpu().numpy(),
        )
        for on_path, on_scene in maps
    ]


def _labels(paths: Sequence[Scanpath]) -> dict[str, tuple[str, NDArray[np.str_]]]:
    """Return the image, or where it is not named the scene, and the observer of each trial."""
    image = [str(path.attrs.get("image") or path.attrs.get("scene", "")) for path in paths]
    observer = [str(path.attrs.get("observer", "")) for path in paths]
    return {"image": ("trial", np.array(image)), "observer": ("trial", np.array(observer))}


def _fixated(path: Scanpath, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the places of the chosen fixations: objects, or cells of a map (y, x) in raster order; -1 outside."""
    chosen = slice(len(path) - path.n_saccades, None)
    if len(shape) == 1:
        if path.objects is None:
            raise ValueError("paths must have objects for maps over objects, got none")
        objects = path.objects[chosen]
        objects = objects[objects >= 0]
        return np.where(objects < shape[0], objects, -1)
    width, height = path.image_size
    row, column = path.y[chosen] * shape[0] // height, path.x[chosen] * shape[1] // width
    return np.where(path.outside[chosen], -1, row * shape[1] + column).astype(np.int64)


def _targets_of_others(
    values: Floats, targets: NDArray[np.int64], image: NDArray[np.str_], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw what another trial fixated at the same step, of another image if there are several; -1 if there is none."""
    elsewhere = image[:, None] != image if len(set(image)) > 1 else ~np.eye(len(image), dtype=bool)
    drawn = np.full(targets.shape, -1)
    for i, t in zip(*np.nonzero(targets >= 0), strict=True):
        others = targets[elsewhere[i] & (targets[:, t] >= 0), t]
        others = others[~np.isnan(values[i, t, 0, others])]
        if len(others):
            drawn[i, t] = rng.choice(others)
    return drawn


def _score(values: Floats, place: int) -> tuple[float, float]:
    """Return NSS and AUC of a map (place,) at one place; NaN where there is none."""
    known = ~np.isnan(values)
    if place < 0 or not known[place]:
        return np.nan, np.nan
    flat, at = values[known][None], {"x": [known[:place].sum() + 0.5], "y": [0.5]}
    return nss(flat, at), auc(flat, at, kind="judd")


@styled
def plot_attention_shifts(result: xr.Dataset) -> Figure:
    """Draw how well shifts and their controls tell the next fixation.

    Parameters
    ----------
    result : Dataset
        Of :func:`neuroattn.analyses.attention_shifts`. Lines are intervals; of several layers and heads each is a dot.

    Returns
    -------
    Figure

    Examples
    --------
    >>> result = xr.Dataset(
    ...     {"score": (("metric", "map"), [[1.0], [0.8]]),
    ...      "score_interval": (("metric", "map", "bound"), [[[0.5, 1.5]], [[0.7, 0.9]]])},
    ...     {"metric": ["NSS", "AUC"], "map": ["shift"]})
    >>> [axes.get_xlabel() for axes in plot_attention_shifts(result).axes]
    ['NSS', 'AUC']
    """
    from matplotlib.figure import Figure

    names = [str(name) for name in result["map"].values]
    y = np.arange(len(names))
    figure = Figure(figsize=(WIDTH, 0.8 + 0.3 * len(names)))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, metric, chance in zip(panels, ("NSS", "AUC"), (0.0, 0.5), strict=True):
        table = result.sel(metric=metric)
        score = table["score"].transpose("map", ...).values.reshape(len(names), -1)
        bounds = table["score_interval"].transpose("bound", "map", ...).values.reshape(2, len(names), -1)
        axes.axvline(chance, color=MUTED, lw=0.7)
        for row in y:
            colour = MODEL_COLOURS[0] if names[row] == "shift" else MODEL_COLOURS[1]
            if score.shape[1] == 1:
                axes.hlines(row, *bounds[:, row, 0], color=colour, lw=1.6)
            several = score.shape[1] > 1
            at = np.full(score.shape[1], row)
            axes.plot(score[row], at, MARKERS[0], color=colour, ms=5, mew=0, alpha=0.5 if several else 1)
        label_rows(axes, names)
        axes.set_xlabel(metric)
    return figure


@styled
def plot_decoder_profile(profile: xr.Dataset) -> Figure:
    """Draw what each head remembers of a path beyond uniform attention, by lag and by position.

    Parameters
    ----------
    profile : Dataset
        Of :func:`neuroattn.analyses.decoder_profile`. Thin lines are heads, in the colour of their layer; the thick one
        is the rollout, with its interval.

    Returns
    -------
    Figure

    Examples
    --------
    >>> place = ("order", "place")
    >>> profile = xr.Dataset(
    ...     {"excess": (("order", "layer", "head", "place"), [[[[0.2, -0.2]]], [[[-0.2, 0.2]]]]),
    ...      "rollout_excess": (place, [[0.1, -0.1], [-0.1, 0.1]]),
    ...      "rollout_excess_interval": ((*place, "bound"), [[[0.0, 0.2], [-0.2, 0.0]], [[-0.2, 0.0], [0.0, 0.2]]])},
    ...     {"order": ["lag", "position"]})
    >>> [axes.get_xlabel() for axes in plot_decoder_profile(profile).axes]
    ['Fixations ago', 'Fixation (0: the start)']
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 2.6))
    panels = figure.subplots(1, 2, sharey=True)
    labels = {"lag": "Fixations ago", "position": "Fixation (0: the start)"}
    place = np.arange(profile.sizes["place"])
    for axes, order in zip(panels, labels, strict=True):
        table = profile.sel(order=order)
        axes.axhline(0, color=MUTED, lw=0.7)
        for layer, heads in enumerate(table["excess"].transpose("layer", "head", "place").values):
            lines = axes.plot(
                place, heads.T, "-", color=MODEL_COLOURS[layer % len(MODEL_COLOURS)], lw=1, alpha=0.8
            )
            lines[0].set_label(f"layer {layer + 1}")
        low, high = table["rollout_excess_interval"].transpose("bound", "place").values
        axes.fill_between(place, low, high, color=INK, alpha=0.15, lw=0)
        axes.plot(place, table["rollout_excess"].values, "-", color=INK, lw=1.8, label="rollout")
        axes.grid(axis="y")
        axes.set_xlabel(labels[order])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(axis="y", labelcolor=MUTED)
    panels[0].set_ylabel("Weight beyond uniform")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside upper left",
        ncols=4,
        handletextpad=0.4,
        columnspacing=1.2,
        borderaxespad=0,
    )
    return figure
