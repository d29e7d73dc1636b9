import numpy as np
import pytest
import xarray as xr
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from neuroattn.datasets import fsaverage5_mesh, load_algonauts, make_nsd_like, write_algonauts
from neuroattn.datasets.simulated import _REGIONS, _simulate_trials
from neuroattn.encoding import PooledRidgeEncoder, RidgeEncoder, load_backbone
from neuroattn.metrics import noise_ceiling_from_repeats, pearson_r, r2_over_ceiling

ROUTED = ["EBA", "FFA-1", "PPA", "VWFA-1"]
OTHERS = ["V1v", "V3d", "hV4", "RSC", "aTL-faces"]


def coarse_network(images):
    """Colours and contrast of 14x14 squares: enough of a network where only the bookkeeping matters."""
    squares = images.reshape(len(images), 14, 16, 14, 16, 3).astype(np.float32)
    return np.concatenate([squares.mean((2, 4)), squares.std((2, 4))], axis=-1).transpose(0, 3, 1, 2)


def demo_network(images):
    return load_backbone("demo").extract(images)


@pytest.fixture(scope="module")
def tokens():
    recording = make_nsd_like(600, 200, seed=1, rois=ROUTED + OTHERS, vertices_per_roi=15)
    return recording, recording.features


@pytest.fixture(scope="module")
def composed():
    seen = []

    def features(images):
        seen.append(demo_network(images))
        return seen[0]

    recording = make_nsd_like(
        300, 100, seed=1, rois=[*ROUTED, "V3d", "RSC"], vertices_per_roi=15, features=features
    )
    return recording, seen[0]


@pytest.fixture(params=["tokens", "composed"])
def subject(request):
    return request.getfixturevalue(request.param)


def standardized(features):
    return (features - features.mean((0, 2, 3), keepdims=True)) / features.std((0, 2, 3), keepdims=True)


def cued_tokens(recording, features, category):
    mask = recording.truth.object_mask.sel(category=category).values
    return np.einsum("ncyx,nyx->nc", standardized(features), mask) / mask.sum((1, 2))[:, None]


def accuracy(encoder, design, recording):
    """Mean r2_over_ceiling of each region on the test images."""
    test, y = recording.test, recording.responses
    r = pearson_r(y[test], encoder.fit(design[~test], y[~test]).predict(design[test]))
    score = r2_over_ceiling(r, recording.noise_ceiling)
    return {
        str(roi): np.nanmean(score[members])
        for roi, members in zip(recording.rois.roi.values, recording.rois.values, strict=True)
        if recording.noise_ceiling[members].max() > 0.1
    }


def test_an_oracle_at_the_cued_object_reaches_the_ceiling(subject):
    recording, features = subject
    for roi in ROUTED:
        category = recording.truth.cue.sel(roi=roi).item()
        oracle = accuracy(RidgeEncoder(), cued_tokens(recording, features, category), recording)
        assert oracle[roi] > 0.8


def channel_products(features):
    tokens = standardized(features).reshape(*features.shape[:2], -1)
    moment = tokens @ tokens.transpose(0, 2, 1) / tokens.shape[2]
    return moment[:, *np.triu_indices(moment.shape[1])]


@pytest.mark.parametrize(
    "ridge",
    [
        RidgeEncoder(),
        PooledRidgeEncoder(("mean",)),
        PooledRidgeEncoder(("mean", "max", "std")),
        PooledRidgeEncoder(),
        make_pipeline(FunctionTransformer(channel_products), RidgeEncoder()),
    ],
    ids=["full map", "mean", "mean max std", "all", "channel products"],
)
def test_no_ridge_comes_near_the_ceiling_where_responses_are_routed(subject, ridge):
    recording, features = subject
    reached = accuracy(ridge, features, recording)
    assert max(reached[roi] for roi in ROUTED) < 0.5


def test_pooled_ridge_wins_the_linear_region(subject):
    recording, features = subject
    pooled = accuracy(PooledRidgeEncoder(("mean", "std")), features, recording)["RSC"]
    assert pooled > 0.6
    assert pooled > accuracy(RidgeEncoder(), features, recording)["RSC"] + 0.1


def test_the_planted_field_and_weights_give_the_signal(subject):
    recording, features = subject
    truth = recording.truth
    unit = np.flatnonzero(recording.rois.sel(roi="V3d"))[0]
    y, x = np.mgrid[:14, :14]
    distance2 = (x - truth.center_x.values[unit]) ** 2 + (y - truth.center_y.values[unit]) ** 2
    field = np.exp(-distance2 / (2 * truth.size.values[unit] ** 2))
    seen = np.einsum("ncyx,yx->nc", standardized(features), field / field.sum())
    signal = seen @ truth.channel_weight.sel(roi="V3d").values[unit]
    np.testing.assert_allclose(signal - signal.mean(), truth.signal.values[:, unit], atol=1e-3)


def test_instance_features_and_weights_give_the_signal(subject):
    recording, features = subject
    truth = recording.truth
    unit = np.flatnonzero((recording.rois.sum("roi") == 1) & recording.rois.sel(roi="PPA"))[0]
    instance = (
        cued_tokens(recording, features, "places") @ truth.instance_axis.sel(category="places").values.T
    )
    signal = instance @ truth.instance_weight.sel(roi="PPA").values[unit]
    np.testing.assert_allclose(signal - signal.mean(), truth.signal.values[:, unit], atol=1e-3)


def test_fields_lie_in_the_opposite_half_of_the_visual_field(tokens):
    truth, rois = tokens[0].truth, tokens[0].rois
    left = (rois.hemisphere == "left").values
    assert (truth.center_x_degrees.values[left & np.isfinite(truth.center_x)] > 0).all()
    assert (truth.center_x_degrees.values[~left & np.isfinite(truth.center_x)] < 0).all()
    assert (truth.center_y_degrees.values[rois.sel(roi="V1v").values] > 0).all()
    assert (truth.center_y_degrees.values[rois.sel(roi="V3d").values] < 0).all()
    assert np.isnan(truth.center_x.values[rois.sel(roi="RSC").values]).all()


def test_every_category_has_one_cued_object_among_decoys(subject):
    truth = subject[0].truth
    cued, decoys = truth.object_mask.values, truth.decoy_mask.values
    n_tokens = cued.sum((2, 3))
    assert n_tokens.min() >= 4
    assert (np.abs(decoys.sum((2, 3)) - 3 * n_tokens) <= 3 * n_tokens).all()
    assert (cued.sum(1) + decoys.sum(1)).max() == 1
    assert np.abs(cued.mean((0, 1)) - decoys.mean((0, 1)) / 3).max() < 0.05  # the place tells nothing


def test_responses_are_signal_and_noise_of_the_stated_ratio():
    recording = make_nsd_like(2500, 500, seed=0, rois=["FFA-1", "RSC", "aTL-faces"], vertices_per_roi=5)
    truth = recording.truth
    noise = recording.responses - truth.signal.values
    # Three repeats are averaged: the noise of one trial is sqrt(3) larger.
    ratio = truth.signal.values.std(0) / (np.sqrt(3) * noise.std(0))
    np.testing.assert_allclose(ratio, truth.ncsnr, atol=0.06)
    np.testing.assert_allclose(truth.signal.values.var(0) + 3 * noise.var(0), 1, atol=0.1)
    ceiling = pearson_r(recording.responses, truth.signal.values) ** 2
    responds = truth.ncsnr.values > 0
    np.testing.assert_allclose(ceiling[responds], recording.noise_ceiling[responds], atol=0.05)
    assert truth.ncsnr.values[responds].min() >= 0.6
    assert not recording.noise_ceiling[recording.rois.sel(roi="aTL-faces").values].any()


def test_repeats_estimate_the_stated_ceiling():
    rng = np.random.default_rng(0)
    ncsnr = np.array([0.6, 1.0])
    signal = rng.normal(size=(4000, 2)).astype(np.float32) * (ncsnr / np.sqrt(1 + ncsnr**2)).astype(
        np.float32
    )
    trials = _simulate_trials(signal, ncsnr, 3, rng)
    estimated = noise_ceiling_from_repeats(trials.transpose(2, 1, 0))
    np.testing.assert_allclose(estimated, ncsnr**2 / (ncsnr**2 + 1 / 3), atol=0.03)


def test_regions_stand_at_their_coordinates():
    recording = make_nsd_like(4, 2, seed=0)
    rois = recording.rois
    for side in ("left", "right"):
        white, pial = (fsaverage5_mesh(side, kind).coordinates for kind in ("white", "pial"))
        here = (rois.hemisphere == side).values
        assert (np.diff(rois.vertex_index.values[here]) > 0).all()
        for name, region in _REGIONS.items():
            members = rois.vertex_index.values[here & rois.sel(roi=name).values]
            seed = getattr(region, side)
            if seed is None:
                assert len(members) == 0
                continue
            assert len(members) == 40
            middle = (white[members] + pial[members]) / 2
            assert np.linalg.norm(middle - seed, axis=1).min() < 7
            assert np.linalg.norm(middle.mean(0) - seed) < 12


def test_regions_overlap_only_where_categories_differ():
    recording = make_nsd_like(4, 2, seed=0)
    rois = recording.rois
    several = rois.values.sum(0)
    assert (several == 2).any()
    assert (several == 0).sum() == 80
    kind = recording.truth.kind.values
    for unit in np.flatnonzero(several > 1):
        regions = np.flatnonzero(rois.values[:, unit])
        assert set(kind[regions]) == {"routed"}
        assert len(set(recording.truth.cue.values[regions])) == len(regions)


def test_the_seed_decides_everything():
    def make(seed, **options):
        return make_nsd_like(6, 4, seed=seed, rois=["V1v", "OFA"], vertices_per_roi=3, **options)

    for options in ({}, {"features": coarse_network}):
        a, b, c = make(3, **options), make(3, **options), make(4, **options)
        np.testing.assert_array_equal(a.responses, b.responses)
        xr.testing.assert_identical(a.truth, b.truth)
        assert not np.array_equal(a.responses, c.responses)
        np.testing.assert_array_equal(make(np.random.default_rng(3), **options).responses, a.responses)
        stimuli = [r.features if r.images is None else r.images for r in (a, b, c)]
        np.testing.assert_array_equal(stimuli[0], stimuli[1])
        assert not np.array_equal(stimuli[0], stimuli[2])


def test_composed_images_survive_the_layout_on_disk(tmp_path):
    recording = make_nsd_like(
        6, 4, seed=0, rois=["FFA-1", "V1d"], vertices_per_roi=3, features=coarse_network
    )
    assert recording.features is None
    assert recording.images.shape == (10, 224, 224, 3)
    assert recording.images.dtype == np.uint8
    write_algonauts(recording, tmp_path, 1)
    back = load_algonauts(tmp_path, 1)
    xr.testing.assert_identical(back.truth, recording.truth)
    np.testing.assert_array_equal(back.images[:], recording.images)
    np.testing.assert_array_equal(back.responses[:], recording.responses)


def test_one_hemisphere_without_regions():
    rois = make_nsd_like(4, 2, seed=0, rois=["VWFA-1"], vertices_per_roi=3).rois
    assert set(rois.hemisphere.values) == {"left"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rois": ["FFA"]}, "rois 'FFA' is unknown; nearest are .*'FFA-1'"),
        ({"rois": []}, "rois must name each region once and at least one, got"),
        ({"rois": ["RSC", "RSC"]}, "rois must name each region once"),
        ({"n_test": 0}, "n_test must be at least 1, got 0"),
        ({"ncsnr": (1.0, 0.5)}, r"ncsnr\[1\] must be at least 1.0, got 0.5"),
        (
            {"features": lambda images: np.zeros((1, 8, 7, 7))},
            r"features\(images\) must have shape \(30, channel",
        ),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_nsd_like(**{"n_train": 20, "n_test": 10, "seed": 0} | options)
