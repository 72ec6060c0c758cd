"""Training samples: the processor's own tokens, and labels on the answers alone."""

from collections import Counter

import pandas as pd
import pytest
import torch
from infinitevl_bench.data.families import FAMILIES, LEVELS, generate_page
from infinitevl_bench.data.pages import Page, Question
from infinitevl_bench.data.samples import IGNORED, SHORT_ANSWER, choice_form, encode_page, page_messages, page_turns
from infinitevl_bench.eval.isolation import process_unchanged
from infinitevl_bench.models.processor import load_processor
from PIL import Image

PROCESSOR = load_processor()
CLOSE = "<|im_end|>"


def labelled_text(labels: torch.Tensor) -> str:
    return str(PROCESSOR.tokenizer.decode(labels[labels != IGNORED].tolist()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("level", LEVELS)
def test_samples_are_what_the_processor_makes(family: str, level: int) -> None:
    page = generate_page(family, seed=5, index=2, split="train", level=level)
    sample = encode_page(page, PROCESSOR)
    theirs = PROCESSOR.apply_chat_template(page_messages(page), tokenize=True, return_dict=True, return_tensors="pt")
    assert torch.equal(sample["input_ids"], theirs["input_ids"][0])
    assert torch.equal(sample["mm_token_type_ids"], theirs["mm_token_type_ids"][0])
    assert torch.equal(sample["pixel_values"], theirs["pixel_values"])
    assert torch.equal(sample["image_grid_thw"], theirs["image_grid_thw"])


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_are_the_answers_and_their_ends(family: str) -> None:
    page = generate_page(family, seed=5, index=3, split="train", level=1)
    sample = encode_page(page, PROCESSOR)
    answers = "".join(question.answers[0] + CLOSE for question in page_turns(page))
    assert labelled_text(sample["labels"]) == answers
    kept = sample["labels"] != IGNORED
    assert torch.equal(sample["labels"][kept], sample["input_ids"][kept])
    # Each answer begins right after the template's word for its speaker.
    starts = kept & ~torch.cat([torch.tensor([False]), kept[:-1]])
    header = PROCESSOR.tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
    for start in starts.nonzero()[:, 0].tolist():
        assert sample["input_ids"][start - len(header) : start].tolist() == header


def test_a_question_that_holds_the_answer_or_template_text_misleads_nothing() -> None:
    questions = (
        Question("is X1 the answer? assistant\nX1", ("X1",)),
        Question("user\nX1 X1", ("FIRSTANSWER",)),
    )
    page = Page(Image.new("RGB", (56, 56)), questions, ("X1",), "documents", 1)
    sample = encode_page(page, PROCESSOR)
    assert labelled_text(sample["labels"]) == f"X1{CLOSE}FIRSTANSWER{CLOSE}"
    theirs = PROCESSOR.apply_chat_template(page_messages(page), tokenize=True, return_dict=True, return_tensors="pt")
    assert torch.equal(sample["input_ids"], theirs["input_ids"][0])


def test_image_tokens_match_the_grid() -> None:
    page = generate_page("documents", seed=0, index=0, split="train", level=1)
    sample = encode_page(page, PROCESSOR)
    assert sample["image_grid_thw"].tolist() == [[1, 10, 16]]
    assert int(sample["mm_token_type_ids"].sum()) == 40
    assert sample["pixel_values"].shape == (160, 1176)


def test_choice_form() -> None:
    question = Question("what colour is the star?", ("red",), ("blue", "red", "green", "yellow"), "colour")
    choice = choice_form(question)
    assert choice.answers == ("B",)
    assert choice.text.splitlines()[:4] == ["Question: what colour is the star?", "Options:", "A. blue", "B. red"]
    assert not choice.options


def test_each_question_is_asked_once_in_a_form_of_the_evaluation() -> None:
    """Also in the first turn, which is all that an evaluation asks. Bounds are four standard deviations."""
    forms = {"first": Counter[str](), "later": Counter[str]()}
    for index in range(200):
        page = generate_page("shapes", seed=0, index=index, split="train", level=1)
        turns = page_turns(page)
        assert page_turns(page) == turns
        for number, (turn, question) in enumerate(zip(turns, page.questions, strict=True)):
            known = {
                choice_form(question).text: "choice",
                question.text + SHORT_ANSWER: "short",
                question.text: "plain",
            }
            forms["first" if number == 0 else "later"][known[turn.text]] += 1
            assert turn.answers == (choice_form(question) if known[turn.text] == "choice" else question).answers
    for place, count in (("first", 200), ("later", 400)):
        assert abs(forms[place]["choice"] - count / 2) < 2 * count**0.5
        for form in ("short", "plain"):
            assert abs(forms[place][form] - count / 4) < 3**0.5 * count**0.5


def test_trained_prompts_are_those_of_the_benchmark_tool() -> None:
    """A template of VLMEvalKit that changes must not pass unnoticed: models would be asked what they never saw."""
    # Its import turns gradients off, for all tests that follow in this process.
    with process_unchanged():
        from vlmeval.dataset.image_mcq import ImageMCQDataset
        from vlmeval.dataset.image_vqa import ImageVQADataset

    question = generate_page("shapes", seed=0, index=0, split="train", level=1).questions[0]
    options = dict(zip("ABCD", question.options, strict=False))
    row = pd.Series({"index": 0, "image_path": __file__, "question": question.text} | options)
    for dataset, text in (
        (ImageMCQDataset, choice_form(question).text),
        (ImageVQADataset, question.text + SHORT_ANSWER),
    ):
        opened = object.__new__(dataset)
        opened.meta_only = True
        assert opened.build_prompt(row)[-1]["value"] == text
