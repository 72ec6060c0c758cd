"""Configuration of the hybrid: Qwen2.5-VL's, plus which token mixer stands in which layer.

A layer pattern is a string tiled over the depth, one letter a layer:

    S  sliding-window attention      L  the linear token mixer      F  full attention

``SLLL`` is InfiniteVL, ``SLLLLLLL`` has SWA in one layer of eight, ``SL`` in every second, ``L`` in none; ``F`` is
Qwen2.5-VL itself: teacher, baseline and hybrid are the same code.
"""

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig

from ..errors import UserError

LAYER_TYPES = {"S": "sliding_attention", "L": "linear_attention", "F": "full_attention"}
LETTERS = {layer_type: letter for letter, layer_type in LAYER_TYPES.items()}


def layer_types_of(pattern: str, depth: int) -> list[str]:
    """Tile a pattern over ``depth`` layers.

    Raises:
        UserError: for an unknown letter, or a pattern whose length does not divide the depth.
    """
    if not pattern or set(pattern) - set(LAYER_TYPES):
        raise UserError(f"layer pattern {pattern!r} must be made of S (sliding), L (linear mixer), F (full attention)")
    if depth % len(pattern):
        divisors = [size for size in range(1, depth + 1) if depth % size == 0]
        raise UserError(
            f"layer pattern {pattern!r} has {len(pattern)} letters and does not tile {depth} layers; "
            f"use a length among {', '.join(map(str, divisors))}"
        )
    return [LAYER_TYPES[letter] for letter in pattern * (depth // len(pattern))]


def pattern_of_layer_types(layer_types: list[str]) -> str:
    """The shortest pattern that tiles into these layer types."""
    letters = "".join(LETTERS[layer_type] for layer_type in layer_types)
    for size in range(1, len(letters) + 1):
        if len(letters) % size == 0 and letters[:size] * (len(letters) // size) == letters:
            return letters[:size]
    return letters


def pattern_of_ratio(ratio: str) -> str:
    """Turn a share of SWA layers into a pattern: ``1/4`` → ``SLLL``, ``0`` → ``L``, ``1`` → ``S``.

    Raises:
        UserError: unless the ratio is 0 or 1/N; it names the nearest ratio that is.
    """
    try:
        share = Fraction(ratio)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"SWA ratio {ratio!r} is no number; use 0, 1/8, 1/4, 1/2 or 1") from None
    if share == 0:
        return "L"
    if not 0 < share <= 1 or share.numerator != 1:
        near = 0 if share < 0 else 1 if share > 1 else Fraction(1, round(1 / share))
        raise UserError(f"SWA ratio {ratio} is not 0 or 1/N; the nearest is {near}")
    return "S" + "L" * (share.denominator - 1)


def ratio_of_pattern(pattern: str) -> Fraction:
    """The share of layers that are sliding-window attention."""
    return Fraction(pattern.count("S"), len(pattern))


class HybridVLTextConfig(Qwen2_5_VLTextConfig):
    """Qwen2.5-VL's decoder, with a token mixer for the layers of type ``linear_attention``.

    Attributes:
        mixer: a name in the mixer registry.
        mixer_args: what that mixer takes beyond the decoder's own geometry.
        layer_types: one of ``sliding_attention``, ``linear_attention``, ``full_attention`` for each layer.
        sliding_window: tokens that a sliding-attention layer sees, its own included; None without such a layer.
    """

    model_type = "hybrid_vl_text"

    mixer: str = "gated_deltanet"
    mixer_args: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.mixer_args = dict(self.mixer_args or {})
        if self.num_attention_heads <= 0 or self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden size {self.hidden_size} does not divide into {self.num_attention_heads} attention heads; "
                "change num_attention_heads"
            )
        # The parent forgets the window unless ``use_sliding_window`` is set, and that flag makes every layer warn that
        # the window is not implemented, which has not been so since masks are built by layer type.
        window: int | None = getattr(self, "sliding_window", None)
        super().__post_init__(**kwargs)
        self.sliding_window = window if "sliding_attention" in self.layer_types else None
        if "sliding_attention" in self.layer_types and not (window and window > 0):
            raise UserError(f"sliding-attention layers need sliding_window ≥ 1, not {window}")

    @property
    def pattern(self) -> str:
        """The layer pattern, in its shortest form."""
        return pattern_of_layer_types(list(self.layer_types or ()))

    @property
    def linear_layers(self) -> list[int]:
        """Indices of the layers that hold the mixer."""
        return [index for index, layer_type in enumerate(self.layer_types or ()) if layer_type == "linear_attention"]


_SUB_CONFIGS: dict[str, Any] = {"vision_config": Qwen2_5_VLVisionConfig, "text_config": HybridVLTextConfig}


class HybridVLConfig(Qwen2_5_VLConfig):
    """Configuration of `HybridVLForConditionalGeneration`; the mixer's fields live in ``text_config``."""

    model_type = "hybrid_vl"
    if TYPE_CHECKING:
        # As a field, an annotation here would change the parent's; a type checker alone should know.
        text_config: HybridVLTextConfig
        vision_config: Qwen2_5_VLVisionConfig
    # transformers renamed the attribute after 5.17; the older name is a read-only view in newer releases.
    if hasattr(Qwen2_5_VLConfig, "sub_configs_defaults"):
        sub_configs_defaults = _SUB_CONFIGS
    else:
        sub_configs = _SUB_CONFIGS
