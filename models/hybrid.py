"""The hybrid backbone: transformers' Qwen2.5-VL in which some layers hold a linear token mixer instead of attention.

Nothing of the vision-language model is written again. A decoder layer of type ``linear_attention`` has its
``self_attn`` replaced by the configured mixer; everything around it (norms, FFN, vision tower, rotary positions, loss,
generation) is transformers' own. With every layer ``full_attention`` this *is* Qwen2.5-VL, parameter for parameter.
"""

import functools
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, DynamicCache, Qwen2_5_VLProcessor
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLModel,
    Qwen2_5_VLPreTrainedModel,
    Qwen2_5_VLTextModel,
)

from ..errors import UserError
from .attention import WINDOWED
from .cache import HybridCache, check_cache
from .config import LAYER_TYPES, HybridVLConfig, HybridVLTextConfig
from .mixers.base import TokenMixer
from .ops.packing import packing_of
from .positions import batch_positions
from .registry import get_mixer
from .vision_attention import batch_windows

# transformers calls the cache ``cache`` in newer releases and ``past_key_values`` in older ones.
CACHE_ARGUMENT = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"


class HybridVLPreTrainedModel(Qwen2_5_VLPreTrainedModel):
    """What the hybrid's modules share: the configuration class and the initialisation of mixers."""

    config: HybridVLConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TokenMixer):
            # A mixer initialises itself as a whole; what a checkpoint already filled in stays.
            loaded = [(p, p.clone()) for p in module.parameters() if getattr(p, "_is_hf_initialized", False)]
            module.reset_parameters()
            for parameter, value in loaded:
                parameter.copy_(value)


class HybridVLTextModel(HybridVLPreTrainedModel, Qwen2_5_VLTextModel):
    """Qwen2.5-VL's decoder with mixers in the layers of type ``linear_attention``."""

    config: HybridVLTextConfig

    def __init__(self, config: HybridVLTextConfig) -> None:
        super().__init__(config)
        if config._attn_implementation in (None, "sdpa"):
            config._attn_implementation = WINDOWED
        if config.linear_layers:
            mixer = get_mixer(config.mixer)
            for index in config.linear_layers:
                self.layers[index].self_attn = mixer(config, index)
            self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict[str, Tensor | None] | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the decoder; arguments and result are those of transformers' class.

        ``attention_mask`` is ``[B, past + T]``, 0 where padded. Attention layers get their causal masks from it, mixers
        the part that belongs to the new tokens.

        ``cu_seq_lens_q`` ``[N + 1]`` among the further arguments says where each of N sequences packed into a batch of
        one begins, and the end: each then gives what it gives alone. Positions begin anew with each, unless given.
        """
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        cache = kwargs.pop("cache", None)
        cache = kwargs.pop("past_key_values", None) if cache is None else cache
        if cache is not None:
            check_cache(cache, self.config, inputs_embeds.shape[0])
        packed = kwargs.get("cu_seq_lens_q")
        if packed is not None:
            attention_mask, position_ids, use_cache = self._packed(
                packed, inputs_embeds, attention_mask, position_ids, cache
            )
        if use_cache is None:
            use_cache = self.config.use_cache and not (self.training and self.gradient_checkpointing)
        if use_cache and cache is None:
            cache = HybridCache(config=self.config)
        if not isinstance(attention_mask, dict):
            attention_mask = self._masks(inputs_embeds, attention_mask, position_ids, cache)
        if position_ids is None and not self._has_attention:
            # The parent would ask the cache for its length; without attention nobody reads positions.
            position_ids = torch.zeros(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
        output = super().forward(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **{CACHE_ARGUMENT: cache},
            **kwargs,
        )
        if isinstance(cache, HybridCache):
            cache.count(inputs_embeds.shape[1])
        return output

    def _packed(
        self,
        cu_seq_lens: Tensor,
        inputs_embeds: Tensor,
        attention_mask: Tensor | dict[str, Tensor | None] | None,
        position_ids: Tensor | None,
        cache: Any,
    ) -> tuple[dict[str, Tensor | None], Tensor, bool]:
        """Check packed sequences, and give their masks (none), their positions, and that nothing is cached."""
        packing = packing_of(cu_seq_lens, inputs_embeds)
        if cache is not None or attention_mask is not None:
            raise UserError("packed sequences take neither a cache nor an attention mask; pass cu_seq_lens_q alone")
        if self._has_attention and self.config._attn_implementation not in (WINDOWED, "flash_attention_2"):
            raise UserError(
                f"attention implementation {self.config._attn_implementation!r} cannot take packed sequences; use "
                f"{WINDOWED!r} or 'flash_attention_2'"
            )
        if position_ids is None:
            position_ids = packing.places.expand(3, 1, -1)
        return dict.fromkeys(LAYER_TYPES.values()), position_ids, False

    @property
    def _has_attention(self) -> bool:
        return any(layer_type != "linear_attention" for layer_type in self.config.layer_types)

    def _masks(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, cache: Any
    ) -> dict[str, Tensor | None]:
        """Build one mask for each layer type that occurs."""
        # One look at values that lie on the accelerator, where nothing is padded.
        whole = attention_mask is None or (attention_mask.ndim == 2 and bool(attention_mask.all()))
        new = None if whole else padding_of_new_tokens(inputs_embeds, attention_mask)
        masks: dict[str, Tensor | None] = {"linear_attention": new}
        ours = self.config._attn_implementation == WINDOWED and (cache is None or isinstance(cache, DynamicCache))
        if ours and (attention_mask is None or attention_mask.ndim == 2):
            padding = None if whole else attention_mask
            return masks | {"full_attention": padding, "sliding_attention": padding}
        # Four rows of positions are three for rotary embedding after one that numbers the text tokens.
        text_positions = position_ids[0] if position_ids is not None and position_ids.shape[0] == 4 else None
        arguments = {
            "config": self.config,
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "position_ids": text_positions,
            CACHE_ARGUMENT: cache,
        }
        if "full_attention" in self.config.layer_types:
            masks["full_attention"] = create_causal_mask(**arguments)
        if "sliding_attention" in self.config.layer_types:
            masks["sliding_attention"] = create_sliding_window_causal_mask(**arguments)
        return masks


def padding_of_new_tokens(inputs_embeds: Tensor, attention_mask: Tensor | None) -> Tensor | None:
    """The mixers' mask: ``[B, T]``, 0 at padded tokens; None where nothing is padded.

    A single token may be padding too: the first of a padded prompt that is handed over in pieces, say.
    """
    if attention_mask is None or attention_mask.ndim != 2:
        return None
    new = attention_mask[:, -inputs_embeds.shape[1] :]
    return None if bool(new.all()) else new


class HybridVLModel(HybridVLPreTrainedModel, Qwen2_5_VLModel):
    """Vision tower and hybrid decoder."""

    config: HybridVLConfig

    def __init__(self, config: HybridVLConfig) -> None:
        # The parent's constructor would build a whole attention decoder only for us to throw it away.
        Qwen2_5_VLPreTrainedModel.__init__(self, config)
        self.visual = Qwen2_5_VisionTransformerPretrainedModel._from_config(config.vision_config)
        batch_windows(self.visual)
        self.language_model = HybridVLTextModel._from_config(config.text_config)
        self.rope_deltas = None
        self.post_init()

    @functools.wraps(Qwen2_5_VLModel.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run tower and decoder, as transformers' class does.

        Raises:
            UserError: for a cache of another model; before the parent asks it how many tokens it has seen.
        """
        for name in ("cache", "past_key_values"):
            if kwargs.get(name) is not None:
                check_cache(kwargs[name], self.config.text_config, counting=kwargs.get("position_ids") is None)
        return super().forward(*args, **kwargs)

    def get_rope_index(
        self,
        input_ids: Tensor,
        mm_token_type_ids: Tensor,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        second_per_grid_ts: Tensor | list[float] | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Positions ``[3, B, T]`` and what the next token's are beyond its number ``[B, 1]``; see `positions`.

        Arguments are those of transformers' method, whose text after a video stands where it was never trained to.
        """
        vision = self.config.vision_config
        return batch_positions(
            mm_token_type_ids,
            attention_mask,
            image_grid_thw,
            video_grid_thw,
            second_per_grid_ts,
            vision.spatial_merge_size,
            vision.tokens_per_second,
        )


class HybridVLForConditionalGeneration(HybridVLPreTrainedModel, Qwen2_5_VLForConditionalGeneration):
    """The whole model, with a language-model head: `transformers.Qwen2_5_VLForConditionalGeneration` with mixers."""

    config: HybridVLConfig

    def __init__(self, config: HybridVLConfig) -> None:
        Qwen2_5_VLPreTrainedModel.__init__(self, config)
        self.model = HybridVLModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def generate(self, *args: Any, decoder: Any = None, **kwargs: Any) -> Any:
        """transformers' `generate`; with a ``decoder``, a `graph.GraphedDecoder` of this model, by its captured steps.

        The decoder's own arguments are then ``max_new_tokens`` and what the processor gives; it writes greedily.
        """
        if decoder is None:
            return super().generate(*args, **kwargs)
        from .fast.generation import generate

        return generate(decoder, *args, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, config: Any = None, **kwargs: Any
    ) -> "HybridVLForConditionalGeneration":
        """Load our own checkpoints, Qwen2.5-VL's and the published InfiniteVL's, from a folder or a hub.

        Takes what transformers' method takes. Layer types come from the tensors, no remote code is run, and only
        safetensors are read.

        Raises:
            UserError: naming the tensors that are missing, surplus, cut off or of another shape.
        """
        from .loading import HUB_ARGUMENTS, open_checkpoint

        fetched: dict[str, Any] = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        found = open_checkpoint(pretrained_model_name_or_path, config, **fetched)
        kwargs |= {"use_safetensors": True, "trust_remote_code": False}
        model = super().from_pretrained(
            found.folder, *args, config=found.config, key_mapping=found.key_mapping, **kwargs
        )
        if not isinstance(model, tuple):
            # Whatever the names were in the files that were read, we write ours.
            model._weight_conversions = None
        return model

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, *args: Any, **kwargs: Any
    ) -> Any:
        result = super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        for name in ("cache", "past_key_values"):
            # Only a cache that `generate` has just made itself; one that the user passed is left alone.
            if type(model_kwargs.get(name)) is DynamicCache and not model_kwargs[name].is_initialized:
                model_kwargs[name] = HybridCache(config=self.config.get_text_config(decoder=True))
        return result


AutoConfig.register(HybridVLTextConfig.model_type, HybridVLTextConfig, exist_ok=True)
AutoConfig.register(HybridVLConfig.model_type, HybridVLConfig, exist_ok=True)
AutoModelForImageTextToText.register(HybridVLConfig, HybridVLForConditionalGeneration, exist_ok=True)
AutoProcessor.register(HybridVLConfig, Qwen2_5_VLProcessor, exist_ok=True)
