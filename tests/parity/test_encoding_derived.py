"""The published brain encoder written again in numpy and float64, for options of which no vector is here.

Random parameters under the published names, dead ones included, go through ``load_reference``; the formulas below
follow the paper (arXiv:2505.17329) and, for self-attention between tokens, DETR (Carion et al. 2020).
"""

import numpy as np
import pytest
import torch

from neuroattn.encoding import load_reference

HEADS, WIDTH, HIDDEN = 4, 32, 24
V = {"lh": 10, "rh": 13}
BASE = {
    "backbone_arch": "dinov2_q", "encoder_arch": "transformer", "lh_vs": V["lh"], "rh_vs": V["rh"],
    "hidden_dim": WIDTH, "nheads": HEADS, "dim_feedforward": HIDDEN, "dropout": 0.1, "enc_layers": 0,
    "dec_layers": 1, "pre_norm": 1, "enc_output_layer": 1, "position_embedding": "sine", "readout_res": "rois_all",
}  # fmt: skip


def norm(p, name, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def feed_forward(p, name, x):
    hidden = np.maximum(x @ p[f"{name}.linear1.weight"].T + p[f"{name}.linear1.bias"], 0)
    return hidden @ p[f"{name}.linear2.weight"].T + p[f"{name}.linear2.bias"]


def multihead(p, name, query, key, value):
    inputs = []
    for i, x in enumerate((query, key, value)):
        rows = slice(i * WIDTH, (i + 1) * WIDTH)
        x = x @ p[f"{name}.in_proj_weight"][rows].T + p[f"{name}.in_proj_bias"][rows]
        inputs.append(x.reshape(*x.shape[:2], HEADS, -1).transpose(0, 2, 1, 3))
    q, k, v = inputs
    scores = np.exp(q @ k.transpose(0, 1, 3, 2) / np.sqrt(WIDTH // HEADS))
    weights = scores / scores.sum(-1, keepdims=True)
    out = (weights @ v).transpose(0, 2, 1, 3).reshape(*query.shape)
    return out @ p[f"{name}.out_proj.weight"].T + p[f"{name}.out_proj.bias"], weights


def sine(h, w):
    half = WIDTH // 2
    code = np.zeros((WIDTH, h, w))
    for row in range(h):
        for column in range(w):
            for j in range(half):
                f = np.sin if j % 2 == 0 else np.cos
                wavelength = 10000 ** (2 * (j // 2) / half)
                code[j, row, column] = f(2 * np.pi * (row + 1) / (h + 1e-6) / wavelength)
                code[half + j, row, column] = f(2 * np.pi * (column + 1) / (w + 1e-6) / wavelength)
    return code


def transformer_tokens(p, config, features):
    h, w = features.shape[2:]
    if "input_proj.weight" in p:
        features = np.einsum("dc,bchw->bdhw", p["input_proj.weight"][:, :, 0, 0], features)
        features = features + p["input_proj.bias"][:, None, None]
    if config["position_embedding"] == "sine":
        code = sine(h, w)
    else:
        x = p["backbone.1.col_embed.weight"][:w].T[:, None].repeat(h, 1)
        y = p["backbone.1.row_embed.weight"][:h].T[:, :, None].repeat(w, 2)
        code = np.concatenate([x, y])
    X = features.reshape(*features.shape[:2], -1).transpose(0, 2, 1)
    P = code.reshape(WIDTH, -1).T
    outputs = []
    for i in range(config["enc_layers"]):
        name = f"transformer.encoder.layers.{i}"
        given = norm(p, f"{name}.norm1", X) if config["pre_norm"] else X
        X = X + multihead(p, f"{name}.self_attn", given + P, given + P, given)[0]
        X = X if config["pre_norm"] else norm(p, f"{name}.norm1", X)
        X = X + feed_forward(p, name, norm(p, f"{name}.norm2", X) if config["pre_norm"] else X)
        X = X if config["pre_norm"] else norm(p, f"{name}.norm2", X)
        outputs.append(X)
    if outputs:
        X = outputs[config["enc_output_layer"]]
    if "transformer.encoder.norm.weight" in p:
        X = norm(p, "transformer.encoder.norm", X)
    Q = p["query_embed.weight"]
    t = np.zeros((len(X), *Q.shape))
    for i in range(config["dec_layers"]):
        name = f"transformer.decoder.layers.{i}"
        if config["pre_norm"]:
            read, maps = multihead(p, f"{name}.multihead_attn", norm(p, f"{name}.norm1", t) + Q, X + P, X)
            t = t + read
            t = t + feed_forward(p, name, norm(p, f"{name}.norm3", t))
        else:
            s = norm(p, f"{name}.norm1", t)
            read, maps = multihead(p, f"{name}.multihead_attn", s + Q, X + P, X)
            s = norm(p, f"{name}.norm2", s + read)
            t = norm(p, f"{name}.norm3", s + feed_forward(p, name, s))
    return norm(p, "transformer.decoder.norm", t), maps


def spatial_tokens(p, config, features):
    weights = np.exp(p["spatial_embed.weight"])
    weights /= weights.sum(1, keepdims=True)
    tokens = np.einsum("rn,bcn->brc", weights, features.reshape(*features.shape[:2], -1))
    return tokens, np.broadcast_to(weights, (len(features), 1, *weights.shape))


def linear_tokens(p, config, features):
    if config["backbone_arch"].endswith("_cls"):
        return features[:, :, 0, 0]
    stride = {"clip": 2, "resnet50": 1, "dinov2_q": 3}[config["backbone_arch"]]
    padded = np.pad(features, ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::stride, ::stride]
    found = np.einsum("oczt,bcyxzt->boyx", p["input_proj.weight"], patches, optimize=True)
    return (found + p["input_proj.bias"][:, None, None]).reshape(len(features), -1)


def derive(p, config, features, masks):
    """Return predictions by hemisphere and the attention of all queries of the table."""
    if config["encoder_arch"] == "linear":
        flat = linear_tokens(p, config, features)
        return {s: flat @ p[f"{s}_embed.0.weight"].T + p[f"{s}_embed.0.bias"] for s in V}, None
    tokens, maps = {"transformer": transformer_tokens, "spatial_feature": spatial_tokens}[
        config["encoder_arch"]
    ](p, config, features)
    half = V["lh"] if config["readout_res"] == "voxels" else tokens.shape[1] // 2
    predicted = {}
    for s, h in {"lh": tokens[:, :half], "rh": tokens[:, half:]}.items():
        if config["readout_res"] == "voxels":
            mask = np.eye(V[s])
        elif config["readout_res"] == "hemis":
            mask = np.ones((1, V[s]))
        else:
            mask = masks[s]
        raw = np.einsum("vd,brd->bvr", p[f"{s}_embed.0.weight"], h) + p[f"{s}_embed.0.bias"][:, None]
        predicted[s] = (raw[..., : len(mask)] * mask.T).sum(-1)
    return predicted, maps.transpose(0, 2, 1, 3)


def random_weights(rng, config, n_channels, grid, n_queries):
    shapes = {}
    linear_width = WIDTH
    if config["encoder_arch"] == "spatial_feature":
        shapes["spatial_embed.weight"] = (n_queries, grid[0] * grid[1])
        linear_width = n_channels
    elif config["encoder_arch"] == "linear":
        shapes |= {"input_proj.weight": (256, n_channels, 3, 3), "input_proj.bias": (256,)}
        side = {"clip": 8, "dinov2_q": 11, "resnet50": 11}.get(config["backbone_arch"])
        linear_width = n_channels if side is None else 256 * side**2
    else:
        shapes["query_embed.weight"] = (n_queries, WIDTH)
        if n_channels != WIDTH:
            shapes |= {"input_proj.weight": (WIDTH, n_channels, 1, 1), "input_proj.bias": (WIDTH,)}
        if config["position_embedding"] == "learned":
            shapes |= {f"backbone.1.{axis}_embed.weight": (50, WIDTH // 2) for axis in ("row", "col")}
        stacks = {"encoder": ("self_attn",), "decoder": ("self_attn", "multihead_attn")}
        for stack, attentions in stacks.items():
            for i in range(config[f"{stack[:3]}_layers"]):
                name = f"transformer.{stack}.layers.{i}"
                for attention in attentions:
                    shapes |= {
                        f"{name}.{attention}.in_proj_weight": (3 * WIDTH, WIDTH),
                        f"{name}.{attention}.in_proj_bias": (3 * WIDTH,),
                        f"{name}.{attention}.out_proj.weight": (WIDTH, WIDTH),
                        f"{name}.{attention}.out_proj.bias": (WIDTH,),
                    }
                shapes |= {f"{name}.linear1.weight": (HIDDEN, WIDTH), f"{name}.linear1.bias": (HIDDEN,)}
                shapes |= {f"{name}.linear2.weight": (WIDTH, HIDDEN), f"{name}.linear2.bias": (WIDTH,)}
                for n in (1, 2) if stack == "encoder" else (1, 2, 3):
                    shapes |= {f"{name}.norm{n}.weight": (WIDTH,), f"{name}.norm{n}.bias": (WIDTH,)}
        ends = ["transformer.decoder.norm"] + ["transformer.encoder.norm"] * config.get("encoder_norm", False)
        for name in ends:
            shapes |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
        shapes |= {"transformer.memory_proj.weight": (64, WIDTH, 1, 1), "transformer.memory_proj.bias": (64,)}
    for side, n in V.items():
        shapes |= {f"{side}_embed.0.weight": (n, linear_width), f"{side}_embed.0.bias": (n,)}
    return {
        k: rng.normal(size=s) / np.sqrt(np.prod(s[1:])) + (".norm" in k and k.endswith("weight"))
        for k, s in shapes.items()
    }


CASES = {
    "prenorm": {},
    "postnorm": {"pre_norm": 0},
    "2dec": {"dec_layers": 2},
    "2dec_postnorm": {"dec_layers": 2, "pre_norm": 0},
    "2dec_2enc": {"dec_layers": 2, "enc_layers": 2},
    "2enc_postnorm": {"enc_layers": 2, "pre_norm": 0},
    "2enc_with_last_norm": {"enc_layers": 2, "encoder_norm": True},
    "2enc_first_output": {"enc_layers": 2, "enc_output_layer": 0},
    "rect": {"grid": (5, 9)},
    "rect_learned": {"position_embedding": "learned", "grid": (5, 9)},
    "input_proj": {"n_channels": 48, "backbone_arch": "resnet50"},
    "hemis": {"readout_res": "hemis", "n_queries": 2},
    "voxels": {"readout_res": "voxels", "n_queries": sum(V.values())},
    "streams": {"readout_res": "streams_inc", "n_queries": 16, "n_regions": 8},
    "visuals": {"readout_res": "visuals", "n_queries": 16, "n_regions": 8},
    "bodies": {"readout_res": "bodies", "n_queries": 16, "n_regions": 5},
    "faces": {"readout_res": "faces", "n_queries": 16, "n_regions": 6},
    "places": {"readout_res": "places", "n_queries": 16, "n_regions": 4},
    "words": {"readout_res": "words", "n_queries": 16, "n_regions": 6},
    "spatial_rois": {"encoder_arch": "spatial_feature", "n_channels": 8, "grid": (31, 31)},
    "spatial_hemis": {
        "encoder_arch": "spatial_feature", "n_channels": 8, "grid": (31, 31), "readout_res": "hemis", "n_queries": 2,
    },
    "spatial_voxels_clip16": {
        "encoder_arch": "spatial_feature", "backbone_arch": "clip", "n_channels": 8, "grid": (16, 16),
        "readout_res": "voxels", "n_queries": sum(V.values()),
    },
    "linear_clip16": {"encoder_arch": "linear", "backbone_arch": "clip", "n_channels": 8, "grid": (16, 16)},
    "linear_dinov2": {"encoder_arch": "linear", "n_channels": 6, "grid": (31, 31)},
    "linear_resnet": {"encoder_arch": "linear", "backbone_arch": "resnet50", "n_channels": 6, "grid": (11, 11)},
    "linear_cls": {"encoder_arch": "linear", "backbone_arch": "clip_cls", "n_channels": 40, "grid": (1, 1)},
}  # fmt: skip


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    """Return weights, config, features and masks, in float64."""
    options = dict(request.param)
    grid, n_channels = options.pop("grid", (7, 7)), options.pop("n_channels", WIDTH)
    n_queries, n_regions = options.pop("n_queries", 12), options.pop("n_regions", 6)
    config, rng = BASE | options, np.random.default_rng(0)
    masks = {}
    for side, n in V.items():
        regions = rng.random((n_regions - 1, n)) < 0.4
        regions[1] = False
        masks[side] = np.concatenate([regions, ~regions.any(0, keepdims=True)])
    features = rng.normal(size=(3, n_channels, *grid))
    return random_weights(rng, config, n_channels, grid, n_queries), config, features, masks


def load(weights, config, masks):
    tensors = {k: torch.from_numpy(v) for k, v in weights.items()}
    return load_reference(tensors, config, {s: torch.from_numpy(m) for s, m in masks.items()}).double()


def test_predictions_and_maps(case):
    weights, config, features, masks = case
    expected, maps = derive(weights, config, features, masks)
    # Parameters are stored as float32 while loading, and position codes are made in float32.
    with torch.no_grad():
        out = load(weights, config, masks)(torch.from_numpy(features), return_attention=True)
    np.testing.assert_allclose(out.lh, expected["lh"], atol=1e-5)
    np.testing.assert_allclose(out.rh, expected["rh"], atol=1e-5)
    if maps is None:
        assert out.attention is None
    elif out.attention.shape[1] == maps.shape[1]:
        np.testing.assert_allclose(out.attention, maps, atol=1e-6)
    else:  # a group's table has queries that nothing reads
        used = len(masks["lh"])
        np.testing.assert_allclose(out.attention[:, :used], maps[:, :used], atol=1e-6)
        np.testing.assert_allclose(out.attention[:, used:], maps[:, 8 : 8 + used], atol=1e-6)


@pytest.mark.parametrize("case", [CASES["linear_clip16"]], indirect=True)
def test_penalty_of_the_linear_model(case):
    weights, config, _, masks = case
    norms = [np.linalg.norm(v) for k, v in weights.items() if "_embed" in k]
    assert len(norms) == 4
    np.testing.assert_allclose(load(weights, config, masks).penalty().item(), 0.02 * sum(norms), rtol=1e-6)
