"""Windowed attention against transformers' eager attention over an explicit mask, and how much it holds at a time."""

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models import attention
from infinitevl_bench.models.attention import WINDOWED, blocked_attention, flash_attention, windowed_attention
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import eager_attention_forward

SHAPES = {
    # B, H, G, T, S, window
    "short": (2, 4, 2, 7, 7, None),
    "window": (2, 4, 2, 37, 37, 5),
    "window-longer-than-text": (1, 4, 4, 9, 9, 64),
    "blocks": (1, 2, 1, 1100, 1100, 100),
    "full-blocks": (1, 2, 2, 600, 700, None),
    "one-token": (3, 4, 2, 1, 33, 16),
    "after-a-past": (2, 4, 1, 20, 50, 16),
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def tensors(shape: tuple[Any, ...], dtype: torch.dtype = torch.float64, device: str = "cpu") -> tuple[Tensor, ...]:
    B, H, G, T, S, _ = shape
    generator = torch.Generator().manual_seed(0)
    sizes = ((B, H, T, 16), (B, G, S, 16), (B, G, S, 16))
    return tuple(torch.randn(size, generator=generator, dtype=torch.float64).to(device, dtype) for size in sizes)


def oracle(q: Tensor, k: Tensor, v: Tensor, window: int | None, padding: Tensor | None = None) -> Tensor:
    """transformers' eager attention, with the mask of every pair of tokens written out."""
    T, S = q.shape[2], k.shape[2]
    i, j = torch.arange(S - T, S)[:, None], torch.arange(S)[None]
    seen = (j <= i) & (j > i - (window or S + 1))
    allowed = seen[None, None].expand(q.shape[0], 1, T, S).to(q.device)
    if padding is not None:
        allowed = allowed & padding[:, None, None, -S:].bool()
    mask = torch.zeros_like(allowed, dtype=q.dtype).masked_fill(~allowed, -1e9)
    module = SimpleNamespace(num_key_value_groups=q.shape[1] // k.shape[1], training=False)
    return eager_attention_forward(module, q, k, v, mask, q.shape[-1] ** -0.5)[0]


def close(found: Tensor, expected: Tensor) -> None:
    """Equal up to the softmax in float32 that transformers' eager attention takes whatever the inputs are."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@every_shape
def test_forward_and_gradients_equal_attention_over_an_explicit_mask(shape: tuple[Any, ...]) -> None:
    found, expected = ([x.requires_grad_() for x in tensors(shape)] for _ in range(2))
    o, _ = windowed_attention(None, *found, None, sliding_window=shape[-1])  # type: ignore[arg-type]
    want = oracle(*expected, shape[-1])
    close(o, want)
    weight = torch.randn(o.shape, generator=torch.Generator().manual_seed(1), dtype=o.dtype)
    gradients = (torch.autograd.grad((y * weight).sum(), x) for y, x in ((o, found), (want, expected)))
    for a, b in zip(*gradients, strict=True):
        close(a, b)


@pytest.mark.parametrize("side", ["left", "right", "middle"])
@pytest.mark.parametrize("name", ["window", "after-a-past", "short"])
def test_padding_is_not_seen(name: str, side: str) -> None:
    shape = SHAPES[name]
    q, k, v = tensors(shape)
    B, S, T = shape[0], shape[4], shape[3]
    # More columns than keys: a window's cache keeps fewer keys than the mask has columns.
    padding = torch.ones(B, S + 3, dtype=torch.long)
    padding[0, {"left": slice(0, 6), "right": slice(-3, None), "middle": slice(S - 2, S)}[side]] = 0
    o, _ = windowed_attention(None, q, k, v, padding, sliding_window=shape[-1])  # type: ignore[arg-type]
    real = padding[:, -T:].bool()
    close(o[real], oracle(q, k, v, shape[-1], padding)[real])
    assert o.isfinite().all()


@pytest.mark.parametrize("window", [None, 4])
def test_packed_sequences_are_as_alone(window: int | None) -> None:
    q, k, v = tensors((1, 4, 2, 23, 23, window))
    ends = torch.tensor([0, 5, 6, 23], dtype=torch.int32)
    o, _ = windowed_attention(None, q, k, v, None, sliding_window=window, cu_seq_lens_q=ends)  # type: ignore[arg-type]
    for start, end in ((0, 5), (5, 6), (6, 23)):
        alone = oracle(*(x[:, :, start:end] for x in (q, k, v)), window)
        close(o[:, start:end], alone)


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_tensor_grows_with_the_square_of_the_length() -> None:
    largest = {}
    for T in (2048, 4096):
        q, k, v = tensors((1, 1, 1, T, T, 64), torch.float32)
        with Largest() as seen:
            blocked_attention(q, k, v, 0.25, 64)
        largest[T] = seen.elements
    assert largest[4096] == largest[2048] <= attention.QUERY_BLOCK * (attention.QUERY_BLOCK + 64)


def test_the_hybrid_takes_it_and_other_implementations_agree(make_model: Callable[..., Any]) -> None:
    tokens = torch.randint(5, 60, (2, 41), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[0, :9] = 0
    results = {}
    for name in (WINDOWED, "sdpa", "eager"):
        model = make_model(pattern="SFSL")
        assert model.model.language_model.config._attn_implementation == WINDOWED
        assert model.config.vision_config._attn_implementation != WINDOWED
        model.model.language_model.config._attn_implementation = name
        with torch.no_grad():
            results[name] = model(input_ids=tokens, attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(results[WINDOWED], results["eager"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(results[WINDOWED], results["sdpa"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", ["S", "F", "SF"])
def test_packed_sequences_of_a_model_are_as_alone(make_model: Callable[..., Any], pattern: str) -> None:
    model = make_model(pattern=pattern)
    tokens = torch.randint(5, 60, (1, 50), generator=torch.Generator().manual_seed(0))
    ends = [0, 11, 12, 50]
    with torch.no_grad():
        packed = model(input_ids=tokens, cu_seq_lens_q=torch.tensor(ends, dtype=torch.int32)).logits
        for start, end in pairwise(ends):
            alone = model(input_ids=tokens[:, start:end]).logits
            torch.testing.assert_close(packed[:, start:end], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ends", [[0, 4], [1, 7], [0, 3, 3, 7], [0, 5, 2, 7]], ids=str)
def test_wrong_borders_of_packed_sequences_are_named(make_model: Callable[..., Any], ends: list[int]) -> None:
    with pytest.raises(UserError, match="rise from 0 to the number of tokens"):
        make_model(pattern="S")(input_ids=torch.ones(1, 7, dtype=torch.long), cu_seq_lens_q=torch.tensor(ends))


def test_packed_sequences_take_no_mask_and_no_implementation_that_would_mix_them(
    make_model: Callable[..., Any],
) -> None:
    model = make_model(pattern="S")
    arguments = {"input_ids": torch.ones(1, 4, dtype=torch.long), "cu_seq_lens_q": torch.tensor([0, 2, 4])}
    with pytest.raises(UserError, match="alone"):
        model(**arguments, attention_mask=torch.ones(1, 4))
    model.model.language_model.config._attn_implementation = "eager"
    with pytest.raises(UserError, match="windowed"):
        model(**arguments)


def test_flash_attn_is_called_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches the library, by a stand-in with its signature: it needs an accelerator to run."""
    import sys

    q, k, v = tensors(SHAPES["window"])

    def flash_attn_func(
        q: Tensor, k: Tensor, v: Tensor, dropout_p: float, softmax_scale: float, causal: bool, window_size: tuple
    ) -> Tensor:
        assert causal
        assert dropout_p == 0.0
        assert window_size[1] == 0
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        return blocked_attention(*heads_first, softmax_scale, window_size[0] + 1).transpose(1, 2)

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_func=flash_attn_func))
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: True)
    o = flash_attention(q, k, v, 16**-0.5, 5)
    close(o.transpose(1, 2), oracle(q, k, v, 5))


@pytest.mark.gpu
@every_shape
def test_flash_kernels_agree_with_blocks(shape: tuple[Any, ...]) -> None:
    found = [x.requires_grad_() for x in tensors(shape, torch.bfloat16, "cuda")]
    wide = [x.detach().float().requires_grad_() for x in found]
    o = flash_attention(*found, 0.25, shape[-1])
    want = blocked_attention(*wide, 0.25, shape[-1])
    assert (o.float() - want).norm() <= 1e-2 * want.norm()
    for a, b in zip(torch.autograd.grad(o.sum(), found), torch.autograd.grad(want.sum(), wide), strict=True):
        assert (a.float() - b).norm() <= 2e-2 * b.norm()


@pytest.mark.gpu
def test_flash_kernels_take_packed_sequences() -> None:
    q, k, v = tensors((1, 4, 2, 23, 23, None), torch.bfloat16, "cuda")
    ends = torch.tensor([0, 5, 6, 23], dtype=torch.int32, device="cuda")
    packed = flash_attention(q, k, v, 0.25, 4, cu_seq_lens=ends)
    for start, end in ((0, 5), (5, 6), (6, 23)):
        alone = blocked_attention(*(x[:, :, start:end].float() for x in (q, k, v)), 0.25, 4)
        assert (packed[:, :, start:end].float() - alone).norm() <= 1e-2 * alone.norm()
