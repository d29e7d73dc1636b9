"""Scanpath metrics against numbers recorded from the published implementations.

The files under ``scanpath`` hold numbers only, recorded by running HKUST-NISL/oat_eccv24@0c48c3e (sequences,
behaviour), chenxy99/Scanpaths (ScanMatch, SED, TDE, STDE) and the search efficiency code of Scanpath_Prediction on
real fixations. MultiMatch is compared with the package multimatch-gaze.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from multimatch_gaze import docomparison
from scipy.io import loadmat

from neuroattn.metrics import (
    Simplification,
    auc,
    behaviour_delta,
    behaviour_vector,
    crossed_bootstrap,
    edit_distance,
    found_curve,
    grid_edit_distance,
    map_consistency,
    multimatch_pairs,
    probability_mismatch,
    scanmatch,
    sequence_score,
    stde,
    tde,
)
from neuroattn.results import Scanpath

VECTORS = Path(__file__).parent / "scanpath"
SEQUENCES, BEHAVIOUR, EFFICIENCY = (
    json.loads((VECTORS / f"metrics_{name}.json").read_text())
    for name in ("sequence", "behaviour", "search_efficiency")
)
PATHS = np.load(VECTORS / "metrics_scanmatch_sed_stde.npz")
SETS = sorted({name.split("/")[0] for name in PATHS.files if "/" in name})
SETTINGS = {
    "cristino_12x8_tb100": {},
    "cristino_12x8_notime": {"temporal_bin": None},
    "chen_16x12_tb50": {"grid": (16, 12), "temporal_bin": 0.05},
    "chen_16x12_notime": {"grid": (16, 12), "temporal_bin": None},
}


def columns(path):
    """Name the columns of fixations (fixation, x y [ms])."""
    names = {"x": path[:, 0], "y": path[:, 1]}
    return names | ({"duration": path[:, 2] / 1000} if path.shape[1] > 2 else {})


def test_sequence_score_and_edit_distance():
    for vector in SEQUENCES:
        a, b = vector["a"], vector["b"]
        assert sequence_score(a, b) == pytest.approx(vector["sequence_score"], abs=1e-7)
        assert sequence_score(a, b, gap=-0.5) == pytest.approx(vector["sequence_score_gap_m0p5"], abs=1e-7)
        assert edit_distance(a, b) == vector["levenshtein"]


def test_multimatch_on_a_grid():
    """Grids make ties; the recorded implementation resolves them as ours does, multimatch-gaze does not always."""
    vectors = [vector for vector in SEQUENCES if vector["grid_multimatch_14x6"] is not None]
    a, b = (
        [{"x": np.array(vector[side]) % 14, "y": np.array(vector[side]) // 14} for vector in vectors]
        for side in "ab"
    )
    expected = [vector["grid_multimatch_14x6"] for vector in vectors]
    ours = multimatch_pairs(a, b, image_size=(14, 6)).sel(
        dimension=["shape", "direction", "length", "position"]
    )
    np.testing.assert_allclose(ours, expected, atol=1e-9)
    assert np.isfinite(ours).all("dimension").sum() >= 20


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", SETS)
def test_scanmatch(name, setting):
    a, b = columns(PATHS[f"{name}/a"]), columns(PATHS[f"{name}/b"])
    score = scanmatch(a, b, image_size=tuple(PATHS[f"{name}/res"]), **SETTINGS[setting])
    assert score == pytest.approx(PATHS[f"{name}/{setting}/score"], abs=1e-12)


@pytest.mark.parametrize("name", SETS)
def test_scanmatch_with_costly_gaps(name):
    """The published table begins with one gap too many, which shifts the score by that gap."""
    a, b = columns(PATHS[f"{name}/a"]), columns(PATHS[f"{name}/b"])
    score = scanmatch(a, b, gap=-1.0, image_size=tuple(PATHS[f"{name}/res"]))
    longer = max(len(PATHS[f"{name}/gap_m1/seq_{side}"]) for side in "ab")
    assert score - 1 / (3.5 * longer) == pytest.approx(PATHS[f"{name}/gap_m1/score"], abs=1e-12)


@pytest.mark.parametrize("name", SETS)
def test_grid_edit_distance_and_time_delay(name):
    a, b = columns(PATHS[f"{name}/ab320_a"]), columns(PATHS[f"{name}/ab320_b"])
    assert grid_edit_distance(a, b, image_size=(320, 240)) == PATHS[f"{name}/sed_n5"]
    assert tde(a, b, window=3) == pytest.approx(PATHS[f"{name}/tde_k3"], abs=1e-9)
    assert stde(a, b, image_size=(320, 240)) == pytest.approx(PATHS[f"{name}/stde"], abs=1e-12)


def test_behaviour_vector():
    examples = BEHAVIOUR["examples"]
    vector = behaviour_vector(
        [{"objects": example["scanpath"]} for example in examples],
        targets=[example["target"] for example in examples],
    )
    expected = [[example[name] for name in vector.component.values] for example in examples]
    np.testing.assert_allclose(vector, expected, atol=1e-7)


def test_behaviour_delta():
    summary = BEHAVIOUR["amazon_summary"]
    label = partial(xr.DataArray, dims="component")
    everyone = label(summary["all_600"])
    for observer, expected in summary["delta_observer_vs_all"].items():
        delta = behaviour_delta(label(summary[f"observer_{observer}"]), everyone).delta
        assert delta == pytest.approx(expected, abs=1e-7)
    random = behaviour_delta(label(summary["random_baseline"]), everyone).delta
    assert random == pytest.approx(summary["delta_random_baseline"], abs=1e-7)


def test_found_curve():
    """Of three tasks with 84, 90 and 6 trials, whose curves were recorded but not which trial belongs to which."""
    steps = np.array(EFFICIENCY["num_step_to_target"], dtype=float)
    steps[steps == 1000] = np.nan
    curve = found_curve(steps - 1, max_saccades=15)
    tasks = EFFICIENCY["search_cdf_by_task"]
    n_trials = {"target_0": 84, "target_1": 90, "target_4": 6}
    expected = sum(n_trials[task] * np.array(tasks[task]) for task in tasks) / sum(n_trials.values())
    np.testing.assert_allclose(curve, expected, atol=1e-12)


def test_found_curve_averages_tasks_and_its_mismatch():
    tasks = EFFICIENCY["search_cdf_by_task"]
    # Trials that make the recorded curves: as many steps as the curve rises by, in trials.
    n_saccades, groups = [], []
    for task, n in {"target_0": 84, "target_1": 90, "target_4": 6}.items():
        found = np.rint(np.diff(tasks[task], prepend=0) * n).astype(int)
        n_saccades += [*np.repeat(np.arange(16.0), found), *[np.nan] * (n - found.sum())]
        groups += [task] * n
    curve = found_curve(n_saccades, max_saccades=15, groups=groups)
    np.testing.assert_allclose(curve, EFFICIENCY["search_cdf_mean_over_tasks"], atol=1e-12)
    assert curve.sum() == pytest.approx(EFFICIENCY["cdf_auc"], abs=1e-12)
    ramp = curve.copy(data=np.linspace(0, 1, 16))
    assert probability_mismatch(curve, ramp) == pytest.approx(
        EFFICIENCY["prob_mismatch_vs_uniform_ramp"], abs=1e-12
    )


def package(a, b, size, simplify=None):
    """MultiMatch of multimatch-gaze; NaN where it fails."""
    records = [
        np.rec.fromarrays([side["x"], side["y"], side["duration"]], names="start_x,start_y,duration")
        for side in (a, b)
    ]
    options = {}
    if simplify is not None:
        options = {
            "grouping": True,
            "TDir": simplify.direction,
            "TDur": simplify.duration,
            "TAmp": simplify.amplitude,
        }
    try:
        return np.ravel(docomparison(*records, size, **options)).astype(float)
    except IndexError:
        return np.full(5, np.nan)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.filterwarnings("ignore:invalid value encountered in scalar divide:RuntimeWarning")
def test_multimatch_equals_the_package(grouped):
    rng = np.random.default_rng(5)

    def path():
        n = rng.integers(3, 14)
        return {
            "x": rng.uniform(0, 1000, n),
            "y": rng.uniform(0, 700, n),
            "duration": rng.uniform(0.05, 0.5, n),
        }

    a, b = [path() for _ in range(60)], [path() for _ in range(60)]
    simplify = None
    if grouped:
        simplify = Simplification(direction=60, amplitude=250, duration=0.3, published_end=True)
    ours = multimatch_pairs(a, b, image_size=(1000, 700), simplify=simplify)
    theirs = np.array([package(one, other, (1000, 700), simplify) for one, other in zip(a, b, strict=True)])
    given = np.isfinite(theirs).all(1)
    assert given.sum() >= 50
    np.testing.assert_allclose(ours.values[given], theirs[given], atol=1e-9)
    assert ours.notnull().all()  # also where the package fails


@pytest.mark.shared_data
@pytest.mark.filterwarnings("ignore:invalid value encountered in scalar divide:RuntimeWarning")
def test_multimatch_of_people_watching_a_film(shared):
    """The 55 pairs that multimatch-gaze is published with; with grouping it fails on five of them."""
    folder = shared / "data" / "eye" / "multimatch_fixvectors"

    def path(segment, subject):
        x, y, duration = np.loadtxt(folder / f"segment_{segment}_sub-{subject}.tsv", skiprows=1, unpack=True)
        return {"x": x, "y": y, "duration": duration}

    size = (1280, 720)
    a, b = ([path(segment, subject) for segment in range(55)] for subject in ("01", "19"))
    theirs = [package(one, other, size) for one, other in zip(a, b, strict=True)]
    np.testing.assert_allclose(multimatch_pairs(a, b, image_size=size), theirs, atol=1e-9)
    simplify = Simplification(direction=45, amplitude=147, duration=0.3, published_end=True)
    grouped = multimatch_pairs(a, b, image_size=size, simplify=simplify)
    theirs = np.array([package(one, other, size, simplify) for one, other in zip(a, b, strict=True)])
    given = np.isfinite(theirs).all(1)
    assert np.flatnonzero(~given).tolist() == [0, 17, 18, 36, 48]
    np.testing.assert_allclose(grouped.values[given], theirs[given], atol=1e-9)
    # A short last saccade that is added to what is before it changes many of them.
    chained = multimatch_pairs(
        a, b, image_size=size, simplify=Simplification(direction=45, amplitude=147, duration=0.3)
    )
    differs = (abs(chained.values - theirs) > 1e-9).any(1) & given
    assert 25 <= differs.sum() < 40


@pytest.mark.shared_data
def test_free_viewing_of_osie(shared):
    """Other observers tell more than the centre prior by every kind, and the shuffled kind takes the prior out."""
    fixations = loadmat(shared / "data" / "eye" / "osie" / "fixations.mat", squeeze_me=True)["fixations"]
    scale, size = 5, (160, 120)  # of 800 x 600 px
    paths = []
    for image in fixations[::17][:40]:
        for observer, subject in enumerate(image["subjects"].item()):
            x, y = (np.atleast_1d(subject[name].item()) / scale for name in ("fix_x", "fix_y"))
            attrs = {"image": str(image["img"]), "observer": str(observer)}
            paths.append(Scanpath(x, y, size, first_fixation="free", attrs=attrs))
    kinds = ("judd", "borji", "shuffled", "uniform")

    def score(saliency, fixations, elsewhere, kind):
        return auc(
            saliency, fixations, kind=kind, n_draws=10, elsewhere=elsewhere if kind == "shuffled" else None
        )

    result = map_consistency(
        paths, {kind: partial(score, kind=kind) for kind in kinds}, sigma=24 / scale, edge="reflect"
    )
    gain = crossed_bootstrap(result.inter_observer - result.prior)
    prior = crossed_bootstrap(result.prior)
    assert abs(prior["mean"].sel(metric="shuffled") - 0.5) <= 0.02
    assert (prior["mean"].drop_sel(metric="shuffled") > 0.6).all()
    assert (gain.interval.sel(bound="low") > 0).all()
    assert gain.n_image == 40
    assert gain.n_observer == 15
