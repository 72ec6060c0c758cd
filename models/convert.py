"""The `convert` command: from any known format to ours or the published one, and from a teacher to a new student."""

import json
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers.utils.logging import disable_progress_bar

from ..errors import UserError, unknown_name
from ..printing import PlainConsole
from ..records import atomic_write
from ..scratch import ScratchFolder
from .checkpoints import new_folder, new_model, save_model
from .config import HybridVLConfig, layer_types_of
from .hybrid import HybridVLForConditionalGeneration
from .loading import HEAD, OURS, Checkpoint, open_checkpoint
from .model_card import write_card
from .processor import NEEDED, load_processor
from .published import INFINITE_VL_WINDOW, PIXEL_LIMITS, infinite_vl_config, their_name
from .registry import canonical_name
from .shipped import SHIPPED
from .shipped_models import load_shipped
from .teacher import inherit
from .weights import INDEX

TARGETS = ("ours", "infinitevl")
SHARD_BYTES = 5_000_000_000


def convert_command(
    source: str, target: Path, *, pattern: str | None, mixer: str | None, window: int | None, to: str, seed: int
) -> None:
    """Read a checkpoint, make a student of it if a pattern or a mixer is given, and write it.

    Args:
        source: folder, hub id, or a name in `shipped.SHIPPED`.
        target: a new folder.
        pattern: layer pattern of the student; None keeps the source's layers.
        mixer: its token mixer; Gated DeltaNet if None.
        window: sliding window of its attention layers, in tokens; the published 8192 if None.
        to: one of `TARGETS`.
        seed: of whatever a student does not inherit.

    Raises:
        UserError: for what cannot be read, made or written; nothing is written then.
    """
    if to not in TARGETS:
        raise unknown_name("format", to, TARGETS)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already; name a new folder")
    if not sys.stderr.isatty():
        disable_progress_bar()
    if source in SHIPPED and not Path(source).exists():
        with ScratchFolder() as scratch:
            # Written out first, so that it is read as any other.
            save_model(load_shipped(source), load_processor(), scratch / source, "The package ships it.")
            convert_command(
                str(scratch / source), target, pattern=pattern, mixer=mixer, window=window, to=to, seed=seed
            )
        return
    found = open_checkpoint(source)
    config = found.config
    if pattern is not None or mixer is not None:
        config = student_config(
            config,
            "SLLL" if pattern is None else pattern,
            "gated_deltanet" if mixer is None else mixer,
            window,
        )
    elif window is not None:
        raise UserError("a window is chosen for a student; give --pattern or --mixer too")
    if to == "infinitevl":
        infinite_vl_config(config, "bfloat16")  # refuses before the weights are read
    model = HybridVLForConditionalGeneration.from_pretrained(found.folder, config=found.config, dtype="auto")
    origin = f"Converted by `infinitevl-bench convert` from {Path(source).name}, whose format is {found.format}."
    if config is not found.config:
        student = new_model(config, seed, model.dtype)
        inherit(student, model)
        model = student
        origin = (
            f"A student of {Path(source).name}, made by `infinitevl-bench convert` and **not trained**: all but the "
            "token mixers is the teacher's, and those begin with the projections of the attention that they replace."
        )
    processor = _processor(found)
    if to == "infinitevl":
        save_infinite_vl(model, processor, target, origin)
    else:
        save_model(model, processor, target, origin)
    _say(model.config, target, processor is not None)


def student_config(teacher: HybridVLConfig, pattern: str, mixer: str, window: int | None) -> HybridVLConfig:
    """The configuration of a student of a teacher's geometry.

    Raises:
        UserError: for a pattern that does not tile the depth, an unknown mixer, or a teacher with linear layers.
    """
    text = teacher.text_config
    if text.linear_layers:
        raise UserError(f"a student is made of a teacher with attention in every layer; this one is {text.pattern}")
    body = {key: value for key, value in teacher.to_dict().items() if key != "model_type"}
    types = layer_types_of(pattern, text.num_hidden_layers)
    body["text_config"] |= {
        "layer_types": types,
        "mixer": canonical_name(mixer),
        "mixer_args": {},
        "sliding_window": (window or INFINITE_VL_WINDOW) if "sliding_attention" in types else None,
    }
    return HybridVLConfig(**body)


def save_infinite_vl(
    model: HybridVLForConditionalGeneration, processor: Any, folder: Path, origin: str, shard_bytes: int = SHARD_BYTES
) -> None:
    """Save a model under the names and with the configuration of the published checkpoints, in shards.

    Args:
        model: with Gated DeltaNet and sliding-window attention.
        processor: saved beside it; None leaves it out.
        folder: where to; it must not hold anything yet.
        origin: where the weights come from, for the card.
        shard_bytes: largest shard.

    Raises:
        UserError: for a model that the released code cannot express, or a folder that cannot be written to.
    """
    body = infinite_vl_config(model.config, str(model.dtype).removeprefix("torch."))
    tensors = dict(model.state_dict())
    if body["tie_word_embeddings"]:
        del tensors[HEAD]
    shards = _shards({name: tensor.nbytes for name, tensor in tensors.items()}, shard_bytes)
    with new_folder(folder) as unfinished:
        placed: dict[str, str] = {}
        for number, names in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
            part = {their_name(name): tensors[name].detach().cpu().contiguous() for name in names}
            save_file(part, unfinished / file, metadata={"format": "pt"})
            placed |= dict.fromkeys(part, file)
        if len(shards) > 1:
            total = sum(tensor.nbytes for tensor in tensors.values())
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
            atomic_write(unfinished / INDEX, json.dumps(index, indent=1))
        atomic_write(unfinished / "config.json", json.dumps(body, indent=1))
        model.generation_config.save_pretrained(unfinished)
        if processor is not None:
            processor.save_pretrained(unfinished)
        write_card(model.config, unfinished, folder.name, origin)


def _shards(sizes: dict[str, int], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if shards[-1] and held + size > limit:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


def _processor(found: Checkpoint) -> Any:
    """The processor beside a checkpoint, within the paper's picture sizes where it is not ours; None without one."""
    if not all((found.folder / name).is_file() for name in NEEDED):
        return None
    smallest, largest = (None, None) if found.format == OURS else PIXEL_LIMITS
    return load_processor(str(found.folder), min_pixels=smallest, max_pixels=largest)


def _say(config: HybridVLConfig, target: Path, with_processor: bool) -> None:
    text = config.text_config
    console = PlainConsole()
    what = f"{text.pattern} with {text.mixer}" if text.linear_layers else f"{text.pattern}, attention in every layer"
    console.print(f"wrote {target}: {text.num_hidden_layers} layers, {what}", highlight=False, soft_wrap=True)
    if not with_processor:
        console.print("the source has no processor; copy tokenizer and preprocessor files beside the weights")
