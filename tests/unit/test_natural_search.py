"""Search in natural images beside the eye movements of people."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.io
from PIL import Image

from neuroattn.analyses import natural_search
from neuroattn.metrics import found_curve
from neuroattn.results import Scanpath
from neuroattn.search import EccNet, RandomSearch, SearchTrial, load_search_backbone

SIZE = (80, 60)


class Scripted:
    """A model that looks where it is told to."""

    config = None

    def __init__(self, places):
        self.places = places

    def search_batch(self, trials, *, batch_size=8, seed=0, progress=None):
        self.seen = [trial.attrs["image"] for trial in trials]
        return [Scanpath(*np.transpose(self.places[name]), SIZE, found=True) for name in self.seen]


def make_trial(name, *, x=50, y=10, side=20, **attrs):
    mask = np.zeros(SIZE[::-1], bool)
    mask[y : y + side, x : x + side] = True
    image = np.random.default_rng(0).integers(0, 256, SIZE[::-1], dtype=np.uint8)
    return SearchTrial(image, image[:20, :20], mask, px_per_degree=10, attrs={"image": name, **attrs})


def person(name, observer, *places, **attrs):
    return Scanpath(*np.transpose(places), SIZE, attrs={"image": name, "observer": observer, **attrs})


CENTRE, TARGET, AWAY, ELSEWHERE = (40, 30), (60, 20), (10, 50), (70, 55)
WAY = [CENTRE, AWAY, TARGET]
PEOPLE = [
    person("a", "1", CENTRE, TARGET),
    person("a", "2", *WAY),
    person("b", "1", CENTRE, ELSEWHERE, AWAY),
    person("b", "2", *WAY),
]


def test_found_curves_follow_one_rule_for_people_and_model():
    model = Scripted({"a": [CENTRE, TARGET], "b": WAY})
    result = natural_search(model, [make_trial("a"), make_trial("b")], PEOPLE, n_resamples=20)
    assert result.found.sel(searcher="model").values.tolist() == [0, 0.5, 1]
    assert result.found.sel(searcher="people").values.tolist() == [0, 0.25, 0.75]
    assert result.n_trials.values.tolist() == [2, 4]
    low, high = result.found_ci.sel(searcher="people", saccade=1).values
    assert low <= 0.25 <= high
    assert low < high


@pytest.mark.parametrize(("x", "found"), [(44, False), (45, True), (74, True), (75, False)])
def test_a_target_is_found_within_the_square_around_a_fixation(x, found):
    # Pixels 50 to 69, and half of one degree on each side.
    people = [person("a", "1", CENTRE, (x, 20)), person("a", "2", *WAY)]
    model = Scripted({"a": [CENTRE, (x, 20)]})
    result = natural_search(model, [make_trial("a")], people, near_deg=1, n_resamples=5)
    assert bool(result.found.sel(searcher="model", saccade=1)) == found


def test_similarity_of_the_model_stands_beside_its_anchors():
    twins = [replace(path, x=WAY_X, y=WAY_Y) for path in PEOPLE]
    same = natural_search(
        Scripted({"a": WAY, "b": WAY}), [make_trial("a"), make_trial("b")], twins, n_resamples=5
    )
    for comparison in ("model", "observers", "same observer, another image"):
        np.testing.assert_allclose(same.similarity.sel(comparison=comparison), 1)
    random = same.similarity.sel(comparison="length-matched random")
    assert (random < 1).all()
    assert random.measure.values.tolist() == [
        "ScanMatch", "MultiMatch shape", "MultiMatch direction", "MultiMatch length", "MultiMatch position",
    ]  # fmt: skip
    other = Scripted({"a": [CENTRE, ELSEWHERE, (5, 5)], "b": [CENTRE, ELSEWHERE, (5, 5)]})
    worse = natural_search(other, [make_trial("a"), make_trial("b")], twins, n_resamples=5)
    assert (worse.similarity.sel(comparison="model") < 1).all()
    assert worse.n_compared.sel(comparison="model").values.tolist() == [4] * 5


WAY_X, WAY_Y = np.transpose(WAY)


def test_images_that_only_one_side_has_are_left_out():
    model = Scripted({"a": WAY, "b": WAY, "c": WAY})
    trials = [make_trial(name) for name in "abc"]
    people = [*PEOPLE, person("d", "1", *WAY)]
    assert natural_search(model, trials, people, n_resamples=5).attrs["n_images"] == 2
    assert model.seen == ["a", "b"]


def test_one_image_may_be_searched_for_two_targets():
    trials = [make_trial("a", target="cup"), make_trial("a", x=0, y=40, target="fork")]
    people = [
        person("a", o, CENTRE, place, target=t)
        for t, place in (("cup", TARGET), ("fork", AWAY))
        for o in "12"
    ]
    model = Scripted({"a": [CENTRE, TARGET]})
    result = natural_search(model, trials, people, by=("image", "target"), n_resamples=5)
    assert result.found.sel(searcher="people", saccade=1) == 1
    assert result.found.sel(searcher="model", saccade=1) == 0.5
    with pytest.raises(ValueError, match="trials must differ in image, got two of a"):
        natural_search(model, trials, people)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": [make_trial("z")]}, "people must have searched at least one of the 1 trials"),
        ({"trials": [replace(make_trial("a"), target_mask=None)]}, "must have a target mask, got none for a"),
        (
            {"trials": [replace(make_trial("a"), px_per_degree=None)]},
            "px_per_degree must be given for trial a",
        ),
        ({"trials": [replace(make_trial("a"), attrs={})]}, r"trials\[0\] must name its image in attrs"),
        (
            {"people": [replace(PEOPLE[0], image_size=(800, 600))]},
            r"at its size \(80, 60\), got \(800, 600\)",
        ),
        ({"people": [replace(PEOPLE[0], attrs={"image": "a"})]}, "must name the observer of a"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    given = {"trials": [make_trial("a")], "people": PEOPLE, **change}
    with pytest.raises(ValueError, match=message):
        natural_search(Scripted({"a": WAY, "z": WAY}), given["trials"], given["people"])


@pytest.mark.shared_data
def test_the_found_curve_reproduces_the_published_ones(shared):
    folder = shared / "data/visual_search"
    trials = pd.read_csv(folder / "saccade_trials.csv.gz")
    published = pd.read_csv(folder / "saccade_cumulative_performance.csv")
    compared = 0
    for (dataset, agent), curve in published.groupby(["dataset", "agent"]):
        own = trials[(trials.dataset == dataset) & (trials.agent == agent)]
        if (own.found < 0).all():
            continue  # people of two data sets: their found-arrays are in another order than the fixations
        n_saccades = own.found_at_fixation.where(own.found == 1)
        ours = found_curve(n_saccades, max_saccades=int(curve.fixation.max()))
        np.testing.assert_allclose(ours.sel(saccade=curve.fixation.values), curve.cumulative, atol=5e-4)
        compared += 1
    assert compared == 7


@pytest.mark.shared_data
def test_a_network_searches_photographs_beside_eye_movements(shared):
    # Free viewing, and targets cut from the images: what runs is real, what it says about search is nothing.
    folder = shared / "data/eye/osie"
    recorded = scipy.io.loadmat(folder / "fixations.mat", simplify_cells=True)["fixations"][:3]
    trials, people = [], []
    for entry in recorded:
        image = np.asarray(Image.open(folder / "stimuli_400x300" / entry["img"]).convert("RGB"))[::2, ::2]
        mask = np.zeros(image.shape[:2], bool)
        mask[30:62, 120:152] = True
        trials.append(
            SearchTrial(
                image,
                image[30:62, 120:152],
                mask,
                px_per_degree=6,
                max_fixations=6,
                attrs={"image": entry["img"]},
            )
        )
        for observer, subject in enumerate(entry["subjects"][:5]):
            x, y = (np.clip(np.atleast_1d(subject[axis])[:6] / 4, 0, None) for axis in ("fix_x", "fix_y"))
            attrs = {"image": entry["img"], "observer": observer}
            people.append(Scanpath(x, y, (200, 150), first_fixation="free", attrs=attrs))
    network = natural_search(EccNet(load_search_backbone("demo")), trials, people, n_resamples=200)
    chance = natural_search(RandomSearch(), trials, people, n_resamples=200)
    last = {"searcher": "model", "saccade": 5}
    assert float(network.found.sel(last)) > float(chance.found.sel(last))
    match = network.similarity.sel(measure="ScanMatch")
    assert float(match.sel(comparison="observers")) > float(match.sel(comparison="length-matched random"))
