"""Against vectors of the published BaseNet and its recipe (github.com/martinwimpff/channel-attention at f1ee0d4).

Recorded with torch 2.13.0+cpu in float64 from random inputs and randomised parameters; ``bd`` from braindecode 1.8.1.
Tolerance 1e-8 on outputs; gradients relative to the largest of each parameter.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from neuroattn.eeg import BaseNet, Standardizer, load_reference, stem, warmup_cosine
from neuroattn.eeg.recipe import _recombine

COMMITTED = ("none", "se", "srm")
OTHERS = (
    "cat", "catlite", "cbam", "eca", "encnet", "fca", "gct", "ge_theta", "ge_theta_minus", "ge_theta_plus",
    "gsop", "srm_cross",
)  # fmt: skip
FOLDER = Path(__file__).parent / "eeg"


@pytest.fixture(params=[*COMMITTED, *(pytest.param(name, marks=pytest.mark.shared_data) for name in OTHERS)])
def vector(request, shared):
    folder = FOLDER if request.param in COMMITTED else shared / "parity" / "eeg"
    return np.load(folder / f"basenet_bcic2a_{request.param}.npz")


@pytest.fixture(params=["mixed first", "as published"])
def order(request, monkeypatch):
    monkeypatch.setattr(stem, "_mixes_first", lambda *shape: request.param == "mixed first")


@pytest.fixture(scope="module")
def data():
    z = np.load(FOLDER / "input_bcic2a.npz")
    return torch.from_numpy(z["x"]).double(), torch.from_numpy(z["y"])


def config_of(z):
    return json.loads(str(z["config_json"]))


def tensors(z, prefix):
    """Return the arrays below a prefix, in float64 where they are floating."""
    named = {k.removeprefix(prefix): torch.from_numpy(z[k]) for k in z.files if k.startswith(prefix)}
    return {k: v.double() if v.is_floating_point() else v for k, v in named.items()}


def build(z, prefix="sd/", **replaced):
    return load_reference(tensors(z, prefix) | replaced, config_of(z))


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.train()


def assert_near(ours, published, tolerance):
    ours, published = ours.detach(), published.detach()
    scale = max(float(published.abs().max()), 1e-6)
    assert float((ours - published).abs().max()) <= tolerance * scale


@pytest.mark.usefixtures("order")
def test_stages_and_logits(vector, data):
    model = build(vector)
    seen = {}
    stages = {"h1_input_block": model.drop, "h2_channel_expansion": model.expansion}
    stages |= {"h3_dwsep_conv": model.separable, "h5_pooled": model.pool}
    if model.attention is not None:
        stages["h4_attention"] = model.attention
    hooks = [
        module.register_forward_hook(lambda module, args, out, name=name: seen.update({name: out}))
        for name, module in stages.items()
    ]
    with torch.no_grad():
        logits = model(data[0])
    for hook in hooks:
        hook.remove()
    for name, out in seen.items():
        published = torch.from_numpy(vector[f"{name}_eval_f64"])
        assert float((out.reshape(published.shape) - published).abs().max()) < 1e-8, name
    assert seen.keys() == stages.keys()
    for name in ("logits_eval_f64", "bd_logits_eval_f64"):
        np.testing.assert_allclose(logits, vector[name], atol=1e-8)
    with torch.no_grad():
        single = model.float()(data[0].float())
    np.testing.assert_allclose(single, vector["logits_eval_f32"], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("order")
def test_training_step(vector, data):
    model, (x, y) = without_dropout(build(vector)), data
    x = x.clone().requires_grad_()
    logits = model(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    np.testing.assert_allclose(logits.detach(), vector["logits_train_nodrop_f64"], atol=1e-8)
    np.testing.assert_allclose(loss.item(), vector["loss_train_nodrop_f64"], atol=1e-9)
    assert_near(x.grad[:1], torch.from_numpy(vector["gx_train_nodrop_f32"]), 1e-5)
    gradients = build(vector, **tensors(vector, "g_train_nodrop_f64/"))
    for (name, parameter), published in zip(model.named_parameters(), gradients.parameters(), strict=True):
        if parameter.requires_grad:
            assert_near(parameter.grad, published, 1e-7)
            assert parameter.grad.abs().max() > 0 or name == "stem.temporal_norm.bias"
    after = build(vector, **tensors(vector, "after_train_buf/"))
    for (name, ours), published in zip(model.named_buffers(), after.buffers(), strict=True):
        np.testing.assert_allclose(ours, published, rtol=1e-9, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("variant", ["se", pytest.param("none", marks=pytest.mark.shared_data)])
def test_ten_steps_of_adam(variant, shared):
    folder = FOLDER if variant == "se" else shared / "parity" / "eeg"
    z, batches = np.load(folder / f"traj10_bcic2a_{variant}.npz"), np.load(FOLDER / "traj10_batches.npz")
    x, y = torch.from_numpy(batches["x"]).double(), torch.from_numpy(batches["y"])
    model = without_dropout(build(z, "sd0/"))
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, partial(warmup_cosine, n_warmup=4, n_epochs=10))
    for step in range(10):
        np.testing.assert_allclose(adam.param_groups[0]["lr"], z["lr"][step], atol=1e-15)
        adam.zero_grad()
        loss = F.cross_entropy(model(x[step % 2]), y[step % 2])
        np.testing.assert_allclose(loss.item(), z["losses"][step], atol=1e-7)
        loss.backward()
        adam.step()
        schedule.step()
    end = build(z, "sd10/")
    for (name, ours), published in zip(model.state_dict().items(), end.state_dict().values(), strict=True):
        # A gradient of rounding errors alone moves a bias that changes nothing.
        tolerance = 1e-4 if name == "stem.temporal_norm.bias" else 1e-6
        np.testing.assert_allclose(ours, published, atol=tolerance, err_msg=name)


def test_braindecode_names_load_as_well(data):
    z = np.load(FOLDER / "basenet_bcic2a_se.npz")
    names = {"classifier.": "final_layer.", "n_channels": "n_chans", "input_window_samples": "n_times"}
    names |= {"n_classes": "n_outputs"}
    weights = {k.replace("classifier.", names["classifier."]): v for k, v in tensors(z, "sd/").items()}
    config = {names.get(k, k): v for k, v in config_of(z).items()}
    with torch.no_grad():
        logits = load_reference(weights, config | {"drop_prob_inp": 0.25, "drop_prob_attn": 0.0})(data[0])
    np.testing.assert_allclose(logits, z["bd_logits_eval_f64"], atol=1e-8)


@pytest.mark.parametrize("mode", [None, "se", "eca", "cbam"])
@pytest.mark.parametrize(
    ("n_chans", "n_times", "reduction_rate", "kernel_size"),
    [(3, 1000, 1, 11), (3, 350, 1, 7), (44, 1000, 8, 15)],
    ids=["bcic2b", "bcic3", "hgd"],
)
def test_networks_of_the_other_data_sets(mode, n_chans, n_times, reduction_rate, kernel_size):
    """Against braindecode itself, whose difference from the published networks is exactly zero."""
    from braindecode.models import AttentionBaseNet

    torch.manual_seed(0)
    config = {"n_chans": n_chans, "n_times": n_times, "n_outputs": 2, "attention_mode": mode}
    config |= {"reduction_rate": reduction_rate, "kernel_size": kernel_size}
    theirs = AttentionBaseNet(**config).double().eval()
    with torch.no_grad():
        for name, buffer in theirs.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
        x = torch.randn(2, n_chans, n_times, dtype=torch.float64)
        ours = load_reference(theirs.state_dict(), config)
        np.testing.assert_allclose(ours(x), theirs(x), atol=1e-8)


def test_what_does_not_fit_is_refused():
    z = np.load(FOLDER / "basenet_bcic2a_se.npz")
    weights, config = tensors(z, "sd/"), config_of(z)
    with pytest.raises(ValueError, match="without a place \\['surprise'\\]"):
        load_reference(weights | {"surprise": torch.zeros(1)}, config)
    with pytest.raises(ValueError, match="config must have the attention_mode of the attention"):
        load_reference(weights, config | {"attention_mode": None})
    with pytest.raises(ValueError, match=r"state_dict does not fit config: size mismatch for stem\.spatial"):
        load_reference(weights, config | {"n_channels": 21})
    with pytest.raises(ValueError, match="config must have 'n_classes' or 'n_outputs'"):
        load_reference(weights, {"n_channels": 22})
    del weights["classifier.1.bias"]
    with pytest.raises(ValueError, match=r"missing \['final_layer.bias'\]"):
        load_reference(weights, config)


RECIPE = np.load(FOLDER / "recipe.npz")


@pytest.mark.parametrize("name", [name for name in RECIPE.files if name.startswith("lr_mult")])
def test_learning_rate(name):
    n_warmup, n_epochs = (int(part[1:]) for part in name.split("_")[2:])
    ours = [warmup_cosine(epoch, n_warmup, n_epochs) for epoch in range(n_epochs)]
    np.testing.assert_allclose(ours, RECIPE[name], atol=1e-12)


@pytest.mark.parametrize(("case", "n_segments"), [("a", 8), ("b", 7)])
def test_recombination(case, n_segments):
    """The published draws, made from the recorded seeds, give the published trials."""
    x, y = RECIPE[f"interaug_{case}_x"], RECIPE[f"interaug_{case}_y"]
    random, order = np.random.RandomState(2), torch.Generator().manual_seed(2)
    draws = [
        np.stack([random.randint(0, n, n_segments) for _ in range(n)])
        for n in np.unique(y, return_counts=True)[1]
    ]
    out_x, out_y = _recombine(x, y, draws, torch.randperm(2 * len(y), generator=order).numpy())
    np.testing.assert_array_equal(out_x, RECIPE[f"interaug_{case}_out_x"])
    np.testing.assert_array_equal(out_y, RECIPE[f"interaug_{case}_out_y"])


def test_standardisation():
    scaler = Standardizer().fit(RECIPE["zscale_train"])
    for part in ("train", "test"):
        np.testing.assert_allclose(
            scaler.transform(RECIPE[f"zscale_{part}"]), RECIPE[f"zscale_{part}_out"], atol=1e-12
        )


@pytest.mark.shared_data
def test_parameter_counts(shared):
    counts = json.loads((shared / "parity" / "eeg" / "param_counts.json").read_text())
    sizes = {"bcic2a": (22, 4, 1000), "bcic2b": (3, 2, 1000), "bcic3": (3, 2, 350), "hgd": (44, 4, 1000)}
    for dataset, (n_chans, n_outputs, n_times) in sizes.items():
        model = BaseNet(n_chans, n_outputs, n_times)
        assert sum(p.numel() for p in model.parameters()) == counts[f"{dataset}/none"][0]
