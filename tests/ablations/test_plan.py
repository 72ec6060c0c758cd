"""Registered studies: their arms, the choice of a learning rate, and one of them end to end in a few steps."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest
from infinitevl_bench.ablations import plan as plans
from infinitevl_bench.ablations.command import study_command
from infinitevl_bench.ablations.plan import SIZES, VALIDATION_SCORE
from infinitevl_bench.ablations.studies import STUDIES, get_plan
from infinitevl_bench.ablations.study import arm_config
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.matching import count_decoder_parameters
from infinitevl_bench.models.registry import get_mixer, mixer_names
from infinitevl_bench.records import Record, RunFolder
from infinitevl_bench.reports.claims import CLAIMS
from infinitevl_bench.reports.claims_mixers import GLA_AS_PUBLISHED

# The studies of multi-query recall, on which no claim rests, have tests of their own.
OF_CLAIMS = [name for name in STUDIES if get_plan(name).claims]

SMALLEST = plans.Size((1,), 1, 1, (100,), probe_pages=8, probes=2, steps=4, pages=12, questions=4)


@pytest.mark.parametrize("name", OF_CLAIMS)
def test_a_study_says_what_it_is_and_its_cells_can_be_built(name: str) -> None:
    plan = get_plan(name)
    assert plan.name == name
    said = __import__(f"infinitevl_bench.ablations.{name}", fromlist=["PLAN"]).__doc__
    assert said is not None
    assert all(words in said for words in ("Claim", "Artifact", "Command", "Cost", f"--study {name}", *plan.claims))
    for scale in SIZES:
        assert len(set(plan.rates(scale))) >= 3
    cells = replace(plan, learning_rates=(2e-3,)).validation_cells("small", "cpu")
    assert len({cell.id for cell in cells}) == len(cells)
    assert all(arm_config(cell) for cell in cells)


def test_every_mixer_and_control_has_an_arm_and_all_hold_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = get_plan("mixer_choice")
    assert {arm.mixer for arm in plan.arms.values()} == set(mixer_names())
    assert {"SLLL", "L", "S", "F"} == {arm.pattern for arm in plan.arms.values()}
    # Each at both ratios; nothing passes between tokens in a model of `identity` alone.
    alone = {(arm.mixer, repr(arm.mixer_args)) for arm in plan.arms.values() if arm.pattern == "L"}
    mixed = {(arm.mixer, repr(arm.mixer_args)) for arm in plan.arms.values() if arm.pattern == "SLLL"}
    assert mixed - alone == {("identity", "{}")}
    assert alone < mixed
    rates = dict.fromkeys(plan.arms, 2e-3)
    few = replace(SIZES["small"], claim_seeds=1, other_seeds=1)
    monkeypatch.setitem(SIZES, "small", few)
    arms = [arm_config(cell) for cell in plan.test_cells("small", "cpu", rates)]
    held = [(arm, count_decoder_parameters(arm.config)) for arm in arms]
    counts = [count for arm, count in held if arm.config.text_config.pattern != "L"]
    assert max(counts) < 1.04 * min(counts)
    # A student's FFN cannot be narrower than its teacher's; an arm that holds more for it says so in its records.
    wide = [(count, arm.unmatched) for arm, count in held if arm.config.text_config.pattern == "L"]
    assert all(count < 1.15 * min(counts) and (count < 1.04 * min(counts) or why) for count, why in wide)


@pytest.mark.parametrize("name", OF_CLAIMS)
def test_arms_of_claims_have_five_seeds_which_chose_no_rate(name: str) -> None:
    plan, size = get_plan(name), SIZES["small"]
    some = [next(n for n, arm in plan.arms.items() if arm.claim is claim) for claim in (True, False)]
    plan = plan.only(some, "small")
    cells = plan.test_cells("small", "cpu", dict.fromkeys(plan.arms, 2e-3))
    assert size.claim_seeds >= 5
    assert not {cell.arguments["seed"] for cell in cells} & set(size.validation_seeds)
    for arm in plan.arms.values():
        own = [c for c in cells if (c.arguments["arm_mixer"], c.arguments["pattern"]) == (arm.mixer, arm.pattern)]
        own = [cell for cell in own if cell.arguments["arm_args"] == dict(arm.mixer_args)]
        assert len(own) == (size.claim_seeds if arm.claim else size.other_seeds)
    for cell in cells:
        splits = {name: (one.get("library") or one)["split"] for name, one in cell.arguments["sets"].items()}
        assert splits.pop("probe") == "validation"
        assert set(splits.values()) == {"test"}
    for cell in plan.validation_cells("small", "cpu"):
        assert set(cell.arguments["sets"]) == {"probe"}


def test_the_judges_know_the_arms_by_the_names_that_their_records_have() -> None:
    plan = get_plan("mixer_choice")
    cells = plan.test_cells("small", "cpu", dict.fromkeys(plan.arms, 2e-3))

    def variant(name: str) -> str:
        arm = plan.arms[name]
        own = next(
            cell
            for cell in cells
            if (cell.arguments["arm_mixer"], cell.arguments["arm_args"]) == (arm.mixer, dict(arm.mixer_args))
        )
        text = arm_config(own).config.text_config
        return get_mixer(text.mixer).variant(text)

    assert variant("gla_without_convolution") == GLA_AS_PUBLISHED
    assert variant("linear_attention") == "bare"
    assert variant("gla") == variant("gated_deltanet") == variant("mamba2") == ""


def test_the_commands_of_the_claims_name_arms_that_are_there() -> None:
    for claim in CLAIMS.values():
        words = (claim.command or "").split()
        if "--study" in words:
            plan = get_plan(words[words.index("--study") + 1])
            plan.only([after for word, after in pairwise(words) if word == "--arm"], "small")


def test_two_studies_share_the_cells_that_are_the_same() -> None:
    cells = [
        {cell.id for cell in get_plan(name).only([arm], "small").validation_cells("small", "cpu")}
        for name, arm in (("mixer_choice", "gated_deltanet"), ("swa_ratio", "gated_deltanet_1_4"))
    ]
    assert cells[0] == cells[1]


def test_the_best_rate_has_the_best_mean_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "small", replace(SIZES["small"], validation_seeds=(100, 101)))
    plan = get_plan("mixer_choice").only(["gla", "gla_without_convolution"], "small")
    plan = replace(plan, learning_rates=(1e-3, 2e-3, 4e-3))
    cells = plan.validation_cells("small", "cpu")
    # In the order of the cells: arm, rate, seed. One seed alone would choose the last rate of the first arm.
    values = [10, 20, 60, 50, 90, 5, 3, 3, 1, 2, 3, 3]
    records = [
        Record(
            artifact="ablation", metric=VALIDATION_SCORE, value=value, unit="%", model="small", source="measured",
            run_id=cell.id,
        )
        for cell, value in zip(cells, values, strict=True)
    ]  # fmt: skip
    assert plan.best_rates(cells, records) == {"gla": 2e-3, "gla_without_convolution": 1e-3}


def test_unknown_names_answer_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean mixer_choice"):
        get_plan("mixerchoice")
    with pytest.raises(UserError, match="did you mean gla"):
        get_plan("mixer_choice").only(["glaa"], "small")
    with pytest.raises(UserError, match="unknown scale of a study 'large'"):
        get_plan("swa_ratio").validation_cells("large", "cpu")


@pytest.mark.usefixtures("no_pages", "no_worker_processes")
def test_a_study_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SIZES, "tiny", SMALLEST)
    options = {"study": "mixer_choice", "arms": ["linear_attention"], "steps": None, "jobs": 1, "runs": tmp_path}
    records = study_command(**options, scale="tiny", device="cpu")
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("learning rate, chosen on", "seeds that learnt", "study mixer_choice"))
    assert "scale tiny, synthetic split" in shown
    assert "score in % on synthetic data" in " ".join(shown.split())
    chosen = [record for record in records if record.metric == VALIDATION_SCORE]
    assert [record.extra["learning_rate"] for record in chosen] == [1e-3, 2e-3, 4e-3]
    assert {record.seed for record in chosen} == {100}
    by_metric: dict[str, list[Record]] = {}
    for record in records:
        by_metric.setdefault(record.metric, []).append(record)
    for metric in ("score", "blind", "page_value"):
        assert [record.benchmark for record in by_metric[metric]] == ["ChartQA", "DocVQA"]
        assert {(record.seed, record.n, record.split) for record in by_metric[metric]} == {(0, 4, "synthetic")}
        assert all(record.extra["best_lr"] == record.extra["learning_rate"] for record in by_metric[metric])
    assert {record.steps for record in by_metric["probe"]} == {2, 4}
    assert {record.value for record in by_metric["learnt"]} <= {0.0, 100.0}
    assert len(by_metric["learnt"]) == 8
    page_value = next(record for record in by_metric["page_value"] if record.benchmark == "DocVQA")
    assert page_value.value == pytest.approx(25.0)
    assert fmean(record.value for record in by_metric["loss"]) > 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert study_command(**options, scale="tiny", device="cpu") == records
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")} == before
    assert all(RunFolder(tmp_path, cell).finished for cell in get_plan("mixer_choice").only(
        ["linear_attention"], "tiny"
    ).validation_cells("tiny", "cpu"))  # fmt: skip
