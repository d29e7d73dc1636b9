import copy
import json
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from neuroattn.attention import GATES, GatedChannelTransformation, load_reference_gate
from neuroattn.eeg import insert_attention, inserted_attentions
from neuroattn.eeg.insert import FeatureMapGate

# Model, where the attention goes, channels there.
PLACES = [
    ("EEGNet", "pool_2", 16),
    ("ShallowFBCSPNet", "pool", 40),
    ("Deep4Net", "pool_4", 200),
    ("EEGConformer", "patch_embedding.shallownet.4", 40),
    ("ATCNet", "conv_block.pool3", 32),
    ("AttentionBaseNet", "channel_attention_block.pool", 16),
    ("EEGNeX", "block_5.3", 8),
    ("EEGTCNet", "eegnet_tc.pool2", 16),  # one activation module serves three feature maps
    ("BDTCN", "base_tcn.temporal_blocks.temporal_block_2.conv2", 30),  # no pooling, three axes
]
N_CHANS, N_TIMES = 5, 1000


def make(name, **options):
    import braindecode.models

    torch.manual_seed(0)
    model = getattr(braindecode.models, name)
    return model(n_chans=N_CHANS, n_outputs=3, n_times=N_TIMES, sfreq=250, **options).eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(4, N_CHANS, N_TIMES, generator=torch.Generator().manual_seed(1))


def gates_of(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, FeatureMapGate)}


@pytest.mark.parametrize(("name", "place", "n_channels"), PLACES, ids=[name for name, _, _ in PLACES])
def test_place_and_effect(name, place, n_channels, x):
    model = make(name)
    before = model(x)
    gated = insert_attention(model, "gct")
    assert type(gated) is type(model)
    assert list(gates_of(gated)) == [f"{place}.attention"]
    gate = gates_of(gated)[f"{place}.attention"].gate
    assert gate.n_channels == n_channels
    torch.testing.assert_close(gated(x), before)  # this gate starts as the identity
    with torch.no_grad():
        gate.beta.copy_(torch.linspace(-2, 2, n_channels))
        gate.gamma.fill_(0.5)
    assert not torch.allclose(gated(x), before, atol=1e-4)
    assert gates_of(model) == {}
    assert torch.equal(model(x), before)
    gated.train()(x).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in (gate.alpha, gate.beta, gate.gamma))


@pytest.fixture(scope="module")
def shallow():
    return make("ShallowFBCSPNet", drop_prob=0.0)


@pytest.mark.parametrize("name", GATES)
def test_every_gate_fits_and_trains(name, shallow, x):
    torch.manual_seed(0)
    gated = insert_attention(shallow, name).train()
    optimizer = torch.optim.Adam(gated.parameters(), 1e-3)
    y = torch.tensor([0, 1, 2, 0])
    losses = []
    for _ in range(4):
        loss = nn.functional.cross_entropy(gated(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_copies_pickles_and_states(shallow, x):
    torch.manual_seed(3)
    gated = insert_attention(shallow, "se")
    out = gated(x)
    for other in (copy.deepcopy(gated), pickle.loads(pickle.dumps(gated)), clone(gated, safe=False)):
        assert torch.equal(other(x), out)
    fresh = insert_attention(make("ShallowFBCSPNet"), "se")
    assert not torch.equal(fresh(x), out)
    fresh.load_state_dict(gated.state_dict())
    assert torch.equal(fresh(x), out)
    added = set(gated.state_dict()) - set(shallow.state_dict())
    assert added == {f"pool.attention.gate.excite.{i}.weight" for i in (0, 2)}
    assert set(shallow.state_dict()) <= set(gated.state_dict())


def test_gated_model_in_a_classifier(shallow, x):
    from braindecode import EEGClassifier

    gated = insert_attention(shallow, "eca", kernel_size=3)
    classifier = clone(
        EEGClassifier(
            gated, max_epochs=1, train_split=None, batch_size=2, iterator_train__drop_last=False, verbose=0
        )
    )
    y = np.array([0, 1, 2, 0])
    assert classifier.fit(x.numpy(), y).predict_proba(x.numpy()).shape == (4, 3)


def test_named_place_with_electrodes_and_time(x):
    """Where a map has two long axes, one factor holds for all of a channel."""
    gated = insert_attention(make("EEGNet"), "gct", after="bnorm_temporal")
    gate = gates_of(gated)["bnorm_temporal.attention"].gate
    assert gate.n_channels == 8
    with torch.no_grad():
        gate.beta.copy_(torch.linspace(-1, 1, 8))
    seen = {}
    parts = gated.get_submodule("bnorm_temporal")
    parts.inner.register_forward_hook(lambda module, args, out: seen.update(given=out))
    parts.register_forward_hook(lambda module, args, out: seen.update(returned=out))
    gated(x)
    factors = 1 + torch.linspace(-1, 1, 8).tanh()
    torch.testing.assert_close(seen["returned"], seen["given"] * factors[:, None, None])


def test_two_attentions(shallow):
    twice = insert_attention(insert_attention(shallow, "se"), "eca", after="bnorm")
    assert list(gates_of(twice)) == ["bnorm.attention", "pool.attention"]


def test_configuration_round_trip(shallow, x):
    twice = insert_attention(
        insert_attention(shallow, "se", reduction=2), "eca", after="bnorm", kernel_size=3
    )
    twice = pickle.loads(pickle.dumps(twice))
    written = json.loads(json.dumps({"model": twice.get_config(), "inserted": inserted_attentions(twice)}))
    again = type(shallow).from_config(written["model"]).eval()
    for arguments in written["inserted"]:
        again = insert_attention(again, **arguments)
    again.load_state_dict(twice.state_dict())
    assert torch.equal(again(x), twice(x))
    assert inserted_attentions(again) == written["inserted"]
    assert inserted_attentions(shallow) == []
    with pytest.raises(TypeError, match="given by name, got a GatedChannelTransformation"):
        inserted_attentions(insert_attention(shallow, GatedChannelTransformation(40)))


@pytest.mark.parametrize(
    "build",
    [
        lambda model, x: torch.compile(model, fullgraph=True, backend="aot_eager"),
        lambda model, x: torch.export.export(model, (x,)).module(),
    ],
    ids=["compile", "export"],
)
def test_gated_models_compile_and_export(build, shallow, x):
    gated = insert_attention(shallow, "se")
    torch.testing.assert_close(build(gated, x)(x), gated(x))


def test_precision_and_mode_are_those_of_the_model(x):
    model = make("ShallowFBCSPNet").double().train()
    gated = insert_attention(model, "srm")
    gate = gates_of(gated)["pool.attention"].gate
    assert gate.training
    assert {p.dtype for p in gate.parameters()} == {torch.float64}
    assert gated(x.double()).dtype == torch.float64
    assert all(module.training for module in model.modules())
    evaluated = gates_of(insert_attention(model.eval(), "srm"))["pool.attention"]
    assert not any(module.training for module in evaluated.modules())


def test_none_is_a_copy(shallow, x):
    plain = insert_attention(shallow, None)
    assert plain is not shallow
    assert list(plain.state_dict()) == list(shallow.state_dict())
    assert torch.equal(plain(x), shallow(x))


def test_statistics_of_the_model_are_not_touched(shallow):
    before = copy.deepcopy(shallow.state_dict())
    insert_attention(shallow.train(), "se")
    shallow.eval()
    assert all(torch.equal(value, before[name]) for name, value in shallow.state_dict().items())


@pytest.mark.parametrize("mode", ["se", "gsop", "cat"])
def test_place_is_that_of_the_published_network(mode, x):
    """Braindecode's BaseNet with attention is its plain BaseNet with the same attention put in."""
    published = make("AttentionBaseNet", attention_mode=mode)
    prefix = "channel_attention_block.attention_block."
    state = published.state_dict()
    block = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    plain = make("AttentionBaseNet")
    plain.load_state_dict({name: value for name, value in state.items() if not name.startswith(prefix)})
    gated = insert_attention(plain, load_reference_gate(mode, block, {}))
    torch.testing.assert_close(gated(x), published(x))
    assert not torch.allclose(plain(x), published(x), atol=1e-3)


def test_wrong_places_are_refused(shallow):
    with pytest.raises(ValueError, match="after 'pol' is unknown; nearest are 'pool'"):
        insert_attention(shallow, "se", after="pol")
    with pytest.raises(ValueError, match=r"'block_5.5' returns \(2, 248\)"):
        insert_attention(make("EEGNeX"), "se", after="block_5.5")
    with pytest.raises(ValueError, match=r"'eegnet_tc.activation' is called 3 times"):
        insert_attention(make("EEGTCNet"), "se", after="eegnet_tc.activation")


class Flat(nn.Sequential):
    n_chans, n_times = 2, 10


def test_models_without_a_place_are_refused():
    with pytest.raises(ValueError, match="after must be given for Flat: no feature map"):
        insert_attention(Flat(nn.Flatten(), nn.Linear(20, 3)), "se")
    with pytest.raises(TypeError, match=r"model must have n_chans and n_times, .* got a Linear"):
        insert_attention(nn.Linear(3, 2), "se")
    with pytest.raises(ValueError, match="reduction must be between 1 and the 2 channels, got 4"):
        insert_attention(Flat(nn.Conv1d(2, 2, 3), nn.Flatten(), nn.Linear(16, 3)), "se")


def test_pooling_that_leaves_one_sample_is_not_the_place():
    head = nn.Flatten(), nn.Linear(4, 3)
    pooled = Flat(nn.Conv1d(2, 4, 3), nn.AvgPool1d(2), nn.ELU(), nn.AvgPool1d(4), *head)
    assert list(gates_of(insert_attention(pooled, "se"))) == ["1.attention"]
    once = Flat(nn.Conv1d(2, 4, 3), nn.ELU(), nn.AvgPool1d(8), *head)
    assert list(gates_of(insert_attention(once, "se"))) == ["0.attention"]


def test_modules_used_twice_are_not_the_place():
    pool, norm = nn.AvgPool1d(2), nn.BatchNorm1d(4)
    shared = Flat(nn.Conv1d(2, 4, 3), norm, pool, norm, pool, nn.Flatten(), nn.Linear(8, 3))
    assert list(gates_of(insert_attention(shared, "se"))) == ["0.attention"]


def test_head_is_not_the_place():
    class Headed(nn.Module):
        n_chans, n_times = 2, 10

        def __init__(self):
            super().__init__()
            self.features = nn.Conv1d(2, 4, 3)
            self.final_layer = nn.Sequential(nn.Conv1d(4, 3, 1), nn.AvgPool1d(2))

        def forward(self, x):
            return self.final_layer(self.features(x)).mean(-1)

    assert list(gates_of(insert_attention(Headed(), "se"))) == ["features.attention"]


def test_factory_is_told_channels_and_samples():
    told = []

    def factory(n_channels, n_times):
        told.append((n_channels, n_times))
        return GatedChannelTransformation(n_channels)

    insert_attention(Flat(nn.Conv1d(2, 4, 3), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(16, 3)), factory)
    assert told == [(4, 8)]
