"""BaseNet as a model of braindecode."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from neuroattn.attention import GATES, SqueezeExcite
from neuroattn.eeg import BaseNet, paper_settings

SMALL = {"n_chans": 6, "n_outputs": 3, "n_times": 400}


def make(attention=None, **changes):
    torch.manual_seed(0)
    return BaseNet(**SMALL | changes, attention=attention).eval()


def squeeze_excite(n_channels, n_times):
    return SqueezeExcite(n_channels, reduction=2)


X = torch.randn(8, 6, 400, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention", [None, *GATES])
def test_every_attention(attention):
    model = make(attention).train()
    out = model(X)
    assert out.shape == (8, 3)
    out.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    features = model.eval()(X, return_features=True)
    assert torch.equal(model.final_layer(features["features"]), model(X))
    if attention is None:
        assert features["gate"] is None
    else:
        assert features["gate"].shape[:2] == (8, 16)


def test_gate_scales_the_features():
    class Half(nn.Module):
        def gate(self, x):
            return x.new_full(x.shape[:2], 0.5)

        def forward(self, x, return_gate=False):
            y = 0.5 * x
            return (y, self.gate(x)) if return_gate else y

    plain, halved = make(), make(lambda n_channels, n_times: Half())
    halved.load_state_dict(plain.state_dict())
    out = halved(X, return_features=True)
    torch.testing.assert_close(out["features"], 0.5 * plain(X, return_features=True)["features"])
    assert torch.equal(out["gate"], torch.full((8, 16), 0.5))
    # A module without a gate to show is an attention as well.
    assert make(nn.Identity())(X, return_features=True)["gate"] is None


def test_attention_sees_its_window_length():
    seen = []
    make(lambda n_channels, n_times: seen.append((n_channels, n_times)) or nn.Identity(), n_features=12)
    make(
        lambda n_channels, n_times: seen.append((n_channels, n_times)) or nn.Identity(),
        feature_filter_length=14,
    )
    assert seen == [(12, 22), (16, 23)]
    with torch.no_grad():
        windows = []
        model = make(nn.Identity(), feature_filter_length=14)
        model.attention.register_forward_hook(lambda module, args, out: windows.append(out.shape[1:]))
        model(X)
    assert windows == [(16, 23)]


@pytest.mark.parametrize(
    "lengths", [{}, {"filter_length": 24}, {"feature_filter_length": 14, "pool_stride": 7}]
)
def test_shortest_window(lengths):
    with pytest.raises(ValueError, match="n_times must be at least") as error:
        make(n_times=30, **lengths)
    shortest = int(str(error.value).split("at least ")[1].split()[0])
    assert make(n_times=shortest, **lengths)(torch.zeros(1, 6, shortest)).shape == (1, 3)
    with pytest.raises(ValueError, match=f"n_times must be at least {shortest} .* got {shortest - 1}$"):
        make(n_times=shortest - 1, **lengths)


def test_windows_that_pool_alike_are_accepted():
    model = make()
    assert model(torch.zeros(2, 6, 401)).shape == (2, 3)
    with pytest.raises(
        ValueError, match="x must have about 400 samples, as the model was built for, got 800"
    ):
        model(torch.zeros(2, 6, 800))
    with pytest.raises(ValueError, match=r"x must have shape \(batch, 6, time\), got \(2, 5, 400\)"):
        model(torch.zeros(2, 5, 400))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("drop_prob", 1.5),
        ("n_features", 0),
        ("filter_length", 0),
        ("feature_pool_stride", 0),
        ("n_filters", 0),
    ],
)
def test_arguments_are_checked(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be .*, got {value}"):
        make(**{argument: value})


def test_signal_is_inferred():
    info = [{"ch_name": str(i)} for i in range(6)]
    model = BaseNet(n_outputs=2, chs_info=info, sfreq=250, input_window_seconds=2.0)
    assert (model.n_chans, model.n_times) == (6, 500)
    with pytest.raises(ValueError, match="n_times could not be inferred"):
        BaseNet(n_chans=6, n_outputs=2)


def test_another_sampling_frequency_is_pointed_out():
    with pytest.warns(
        UserWarning, match="sfreq=128 .* filter_length=13, pool_length=38, pool_stride=8"
    ) as caught:
        make(sfreq=128)
    assert caught[0].filename == __file__
    make(sfreq=128, filter_length=13, pool_length=38, pool_stride=8)  # warnings are errors here
    make(sfreq=250)


def test_names_of_braindecode_load():
    from braindecode.models import AttentionBaseNet

    torch.manual_seed(0)
    theirs = AttentionBaseNet(n_chans=6, n_outputs=3, n_times=400).eval()
    with torch.no_grad():
        for buffer in theirs.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    ours = make()
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(X), theirs(X), rtol=1e-4, atol=1e-5)


def test_reset_head():
    model = make("eca").double()
    before = model(X.double(), return_features=True)["features"]
    model.reset_head(5)
    assert model(X.double()).shape == (8, 5)
    assert torch.equal(model(X.double(), return_features=True)["features"], before)
    assert (model.n_outputs, model.get_config()["n_outputs"]) == (5, 5)
    assert next(reversed(model._modules)) == "final_layer"
    with pytest.raises(ValueError, match="n_outputs must be at least 1, got 0"):
        model.reset_head(0)


def test_configuration_through_json():
    model = make(
        "cbam", attention_options={"reduction": 8, "kernel_size": 5}, activation=nn.GELU, drop_prob=0.1
    )
    again = BaseNet.from_config(json.loads(json.dumps(model.get_config()))).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(X), model(X))
    assert isinstance(again.stem.activation, nn.GELU)
    with pytest.raises(
        TypeError, match="attention must be a name or None to be written as a config, got Squeeze"
    ):
        make(SqueezeExcite(16)).get_config()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(duplicate):
    model = make("ge-theta-plus")
    again = duplicate(model)
    assert torch.equal(again(X), model(X))
    assert again.get_config() == model.get_config()
    again.final_layer.bias.data += 1
    assert not torch.equal(again(X), model(X))


def test_training_step_compiled_in_one_graph():
    model = make(drop_prob=0.0).train()
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for network in (model, compiled):
        network(X).square().sum().backward()
    for ours, plain in zip(twin.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-3, atol=1e-4)
    for ours, plain in zip(twin.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(ours, plain)


def test_exported():
    model = make("eca")
    program = torch.export.export(model, (X,))
    torch.testing.assert_close(program.module()(X), model(X))


def test_grid_search_over_attentions():
    from braindecode import EEGClassifier
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV

    rng = np.random.default_rng(0)
    y = np.arange(24) % 2
    x = (rng.standard_normal((24, 3, 200)) * (1 + 3 * y[:, None, None])).astype("float32")
    classifier = EEGClassifier(
        BaseNet,
        max_epochs=2,
        batch_size=8,
        train_split=None,
        iterator_train__drop_last=False,
        verbose=0,
        module__drop_prob=0.0,
    )
    search = GridSearchCV(clone(classifier), {"module__attention": [None, "eca", squeeze_excite]}, cv=2)
    search.fit(x, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.module_.n_times == 200
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.predict(x), search.predict(x))


@pytest.mark.parametrize("dataset", ["bcic2a", "bcic2b", "hgd", "bcic3"])
def test_settings_of_the_paper_build(dataset):
    for attention in (None, *GATES):
        settings = paper_settings(dataset, attention)
        model = BaseNet(**settings.model)
        assert model.n_times == (settings.window[1] - settings.window[0]) * settings.sfreq
    assert paper_settings(dataset).n_epochs == 1000
    assert paper_settings(dataset, across_subjects=True).n_epochs < 200


def test_parameters_of_the_paper():
    """Table 1; its rows of ECA and CAT do not count the kernels that the paper says it used."""
    counts = {
        None: 3692, "se": 3820, "gsop": 4120, "encnet": 4040, "ge-theta-minus": 3692, "ge-theta": 4716,
        "ge-theta-plus": 4844, "gct": 3740, "srm": 3756, "srm-cross": 4108, "cbam": 3787, "catlite": 3848,
    }  # fmt: skip
    for attention, count in counts.items():
        model = BaseNet(**paper_settings("bcic2a", attention).model)
        buffers = 5 if attention == "catlite" else 0  # the paper counts the fixed blurring filter
        assert sum(p.numel() for p in model.parameters()) + buffers == count, attention


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match=r"dataset must be one of 'bcic2a', .*, got 'bcic2c'"):
        paper_settings("bcic2c")
    with pytest.raises(ValueError, match="attention 'ecca' is unknown; nearest are 'eca'"):
        paper_settings("bcic2a", "ecca")
