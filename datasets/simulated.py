"""Simulated subjects with planted answers: who must win where is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn._checks import check_option, check_range, check_seed, check_shape
from neuroattn.datasets._scenes import CATEGORIES, GRID, IMAGE_SIDE, OBJECT_SIDE, draw_scenes, shuffle_cells
from neuroattn.datasets.recording import Recording
from neuroattn.datasets.regions import region_class
from neuroattn.datasets.splits import N_LAST_SESSIONS
from neuroattn.datasets.surfaces import fsaverage5_mesh
from neuroattn.datasets.trials import add_trials, divide_rows, standardize
from neuroattn.metrics import noise_ceiling_from_ncsnr
from neuroattn.results import label_rois

N_DECOYS = 3
DECOY_MATCH = 0.6  # of a cued object's
N_INSTANCE = 8
FIELD_DEGREES = 8.4  # width of the images of the Natural Scenes Dataset

# Synthetic tokens; lengths are in standard deviations of an instance feature.
_GRID = 14
_N_CHANNELS = 64
_MATCH_LENGTH = 4.0
_BACKGROUND = 0.5


@dataclass(frozen=True)
class _Region:
    kind: str
    left: tuple[int, int, int]  # MNI, mm
    right: tuple[int, int, int] | None  # None where the region is empty
    category: str = ""
    size: float = np.nan  # standard deviation of receptive fields, degrees
    vertical: str = "both"  # half of the visual field: "upper", "lower" or "both"


# Category areas stand at published group coordinates: FFA Kanwisher et al. (1997), EBA Downing et al. (2001),
# PPA Epstein & Kanwisher (1998), right OFA Rossion et al. (2003), right OPA Dilks et al. (2013), VWFA Cohen et
# al. (2000); all but OPA were given in Talairach space and are converted with the matrix of Lancaster et al.
# (2007). OFA and OPA on the left mirror the right. RSC, the anterior temporal face area and the maps around the
# calcarine sulcus are placed by anatomy.
_REGIONS = {
    "V1v": _Region("retinotopic", (-9, -80, -1), (9, -80, -1), size=0.6, vertical="upper"),
    "V1d": _Region("retinotopic", (-9, -88, 8), (9, -88, 8), size=0.6, vertical="lower"),
    "V2v": _Region("retinotopic", (-13, -77, -8), (13, -77, -8), size=0.75, vertical="upper"),
    "V2d": _Region("retinotopic", (-14, -95, 17), (14, -95, 17), size=0.75, vertical="lower"),
    "V3v": _Region("retinotopic", (-21, -75, -10), (21, -75, -10), size=0.9, vertical="upper"),
    "V3d": _Region("retinotopic", (-25, -90, 20), (25, -90, 20), size=0.9, vertical="lower"),
    "hV4": _Region("retinotopic", (-29, -77, -13), (29, -77, -13), size=1.2),
    "EBA": _Region("routed", (-54, -74, 13), (56, -74, 3), "bodies"),
    "OFA": _Region("routed", (-42, -84, -5), (42, -84, -5), "faces"),
    "FFA-1": _Region("routed", (-37, -67, -9), (44, -58, -11), "faces"),
    "aTL-faces": _Region("noise", (-34, -6, -34), (34, -6, -34)),
    "OPA": _Region("routed", (-34, -77, 21), (34, -77, 21), "places"),
    "PPA": _Region("routed", (-29, -41, -7), (23, -40, -7), "places"),
    "RSC": _Region("pooled-linear", (-16, -55, 10), (16, -55, 10)),
    "VWFA-1": _Region("routed", (-45, -57, -12), None, "words"),
}


class _Stimuli(NamedTuple):
    """What the planted responses are computed from."""

    tokens: NDArray[np.float32]  # (stimulus, channel, y, x)
    images: NDArray[np.uint8] | None  # (stimulus, y, x, 3)
    cued: NDArray[np.bool_]  # (stimulus, category, y, x)
    decoy: NDArray[np.bool_]  # (stimulus, category, y, x)


def make_nsd_like(
    n_train: int = 600,
    n_test: int = 200,
    *,
    seed: int | np.random.Generator,
    features: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None = None,
    rois: Sequence[str] | None = None,
    vertices_per_roi: int = 40,
    n_repeats: int = 3,
    ncsnr: tuple[float, float] = (0.6, 1.2),
) -> Recording:
    """Simulate one subject of the Natural Scenes Dataset, with every answer known.

    Each image holds four cued objects, one a category (faces, bodies, places, words), and three decoys for
    each, whose match to the category is 0.6 of the cued one's (in composed images: their contrast). Places are
    random, so that only the tokens tell which object is cued. Four kinds of region read these images:

    routed
        Units follow the instance features of the cued object of the region's category. Pooling over the image
        mixes them with those of all other objects.
    pooled-linear
        Units read the mean and the standard deviation of every channel over the image.
    retinotopic
        Units read channels through a Gaussian receptive field in the contralateral half of the visual field.
    noise
        Units do not respond.

    Parameters
    ----------
    n_train, n_test : int, default 600 and 200
        Number of images to fit and to test on; the test images come last.
    seed : int or Generator
    features : callable, optional
        Network that maps images (stimulus, y, x, 3), uint8, to tokens (stimulus, channel, y, x). Given it,
        images are composed and responses planted on their tokens; the recording holds the images. Without it
        the recording holds synthetic tokens (stimulus, 64, 14, 14) and no images.
    rois : sequence of str, optional
        Regions to simulate; default all of "V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4" (retinotopic),
        "EBA", "OFA", "FFA-1", "OPA", "PPA", "VWFA-1" (routed), "RSC" (pooled-linear), "aTL-faces" (noise).
    vertices_per_roi : int, default 40
        Size of each region in each hemisphere. As many vertices next to the regions belong to none and carry
        noise.
    n_repeats : int, default 3
        Presentations of each image, averaged in ``responses``.
    ncsnr : tuple of two floats, default (0.6, 1.2)
        Range of the noise-ceiling signal-to-noise ratio: standard deviation of the signal over that of one
        trial's noise. Drawn uniformly for each unit that responds; 0 for those that do not.

    Returns
    -------
    Recording
        On the fsaverage5 surface, left then right hemisphere; single trials have unit variance, as after
        z-scoring. Regions of different categories may overlap; units in two regions add both signals.
        VWFA-1 is empty on the right. ``noise_ceiling`` is ``s**2 / (s**2 + 1 / n_repeats)`` for ncsnr s [1]_.
        ``truth`` holds

        - ``kind`` (roi), ``cue`` (roi): the category that drives a routed region, "" for others;
        - ``ncsnr`` (unit), ``signal`` (stimulus, unit): the noiseless response;
        - ``object_mask``, ``decoy_mask`` (stimulus, category, y, x): tokens of the cued object and of its decoys;
        - ``instance_axis`` (category, instance, channel): instance features are the mean of an object's
          standardised tokens along these axes, the principal ones of the category, of unit variance;
          ``instance_weight`` (roi, unit, instance): how routed units read them;
        - ``channel_weight`` (roi, unit, channel): how retinotopic units read standardised tokens, and pooled-linear
          units their mean; ``deviation_weight``: how the latter read their standard deviation;
        - ``center_x``, ``center_y``, ``size`` (unit): receptive field in tokens, where the first token's centre
          is 0 and y runs downwards; ``center_x_degrees``, ``center_y_degrees``, ``size_degrees``: in degrees,
          relative to the centre of an image 8.4 degrees wide and y upwards. NaN where there is none.

    Raises
    ------
    ValueError
        If a region is unknown or a number out of range.

    References
    ----------
    .. [1] Allen et al. (2022). A massive 7T fMRI dataset to bridge cognitive neuroscience and artificial
       intelligence. Nature Neuroscience 25, 116-126.

    Examples
    --------
    >>> recording = make_nsd_like(20, 10, seed=0, rois=["V1v", "FFA-1"], vertices_per_roi=5)
    >>> recording.features.shape, recording.n_units, recording.simulated
    ((30, 64, 14, 14), 30, True)
    >>> recording.truth.kind.sel(roi="FFA-1").item()
    'routed'
    """
    names = list(_REGIONS) if rois is None else [check_option("rois", name, _REGIONS) for name in rois]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"rois must name each region once and at least one, got {names}")
    for name, value in {"n_train": n_train, "n_test": n_test, "n_repeats": n_repeats}.items():
        check_range(name, value, 1)
    check_range("vertices_per_roi", vertices_per_roi, 1, 200)
    check_range("ncsnr[0]", ncsnr[0], 0)
    check_range("ncsnr[1]", ncsnr[1], ncsnr[0])
    stimulus_rng, unit_rng, noise_rng = check_seed(seed).spawn(3)
    n_stimuli = n_train + n_test

    rois_array = _place_regions(names, vertices_per_roi)
    if features is None:
        stimuli = _token_stimuli(n_stimuli, stimulus_rng)
    else:
        stimuli = _image_stimuli(n_stimuli, features, stimulus_rng)
    stimulus_ids = np.array([f"simulated-{i:05d}" for i in range(n_stimuli)])
    truth = _plant(rois_array, stimuli, ncsnr, unit_rng).assign_coords(stimulus=stimulus_ids)
    trials = _simulate_trials(truth["signal"].values, truth["ncsnr"].values, n_repeats, noise_rng)
    s2 = truth["ncsnr"].values ** 2
    return Recording(
        "simulated",
        trials.mean(0),
        rois_array,
        stimulus_ids=stimulus_ids,
        images=stimuli.images,
        features=stimuli.tokens if stimuli.images is None else None,
        noise_ceiling=s2 / (s2 + 1 / n_repeats),
        test=np.arange(n_stimuli) >= n_train,
        truth=truth.assign_attrs(n_repeats=n_repeats),
        simulated=True,
        surface="fsaverage5",
    )


def simulate_sessions(
    recording: Recording, n_sessions: int = 8, *, seed: int | np.random.Generator
) -> Recording:
    """Present the images of a simulated subject again, one to three times over sessions of equal length.

    As in the Natural Scenes Dataset, training images are seen in all sessions but the last three and some
    of them again in those; test images are seen in the last three only. Betas of single trials are in percent
    signal change, with a mean and a scale that differ between units and sessions.

    Parameters
    ----------
    recording : Recording
        From :func:`make_nsd_like`; its test images come last.
    n_sessions : int, default 8
        At least 4.
    seed : int or Generator

    Returns
    -------
    Recording
        ``responses`` are standardized within sessions and averaged within the partition: training images over
        all sessions but the last three, test images over these. ``noise_ceiling`` follows from the actual
        repeats. ``truth`` also holds ``trial_stimulus`` (trial), ``trial_session`` (trial, from 1) and
        ``trial_beta`` (trial, unit); :func:`write_nsd` writes them.

    Raises
    ------
    ValueError
        If the images cannot be shown one to three times in that many sessions.

    Examples
    --------
    >>> recording = simulate_sessions(make_nsd_like(20, 10, seed=0, rois=["V1v"], vertices_per_roi=5), seed=0)
    >>> dict(recording.truth.trial_beta.sizes)
    {'trial': 56, 'unit': 20}
    """
    truth, test = recording.truth, recording.test
    if truth is None or test is None or "signal" not in truth or np.any(test[:-1] & ~test[1:]):
        raise ValueError("recording must be simulated by make_nsd_like, its test images last")
    order_rng, scale_rng, noise_rng = check_seed(seed).spawn(3)
    stimulus, session = _order_trials(test, n_sessions, order_rng)

    ncsnr = truth["ncsnr"].values
    noise = noise_rng.standard_normal((len(stimulus), recording.n_units), dtype=np.float32)
    trials = truth["signal"].values[stimulus] + noise / np.sqrt(1 + ncsnr**2).astype(np.float32)
    scale = scale_rng.uniform(1, 3, recording.n_units) * scale_rng.uniform(0.8, 1.25, (n_sessions, 1))
    offset = scale_rng.normal(0, 1, (n_sessions, recording.n_units))
    betas = (offset[session - 1] + scale[session - 1] * trials).astype(np.float32)

    late = session > n_sessions - N_LAST_SESSIONS
    row = np.where(late & ~test[stimulus], -1, stimulus)
    counts = np.bincount(row[row >= 0], minlength=len(test))
    responses = np.zeros((len(test), recording.n_units), np.float32)
    for number in range(1, n_sessions + 1):
        add_trials(responses, standardize(betas[session == number])[0], row[session == number])
    divide_rows(responses, counts)
    return replace(
        recording,
        responses=responses,
        noise_ceiling=noise_ceiling_from_ncsnr(ncsnr.astype(np.float32), counts[test]),
        truth=truth.assign(
            trial_stimulus=("trial", stimulus),
            trial_session=("trial", session),
            trial_beta=(("trial", "unit"), betas),
        ),
    )


def _order_trials(
    test: NDArray[np.bool_], n_sessions: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the stimulus and the session of each trial; every stimulus is shown one to three times."""
    train_rows, test_rows = np.flatnonzero(~test), np.flatnonzero(test)
    n_early = n_sessions - N_LAST_SESSIONS
    if n_early < 1:
        raise ValueError(f"n_sessions must be at least {N_LAST_SESSIONS + 1}, got {n_sessions}")
    length = max(
        -(-len(train_rows) // n_early),  # room for one presentation of each
        -(-len(test_rows) // N_LAST_SESSIONS),
        2 * len(test) // n_sessions,
    )
    again = rng.permutation(np.repeat(train_rows, 2))
    n_again = n_early * length - len(train_rows)
    late_again = rng.permutation(np.concatenate([again[n_again:], np.repeat(test_rows, 2)]))
    n_late_again = N_LAST_SESSIONS * length - len(test_rows)
    if n_again > len(again) or n_late_again > len(late_again):
        raise ValueError(
            f"{len(train_rows)} training and {len(test_rows)} test images cannot be shown one to three times in "
            f"{n_sessions} sessions, {N_LAST_SESSIONS} of them for the test images; change n_sessions"
        )
    early = rng.permutation(np.concatenate([train_rows, again[:n_again]]))
    late = rng.permutation(np.concatenate([test_rows, late_again[:n_late_again]]))
    return np.concatenate([early, late]), np.repeat(np.arange(1, n_sessions + 1), length)


def _place_regions(names: list[str], n_vertices: int) -> xr.DataArray:
    """Give each region the vertices nearest to its coordinate along the surface, and add a rim of others."""
    used, side_of, masks = [], [], []
    for side in ("left", "right"):
        seeds = {name: getattr(_REGIONS[name], side) for name in names}
        seeds = {name: seed for name, seed in seeds.items() if seed is not None}
        if not seeds:
            continue
        distance = _distances(side, np.array(list(seeds.values())))
        members = {}
        for i, name in enumerate(seeds):
            rivals = [j for j, other in enumerate(seeds) if not _may_overlap(name, other)]
            own = np.flatnonzero(distance[i] <= distance[rivals].min(0))
            members[name] = own[np.argsort(distance[i, own], kind="stable")[:n_vertices]]
        inside = np.unique(np.concatenate(list(members.values())))
        around = np.argsort(distance.min(0), kind="stable")
        rim = around[~np.isin(around, inside)][:n_vertices]
        vertices = np.sort(np.concatenate([inside, rim]))
        used.append(vertices)
        side_of.append(np.full(len(vertices), side))
        masks.append([np.isin(vertices, members.get(name, [])) for name in names])
    return label_rois(
        dict(zip(names, np.concatenate(masks, axis=1), strict=True)),
        hemisphere=np.concatenate(side_of),
        unit_kind="vertex",
        vertex_index=np.concatenate(used),
        atlas=[region_class(name) for name in names],
    )


def _may_overlap(name: str, other: str) -> bool:
    """Return whether two regions may share vertices: routed ones of different categories."""
    a, b = _REGIONS[name], _REGIONS[other]
    return a.kind == b.kind == "routed" and a.category != b.category


def _distances(side: str, coordinates: NDArray[np.int_]) -> NDArray[np.float64]:
    """Return distances in mm along fsaverage5 from coordinates (seed, xyz) to vertices, (seed, vertex)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    white, pial = (fsaverage5_mesh(side, kind) for kind in ("white", "pial"))
    middle = (white.coordinates + pial.coordinates) / 2
    edges = white.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    edges = np.unique(np.sort(edges, axis=1), axis=0)
    length = np.linalg.norm(middle[edges[:, 0]] - middle[edges[:, 1]], axis=1)
    graph = coo_array((length, tuple(edges.T)), shape=(len(middle), len(middle))).tocsr()
    nearest = np.linalg.norm(middle - coordinates[:, None], axis=2).argmin(1)
    return np.asarray(dijkstra(graph, directed=False, indices=nearest))


def _token_stimuli(n: int, rng: np.random.Generator) -> _Stimuli:
    """Draw tokens: a background, and 2x2 objects that add a category key and their instance features."""
    n_categories = len(CATEGORIES)
    basis = np.linalg.qr(rng.normal(size=(_N_CHANNELS, _N_CHANNELS)))[0].T
    keys, axes = np.split(basis[: n_categories + N_INSTANCE], [n_categories])
    match = np.array([1.0] + [DECOY_MATCH] * N_DECOYS)
    cells = shuffle_cells(n, len(match), rng)
    edges = np.arange(GRID + 1) * _GRID // GRID  # cells are three or four tokens wide
    cell = np.stack(divmod(cells, GRID))
    y, x = rng.integers(edges[cell], edges[cell + 1] - 1)
    objects = rng.normal(size=(*cells.shape, N_INSTANCE)) @ axes
    objects += _MATCH_LENGTH * match[:, None] * keys[:, None]
    tokens = rng.normal(0, _BACKGROUND, (n, _GRID, _GRID, _N_CHANNELS))
    image = np.arange(n)[:, None, None]
    masks = np.zeros((*cells.shape, _GRID, _GRID), bool)
    for dy, dx in np.ndindex(2, 2):
        tokens[image, y + dy, x + dx] += objects
        masks[(*np.indices(cells.shape), y + dy, x + dx)] = True
    channels_first = np.ascontiguousarray(tokens.transpose(0, 3, 1, 2), dtype=np.float32)
    return _Stimuli(channels_first, None, masks[:, :, 0], np.any(masks[:, :, 1:], axis=2))


def _image_stimuli(
    n: int, features: Callable[[NDArray[np.uint8]], NDArray[np.float32]], rng: np.random.Generator
) -> _Stimuli:
    """Compose images and take their tokens from a network."""
    contrasts = (1.0,) + (DECOY_MATCH,) * N_DECOYS
    images, corners = draw_scenes(n, contrasts, rng)
    tokens = np.asarray(features(images), dtype=np.float32)
    height, width = check_shape("features(images)", tokens, n, "channel", "y", "x")[2:]
    inside = []  # along y, along x: is the centre of the token in the object's square?
    for axis, length in enumerate((height, width)):
        centre = (np.arange(length) + 0.5) * IMAGE_SIDE / length
        offset = centre - corners[..., axis, None]
        inside.append((offset >= 0) & (offset < OBJECT_SIDE))
    masks = inside[0][..., :, None] & inside[1][..., None, :]
    return _Stimuli(tokens, images, masks[:, :, 0], np.any(masks[:, :, 1:], axis=2))


def _plant(
    rois: xr.DataArray, stimuli: _Stimuli, ncsnr_range: tuple[float, float], rng: np.random.Generator
) -> xr.Dataset:
    """Draw the parameters of every unit and compute its noiseless response."""
    tokens = stimuli.tokens
    tokens = (tokens - tokens.mean((0, 2, 3), keepdims=True)) / tokens.std((0, 2, 3), keepdims=True).clip(
        1e-6
    )
    n_stimuli, n_channels, height, width = tokens.shape
    names, n_units = [str(name) for name in rois.roi.values], rois.sizes["unit"]
    regions = [_REGIONS[name] for name in names]
    instances, axes = _instance_features(tokens, stimuli.cued)
    means, deviations = tokens.mean((2, 3)), tokens.std((2, 3))
    degrees_per_token = FIELD_DEGREES / width
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2

    total = np.zeros((n_stimuli, n_units))
    instance_weight = np.zeros((len(names), n_units, instances.shape[2]))
    channel_weight, deviation_weight = np.zeros((2, len(names), n_units, n_channels))
    center_x, center_y, size = np.full((3, n_units), np.nan)
    for i, region in enumerate(regions):
        units = np.flatnonzero(rois.values[i])
        if region.kind == "routed":
            read = instances[:, CATEGORIES.index(region.category)]
            weight = instance_weight[i, units] = rng.normal(size=(len(units), instances.shape[2]))
            response = read @ weight.T
        elif region.kind == "pooled-linear":
            scales = np.concatenate([means.std(0), deviations.std(0)]).clip(1e-6)
            weight = rng.normal(size=(len(units), 2 * n_channels)) / scales
            channel_weight[i, units], deviation_weight[i, units] = np.split(weight, 2, axis=1)
            response = np.concatenate([means, deviations], axis=1) @ weight.T
        elif region.kind == "retinotopic":
            weight = channel_weight[i, units] = rng.normal(size=(len(units), n_channels))
            to_right = np.where(rois.hemisphere.values[units] == "left", 1, -1)  # the field is contralateral
            down = {"upper": -1, "lower": 1}.get(region.vertical) or rng.choice([-1, 1], len(units))
            center_x[units] = middle_x + to_right * rng.uniform(0.5, middle_x - 0.5, len(units))
            center_y[units] = middle_y + down * rng.uniform(0.5, middle_y - 0.5, len(units))
            size[units] = region.size / degrees_per_token
            along_y = np.arange(height) - center_y[units, None]
            along_x = np.arange(width) - center_x[units, None]
            field = np.exp(
                -(along_y[:, :, None] ** 2 + along_x[:, None] ** 2) / (2 * size[units, None, None] ** 2)
            )
            field /= field.sum((1, 2), keepdims=True)
            response = np.einsum("vc,ncyx,vyx->nv", weight, tokens, field, optimize=True)
        else:
            continue
        scale = 1 / response.std(0)
        instance_weight[i, units] *= scale[:, None]
        channel_weight[i, units] *= scale[:, None]
        deviation_weight[i, units] *= scale[:, None]
        total[:, units] += (response - response.mean(0)) * scale

    spread = total.std(0)
    responds = spread > 0
    ncsnr = np.where(responds, rng.uniform(*ncsnr_range, n_units), 0.0)
    # A trial's variance, signal and noise together, is 1.
    scale = np.divide(ncsnr / np.sqrt(1 + ncsnr**2), spread, where=responds, out=np.zeros(n_units))
    return xr.Dataset(
        {
            "kind": ("roi", [region.kind for region in regions]),
            "cue": ("roi", [region.category for region in regions]),
            "ncsnr": ("unit", ncsnr),
            "signal": (("stimulus", "unit"), (total * scale).astype(np.float32)),
            "object_mask": (("stimulus", "category", "y", "x"), stimuli.cued),
            "decoy_mask": (("stimulus", "category", "y", "x"), stimuli.decoy),
            "instance_axis": (("category", "instance", "channel"), axes),
            "instance_weight": (("roi", "unit", "instance"), instance_weight * scale[:, None]),
            "channel_weight": (("roi", "unit", "channel"), channel_weight * scale[:, None]),
            "deviation_weight": (("roi", "unit", "channel"), deviation_weight * scale[:, None]),
            "center_x": ("unit", center_x),
            "center_y": ("unit", center_y),
            "size": ("unit", size),
            "center_x_degrees": ("unit", (center_x - middle_x) * degrees_per_token),
            "center_y_degrees": ("unit", (middle_y - center_y) * degrees_per_token),
            "size_degrees": ("unit", size * degrees_per_token),
        },
        coords={"roi": names, "category": list(CATEGORIES)},
    )


def _instance_features(
    tokens: NDArray[np.float32], cued: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return whitened principal components of the cued objects of each category, and their axes.

    Returns
    -------
    features : shape (stimulus, category, instance)
    axes : shape (category, instance, channel)
    """
    n_instance = min(N_INSTANCE, tokens.shape[1], len(tokens) - 1)
    features, axes = [], []
    for category in range(cued.shape[1]):
        mask = cued[:, category].astype(np.float64)
        objects = np.einsum("ncyx,nyx->nc", tokens, mask, optimize=True) / mask.sum((1, 2))[:, None]
        objects -= objects.mean(0)
        _, spread, components = np.linalg.svd(objects, full_matrices=False)
        axis = components[:n_instance] / spread[:n_instance, None] * np.sqrt(len(objects))
        features.append(objects @ axis.T)
        axes.append(axis)
    return np.stack(features, axis=1), np.stack(axes)


def _simulate_trials(
    signal: NDArray[np.float32], ncsnr: NDArray[np.float64], n_repeats: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Add noise to the signal so that a trial has unit variance, shape (repeat, stimulus, unit)."""
    noise = rng.standard_normal((n_repeats, *signal.shape), dtype=np.float32)
    noise /= np.sqrt(1 + ncsnr**2)
    return signal + noise
