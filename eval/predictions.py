"""Predictions as they come: one line a sample, each sample once, whoever is killed when.

Every process of a team appends to a file of its own; the leader joins them when all are done, and whatever a killed
team has left when the next one starts. A cache beside the runs keeps answers by model, prompt and data, so that another
run over the same questions need not ask them again.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..records import RunFolder, atomic_write
from .generation import Answer, pictures_of
from .team import ALONE, Team
from .vlmevalkit import Message, Row

Prediction = dict[str, Any]


class Predictions:
    """Predictions for some questions.

    Args:
        folder: Where they are kept; None keeps them in memory only.
        name: Of the file in it.
        rows: The questions. What the file says of others is left out.
        team: Who answers them.
    """

    def __init__(self, folder: RunFolder | None, name: str, rows: Sequence[Row], team: Team = ALONE) -> None:
        self.folder, self.name, self.team = folder, name, team
        self.asked = {str(row["index"]): row["question"] for row in rows}
        if team.leads:
            self._join()
        team.wait()
        self.known = self._read(name)

    def add(self, row: Row, said: Answer, frames: int | None = None) -> None:
        """Keep an answer, and to how many frames it was given."""
        prediction = {
            "index": row["index"],
            "question": row["question"],
            "answer": row.get("answer", row.get("correct_choice")),
            "prediction": said.text,
            "latency_ms": said.latency_ms,
            "tokens": said.tokens,
        } | ({} if frames is None else {"frames": frames})
        self.known[str(row["index"])] = prediction
        if self.folder is not None:
            self.folder.append(self.name if self.team.size == 1 else self._part(self.team.rank), prediction)

    def all(self) -> list[Prediction] | None:
        """The predictions of all processes in the order of the questions, for the leader; None for the others."""
        self.team.wait()
        if not self.team.leads:
            return None
        if self.team.size > 1:
            self._join()
            self.known = self._read(self.name)
        return [self.known[index] for index in self.asked]

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Write the final file."""
        if self.folder is not None:
            lines = (json.dumps(prediction, ensure_ascii=False) + "\n" for prediction in predictions)
            atomic_write(self.folder.path / self.name, "".join(lines))

    def _part(self, rank: int) -> str:
        return f"{self.name.removesuffix('.jsonl')}.part{rank}.jsonl"

    def _join(self) -> None:
        """Bring the files of all processes, of this team or of one that was killed, together in one."""
        if self.folder is None:
            return
        parts = sorted(self.folder.path.glob(self._part(0).replace("part0", "part*")))
        if not parts:
            return
        found = self._read(self.name)
        for part in parts:
            found |= self._read(part.name)
        self.write([found[index] for index in self.asked if index in found])
        for part in parts:
            part.unlink()

    def _read(self, name: str) -> dict[str, Prediction]:
        if self.folder is None:
            return {}
        return {
            str(row["index"]): row
            for row in self.folder.rows(name)
            if "prediction" in row and self.asked.get(str(row.get("index"))) == row.get("question")
        }


class PredictionCache:
    """Answers of one model to prompts of one file of data, kept across runs; empty answers are never kept.

    Args:
        root: Folder of all caches.
        model: What tells the model from others: a hash of its weights, its dtype and the kind of device.
        data: Hash of the data.
    """

    def __init__(self, root: Path, model: str, data: str) -> None:
        self.path = root / f"{_digest(model, data)[:24]}.jsonl"
        self._answers: dict[str, Answer] = {}
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.is_file() else []
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}; remove it to ask again", 1) from None
        for line in lines:
            # A line that a kill has cut off, or that says nothing, is asked again.
            try:
                row = json.loads(line)
                said = Answer(str(row["text"]), int(row["tokens"]), float(row["latency_ms"]))
            except (ValueError, KeyError, TypeError):
                continue
            if said.text:
                self._answers[str(row["key"])] = said

    def get(self, key: str) -> Answer | None:
        """The answer to a prompt, if it is there."""
        return self._answers.get(key)

    def put(self, key: str, said: Answer) -> None:
        """Keep an answer, unless it is empty or there already."""
        if not said.text or key in self._answers:
            return
        self._answers[key] = said
        row = {"key": key, "text": said.text, "tokens": said.tokens, "latency_ms": said.latency_ms}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                # In one piece, so that the lines of two processes do not mix.
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; free some space", 1) from error


def prompt_key(message: Message, **settings: Any) -> str:
    """Hash of a prompt, its pictures pixel by pixel, and of the settings that an answer depends on."""
    texts = [part["value"] if part["type"] == "text" else part["type"] for part in message]
    digest = hashlib.sha256(json.dumps([texts, settings], sort_keys=True).encode())
    for picture in pictures_of(message):
        digest.update(f"{picture.size}".encode())
        digest.update(picture.tobytes())
    return digest.hexdigest()


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
