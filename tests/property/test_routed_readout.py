"""What the routed readout must do whatever its masks, against the published dense formula in float64."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from neuroattn.kernels import Routing, routed_readout
from neuroattn.kernels.routed_readout import _torch, reference


def draw(seed, *shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def assert_matches_dense(masks, seed=0, batch=3, width=4):
    regions, units = masks.shape
    h, weight, bias = draw(seed, (batch, regions, width), (units, width), (units,))
    for b in (bias, None):
        got = routed_readout(h, weight, b, Routing.from_masks(masks))
        torch.testing.assert_close(got, reference.routed_readout(h, weight, b, masks))


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 1000),
    regions=st.integers(1, 5),
    units=st.integers(1, 30),
    density=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    block=st.sampled_from([1, 3, 1024]),
    runs=st.booleans(),
)
def test_equals_the_dense_masked_formula(seed, regions, units, density, block, runs):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(regions, units, generator=generator) < density
    if runs:
        masks = masks[:, masks.int().mul(2 ** torch.arange(regions)[:, None]).sum(0).argsort()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_torch, "BLOCK_UNITS", block)
        assert_matches_dense(masks, seed)


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 1, 0, 0], [0, 1, 1, 0]],  # an overlap, and a unit in no region
        [[1, 1, 1, 1], [0, 0, 0, 0]],  # an empty region
        [[0, 0, 1, 0], [1, 1, 0, 1]],  # a group of one unit that splits another
        [[1, 1, 1, 1]],
        [[0, 0, 0, 0]],
    ],
    ids=str,
)
def test_special_masks(rows):
    assert_matches_dense(torch.tensor(rows, dtype=torch.bool))


def test_permuting_regions_changes_nothing():
    masks = torch.rand(5, 40, generator=torch.Generator().manual_seed(0)) < 0.3
    h, weight, bias = draw(0, (2, 5, 3), (40, 3), (40,))
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(
        routed_readout(h, weight, bias, Routing.from_masks(masks)),
        routed_readout(h[:, order], weight, bias, Routing.from_masks(masks[order])),
    )


def test_units_that_are_sorted_by_group_need_no_permutation():
    masks = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 1, 1]], dtype=torch.bool)
    assert Routing.from_masks(masks[:, [0, 1, 3, 2, 4, 5]]).perm is None
    assert Routing.from_masks(masks[:, [0, 1, 2, 3, 4, 5]]).perm is not None


def test_tiles_cover_every_routed_unit_once():
    masks = torch.rand(3, 500, generator=torch.Generator().manual_seed(0)) < 0.4
    routing = Routing.from_masks(masks)
    seen = torch.zeros(500, dtype=torch.int64)
    for group, first, end in routing.tiles.tolist():
        assert 0 < end - first <= 64
        units = routing.perm[first:end]
        seen[units] += 1
        assert (masks[:, units] == routing.signatures[group][:, None]).all()
    torch.testing.assert_close(seen, (routing.counts > 0).long())


def test_routing_moves_copies_and_pickles_with_its_module():
    masks = torch.rand(3, 20, generator=torch.Generator().manual_seed(0)) < 0.4
    module = nn.Module()
    module.readout, module.routing = nn.Linear(4, 20), Routing.from_masks(masks)
    assert list(module.state_dict()) == ["readout.weight", "readout.bias"]
    h = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    weight, bias = module.readout.weight, module.readout.bias
    expected = routed_readout(h, weight, bias, module.routing)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        other.load_state_dict(module.state_dict())
        torch.testing.assert_close(routed_readout(h, weight, bias, other.routing), expected)
    half = copy.deepcopy(module).to(torch.float16).routing
    torch.testing.assert_close(routed_readout(h, weight, bias, half), expected)
    assert all(buffer.is_meta for buffer in copy.deepcopy(module.routing).to("meta").buffers())


def test_work_does_not_grow_with_the_number_of_regions():
    batch, units, width, regions = 4, 1000, 64, 10
    masks = nn.functional.one_hot(torch.arange(units) % regions).T.bool()
    h, weight, bias = draw(0, (batch, regions, width), (units, width), (units,))
    with FlopCounterMode(display=False) as counter:
        _torch.forward(
            h.transpose(0, 1), weight, bias, (r := Routing.from_masks(masks)).perm, r.counts, r.bounds
        )
    assert counter.get_total_flops() == 2 * batch * units * width


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_unit_may_have_its_own_token(dtype):
    h, weight, bias = draw(0, (3, 7, 5), (7, 5), (7,), dtype=dtype)
    expected = reference.routed_readout(h.double(), weight.double(), bias.double(), None)
    got = routed_readout(h, weight, bias, None)
    assert got.dtype == dtype
    tolerance = {torch.float16: 1e-2, torch.bfloat16: 5e-2, torch.float32: 1e-6}[dtype]
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"h": torch.zeros(2, 4, 3)}, r"h must have shape \(batch, 2, 3\), got \(2, 4, 3\)"),
        ({"weight": torch.zeros(5, 3), "bias": None}, r"one row per unit of routing \(4\), got 5"),
        ({"bias": torch.zeros(3)}, r"bias must have shape \(4,\), got \(3,\)"),
        ({"bias": torch.zeros(4).double()}, "h, weight and bias must have one floating dtype"),
        ({"routing": None}, r"h must have shape \(batch, 4, 3\), got \(2, 2, 3\)"),
    ],
)
def test_wrong_input_names_the_argument(change, message):
    routing = Routing.from_masks(torch.ones(2, 4, dtype=torch.bool))
    arguments = {"h": torch.zeros(2, 2, 3), "weight": torch.zeros(4, 3), "bias": torch.zeros(4)}
    with pytest.raises(ValueError, match=message):
        routed_readout(**{**arguments, "routing": routing, **change})


def test_masks_must_be_bool():
    with pytest.raises(ValueError, match=r"masks must be bool, got torch.float32"):
        Routing.from_masks(torch.ones(2, 3))
