"""The floor of a pass: bytes and operations that it cannot avoid, counted from a model's configuration.

    floor = max(bytes / copy bandwidth, operations / matrix rate)

Decoding a token reads every weight of the decoder and of the head once, the keys and values that it attends to, and
reads and writes every recurrent state; it does about two operations a weight, so at a small batch the bytes bound it.
A chunk of tokens reads the same weights once and does the operations of every token: at a few hundred tokens the
operations take over. Activations could stay on the chip and are not counted; neither is what could be left out, such as
logits of any position but the last.

Operations are multiplications and additions: 2 a weight and token. Attention takes 4 a head channel and visible token
(scores, then values); a recurrent state takes 2·K·V a head and token to write and 2·K·V to read, and 2·K·V more where
the rule first recalls what a key held. Training takes twice the forward pass again for the backward pass, and what is
computed again by gradient checkpointing is not counted: that is the usual meaning of MFU.
"""

from dataclasses import dataclass

import torch

from ..models.config import HybridVLConfig
from ..models.hybrid import HybridVLForConditionalGeneration
from ..models.ops.recurrence import Recurrence
from ..models.registry import get_mixer
from .ceilings import Ceilings

RECALLING = frozenset({"gated_delta_rule", "delta_rule", "kimi_delta_rule"})
"""Recurrences that read a key's old value before they write; the floor of any other counts a write and a read."""

STATE_BYTES = 4
"""Recurrent states are kept in float32."""


@dataclass(frozen=True)
class Work:
    """What a pass cannot avoid: bytes moved, and floating-point operations."""

    bytes: float
    flops: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.bytes + other.bytes, self.flops + other.flops)

    def floor_ms(self, ceilings: Ceilings) -> float:
        """The least time on a device with these ceilings."""
        return max(self.bandwidth_ms(ceilings), self.flops / ceilings.matmul_tflops / 1e9)

    def bandwidth_ms(self, ceilings: Ceilings) -> float:
        """The least time that its bytes alone take."""
        return self.bytes / ceilings.copy_gb_per_s / 1e6

    def mbu(self, milliseconds: float, ceilings: Ceilings) -> float:
        """Share of the copy bandwidth that a pass of this duration used for bytes that count."""
        return self.bandwidth_ms(ceilings) / milliseconds

    def mfu(self, milliseconds: float, ceilings: Ceilings) -> float:
        """Share of the matrix rate that a pass of this duration used for operations that count."""
        return self.flops / milliseconds / ceilings.matmul_tflops / 1e9


def state_flops(recurrence: str, key_width: int, value_width: int) -> int:
    """Operations on the state of one head for one token, by the recurrence's name."""
    return (6 if recurrence in RECALLING else 4) * key_width * value_width


def layer_state_flops(recurrence: Recurrence | None, shape: tuple[int, int, int] | None) -> int:
    """Operations on the state ``(H, K, V)`` of one layer for one token; 0 for a mixer without one."""
    if shape is None or recurrence is None:
        return 0
    H, K, V = shape
    return H * state_flops(recurrence.name, K, V)


class ModelWork:
    """Counts the work of a model from its configuration alone; nothing is allocated.

    Args:
        config: The model's configuration.
        weight_bytes: Bytes of a weight, a key or a value: 2 for bfloat16.
        state_bytes: Bytes of an element of a recurrent state.
    """

    def __init__(self, config: HybridVLConfig, weight_bytes: int = 2, state_bytes: int = STATE_BYTES) -> None:
        self.config, self.weight_bytes, self.state_bytes = config, weight_bytes, state_bytes
        text = config.text_config
        self.text = text
        self.head_dim = text.hidden_size // text.num_attention_heads
        self.linear_layers = len(text.linear_layers)
        self.mixer = get_mixer(text.mixer)
        with torch.device("meta"):
            model = HybridVLForConditionalGeneration(config)
        self.vision_parameters = _count(model.model.visual)
        self.layer_parameters = _count(model.model.language_model.layers)
        self.head_parameters = model.lm_head.weight.numel()
        self.conv_elements = sum(
            module.weight.numel() // module.weight.shape[-1] * (module.weight.shape[-1] - 1)
            for name, module in model.model.language_model.named_modules()
            if name.endswith("_conv1d")
        )

    @property
    def decoder_weight_bytes(self) -> int:
        """Bytes of the weights that decoding a token reads: all layers and the head."""
        return self.weight_bytes * (self.layer_parameters + self.head_parameters)

    @property
    def all_weight_bytes(self) -> int:
        """Bytes of all weights, the vision tower's too."""
        return self.decoder_weight_bytes + self.weight_bytes * self.vision_parameters

    @property
    def key_value_bytes(self) -> int:
        """Bytes of the keys and values of one token in one attention layer."""
        return 2 * self.text.num_key_value_heads * self.head_dim * self.weight_bytes

    @property
    def bytes_per_token(self) -> int:
        """Bytes by which the cache of one sequence grows with each token, beyond the window."""
        return self.key_value_bytes * self.text.layer_types.count("full_attention")

    @property
    def constant_state_bytes(self) -> int:
        """Bytes of the recurrent states and convolution inputs of one sequence."""
        recurrent = self.linear_layers * (self.mixer.state_elements(self.text) if self.linear_layers else 0)
        return recurrent * self.state_bytes + self.conv_elements * self.weight_bytes

    def visible(self, layer_type: str, context: int) -> int:
        """Tokens that the newest of ``context`` tokens attends to in a layer."""
        return min(context, self.text.sliding_window or context) if layer_type == "sliding_attention" else context

    def cache_bytes(self, context: int, batch: int = 1) -> int:
        """Bytes kept after ``context`` tokens: keys and values within each layer's reach, and states."""
        kept = sum(self.visible(kind, context) for kind in self.text.layer_types if kind != "linear_attention")
        return batch * (kept * self.key_value_bytes + self.constant_state_bytes)

    def decode(self, context: int, batch: int = 1) -> Work:
        """One token of each of ``batch`` sequences, each after ``context`` tokens."""
        moved = self.decoder_weight_bytes + self.cache_bytes(context, batch) + batch * self.constant_state_bytes
        operations = batch * (
            2 * (self.layer_parameters + self.head_parameters)
            + self.attention_flops(1, context)
            + self.mixer_flops(1)
        )  # fmt: skip
        return Work(moved, operations)

    def prefill(self, tokens: int, past: int = 0, batch: int = 1) -> Work:
        """``tokens`` tokens of each sequence after ``past`` tokens, logits of the last position only."""
        read, written = self.cache_bytes(past, batch), self.cache_bytes(past + tokens, batch)
        # A new token's keys and values are written once; a state is read and written.
        new = written - read + batch * (self.constant_state_bytes if self.linear_layers else 0)
        operations = batch * (
            2 * tokens * self.layer_parameters
            + 2 * self.head_parameters
            + self.attention_flops(tokens, past)
            + self.mixer_flops(tokens)
        )  # fmt: skip
        return Work(self.decoder_weight_bytes + read + max(new, 0), operations)

    def attention_flops(self, tokens: int, past: int) -> int:
        """Operations of attention itself, all layers, for ``tokens`` new tokens after ``past``."""
        width = self.text.num_attention_heads * self.head_dim
        by_kind = {
            kind: sum_of_visible(tokens, past, self.visible(kind, past + tokens))
            for kind in set(self.text.layer_types) - {"linear_attention"}
        }
        return sum(4 * width * by_kind[kind] for kind in self.text.layer_types if kind in by_kind)

    def mixer_flops(self, tokens: int) -> int:
        """Operations on the recurrent states, all layers."""
        if not self.linear_layers:
            return 0
        return (
            self.linear_layers * tokens * layer_state_flops(self.mixer.recurrence, self.mixer.shape_of_state(self.text))
        )

    def training(self, tokens: int, batch: int = 1, images: int = 0, image_size: int = 448) -> Work:
        """A training step on ``tokens`` tokens a sequence, the vision tower and the head frozen.

        The tower runs forward only; the head has no gradient of its own weight. Bytes are left at zero: with thousands
        of tokens a step is bound by operations.

        Args:
            tokens: Length of each sequence, image tokens included.
            batch: Sequences.
            images: Square images of each sequence that the vision tower sees.
            image_size: Their side in pixels.
        """
        layers = 6 * tokens * self.layer_parameters + 3 * (self.attention_flops(tokens, 0) + self.mixer_flops(tokens))
        head = 4 * tokens * self.head_parameters
        seen = images * self.vision(image_size, image_size).flops
        return Work(0, batch * (layers + head + seen))

    def vision(self, height: int, width: int) -> Work:
        """The vision tower on one image of so many pixels, which must fill whole merged patches."""
        vision = self.config.vision_config
        rows, columns = height // vision.patch_size, width // vision.patch_size
        patches = rows * columns
        merge = vision.spatial_merge_size
        attended = sum(
            patches**2 if index in vision.fullatt_block_indexes else self._window_pairs(rows, columns)
            for index in range(vision.depth)
        )
        merger = _merger_parameters(vision)
        per_patch = self.vision_parameters - merger
        operations = 2 * patches * per_patch + 2 * patches // merge**2 * merger + 4 * vision.hidden_size * attended
        return Work(self.vision_parameters * self.weight_bytes, operations)

    def _window_pairs(self, rows: int, columns: int) -> int:
        """Pairs of patches that see each other in a window-attention block."""
        vision = self.config.vision_config
        side = vision.window_size // vision.patch_size
        heights = [min(side, rows - top) for top in range(0, rows, side)]
        widths = [min(side, columns - left) for left in range(0, columns, side)]
        return sum((height * width) ** 2 for height in heights for width in widths)


def sum_of_visible(tokens: int, past: int, reach: int) -> int:
    """Σ min(past + t, reach) over t = 1 … tokens: pairs of a new token and a token that it sees, itself included."""
    growing = max(0, min(tokens, reach - past))
    return growing * past + growing * (growing + 1) // 2 + (tokens - growing) * reach


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _merger_parameters(vision: object) -> int:
    """Parameters of the two projections that merge patches into one token."""
    inner = vision.hidden_size * vision.spatial_merge_size**2  # type: ignore[attr-defined]
    return int(inner * inner + inner * vision.out_hidden_size)  # type: ignore[attr-defined]
