"""Compare attention layers fairly: one small network, one budget, three kinds of generalization, and what they cost."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn._checks import check_option, check_range
from neuroattn.analyses.encoder_study import open_study
from neuroattn.analyses.fits import Progress
from neuroattn.analyses.grid import Job, check_workers, run_fits
from neuroattn.attention import ATTENTIONS, AttentionLayer, make_attention
from neuroattn.datasets import make_gcog
from neuroattn.metrics import paired_difference
from neuroattn.results import provenance, replacing, write_json, write_netcdf

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCE = "softmax"
BAG = "bag of tokens"
NULL = "shuffled answers"
CONTROLS = ("static", "position")
TESTS = ("familiar", "distractor", "systematic", "productive")
LENGTHS = (128, 256, 512, 1024, 2048, 4096)

_HEADS = 4
_N_POINTS = 8  # of each bottleneck, for 25 tokens
_OPTIONS = {"manar": "n_concepts", "latent": "n_latents", "isab": "n_points", "agent": "n_agents"}
_CLIP = 1.0
_WARMUP = 0.1  # of the steps
_REPEATS = 5


def compare_attention_layers(
    names: Sequence[str] = tuple(ATTENTIONS),
    *,
    out: str | Path,
    n_seeds: int = 5,
    seed: int = 0,
    n_train: int = 30_000,
    n_test: int = 1_000,
    steps: int = 1_600,
    batch_size: int = 32,
    width: int = 64,
    depth: int = 2,
    lr: float = 2e-3,
    lengths: Sequence[int] = LENGTHS,
    resume: bool = False,
    workers: int = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Train one small transformer with each attention on the questions of :func:`~neuroattn.datasets.make_gcog`.

    All networks of a seed share data, order of the batches, number of steps, optimiser and the initial weights outside
    their attention; they differ in parameters, which are reported. Bottlenecks have 8 points. Beside them stand a
    multi-layer perceptron on the bag of tokens, which has no attention and no order (the simple baseline), attention
    that does not depend on content ("static", "position": the controls), and softmax attention trained on shuffled
    answers (the null). The cost of each layer alone is measured by length.

    Parameters
    ----------
    names : sequence of str, default all of :data:`neuroattn.attention.ATTENTIONS`
        "softmax", to which all are compared, is always there.
    out : str or Path
        Folder for ``study.nc``, ``table.md``, ``figure.png``, and the predictions of every network.
    n_seeds, seed : int, default 5, 0
        Seeds ``seed .. seed + n_seeds - 1``, of data, initial weights and order alike.
    n_train, n_test : int
        Items to train on, and of each test.
    steps, batch_size : int, default 1600, 32
        Budget of every network.
    width, depth : int, default 64, 2
        Channels and layers of the network; 4 heads.
    lr : float, default 2e-3
        Highest learning rate of AdamW, after a warm-up and before a cosine to 0; the same for all.
    lengths : sequence of int, default 128 to 4096
        Tokens at which cost is measured.
    resume : bool, default False
        Continue in ``out``: networks that are finished are not trained again.
    workers : int, default 0
        Processes of a local dask cluster that train; cost is measured in this process.
    progress : callable, optional
        Called with a stage, the steps done and of all steps.

    Returns
    -------
    Dataset
        ``accuracy`` (layer, seed, split), its mean's ``accuracy_ci`` (layer, split, bound), ``difference`` from
        softmax, ``difference_ci`` and ``p`` (layer, split), paired by seed: intervals are Student's t over seeds, and
        speak of training and of drawn items, not of other tasks. ``n_parameters`` (layer), ``train_loss`` of the last
        batch and ``train_seconds`` (layer, seed). Of the layer alone ``layer_seconds`` (cost_layer, length), forward
        and backward, the median of interleaved runs, and ``layer_bytes``, what is kept for the backward pass. ``role``
        (layer) is "reference", "attention", "control", "baseline" or "null".

    Raises
    ------
    ValueError
        If a name is unknown, a number is out of range, or ``out`` holds another study.

    Examples
    --------
    >>> import tempfile
    >>> study = compare_attention_layers(["inline"], out=Path(tempfile.mkdtemp()) / "study", n_seeds=2, n_train=64,
    ...                                  n_test=16, steps=2, width=16, depth=1, lengths=[16])
    >>> study.accuracy.layer.values
    array(['softmax', 'inline', 'bag of tokens', 'shuffled answers'],
          dtype='<U16')
    """
    report_step = progress or (lambda stage, done, total: None)
    for name in names:
        check_option("names", name, ATTENTIONS)
    for label, value in (
        ("n_seeds", n_seeds),
        ("steps", steps),
        ("batch_size", batch_size),
        ("depth", depth),
    ):
        check_range(label, value, 1)
    if width % _HEADS or width < _HEADS:
        raise ValueError(f"width must be a multiple of {_HEADS}, got {width}")
    check_workers(workers, None)
    out = Path(out)
    trained = list(dict.fromkeys((REFERENCE, *names)))
    config = {
        "names": trained, "n_seeds": n_seeds, "seed": seed, "n_train": n_train, "n_test": n_test, "steps": steps,
        "batch_size": batch_size, "width": width, "depth": depth, "lr": lr, "lengths": list(lengths),
    }  # fmt: skip
    open_study(out, config, resume)
    specs = []
    for number in range(seed, seed + n_seeds):
        data = out / "data" / f"{number}.npz"
        if not data.is_file():
            _store_items(data, n_train, n_test, number)
        specs += [
            FitSpec(
                out / "fits" / name / str(number), data, name, number, steps, batch_size, width, depth, lr
            )
            for name in (*trained, BAG, NULL)
        ]
    run_fits(
        [Job(spec) for spec in specs],
        run=run_fit,
        workers=workers,
        progress=lambda done, total: report_step("fits", done, total),
    )
    scores = _collect_scores(specs)
    report_step("cost", 0, 1)
    cost = measure_cost(trained, lengths, width=width, seed=seed).rename(layer="cost_layer")
    study = xr.merge([scores, _effects(scores["accuracy"]), cost]).assign_attrs(provenance(seed, config))
    write_netcdf(out / "study.nc", study)
    with replacing(out / "table.md") as temporary:
        temporary.write_text(attention_layers_table(study))
    with replacing(out / "figure.png") as temporary:
        plot_attention_layers(study).savefig(temporary, format="png", dpi=150)
    report_step("cost", 1, 1)
    return study


@dataclass(frozen=True)
class FitSpec:
    """Everything that decides one training."""

    folder: Path
    data: Path
    name: str
    seed: int
    steps: int
    batch_size: int
    width: int
    depth: int
    lr: float


class _Layer(nn.Module):
    """Attention and a perceptron, each normalised before and with a residual path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, attention: nn.Module) -> Tensor:
        given = self.norm1(x)
        x = x + attention(given, given, given, need_weights=False)[0]
        out: Tensor = x + self.perceptron(self.norm2(x))
        return out


class TokenTransformer(nn.Module):
    """Answer questions from tokens (batch, token, field) of :func:`~neuroattn.datasets.make_gcog`.

    A token is the sum of the embeddings of its fields and of its place; the answer is read from the first.

    Parameters
    ----------
    attention : callable
        Returns a new attention layer of ``width`` channels.
    width, depth : int
        Channels and layers.
    n_values : sequence of int
        Values of each field.
    n_tokens, n_answers : int

    Examples
    --------
    >>> network = TokenTransformer(lambda: make_attention("softmax", 16, 4, batch_first=True), 16, 1, (8, 7, 7), 25, 14)
    >>> network(torch.zeros(2, 25, 3, dtype=torch.long)).shape
    torch.Size([2, 14])
    """

    def __init__(
        self,
        attention: Callable[[], AttentionLayer],
        width: int,
        depth: int,
        n_values: Sequence[int],
        n_tokens: int,
        n_answers: int,
    ) -> None:
        super().__init__()
        self.fields = nn.ModuleList(nn.Embedding(n, width) for n in n_values)
        self.place = nn.Parameter(0.1 * torch.randn(n_tokens, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, n_answers)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(depth))
        # Last, so that networks of one seed have the same initial weights outside their attention.
        self.attentions = nn.ModuleList(attention() for _ in range(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (batch, answer)."""
        x = torch.stack([field(tokens[..., i]) for i, field in enumerate(self.fields)]).sum(0) + self.place
        for layer, attention in zip(self.layers, self.attentions, strict=True):
            x = layer(x, attention)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits


class BagOfTokens(nn.Module):
    """Answer questions from which tokens there are, whatever their place.

    Parameters
    ----------
    width : int
        Hidden units are four times as many.
    n_values : sequence of int
        Values of each field; a token has an embedding for each combination.
    n_answers : int

    Examples
    --------
    >>> BagOfTokens(16, (8, 7, 7), 14)(torch.zeros(2, 25, 3, dtype=torch.long)).shape
    torch.Size([2, 14])
    """

    def __init__(self, width: int, n_values: Sequence[int], n_answers: int) -> None:
        super().__init__()
        self.n_values = tuple(n_values)
        self.bag = nn.EmbeddingBag(int(np.prod(n_values)), 2 * width, mode="sum")
        hidden = 4 * width
        self.perceptron = nn.Sequential(
            nn.LayerNorm(2 * width), nn.Linear(2 * width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, n_answers),
        )  # fmt: skip

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (batch, answer)."""
        index = torch.zeros_like(tokens[..., 0])
        for field, n in enumerate(self.n_values):
            index = index * n + tokens[..., field]
        logits: Tensor = self.perceptron(self.bag(index))
        return logits


def run_fit(spec: FitSpec, data: Any = None) -> None:
    """Train one network and write its predictions of every test."""
    items = np.load(spec.data)
    tokens, labels = torch.from_numpy(items["train_tokens"]).long(), torch.from_numpy(items["train_labels"])
    rng = np.random.default_rng(spec.seed)
    if spec.name == NULL:
        labels = labels[torch.from_numpy(rng.permutation(len(labels)))]
    order = np.random.default_rng(spec.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        network = _build(
            spec.name,
            spec.width,
            spec.depth,
            items["n_values"].tolist(),
            tokens.shape[1],
            int(items["n_answers"]),
        )
    optimiser = torch.optim.AdamW(network.parameters(), lr=spec.lr, weight_decay=0.01)
    warmup = max(1, round(_WARMUP * spec.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * np.cos(np.pi * step / spec.steps)),
    )
    started = time.perf_counter()
    batches = _batches(len(tokens), spec.batch_size, order)
    for batch in itertools.islice(batches, spec.steps):
        loss = F.cross_entropy(network(tokens[batch]), labels[batch])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
        optimiser.step()
        schedule.step()
    seconds = time.perf_counter() - started
    spec.folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(spec.folder) as temporary:
        temporary.mkdir()
        for split in TESTS:
            np.save(temporary / f"{split}.npy", _predict(network, items[f"{split}_tokens"]))
        n_parameters = sum(parameter.numel() for parameter in network.parameters())
        fit = {"n_parameters": n_parameters, "seconds": seconds, "loss": loss.item()}
        write_json(temporary / "fit.json", fit)


def measure_cost(
    names: Sequence[str], lengths: Sequence[int], *, width: int = 64, seed: int = 0
) -> xr.Dataset:
    """Measure time and memory of attention layers alone, in self-attention of one sample.

    Parameters
    ----------
    names : sequence of str
        Of :data:`neuroattn.attention.ATTENTIONS`.
    lengths : sequence of int
        Tokens.
    width : int, default 64
        Channels, in 4 heads.
    seed : int, default 0

    Returns
    -------
    Dataset, dims (layer, length)
        ``layer_seconds``, forward and backward, projections included: the median of five runs, in turn with those of
        the other layers. ``layer_bytes``: what is kept for the backward pass, parameters aside.

    Examples
    --------
    >>> cost = measure_cost(["softmax", "inline"], [16, 32])
    >>> bool((cost.layer_bytes.diff("length") > 0).all()), cost.layer_seconds.dims
    (True, ('layer', 'length'))
    """
    shape = (len(names), len(lengths))
    seconds, memory = np.empty((*shape, _REPEATS)), np.empty(shape)
    for j, length in enumerate(lengths):
        x = torch.randn(1, length, width, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        layers = [_attention(name, width, length) for name in names]
        for i, layer in enumerate(layers):  # warms up, too
            memory[i, j] = _kept_bytes(layer, x)
        for repeat in range(_REPEATS):
            for i, layer in enumerate(layers):
                started = time.perf_counter()
                torch.autograd.backward(layer(x, x, x, need_weights=False)[0].sum())
                seconds[i, j, repeat] = time.perf_counter() - started
    cost = xr.Dataset(
        {
            "layer_seconds": (("layer", "length"), np.median(seconds, -1), {"units": "s"}),
            "layer_bytes": (("layer", "length"), memory, {"units": "B"}),
        },
        coords={"layer": list(names), "length": list(lengths)},
    )
    return cost


def attention_layers_table(study: xr.Dataset) -> str:
    """Write what :func:`compare_attention_layers` found as a table in Markdown.

    Parameters
    ----------
    study : Dataset

    Returns
    -------
    str
        A line with the settings, then a row a layer: accuracy in percent with the 95 % interval of its mean over
        seeds, by test; in brackets the difference from softmax, where its interval excludes 0; parameters.

    Examples
    --------
    >>> import tempfile
    >>> study = compare_attention_layers(["inline"], out=Path(tempfile.mkdtemp()) / "study", n_seeds=2, n_train=64,
    ...                                  n_test=16, steps=2, width=16, depth=1, lengths=[16])
    >>> print(attention_layers_table(study).splitlines()[2])
    | layer | role | familiar | distractor | systematic | productive | parameters |
    """
    config = json.loads(study.attrs["config"])
    lines = [
        f"{config['n_seeds']} seeds, {config['steps']} steps of {config['batch_size']} items, width {config['width']}, "
        f"depth {config['depth']}; neuroattn {study.attrs['neuroattn_version']}.",
        "",
        f"| layer | role | {' | '.join(TESTS)} | parameters |",
        f"| --- | --- |{' --- |' * len(TESTS)} ---: |",
    ]
    for name in study["layer"].values:
        one = study.sel(layer=name)
        cells = []
        for split in TESTS:
            at = one.sel(split=split)
            low, high = 100 * at["accuracy_ci"].values
            cell = f"{100 * float(at['accuracy'].mean()):.1f} ({low:.1f}, {high:.1f})"
            from_reference = 100 * at["difference_ci"].values
            if name != REFERENCE and (from_reference[0] > 0 or from_reference[1] < 0):
                cell += f" [{100 * float(at['difference']):+.1f}]"
            cells.append(cell)
        lines.append(
            f"| {name} | {one['role'].item()} | {' | '.join(cells)} | {int(one['n_parameters']):,} |"
        )
    return "\n".join(lines) + "\n"


def plot_attention_layers(study: xr.Dataset) -> Figure:
    """Draw accuracy by test with intervals over seeds, and time and memory by length.

    Parameters
    ----------
    study : Dataset
        From :func:`compare_attention_layers`.

    Returns
    -------
    Figure

    Examples
    --------
    >>> import tempfile
    >>> study = compare_attention_layers(["inline"], out=Path(tempfile.mkdtemp()) / "study", n_seeds=2, n_train=64,
    ...                                  n_test=16, steps=2, width=16, depth=1, lengths=[16, 32])
    >>> [axes.get_title() for axes in plot_attention_layers(study).axes][:2]
    ['familiar', 'distractor']
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    names = study["layer"].values.tolist()
    figure = Figure(figsize=(12, 8), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    top, bottom = halves
    colours = {
        "reference": "black",
        "attention": "#1f6fb4",
        "baseline": "#c4560a",
        "control": "#777777",
        "null": "#b0b0b0",
    }
    rows = np.arange(len(names))[::-1]
    for axes, split in zip(top.subplots(1, len(TESTS), sharey=True), TESTS, strict=True):
        at = study.sel(split=split)
        for row, name in zip(rows, names, strict=True):
            one = at.sel(layer=name)
            colour = colours[one["role"].item()]
            axes.plot(
                100 * one["accuracy"], np.full(one.sizes["seed"], row), ".", color=colour, alpha=0.35, mew=0
            )
            axes.plot(100 * one["accuracy_ci"], [row, row], color=colour, lw=2)
            axes.plot(100 * one["accuracy"].mean(), row, "o", color=colour, ms=5)
        axes.axvline(100 * at["accuracy"].sel(layer=REFERENCE).mean(), color="black", lw=0.6, ls=":")
        axes.set(title=split, xlabel="accuracy (%)", xlim=(0, 102), yticks=rows, yticklabels=names)
        axes.grid(axis="x", alpha=0.3)
    shades = colormaps["tab20"]
    panels = (
        ("layer_seconds", 1e3, "forward and backward (ms)"),
        ("layer_bytes", 1e-6, "kept for backward (MB)"),
    )
    for axes, (variable, scale, label) in zip(bottom.subplots(1, len(panels)), panels, strict=True):
        for i, name in enumerate(study["cost_layer"].values):
            style: dict[str, Any] = (
                {"color": "black", "lw": 2.5} if name == REFERENCE else {"color": shades(i)}
            )
            axes.plot(
                study["length"], scale * study[variable].sel(cost_layer=name), "o-", ms=3, label=name, **style
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set(xlabel="tokens", ylabel=label, xticks=study["length"].values)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    bottom.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def _build(
    name: str, width: int, depth: int, n_values: Sequence[int], n_tokens: int, n_answers: int
) -> nn.Module:
    if name == BAG:
        return BagOfTokens(width, n_values, n_answers)
    kind = REFERENCE if name == NULL else name
    return TokenTransformer(
        lambda: _attention(kind, width, n_tokens), width, depth, n_values, n_tokens, n_answers
    )


def _attention(name: str, width: int, n_tokens: int) -> AttentionLayer:
    options = {_OPTIONS[name]: _N_POINTS} if name in _OPTIONS else {}
    if name == "static":
        options["max_len"] = n_tokens
    return make_attention(name, width, _HEADS, batch_first=True, **options)


def _store_items(path: Path, n_train: int, n_test: int, seed: int) -> None:
    """Write what the networks of one seed read."""
    data = make_gcog(n_train, n_test, seed=seed)
    arrays: dict[str, Any] = {"n_answers": len(data.attrs["answers"])}
    arrays["n_values"] = [
        len(data.attrs["words"]),
        1 + len(data.attrs["colours"]),
        1 + len(data.attrs["shapes"]),
    ]
    for split in ("train", *TESTS):
        part = data.isel(item=np.flatnonzero(data["split"] == split))
        arrays |= {f"{split}_tokens": part["tokens"].values, f"{split}_labels": part["label"].values}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _batches(n_items: int, batch_size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Yield batches of indices for ever, every item once before any comes again."""
    while True:
        order = torch.from_numpy(rng.permutation(n_items))
        yield from torch.split(order, batch_size)


@torch.no_grad()
def _predict(network: nn.Module, tokens: NDArray[np.int8]) -> NDArray[np.int64]:
    predicted: NDArray[np.int64] = network.eval()(torch.from_numpy(tokens).long()).argmax(1).numpy()
    return predicted


def _collect_scores(specs: Sequence[FitSpec]) -> xr.Dataset:
    names = list(dict.fromkeys(spec.name for spec in specs))
    seeds = list(dict.fromkeys(spec.seed for spec in specs))
    roles = {REFERENCE: "reference", BAG: "baseline", NULL: "null"} | dict.fromkeys(CONTROLS, "control")
    accuracy = np.empty((len(names), len(seeds), len(TESTS)))
    seconds, losses = np.empty((2, *accuracy.shape[:2]))
    n_parameters = np.empty(len(names), int)
    for spec in specs:
        i, j = names.index(spec.name), seeds.index(spec.seed)
        items = np.load(spec.data)
        for k, split in enumerate(TESTS):
            accuracy[i, j, k] = np.mean(np.load(spec.folder / f"{split}.npy") == items[f"{split}_labels"])
        fit = json.loads((spec.folder / "fit.json").read_text())
        seconds[i, j], losses[i, j], n_parameters[i] = fit["seconds"], fit["loss"], fit["n_parameters"]
    return xr.Dataset(
        {
            "accuracy": (("layer", "seed", "split"), accuracy, {"units": "share of items"}),
            "train_loss": (("layer", "seed"), losses, {"units": "nats"}),
            "train_seconds": (("layer", "seed"), seconds, {"units": "s"}),
            "n_parameters": ("layer", n_parameters),
        },
        coords={
            "layer": names,
            "seed": seeds,
            "split": list(TESTS),
            "role": ("layer", [roles.get(name, "attention") for name in names]),
        },
    )


def _effects(accuracy: xr.DataArray) -> xr.Dataset:
    """Return intervals of accuracy and of differences from the reference; the seed is the unit."""
    scores = accuracy.expand_dims("subject")
    reference = (
        scores.sel(layer=REFERENCE)
        .drop_vars(["layer", "role"])
        .broadcast_like(scores)
        .transpose(*scores.dims)
    )
    level, effect = paired_difference(scores, xr.zeros_like(scores)), paired_difference(scores, reference)
    return xr.Dataset(
        {
            "accuracy_ci": level["interval"],
            "difference": effect["difference"],
            "difference_ci": effect["interval"],
            "p": effect["p"].where(accuracy["layer"] != REFERENCE),
        }
    )


def _kept_bytes(layer: nn.Module, x: Tensor) -> int:
    """Return the bytes of what one forward pass keeps, without parameters and input."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (*layer.parameters(), x)}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(x, x, x, need_weights=False)[0]
    torch.autograd.backward(out.sum())
    return sum(kept.values())
