"""One cell of the study of multi-query recall: trained, asked, recorded."""

from functools import cache, partial
from pathlib import Path
from typing import Any

from ..data.mqar import RecallSpec
from ..eval.statistics import interval
from ..models.accounting import cache_elements, state_elements
from ..models.device import device_name
from ..models.recall import new_recall_model, shipped_tower, trained_parameters
from ..models.registry import get_mixer
from ..records import Record, RunFolder, RunSpec
from ..training.fixed import FixedTraining
from ..training.fixed_recall import FixedSequences, right_queries
from ..training.loop import TrainArguments, TrainResult
from ..training.seen_recall import SeenSequences
from .cell import curve
from .mqar import RECALL, config_of
from .plan import VALIDATION_SCORE

PROBE = "probe.jsonl"


class RecallCell:
    """A cell on its way: its model, its sequences and what is asked of it.

    Args:
        spec: of the cell, from `mqar`.
        folder: its own, held.
        runs: folder of all runs.
    """

    def __init__(self, spec: RunSpec, folder: RunFolder, runs: Path) -> None:
        self.spec, self.folder, self.runs = spec, folder, runs
        self.seen = bool(spec.arguments.get("seen"))
        self.device = str(spec.arguments["device"])
        self.config = config_of(spec)
        self.model = new_recall_model(self.config, spec.arguments["seed"]).to(self.device)
        sequences = self._sequences(spec.arguments["sequences"])
        self.training = FixedTraining(
            self.model,
            sequences,
            TrainArguments.model_validate(spec.arguments["training"]),
            folder,
            sequences.key,
            probe=self._probe,
            probe_every=spec.arguments["probe_every"],
        )

    def finish(self, result: TrainResult) -> None:
        """Score the model and write the records."""
        shared, notes = self._facts(result)
        make = partial(_record, shared, notes)
        # Not called a loss of the other studies: it is not one of answers about pages.
        losses = curve(self.folder, shared | {"extra": notes})
        records = [one.model_copy(update={"metric": "mqar_loss"}) for one in losses]
        probes = {row["step"]: row["percent"] for row in self.folder.rows(PROBE) if row["step"] <= result.steps}
        records += [make("probe", value, steps=step) for step, value in sorted(probes.items())]
        if self.spec.arguments["role"] == "test":
            records.append(make("score", *self._score("test")))
        else:
            last = probes[max(probes)] if probes and result.status == "ok" else 0.0
            records.append(make(VALIDATION_SCORE, last))
        self.folder.finish(records, status=result.status, loss=result.loss, seconds=round(result.seconds, 1))

    def _facts(self, result: TrainResult) -> tuple[dict[str, Any], dict[str, Any]]:
        """What all records of the cell have in common, and what is noted beside them."""
        arguments, text = self.spec.arguments, self.config.text_config
        sequences, training = RecallSpec.model_validate(arguments["sequences"]), arguments["training"]
        shared = {
            "artifact": "mqar", "model": "recall", "source": "measured", "split": "synthetic",
            "benchmark": "MQAR-vision" if self.seen else "MQAR",
            "mixer": arguments["mixer"], "pattern": arguments["pattern"], "seed": arguments["seed"],
            "scale": arguments["scale"], "device": device_name(self.device), "context": sequences.length,
            # A cell that diverged stands beside those that did not, at the steps that it was to have.
            "steps": result.steps if result.status == "ok" else training["steps"],
            "parameters": trained_parameters(self.model), "state_elements": state_elements(self.config),
            "run_id": self.spec.id,
        }  # fmt: skip
        notes = {
            "status": result.status, "steps_done": result.steps, "scoring": RECALL, "role": arguments["role"],
            "width": arguments["width"], "pairs": sequences.pairs, "vocabulary": sequences.vocabulary,
            "kept_elements": cache_elements(self.config, sequences.length), "batch_size": training["batch_size"],
            "learning_rate": training["learning_rate"], "train_seconds": round(result.seconds, 1),
            "sliding_window": text.sliding_window, "compiled": self.training.compiled,
            "variant": get_mixer(text.mixer).variant(text) if text.linear_layers else "",
        }  # fmt: skip
        return shared, notes

    def _score(self, name: str) -> tuple[float, list[float]]:
        """Accuracy in %, and the share of queries that is right in each sequence."""
        right = right_queries(self.model, self._sequences(self.spec.arguments["sets"][name])).double()
        return 100 * float(right.mean()), right.mean(dim=1).tolist()

    def _probe(self, step: int) -> None:
        self.folder.append(PROBE, {"step": step, "percent": round(self._score("probe")[0], 3)})

    def _sequences(self, raw: dict[str, Any]) -> FixedSequences:
        return _sequences(RecallSpec.model_validate(raw), self.seen, self.runs / "cache", self.device)


@cache
def _sequences(spec: RecallSpec, seen: bool, folder: Path, device: str) -> FixedSequences:
    """The sequences of a specification; all cells of this process share them."""
    return SeenSequences(spec, shipped_tower, folder, device) if seen else FixedSequences(spec, device)


def _record(
    shared: dict[str, Any],
    notes: dict[str, Any],
    metric: str,
    value: float,
    samples: list[float] | None = None,
    *,
    steps: int | None = None,
) -> Record:
    own: dict[str, Any] = {"metric": metric, "value": value, "unit": "%"} | ({} if steps is None else {"steps": steps})
    # Queries of one sequence are not independent: the interval is over sequences.
    bounds = interval(samples) if samples is not None else None
    if samples is not None:
        own["n"] = len(samples) * notes["pairs"]
    if bounds is not None:
        own |= {"ci_low": 100 * bounds[0], "ci_high": 100 * bounds[1]}
    return Record(**shared | own | {"extra": notes})
