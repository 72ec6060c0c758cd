"""The processor: image patches, tokenizer and chat template behind one call.

transformers' own `Qwen2_5_VLProcessor`, either with the small tokenizer that the package ships or with a checkpoint's.
"""

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..records import package_path

ASSETS = ("models", "assets", "tokenizer")
NEEDED = ("tokenizer.json", "tokenizer_config.json")


def load_processor(path: str | None = None, *, min_pixels: int | None = None, max_pixels: int | None = None) -> Any:
    """Load a ``Qwen2_5_VLProcessor``.

    Args:
        path: Folder or hub id; the shipped files if None.
        min_pixels: Smallest area in pixels that an image is resized to; the files' own if None. The shipped value
            (4 visual tokens) leaves every page as it is.
        max_pixels: Largest such area; the files' own if None.

    Raises:
        UserError: If files are missing or unreadable, or the bounds contradict each other.
    """
    from transformers import Qwen2_5_VLProcessor

    source = str(package_path(*ASSETS)) if path is None else path
    folder = Path(source)
    if path is None or folder.is_dir():
        missing = [name for name in NEEDED if not (folder / name).is_file()]
        if missing:
            mend = "reinstall the package" if path is None else "save the processor beside the weights"
            raise UserError(f"no processor in {folder}: {', '.join(missing)} missing; {mend}")
    try:
        processor = Qwen2_5_VLProcessor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"cannot load a processor from {source}: {reason}") from error
    _bound(processor, min_pixels, max_pixels)
    return processor


def _bound(processor: Any, min_pixels: int | None, max_pixels: int | None) -> None:
    """Set the resize bounds of the image processor, in pixels of area."""
    size = dict(processor.image_processor.size)
    bounds = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    size |= {key: bound for key, bound in bounds.items() if bound is not None}
    smallest, largest = size["shortest_edge"], size["longest_edge"]
    if not 0 < smallest <= largest:
        raise UserError(f"min_pixels {smallest} and max_pixels {largest} do not bound an area; give 0 < min <= max")
    processor.image_processor.size = type(processor.image_processor.size)(shortest_edge=smallest, longest_edge=largest)
