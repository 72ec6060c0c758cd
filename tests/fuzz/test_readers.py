"""Readers of files that others wrote, on damaged files: a `UserError` that names the file, or what it holds.

Half of the inputs are valid files with bytes flipped, cut, doubled and spliced in; the other half still parse, with
values deleted, renamed, wrapped and replaced (`damage`). Seeds are fixed. `make fuzz` tries 100 000 a reader
(`FUZZ_INPUTS`).
"""

import base64
import functools
import io
import json
import os
import random
import resource
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from infinitevl_bench.archive.folders import read_run
from infinitevl_bench.data.conversations import BrokenSampleError
from infinitevl_bench.data.sources import open_source
from infinitevl_bench.data.tsv import decode_image, read_tsv
from infinitevl_bench.errors import UserError
from infinitevl_bench.models import loading
from infinitevl_bench.models.config import HybridVLConfig
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.models.weights import read_headers
from infinitevl_bench.records import Record, RunFolder, RunSpec, read_records
from PIL import Image

from .damage import flipped, twisted

INPUTS = int(os.environ.get("FUZZ_INPUTS", "300"))
CPU_SECONDS, MEMORY_BYTES = 20, 2**31
"""What a reader may take for one file, and for all of them; a thousandth of it is usual."""


class Reader(NamedTuple):
    """What is read, and how.

    Attributes:
        file: name of the file that is damaged.
        seed: what a valid one says, as dictionaries and lists.
        dump: turns that into the file, whatever its values have become.
        read: reads the file at a path; a `UserError` is its way to refuse.
        prepare: writes what must lie beside the file, into a folder.
        lenient: whether it may take anything, saying in what it gives back that the file is damaged.
    """

    file: str
    seed: Any
    dump: Callable[[Any], bytes]
    read: Callable[[Path], object]
    prepare: Callable[[Path], None] = lambda folder: None
    lenient: bool = False


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def as_lines(value: Any) -> bytes:
    return b"".join(as_json(row) + b"\n" for row in (value if isinstance(value, list) else [value]))


def as_yaml(value: Any) -> bytes:
    return yaml.dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")


def as_tsv(value: Any) -> bytes:
    rows = value if isinstance(value, list) else [value]
    lines = ["\t".join(map(str, row)) if isinstance(row, list) else str(row) for row in rows]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def as_safetensors(value: Any) -> bytes:
    header = as_json(value)
    return struct.pack("<Q", len(header)) + header + bytes(64)


def picture(kind: str) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


TABLE = [
    ["index", "question", "answer", "image", "image_path"],
    *(
        [str(n), "What is it?", "a", picture(kind), "page.png"]
        for n, kind in enumerate(("PNG", "JPEG", "GIF", "TIFF", "BMP"))
    ),
    ["9", "Both?", "b", f"['{picture('PNG')}', '{picture('WEBP')}']", ""],
    ["10", "The same?", "b", "0", ""],
]
ONE = Record(artifact="t", metric="score", value=1.5, unit="%", model="tiny", source="measured", extra={"a": 1})
RECORDS = [one.model_dump(mode="json") for one in (ONE, ONE.model_copy(update={"seed": 3, "ci_low": 0.5}))]
SPEC = RunSpec(kind="ablate", arguments={"mixer": "gla", "training": {"steps": 5}, "seeds": [1, 2]})
RESULT = {
    "run_id": SPEC.id,
    "finished_at": "2026-01-01T00:00:00+00:00",
    "summary": {"status": "ok"},
    "records": RECORDS,
}
SAMPLES = [
    {
        "messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A page."}],
        "images": ["page.png"],
    },
    {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Nobody."}], "videos": []},
]


@functools.cache
def config() -> dict[str, Any]:
    """The tiny preset with an attention layer, a mixer and two vision blocks: building more takes longer, no more."""
    body = dict(json.loads(get_preset("tiny").to_json_string(use_diff=False)))
    body["text_config"] |= {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "linear_attention"]}
    body["vision_config"] |= {"depth": 2, "fullatt_block_indexes": [1]}
    return body


@functools.cache
def expected_shapes() -> dict[str, tuple[int, ...]]:
    return loading.expected_shapes(HybridVLConfig(**{k: v for k, v in config().items() if k != "model_type"}))


def entry(shape: Sequence[int]) -> dict[str, Any]:
    """A tensor of a header; all share 64 bytes."""
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 64]}


def headers() -> dict[str, Any]:
    return {"__metadata__": {"format": "pt"}} | {name: entry(shape) for name, shape in expected_shapes().items()}


def published_config() -> dict[str, Any]:
    """As the published InfiniteVL's: the decoder's fields at the top, another model type."""
    ours = config()
    return {**ours["text_config"], "vision_config": ours["vision_config"], "model_type": "infinite_vl"}


def read_table(path: Path) -> None:
    for cell in read_tsv(path, ["index", "question"], root=path.parent).get("image", ()):
        try:
            decode_image(cell)
        except ValueError as error:
            assert str(error)  # noqa: PT017 - whoever decodes names the row


def read_samples(path: Path) -> None:
    """Refused as a whole, or sample by sample."""
    source = open_source(str(path))
    for place in range(len(source)):
        try:
            source[place]
        except BrokenSampleError as error:
            assert str(path) in str(error)  # noqa: PT017


def read_rows(path: Path) -> None:
    folder = RunFolder(path.parent, SPEC)
    folder.path = path.parent
    folder.rows(path.name)


def beside_config(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(as_safetensors(headers()))


def beside_headers(folder: Path) -> None:
    (folder / "config.json").write_bytes(as_json(config()))


def beside_index(folder: Path) -> None:
    (folder / "one.safetensors").write_bytes(as_safetensors({"a": entry((4, 4)), "b": entry(())}))


def beside_result(folder: Path) -> None:
    (folder / "spec.yaml").write_bytes(as_yaml(SPEC.model_dump(mode="json")))


def beside_table(folder: Path) -> None:
    (folder / "page.png").write_bytes(b"")


READERS: dict[str, Callable[[], Reader]] = {
    "tsv": lambda: Reader("a.tsv", TABLE, as_tsv, read_table, beside_table),
    "records": lambda: Reader("a.jsonl", RECORDS, as_lines, read_records),
    "result": lambda: Reader("result.json", RESULT, as_json, lambda path: read_run(path.parent), beside_result, True),
    "spec": lambda: Reader(
        "spec.yaml", SPEC.model_dump(mode="json"), as_yaml, lambda path: read_run(path.parent), lenient=True
    ),
    "rows": lambda: Reader("metrics.jsonl", [{"step": 1, "loss": 0.5}, {"step": 2}], as_lines, read_rows),
    "samples": lambda: Reader("a.jsonl", SAMPLES, as_lines, read_samples, beside_table, True),
    "samples-list": lambda: Reader("a.json", SAMPLES, as_json, read_samples, beside_table),
    "headers": lambda: Reader(
        "model.safetensors", headers(), as_safetensors, lambda path: loading.open_checkpoint(path.parent),
        beside_headers,
    ),
    "index": lambda: Reader(
        "model.safetensors.index.json", {"metadata": {}, "weight_map": dict.fromkeys("ab", "one.safetensors")},
        as_json, lambda path: read_headers(path.parent), beside_index,
    ),
    "config": lambda: Reader(
        "config.json", config(), as_json, lambda path: loading.open_checkpoint(path.parent), beside_config
    ),
    "published-config": lambda: Reader(
        "config.json", published_config(), as_json, lambda path: loading.open_checkpoint(path.parent), beside_config
    ),
}  # fmt: skip


@pytest.fixture
def _no_reader_takes_all() -> Iterator[None]:
    """Bounds the CPU time of each file, and what all together may add to this process's memory."""

    def stop(*_: object) -> None:
        # No `Exception`, which a reader could take for the file's fault.
        pytest.fail(f"more than {CPU_SECONDS} s of CPU for one file")

    before, limits = signal.signal(signal.SIGVTALRM, stop), resource.getrlimit(resource.RLIMIT_DATA)
    if Path("/proc/self/statm").exists():
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + MEMORY_BYTES, limits[1]))
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)
    resource.setrlimit(resource.RLIMIT_DATA, limits)


@pytest.mark.timeout(36000)
@pytest.mark.usefixtures("_no_reader_takes_all")
@pytest.mark.parametrize("name", READERS)
def test_no_damage_is_more_than_a_users_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = READERS[name]()
    reader.prepare(tmp_path)
    if name != "config":
        # Building a model takes longer than all else, and a configuration that is damaged is built under that name.
        monkeypatch.setattr(loading, "expected_shapes", lambda config: dict(expected_shapes()))
    path, seed = tmp_path / reader.file, reader.dump(reader.seed)
    path.write_bytes(seed)
    reader.read(path)
    generator = random.Random(name)
    refused = 0
    for number in range(INPUTS):
        data = flipped(seed, generator) if number % 2 else reader.dump(twisted(reader.seed, generator))
        path.write_bytes(data)
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
        try:
            reader.read(path)
        except UserError as error:
            refused += 1
            assert tmp_path.name in str(error) or reader.file in str(error)  # noqa: PT017 - either outcome is fine, silence about the place is not
            assert "\n" not in str(error)  # noqa: PT017
        except Exception as error:
            raise AssertionError(f"input {number}: {type(error).__name__}: {error}\n{data[:2000]!r}") from error
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    assert refused or reader.lenient
