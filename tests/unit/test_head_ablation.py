"""A head that does nothing is not missed, edits are as defined, and overlap beats chance only where it is planted."""

import itertools
import math

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroattn.analyses import ablate_heads, head_overlap, plot_head_ablation, plot_head_overlap
from neuroattn.analyses.head_ablation import edited_head, mean_maps
from neuroattn.analyses.heads import encoder_layers
from neuroattn.attention import CrossAttention
from neuroattn.encoding import BrainEncoder, SharedBrainEncoder
from neuroattn.metrics import pearson_r

HEADS, DIM, WIDTH = 4, 8, 2
USELESS, POOLING = 1, 2


def columns_of(head):
    return slice(head * WIDTH, (head + 1) * WIDTH)


class Subject:
    """An encoder that no one hears the head USELESS of and whose head POOLING reads all tokens alike."""

    def __init__(self, **options):
        rng = np.random.default_rng(0)
        self.X = rng.normal(size=(60, DIM, 3, 4)).astype("f4")
        noise = rng.normal(size=(60, 10)).astype("f4")
        rois = {"V1": np.arange(10) < 5, "FFA": np.arange(10) >= 5}
        self.encoder = BrainEncoder(rois, heads=HEADS, epochs=2, **options).fit(self.X, noise)
        layer = encoder_layers(self.encoder)["decoder 1"]
        with torch.no_grad():
            layer.out_proj.weight[:, columns_of(USELESS)] = 0
            layer.in_proj_weight[columns_of(POOLING)] = 0
            layer.in_proj_bias[columns_of(POOLING)] = 0
            # Queries that differ between images by much, and heads that count.
            layer.in_proj_weight[: 2 * DIM] *= 3
            layer.out_proj.weight *= 3
        predicted = self.encoder.predict(self.X)
        self.y = predicted + 0.3 * predicted.std(0) * noise


@pytest.fixture(scope="module")
def subject():
    return Subject()


@pytest.fixture(scope="module")
def effect(subject):
    return ablate_heads(subject.encoder, subject.X, subject.y, strengths=[0.0, 0.5, 1.0])


# Ablation


def test_a_head_that_nobody_hears_is_not_missed_and_the_others_are(effect):
    assert (effect.correlation > 0.9).all()
    assert (abs(effect["drop"].sel(head=USELESS)) < 1e-6).all()
    assert (abs(effect.drop_interval.sel(head=USELESS)) < 1e-6).all()
    silent = effect.sel(edit="zero", strength=1.0)
    for head in {*range(HEADS)} - {USELESS}:
        assert silent["drop"].sel(head=head).max() > 0.01
    assert (silent.excess.sel(head=USELESS) < 0).all()
    assert (silent.excess_interval.sel(head=USELESS, bound="high") < 0).any()


def test_a_head_that_reads_all_tokens_alike_has_no_map_to_lose(effect):
    pooling = effect["drop"].sel(head=POOLING, strength=1.0)
    assert (abs(pooling.sel(edit=["uniform", "mean"])) < 1e-5).all()
    assert pooling.sel(edit="zero").max() > 0.01
    looking = effect["drop"].sel(head=0, strength=1.0, edit=["uniform", "mean"])
    assert (abs(looking) > 1e-4).any()


def test_strength_goes_from_the_intact_map_to_the_other(effect):
    assert (abs(effect["drop"].sel(strength=0.0)) < 1e-6).all()
    half, whole = (effect["drop"].sel(edit="zero", strength=s, head=0) for s in (0.5, 1.0))
    assert (half < whole).any()


def test_drops_are_those_of_the_definition(subject, effect):
    """A head that is heard by half has half its columns in the output projection."""
    encoder, X, y = subject.encoder, subject.X, subject.y
    columns = encoder_layers(encoder)["decoder 1"].out_proj.weight[:, columns_of(0)].detach()
    intact, kept = pearson_r(y, encoder.predict(X)), columns.clone()
    for strength in (0.5, 1.0):
        columns *= 1 - strength
        edited = pearson_r(y, encoder.predict(X))
        columns.copy_(kept)
        drop = effect["drop"].sel(edit="zero", strength=strength, head=0).isel(layer=0)
        np.testing.assert_allclose(drop, (intact - edited).reshape(2, 5).mean(1), rtol=1e-4, atol=1e-6)
    low, high = effect.drop_interval.transpose("bound", ...)
    assert (low <= effect["drop"] + 1e-6).all()
    assert (effect["drop"] <= high + 1e-6).all()


def test_excess_is_over_the_mean_of_the_other_heads(effect):
    drop = effect["drop"].sel(edit="zero", strength=1.0).isel(layer=0, query=0)
    expected = drop.values[0] - np.delete(drop.values, 0).mean()
    excess = effect.excess.sel(edit="zero", strength=1.0).isel(layer=0, query=0)
    assert float(excess[0]) == pytest.approx(expected)
    assert float(excess.sum()) == pytest.approx(0, abs=1e-9)


def test_a_seed_fixes_the_result_and_no_hook_stays(subject, effect):
    first, again, other = (
        ablate_heads(subject.encoder, subject.X, subject.y, edits=["zero"], strengths=[1.0], seed=seed)
        for seed in (0, 0, 1)
    )
    xr.testing.assert_identical(first, again)
    xr.testing.assert_equal(first["drop"], other["drop"])
    assert not first.drop_interval.equals(other.drop_interval)
    layer = encoder_layers(subject.encoder)["decoder 1"]
    assert not layer._forward_pre_hooks
    assert not layer._forward_hooks
    assert not layer.out_proj._forward_pre_hooks
    assert first.attrs["resampled"] == "stimulus"


def test_tokens_may_be_made_to_read_themselves(subject):
    deep = Subject(encoder_layers=1)
    effect = ablate_heads(deep.encoder, deep.X, deep.y, edits=["identity", "mean"], strengths=[1.0])
    identity = effect["drop"].sel(edit="identity")
    assert effect.layer.values.tolist() == ["encoder 1", "decoder 1"]
    assert identity.sel(layer="decoder 1").isnull().all()
    assert (abs(identity.sel(layer="encoder 1")) > 1e-5).any()
    assert (abs(effect["drop"].sel(edit="mean")) > 1e-5).any("query").any("head").all()
    with pytest.raises(ValueError, match="edits must leave out 'identity'"):
        ablate_heads(subject.encoder, subject.X, subject.y, edits=["identity"])


def test_one_head_has_no_others(subject):
    encoder = BrainEncoder(heads=1, epochs=1).fit(subject.X, subject.y)
    effect = ablate_heads(encoder, subject.X, subject.y, edits=["zero"])
    assert effect.excess.isnull().all()
    assert effect["drop"].notnull().all()


def test_regions_that_cannot_be_scored_are_nan(subject):
    y = subject.y.copy()
    y[:, :6] = 1  # V1, and one unit of FFA
    effect = ablate_heads(subject.encoder, subject.X, y, edits=["zero"], strengths=[1.0])
    assert effect["drop"].isel(query=0).isnull().all()
    assert effect.drop_interval.isel(query=0).isnull().all()
    assert effect.drop_interval.isel(query=1).notnull().all()


def test_wrong_arguments_are_named(subject):
    X, y = subject.X, subject.y
    with pytest.raises(ValueError, match="number of stimuli must be at least 2, got 1"):
        ablate_heads(subject.encoder, X[:1], y[:1])
    for options, message in (
        ({"edits": ["one"]}, "edits must be one of 'zero', 'uniform', 'mean', 'identity', got 'one'"),
        ({"edits": []}, "number of edits must be at least 1, got 0"),
        ({"strengths": []}, "number of strengths must be at least 1, got 0"),
        ({"strengths": [1.5]}, "strengths must be between 0 and 1, got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            ablate_heads(subject.encoder, X, y, **options)
    with pytest.raises(ValueError, match=r"y must have shape \(60, 10\), got \(60, 9\)"):
        ablate_heads(subject.encoder, X, y[:, 1:])
    unit = BrainEncoder(readout="unit", heads=2, epochs=1).fit(X, y)
    with pytest.raises(ValueError, match="readout must be 'roi' or 'hemisphere' to tell regions, got 'unit'"):
        ablate_heads(unit, X, y)


# Edits, on the layer itself


@pytest.mark.parametrize("edit", ["zero", "uniform", "mean", "identity"])
def test_an_edited_head_reads_through_the_blended_map(edit):
    torch.manual_seed(0)
    layer, x, strength, head = CrossAttention(DIM, HEADS), torch.randn(3, 5, DIM), 0.3, 2
    _, maps = layer(x, x, map="heads")
    maps, mean = maps.detach(), maps.detach().mean(0)
    others = {
        "zero": torch.zeros(5, 5),
        "uniform": torch.full((5, 5), 0.2),
        "mean": mean[head],
        "identity": torch.eye(5),
    }
    maps[:, head] = (1 - strength) * maps[:, head] + strength * others[edit]
    values = torch.nn.functional.linear(x, layer.in_proj_weight[2 * DIM :], layer.in_proj_bias[2 * DIM :])
    read = maps @ values.view(3, 5, HEADS, WIDTH).transpose(1, 2)
    expected = layer.out_proj(read.transpose(1, 2).flatten(2))
    before, _ = layer(x, x)
    with edited_head(layer, head, edit, strength, mean[head]):
        got, _ = layer(x, x)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert (got - before).abs().max() > 1e-4
    torch.testing.assert_close(layer(x, x)[0], before, rtol=0, atol=0)


def test_mean_maps_are_those_of_the_encoder(subject):
    with mean_maps(encoder_layers(subject.encoder)) as maps:
        subject.encoder.predict(subject.X)
    expected = subject.encoder.attention(subject.X, per_head=True).mean("stimulus")
    expected = expected.transpose("head", "query", "y", "x").values.reshape(HEADS, 2, -1)
    np.testing.assert_allclose(maps["decoder 1"], expected, rtol=1e-5, atol=1e-7)


# Overlap


def importance_of(sets, n_heads=8, n_layers=1):
    """Importance (layer, head, query) that puts the given heads first."""
    values = np.zeros((len(sets), n_layers * n_heads))
    for row, heads in zip(values, sets, strict=True):
        row[list(heads)] = 1
    return xr.DataArray(values.T.reshape(n_layers, n_heads, len(sets)), dims=("layer", "head", "query"))


def test_planted_overlap_is_found_and_chance_is_not():
    same = head_overlap(importance_of([{0, 1, 2}] * 4), 3)
    assert same.mean_jaccard == 1
    assert same.mean_p == pytest.approx(1 / 1001)
    assert same.p.values[0, 1] == pytest.approx(1 / math.comb(8, 3))
    assert np.isnan(np.diag(same.jaccard)).all()
    apart = head_overlap(importance_of([{0, 1, 2}, {3, 4, 5}]), 3)
    assert apart.mean_jaccard == 0
    assert apart.mean_p == 1
    rng = np.random.default_rng(0)
    random = head_overlap(importance_of([rng.permutation(8)[:3] for _ in range(12)]), 3)
    assert abs(random.mean_jaccard - random.mean_expected) < 0.08
    assert random.mean_p > 0.05


def test_sets_that_prefer_one_layer_do_not_overlap_more_than_chance():
    """Both need the four heads of layer 2 most, and then two of layer 1 that differ."""
    values = np.zeros((2, 2, 4))
    values[:, 1] = 2
    values[0, 0, :2] = values[1, 0, 2:] = 1
    table = xr.DataArray(values, dims=("query", "layer", "head"))
    overlap = head_overlap(table, 4)
    assert overlap.member.sum(("set", "head")).values.tolist() == [0, 8]
    assert overlap.jaccard.values[0, 1] == overlap.expected.values[0, 1] == 1
    assert overlap.p.values[0, 1] == overlap.mean_p == 1
    overlap = head_overlap(table, 6)
    assert overlap.jaccard.values[0, 1] == 0.5
    assert overlap.expected.values[0, 1] == pytest.approx((4 / 8 + 4 * 5 / 7 + 6 / 6) / 6)
    assert overlap.p.values[0, 1] == pytest.approx(1)


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_chance_is_that_of_all_ways_to_draw(data):
    """Enumerate every set with as many heads of each layer as the second has."""
    k = data.draw(st.integers(1, 5))
    sets = [data.draw(st.permutations(range(8)))[:k] for _ in range(2)]
    overlap = head_overlap(importance_of(sets, n_heads=4, n_layers=2), k, n_permutations=1)
    first, second = map(set, sets)
    per_layer = [
        itertools.combinations(range(4 * layer, 4 * layer + 4), len([h for h in second if h // 4 == layer]))
        for layer in range(2)
    ]
    drawn = [first & {*a, *b} for a, b in itertools.product(*map(list, per_layer))]
    shared = np.array([len(heads) for heads in drawn])
    assert overlap.expected.values[0, 1] == pytest.approx((shared / (2 * k - shared)).mean())
    assert overlap.p.values[0, 1] == pytest.approx((shared >= len(first & second)).mean())
    assert overlap.jaccard.values[0, 1] == pytest.approx(len(first & second) / len(first | second))


def test_sets_are_named_by_subject_and_query(effect):
    drop = effect["drop"].sel(edit="zero", strength=1.0, drop=True)
    joined = xr.concat([drop, drop], xr.DataArray(["subj01", "subj02"], dims="subject", name="subject"))
    overlap = head_overlap(joined, 2)
    assert overlap["set"].values.tolist() == ["subj01 V1", "subj01 FFA", "subj02 V1", "subj02 FFA"]
    assert overlap.member.sum(("layer", "head")).values.tolist() == [2] * 4
    assert overlap.jaccard.values[0, 2] == 1
    assert not overlap.member.sel(head=USELESS).any()


def test_wrong_importance_is_refused():
    table = importance_of([{0}, {1}])
    with pytest.raises(ValueError, match="importance must have dims layer and head"):
        head_overlap(table.isel(layer=0), 1)
    with pytest.raises(ValueError, match="number of sets must be at least 2, got 1"):
        head_overlap(table[..., :1], 1)
    with pytest.raises(ValueError, match="k must be between 1 and 8, got 9"):
        head_overlap(table, 9)
    with pytest.raises(ValueError, match="importance must be finite"):
        head_overlap(table.where(table > 0), 1)


def test_figures_show_what_was_measured(effect):
    figure = plot_head_ablation(effect)
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == ["zero", "uniform", "mean"]
    shown = np.asarray(figure.axes[0].images[0].get_array())
    expected = effect["drop"].sel(edit="zero", strength=1.0).isel(layer=0).transpose("query", "head")
    np.testing.assert_array_equal(shown, expected)
    overlap = head_overlap(importance_of([{0, 1}, {0, 2}, {0, 1}]), 2)
    matrix = np.asarray(plot_head_overlap(overlap).axes[0].images[0].get_array())
    np.testing.assert_allclose(matrix[0, 1:], [1 / 3, 1])


def test_subjects_who_read_through_one_decoder_are_compared(subject):
    rois = {name: {"V1": np.arange(10) < 5, "FFA": np.arange(10) >= 5} for name in ("subj01", "subj02")}
    shared = SharedBrainEncoder(rois, heads=HEADS, epochs=1)
    shared.fit(dict.fromkeys(rois, subject.X), {"subj01": subject.y, "subj02": subject.y[:, ::-1]})
    drops = [
        ablate_heads(one, subject.X, subject.y, edits=["zero"], strengths=[1.0])["drop"]
        for one in shared.encoders_.values()
    ]
    joined = xr.concat(drops, xr.DataArray(list(shared.encoders_), dims="subject", name="subject"))
    overlap = head_overlap(joined.isel(edit=0, strength=0), 1)
    assert overlap["set"].values.tolist() == ["subj01 V1", "subj01 FFA", "subj02 V1", "subj02 FFA"]
    assert set(overlap.jaccard.values[np.triu_indices(4, 1)]) <= {0.0, 1.0}
