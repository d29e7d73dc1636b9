"""Triton kernels of the integration: one read of the tokens, all concepts of a head in one tile."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_PROGRAMS = 264  # two for each multiprocessor of an H100


@triton.jit
def _lift(x, UP: tl.constexpr):
    # The interpreter computes with the bit patterns of bfloat16; a GPU's code does not change.
    return x.to(tl.float32) if UP else x


@triton.jit
def _load(ptr, rows, columns, row_stride, column_stride, rows_in, columns_in, UP: tl.constexpr):
    at = ptr + (rows[:, None] * row_stride + columns[None, :] * column_stride)
    return _lift(tl.load(at, mask=rows_in[:, None] & columns_in[None, :], other=0.0), UP)


@triton.jit
def _store(ptr, rows, columns, row_stride, value, rows_in, columns_in):
    at = ptr + (rows[:, None] * row_stride + columns[None, :])
    tl.store(at, value.to(ptr.dtype.element_ty), mask=rows_in[:, None] & columns_in[None, :])


@triton.jit
def _share(k, concepts, half_norm, scale, keep, concepts_in):
    """Shares of a tile of tokens in all concepts: rows sum to 1, or to 0 where not kept."""
    score = (tl.dot(k, tl.trans(concepts), input_precision="ieee") - half_norm[None, :]) * scale
    score = tl.where(concepts_in[None, :], score, float("-inf"))
    share = tl.exp(score - tl.max(score, 1)[:, None])
    return tl.where(keep[:, None], share / tl.sum(share, 1)[:, None], 0.0)


@triton.jit
def _sums_kernel(
    k_ptr, v_ptr, concept_ptr, tau_ptr, mask_ptr, sum_k_ptr, sum_v_ptr, mass_ptr,
    k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d, mask_b, mask_h,
    n_heads, n_tokens, n_concepts, width, width_v, root, chunk,
    MASKED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    # One program per (batch, head) and chunk of tokens; chunks are added by the next kernel, in order.
    split, bh = tl.program_id(0), tl.program_id(1)
    b, h = (bh // n_heads).to(tl.int64), (bh % n_heads).to(tl.int64)
    m, d, e = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
    m_in, d_in, e_in = m < n_concepts, d < width, e < width_v
    concepts = _load(concept_ptr + h * n_concepts * width, m, d, width, 1, m_in, d_in, UP)
    half_norm = 0.5 * tl.sum(concepts.to(tl.float32) * concepts.to(tl.float32), 1)
    scale = root / tl.load(tau_ptr + h)
    # Pointers walk along the tokens, so that offsets within a tile are small.
    first = (split * chunk).to(tl.int64)
    k_ptr += b * k_b + h * k_h + first * k_n
    v_ptr += b * v_b + h * v_h + first * v_n
    mask_ptr += b * mask_b + h * mask_h + first
    n = tl.arange(0, BLOCK_N)
    sum_k = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    sum_v = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    for start in range(split * chunk, tl.minimum(n_tokens, (split + 1) * chunk), BLOCK_N):
        keep = start + n < n_tokens
        if MASKED:
            keep = keep & (tl.load(mask_ptr + n, mask=keep, other=0) != 0)
        k = _load(k_ptr, n, d, k_n, k_d, keep, d_in, UP)
        v = _load(v_ptr, n, e, v_n, v_d, keep, e_in, UP)
        share = _share(k, concepts, half_norm, scale, keep, m_in)
        given = tl.trans(share.to(k.dtype))
        sum_k += tl.dot(given, k, input_precision="ieee")
        sum_v += tl.dot(given, v, input_precision="ieee")
        mass += tl.sum(share, 0)
        k_ptr += BLOCK_N * k_n
        v_ptr += BLOCK_N * v_n
        mask_ptr += BLOCK_N
    slots = (split * tl.num_programs(1) + bh).to(tl.int64) * n_concepts
    _store(sum_k_ptr + slots * width, m, d, width, sum_k, m_in, d_in)
    _store(sum_v_ptr + slots * width_v, m, e, width_v, sum_v, m_in, e_in)
    tl.store(mass_ptr + slots + m, mass, mask=m_in)


@triton.jit
def _posterior_kernel(
    sum_ptr, mass_ptr, concept_ptr, log_kappa_ptr, mean_ptr, log_mass_ptr,
    n_splits, n_slots, n_head_slots, width, tiny,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # Slots of all batches and heads in one row; the same kernel makes keys and values.
    slot = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    slot_in = slot < n_slots
    inside = slot_in[:, None] & (d < width)[None, :]
    parameter = slot % n_head_slots
    kappa = tl.exp(tl.load(log_kappa_ptr + parameter, mask=slot_in, other=0.0))
    at = slot.to(tl.int64)[:, None] * width + d[None, :]
    concept = tl.load(concept_ptr + parameter[:, None] * width + d[None, :], mask=inside, other=0.0)
    total = kappa[:, None] * concept.to(tl.float32)
    mass = kappa
    for _ in range(0, n_splits):
        total += tl.load(sum_ptr + at, mask=inside, other=0.0)
        mass += tl.load(mass_ptr + slot, mask=slot_in, other=0.0)
        sum_ptr += n_slots * width
        mass_ptr += n_slots
    full = mass >= tiny
    safe = tl.where(full, mass, 1.0)
    mean = tl.where(full[:, None], total / safe[:, None], 0.0)
    tl.store(mean_ptr + at, mean.to(mean_ptr.dtype.element_ty), mask=inside)
    tl.store(log_mass_ptr + slot, tl.where(full, tl.log(safe), float("-inf")), mask=slot_in)


@triton.jit
def _gradients_kernel(
    k_ptr, v_ptr, concept_ptr, tau_ptr, mask_ptr, slot_k_ptr, slot_v_ptr, offset_ptr, log_mass_ptr,
    grad_k_ptr, grad_v_ptr, pull_ptr, push_ptr,
    k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d, mask_b, mask_h,
    n_heads, n_tokens, n_concepts, width, width_v, root, chunk,
    MASKED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    # As the sums: a token's gradients are finished here, the concepts' pull and push are sums over chunks.
    split, bh = tl.program_id(0), tl.program_id(1)
    b, h = (bh // n_heads).to(tl.int64), (bh % n_heads).to(tl.int64)
    m, d, e = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
    m_in, d_in, e_in = m < n_concepts, d < width, e < width_v
    slot = bh.to(tl.int64) * n_concepts
    concepts = _load(concept_ptr + h * n_concepts * width, m, d, width, 1, m_in, d_in, UP)
    slot_k = _load(slot_k_ptr + slot * width, m, d, width, 1, m_in, d_in, UP)
    slot_v = _load(slot_v_ptr + slot * width_v, m, e, width_v, 1, m_in, e_in, UP)
    offset = tl.load(offset_ptr + slot + m, mask=m_in, other=0.0)
    log_mass = tl.load(log_mass_ptr + slot + m, mask=m_in, other=float("-inf"))
    per_mass = tl.where(log_mass > float("-inf"), tl.exp(-log_mass), 0.0)
    half_norm = 0.5 * tl.sum(concepts.to(tl.float32) * concepts.to(tl.float32), 1)
    scale = root / tl.load(tau_ptr + h)
    first = (split * chunk).to(tl.int64)
    k_ptr += b * k_b + h * k_h + first * k_n
    v_ptr += b * v_b + h * v_h + first * v_n
    mask_ptr += b * mask_b + h * mask_h + first
    grad_k_ptr += (bh.to(tl.int64) * n_tokens + first) * width
    grad_v_ptr += (bh.to(tl.int64) * n_tokens + first) * width_v
    n = tl.arange(0, BLOCK_N)
    pull = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    push = tl.zeros([BLOCK_M], tl.float32)
    for start in range(split * chunk, tl.minimum(n_tokens, (split + 1) * chunk), BLOCK_N):
        n_in = start + n < n_tokens
        keep = n_in
        if MASKED:
            keep = keep & (tl.load(mask_ptr + n, mask=keep, other=0) != 0)
        k = _load(k_ptr, n, d, k_n, k_d, keep, d_in, UP)
        v = _load(v_ptr, n, e, v_n, v_d, keep, e_in, UP)
        share = _share(k, concepts, half_norm, scale, keep, m_in)
        weight = share * per_mass[None, :]
        change = tl.dot(k, tl.trans(slot_k), input_precision="ieee") + offset[None, :]
        change += tl.dot(v, tl.trans(slot_v), input_precision="ieee")
        change = weight * change
        pulled = ((change - share * tl.sum(change, 1)[:, None]) * scale).to(k.dtype)
        weight = weight.to(k.dtype)
        grad_k = tl.dot(weight, slot_k, input_precision="ieee") + tl.dot(
            pulled, concepts, input_precision="ieee"
        )
        grad_v = tl.dot(weight, slot_v, input_precision="ieee")
        _store(grad_k_ptr, n, d, width, grad_k, n_in, d_in)
        _store(grad_v_ptr, n, e, width_v, grad_v, n_in, e_in)
        pull += tl.dot(tl.trans(pulled), k, input_precision="ieee")
        push += tl.sum(pulled.to(tl.float32), 0)
        k_ptr += BLOCK_N * k_n
        v_ptr += BLOCK_N * v_n
        mask_ptr += BLOCK_N
        grad_k_ptr += BLOCK_N * width
        grad_v_ptr += BLOCK_N * width_v
    slots = (split * tl.num_programs(1) + bh).to(tl.int64) * n_concepts
    _store(pull_ptr + slots * width, m, d, width, pull, m_in, d_in)
    tl.store(push_ptr + slots + m, push, mask=m_in)


def _tile(n: int) -> int:
    tile: int = triton.next_power_of_2(n)
    return max(16, tile)


def _config(single: bool, backward: bool, hopper: bool) -> tuple[int, int, int]:
    """Give tokens per block, warps and stages; float32 is exact, without tensor cores, and needs the room."""
    if single:
        return 16, 8 if backward else 4, 1
    if backward:
        return 32, 8, 1
    return (64, 4, 2) if hopper else (16, 4, 1)


def _is_hopper(k: Tensor) -> bool:
    return not k.is_cuda or torch.cuda.get_device_capability(k.device) >= (9, 0)


def _chunks(n_tokens: int, n_rows: int, block: int, n_splits: int | None) -> tuple[int, int]:
    """Give the number of chunks, by default as many as fill the device, and their length in tokens."""
    wanted = n_splits or min(triton.cdiv(_PROGRAMS, n_rows), triton.cdiv(n_tokens, 4 * block))
    chunk: int = triton.cdiv(triton.cdiv(n_tokens, wanted), block) * block
    return triton.cdiv(n_tokens, chunk), chunk


def _arguments(k: Tensor, v: Tensor, concepts: Tensor, mask: Tensor | None, chunk: int) -> tuple[Any, ...]:
    n_heads, n_tokens, width = k.shape[1:]
    shared = mask is None or mask.shape[1] == 1
    mask_strides = (0, 0) if mask is None else (mask.stride(0), 0 if shared else mask.stride(1))
    sizes = (n_heads, n_tokens, concepts.shape[1], width, v.shape[-1])
    return *k.stride(), *v.stride(), *mask_strides, *sizes, width**-0.5, chunk


def _mask_bytes(mask: Tensor | None, k: Tensor) -> Tensor:
    return k if mask is None else mask.view(torch.uint8)


def forward(
    k: Tensor,
    v: Tensor,
    concept_k: Tensor,
    concept_v: Tensor,
    log_kappa: Tensor,
    tau: Tensor,
    mask: Tensor | None,
    block: int | None = None,
    n_splits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and log mass of the slots; ``block`` and ``n_splits`` override the table."""
    n_batch, n_heads, n_tokens, width = k.shape
    width_v, n_concepts = v.shape[-1], concept_k.shape[1]
    rows, slots = n_batch * n_heads, n_batch * n_heads * n_concepts
    concept_k, concept_v, log_kappa, tau = (x.contiguous() for x in (concept_k, concept_v, log_kappa, tau))
    mask = None if mask is None else mask.contiguous()
    tile_m, tile_d, tile_v = _tile(n_concepts), _tile(width), _tile(width_v)
    best, warps, stages = _config(k.dtype == torch.float32, False, _is_hopper(k))
    block = block or best
    splits, chunk = _chunks(n_tokens, rows, block, n_splits)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=k.device)

    sum_k, sum_v, mass = empty(splits, slots, width), empty(splits, slots, width_v), empty(splits, slots)
    _sums_kernel[(splits, rows)](
        k, v, concept_k, tau, _mask_bytes(mask, k), sum_k, sum_v, mass,
        *_arguments(k, v, concept_k, mask, chunk),
        MASKED=mask is not None, BLOCK_N=block, BLOCK_M=tile_m, BLOCK_D=tile_d, BLOCK_V=tile_v,
        UP=k.dtype == torch.bfloat16 and not k.is_cuda, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    keys = empty(n_batch, n_heads, n_concepts, width, dtype=k.dtype)
    values = empty(n_batch, n_heads, n_concepts, width_v, dtype=k.dtype)
    log_mass = empty(n_batch, n_heads, n_concepts)
    tiny = torch.finfo(torch.float32).tiny
    for total, concept, mean in ((sum_k, concept_k, keys), (sum_v, concept_v, values)):
        _posterior_kernel[(triton.cdiv(slots, 16),)](
            total, mass, concept, log_kappa, mean, log_mass,
            splits, slots, n_heads * n_concepts, mean.shape[-1], tiny,
            BLOCK_M=16, BLOCK_D=_tile(mean.shape[-1]), num_warps=2,
        )  # fmt: skip
    return keys, values, log_mass


def token_gradients(
    k: Tensor,
    v: Tensor,
    concept_k: Tensor,
    tau: Tensor,
    mask: Tensor | None,
    grad_keys: Tensor,
    grad_values: Tensor,
    offset: Tensor,
    log_mass: Tensor,
    block: int | None = None,
    n_splits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do what ``op._token_gradients`` does; ``block`` and ``n_splits`` override the table."""
    n_batch, n_heads, n_tokens, width = k.shape
    width_v, n_concepts = v.shape[-1], concept_k.shape[1]
    rows = n_batch * n_heads
    concept_k, tau, grad_keys, grad_values, offset, log_mass = (
        x.contiguous() for x in (concept_k, tau, grad_keys, grad_values, offset, log_mass)
    )
    mask = None if mask is None else mask.contiguous()
    tile_m, tile_d, tile_v = _tile(n_concepts), _tile(width), _tile(width_v)
    best, warps, stages = _config(k.dtype == torch.float32, True, _is_hopper(k))
    block = block or best
    splits, chunk = _chunks(n_tokens, rows, block, n_splits)
    grad_k = torch.empty(k.shape, dtype=k.dtype, device=k.device)
    grad_v = torch.empty(v.shape, dtype=v.dtype, device=k.device)
    pull = torch.empty(splits, n_batch, n_heads, n_concepts, width, dtype=torch.float32, device=k.device)
    push = torch.empty(splits, n_batch, n_heads, n_concepts, dtype=torch.float32, device=k.device)
    _gradients_kernel[(splits, rows)](
        k, v, concept_k, tau, _mask_bytes(mask, k), grad_keys, grad_values, offset, log_mass,
        grad_k, grad_v, pull, push, *_arguments(k, v, concept_k, mask, chunk),
        MASKED=mask is not None, BLOCK_N=block, BLOCK_M=tile_m, BLOCK_D=tile_d, BLOCK_V=tile_v,
        UP=k.dtype == torch.bfloat16 and not k.is_cuda, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return grad_k, grad_v, pull.sum(0), push.sum(0)


def lint_variants() -> list[Any]:
    """List what is shipped, for ``python -m neuroattn.kernels.lint``."""
    from neuroattn.kernels.lint import Variant

    strides = dict.fromkeys(["k_b", "k_h", "k_n", "v_b", "v_h", "v_n", "mask_b", "mask_h"], "i32")
    sizes = dict.fromkeys(["n_heads", "n_tokens", "n_concepts", "width", "width_v", "chunk"], "i32")
    common = strides | sizes | {"root": "fp32", "tau_ptr": "*fp32", "mask_ptr": "*u8"}
    variants = []
    for dtype in ("fp32", "fp16", "bf16"):
        tensors = dict.fromkeys(["k_ptr", "v_ptr", "concept_ptr"], f"*{dtype}")
        sums = tensors | dict.fromkeys(["sum_k_ptr", "sum_v_ptr", "mass_ptr"], "*fp32")
        grads = (
            tensors
            | dict.fromkeys(["slot_k_ptr", "slot_v_ptr", "grad_k_ptr", "grad_v_ptr"], f"*{dtype}")
            | dict.fromkeys(["offset_ptr", "log_mass_ptr", "pull_ptr", "push_ptr"], "*fp32")
        )
        posterior = {"concept_ptr": f"*{dtype}", "mean_ptr": f"*{dtype}"} | dict.fromkeys(
            ["sum_ptr", "mass_ptr", "log_kappa_ptr", "log_mass_ptr"], "*fp32"
        )
        numbers = dict.fromkeys(["n_splits", "n_slots", "n_head_slots", "width"], "i32") | {"tiny": "fp32"}
        single = dtype == "fp32"
        for tile in (16, 64):
            constants: dict[str, Any] = {"BLOCK_M": 16, "BLOCK_D": tile}
            aligned = tuple(posterior)
            variants.append(Variant(_posterior_kernel, posterior | numbers, constants, 2, 3, aligned, False))
            for kernel, pointers, backward in (
                (_sums_kernel, sums, False),
                (_gradients_kernel, grads, True),
            ):
                for architecture in (90, 80):
                    if architecture == 80 and backward and not single and tile == 64:
                        continue  # spills 16 to 24 bytes there, less loss than any smaller tile or no cores
                    block, warps, stages = _config(single, backward, architecture == 90)
                    constants = dict.fromkeys(["BLOCK_M", "BLOCK_D", "BLOCK_V"], tile) | {
                        "MASKED": True, "BLOCK_N": block, "UP": False, "k_d": 1, "v_d": 1,
                    }  # fmt: skip
                    aligned = (*pointers, "tau_ptr", "width", "width_v", *strides)
                    types, cores = pointers | common, not single and tile == 64  # small ones use HMMA
                    variants.append(
                        Variant(kernel, types, constants, warps, stages, aligned, cores, (architecture,))
                    )
    return variants
