"""Stages 2 and 3: tuning on instructions, and on long sequences with LoRA.

Stage 2 trains the decoder; the vision encoder and the language-model head stay as they were, and with the head the
token embedding where the two are one. Stage 3 adds low-rank updates to the decoder's projections, whatever mixer a
layer holds, and merges them into the weights at the end, so that what is exported is an ordinary model.

Source: InfiniteVL, arXiv 2512.08829; LoRA, arXiv 2106.09685.
"""

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from pydantic import BaseModel, ConfigDict
from torch import nn

from ..errors import UserError
from ..models.hybrid import HybridVLForConditionalGeneration
from ..models.mixers.base import TokenMixer
from .settings import Count, OpenShare

ADAPTER = "default"


class LoraArguments(BaseModel):
    """Rank, scale (``alpha / rank``) and dropout of the low-rank updates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Count = 64
    alpha: Count = 128
    dropout: OpenShare = 0.0


def train_decoder(model: HybridVLForConditionalGeneration) -> None:
    """Freeze the vision encoder and the language-model head (with tied embeddings, those too); train the rest."""
    model.requires_grad_(True)
    model.model.visual.requires_grad_(False)
    model.lm_head.requires_grad_(False)


def lora_targets(model: HybridVLForConditionalGeneration, rank: int) -> list[str]:
    """Names of the decoder's projections that a low-rank update is smaller than.

    That leaves out the narrow projections to gates and decays, for which an update would hold more than they do, and
    those that a mixer never calls.
    """
    prefix = "model.language_model.layers."
    unreached = {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, TokenMixer)
        for own in module.read_directly
    }
    return [
        name
        for name, module in model.named_modules()
        if name.startswith(prefix)
        and name not in unreached
        and isinstance(module, nn.Linear)
        and rank * (module.in_features + module.out_features) < module.in_features * module.out_features
    ]


def add_lora(model: HybridVLForConditionalGeneration, arguments: LoraArguments, seed: int) -> Any:
    """Freeze the model and put low-rank updates beside its projections, in place.

    Args:
        model: any hybrid.
        arguments: rank, scale and dropout.
        seed: of the updates' random half, the same in every process; torch's generator is left as it was.

    Returns:
        peft's tuner, for `merge_lora`.

    Raises:
        UserError: if the rank is too high for every projection.
    """
    targets = lora_targets(model, arguments.rank)
    if not targets:
        raise UserError(
            f"LoRA of rank {arguments.rank} is no smaller than any projection of this model; lower the rank"
        )
    model.requires_grad_(False)
    config = LoraConfig(
        r=arguments.rank, lora_alpha=arguments.alpha, lora_dropout=arguments.dropout, target_modules=targets
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LoraModel(model, {ADAPTER: config}, ADAPTER)


def merge_lora(tuner: Any) -> HybridVLForConditionalGeneration:
    """Add the updates to the weights that they stand beside, and take them away: an ordinary model again."""
    merged: HybridVLForConditionalGeneration = tuner.merge_and_unload()
    return merged
