import numpy as np
import pytest
import xarray as xr

from neuroattn.analyses import representational_similarity
from neuroattn.analyses.figures import plot_representations
from neuroattn.datasets import Recording
from neuroattn.metrics import dissimilarities, rdm_similarity
from neuroattn.results import label_rois

N = 24


@pytest.fixture(scope="module")
def planted():
    """Two subjects, two regions: V1 has the geometry of "early", FFA that of "late"; one image was shown twice."""
    rng = np.random.default_rng(0)
    early, late = rng.normal(size=(2, N, 10))
    order = [rng.permutation(N), np.append(rng.permutation(N), 3)]
    recordings = []
    for name, rows in zip(("subj01", "subj02"), order, strict=True):
        parts = [x @ rng.normal(size=(10, 80)) + rng.normal(size=(N, 80)) for x in (early, late)]
        responses = np.concatenate(parts, 1)[rows].astype("f4")
        rois = label_rois({"V1": np.arange(160) < 80, "FFA": np.arange(160) >= 80})
        recordings.append(Recording(name, responses, rois, rows.astype(str), features=early[rows]))
    models = {"early": early[order[0]], "late": late[order[0]].reshape(N, 2, 5)}
    return recordings, models


@pytest.mark.parametrize("similarity", ["spearman", "whitened-pearson"])
def test_planted_geometries_are_found(planted, similarity):
    result = representational_similarity(*planted, similarity=similarity, n_permutations=199)
    assert result["mean"].idxmax("model").values.tolist() == ["early", "late"]
    right = xr.DataArray(["early", "late"], dims="roi", coords={"roi": ["V1", "FFA"]})
    wrong = xr.DataArray(["late", "early"], dims="roi", coords={"roi": ["V1", "FFA"]})
    hit, miss = result.sel(model=right), result.sel(model=wrong)
    assert (hit.p == 1 / 200).all()
    assert (hit.interval.sel(bound="low") > miss.interval.sel(bound="high")).all()
    assert (miss.p > 0.05).all()
    assert (result.ceiling_lower < result.ceiling_upper).all()
    assert (result["mean"] <= result.ceiling_upper + 0.01).all()
    assert result.attrs["config"].count("images and subjects") == 1


def test_stimuli_are_matched_by_id_and_repeats_averaged(planted):
    recordings, models = planted
    result = representational_similarity(recordings, models, n_permutations=1)
    second = recordings[1]
    order = [np.flatnonzero(second.stimulus_ids == one) for one in recordings[0].stimulus_ids]
    responses = np.stack([second.responses[rows, :80].mean(0) for rows in order])
    dims = ("condition", "unit")
    a = dissimilarities(xr.DataArray(responses, dims=dims))
    b = dissimilarities(xr.DataArray(models["early"], dims=dims))
    found = result.similarity.sel(model="early", roi="V1", subject="subj02")
    assert found.item() == pytest.approx(rdm_similarity(a, b).item())


def test_interval_covers_other_images():
    """Of many samples of images, about 95 % of the intervals of one subject hold the similarity of all images."""
    rng = np.random.default_rng(1)
    latent = rng.normal(size=(400, 6))
    brain = latent @ rng.normal(size=(6, 40)) + 2 * rng.normal(size=(400, 40))
    dims = ("condition", "unit")
    geometries = [dissimilarities(xr.DataArray(x, dims=dims)) for x in (latent, brain)]
    truth = rdm_similarity(*geometries, method="pearson").item()
    covered = []
    for _ in range(40):
        rows = rng.choice(400, 30, replace=False)
        rois = label_rois({"V4": [True] * 40})
        one = Recording("s", brain[rows].astype("f4"), rois, rows.astype(str), features=latent[rows])
        result = representational_similarity(
            one, {"latent": latent[rows]}, similarity="pearson", n_permutations=1
        )
        low, high = result.interval.values[0, 0]
        covered.append(low <= truth <= high)
    assert np.mean(covered) > 0.8


def test_interval_is_that_of_leaving_out_each_image_with_ties(planted):
    (first, _), _ = planted
    labels = np.eye(3)[np.arange(first.n_stimuli) % 3]  # distances 0 and sqrt(2) only
    result = representational_similarity(
        first, {"category": labels}, rois=["V1"], dissimilarity="euclidean", n_permutations=1
    )
    dims = ("condition", "unit")
    tables = [xr.DataArray(np.asarray(x), dims=dims) for x in (labels, first.responses[:, :80].astype(float))]
    without = []
    for image in range(N):
        kept = np.arange(N) != image
        a, b = (dissimilarities(table[kept], method="euclidean") for table in tables)
        without.append(rdm_similarity(a, b).item())
    half = 1.959964 * np.sqrt((N - 1) * np.var(without))
    width = result.interval.sel(bound="high") - result["mean"]
    assert width.item() == pytest.approx(half, rel=1e-5)


def test_one_subject_has_no_ceiling_and_is_drawn(planted):
    recordings, models = planted
    alone = representational_similarity(recordings[0], models, rois=["FFA"], n_permutations=9)
    assert alone.ceiling_upper.isnull().all()
    both = representational_similarity(recordings, models, n_permutations=9)
    bars = [plot_representations(result).axes[0].patches for result in (alone, both)]
    assert np.isfinite([bar.get_width() for bar in bars[1][-2:]]).all()
    assert not np.isfinite(bars[0][-1].get_width())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rois": ["V9"]}, "rois must be regions of subj01, got 'V9'"),
        ({"models": {}}, "must each hold at least one"),
        ({"models": {"x": np.zeros((3, 2))}}, r"models\['x'\] must have shape \(24, ...\), got \(3, 2\)"),
        ({"n_permutations": 0}, "n_permutations must be at least 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(planted, changes, message):
    recordings, models = planted
    with pytest.raises(ValueError, match=message):
        representational_similarity(recordings, **({"models": models} | changes))
