"""The decoder on the fast path: a loop over layers without masks, hooks or Python numbers that change."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.matrix_vector import Around, matrix_vector
from .layers import FastFeedForward, FastMixer, fast_mixer
from .pointwise import add_rms_norm, fused, rms_norm
from .slots import FixedCache


class FastDecoder:
    """A hybrid's decoder and head, over a cache of fixed size.

    Args:
        model: a `HybridVLForConditionalGeneration` on its device; its weights are shared, not copied.
    """

    def __init__(self, model: Any) -> None:
        text = model.model.language_model
        self.text = text
        self.head = model.lm_head.weight
        self.norm, self.eps = text.norm.weight, text.norm.variance_epsilon
        self.layers: list[tuple[FastMixer, FastFeedForward]] = [
            (fast_mixer(layer), FastFeedForward(layer.mlp, layer.post_attention_layernorm)) for layer in text.layers
        ]

    @torch.no_grad()
    def last_hidden(self, embeddings: Tensor, positions: Tensor, cache: FixedCache) -> Tensor:
        """Run T tokens through all layers; the cache goes on by T.

        Args:
            embeddings: ``[B, T, D]``.
            positions: ``[3, B, T]`` int64, temporal, row and column position of each token.
            cache: made from the same model for B sequences; its ``seen`` is advanced, its Python ``length`` is not.

        Returns:
            The last token's ``[B, D]`` before the last norm.
        """
        B, T, _ = embeddings.shape
        cos, sin = self.text.rotary_emb(embeddings, positions)
        run = self._one_token if B == T == 1 else self._chunk
        hidden = run(embeddings, cos, sin, cache)
        cache.seen.add_(T)
        return hidden

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """From `last_hidden` ``[B, D]`` to logits ``[B, vocabulary]``."""
        if hidden.shape[0] == 1:
            return matrix_vector(hidden[0], self.head, Around(norm=self.norm, eps=self.eps))[None]
        return F.linear(fused(rms_norm, hidden, self.norm, self.eps), self.head)

    def _one_token(self, embeddings: Tensor, cos: Tensor, sin: Tensor, cache: FixedCache) -> Tensor:
        x = embeddings.flatten()
        for (mixer, feed_forward), slots in zip(self.layers, cache.layers, strict=True):
            x = feed_forward.step(mixer.step(x, slots, cache.seen, cos, sin))
        return x[None]

    def _chunk(self, x: Tensor, cos: Tensor, sin: Tensor, cache: FixedCache) -> Tensor:
        normed = fused(rms_norm, x, self.layers[0][0].norm, self.eps)
        following = [mixer.norm for mixer, _ in self.layers[1:]]
        for number, ((mixer, feed_forward), slots) in enumerate(zip(self.layers, cache.layers, strict=True)):
            mixed = mixer.chunk(normed, slots, cache.seen, cos, sin)
            x, normed = fused(add_rms_norm, x, mixed, feed_forward.norm, self.eps)
            added = feed_forward.chunk(normed)
            if number < len(following):
                x, normed = fused(add_rms_norm, x, added, following[number], self.eps)
        return x[:, -1] + added[:, -1]
