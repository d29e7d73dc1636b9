import pytest
import torch

from neuroattn.kernels.workspace_integrate import op, reference, workspace_integrate

pytest.importorskip("triton", reason="no triton on this platform")
_triton = pytest.importorskip("neuroattn.kernels.workspace_integrate._triton")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def make_inputs(
    tokens=37, concepts=5, width=8, width_v=12, *, batch=2, heads=2, dtype=torch.float64, masked=False
):
    """Keys, values, concepts, log kappa, tau and mask; one concept of one head has no pseudo-count."""
    generator = torch.Generator().manual_seed(tokens + concepts + width)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    accumulator = torch.promote_types(dtype, torch.float32)
    log_kappa = draw(heads, concepts).to(accumulator)
    log_kappa[0, 0] = -torch.inf
    mask = None
    if masked:  # the second sample keeps no token at all
        mask = torch.rand(batch, 1, tokens, generator=generator) < 0.6
        mask[1:] = False
    return (
        draw(batch, heads, tokens, width),
        draw(batch, heads, tokens, width_v),
        draw(heads, concepts, width),
        draw(heads, concepts, width_v),
        log_kappa,
        torch.linspace(0.5, 1.5, heads, dtype=accumulator),
        mask,
    )


def expected(inputs, grads=None):
    """Slots in float64, and the gradients that autograd finds through the definition."""
    *tensors, mask = (None if x is None else x.cpu() for x in inputs)
    tensors = [x.double().requires_grad_() for x in tensors]
    slots = reference.workspace_integrate(*tensors, mask)
    if grads is None:
        return [x.detach() for x in slots]
    return torch.autograd.grad(slots, tensors, [g.double().cpu() for g in grads])


def make_grads(slots):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(x.shape, generator=generator).to(x) for x in slots]


def check_kernels(inputs, assert_close, monkeypatch, **blocks):
    """Run forward and backward through the launchers, finishing as the operator does on a GPU."""
    k, v, concept_k = inputs[:3]
    slots = _triton.forward(*inputs, **blocks)
    for got, want in zip(slots, expected(inputs), strict=True):
        assert torch.equal(got.isinf().cpu(), want.isinf())
        assert_close(got.nan_to_num(neginf=0.0), want.nan_to_num(neginf=0.0), k.dtype)
    assert [x.dtype for x in slots] == [k.dtype, k.dtype, torch.float32]
    grads = make_grads(slots)
    monkeypatch.setattr(op, "_token_gradients", lambda *args: _triton.token_gradients(*args, **blocks))
    assert not k.is_cuda or op.has_kernel(k, v, concept_k)
    got_grads = torch.ops.neuroattn.workspace_integrate_backward(*grads, *inputs, *slots)
    for got, want, x in zip(got_grads, expected(inputs, grads), inputs, strict=False):
        assert_close(got, want, k.dtype)
        assert got.dtype == x.dtype


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_match_definition(dtype, masked, poison, guarded, assert_close, monkeypatch):
    inputs = [
        x if x is None or x.dtype == torch.bool else guarded(x)
        for x in make_inputs(dtype=dtype, masked=masked)
    ]
    if masked:
        inputs[6] = inputs[6].to(inputs[0].device)
        hidden = ~inputs[6][..., None].expand_as(inputs[0])
        inputs[0][hidden] = float("nan")
    check_kernels(inputs, assert_close, monkeypatch, block=16, n_splits=2)


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 49])
@pytest.mark.parametrize("n_splits", [1, 3])
def test_kernels_at_block_edges(tokens, n_splits, poison, guarded, assert_close, monkeypatch):
    inputs = [None if x is None else guarded(x) for x in make_inputs(tokens, batch=1, dtype=torch.float32)]
    check_kernels(inputs, assert_close, monkeypatch, block=16, n_splits=n_splits)


@pytest.mark.parametrize(
    ("concepts", "width", "width_v"), [(1, 1, 1), (16, 16, 17), (17, 64, 3), (64, 48, 64)]
)
def test_kernels_at_tile_edges_with_the_shipped_blocks(
    concepts, width, width_v, poison, guarded, assert_close, monkeypatch
):
    inputs = make_inputs(70, concepts, width, width_v, batch=1, dtype=torch.float32)
    check_kernels([None if x is None else guarded(x) for x in inputs], assert_close, monkeypatch)


def test_kernels_read_strided_and_expanded_inputs(poison, device, assert_close, monkeypatch):
    k, v, concept_k, concept_v, log_kappa, tau, _ = (
        None if x is None else x.to(device) for x in make_inputs(dtype=torch.float32)
    )
    mask = torch.rand(37, 2, device=device).t()[:, None] < 0.5  # (batch, 1, token), not contiguous
    tokens_first = k.transpose(1, 2).contiguous().transpose(1, 2)
    inputs = [tokens_first, v[:1].expand_as(v), concept_k.mT.contiguous().mT, concept_v, log_kappa, tau, mask]
    check_kernels(inputs, assert_close, monkeypatch, block=16, n_splits=2)
    per_head = mask.expand(2, 2, 37).clone()
    per_head[:, 1] = ~per_head[:, 1]
    check_kernels([*inputs[:6], per_head], assert_close, monkeypatch, block=16, n_splits=2)


def test_chunks_cover_all_tokens_once():
    for n_tokens in (1, 63, 64, 65, 4096):
        for n_rows in (1, 12, 384):
            splits, chunk = _triton._chunks(n_tokens, n_rows, 64, None)
            assert (splits - 1) * chunk < n_tokens <= splits * chunk
            assert chunk % 64 == 0
    assert _triton._chunks(4096, 12, 64, None)[0] > 1
    assert _triton._chunks(4096, 384, 64, None)[0] == 1


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_route_matches_definition(dtype, masked, assert_close):
    *tensors, mask = make_inputs(dtype=dtype, masked=masked)
    leaves = [x.requires_grad_() for x in tensors]
    slots = workspace_integrate(*leaves, None if mask is None else mask[:, 0])
    assert slots.assignment is None
    for got, want in zip(slots[:3], expected([x.detach() for x in leaves] + [mask]), strict=True):
        assert_close(got.detach().nan_to_num(neginf=0.0), want.nan_to_num(neginf=0.0), dtype)
    grads = make_grads([x.detach() for x in slots[:3]])
    got_grads = torch.autograd.grad(slots[:3], leaves, grads)
    for got, want in zip(got_grads, expected([x.detach() for x in leaves] + [mask], grads), strict=True):
        assert_close(got, want, dtype)


def test_autocast_casts_tokens_and_concepts_only():
    inputs = make_inputs(dtype=torch.float32)[:6]
    with torch.autocast("cpu", torch.bfloat16):
        slots = workspace_integrate(*inputs, return_assignment=True)
    halves = [x.bfloat16() for x in inputs[:4]]
    want = workspace_integrate(*halves, *inputs[4:], return_assignment=True)
    assert all(map(torch.equal, slots, want))
    assert [x.dtype for x in slots] == [torch.bfloat16] * 2 + [torch.float32] * 2


def test_compiles_as_one_graph():
    *leaves, mask = make_inputs(masked=True)
    leaves = [x.requires_grad_() for x in leaves]

    def loss(*leaves):
        keys, values, log_mass, _ = workspace_integrate(*leaves, mask[:, 0])
        return keys.sin().sum() + values.cos().sum() + log_mass.exp().sum()

    want = torch.autograd.grad(loss(*leaves), leaves)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*leaves), leaves), want)


def test_only_float64_empty_and_wide_tiles_lack_a_kernel():
    def has_kernel(tokens=3, concepts=4, width=5, width_v=6, dtype=torch.float32):
        k, v, concept_k = make_inputs(tokens, concepts, width, width_v, dtype=dtype)[:3]
        return op.has_kernel(k, v, concept_k)

    assert all(has_kernel(dtype=dtype) for dtype in DTYPES)
    assert has_kernel(concepts=64, width=64, width_v=64)
    assert not has_kernel(dtype=torch.float64)
    for wide in ({"concepts": 65}, {"width": 65}, {"width_v": 65}, {"tokens": 0}):
        assert not has_kernel(**wide)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_shapes_and_bit_equal_reruns(dtype, assert_close, monkeypatch):
    inputs = make_inputs(4096, 64, 64, 64, batch=2, heads=12, dtype=dtype)
    inputs = [None if x is None else x.cuda() for x in inputs]
    check_kernels(inputs, assert_close, monkeypatch)
    leaves = [x.requires_grad_() for x in inputs[:6]]
    first = workspace_integrate(*leaves)[:3]
    grads = make_grads(first)
    first_grads = torch.autograd.grad(first, leaves, grads)
    for _ in range(20):
        again = workspace_integrate(*leaves)[:3]
        assert all(map(torch.equal, again, first))
        assert all(map(torch.equal, torch.autograd.grad(again, leaves, grads), first_grads))
