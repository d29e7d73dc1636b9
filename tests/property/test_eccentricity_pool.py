import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroattn.kernels.eccentricity_pool import LinearLaw, eccentricity_pool, reference

laws = st.builds(
    LinearLaw,
    slope=st.floats(0, 1),
    px_per_degree=st.floats(2, 8),
    fovea_deg=st.floats(0, 4),
    window_min=st.integers(1, 4),
    ring_deg=st.sampled_from([1.0, 2.0, None]),
)
sizes = st.integers(1, 24)
gazes = st.one_of(st.none(), st.tuples(st.floats(-30, 60), st.floats(-30, 60)))
STAGES = [(0.0, 30, 64), (0.0, 15, 64), (0.07, 8, 131), (0.16, 4, 101), (0.32, 2, 51)]


def make_x(height, width, seed=0, batch=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 2, height, width, generator=generator, dtype=torch.float64)


def as_tensor(gaze):
    return None if gaze is None else torch.tensor([gaze], dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(
    law=laws,
    height=sizes,
    width=sizes,
    stride=st.integers(1, 3),
    gaze=gazes,
    mode=st.sampled_from(["mean", "max"]),
)
def test_equals_pooling_window_by_window(law, height, width, stride, gaze, mode):
    x, gaze = make_x(height, width), as_tensor(gaze)
    windows = law.windows(height, width, stride, gaze)
    want = reference.eccentricity_pool(x, windows, law.canvas(height, width), stride, mode)
    torch.testing.assert_close(eccentricity_pool(x, gaze, law, stride, mode), want)


@pytest.mark.parametrize(("slope", "px_per_degree", "side"), STAGES)
def test_equals_the_ring_sum_of_the_original(slope, px_per_degree, side):
    law = LinearLaw(slope=slope, px_per_degree=px_per_degree)
    x, rings, windows = make_x(side, side), law.rings(side, side)[0], law.windows(side, side)[0]
    total = torch.zeros(1, 2, *rings.shape, dtype=torch.float64)
    for ring in range(int(rings.max()) + 1):
        k = int(windows[rings == ring][0])
        assert (windows[rings == ring] == k).all()
        beyond = max((rings.shape[0] - 1) * 2 + k - side, 0)
        padding = [beyond // 2, beyond - beyond // 2] * 2
        count = F.avg_pool2d(F.pad(torch.ones(1, 1, side, side, dtype=torch.float64), padding), k, 2)
        total += F.avg_pool2d(F.pad(x, padding), k, 2) / count * (rings == ring)
    torch.testing.assert_close(eccentricity_pool(x, law=law), total)


@pytest.mark.parametrize("ring_deg", [1.0, None])
def test_slope_zero_is_average_pooling(ring_deg):
    x = make_x(16, 16)
    law = LinearLaw(slope=0, ring_deg=ring_deg)
    torch.testing.assert_close(eccentricity_pool(x, law=law), F.avg_pool2d(x, 2))
    torch.testing.assert_close(eccentricity_pool(x, law=law, mode="max"), F.max_pool2d(x, 2))


@settings(max_examples=25, deadline=None)
@given(law=laws, height=sizes, width=sizes, gaze=gazes)
def test_weights_of_each_output_are_a_distribution(law, height, width, gaze):
    pixels = torch.eye(height * width, dtype=torch.float64).view(1, -1, height, width)
    weights = eccentricity_pool(pixels, as_tensor(gaze), law)
    assert weights.min() >= -1e-12
    covered = weights[0].sum(0)  # less than one where zeros of the canvas count
    assert covered.max() <= 1 + 1e-12
    if law.canvas(height, width) == (height, width):
        torch.testing.assert_close(covered, torch.ones_like(covered))


@settings(max_examples=25, deadline=None)
@given(law=laws, height=sizes, width=sizes, gaze=gazes, seed=st.integers(0, 99))
def test_gradient_is_the_adjoint(law, height, width, gaze, seed):
    x = make_x(height, width, seed).requires_grad_()
    out = eccentricity_pool(x, as_tensor(gaze), law)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    adjoint = torch.autograd.grad(out, x, grad)[0]
    torch.testing.assert_close((out * grad).sum(), (x * adjoint).sum())


@settings(max_examples=40, deadline=None)
@given(law=laws, gaze=st.tuples(st.floats(-30, 60), st.floats(-30, 60)))
def test_windows_never_shrink_with_eccentricity(law, gaze):
    windows = law.windows(24, 24, 2, as_tensor(gaze))[0].flatten()
    row, column = torch.meshgrid(torch.arange(0, 24, 2), torch.arange(0, 24, 2), indexing="ij")
    distance = ((row - gaze[0]) ** 2 + (column - gaze[1]) ** 2).flatten()
    assert (windows[distance.argsort()].diff() >= 0).all()
    assert windows.min() >= law.window_min


@pytest.mark.parametrize("mode", ["mean", "max"])
@pytest.mark.parametrize("ring_deg", [1.0, None])
def test_moving_image_and_gaze_together_moves_the_result(ring_deg, mode):
    law = LinearLaw(slope=0.2, px_per_degree=2, fovea_deg=1, ring_deg=ring_deg)
    x = make_x(40, 40)
    moved = torch.roll(x, (4, -6), (2, 3))
    gaze = torch.tensor([[19.0, 21.0]])
    out = eccentricity_pool(x, gaze, law, mode=mode)
    shifted = eccentricity_pool(moved, gaze + torch.tensor([4.0, -6.0]), law, mode=mode)
    inner = torch.roll(out, (2, -3), (2, 3))[..., 7:13, 7:13]
    torch.testing.assert_close(shifted[..., 7:13, 7:13], inner)


def test_gaze_at_the_centre_is_the_default_within_the_last_ring():
    law = LinearLaw()
    rings = law.rings(66, 66)[0]
    inner = rings < rings.max()
    x, centre = make_x(66, 66), torch.tensor([[32.0, 32.0]])
    out = eccentricity_pool(x, centre)
    torch.testing.assert_close(out[..., inner], eccentricity_pool(x)[..., inner])
    assert (law.windows(66, 66, 2, centre)[0] > law.windows(66, 66)[0])[~inner].any()


def test_each_sample_has_its_own_gaze():
    x, gaze = make_x(20, 30, batch=3), torch.tensor([[0.0, 0.0], [19.0, 29.0], [10.0, -50.0]])
    out = eccentricity_pool(x, gaze)
    for i in range(3):
        torch.testing.assert_close(out[i : i + 1], eccentricity_pool(x[i : i + 1], gaze[i : i + 1]))


@pytest.mark.parametrize("far", [1e6, torch.inf, torch.nan])
@pytest.mark.parametrize("ring_deg", [1.0, None])
def test_a_gaze_far_away_averages_the_whole_map(ring_deg, far):
    x = make_x(9, 9)
    out = eccentricity_pool(x, torch.tensor([[far, 0.0]]), LinearLaw(ring_deg=ring_deg))
    torch.testing.assert_close(out, x.mean((2, 3), keepdim=True).expand_as(out))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"x": torch.ones(2, 3, 4)}, ValueError, r"x must have shape \(batch, channel, height, width\)"),
        ({"x": torch.ones(1, 1, 4, 4).int()}, TypeError, "x must be floating, got torch.int32"),
        ({"x": torch.ones(1, 1, 0, 4)}, ValueError, "x must have at least one pixel"),
        ({"fixation": torch.zeros(3, 2)}, ValueError, r"fixation must have shape \(1, 2\), got \(3, 2\)"),
        ({"mode": "median"}, ValueError, "mode must be one of 'mean', 'max', got 'median'"),
        ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    ],
)
def test_wrong_input_is_named(kwargs, error, message):
    with pytest.raises(error, match=message):
        eccentricity_pool(**{"x": torch.ones(1, 1, 4, 4)} | kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"slope": -1}, "slope must be at least 0, got -1"),
        ({"window_min": 0}, "window_min must be at least 1, got 0"),
        ({"ring_deg": 0.1}, "ring_deg must be at least one output pixel wide at 4.0 px per degree, got 0.1"),
    ],
)
def test_wrong_law_is_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LinearLaw(**kwargs)
    with pytest.raises(ValueError, match="ring_deg must be given"):
        LinearLaw(ring_deg=None).rings(4, 4)
