"""The tower's attention with windows side by side, against transformers' own, which takes one after the other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from infinitevl_bench.models import vision_attention
from infinitevl_bench.models.hybrid import HybridVLForConditionalGeneration
from infinitevl_bench.models.vision_attention import BatchedVisionAttention, attend_within, batch_windows
from torch import Tensor

from .test_fast_vision import GRIDS, tower


def seen(visual: Any, patches: Tensor, grids: Tensor) -> list[Tensor]:
    """What the tower gives, and the gradients of its input and of every weight for one random loss."""
    x = patches.clone().requires_grad_()
    y = visual(x, grids).pooler_output
    loss = (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(3))).sum()
    return [y.detach(), *torch.autograd.grad(loss, [x, *visual.parameters()])]


@pytest.mark.parametrize("grids", [[grid] for grid in GRIDS] + [GRIDS, GRIDS[::-1], [(8, 8)] * 3], ids=str)
def test_equals_transformers(grids: list[tuple[int, int]]) -> None:
    visual = tower()
    patches = torch.randn(
        sum(rows * columns for rows, columns in grids), 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(1)
    )
    sizes = torch.tensor([[1, *grid] for grid in grids])
    expected = seen(visual, patches, sizes)
    batch_windows(visual)
    assert all(isinstance(block.attn, BatchedVisionAttention) for block in visual.blocks)
    for found, right in zip(seen(visual, patches, sizes), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5 * float(right.abs().max()))


def test_a_call_for_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    whole = vision_attention.F.scaled_dot_product_attention

    def counted(q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        shapes.append(tuple(q.shape))
        return whole(q, *args, **kwargs)

    monkeypatch.setattr(vision_attention.F, "scaled_dot_product_attention", counted)
    q, k, v = (torch.randn(17, 2, 4, generator=torch.Generator().manual_seed(n)) for n in range(3))
    lengths = [4, 3, 4, 2, 4]
    found = attend_within(q, k, v, lengths, 0.5)
    assert shapes == [(1, 2, 2, 4), (1, 2, 3, 4), (3, 2, 4, 4)]
    alone = [
        whole(*(x.transpose(0, 1) for x in parts), scale=0.5).transpose(0, 1)
        for parts in zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(alone))


def test_what_inference_laid_out_serves_training() -> None:
    vision_attention._by_length.cache_clear()
    x = torch.randn(9, 2, 4, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = attend_within(x, x, x, [4, 2, 3], 0.5)
    leaf = x.clone().requires_grad_()
    found = attend_within(leaf, leaf, leaf, [4, 2, 3], 0.5)
    torch.testing.assert_close(found.detach(), expected)
    found.sum().backward()
    assert leaf.grad is not None


def test_the_hybrid_and_what_is_loaded_have_it(
    make_model: Callable[..., HybridVLForConditionalGeneration], picture_prompt: dict[str, Tensor]
) -> None:
    model = make_model()
    calls = []
    for block in model.model.visual.blocks:
        assert type(block.attn) is BatchedVisionAttention
        block.attn.register_forward_hook(lambda module, *_: calls.append(module.config._attn_implementation))
    with torch.no_grad():
        model(**picture_prompt)
    # The implementation that is called in another way here.
    assert calls == ["sdpa"] * len(model.model.visual.blocks)


def test_other_implementations_are_transformers_own() -> None:
    visual = tower()
    patches = torch.randn(10 * 14, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(1))
    expected = visual(patches, torch.tensor([[1, 10, 14]])).pooler_output
    batch_windows(visual)
    visual.config._attn_implementation = "eager"
    torch.testing.assert_close(
        visual(patches, torch.tensor([[1, 10, 14]])).pooler_output, expected, rtol=1e-4, atol=1e-5
    )  # fmt: skip
