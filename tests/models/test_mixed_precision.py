"""Mixers whose weights are float32 while products are taken in bfloat16, as training in precision "bf16" does."""

from typing import Any

import pytest
import torch
from infinitevl_bench.models.attention import windowed_attention
from torch import Tensor, nn

from .mixing import Make, every_variant, relative_error, tokens


class Spy:
    """A recurrence that keeps the types of what it is given, and whether its sums would be rounded by autocast."""

    def __init__(self, recurrence: Any) -> None:
        self.recurrence, self.given = recurrence, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.recurrence, name)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *gates: Tensor, **others: Any) -> tuple[Tensor, Tensor]:
        self.given += [q.dtype, k.dtype, v.dtype]
        o, state = self.recurrence(q, k, v, *gates, **others)
        assert o.dtype == v.dtype
        assert state.dtype == torch.float32
        return o, state


@pytest.mark.parametrize("stream", [torch.float32, torch.bfloat16], ids=str)
@every_variant
def test_autocast_gives_kernels_narrow_types_and_keeps_the_accuracy(
    name: str, options: dict[str, Any], stream: torch.dtype, make_mixer: Make
) -> None:
    mixer = make_mixer(name, **options).requires_grad_(False)
    x = tokens(2, 70).bfloat16().float()
    expected, _ = mixer(x)
    if mixer.recurrence is not None:
        spy = Spy(mixer.recurrence)
        mixer.recurrence = spy
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = mixer(x.to(stream))
    if mixer.recurrence is not None:
        assert spy.given == [torch.bfloat16] * 3
        mixer.recurrence = spy.recurrence
    narrow, _ = mixer.to(torch.bfloat16)(x.bfloat16())
    # Weights that are rounded only where they are multiplied cannot cost more than weights that are held rounded.
    assert relative_error(found, expected) <= 1.5 * relative_error(narrow, expected) + 1e-3


@every_variant
def test_padding_under_autocast_leaves_kernels_their_narrow_types(
    name: str, options: dict[str, Any], make_mixer: Make
) -> None:
    mixer = make_mixer(name, **options).requires_grad_(False)
    if mixer.recurrence is None:
        pytest.skip("no recurrence, so no kernel")
    mixer.recurrence = Spy(mixer.recurrence)
    with torch.autocast("cpu", torch.bfloat16):
        mixer(tokens(2, 9), attention_mask=torch.tensor([[0] * 4 + [1] * 5, [1] * 9]))
    assert mixer.recurrence.given == [torch.bfloat16] * 3


@every_variant
def test_gradients_under_autocast_are_as_near_to_float32_as_those_of_narrow_weights(
    name: str, options: dict[str, Any], make_mixer: Make
) -> None:
    mixer = make_mixer(name, **options)
    x = tokens(2, 70).bfloat16()

    def gradients(stream: Tensor, autocast: bool) -> Tensor:
        mixer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output, _ = mixer(stream)
        output.float().square().mean().backward()
        found = [p.grad for p in mixer.parameters() if p.grad is not None]
        assert {one.dtype for one in found} == {p.dtype for p in mixer.parameters()}
        return torch.cat([one.flatten().float() for one in found])

    expected = gradients(x.float(), autocast=False)
    mixed = gradients(x, autocast=True)
    mixer.to(torch.bfloat16)
    assert relative_error(mixed, expected) <= 2 * relative_error(gradients(x, autocast=False), expected) + 1e-3


def test_attention_under_autocast_takes_its_narrow_type() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, 9, 8, generator=generator) for heads in (4, 2, 2))
    expected, _ = windowed_attention(nn.Module(), q, k, v, None, sliding_window=4)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = windowed_attention(nn.Module(), q, k, v.bfloat16(), None, sliding_window=4)
    assert found.dtype == torch.bfloat16
    assert relative_error(found, expected) <= 0.01
