"""Instruction samples as they are read: turns of a conversation, the pictures and videos in it, and where it stands.

The format is that of the released training code (LLaMA-Factory's ShareGPT): ``messages`` with a role and a content, in
which ``<image>`` and ``<video>`` mark where the entries of ``images`` and ``videos`` belong, in their order. The older
spelling (``conversations`` of ``from`` and ``value``) is read too.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

IMAGE_MARK, VIDEO_MARK = "<image>", "<video>"
MARKS = re.compile(f"({IMAGE_MARK}|{VIDEO_MARK})")
ROLES = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
}  # fmt: skip

Picture = Path | bytes | Image.Image


class BrokenSampleError(Exception):
    """A sample that cannot be trained on; the message says where it stands and why."""


@dataclass(frozen=True)
class Message:
    """One turn: ``role`` is system, user or assistant; ``text`` holds the marks."""

    role: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """One sample.

    Attributes:
        messages: at least one of them the assistant's.
        images: as many as there are image marks.
        videos: as many as there are video marks.
        origin: where it stands, as a person would say it.
    """

    messages: tuple[Message, ...]
    images: tuple[Picture, ...]
    videos: tuple[Path, ...]
    origin: str


def parse_conversation(row: Any, origin: str, folder: Path) -> Conversation:
    """Read one sample.

    Args:
        row: what JSON or a table holds.
        origin: where it stands.
        folder: what relative paths of pictures and videos start from.

    Raises:
        BrokenSampleError: if it is none, or its marks and its pictures differ in number, or a file is missing.
    """
    if not isinstance(row, Mapping):
        raise BrokenSampleError(f"{origin}: a sample is an object with `messages`, not {type(row).__name__}")
    turns = row.get("messages") if row.get("messages") is not None else row.get("conversations")
    if not isinstance(turns, list | tuple) or not turns:
        raise BrokenSampleError(f"{origin}: no `messages`")
    messages = tuple(_message(turn, origin) for turn in turns)
    system = row.get("system")
    if isinstance(system, str) and system:
        messages = (Message("system", system), *messages)
    if not any(message.role == "assistant" and message.text for message in messages):
        raise BrokenSampleError(f"{origin}: no answer of the assistant to learn")
    images = tuple(_picture(one, origin, folder) for one in _listed(row.get("images")))
    videos = tuple(_file(one, "video", origin, folder) for one in _listed(row.get("videos")))
    for mark, given, name in ((IMAGE_MARK, images, "images"), (VIDEO_MARK, videos, "videos")):
        marks = sum(message.text.count(mark) for message in messages)
        if marks != len(given):
            raise BrokenSampleError(f"{origin}: {marks} {mark} marks for {len(given)} {name}")
    return Conversation(messages, images, videos, origin)


def _message(turn: Any, origin: str) -> Message:
    if not isinstance(turn, Mapping):
        raise BrokenSampleError(f"{origin}: a message is an object with `role` and `content`")
    role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(role, str) or role not in ROLES:
        raise BrokenSampleError(f"{origin}: role {role!r}; known: {', '.join(ROLES)}")
    if not isinstance(text, str):
        raise BrokenSampleError(f"{origin}: the content of a message is text, not {type(text).__name__}")
    return Message(ROLES[role], text)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _picture(value: Any, origin: str, folder: Path) -> Picture:
    """A picture as a path, as bytes, or as a table of Hugging Face datasets holds it."""
    if isinstance(value, Image.Image | bytes):
        return value
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value
    return _file(value, "image", origin, folder)


def _file(value: Any, kind: str, origin: str, folder: Path) -> Path:
    if not isinstance(value, str) or not value:
        raise BrokenSampleError(f"{origin}: {kind} {value!r} is no path")
    path = folder / value
    try:
        there = path.is_file()
    except OSError as error:
        raise BrokenSampleError(f"{origin}: {kind} {value[:40]!r}… cannot be read ({error.strerror})") from None
    if not there:
        raise BrokenSampleError(f"{origin}: {kind} {path} does not exist")
    return path


def open_picture(picture: Picture, origin: str) -> Image.Image:
    """Open a picture; its size is known at once, its pixels are read when they are asked for.

    Raises:
        BrokenSampleError: if it is none.
    """
    try:
        if isinstance(picture, Image.Image):
            return picture
        return Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        name = "image" if isinstance(picture, bytes) else f"image {picture}"
        raise BrokenSampleError(f"{origin}: {name} cannot be read ({error})") from None


def read_picture(picture: Picture, origin: str) -> Image.Image:
    """Read a picture's pixels, in RGB.

    Raises:
        BrokenSampleError: if they are damaged.
    """
    opened = open_picture(picture, origin)
    try:
        return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise BrokenSampleError(f"{origin}: an image cannot be decoded ({error})") from None
