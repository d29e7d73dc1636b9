"""The published object attention transformer: numbers of the original, and its other settings written out again."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neuroattn.attention import gaussian_position, sine_position
from neuroattn.scanpath import load_reference
from neuroattn.scanpath.reference import ReferenceOAT, published_names

HERE = Path(__file__).parent / "scanpath"


COMMITTED, OTHERS = ("oat_spp2_3x5_trained",), ("oat_cnn_150x93_2x3_trained",)


@pytest.fixture(params=[*COMMITTED, *(pytest.param(name, marks=pytest.mark.shared_data) for name in OTHERS)])
def vectors(request, shared):
    folder = HERE if request.param in COMMITTED else shared / "parity" / "scanpath"
    with np.load(folder / f"{request.param}.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def load(vectors):
    config = json.loads(str(vectors["config_json"]))
    state = {k.removeprefix("sd/"): torch.from_numpy(v) for k, v in vectors.items() if k.startswith("sd/")}
    network = load_reference(state, config, torch.from_numpy(vectors["pe_table"]))
    crops = torch.from_numpy(vectors["crops_uint8"].astype("float32") / 255)
    paths = [torch.from_numpy(path[path >= 0]) for path in vectors["scanpath_padded"]]
    return network, crops, torch.from_numpy(vectors["target_index"]), paths


def loss_of(logits, paths, n_objects):
    """Cross entropy over all fixations and ends: the mean of the batch, padding left out."""
    labels = [torch.cat([path, torch.tensor([n_objects])]) for path in paths]
    return F.cross_entropy(
        torch.cat([logits[: len(label), b] for b, label in enumerate(labels)]), torch.cat(labels)
    )


def test_logits_and_loss(vectors):
    network, crops, target, paths = load(vectors)
    with torch.no_grad():
        logits = network.teacher_forced(crops, target, paths)
    assert logits.shape == (max(map(len, paths)) + 1, *vectors["logits"].shape[1:])
    for b, path in enumerate(paths):
        valid = len(path) + 1
        np.testing.assert_allclose(logits[:valid, b], vectors["logits"][:valid, b], atol=2e-5)
        np.testing.assert_allclose(
            logits[: len(path), b].softmax(-1), vectors[f"tf/{b}/prob"][: len(path)], atol=1e-5
        )
    assert float(loss_of(logits, paths, network.n_objects)) == pytest.approx(float(vectors["loss"]), abs=1e-5)


def test_intermediate_results(vectors):
    network, crops, target, paths = load(vectors)
    seen = {}

    def keep(name):
        def hook(module, inputs, output):
            out = output if isinstance(output, torch.Tensor) else output[0]  # beside maps
            seen[name + "_in"], seen[name + "_out"] = inputs[0], out

        return hook

    for name, layers in (("enc", network.core.encoder), ("dec", network.core.decoder)):
        layers[0].register_forward_hook(keep(f"{name}_first"))
        layers[-1].register_forward_hook(keep(f"{name}_last"))
    with torch.no_grad():
        network.teacher_forced(crops, target, paths)
    flat = lambda x: x.squeeze(1).transpose(0, 1)  # noqa: E731
    for name, ours in (("enc_in", seen["enc_first_in"]), ("enc_out", seen["enc_last_out"])):
        np.testing.assert_allclose(ours.transpose(0, 1), vectors[f"act/{name}"], atol=2e-5)
    pictures = vectors["act/cnn_src"].shape[-1]
    np.testing.assert_allclose(seen["enc_first_in"][..., :pictures], vectors["act/cnn_src"], atol=2e-5)
    for name, ours in (("dec_in", flat(seen["dec_first_in"])), ("dec_out", flat(seen["dec_last_out"]))):
        for b, path in enumerate(paths):
            valid = len(path) + 1
            np.testing.assert_allclose(ours[:valid, b], vectors[f"act/{name}"][:valid, b], atol=2e-5)
    pointer = network.core.pointer
    queries = pointer.query(flat(seen["dec_last_out"])).chunk(pointer.heads, -1)
    keys = pointer.key(seen["enc_last_out"]).chunk(pointer.heads, -1)
    for head, (query, key) in enumerate(zip(queries, keys, strict=True)):
        scores = torch.einsum("tbd,bpd->tbp", query, key) / math.sqrt(pointer.width)
        for b, path in enumerate(paths):
            theirs = vectors[f"act/object_attention_head{head}"][: len(path) + 1, b]
            np.testing.assert_allclose(scores[: len(path) + 1, b].detach(), theirs[:, :-1], atol=2e-5)
            assert not theirs[:, -1].any()  # the column of padding


def test_gradients(vectors):
    network, crops, target, paths = load(vectors)
    loss_of(network.teacher_forced(crops, target, paths), paths, network.n_objects).backward()
    gradients = published_names(
        {k: p.grad for k, p in network.named_parameters()}, network.core.pointer.heads
    )
    published = {k.removeprefix("grad/") for k in vectors if k.startswith("grad/")}
    assert set(gradients) == published
    for name, ours in gradients.items():
        theirs = torch.from_numpy(vectors[f"grad/{name}"])
        assert float((ours - theirs).norm()) <= 1e-3 * float(theirs.norm()) + 1e-6, name


def test_greedy_paths(vectors):
    network, crops, target, _ = load(vectors)
    for b, path in enumerate(network.generate(crops, target)):
        np.testing.assert_array_equal(path, vectors[f"greedy/{b}/scanpath"])


def test_samples_follow_the_first_step(vectors):
    network, crops, target, _ = load(vectors)
    paths = network.generate(crops[:1], target[:1], "sample", n=4000, seed=3)
    with torch.no_grad():
        logits = network.teacher_forced(crops[:1], target[:1], [torch.tensor([], dtype=torch.int64)])
    expected = logits[0, 0, : network.n_objects].softmax(0)  # a path never ends before its first object
    counts = np.bincount([path[0] for path in paths], minlength=network.n_objects)
    np.testing.assert_allclose(counts / 4000, expected, atol=0.035)
    assert max(map(len, paths)) <= network.max_len
    again = network.generate(crops[:1], target[:1], "sample", n=4000, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(paths, again, strict=True))


SETTINGS = [
    {"spp": 2, "object_attention_heads": 1, "rows": 2, "cols": 4},
    {"spp": 3, "object_attention_heads": 4, "rows": 3, "cols": 4},
    {"spp": 4, "object_attention_heads": 3, "rows": 1, "cols": 5},
    {"spp": 2, "object_attention_heads": 2, "rows": 2, "cols": 2, "CA_version": 0},
    {"spp": 0, "object_attention_heads": 1, "rows": 1, "cols": 2, "crop_h": 150, "crop_w": 93},
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(f"{k}{v}" for k, v in s.items()))
def test_other_settings_equal_torch_layers(setting):
    config = {
        "emb_size": 16, "nhead": 2, "num_layers": 2, "dim_feedforward": 12, "object_attention_dk": 6,
        "crop_h": 37, "crop_w": 29, "max_len": 5, "n_objects": setting["rows"] * setting["cols"], **setting,
    }  # fmt: skip
    torch.manual_seed(0)
    table = torch.randn(max(config["rows"], config["cols"]), 5)
    shapes = ReferenceOAT(config, table).published_state()
    state = {name: torch.randn(value.shape) / 4 for name, value in shapes.items()}
    state["generator.weight"] = torch.randn(config["n_objects"] + 2, 16)  # there whether it is used or not
    state["generator.bias"] = torch.randn(config["n_objects"] + 2)
    network = load_reference(state, config, table)
    crops = torch.rand(2, config["n_objects"], config["crop_h"], config["crop_w"], 3)
    target, path = torch.tensor([1, 0]), torch.tensor([0, 1, 1])
    with torch.no_grad():
        ours = network.teacher_forced(crops, target, [path, path])
        for b in range(2):
            theirs = written_out(state, config, table, crops[b], int(target[b]), path)
            torch.testing.assert_close(ours[:, b], theirs, atol=2e-4, rtol=1e-4)


def written_out(state, config, table, crops, target, path):
    """The published model for one scene and path, from torch's layers."""
    part = lambda p: {k.removeprefix(p): v for k, v in state.items() if k.startswith(p)}  # noqa: E731
    d, options = config["emb_size"], (config["nhead"], config["dim_feedforward"], 0.0)
    n = config["num_layers"]
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(d, *options, batch_first=True), n, enable_nested_tensor=False
    )
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(d, *options, batch_first=True), n)
    encoder.load_state_dict(part("transformer_encoder."))
    decoder.load_state_dict(part("transformer_decoder."))

    def look(pictures):
        x = pictures.permute(0, 3, 1, 2)
        x = F.max_pool2d(
            F.conv2d(x, state["cnn_embedding.cnn1.0.weight"], state["cnn_embedding.cnn1.0.bias"]).relu(), 5
        )
        x = F.conv2d(x, state["cnn_embedding.cnn2.0.weight"], state["cnn_embedding.cnn2.0.bias"]).relu()
        if config["spp"] == 0:
            cells = [F.max_pool2d(x, 3).flatten(1)]
        else:
            cells = []
            for level in range(config["spp"]):
                count = 2**level
                kernel = [math.ceil(side / count) for side in x.shape[2:]]
                missing = [k * count - side for k, side in zip(kernel, x.shape[2:], strict=True)]
                padded = torch.zeros(*x.shape[:2], *(k * count for k in kernel))
                top, left = missing[0] // 2, missing[1] // 2
                padded[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
                cells.append(F.max_pool2d(padded, kernel).flatten(1))
        return torch.cat(cells, 1) @ state["cnn_embedding.fc.weight"].T + state["cnn_embedding.fc.bias"]

    rows = torch.cat([table, torch.zeros(4, table.shape[1])])

    def token(pictures, row, column, flag):
        code = torch.cat([rows[row], rows[column], rows[flag]], 1)[:, : d // 2]
        return torch.cat([look(pictures), code], 1)

    place = torch.arange(len(crops))
    row, column = place // config["cols"], place % config["cols"]
    plain = token(crops, row, column, 0 * place)
    flagged = token(crops, row, column, (place == target).long())
    white = torch.ones(1, *crops.shape[1:])
    start = token(white, *torch.tensor([[config["rows"] // 2], [config["cols"] // 2], [0]]))
    memory = encoder(torch.cat([plain, flagged[target : target + 1]])[None])
    steps = torch.cat([start, flagged[path]]) + sine_position(len(path) + 1, d)
    causal = torch.triu(torch.full((len(steps), len(steps)), -math.inf), 1)
    decoded = decoder(steps[None], memory, tgt_mask=causal)[0]
    if config.get("CA_version") == 0:
        return decoded @ state["generator.weight"].T + state["generator.bias"]
    scores = []
    for head in range(config["object_attention_heads"]):
        q, k = (
            x @ state[f"cross_attentions.{head}.{name}.weight"].T
            + state[f"cross_attentions.{head}.{name}.bias"]
            for x, name in ((decoded, "decode_fc"), (memory[0], "encode_fc"))
        )
        scores.append(F.pad(q @ k.T, (0, 1)) / math.sqrt(config["object_attention_dk"]))
    if len(scores) == 1:
        return scores[0]
    return torch.stack(scores, -1) @ state["readout.weight"][0] + state["readout.bias"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spp": 1}, "pyramid must be 0, 2, 3 or 4, got 1"),
        ({"CA_version": 2}, "CA_version must be 3 or 0, got 2"),
        ({"EOS": 3}, r"config EOS must be n_objects \+ 0, 15, got 3"),
        ({"cols": 4}, "config must have rows"),
    ],
)
def test_other_conventions_are_refused(change, message):
    with np.load(HERE / "oat_spp2_3x5_trained.npz") as file:
        config = json.loads(str(file["config_json"])) | change
        with pytest.raises(ValueError, match=message):
            load_reference({}, config, torch.from_numpy(file["pe_table"]))


def test_missing_weights_and_settings_are_named():
    with np.load(HERE / "oat_spp2_3x5_trained.npz") as file:
        config, table = json.loads(str(file["config_json"])), torch.from_numpy(file["pe_table"])
    with pytest.raises(ValueError, match="state_dict must have transformer_encoder"):
        load_reference({}, config, table)
    with pytest.raises(ValueError, match="config must have spp"):
        load_reference({}, {k: v for k, v in config.items() if k != "spp"}, table)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("table", "sigma"),
    [("amazon_learned_random_PE", 2.0), ("learned_PE_random_2", 2.0), ("learned_PE_random_2.5", 2.5)],
)
def test_closed_form_has_the_cosines_of_the_published_tables(table, sigma, shared):
    with np.load(shared / "parity" / "scanpath" / "positional_encodings.npz") as file:
        cosines, norms = file[f"shipped/{table}/cos"], file[f"shipped/{table}/norms"]
    grid = torch.arange(len(cosines), dtype=torch.float64)
    code = gaussian_position(grid, 86, sigma=sigma, anchors=grid, norm=float(norms.mean()))
    np.testing.assert_allclose(code.norm(dim=1), norms, rtol=0.01)
    ours = F.cosine_similarity(code[:, None], code[None], dim=-1)
    np.testing.assert_allclose(ours, cosines, atol=1e-3)  # theirs were found by gradient descent
    torch.testing.assert_close(
        ours, torch.exp(-((grid[:, None] - grid) ** 2) / (2 * sigma**2)), atol=1e-6, rtol=0
    )


@pytest.mark.shared_data
def test_sequence_code_is_the_published_one(shared):
    with np.load(shared / "parity" / "scanpath" / "positional_encodings.npz") as file:
        np.testing.assert_allclose(sine_position(50, 32), file["pe1d_decoder_emb32_len50"], atol=1e-5)
