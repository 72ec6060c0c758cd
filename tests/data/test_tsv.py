"""Benchmark files: what is written is read back, and every damaged row is named."""

import base64
import io
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from infinitevl_bench.data.tsv import MAX_PIXELS, BadRow, decode_image, encode_image, read_tsv, write_tsv
from infinitevl_bench.errors import UserError
from PIL import Image

PICTURE = encode_image(Image.effect_noise((28, 28), 40).convert("RGB"))
ANY_CELL = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), min_size=1)


def row(index: object = 0, **changes: object) -> dict[str, object]:
    return {"index": index, "image": PICTURE, "question": "q", "answer": "a"} | changes


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ANY_CELL, ANY_CELL), min_size=1, max_size=4))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("tsv") / "bench.tsv"
    write_tsv(path, [row(number, question=question, answer=answer) for number, (question, answer) in enumerate(cells)])
    frame = read_tsv(path)
    assert list(frame.columns) == ["index", "image", "question", "answer"]
    assert list(zip(frame["question"], frame["answer"], strict=True)) == cells


def test_cells_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "bench.tsv"
    answers: list[object] = ["007", "NA", "nan", "1e5", ["x", "it's"], ("A",), "True"]
    write_tsv(path, [row(number, answer=answer) for number, answer in enumerate(answers)])
    read = read_tsv(path)["answer"].tolist()
    assert read == ["007", "NA", "nan", "1e5", "['x', \"it's\"]", "['A']", "True"]


def test_images_come_back_pixel_by_pixel(tmp_path: Path) -> None:
    image = Image.effect_noise((56, 28), 60).convert("RGB")
    path = tmp_path / "bench.tsv"
    write_tsv(path, [row(image=image)])
    assert decode_image(read_tsv(path)["image"][0]).tobytes() == image.tobytes()


def test_images_may_be_shared_listed_and_jpeg(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(buffer, format="JPEG")
    jpeg = base64.b64encode(buffer.getvalue()).decode()
    path = tmp_path / "bench.tsv"
    write_tsv(path, [row("a", image=jpeg), row("b", image="a"), row("c", image=[PICTURE, jpeg])])
    assert read_tsv(path)["image"].tolist()[1] == "a"


def test_columns_come_in_the_usual_order(tmp_path: Path) -> None:
    path = tmp_path / "bench.tsv"
    write_tsv(path, [{"extra": 1, "D": "d", "A": "a", "answer": "A", "question": "q", "image": PICTURE, "index": 5}])
    assert list(read_tsv(path).columns) == ["index", "image", "question", "answer", "A", "D", "extra"]


def png_of_size(width: int, height: int) -> str:
    """The head of a PNG that claims a size; its data would not fill it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def damaged(kind: str) -> str:
    data = base64.b64decode(PICTURE)
    if kind == "text":
        return base64.b64encode(b"this is no image, but it is long enough to be one, or so it seems").decode()
    if kind == "truncated png":
        return base64.b64encode(data[: len(data) // 2]).decode()
    if kind == "truncated jpeg":
        buffer = io.BytesIO()
        Image.effect_noise((128, 128), 60).save(buffer, format="JPEG")
        return base64.b64encode(buffer.getvalue()[: len(buffer.getvalue()) // 2]).decode()
    if kind == "not base64":
        return "?" + PICTURE
    if kind == "broken list":
        return "['" + PICTURE
    if kind == "list of numbers":
        return repr(list(range(100)))
    if kind == "dangling reference":
        return "77"
    return png_of_size(8001, 8001) if kind == "enormous" else png_of_size(100_000, 100_000)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "no known format"),
        ("truncated png", "damaged"),
        ("truncated jpeg", "damaged"),
        ("not base64", "base64"),
        ("broken list", "not complete"),
        ("list of numbers", "something else"),
        ("dangling reference", "index of a row"),
        ("enormous", f"{MAX_PIXELS:,} pixels"),
        ("bomb", f"{MAX_PIXELS:,} pixels"),
    ],
)
def test_bad_images_are_named_by_row(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "bench.tsv"
    write_tsv(path, [row(0), row(1), row(2, image=damaged(kind))])
    with pytest.raises(UserError, match=message) as caught:
        read_tsv(path)
    assert "row 3" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_tables(tmp_path: Path) -> None:
    path = tmp_path / "bench.tsv"
    with pytest.raises(UserError, match="no benchmark file"):
        read_tsv(path)
    path.write_text("")
    with pytest.raises(UserError, match="no tab-separated"):
        read_tsv(path)
    path.write_bytes(b"index\timage\n0\t\xff\xfe\n")
    with pytest.raises(UserError, match="UTF-8"):
        read_tsv(path)
    path.write_text("index\timage\tquestion\tanswer\n")
    with pytest.raises(UserError, match="no rows"):
        read_tsv(path)
    path.write_text(f"index\timage\tquestion\tanswer\n0\t{PICTURE}\tq\ta\n1\t{PICTURE}\tq\n")
    with pytest.raises(UserError, match="row 2: column answer is empty"):
        read_tsv(path)
    path.write_text(f"index\timage\tquestion\tanswer\n0\t{PICTURE}\tq\ta\tmore\n")
    with pytest.raises(UserError, match="no tab-separated"):
        read_tsv(path)
    write_tsv(path, [row()])
    with pytest.raises(UserError, match="no column category"):
        read_tsv(path, ("index", "category"))
    write_tsv(path, [row("x"), row("y"), row("x")])
    with pytest.raises(UserError, match="row 3: index x is used in row 1"):
        read_tsv(path)


def test_nothing_is_written_for_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "bench.tsv"
    write_tsv(path, [row()])
    before = path.read_bytes()
    with pytest.raises(UserError, match="row 2"):
        write_tsv(path, [row(), {"index": 1}])
    with pytest.raises(UserError, match="no rows"):
        write_tsv(path, [])
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["bench.tsv"]


def test_bad_rows_are_listed_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "bench.tsv"
    rows = [
        row(0), row(0), row(2, question=""), row(3, image=damaged("bomb")), row(4, image=damaged("truncated png")),
        row(5, image_path="../outside.png"), row(6, image_path="/etc/passwd"), row(7, image_path="inside/7.png"),
    ]  # fmt: skip
    write_tsv(path, [{"image_path": "x.png"} | one for one in rows])
    bad: list[BadRow] = []
    frame = read_tsv(path, bad=bad, root=tmp_path)
    assert frame["index"].tolist() == ["0", "7"]
    assert [one.number for one in bad] == [2, 3, 4, 5, 6, 7]
    reasons = "\n".join(one.reason for one in bad)
    for words in (
        "index 0 is used in row 1 too", "column question is empty", f"of more than {MAX_PIXELS:,} pixels",
        "the image is damaged", "image_path '../outside.png' is outside of the data's folder",
        "image_path '/etc/passwd' is outside",
    ):  # fmt: skip
        assert words in reasons


def test_a_picture_beside_the_table_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "bench.tsv"
    (tmp_path / "here.png").write_bytes(b"")
    write_tsv(
        path, [{"index": n, "image_path": f"{name}.png", "question": "q"} for n, name in enumerate(["here", "away"])]
    )
    bad: list[BadRow] = []
    read_tsv(path, ["index", "image_path", "question"], bad=bad, root=tmp_path)
    assert [(one.number, one.reason) for one in bad] == [(2, f"image_path 'away.png' is not in {tmp_path}")]


def test_an_answer_where_none_may_be(tmp_path: Path) -> None:
    path = tmp_path / "bench.tsv"
    write_tsv(path, [row(0, answer=""), row(1)])
    with pytest.raises(UserError, match=r"row 2: it has an answer, and this split has none"):
        read_tsv(path, ["index", "question"], answers=False)
