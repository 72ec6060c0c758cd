"""The model's own forward pass with transformers' growing cache: what runs without a captured graph.

This is the path of the published baseline. Each step launches its kernels one by one from Python, and the cache of a
layer that keeps every token is copied into a larger one with each new token.
"""

import torch
from torch import Tensor

from ..models.cache import HybridCache
from ..models.hybrid import CACHE_ARGUMENT
from .models import Profiled


class EagerDecoder:
    """Runs a model as `generate` does, from any length of the past on.

    Args:
        profiled: The model.
        batch_size: Sequences B.
    """

    def __init__(self, profiled: Profiled, batch_size: int = 1) -> None:
        self.model, self.config = profiled.model, profiled.config.text_config
        self.B = batch_size
        self.device = self.model.lm_head.weight.device
        self.cache = HybridCache(config=self.config)
        self.length = 0

    @torch.no_grad()
    def start_at(self, tokens: int) -> None:
        """Begin anew with a past of so many tokens: one that was run, and keys and values drawn at random.

        What they hold does not matter for time, and neither does that of recurrent states.
        """
        self.cache, self.length = HybridCache(config=self.config), 0
        self.decode(torch.zeros(self.B, 1, dtype=torch.long, device=self.device))
        G, K = self.config.num_key_value_heads, self.config.hidden_size // self.config.num_attention_heads
        for layer, layer_type in zip(self.cache.layers, self.config.layer_types, strict=True):
            if layer_type != "linear_attention" and tokens > 1:
                past = torch.randn(self.B, G, tokens - 1, K, device=self.device, dtype=self.model.lm_head.weight.dtype)
                layer.update(past, past.clone())
        self.length = tokens

    @torch.no_grad()
    def decode(self, input_ids: Tensor) -> Tensor:
        """One step: ids ``[B, 1]`` → logits ``[B, vocabulary]``."""
        positions = torch.full((3, self.B, 1), self.length, device=self.device)
        output = self.model(
            input_ids=input_ids,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{CACHE_ARGUMENT: self.cache},
        )
        self.length += 1
        return output.logits[:, -1]

    @torch.no_grad()
    def prefill(self, input_ids: Tensor) -> Tensor:
        """Ids ``[B, T]`` → logits of the last ``[B, vocabulary]``."""
        T = input_ids.shape[1]
        positions = (self.length + torch.arange(T, device=self.device)).expand(3, self.B, T)
        output = self.model(
            input_ids=input_ids,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{CACHE_ARGUMENT: self.cache},
        )
        self.length += T
        return output.logits[:, -1]

    @torch.no_grad()
    def push_patches(self, patches: Tensor, grid: tuple[int, int]) -> None:
        """One frame through the vision tower and the decoder's layers; no logits, as a stream needs none."""
        visual = self.model.model.visual
        sizes = torch.tensor([[1, *grid]], device=self.device)
        tokens = visual(patches.to(visual.dtype), grid_thw=sizes).pooler_output[None]
        T = tokens.shape[1]
        positions = (self.length + torch.arange(T, device=self.device)).expand(3, 1, T)
        self.model.model.language_model(
            inputs_embeds=tokens, position_ids=positions, use_cache=True, **{CACHE_ARGUMENT: self.cache}
        )
        self.length += T
