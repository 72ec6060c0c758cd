"""From a conversation to tokens, labels and patches, and how many tokens that will be before anything is decoded.

Tokens are those of the processor's chat template. Turns are encoded one after the other, so an answer's place is known
from the structure; a picture's placeholder is repeated as often as the picture has visual tokens.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from .conversations import (
    MARKS,
    BrokenSampleError,
    Conversation,
    Message,
    open_picture,
    read_picture,
)
from .samples import IGNORED
from .video import VideoLimits, VideoPlan, plan_video, read_frames

PICTURE_PIXELS = 1344 * 1344
"""Largest picture of stage 2, in pixels of area."""


@dataclass(frozen=True)
class Limits:
    """What a sample may be.

    Attributes:
        context: most tokens; a longer sample is cut, if an answer is left and no picture is hit.
        pixels: largest area of a picture; a larger one is scaled down.
        video: how videos are sampled.
    """

    context: int = 8192
    pixels: int = PICTURE_PIXELS
    video: VideoLimits = field(default_factory=VideoLimits)


@dataclass(frozen=True)
class Outline:
    """A sample's tokens with every picture's placeholder repeated, its labels, and whether it was cut."""

    ids: list[int]
    labels: list[int]
    cut: bool


def outline(conversation: Conversation, processor: Any, limits: Limits) -> Outline:
    """Tokens and labels of a conversation; of pictures and videos only their sizes are read.

    Raises:
        BrokenSampleError: if a picture or video cannot be read, or no answer lies within the context.
    """
    images = [_image_tokens(picture, conversation.origin, processor, limits) for picture in conversation.images]
    videos = [
        _video_tokens(plan_video(path, limits.video, conversation.origin), processor, limits)
        for path in conversation.videos
    ]
    return _outline(conversation, processor, limits, images, videos)


def _outline(
    conversation: Conversation, processor: Any, limits: Limits, images: list[int], videos: list[int]
) -> Outline:
    tokenizer, sizes = (
        processor.tokenizer,
        {processor.image_token_id: iter(images), processor.video_token_id: iter(videos)},
    )
    ids: list[int] = []
    labels: list[int] = []
    for text, learnt in _pieces(conversation, processor):
        piece: list[int] = []
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
            size = next(sizes[token], None) if token in sizes else 1
            if size is None:
                raise BrokenSampleError(f"{conversation.origin}: its text holds a placeholder of a picture")
            piece += [token] * size
        ids += piece
        labels += piece if learnt else [IGNORED] * len(piece)
    cut = len(ids) > limits.context
    if cut and any(token in sizes for token in ids[limits.context :]):
        raise BrokenSampleError(
            f"{conversation.origin}: {len(ids)} tokens, and a picture beyond the context of {limits.context}"
        )
    if all(label == IGNORED for label in labels[: limits.context]):
        raise BrokenSampleError(
            f"{conversation.origin}: {len(ids)} tokens, and no answer within the context of {limits.context}"
        )
    if cut and _longest_answer(labels) > limits.context:
        raise BrokenSampleError(f"{conversation.origin}: an answer longer than the context of {limits.context}")
    return Outline(ids[: limits.context], labels[: limits.context], cut)


def _longest_answer(labels: list[int]) -> int:
    longest = current = 0
    for label in labels:
        current = 0 if label == IGNORED else current + 1
        longest = max(longest, current)
    return longest


def _pieces(conversation: Conversation, processor: Any) -> list[tuple[str, bool]]:
    """The chat template's text in pieces, and which of them are learnt: answers and the end of their turn."""
    pieces: list[tuple[str, bool]] = []
    close = processor.tokenizer.eos_token
    done = ""
    for number, message in enumerate(conversation.messages, start=1):
        rendered = _render(conversation.messages[:number], processor, answering=False)
        if message.role != "assistant":
            pieces.append((rendered.removeprefix(done), False))
        else:
            opened = _render(conversation.messages[: number - 1], processor, answering=True)
            if not (rendered.startswith(opened) and close in rendered[len(opened) :]):
                raise ValueError(f"the chat template does not open and close an answer with {close}")
            answer, _, after = rendered.removeprefix(opened).rpartition(close)
            pieces += [(opened.removeprefix(done), False), (answer + close, True), (after, False)]
        done = rendered
    return [(text, learnt) for text, learnt in pieces if text]


def _render(messages: tuple[Message, ...], processor: Any, answering: bool) -> str:
    shown = [{"role": message.role, "content": _content(message)} for message in messages]
    text: str = processor.apply_chat_template(shown, tokenize=False, add_generation_prompt=answering)
    return text


def _content(message: Message) -> list[dict[str, str]]:
    kinds = {"<image>": "image", "<video>": "video"}
    return [
        {"type": kinds[part]} if part in kinds else {"type": "text", "text": part}
        for part in MARKS.split(message.text)
        if part
    ]


def _image_tokens(picture: Any, origin: str, processor: Any, limits: Limits) -> int:
    width, height = open_picture(picture, origin).size
    bounds = {"min_pixels": _smallest(processor, limits.pixels), "max_pixels": limits.pixels}
    try:
        patches = processor.image_processor.get_number_of_image_patches(height, width, bounds)
    except ValueError as error:
        raise BrokenSampleError(f"{origin}: an image of {width}×{height} pixels cannot be used ({error})") from None
    return int(patches) // processor.image_processor.merge_size**2


def _smallest(processor: Any, largest: int) -> int:
    return min(int(processor.image_processor.size["shortest_edge"]), largest)


def _video_size(processor: Any, limits: Limits) -> dict[str, int]:
    return {
        "shortest_edge": _smallest(processor, limits.video.pixels),
        "longest_edge": limits.video.pixels,
    }


def _video_tokens(plan: VideoPlan, processor: Any, limits: Limits) -> int:
    video = processor.video_processor
    patches = video.get_num_of_video_patches(
        len(plan.indices), plan.height, plan.width, {"size": _video_size(processor, limits)}
    )
    return int(patches) // video.merge_size**2


def encode(conversation: Conversation, processor: Any, limits: Limits) -> dict[str, Tensor]:
    """Encode a conversation as one training sample.

    Args:
        conversation: any.
        processor: a ``Qwen2_5_VLProcessor``.
        limits: what the sample may be.

    Returns:
        ``input_ids``, ``labels`` (answers and the end-of-turn token after each, `IGNORED` elsewhere) and
        ``mm_token_type_ids`` (1 on image, 2 on video tokens), each [T]; with images ``pixel_values`` and
        ``image_grid_thw``, with videos ``pixel_values_videos``, ``video_grid_thw`` and ``second_per_grid_ts``.

    Raises:
        BrokenSampleError: as `outline` does, and for what shows only when it is decoded.
    """
    sample: dict[str, Tensor] = {}
    images: list[int] = []
    videos: list[int] = []
    if conversation.images:
        processor_of = processor.image_processor
        size = {"shortest_edge": _smallest(processor, limits.pixels), "longest_edge": limits.pixels}
        pictures = [read_picture(picture, conversation.origin) for picture in conversation.images]
        sample |= processor_of(images=pictures, size=size, return_tensors="pt")
        images = (sample["image_grid_thw"].prod(dim=1) // processor_of.merge_size**2).tolist()
    if conversation.videos:
        seen, times = [], []
        for path in conversation.videos:
            plan = plan_video(path, limits.video, conversation.origin)
            frames = torch.from_numpy(read_frames(path, plan, conversation.origin).copy()).permute(0, 3, 1, 2)
            seen.append(
                processor.video_processor(
                    videos=[frames], do_sample_frames=False, size=_video_size(processor, limits), return_tensors="pt"
                )
            )
            times.append(plan.seconds_between * processor.video_processor.temporal_patch_size)
        sample |= {name: torch.cat([one[name] for one in seen]) for name in ("pixel_values_videos", "video_grid_thw")}
        sample["second_per_grid_ts"] = torch.tensor(times)
        videos = (sample["video_grid_thw"].prod(dim=1) // processor.video_processor.merge_size**2).tolist()
    found = _outline(conversation, processor, limits, images, videos)
    ids = torch.tensor(found.ids)
    kinds = (ids == processor.image_token_id).long() + 2 * (ids == processor.video_token_id).long()
    return dict(sample) | {"input_ids": ids, "labels": torch.tensor(found.labels), "mm_token_type_ids": kinds}


def encoding_key(processor: Any, limits: Limits) -> str:
    """Names what a sample's tokens depend on besides the sample."""
    template = str(processor.chat_template)
    facts = [
        asdict(limits),
        template,
        processor.tokenizer.backend_tokenizer.to_str(),
        str(processor.image_processor.size),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
