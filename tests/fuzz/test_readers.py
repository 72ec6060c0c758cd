"""Readers of files that others wrote, on damaged files: a `UserError` that names the file, or what it holds.

Inputs are valid files with bytes flipped, cut, doubled and spliced in, from a fixed seed. `make fuzz` tries 100 000 of
them a reader (`FUZZ_INPUTS`).
"""

import base64
import io
import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from infinitevl_bench.archive.folders import read_run
from infinitevl_bench.data.tsv import read_tsv
from infinitevl_bench.errors import UserError
from infinitevl_bench.models import loading
from infinitevl_bench.models.loading import HEAD
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.models.weights import read_headers
from infinitevl_bench.records import Record, read_records, write_records
from PIL import Image

INPUTS = int(os.environ.get("FUZZ_INPUTS", "300"))
PIECES = (
    b"", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"NaN", b"1e999", b"-1", b"null", b"[" * 3000, b'{"a":' * 3000, b"\t",
    b"\n", b'"', b"\\", b"9" * 5000, b"{}", b"[]", b"../../etc/passwd", b"\xe2\x80\xa8", b"true", b"!!python/object:os",
    b"&a [*a, *a]", b"x" * 300,
)  # fmt: skip


def mutated(seed: bytes, generator: random.Random) -> bytes:
    """A file with one to four places changed."""
    data = bytearray(seed)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(data) + 1)
        length = generator.choice((0, 1, 2, 8, 40))
        kind = generator.randrange(4)
        if kind == 0 and at < len(data):
            data[at] = generator.randrange(256)
        elif kind == 1:
            data[at : at + length] = generator.choice(PIECES)
        elif kind == 2:
            del data[at : at + length * 4]
        else:
            data[at:at] = data[at : at + length * 4]
    return bytes(data)


def picture(kind: str) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


KINDS = ("PNG", "JPEG", "GIF", "TIFF")


def tsv_seed(_: Path) -> bytes:
    lines = ["index\tquestion\tanswer\timage\timage_path"]
    lines += [
        f"{n}\tWhat is it?\ta\t{picture(kind)}\tpage.png" for n, kind in enumerate(("PNG", "JPEG", "GIF", "TIFF"))
    ]
    lines.append(f"9\tBoth?\tb\t['{picture('PNG')}', '{picture('WEBP')}']\t")
    return "\n".join(lines).encode()


def record_seed(folder: Path) -> bytes:
    one = Record(artifact="t", metric="score", value=1.5, unit="%", model="tiny", source="measured", extra={"a": 1})
    write_records(folder / "seed.jsonl", [one, one.model_copy(update={"seed": 3, "ci_low": 0.5})])
    return (folder / "seed.jsonl").read_bytes()


def headers_seed(_: Path) -> bytes:
    entry = {"a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    header = json.dumps({"__metadata__": {"format": "pt"}} | entry).encode()
    return struct.pack("<Q", len(header)) + header + bytes(24)


def config_seed(_: Path) -> bytes:
    return get_preset("tiny").to_json_string(use_diff=False).encode()


def spec_seed(_: Path) -> bytes:
    return b"schema_version: 1\nkind: ablate\narguments:\n  mixer: gla\n  training:\n    steps: 5\n  seeds: [1, 2]\n"


# Name → file that is damaged, a valid one, and the reader.
READERS: dict[str, tuple[str, Callable[[Path], bytes], Callable[[Path], object]]] = {
    "tsv": ("a.tsv", tsv_seed, lambda path: read_tsv(path, ["index", "question"], root=path.parent)),
    "records": ("a.jsonl", record_seed, read_records),
    "spec": ("spec.yaml", spec_seed, lambda path: read_run(path.parent)),
    "headers": ("model.safetensors", headers_seed, lambda path: read_headers(path.parent)),
    "config": ("config.json", config_seed, lambda path: loading.open_checkpoint(path.parent)),
}


@pytest.mark.timeout(36000)
@pytest.mark.parametrize("name", READERS)
def test_no_damage_is_more_than_a_users_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, make_seed, read = READERS[name]
    seed = make_seed(tmp_path)
    if name == "config":
        (tmp_path / "model.safetensors").write_bytes(headers_seed(tmp_path))
        # Building the model takes longer than all else, and does not read the file.
        monkeypatch.setattr(loading, "expected_shapes", lambda config: {HEAD: (1,)})
    generator = random.Random(name)
    (tmp_path / "page.png").write_bytes(b"")
    refused = 0
    for number in range(INPUTS):
        data = mutated(seed, generator)
        (tmp_path / file).write_bytes(data)
        try:
            read(tmp_path / file)
        except UserError as error:
            refused += 1
            assert tmp_path.name in str(error) or file in str(error)  # noqa: PT017 - either outcome is fine, silence about the place is not
            assert "\n" not in str(error)  # noqa: PT017
        except Exception as error:
            raise AssertionError(f"input {number}: {type(error).__name__}: {error}\n{data[:2000]!r}") from error
    assert refused or name == "spec"
