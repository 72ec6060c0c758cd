"""What stands between a checkpoint of any known format and transformers' loader: which folder, configuration, names.

Everything is checked from headers before the first tensor is read; the loader then moves each tensor from its shard to
its place, so that no second copy is ever held.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError

from ..errors import UserError
from ..files import with_home
from .config import HybridVLConfig
from .published import KEY_MAPPING, foreign_config, layer_types_of_tensors, our_name
from .weights import TensorHeader, check_fit, read_headers

OURS = HybridVLConfig.model_type
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja")
"""What is fetched from a hub: no code, no pickles."""
HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only")

HEAD = "lm_head.weight"

DAMAGE = (
    TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError,
    StrictDataclassError,
)  # fmt: skip
"""What a configuration raises that says what cannot be, found by damaging many; anything else is a fault of ours.

Python's own by a value of another type or size, torch's RuntimeError and AssertionError by a size that cannot be, and
the checks of huggingface_hub that transformers puts before each field.
"""


class Checkpoint(NamedTuple):
    """A checkpoint that fits its model.

    Attributes:
        folder: where its files are.
        format: its ``model_type``: ours, ``qwen2_5_vl`` or ``infinite_vl``.
        config: our configuration of it.
        tensors: headers by our names.
    """

    folder: Path
    format: str
    config: HybridVLConfig
    tensors: dict[str, TensorHeader]

    @property
    def key_mapping(self) -> dict[str, str] | None:
        """How transformers' loader turns the names in the files into ours; None where they are ours."""
        return None if self.format == OURS else KEY_MAPPING

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the files."""
        return sum(header.nbytes for header in self.tensors.values())


def open_checkpoint(source: str | Path, config: Any = None, **hub: Any) -> Checkpoint:
    """Find a checkpoint, read its configuration and headers, and check that they describe one model.

    Args:
        source: a folder, or a hub id, whose weights and configuration are then fetched without any code.
        config: a configuration of ours that takes the place of the one beside the weights.
        **hub: arguments of ``huggingface_hub.snapshot_download``.

    Raises:
        UserError: naming files or tensors that are missing, surplus, cut off or of another shape.
    """
    folder = _folder(source, hub)
    body = _read_config(folder)
    tensors = {our_name(name): header for name, header in read_headers(folder).items()}
    shapes = {name: header.shape for name, header in tensors.items()}
    try:
        _refuse_endless(body, len(shapes))
        if body.get("model_type") == OURS:
            found = _own_config(body, config, shapes)
        else:
            found = config if isinstance(config, HybridVLConfig) else foreign_config(body, shapes)
        expected = expected_shapes(found)
    except UserError as error:
        raise UserError(f"{folder}: {error}", error.exit_code) from None
    except DAMAGE as error:
        # transformers checks little of a configuration and builds what it is told, with any end.
        raise UserError(
            f"{folder / 'config.json'} describes no model ({_reason(error)}); mend it or download it again", 1
        ) from error
    if found.tie_word_embeddings and HEAD not in shapes:
        expected.pop(HEAD)
    # Rotary frequencies are computed; old releases of transformers saved them all the same.
    shapes = {name: shape for name, shape in shapes.items() if not name.endswith("rotary_emb.inv_freq")}
    check_fit(shapes, expected, folder)
    return Checkpoint(folder, str(body["model_type"]), found, tensors)


def expected_shapes(config: HybridVLConfig) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor of a model of this configuration; nothing is allocated."""
    from .hybrid import HybridVLForConditionalGeneration

    with torch.device("meta"):
        model = HybridVLForConditionalGeneration(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _own_config(body: dict[str, Any], config: Any, shapes: Mapping[str, tuple[int, ...]]) -> HybridVLConfig:
    """A configuration of ours with the layer types that the tensors show."""
    text = body["text_config"]
    claimed, window = text.get("layer_types"), text.get("sliding_window")
    types = layer_types_of_tensors(shapes, text["num_hidden_layers"], claimed, windowed=window is not None)
    if types == claimed and isinstance(config, HybridVLConfig):
        return config
    kept = {key: value for key, value in body.items() if key != "model_type"}
    return HybridVLConfig(**kept | {"text_config": text | {"layer_types": types}})


def _refuse_endless(body: Mapping[str, Any], tensors: int) -> None:
    """Refuse more layers than tensors at once: a slip of the pen would be listed and built until no memory is left."""
    parts = [part for part in (body, body.get("text_config"), body.get("vision_config")) if isinstance(part, Mapping)]
    for part in parts:
        for name in ("num_hidden_layers", "depth"):
            depth = part.get(name, 0)
            if isinstance(depth, int) and depth > tensors:
                raise UserError(f"its config.json says {name} is {depth}, and it has {tensors} tensors", 1)


def _reason(error: Exception) -> str:
    """What is wrong with a configuration, in one line."""
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    # The checks of a field wrap what they found.
    return " ".join(str(error.__cause__ or error).split())[:200] or type(error).__name__


def _folder(source: str | Path, hub: dict[str, Any]) -> Path:
    if not str(source).strip():
        raise UserError("the name of a model is empty; give a folder with config.json and *.safetensors, or a hub id")
    path = with_home(source)
    if path.is_dir():
        return path
    if not is_hub_id(str(source)):
        raise UserError(f"no model at {source}; give a folder with config.json and *.safetensors, or a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=list(HUB_FILES), **hub))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{source} cannot be fetched from the hub ({reason}); give a folder with its files", 1
        ) from None


def is_hub_id(source: str) -> bool:
    """Whether a reference has the form ``owner/name``."""
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not source.endswith("/")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"no config.json in {folder}; save the model again, or copy its configuration there", 1
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); download it again", 1) from None
    if not isinstance(body, dict):
        raise UserError(f"{path} is no configuration; download it again", 1)
    return body
