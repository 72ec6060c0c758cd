"""Instruction samples in every format, and what is said of broken ones: the file and the line."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from infinitevl_bench.data.conversations import BrokenSampleError, Message, read_picture
from infinitevl_bench.data.families import family_names
from infinitevl_bench.data.sources import open_source
from infinitevl_bench.errors import UserError
from PIL import Image


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(path)
    return path


def sample(text: str = "<image>What?", answer: str = "This.", **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "images": ["a.png"]} | more


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture(tmp_path / "a.png")
    return tmp_path


@pytest.mark.parametrize("form", ["lines", "list", "indented list"])
def test_samples_of_json_are_found_with_their_lines(folder: Path, form: str) -> None:
    rows = [sample(), sample("Grüße, [kein] {Bild}", images=[]), {"bad": "row"}]
    path = folder / ("data.jsonl" if form == "lines" else "data.json")
    if form == "lines":
        path.write_text("\n".join([json.dumps(rows[0]), "", json.dumps(rows[1]), json.dumps(rows[2])]))
        lines = [1, 3, 4]
    else:
        text = json.dumps(rows, indent=2 if form == "indented list" else None, ensure_ascii=False)
        path.write_text(text, encoding="utf-8")
        starts = [number for number, line in enumerate(text.splitlines(), start=1) if line == "  {"]
        lines = starts if form == "indented list" else [1, 1, 1]
    source = open_source(str(path))
    assert len(source) == 3
    assert source[0].messages == (Message("user", "<image>What?"), Message("assistant", "This."))
    assert source[0].images == (folder / "a.png",)
    assert source[0].origin == f"{path}, line {lines[0]}"
    assert source[1].messages[0].text == "Grüße, [kein] {Bild}"
    assert source[1].origin.endswith(f"line {lines[1]}")
    with pytest.raises(BrokenSampleError, match=rf"line {lines[2]}: no `messages`"):
        source[2]


def test_the_older_spelling_is_read(folder: Path) -> None:
    turns = [{"from": "human", "value": "<video> and?"}, {"from": "gpt", "value": "Then."}]
    (folder / "film.avi").write_bytes(b"")
    row = {"conversations": turns, "videos": "film.avi", "system": "Be brief."}
    (folder / "data.jsonl").write_text(json.dumps(row))
    found = open_source(str(folder / "data.jsonl"))[0]
    assert [message.role for message in found.messages] == ["system", "user", "assistant"]
    assert found.videos == (folder / "film.avi",)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (sample(images=[]), "1 <image> marks for 0 images"),
        (sample("What?"), "0 <image> marks for 1 images"),
        (sample("<video>What?", images=[]), "1 <video> marks for 0 videos"),
        (sample(images=["gone.png"]), "gone.png does not exist"),
        (sample(images=[7]), "image 7 is no path"),
        (sample(answer=""), "no answer"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role 'tool'"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, r"role \['user'\]"),
        (sample(images=["x" * 300]), r"image 'x+'… cannot be read \(File name too long\)"),
        ({"messages": [{"role": "user", "content": 3}]}, "content of a message is text, not int"),
        ({"messages": ["hello"]}, "a message is an object"),
        ({"messages": []}, "no `messages`"),
        ([1], "a sample is an object"),
    ],
)
def test_a_broken_sample_is_named(folder: Path, row: Any, words: str) -> None:
    path = folder / "data.jsonl"
    path.write_text("\n" + json.dumps(row) + "\n")
    with pytest.raises(BrokenSampleError, match=f"{path}, line 2: .*{words}"):
        open_source(str(path))[0]


@pytest.mark.parametrize("row", ["[" * 3000, "9" * 5000])
def test_what_python_cannot_parse_is_a_broken_sample(folder: Path, row: str) -> None:
    (folder / "data.jsonl").write_text(row)
    with pytest.raises(BrokenSampleError, match="line 1: not JSON"):
        open_source(str(folder / "data.jsonl"))[0]


def test_a_picture_that_is_none_is_named(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"not a picture")
    with pytest.raises(BrokenSampleError, match=r"line 1: image .*a.png cannot be read"):
        read_picture(folder / "a.png", "line 1")
    whole = picture(folder / "b.png").read_bytes()
    with pytest.raises(BrokenSampleError, match="cannot be decoded"):
        read_picture(whole[: len(whole) // 2], "line 1")


@pytest.mark.parametrize("form", ["parquet", "folder of parquet", "saved data set", "saved parts"])
@pytest.mark.parametrize("pictures", ["bytes", "paths"])
def test_tables_of_hugging_face_are_read(folder: Path, form: str, pictures: str) -> None:
    from datasets import Dataset, DatasetDict, Features, List, Value
    from datasets import Image as ImageFeature

    buffer = io.BytesIO()
    Image.open(folder / "a.png").save(buffer, "PNG")
    images: list[Any] = [{"bytes": buffer.getvalue(), "path": None}] if pictures == "bytes" else ["a.png"]
    feature = ImageFeature(decode=False) if pictures == "bytes" else Value("string")
    message = {"role": Value("string"), "content": Value("string")}
    features = Features({"messages": List(message), "images": List(feature)})
    table = Dataset.from_list([sample(images=images), sample("Only text", images=[])], features=features)
    path = folder / "table"
    path.mkdir()
    if form == "parquet":
        path = folder / "table.parquet"
        table.to_parquet(str(path))
    elif form == "folder of parquet":
        table.to_parquet(str(path / "train-0.parquet"))
    elif form == "saved data set":
        table.save_to_disk(str(path))
    else:
        DatasetDict({"train": table}).save_to_disk(str(path))
    if pictures == "paths" and path.is_dir():
        (folder / "a.png").rename(path / "a.png")
    source = open_source(str(path))
    assert len(source) == 2
    assert read_picture(source[0].images[0], "").size == (40, 30)
    assert source[1].messages[0].text == "Only text"
    assert source[1].origin == f"{path}, row 2"


@pytest.mark.parametrize("family", family_names())
def test_our_own_pages_are_a_source(family: str) -> None:
    source = open_source(f"pages:{family}:7")
    assert len(source) == 7
    found = source[3]
    assert found.messages[0].text.startswith("<image>")
    assert sum(message.text.count("<image>") for message in found.messages) == len(found.images) == 1


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: "no/such.json", "no data at no/such.json"),
        (lambda folder: "pages:document", "did you mean documents"),
        (lambda folder: "pages:documents:many", "'many' is no number of pages"),
        (lambda folder: write(folder / "x.json", "[]"), "holds no samples"),
        (lambda folder: write(folder / "x.jsonl", "\n"), "holds no samples"),
        (lambda folder: write(folder / "x.json", "{}"), "line 1: not a JSON list"),
        (lambda folder: write(folder / "x.json", "[{},\n oops]"), "line 2: not JSON"),
        (lambda folder: write(folder / "x.json", "[{},\n" + "[" * 3000), "line 2: not JSON"),
        (lambda folder: write(folder / "x.json", "[{},\n" + "9" * 5000), "line 2: not JSON"),
        (lambda folder: write(folder / "x.json", "[{}\n {}]"), "line 2: not a JSON list"),
        (lambda folder: write(folder / "x.csv", "a,b"), "no .json, .jsonl or .parquet file"),
        (lambda folder: write(folder / "x.parquet", "nothing"), "cannot be read"),
        (lambda folder: str(folder), "neither a data set nor .parquet files"),
    ],
)
def test_what_is_no_data_is_named(folder: Path, make: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_source(make(folder))


def test_a_table_of_something_else_is_named(folder: Path) -> None:
    from datasets import Dataset

    Dataset.from_list([{"question": "x"}]).to_parquet(str(folder / "x.parquet"))
    with pytest.raises(UserError, match="has the columns question, and no `messages`"):
        open_source(str(folder / "x.parquet"))
