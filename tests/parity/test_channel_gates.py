"""Against vectors of the published channel attention (github.com/martinwimpff/channel-attention at f1ee0d4).

Recorded with torch 2.13.0+cpu in float64 from float32 parameters: one block each, in evaluation and in training
mode, with the gradients of sum(output * grad_output). The committed file holds every third sample of outputs and of
their gradients, and training mode where it differs. Tolerance 1e-8 on outputs.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroattn.attention import GATES, load_reference_gate, make_gate
from neuroattn.attention.gates_reference import plan_reference_gate

FOLDER = Path(__file__).parent / "eeg"
VECTORS = np.load(FOLDER / "channel_gates.npz")
BLOCKS = sorted({name.partition("/")[0] for name in VECTORS.files})
PREFIX = "channel_attention_block.attention_block."


def vector(block):
    """Return the arrays of one block by their names."""
    return {name.partition("/")[2]: VECTORS[name] for name in VECTORS.files if name.startswith(f"{block}/")}


def state_of(arrays, prefix="sd/"):
    return {name[len(prefix) :]: torch.from_numpy(a) for name, a in arrays.items() if name.startswith(prefix)}


def check(arrays, mode, training, step=1):
    """Compare output, gradients and buffers of a block with those recorded."""
    config = json.loads(str(arrays["config_json"]))
    state = state_of(arrays)
    gate = load_reference_gate(config["mode"], state, config).double().train(training)
    _, names = plan_reference_gate(config["mode"], state, config)
    x = torch.from_numpy(arrays["x"]).double().requires_grad_()
    y = gate(x)
    (y * torch.from_numpy(arrays["grad_output"])).sum().backward()
    np.testing.assert_allclose(y.detach()[..., ::step], arrays[f"y_{mode}_f64"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(x.grad[..., ::step], arrays[f"gx_{mode}_f64"], rtol=0, atol=1e-8)
    for ours, parameter in gate.named_parameters():
        if parameter.requires_grad:
            published = np.concatenate([arrays[f"g_{mode}_f64/{name}"].ravel() for name in names[ours]])
            np.testing.assert_allclose(parameter.grad.ravel(), published, rtol=1e-8, atol=1e-8)
    after = {ours: f"after_train_buf/{names[ours][0]}" for ours, _ in gate.named_buffers() if "norm" in ours}
    for ours, published in after.items():
        if training:
            np.testing.assert_allclose(gate.get_buffer(ours), arrays[published], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("block", BLOCKS)
def test_block(block, training):
    arrays = vector(block)
    check(arrays, "train" if training and "y_train_f64" in arrays else "eval", training, step=3)


@pytest.mark.shared_data
def test_every_sample_of_every_block(shared):
    files = sorted((shared / "parity" / "eeg").glob("block_*.npz"))
    assert len(files) >= len(BLOCKS)
    for path in files:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        for name in ("x", "grad_output", "y_eval_f64", "y_train_f64", "gx_eval_f64", "gx_train_f64"):
            arrays[name] = arrays[name].squeeze(2)
        check(arrays, "eval", training=False)
        check(arrays, "train", training=True)


@pytest.mark.shared_data
def test_blocks_inside_networks(shared):
    """A network's configuration names the options of all gates; its block's parameters and mode pick one."""
    found = 0
    for path in sorted((shared / "parity" / "eeg").glob("basenet_*.npz")):
        with np.load(path) as stored:
            config = json.loads(str(stored["config_json"]))
            if "attention_mode" not in config:
                continue
            state = state_of({n: stored[n] for n in stored.files if PREFIX in n}, f"sd/{PREFIX}")
            x, expected = stored["h3_dwsep_conv_eval_f64"][:, :, 0], stored["h4_attention_eval_f64"][:, :, 0]
        gate = load_reference_gate(config["attention_mode"], state, config).double()
        np.testing.assert_allclose(gate(torch.from_numpy(x)).detach(), expected, rtol=0, atol=1e-8)
        found += 1
    assert found >= 14


OTHER_ARGUMENTS = [
    {"attention_mode": "se", "reduction_rate": 8},
    {"attention_mode": "se", "reduction_rate": 16},
    {"attention_mode": "gsop", "reduction_rate": 1},
    {"attention_mode": "fca", "freq_idx": 3},
    {"attention_mode": "encnet", "n_codewords": 2},
    {"attention_mode": "eca", "kernel_size": 15},
    {"attention_mode": "eca", "kernel_size": 5, "ch_dim": 7},
    {"attention_mode": "ge", "ch_dim": 12},
    {"attention_mode": "ge", "use_mlp": True},
    {"attention_mode": "ge", "extra_params": True, "use_mlp": True, "reduction_rate": 6},
    {"attention_mode": "gct"},
    {"attention_mode": "srm", "use_mlp": True, "reduction_rate": 5},
    {"attention_mode": "cbam", "reduction_rate": 4, "kernel_size": 9},
    {"attention_mode": "cat", "kernel_size": 7},
    {"attention_mode": "cat", "reduction_rate": 3, "kernel_size": 5, "ch_dim": 10},
    {"attention_mode": "catlite", "reduction_rate": 16},
]


@pytest.mark.parametrize("told", ["arguments", "nothing"])
@pytest.mark.parametrize("arguments", OTHER_ARGUMENTS, ids=lambda a: "-".join(map(str, a.values())))
def test_other_arguments_against_braindecode(arguments, told):
    """Its blocks equal the published ones; sizes come from the options or else from the parameters."""
    from braindecode.models import AttentionBaseNet

    torch.manual_seed(0)
    network = AttentionBaseNet(n_chans=3, n_outputs=2, n_times=1000, sfreq=250, **arguments).double().eval()
    block = network.channel_attention_block.attention_block
    with torch.no_grad():  # away from initial zeros and ones
        for tensor in [*block.parameters(), *block.buffers()]:
            if tensor.is_floating_point() and (
                not isinstance(tensor, torch.nn.Parameter) or tensor.requires_grad
            ):
                tensor += 0.3 * torch.rand_like(tensor)
    config = arguments if told == "arguments" else {k: v for k, v in arguments.items() if k == "ch_dim"}
    gate = load_reference_gate(arguments["attention_mode"], block.state_dict(), config)
    x = torch.randn(3, arguments.get("ch_dim", 16), 62, dtype=torch.float64)
    torch.testing.assert_close(gate(x), block(x[:, :, None])[:, :, 0], rtol=0, atol=1e-8)


# What a published parameter count has beside trained parameters: stored cosines, Gaussian taps.
FIXED = {"fca": lambda n_times: 16 * n_times, "cat": lambda n_times: 5, "catlite": lambda n_times: 5}
# Options of the published configurations.
OPTIONS = {
    "bcic2a": {"reduction": 4, "n_codewords": 4, "kernel_size": 9, "n_times": 62},
    "bcic2b": {"reduction": 1, "n_codewords": 2, "kernel_size": 11, "n_times": 62},
    "bcic3": {"reduction": 1, "n_codewords": 2, "kernel_size": 7, "n_times": 19},
    "hgd": {"reduction": 8, "n_codewords": 4, "kernel_size": 15, "n_times": 62},
}
TAKES = {
    "se": ("reduction",),
    "gsop": ("reduction",),
    "fca": ("reduction",),
    "encnet": ("n_codewords",),
    "eca": ("kernel_size",),
    "ge-theta-plus": ("reduction",),
    "srm-cross": ("reduction",),
    "cbam": ("reduction", "kernel_size"),
    "cat": ("reduction", "kernel_size"),
    "catlite": ("reduction",),
}


@pytest.mark.parametrize("dataset", OPTIONS)
def test_parameter_counts(dataset):
    counts = json.loads((FOLDER / "param_counts.json").read_text())
    without = counts[f"{dataset}/none"][0]
    options = OPTIONS[dataset]
    published = [name for name in GATES if f"{dataset}/{name.replace('-', '_')}" in counts]
    assert len(published) == 14
    for name in published:
        gate = make_gate(name, 16, options["n_times"], **{key: options[key] for key in TAKES.get(name, ())})
        ours = sum(parameter.numel() for parameter in gate.parameters())
        fixed = FIXED.get(name, lambda n_times: 0)(options["n_times"])
        expected = counts[f"{dataset}/{name.replace('-', '_')}"]
        assert [without + ours + fixed, without + ours] == expected, name


def test_corrected_forms_share_the_published_parameters():
    """Our second-order gate is the published one under a sigmoid; our codewords are added, not averaged."""
    x = torch.from_numpy(vector("gsop_r4")["x"])
    for block, expected in [
        ("gsop_r4", lambda published: published.gate(x).sigmoid()),
        ("encnet_k4", lambda published: published.excite(published.residuals(x).sum(1)).sigmoid()),
    ]:
        arrays = vector(block)
        published = load_reference_gate(block.split("_")[0], state_of(arrays), {})
        ours = make_gate(block.split("_")[0], 16).eval()
        ours.load_state_dict(published.state_dict())
        torch.testing.assert_close(ours.gate(x), expected(published))
        assert not torch.allclose(ours.gate(x), published.gate(x), atol=1e-3)


def test_stored_filter_is_frozen():
    arrays = vector("fca_r4_f0")
    gate = load_reference_gate("fca", state_of(arrays), {})
    assert [name for name, p in gate.named_parameters() if not p.requires_grad] == ["squeeze.weight"]


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({"extra": torch.zeros(1)}, {}, "state_dict has parameters without a place: extra"),
        ({"fc1.weight": None}, {}, "state_dict must have the parameter 'fc1.weight' for mode 'se'"),
        ({"fc2.weight": None}, {}, "state_dict must have 'excite.2.weight' for mode 'se', got fc1.weight"),
        (
            {},
            {"reduction_rate": 8},
            r"'fc1.weight'\] must have the sizes \[2, 16\] by config, got shape \(4, 16",
        ),
        ({}, {"ch_dim": 8}, r"config\['ch_dim'\] must be the 16 channels of state_dict, got 8"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(change, config, message):
    state = {k: v for k, v in (state_of(vector("se_r4")) | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        load_reference_gate("se", state, config)


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode 'seg' is unknown; nearest are 'se'"):
        load_reference_gate("seg", {}, {})
