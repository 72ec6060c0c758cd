"""Weights: new models from a preset, models from a folder or a hub, always safetensors and never remote code."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import UserError, unknown_name
from ..files import make_readable, package_path, with_home
from ..scratch import ScratchFolder
from .config import HybridVLConfig
from .hybrid import HybridVLForConditionalGeneration
from .loading import OURS, is_hub_id, open_checkpoint
from .model_card import write_card
from .presets import PRESETS, get_preset, vision_tower_config
from .processor import load_processor
from .published import PIXEL_LIMITS
from .shipped import SHIPPED, VISION_TOWER

EMBEDDED_PRESETS = ("tiny", "small")


class LoadedModel(NamedTuple):
    """A model ready to answer, its processor, and what may be said of it.

    ``random_weights`` is True where no training stands behind the decoder: it is never shown as a trained model.
    """

    model: HybridVLForConditionalGeneration
    processor: Any
    name: str
    random_weights: bool


def new_model(config: HybridVLConfig, seed: int, dtype: torch.dtype | None = None) -> HybridVLForConditionalGeneration:
    """Make a model with random weights from a seed; presets that use the shipped vision tower get it, frozen.

    Args:
        config: any configuration; the tower is loaded where its geometry is the shipped one's.
        seed: of torch's generator, which is left as it was.
        dtype: of the weights; float32 if None.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HybridVLForConditionalGeneration._from_config(config, dtype=dtype or torch.float32)
    if uses_shipped_tower(config):
        try:
            model.model.visual.load_state_dict(load_file(package_path(*VISION_TOWER)))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"the shipped vision tower cannot be loaded ({error}); reinstall the package", 1) from None
        model.model.visual.requires_grad_(False)
    return model


def uses_shipped_tower(config: HybridVLConfig) -> bool:
    """Whether the vision configuration is that of the shipped tower."""
    ours = config.vision_config.to_dict()
    return all(ours[key] == value for key, value in vision_tower_config().items())


def load_model(
    reference: str,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    seed: int = 0,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> LoadedModel:
    """Load a model by preset name (random weights), folder, run folder or hub id.

    Args:
        reference: a name in `SHIPPED`, a preset of `models.presets`, a folder with ``config.json`` and safetensors (or
            a run folder that holds one as ``model/``), or a hub id such as ``Qwen/Qwen2.5-VL-3B-Instruct``. Folder and
            hub may hold our format, Qwen2.5-VL's or the published InfiniteVL's.
        device: torch device of the result.
        dtype: of the weights; the checkpoint's own if None.
        seed: for a preset's random weights.
        min_pixels: smallest area that a picture is resized to, in pixels; if None, what was saved with a model of
            ours, and the paper's limit for the others.
        max_pixels: largest such area, likewise.

    Raises:
        UserError: if there is no such model, or what is there cannot be read.
    """
    limits: dict[str, Any] = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    if not reference.strip():
        # As a path, it would be the current folder.
        raise UserError("the name of a model is empty; name a folder, run, preset or hub id")
    if reference in SHIPPED:
        from .shipped_models import load_shipped

        model = load_shipped(reference).to(device=device, dtype=dtype or torch.float32)
        return LoadedModel(model, load_processor(**limits), reference, False)
    if reference in PRESETS:
        if reference not in EMBEDDED_PRESETS:
            raise UserError(
                f"preset {reference} has no weights here and no tokenizer; give a folder or a hub id, such as "
                "Qwen/Qwen2.5-VL-3B-Instruct"
            )
        model = new_model(get_preset(reference), seed, dtype).to(device)
        return LoadedModel(model.eval(), load_processor(**limits), reference, True)
    path = model_folder(reference)
    source = str(path) if path.exists() else reference
    if not path.exists() and not is_hub_id(reference):
        if "/" in reference:
            raise UserError(f"no model at {reference}; give a folder with config.json and *.safetensors")
        raise unknown_name("model", reference, [*SHIPPED, *PRESETS])
    found = open_checkpoint(source)
    if found.format != OURS:
        limits = {"min_pixels": min_pixels or PIXEL_LIMITS[0], "max_pixels": max_pixels or PIXEL_LIMITS[1]}
    processor = load_processor(str(found.folder), **limits)
    try:
        model = HybridVLForConditionalGeneration.from_pretrained(
            found.folder, config=found.config, dtype=dtype or "auto", device_map={"": device}
        )
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"cannot load a model from {reference}: {reason}; save or download it again", 1) from error
    name = path.parent.name if path.name == "model" else Path(reference).name
    return LoadedModel(model.eval(), processor, name, False)


def model_folder(reference: str) -> Path:
    """The folder that a reference means: a run's ``model/``, or itself."""
    path = with_home(reference)
    return path / "model" if (path / "model" / "config.json").exists() else path


def save_model(
    model: HybridVLForConditionalGeneration, processor: Any, folder: Path, origin: str, shard_size: str = "5GB"
) -> None:
    """Save a model in our format, its processor and a model card beside it; whole, or not at all.

    Args:
        model: any; saved in its dtype.
        processor: its processor; None leaves it out.
        folder: where to; it must not hold anything yet.
        origin: where the weights come from, in words, for the card.
        shard_size: largest file, as transformers writes sizes.

    Raises:
        UserError: if the folder holds something or cannot be written to.
    """
    with new_folder(folder) as unfinished:
        model.save_pretrained(unfinished, max_shard_size=shard_size)
        if processor is not None:
            processor.save_pretrained(unfinished)
        write_card(model.config, unfinished, folder.name, origin)


class new_folder:  # noqa: N801 - used like a function
    """A folder that appears under its name only when the block ends well.

    What a killed process left of it is removed by the next that is to become the same; of a living one, never.

    Raises:
        UserError: if there is something under that name already, or the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Path:
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise UserError(f"{self.folder} exists already; name a new folder")
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.unfinished = ScratchFolder(beside=self.folder)
        except OSError as error:
            raise UserError(f"cannot write to {self.folder.parent}: {error.strerror}; name another folder", 1) from None
        return self.unfinished.path

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            if kind is None:
                # Temporary folders, and weights as safetensors writes them, are private; an export is not.
                make_readable(self.unfinished.path)
                self.unfinished.path.replace(self.folder)
        finally:
            self.unfinished.remove()
        if isinstance(error, OSError | SafetensorError):
            raise UserError(
                f"cannot write {self.folder}: {error}; free some space or name another folder", 1
            ) from error
