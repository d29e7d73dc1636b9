"""
Attention inside the backbone
=============================

A region's map says which tokens it reads. If the tokens come from a vision transformer, they have read each other
before, and some of them are read by everything whatever they show. This page reads the self-attention of a
transformer, finds sinks, patterns and position bias, and then asks the same of the regions of a fitted brain encoder.

Everything is planted here, so that we know what must be found: a sink in an untrained transformer, and outlier tokens
in the features of a simulated subject. With a network at hand, replace the first line of the next block by
``load_backbone("dinov2_vitb14")``.
"""

# %%
# The maps that made the output
# -----------------------------
# :func:`~neuroattn.analyses.self_attention` runs the network as it is and yields the exact maps of one image after the
# other. One row is what one token reads; tokens without a place, such as the class token, are labelled.

import matplotlib.pyplot as plt
import numpy as np

from neuroattn.analyses import (
    attention_patterns,
    attention_sinks,
    backbone_patterns,
    backbone_position_bias,
    backbone_sinks,
    plot_attention_sinks,
    plot_backbone_sinks,
    plot_patterns,
    plot_position_bias,
    position_bias,
    self_attention,
)
from neuroattn.encoding import BrainEncoder, load_backbone

backbone = load_backbone("test_vit", weights="random", image_size=160)
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (12, 10, 10, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
maps = next(self_attention(backbone, images, layers=["block2", "block5"]))
print(dict(maps.sizes), maps.kind.values[:3])
print("rows sum to", maps.sum("key").values.round(4).min())

# %%
# A sink, planted
# ---------------
# We let the class token match every query in all blocks, and one patch in blocks 2 and 3 only, by adding to what the
# projections of queries and keys return. :func:`~neuroattn.analyses.backbone_sinks` must find both: a *primary* sink
# that stays, and a *secondary* one that comes and goes.

PATCH = 45  # row 4, column 4, after the class token


def attract(block, strength):
    """Let the keys of some tokens match all queries of a block."""

    def change(module, inputs, output):
        output = output.clone()
        output[..., :64] += 1
        for token, size in strength.items():
            output[:, token, 64:128] += size
        return output

    return backbone.model.blocks[block].attn.qkv.register_forward_hook(change)


planted = [attract(block, {0: 0.8} | ({PATCH: 0.7} if block in (2, 3) else {})) for block in range(6)]
sinks = backbone_sinks(backbone, images)
for name in ("role", "place", "first", "last", "weight"):
    print(f"{name:7}", sinks[name].values.round(1) if name == "weight" else sinks[name].values)

plt.figure(plot_backbone_sinks(sinks))

# %%
# Near or far, alike or each its own
# ----------------------------------
# :func:`~neuroattn.analyses.backbone_patterns` classes heads by how much a key tells about the query that reads it, and
# by distance. Grey ticks are the control, the same maps with shuffled places. In an untrained network all queries read
# alike, and a sink does not change that: all heads are *global*. Distances are in degrees of visual angle here, for
# images of 160 px that span 8 degrees.

patterns = backbone_patterns(backbone, images, px_per_degree=20)
print({str(name): int((patterns.pattern == name).sum()) for name in ("local", "hybrid", "global")})
plt.figure(plot_patterns(patterns))

# %%
# What is left without content
# ----------------------------
# Our sink sits at a place. :func:`~neuroattn.analyses.backbone_position_bias` follows attention down to the patches and
# compares the images with images whose patches have changed places: a bias for a place stays. The planted patch lies
# near the centre, so that the profile rises there from block 2 on, with and without content.

bias = backbone_position_bias(backbone, images, px_per_degree=20)
for handle in planted:
    handle.remove()
plt.figure(plot_position_bias(bias.sel(layer=["block1", "block2", "block5"])))

# %%
# The regions of an encoder
# -------------------------
# Now a simulated subject. Every image has 4 x 6 tokens, one of them marked, somewhere in the middle as in a
# photograph. One region reads the marked token, the other one the mean of all. Both are fitted; then half of the
# held-out images get an outlier in a corner, a token of large norm that looks like a mark and holds nothing, as
# patches do that a transformer uses as scratch space.


def make_subject(n):
    """Return features (stimulus, channel, y, x) and responses (stimulus, unit)."""
    tokens = rng.normal(size=(n, 8, 4, 6)).astype("f4")
    y, x = rng.integers(1, 3, size=n), rng.integers(1, 5, size=n)
    tokens[:, 0] *= 0.1
    tokens[np.arange(n), 0, y, x] = 5
    marked, mean = tokens[np.arange(n), 1:5, y, x], 4 * tokens[:, 1:5].mean((2, 3))
    return tokens, np.concatenate([marked, mean, marked, mean], 1) + rng.normal(0, 0.5, (n, 16)).astype("f4")


X, responses = make_subject(600)
unit = np.arange(16) // 4
encoder = BrainEncoder({"marked": unit % 2 == 0, "mean": unit % 2 == 1}, heads=2, epochs=40, seed=0)
encoder.fit(X[:450], responses[:450])
held_out, measured = X[450:].copy(), responses[450:]
held_out[::2, :, 0, 5] *= 3
held_out[::2, 0, 0, 5] = 20

effect = attention_sinks(encoder, held_out, measured)
print("outliers:", float(effect.area), "of the tokens")
print(
    "r as it is:",
    dict(zip(effect.roi.values.tolist(), effect.correlation.values.round(2).tolist(), strict=True)),
)
plt.figure(plot_attention_sinks(effect))

# %%
# On the left: the outliers are a fiftieth of the tokens and draw a large part of the first region's attention. The
# grey marks are the outliers of *another* image: as ours always stand at one place, half of them fall on an outlier,
# too. On the right: hidden from the queries, so that their weight goes to the other tokens, the first region gains what
# the outliers had cost, and as many random tokens give nothing. The second region hardly looks at them more than at
# others and gains as well, as a mean suffers from one large token.
#
# Fixed or routed, and by what
# ----------------------------
# The rows of a region's map are images. A *routed* head reads another place on each of them; a *fixed* one is a
# receptive field.

clean = X[450:]
plt.figure(plot_patterns(attention_patterns(encoder, clean)))

# %%
# The marks lie in the middle, and so does the attention of the first region. Is that a bias for the middle? After
# tokens have changed places over images and positions, nothing of it is left: the region follows the mark.

where = position_bias(encoder, clean, px_per_degree=10, image_size=(60, 40))
print("bias in bits:", where.bias.values.round(2).tolist(), "null:", where.bias_null.values.round(2).tolist())
plt.figure(plot_position_bias(where))

# %%
# What these numbers do not say
# -----------------------------
# - A sink is not an error of the network: it may store there what later blocks need. Whether it misleads *your* regions
#   is what :func:`~neuroattn.analyses.attention_sinks` measures, and it may cost accuracy to hide outliers.
# - Rollout ignores values and feed-forward layers. It says where information could come from.
# - "Fixed" and "routed" describe maps. Whether predictions rest on them is another question, which
#   :func:`~neuroattn.analyses.masking_effect` asks.
#
# `Attention inside the backbone <../explanation/backbone-attention.html>`_ has the definitions, our thresholds and the
# papers.

# sphinx_gallery_thumbnail_number = 1
