"""What is read of the borders of packed sequences, and how often."""

import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.hybrid import HybridVLForConditionalGeneration
from infinitevl_bench.models.ops import packing
from infinitevl_bench.models.ops.packing import packing_of

NINE = torch.zeros(1, 9, 2)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The tensors of borders that were read, each of which has the host wait for an accelerator, as if on one."""
    monkeypatch.setattr(packing, "_counts_writes", lambda cu_seqlens: not cu_seqlens.is_inference())
    read: list[torch.Tensor] = []
    lengths_of = packing.lengths_of

    def counted(cu_seqlens: torch.Tensor, B: int, T: int) -> list[int]:
        read.append(cu_seqlens)
        return lengths_of(cu_seqlens, B, T)

    monkeypatch.setattr(packing, "lengths_of", counted)
    return read


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_what_is_read(dtype: torch.dtype) -> None:
    lengths, borders, places = packing_of(torch.tensor([0, 3, 4, 9], dtype=dtype), NINE)
    assert lengths == [3, 1, 5]
    assert borders.dtype == torch.int64
    assert borders.tolist() == [0, 3, 4, 9]
    assert places.tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4]


def test_all_layers_of_a_model_read_once(
    make_model: Callable[..., HybridVLForConditionalGeneration], reads: list[torch.Tensor]
) -> None:
    decoder = make_model().model.language_model
    cu_seqlens = torch.tensor([0, 4, 9], dtype=torch.int32)
    decoder(input_ids=torch.arange(9).unsqueeze(0), cu_seq_lens_q=cu_seqlens)
    assert len(reads) == 1


def test_the_same_tensor_is_laid_out_once_and_a_changed_one_anew(reads: list[torch.Tensor]) -> None:
    cu_seqlens = torch.tensor([0, 3, 9])
    first = packing_of(cu_seqlens, NINE)
    assert packing_of(cu_seqlens, NINE) is first
    cu_seqlens[1] = 5
    assert packing_of(cu_seqlens, NINE).lengths == [5, 4]
    assert first.borders.tolist() == [0, 3, 9]
    assert len(reads) == 2


def test_what_numpy_writes_into_borders_is_seen() -> None:
    """Their version does not tell of it."""
    shared = np.array([0, 3, 9])
    cu_seqlens = torch.from_numpy(shared)
    assert packing_of(cu_seqlens, NINE).lengths == [3, 6]
    shared[1] = 5
    lengths, borders, places = packing_of(cu_seqlens, NINE)
    assert (lengths, borders.tolist(), places.tolist()) == ([5, 4], [0, 5, 9], [0, 1, 2, 3, 4, 0, 1, 2, 3])


def test_borders_of_inference_are_laid_out_once_though_read_anew() -> None:
    """Evaluation runs in inference mode; every layer of the tower asks there too."""
    with torch.inference_mode():
        cu_seqlens = torch.tensor([0, 3, 9])
        assert packing_of(cu_seqlens, NINE) is packing_of(cu_seqlens, NINE)


def test_what_was_right_for_another_batch_is_checked_again() -> None:
    cu_seqlens = torch.tensor([0, 3, 9])
    packing_of(cu_seqlens, NINE)
    for B, T in ((2, 9), (1, 10)):
        with pytest.raises(UserError, match="does not cut"):
            packing_of(cu_seqlens, torch.zeros(B, T, 2))


def test_borders_of_inference_are_read_anew_and_serve_training() -> None:
    """Changes of a tensor made in inference mode are not counted; and autograd saves none made there."""
    with torch.inference_mode():
        cu_seqlens = torch.tensor([0, 3, 9])
        packing_of(cu_seqlens, NINE)
        cu_seqlens[1] = 5
        assert packing_of(cu_seqlens, NINE).lengths == [5, 4]
    kept = torch.tensor([0, 3, 9])
    with torch.inference_mode():
        packing_of(kept, NINE)
    assert not any(x.is_inference() for x in packing_of(kept, NINE)[1:])


def test_nothing_is_kept_of_borders_that_are_gone() -> None:
    cu_seqlens = torch.tensor([0, 3, 9])
    laid_out = weakref.ref(packing_of(cu_seqlens, NINE).borders)
    gone = weakref.ref(cu_seqlens)
    del cu_seqlens
    gc.collect()
    assert gone() is None
    assert laid_out() is None
