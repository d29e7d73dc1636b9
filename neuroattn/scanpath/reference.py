"""The published object attention transformer, from its own weights and with its own conventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neuroattn._checks import check_option, check_seed, check_shape
from neuroattn.attention import sine_position
from neuroattn.scanpath.transformer import CropNetwork, PathCache, Pointer, SceneMemory, TransformerCore

_MODULES = {
    "core.encoder": "transformer_encoder.layers",
    "core.decoder": "transformer_decoder.layers",
    "core.pointer.readout": "readout",
    "appearance": "cnn_embedding",
    "generator": "generator",
}
_POINTERS = {"core.pointer.query": "decode_fc", "core.pointer.key": "encode_fc"}
OBJECT_ATTENTION, LINEAR = 3, 0  # heads of the published network: CA_version


class ReferenceOAT(nn.Module):
    """The published network [1]_ on grids, as it was: made by :func:`load_reference`.

    What is peculiar to it, and not done by :class:`ObjectAttentionTransformer`: the model is shown the target by its
    own picture at its own place, so it is told where it is; the end of a path has the score of that target; a
    column that is never right (padding) takes part in the softmax; a path cannot end before its first object; the
    start of a path is at the middle of the grid, rounded down; places are whole rows and columns of a fixed table.

    Parameters
    ----------
    config : mapping
        See :func:`load_reference`.
    pe_table : Tensor, shape (place, channel)

    References
    ----------
    .. [1] Fang et al. (2024). OAT: object-level attention transformer for gaze scanpath prediction. ECCV.
       arXiv:2407.13335.
    """

    pe_table: Tensor

    def __init__(self, config: Mapping[str, Any], pe_table: Tensor) -> None:
        super().__init__()
        self.rows, self.columns = int(config["rows"]), int(config["cols"])
        self.n_objects = int(config["n_objects"])
        self.crop_size = int(config["crop_h"]), int(config["crop_w"])
        self.max_len = int(config["max_len"])
        if self.rows * self.columns != self.n_objects:
            raise ValueError(
                f"config must have rows * cols == n_objects, got {self.rows} * {self.columns} and {self.n_objects}"
            )
        for name, offset in (("EOS", 0), ("PAD", 1), ("BOS", 2)):
            if config.get(name, self.n_objects + offset) != self.n_objects + offset:
                raise ValueError(
                    f"config {name} must be n_objects + {offset}, {self.n_objects + offset}, got {config[name]}"
                )
        version = config.get("CA_version", OBJECT_ATTENTION)
        if version not in (OBJECT_ATTENTION, LINEAR):
            raise ValueError(f"config CA_version must be {OBJECT_ATTENTION} or {LINEAR}, got {version!r}")
        dim = int(config["emb_size"])
        pointer = None
        if version == OBJECT_ATTENTION:
            width, n_heads = int(config["object_attention_dk"]), int(config["object_attention_heads"])
            pointer = Pointer(dim, width, n_heads)
        self.core = TransformerCore(
            dim,
            heads=int(config["nhead"]),
            feedforward=int(config["dim_feedforward"]),
            encoder_layers=int(config["num_layers"]),
            decoder_layers=int(config["num_layers"]),
            pointer=pointer,
        )
        self.appearance = CropNetwork(dim // 2, int(config["spp"]))
        self.generator = nn.Linear(dim, self.n_objects + 2) if version == LINEAR else None
        n_places, n_channels = check_shape("pe_table", pe_table, "place", "channel")
        if 3 * n_channels < dim // 2 or n_places < max(self.rows, self.columns):
            raise ValueError(
                f"pe_table must have at least {max(self.rows, self.columns)} places and {-(-dim // 6)} channels, "
                f"got {tuple(pe_table.shape)}"
            )
        # Zero rows behind the table, as published: the flag of a grid with one place reads one.
        self.register_buffer("pe_table", nn.functional.pad(pe_table.float(), (0, 0, 0, 4)), persistent=False)

    def published_state(self) -> dict[str, Tensor]:
        """Return the parameters by their published names; they share memory with this network."""
        pointer = self.core.pointer
        return published_names(self.state_dict(), 0 if pointer is None else pointer.heads)

    def memory(self, crops: Tensor, target_index: Tensor) -> SceneMemory:
        """Encode scenes, the target as one more token behind the objects.

        Parameters
        ----------
        crops : Tensor, shape (scene, object, y, x, 3)
            In 0..1.
        target_index : int Tensor, shape (scene,)

        Returns
        -------
        SceneMemory
            Its ``tokens`` are those of the objects, flagged where they are the target.
        """
        height, width = self.crop_size
        n_scenes = check_shape("crops", crops, "scene", self.n_objects, height, width, 3)[0]
        check_shape("target_index", target_index, n_scenes)
        if not ((target_index >= 0) & (target_index < self.n_objects)).all():
            raise ValueError(f"target_index must be in 0..{self.n_objects - 1}, got {target_index.tolist()}")
        pictures = crops.permute(0, 1, 4, 2, 3)
        appearance = self.appearance(pictures.flatten(0, 1)).view(n_scenes, self.n_objects, -1)
        place = torch.arange(self.n_objects, device=crops.device).expand(n_scenes, -1)
        plain = self._token(appearance, place // self.columns, place % self.columns, torch.zeros_like(place))
        flag = (place == target_index[:, None]).long()
        flagged = self._token(appearance, place // self.columns, place % self.columns, flag)
        target = flagged[torch.arange(n_scenes, device=crops.device), target_index][:, None]
        memory = self.core.memory(torch.cat([plain, target], 1))
        return memory._replace(tokens=flagged)

    def teacher_forced(self, crops: Tensor, target_index: Tensor, scanpaths: Sequence[Tensor]) -> Tensor:
        """Return the scores of every next object of given paths.

        Parameters
        ----------
        crops : Tensor, shape (scene, object, y, x, 3)
            Pictures of the objects in raster order, in 0..1.
        target_index : int Tensor, shape (scene,)
        scanpaths : sequence of int Tensor, each of shape (fixation,)
            One path for each scene.

        Returns
        -------
        Tensor, shape (step, scene, object + 2)
            Scores of the objects, of the end (that of the target) and of padding (a constant). A path of n
            fixations has n + 1 steps; what follows is meaningless.
        """
        if len(scanpaths) != len(crops):
            raise ValueError(f"scanpaths must be one for each of {len(crops)} scenes, got {len(scanpaths)}")
        memory = self.memory(crops, target_index)
        objects = nn.utils.rnn.pad_sequence([path.long() for path in scanpaths], batch_first=True)
        if objects.numel() and not 0 <= int(objects.min()) <= int(objects.max()) < self.n_objects:
            raise ValueError(
                f"scanpaths must hold objects in 0..{self.n_objects - 1}, got {objects.tolist()}"
            )
        return self.continue_paths(objects[:, None].to(crops.device), memory)[:, 0].transpose(0, 1)

    @torch.no_grad()
    def generate(
        self,
        crops: Tensor,
        target_index: Tensor,
        mode: str = "greedy",
        *,
        n: int = 1,
        seed: int | None = None,
    ) -> list[NDArray[np.int64]]:
        """Continue from nothing until the end is chosen, or for the number of fixations trained with (max_len).

        Parameters
        ----------
        crops : Tensor, shape (scene, object, y, x, 3)
        target_index : int Tensor, shape (scene,)
        mode : {"greedy", "sample"}, default "greedy"
            Take the most probable object, or draw one.
        n : int, default 1
            Paths of each scene.
        seed : int, optional
            Needed to draw.

        Returns
        -------
        list of int array, each of shape (fixation,)
            Scene by scene.
        """
        check_option("mode", mode, ("greedy", "sample"))
        memory = self.memory(crops, target_index)
        n_scenes = len(crops)
        generator = torch.Generator(crops.device)
        if mode == "sample":
            check_seed(seed)  # type: ignore[arg-type]  # refuses None
            generator.manual_seed(int(seed))  # type: ignore[arg-type]
        cache = self.core.cache(n_scenes * n, self.max_len, memory.keys)
        paths = np.full((n_scenes * n, self.max_len), self.n_objects, np.int64)
        objects = torch.empty(n_scenes, n, 0, dtype=torch.int64, device=crops.device)
        for step in range(self.max_len):
            # The end may be chosen from the second step on, padding never.
            logits = self.continue_paths(objects, memory, cache)[:, :, -1].flatten(0, 1)
            scores = logits[:, : self.n_objects + (step > 0)]
            if mode == "greedy":
                chosen = scores.argmax(1)
            else:
                chosen = torch.multinomial(scores.softmax(1), 1, generator=generator)[:, 0]
            ended = (paths[:, :step] == self.n_objects).any(1)
            paths[:, step] = np.where(ended, self.n_objects, chosen.cpu())
            if (paths[:, step] == self.n_objects).all():
                break
            objects = chosen.clamp_max(self.n_objects - 1).view(n_scenes, n, 1)
        lengths = (paths < self.n_objects).sum(1)
        return [path[:length] for path, length in zip(paths, lengths, strict=True)]

    def _token(self, appearance: Tensor, row: Tensor, column: Tensor, flag: Tensor) -> Tensor:
        # One table codes rows, columns and the flag; what does not fit is cut off.
        code = torch.cat([self.pe_table[row], self.pe_table[column], self.pe_table[flag]], -1)
        return torch.cat([appearance, code[..., : self.core.dim // 2]], -1)

    def _start(self) -> Tensor:
        """Return the token of the start: a white picture at the middle of the grid, shape (1, dim)."""
        white = self.pe_table.new_ones(1, 3, *self.crop_size)
        row = torch.full((1,), self.rows // 2, device=white.device)
        column = torch.full_like(row, self.columns // 2)
        return self._token(self.appearance(white), row, column, torch.zeros_like(row))

    def continue_paths(self, objects: Tensor, memory: SceneMemory, cache: PathCache | None = None) -> Tensor:
        """Return scores after the objects that follow in paths; at their start also before the first.

        Parameters
        ----------
        objects : int Tensor, shape (scene, path, step)
        memory : SceneMemory
        cache : PathCache, optional
            Of the earlier steps; these are added to it.

        Returns
        -------
        Tensor, shape (scene, path, step, object + 2)
            One step more at the start of paths.
        """
        n_scenes, n_paths, n_steps = objects.shape
        index = objects.reshape(n_scenes, -1, 1).expand(-1, -1, self.core.dim)
        steps = memory.tokens.gather(1, index).view(n_scenes, n_paths, n_steps, self.core.dim)
        n_past = 0 if cache is None else cache.n_steps
        if n_past == 0:
            steps = torch.cat([self._start().expand(n_scenes, n_paths, 1, -1), steps], 2)
        order = sine_position(n_past + steps.shape[2], self.core.dim, device=steps.device)[n_past:]
        decoded = self.core.decode(steps + order, memory, cache)
        if self.generator is not None:
            out: Tensor = self.generator(decoded)
            return out
        # The column of the target's token is that of the end; padding has a constant one.
        scores = self.core.point(decoded, memory)
        logits = torch.cat([scores, torch.zeros_like(scores[..., :1])], -1)
        readout = None if self.core.pointer is None else self.core.pointer.readout
        return logits if readout is None else logits + readout.bias


def load_reference(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any], pe_table: Tensor
) -> ReferenceOAT:
    """Build the published network from its own weights.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        With the published names. Its unused layers and its sequence code, a formula, are left out.
    config : mapping
        Published settings: ``rows``, ``cols``, ``n_objects``, ``emb_size``, ``nhead``, ``num_layers``,
        ``dim_feedforward``, ``object_attention_heads``, ``object_attention_dk``, ``spp``, ``crop_h``, ``crop_w``,
        ``max_len``; optional ``CA_version``, 3 (the pointer, default) or 0 (a linear map), and ``EOS``, ``PAD``
        and ``BOS``, which are checked.
    pe_table : Tensor, shape (place, channel)
        The table of positions, which the published files do not keep with the weights.

    Returns
    -------
    ReferenceOAT
        In evaluation mode.

    Raises
    ------
    ValueError
        If a setting is missing or unknown, or weights are missing or do not fit.

    Examples
    --------
    >>> config = dict(rows=2, cols=2, n_objects=4, emb_size=8, nhead=2, num_layers=1, dim_feedforward=8, spp=2,
    ...               object_attention_heads=1, object_attention_dk=8, crop_h=20, crop_w=20, max_len=5)
    >>> published = ReferenceOAT(config, torch.zeros(2, 2)).published_state()  # in practice, from a file
    >>> published = {name: torch.zeros_like(weight) for name, weight in published.items()}
    >>> network = load_reference(published, config, torch.zeros(2, 2))
    >>> network.generate(torch.zeros(1, 4, 20, 20, 3), torch.tensor([1]))
    [array([0, 0, 0, 0, 0])]
    """
    needed = (
        "rows", "cols", "n_objects", "emb_size", "nhead", "num_layers", "dim_feedforward",
        "object_attention_heads", "object_attention_dk", "spp", "crop_h", "crop_w", "max_len",
    )  # fmt: skip
    if missing := [name for name in needed if name not in config]:
        raise ValueError(f"config must have {', '.join(missing)}, got {sorted(config)}")
    network = ReferenceOAT(config, pe_table)
    with torch.no_grad():
        for name, parameter in network.published_state().items():
            if name not in state_dict:
                raise ValueError(f"state_dict must have {name}, got {len(state_dict)} other names")
            check_shape(f"state_dict[{name!r}]", state_dict[name], *parameter.shape)
            parameter.copy_(state_dict[name])
    return network.eval()


def published_names(tensors: Mapping[str, Tensor], n_heads: int) -> dict[str, Tensor]:
    """Return tensors, one for each parameter of :class:`ReferenceOAT`, by the published names of parameters.

    Examples
    --------
    >>> published_names({"core.pointer.key.bias": torch.arange(4), "appearance.fc.bias": torch.zeros(2)}, 2)
    {'cross_attentions.0.encode_fc.bias': tensor([0, 1]), 'cross_attentions.1.encode_fc.bias': tensor([2, 3]), \
'cnn_embedding.fc.bias': tensor([0., 0.])}
    """
    named = {}
    for name, tensor in tensors.items():
        module = next(own for own in (*_POINTERS, *_MODULES) if name.startswith(f"{own}."))
        rest = name.removeprefix(module)
        if module in _POINTERS:
            for head, part in enumerate(tensor.chunk(n_heads)):
                named[f"cross_attentions.{head}.{_POINTERS[module]}{rest}"] = part
        else:
            named[_MODULES[module] + rest] = tensor
    return named
