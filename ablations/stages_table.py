"""What every stage of the recipe `distill` has brought, beside the teacher and the same student from scratch."""

from rich.table import Table

from ..records import Record

STAGE_SCORE = "stage_score"
"""Metric of a score between two stages; the last stage's is the cell's ``score``."""

Scores = dict[str | None, float]


def stages_table(teachers: list[Record], records: list[Record]) -> Table:
    """Scores by stage and benchmark, of every student that was distilled.

    Args:
        teachers: records of the teacher's cell.
        records: of all cells; those of recipe ``scratch`` are compared with at equal steps.
    """
    benchmarks = list(dict.fromkeys(record.benchmark for record in records if record.metric == STAGE_SCORE))
    table = Table(title="score in % after each stage", title_justify="left")
    table.add_column("", overflow="fold")
    for benchmark in benchmarks:
        table.add_column(str(benchmark), justify="right", overflow="fold", min_width=5)

    def row(name: str, scores: Scores, signed: bool = False) -> None:
        texts = ("–" if scores.get(one) is None else f"{scores[one]:{'+' if signed else ''}.1f}" for one in benchmarks)
        table.add_row(name, *texts)

    row("teacher", _scores(teachers, "score"))
    distilled = {_arm(record): record for record in records if record.metric == STAGE_SCORE}
    for arm, any_record in distilled.items():
        table.add_section()
        own = [record for record in records if record.run_id == any_record.run_id]
        name = f"{any_record.mixer} {any_record.pattern} seed {any_record.seed}"
        for stage in dict.fromkeys(record.extra["stage"] for record in own if record.metric == STAGE_SCORE):
            row(f"{name}: {stage}", _scores([r for r in own if r.extra.get("stage") == stage], STAGE_SCORE))
        final = _scores(own, "score")
        row(f"{name}: sft", final)
        scratch = _scores([r for r in records if _arm(r) == arm and r.extra.get("recipe") == "scratch"], "score")
        if scratch:
            row(f"{name}: from scratch, equal steps", scratch)
            gain: Scores = {one: final[one] - scratch[one] for one in final.keys() & scratch.keys()}
            row("distilled − scratch, in points", gain, signed=True)
    return table


def _arm(record: Record) -> tuple[object, ...]:
    return record.mixer, record.pattern, record.seed, record.extra.get("variant")


def _scores(records: list[Record], metric: str) -> Scores:
    return {record.benchmark: record.value for record in records if record.metric == metric}
