"""The shipped tokenizer and processor."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from infinitevl_bench.data.build_tokenizer import SPECIAL_TOKENS, write_processor
from infinitevl_bench.data.families import FAMILIES, LEVELS, generate_page
from infinitevl_bench.data.words import PROMPT_WORDS, WORD_TAILS
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.processor import load_processor
from infinitevl_bench.records import package_path
from PIL import Image

PROCESSOR = load_processor()
TOKENIZER = PROCESSOR.tokenizer


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_survives(text: str) -> None:
    assert TOKENIZER.decode(ids_of(text)) == text


@settings(max_examples=100, deadline=None)
@given(st.text(string.ascii_uppercase + string.digits, min_size=1))
def test_capitals_and_digits_are_one_token_each(text: str) -> None:
    assert len(ids_of(text)) == len(text)
    # Whatever stands before them, the characters get the same tokens.
    assert ids_of(f"the {text}")[-len(text) :] == ids_of(text)


def test_question_words_are_one_token_with_and_without_a_space() -> None:
    assert len(set(PROMPT_WORDS + WORD_TAILS)) == len(PROMPT_WORDS + WORD_TAILS)
    for word in PROMPT_WORDS:
        assert len(ids_of(word)) == 1
        assert len(ids_of(f" {word}")) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_are_short(family: str) -> None:
    """Every lower-case word of every template is in the vocabulary."""
    for level in LEVELS:
        for index in range(4 if family == "charts" else 20):
            for question in generate_page(family, seed=1, index=index, split="train", level=level).questions:
                pieces = [TOKENIZER.decode([token]) for token in ids_of(question.text)]
                assert not [piece for piece in pieces if piece.islower() and len(piece) == 1 and piece != "a"]


def test_vocabulary() -> None:
    assert len(TOKENIZER) <= 512
    assert [
        TOKENIZER.convert_ids_to_tokens(TOKENIZER.convert_tokens_to_ids(token)) for token in SPECIAL_TOKENS
    ] == list(SPECIAL_TOKENS)
    assert [TOKENIZER.pad_token, TOKENIZER.eos_token] == ["<|endoftext|>", "<|im_end|>"]
    assert TOKENIZER.padding_side == "left"


def test_rebuilding_gives_the_shipped_files(tmp_path: Path) -> None:
    write_processor(tmp_path)
    shipped = package_path("models", "assets", "tokenizer")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in shipped.iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (shipped / name).read_bytes(), f"{name}: rebuild the shipped tokenizer"


@pytest.mark.parametrize("size", [(56, 56), (140, 112), (224, 140), (392, 196), (28, 112)])
def test_pages_keep_their_size(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    grid = PROCESSOR.image_processor(images=[image], return_tensors="pt")["image_grid_thw"]
    assert grid.tolist() == [[1, size[1] // 14, size[0] // 14]]


def test_pixel_bounds() -> None:
    image = Image.new("RGB", (560, 560))
    small = load_processor(max_pixels=28 * 28 * 25)
    assert small.image_processor(images=[image], return_tensors="pt")["image_grid_thw"].tolist() == [[1, 10, 10]]
    large = load_processor(min_pixels=28 * 28 * 900)
    assert large.image_processor(images=[image], return_tensors="pt")["image_grid_thw"].tolist() == [[1, 60, 60]]
    with pytest.raises(UserError, match="min_pixels"):
        load_processor(min_pixels=10_000, max_pixels=5_000)


def test_a_saved_processor_is_the_same(tmp_path: Path) -> None:
    PROCESSOR.save_pretrained(tmp_path)
    again = load_processor(str(tmp_path))
    text = "what is the TOTAL?\n é 9A"
    assert again.tokenizer.encode(text) == TOKENIZER.encode(text)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "read line 1"}]}]
    assert again.apply_chat_template(messages, add_generation_prompt=True) == PROCESSOR.apply_chat_template(
        messages, add_generation_prompt=True
    )
    assert again.image_processor.size == PROCESSOR.image_processor.size


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_processor(str(tmp_path))
    write_processor(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match="cannot load a processor"):
        load_processor(str(tmp_path))


def test_token_numbers_are_dense() -> None:
    path = package_path("models", "assets", "tokenizer", "tokenizer.json")
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    numbers = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]
    assert sorted(numbers) == list(range(len(TOKENIZER)))
