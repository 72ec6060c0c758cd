"""The stages of training as data: what trains, on which loss, with which settings; the paper's and the released code's.

stage            trains                     loss                                   context
distill-layers   new token mixers           each layer's output, on the teacher's input   8096
distill-logits   new token mixers           next-token distribution, temperature 2        8096
sft              decoder, not head or eye   answers                                8192
long-sft         low-rank updates           answers                               32768

Released for distillation: AdamW at 2e-4, cosine with 1 % warm-up, batch 1 × accumulation 8 on each GPU, bf16. Rates of
the later stages and LoRA's rank are not published; those here are ours.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ..data.encode import PICTURE_PIXELS, Limits
from ..data.video import VideoLimits
from ..errors import UserError, unknown_name
from ..files import parse_yaml
from .distill import MSE_FACTOR, TEMPERATURE, LearntOn
from .loop import TrainArguments
from .settings import Area, Count, Number, Size, changed
from .sft import LoraArguments

Trains = Literal["mixers", "decoder", "lora"]


class DataSettings(BaseModel):
    """What a sample may be, and how samples are put together.

    ``context`` in tokens; ``pixels`` and ``video_pixels`` are areas; ``video_fps`` frames a second up to
    ``video_frames``; ``pack`` puts several samples in one sequence; up to ``max_broken`` samples of each source may be
    passed over.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    context: Count = 8192
    pixels: Area = PICTURE_PIXELS
    video_fps: Size = 2.0
    video_frames: Count = 128
    video_pixels: Area = 256 * 256
    pack: bool = True
    max_broken: Number = 100

    @property
    def limits(self) -> Limits:
        """As the readers take them."""
        return Limits(self.context, self.pixels, VideoLimits(self.video_fps, self.video_frames, self.video_pixels))


class LossSettings(BaseModel):
    """What trains, and the constants of the losses; a stage uses those of its own loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trains: Trains = "mixers"
    mse_factor: Size = MSE_FACTOR
    temperature: Size = TEMPERATURE
    learnt_on: LearntOn = "text"


class StageSettings(BaseModel):
    """Everything about a stage that can be set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    training: TrainArguments
    data: DataSettings = DataSettings()
    loss: LossSettings = LossSettings()
    lora: LoraArguments = LoraArguments()


def _released(**changes: Any) -> TrainArguments:
    settings: dict[str, Any] = {
        "steps": 1, "batch_size": 8, "learning_rate": 2e-4, "warmup": 0.01, "final_rate": 0.0, "weight_decay": 0.0,
        "betas": (0.9, 0.999), "precision": "bf16", "gradient_checkpointing": True, "log_every": 10,
        "checkpoint_every_seconds": 900.0,
    }  # fmt: skip
    return TrainArguments(**settings | changes)


STAGES: dict[str, StageSettings] = {
    "distill-layers": StageSettings(
        # Layers are computed again one at a time as it is. The loss is no likelihood, and may begin in the hundreds.
        training=_released(gradient_checkpointing=False, diverged_at=1e6),
        data=DataSettings(context=8096),
    ),
    "distill-logits": StageSettings(training=_released(diverged_at=200.0), data=DataSettings(context=8096)),
    "sft": StageSettings(training=_released(), loss=LossSettings(trains="decoder")),
    "long-sft": StageSettings(
        training=_released(),
        data=DataSettings(context=32768, video_frames=1024),
        loss=LossSettings(trains="lora"),
    ),
}
DISTILLATION = ("distill-layers", "distill-logits")


def stage_settings(stage: str, changes: dict[str, Any], device: str) -> StageSettings:
    """A stage's settings with some of them changed, by name.

    Args:
        stage: one of `STAGES`.
        changes: name → value; names are those of the parts of `StageSettings`, all different.
        device: the CPU computes in float32 unless told otherwise.

    Raises:
        UserError: for an unknown name, or a value that it cannot take.
    """
    default = STAGES[stage]
    if device == "cpu":
        changes = {"precision": "no"} | changes
    parts: dict[str, BaseModel] = {name: getattr(default, name) for name in StageSettings.model_fields}
    part_of = {setting: name for name, part in parts.items() for setting in type(part).model_fields}
    for setting, value in changes.items():
        if setting == "length_groups":
            raise UserError(
                f"setting {setting} parts the pages of a study's step by length; a stage packs its samples instead: "
                "leave it out, or set pack"
            )
        if setting not in part_of:
            raise unknown_name("setting", setting, part_of)
        parts[part_of[setting]] = changed(parts[part_of[setting]], {setting: value}, "this stage has")
    return default.model_copy(update=parts)


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value`` as typed on a command line; values are YAML.

    Raises:
        UserError: for a text without an equals sign, or a value that is no YAML.
    """
    changes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text}: write a setting as name=value, such as --set warmup=0.03")
        try:
            changes[name.strip().replace("-", "_")] = parse_yaml(value)
        except ValueError:
            raise UserError(f"--set {text}: the value is no YAML; quote it") from None
    return changes
