"""
A workspace you can look into
=============================

Train a small transformer whose attention is a workspace, and look inside: which tokens enter which slot, how full the
slots are, how much of what is read was learned rather than seen, and what is lost when a concept is taken out.

The equations of the layer, :class:`~neuroattn.attention.MANAR`, are our own derivation: of the paper only the abstract
was open to us. :doc:`/explanation/manar` has them.
"""

# %%
# Questions about a grid of shapes
# --------------------------------
# :func:`~neuroattn.datasets.make_gcog` makes questions about scenes, with splits that ask for generalization. Here are
# two kinds only: the colour of the one object of a shape, and the shape of the one object of a colour. Scene and
# question are tokens: the first is where the answer is read, then comes the program, then the cells of the grid.

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from neuroattn.analyses import inspect_workspace, lesion_concepts
from neuroattn.attention import MANAR
from neuroattn.datasets import make_gcog

data = make_gcog(n_train=24_000, n_test=800, seed=0)
data = data.isel(item=np.flatnonzero(data.task.isin(["colour", "shape"])))
splits = {
    name: data.isel(item=np.flatnonzero(data.split == name)) for name in ("train", "familiar", "distractor")
}
for name, split in splits.items():
    print(
        f"{name:10} {split.sizes['item']:5} questions, such as {split.program.values[0]}: {split.answer.values[0]}"
    )


def tensors(split):
    """Return tokens and answers."""
    return torch.from_numpy(split.tokens.values).long(), torch.from_numpy(split.label.values)


# %%
# A transformer with a workspace
# ------------------------------
# MANAR has the constructor and the call of :class:`torch.nn.MultiheadAttention`, so it goes into torch's transformer
# layer. Each of two layers has eight concepts: all that a token learns of the 24 others passes through eight slots.


class Reader(nn.Module):
    """Answer from the first token; a token is the sum of the codes of its fields and of its place."""

    def __init__(self, width=64, n_concepts=8):
        super().__init__()
        self.fields = nn.ModuleList(nn.Embedding(n, width) for n in (8, 7, 7))
        self.place = nn.Parameter(0.1 * torch.randn(25, width))
        layers = []
        for _ in range(2):
            layer = nn.TransformerEncoderLayer(width, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
            layer.self_attn = MANAR(width, 4, n_concepts=n_concepts, kappa=1.0, batch_first=True)
            layers.append(layer)
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 14))

    def forward(self, tokens):
        """Return logits (batch, answer) of tokens (batch, token, field)."""
        x = sum(field(tokens[..., i]) for i, field in enumerate(self.fields)) + self.place
        return self.head(self.layers(x)[:, 0])


torch.manual_seed(0)
model = Reader()
tokens, answers = tensors(splits["train"])
n_steps, batch_size = 600, 48
optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=n_steps)
losses = []
for _ in range(n_steps):
    batch = torch.randint(len(tokens), (batch_size,))
    loss = F.cross_entropy(model(tokens[batch]), answers[batch])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()
    losses.append(loss.item())


def accuracy(split):
    """Return the share of questions answered right."""
    tokens, answers = tensors(split)
    with torch.no_grad():
        return (model.eval()(tokens).argmax(1) == answers).float().mean().item()


for name in ("familiar", "distractor"):
    print(f"{name}: {accuracy(splits[name]):.0%} right; by chance 17 %")

# %%
# Who enters which slot
# ---------------------
# :func:`~neuroattn.analyses.inspect_workspace` runs the model once and labels what it finds in every layer. The
# assignment map says how each token is shared among the slots of a head; its rows sum to one. It comes for free: it is
# what the layer computes anyhow, with no quadratic map of tokens by tokens.

question = splits["familiar"].isel(item=slice(0, 200))
views = inspect_workspace(model, tensors(question)[0])
first, last = views["layers.0.self_attn"], views["layers.1.self_attn"]

one = question.isel(item=0)
colours, shapes = one.attrs["colours"], one.attrs["shapes"]


def name_of(token):
    """Name a token of the chosen question."""
    word, colour, shape = token.tolist()
    names = [
        one.attrs["words"][word],
        *([colours[colour - 1]] if colour else []),
        *([shapes[shape - 1]] if shape else []),
    ]
    return " ".join(names).removeprefix("object ")


names = [name_of(token) for token in one.tokens.values]
used = [i for i, token in enumerate(names) if token]  # empty slots and cells left out
figure, panels = plt.subplots(1, 4, figsize=(11, 4.2), sharey=True, layout="constrained")
for head, axes in enumerate(panels):
    shown = axes.imshow(first.assignment[0, head, used], vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set(title=f"head {head + 1}", xlabel="slot", xticks=range(8), yticks=range(len(used)))
    axes.set_yticklabels([names[i] for i in used])
figure.colorbar(shown, ax=panels, label="share of the token")
figure.suptitle(f"Layer 1: {one.program.item()}, the answer is {one.answer.item()}")

# %%
# How full the slots are, and what is memory
# ------------------------------------------
# The mass of a slot counts the tokens that it speaks for, and as how many tokens its own concept counts. Reading weighs
# slots by mass, so that a slot of ten tokens weighs ten times. What a query reads is a mixture of tokens and of learned
# concepts: ``memory_share`` is the part of the latter.

figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for layer, view in enumerate((first, last), 1):
    mass = view.mass.mean("sample")
    panels[0].plot(np.sort(mass.values, -1)[:, ::-1].mean(0), "o-", label=f"layer {layer}")
    share = view.memory_share.isel(query=0)  # of the token that the answer is read from
    panels[1].hist(share.values.ravel(), bins=np.linspace(0, 1, 26), alpha=0.6, label=f"layer {layer}")
panels[0].set(xlabel="slots, fullest first", ylabel="occupancy (tokens)", ylim=(0, None))
panels[1].set(xlabel="share of memory in what the answer token reads", ylabel="heads x questions")
panels[0].legend()
panels[1].legend()

# %%
# Taking concepts out
# -------------------
# :func:`~neuroattn.analyses.lesion_concepts` removes one concept after the other: it wins no token and is not read, and
# the tokens go to the concepts left. How much does the output change, and how many answers are lost?

lost = {}
for layer, name in enumerate(("layers.0.self_attn", "layers.1.self_attn")):
    workspace = model.layers[layer].self_attn.workspace
    intact = accuracy(splits["familiar"])
    lost[name] = []
    for concept in range(8):
        with workspace.lesion([concept]):
            lost[name].append(intact - accuracy(splits["familiar"]))

figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for layer, name in enumerate(lost):
    change = lesion_concepts(model, name, tensors(question)[0]).mean("sample")
    panels[0].bar(np.arange(8) + 0.4 * layer - 0.2, change, 0.4, label=f"layer {layer + 1}")
    panels[1].bar(np.arange(8) + 0.4 * layer - 0.2, 100 * np.array(lost[name]), 0.4)
panels[0].set(xlabel="concept taken out", ylabel="relative change of the logits")
panels[1].set(xlabel="concept taken out", ylabel="answers lost (percentage points)")
panels[0].legend()

# %%
# What this does not show
# -----------------------
# A slot that holds red objects here is a fact about this network, this seed and these eight concepts; train another and
# look again before telling a story. An assignment map says who was heard, not what was made of it: the lesions are the
# better evidence, and even they only say what the rest of the network cannot make up for at once. Whether a workspace
# helps is another question, with its own page: :doc:`/explanation/attention-layers`.
