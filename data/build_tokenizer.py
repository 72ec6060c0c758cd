"""Builds the tokenizer and the processor files that the package ships.

    python -m infinitevl_bench.data.build_tokenizer [FOLDER]

The vocabulary is written down, not learned: the 256 bytes, then each lower-case word of the questions with and
without a space before it, then Qwen2.5-VL's special tokens. A lower-case run that is a known word is one token;
everything else is spelt in bytes, so any string survives the way there and back and each capital and digit is one
token: what is read from a page is never guessed from its spelling.
"""

import json
import sys
from pathlib import Path

from ..records import atomic_write, package_path
from .words import PROMPT_WORDS, WORD_TAILS

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# A lower-case word with the space before it, or any one character.
PIECES = r" ?[a-z]+|[\s\S]"

MIN_PIXELS = 28 * 28 * 4
MAX_PIXELS = 28 * 28 * 1280

# The turn format of Qwen2.5-VL, without its default system prompt.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- else -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2's table), in byte order."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    characters, spare = [], 256
    for byte in range(256):
        if byte in printable:
            characters.append(chr(byte))
        else:
            characters.append(chr(spare))
            spare += 1
    return characters


def build_tokenizer_json() -> str:
    """The text of ``tokenizer.json``."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    characters = byte_characters()
    space = characters[ord(" ")]
    words = [word for word in PROMPT_WORDS if len(word) > 1]
    entries = [*characters, *(space + word for word in PROMPT_WORDS), *words, *WORD_TAILS]
    # `ignore_merges` takes a piece that is in the vocabulary as it is; no merge is needed, and none can go wrong.
    tokenizer = Tokenizer(BPE({entry: number for number, entry in enumerate(entries)}, [], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return str(tokenizer.to_str(pretty=True)) + "\n"


def processor_files() -> dict[str, str]:
    """Name → text of every file of the shipped processor."""
    image = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "merge_size": 2,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
    }
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "Qwen2_5_VLProcessor",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
    }
    image_classes = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    video_classes = {"video_processor_type": "Qwen2VLVideoProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    return {
        "tokenizer.json": build_tokenizer_json(),
        "tokenizer_config.json": _json(tokenizer),
        "preprocessor_config.json": _json(image | image_classes),
        "video_preprocessor_config.json": _json(image | video_classes),
        "chat_template.jinja": CHAT_TEMPLATE,
    }


def _json(content: object) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def write_processor(folder: Path) -> None:
    """Write the files of the processor; the same code always writes the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in processor_files().items():
        atomic_write(folder / name, text)


if __name__ == "__main__":
    write_processor(Path(sys.argv[1]) if len(sys.argv) > 1 else package_path("models", "assets", "tokenizer"))
