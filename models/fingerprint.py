"""What tells weights, and other files, from others without loading them."""

import hashlib
from pathlib import Path

from ..errors import UserError
from ..files import with_home
from ..records import file_digest, package_path
from .shipped import SHIPPED, VISION_TOWER


def weights_hash(reference: str) -> str | None:
    """What tells these weights from others without loading them; None for a hub's, known only once loaded.

    Raises:
        UserError: if a file cannot be read.
    """
    path = with_home(reference)
    path = path / "model" if (path / "model" / "config.json").exists() else path
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if files:
        return hash_of(*files, path / "config.json")
    if reference in SHIPPED:
        return "-".join(file_digest(package_path(*parts)) for parts in (SHIPPED[reference], VISION_TOWER))
    from ..models.presets import PRESETS

    return f"preset:{reference}" if reference in PRESETS else None


def hash_of(*paths: Path) -> str:
    """SHA-256 of files, one after another.

    Raises:
        UserError: if one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; mend it, or name another") from None
    return digest.hexdigest()
