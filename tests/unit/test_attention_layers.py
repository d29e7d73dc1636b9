"""The comparison of attention layers, and attention as an option of the models."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from neuroattn.analyses import attention_layers, compare_attention_layers
from neuroattn.analyses.attention_layers import (
    BAG,
    NULL,
    TESTS,
    FitSpec,
    attention_layers_table,
    measure_cost,
    run_fit,
)
from neuroattn.analyses.layers_report import plot_attention_layers
from neuroattn.attention import MANAR, SoftmaxAttention, TokenAttention, make_gate
from neuroattn.datasets import make_search_arrays
from neuroattn.eeg import BaseNet, MotorImageryClassifier, insert_attention
from neuroattn.encoding import BrainEncoder, load_encoder
from neuroattn.scanpath import ObjectAttentionTransformer

SMALL = {"n_seeds": 2, "n_train": 128, "n_test": 40, "steps": 4, "width": 16, "depth": 1, "lengths": (16, 32)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layers") / "study"


@pytest.fixture(scope="module")
def study(folder):
    return compare_attention_layers(["manar", "static"], out=folder, **SMALL)


def test_every_layer_stands_beside_baseline_control_and_null(study):
    roles = dict(zip(study.layer.values, study.role.values, strict=True))
    assert roles == {
        "softmax": "reference",
        "manar": "attention",
        "static": "control",
        BAG: "baseline",
        NULL: "null",
    }
    assert study.accuracy.dims == ("layer", "seed", "split")
    assert list(study.split.values) == list(TESTS)
    assert study.accuracy.notnull().all()


def test_intervals_are_over_seeds_and_differences_paired(study):
    delta = study.accuracy - study.accuracy.sel(layer="softmax").drop_vars(["layer", "role"])
    np.testing.assert_allclose(
        study.difference, delta.mean("seed").transpose(*study.difference.dims), atol=1e-12
    )
    half = 12.706205 * delta.std("seed", ddof=1) / np.sqrt(2)  # t of one degree of freedom
    np.testing.assert_allclose(
        study.difference_ci.sel(bound="high"),
        (delta.mean("seed") + half).transpose("layer", "split"),
        atol=1e-6,
    )
    assert (study.difference.sel(layer="softmax") == 0).all()


def test_a_finished_network_is_not_trained_again(study, folder, monkeypatch):
    monkeypatch.setattr(attention_layers, "run_fit", lambda spec, data=None: pytest.fail("trained again"))
    again = compare_attention_layers(["manar", "static"], out=folder, resume=True, **SMALL)
    np.testing.assert_array_equal(again.accuracy, study.accuracy)
    with pytest.raises(ValueError, match="holds a study with another steps"):
        compare_attention_layers(["manar", "static"], out=folder, resume=True, **SMALL | {"steps": 5})


def test_outputs_are_written(study, folder):
    assert (folder / "study.nc").is_file()
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "table.md").read_text() == attention_layers_table(study)


def test_table_holds_every_layer_and_marks_sure_differences(study):
    sure = study.copy(deep=True)
    sure["difference_ci"].loc[{"layer": "manar", "split": "familiar"}] = [-0.3, -0.1]
    sure["difference"].loc[{"layer": "manar", "split": "familiar"}] = -0.2
    rows = attention_layers_table(sure).splitlines()
    assert rows[0].startswith("2 seeds, 4 steps of 32 items")
    assert len(rows) == 4 + study.sizes["layer"]
    assert "[-20.0]" in next(row for row in rows if row.startswith("| manar"))
    assert "[" not in rows[4]


def test_figure_has_an_axis_for_each_test_and_cost(study):
    axes = plot_attention_layers(study).axes
    assert [one.get_title() for one in axes[:4]] == list(TESTS)
    assert [tick.get_text() for tick in axes[0].get_yticklabels()] == list(study.layer.values)


def test_networks_of_a_seed_begin_alike_outside_attention():
    state = {}
    for name in ("softmax", "manar"):
        torch.manual_seed(0)
        network = attention_layers._build(name, 16, 2, (8, 7, 7), 25, 14)
        state[name] = {
            key: value for key, value in network.state_dict().items() if not key.startswith("attentions.")
        }
        assert isinstance(network.attentions[1], MANAR if name == "manar" else SoftmaxAttention)
    assert state["softmax"].keys() == state["manar"].keys()
    for key, value in state["softmax"].items():
        torch.testing.assert_close(value, state["manar"][key], rtol=0, atol=0)


def test_training_learns(tmp_path):
    attention_layers._store_items(tmp_path / "0.npz", 3000, 200, 0)
    labels = np.load(tmp_path / "0.npz")["familiar_labels"]
    run_fit(FitSpec(tmp_path / BAG, tmp_path / "0.npz", BAG, 0, 250, 64, 64, 1, 5e-3))
    accuracy = np.mean(np.load(tmp_path / BAG / "familiar.npy") == labels)
    assert accuracy > np.bincount(labels).max() / len(labels) + 0.08


def test_null_differs_from_the_reference_by_its_answers_alone(study):
    null, reference = study.sel(layer=NULL), study.sel(layer="softmax")
    assert (null.train_loss != reference.train_loss).all()
    assert null.n_parameters == reference.n_parameters


def test_cost_of_softmax_grows_faster():
    cost = measure_cost(["softmax", "inline"], [64, 512])
    growth = cost.layer_bytes.sel(length=512) / cost.layer_bytes.sel(length=64)
    assert growth.sel(layer="inline") < 8.5
    assert (cost.layer_seconds > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["softmx"]}, "names 'softmx' is unknown"),
        ({"width": 10}, "width must be a multiple of 4, got 10"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare_attention_layers(**{"names": ["inline"], "out": tmp_path / "new", **SMALL, **arguments})
    assert not (tmp_path / "new").exists()


# Attention as an option


def test_brain_encoder_takes_an_attention_between_tokens(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(24, 8, 3, 3)).astype("f4"), rng.normal(size=(24, 5)).astype("f4")
    encoder = clone(BrainEncoder(encoder_layers=1, encoder_attention="manar", heads=2, epochs=1)).fit(X, y)
    assert isinstance(encoder.network_.encoder[0].attention, MANAR)
    encoder.save(tmp_path / "encoder")
    np.testing.assert_allclose(load_encoder(tmp_path / "encoder").predict(X), encoder.predict(X), atol=1e-6)
    with pytest.raises(ValueError, match="encoder_attention 'manr' is unknown"):
        BrainEncoder(encoder_attention="manr", heads=2, epochs=1).fit(X, y)


def test_family_softmax_and_cross_attention_are_one_layer_of_the_encoder():
    """Both routes of the layer compute the same from the same weights."""
    from neuroattn.encoding.networks import SelfAttentionLayer

    own = SelfAttentionLayer(8, 2, 16, 0.0, "pre")
    other = SelfAttentionLayer(8, 2, 16, 0.0, "pre", "affine")
    other.load_state_dict(own.state_dict(), strict=False)
    tokens, position = torch.randn(2, 2, 6, 8).unbind(0)
    torch.testing.assert_close(own(tokens, position[0]), other(tokens, position[0]), atol=1e-5, rtol=1e-5)


def test_object_transformer_takes_an_attention_between_objects(tmp_path):
    dataset = make_search_arrays(n_scenes=6, n_observers=2, seed=0)
    model = ObjectAttentionTransformer(
        target="label", appearance="none", dim=16, heads=2, layers=1, feedforward=16, epochs=1,
        encoder_attention="manar",
    )  # fmt: skip
    model = clone(model).fit(dataset)
    layer = model.network_.core.encoder[0].self_attn
    assert isinstance(layer, MANAR)
    assert layer.workspace.log_kappa.max() < -1  # not drawn anew with the projections
    model.save(tmp_path / "model")
    again = ObjectAttentionTransformer.load(tmp_path / "model")
    assert again.score(dataset) == pytest.approx(model.score(dataset), abs=1e-5)


def test_padding_of_scenes_has_no_influence_on_manar():
    from neuroattn.scanpath.transformer import EncoderLayer

    layer = EncoderLayer(8, 2, 16, 0.0, "manar").eval()
    tokens = torch.randn(1, 6, 8)
    mask = torch.tensor([[True] * 4 + [False] * 2])
    torch.testing.assert_close(layer(tokens, mask)[:, :4], layer(tokens[:, :4], None), atol=1e-5, rtol=1e-5)


def test_windows_of_eeg_attend_to_each_other(tmp_path):
    options = {"n_concepts": 4}
    net = BaseNet(n_chans=3, n_outputs=2, n_times=500, attention="manar", attention_options=options)
    assert isinstance(net.attention, TokenAttention)
    again = BaseNet.from_config(net.get_config())
    again.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 500)
    torch.testing.assert_close(again.eval()(x), net.eval()(x))
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 3, 500)).astype("f4"), np.tile([0, 1], 6)
    classifier = MotorImageryClassifier(
        attention="manar", attention_options=options, n_epochs=1, sfreq=250, band=None
    )
    classifier = clone(classifier).fit(X, y)
    classifier.save(tmp_path / "model")
    loaded = MotorImageryClassifier.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict_proba(X), classifier.predict_proba(X), atol=1e-6)


def test_token_attention_goes_into_other_networks():
    class Net(torch.nn.Sequential):
        n_chans, n_times = 3, 100

    net = Net(torch.nn.Conv1d(3, 8, 5), torch.nn.AvgPool1d(4), torch.nn.Flatten(), torch.nn.Linear(192, 2))
    x = torch.randn(2, 3, 100)
    mixed = insert_attention(net, "manar", n_concepts=4)
    assert mixed(x).shape == (2, 2)
    assert not torch.allclose(mixed(x), net(x))


def test_token_attention_mixes_moments_in_any_order():
    layer = make_gate("manar", 8, n_concepts=4)
    x, order = torch.randn(2, 8, 20), torch.randperm(20)
    torch.testing.assert_close(layer(x)[..., order], layer(x[..., order]), atol=1e-5, rtol=1e-5)
    changed = x.clone()
    changed[:, 0, 0] += 3
    assert not torch.allclose(layer(x)[..., 1:], layer(changed)[..., 1:])
