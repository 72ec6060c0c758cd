"""The tower on the fast path against transformers' own, at sizes whose windows are whole, cut, or several."""

from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.fast.merge import merged
from infinitevl_bench.models.fast.pointwise import fused, rms_norm
from infinitevl_bench.models.fast.vision import FastVisionTower
from torch import nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

VISION = {
    "depth": 3, "hidden_size": 32, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
    "window_size": 56, "out_hidden_size": 32, "fullatt_block_indexes": [1],
}  # fmt: skip
GRIDS = [(8, 8), (4, 6), (10, 14), (2, 2), (6, 2)]


def tower(**changes: Any) -> Qwen2_5_VisionTransformerPretrainedModel:
    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(**(VISION | {"intermediate_size": 48} | changes))
    visual = Qwen2_5_VisionTransformerPretrainedModel(config).eval()
    for norm in (module for module in visual.modules() if type(module).__name__ == "Qwen2_5_VLRMSNorm"):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    for linear in (module for module in visual.modules() if isinstance(module, nn.Linear)):
        nn.init.normal_(linear.weight, std=0.2)
        nn.init.normal_(linear.bias, std=0.2)
    return visual


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("width", [48, 45], ids=["multiple-of-8", "padded"])
def test_equals_transformers(grid: tuple[int, int], width: int) -> None:
    visual = tower(intermediate_size=width)
    patches = torch.randn(2, grid[0] * grid[1], 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = visual(patches.flatten(0, 1), torch.tensor([[1, *grid]] * 2)).pooler_output
    found = FastVisionTower(visual, grid)(patches)
    torch.testing.assert_close(found.flatten(0, 1), expected, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        after = visual(patches.flatten(0, 1), torch.tensor([[1, *grid]] * 2)).pooler_output
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("grid", [(3, 4), (4, 5), (0, 2)], ids=str)
def test_a_size_that_does_not_divide_is_named(grid: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="multiples of 28 pixels"):
        FastVisionTower(tower(), grid)


def test_merged_weights_are_views_and_merging_again_copies_nothing() -> None:
    first, second = nn.Linear(3, 4), nn.Linear(3, 2)
    values = [first.weight.detach().clone(), second.weight.detach().clone()]
    whole = merged([first.weight, second.weight])
    assert torch.equal(whole, torch.cat(values))
    again = merged([first.weight, second.weight])
    assert again.data_ptr() == whole.data_ptr() == first.weight.data_ptr()
    with torch.no_grad():
        second.weight.fill_(7.0)
    assert torch.equal(again[4:], torch.full((2, 3), 7.0))
    # A parameter that was put elsewhere since, or parameters in another order, are laid out anew.
    second.weight.data = values[1].clone()
    assert torch.equal(merged([first.weight, second.weight]), torch.cat(values))
    assert torch.equal(merged([second.weight, first.weight]), torch.cat(values[::-1]))


@pytest.mark.gpu
@pytest.mark.parametrize("grid", [(8, 8), (10, 14)], ids=str)
def test_on_a_gpu_in_16_bit(grid: tuple[int, int]) -> None:
    visual = tower(intermediate_size=45).cuda()
    patches = torch.randn(1, grid[0] * grid[1], 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(1)).cuda()
    with torch.no_grad():
        expected = visual(patches[0], torch.tensor([[1, *grid]], device="cuda")).pooler_output
        theirs = visual.bfloat16()(patches[0].bfloat16(), torch.tensor([[1, *grid]], device="cuda")).pooler_output
    found = FastVisionTower(visual, grid)(patches.bfloat16())[0]
    # As near to float32 as transformers' own tower in 16 bit is, within a third.
    assert (found.float() - expected).norm() <= 1.33 * (theirs.float() - expected).norm()


@pytest.mark.gpu
def test_more_shapes_than_torch_compiles_by_default() -> None:
    weight = torch.rand(16, device="cuda")
    for rows in range(1, 13):
        x = torch.randn(rows, 16, device="cuda")
        torch.testing.assert_close(fused(rms_norm, x, weight, 1e-6), rms_norm(x, weight, 1e-6))
