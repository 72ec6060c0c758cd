"""What is made once and kept: whole files, and parts of those that are not whole yet."""

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from infinitevl_bench.data.library import LibrarySpec
from infinitevl_bench.training import drawing, moments
from infinitevl_bench.training.cached import Tensors, cached_tensors, made_in_parts
from safetensors.torch import save

RANGES = [range(4), range(4, 8), range(8, 10)]


class Maker:
    """Squares of numbers, that is interrupted before one range."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made: list[range] = []
        self.told: list[tuple[int, int]] = []
        self.interrupted: range | None = None

    def parts(self, ranges: list[range]) -> Generator[Tensors, None, None]:
        for one in ranges:
            if one == self.interrupted:
                raise KeyboardInterrupt
            self.made.append(one)
            yield {"squares": torch.tensor(one).square()}

    def whole(self) -> Tensors:
        parts = made_in_parts(self.path, RANGES, self.parts, lambda done, total: self.told.append((done, total)))
        return {"squares": torch.cat([part["squares"] for part in parts])}

    def get(self) -> list[int]:
        return cached_tensors(self.path, self.whole)["squares"].tolist()


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "cache" / "squares.safetensors")


SQUARES = [n * n for n in range(10)]


def test_made_once(maker: Maker) -> None:
    assert maker.get() == maker.get() == SQUARES
    assert maker.made == RANGES
    assert maker.told == [(4, 10), (8, 10), (10, 10)]


def test_goes_on_after_the_parts_that_were_made(maker: Maker) -> None:
    maker.interrupted = RANGES[2]
    with pytest.raises(KeyboardInterrupt):
        maker.get()
    assert not maker.path.exists()
    maker.interrupted, maker.made, maker.told = None, [], []
    assert maker.get() == SQUARES
    assert maker.made == [RANGES[2]]
    assert maker.told == [(10, 10)]
    assert sorted(path.name for path in maker.path.parent.iterdir() if path.suffix != ".lock") == [maker.path.name]


def test_a_damaged_part_is_made_again(maker: Maker) -> None:
    maker.interrupted = RANGES[2]
    with pytest.raises(KeyboardInterrupt):
        maker.get()
    (first, _) = sorted(Path(f"{maker.path}.parts").iterdir())
    first.write_bytes(first.read_bytes()[:-5])
    maker.interrupted, maker.made = None, []
    assert maker.get() == SQUARES
    assert maker.made == [RANGES[0], RANGES[2]]


def test_a_damaged_file_is_made_again(maker: Maker) -> None:
    maker.path.parent.mkdir()
    maker.path.write_bytes(save({"squares": torch.zeros(3)})[:-1])
    assert maker.get() == SQUARES


def test_what_is_drawn_ahead_ends_with_an_interruption(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever presses Ctrl-C waits for what is being drawn, not for all that was to be."""
    spec = LibrarySpec(split="train", captions=2, events=2, scenes=20)
    drawn: list[range] = []

    def draw(_: LibrarySpec, one: range) -> np.ndarray:
        time.sleep(0.02)
        drawn.append(one)
        return np.zeros((len(one), 2, 28, 28, 3), dtype=np.uint8)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(moments, "CHUNK", 1)
    # Threads, which share the list.
    monkeypatch.setattr(drawing, "ProcessPoolExecutor", lambda workers, **_: ThreadPoolExecutor(workers))
    monkeypatch.setattr(moments, "_draw_range", draw)
    monkeypatch.setattr(moments, "batched_features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        moments.load_library(spec, torch.nn.Identity(), tmp_path, workers=2)
    assert len(drawn) < sum(spec.sizes) // 2
