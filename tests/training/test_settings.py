"""Numbers that no training could work with are refused in one line, whichever way they come in."""

import pytest
from infinitevl_bench.ablations.study import Study
from infinitevl_bench.api import ablate
from infinitevl_bench.errors import UserError
from infinitevl_bench.training.loop import TrainArguments
from infinitevl_bench.training.settings import changed
from infinitevl_bench.training.stages import parse_changes, stage_settings

MISTAKES = [
    ("learning_rate=.inf", "a finite number above 0 and at most 10, not inf"),
    ("learning_rate=.nan", "a finite number above 0 and at most 10, not nan"),
    ("learning_rate=-1", "a number above 0 and at most 10, not -1"),
    ("learning_rate=true", "a number above 0 and at most 10, not true"),
    ("learning_rate=1.0e+308", "a number above 0 and at most 10, not 1e+308"),
    ("pixels=1", "a whole number of at least 784 and at most 1,000,000,000, not 1"),
    ("video_pixels=783", "a whole number of at least 784 and at most 1,000,000,000, not 783"),
    ("steps=true", "a whole number above 0 and at most 1,000,000,000, not true"),
    ("steps=1e9", "a whole number above 0 and at most 1,000,000,000, not '1e9'"),
    ("steps=1000000000000000000000", "a whole number above 0 and at most 1,000,000,000, not 1000000000000000000000"),
    ("steps=0", "a whole number above 0 and at most 1,000,000,000, not 0"),
    ("batch-size=2.5", "a whole number above 0 and at most 1,000,000,000, not 2.5"),
    ("warmup=.nan", "a finite number of at least 0 and at most 1, not nan"),
    ("warmup=7", "a number of at least 0 and at most 1, not 7"),
    ("final_rate=-3", "a number of at least 0 and at most 1, not -3"),
    ("weight_decay=.inf", "a finite number of at least 0 and at most 1,000,000,000, not inf"),
    ("betas=[1.0, 0.9]", "a list of 2, each a number of at least 0 and below 1, not [1.0, 0.9]"),
    ("betas=[.nan, 0.9]", "a list of 2, each a number of at least 0 and below 1, not [nan, 0.9]"),
    ("clip=.inf", "a finite number above 0 and at most 1,000,000,000, not inf"),
    ("seed=-1", "a whole number of at least 0 and below 4,294,967,296, not -1"),
    ("checkpoint_every_seconds=.nan", "a finite number above 0 and at most 1,000,000,000 or null, not nan"),
    ("diverged_at=.nan", "a finite number above 0 and at most 1,000,000,000, not nan"),
    ("clip=1.0e+308", "a number above 0 and at most 1,000,000,000, not 1e+308"),
    ("dropout=1", "a number of at least 0 and below 1, not 1"),
    ("alpha=-1", "a whole number above 0 and at most 1,000,000,000, not -1"),
    ("temperature=.nan", "a finite number above 0 and at most 1,000,000,000, not nan"),
    ("mse_factor=.inf", "a finite number above 0 and at most 1,000,000,000, not inf"),
    ("video_fps=.inf", "a finite number above 0 and at most 1,000,000,000, not inf"),
    ("context=true", "a whole number above 0 and at most 1,000,000,000, not true"),
    ("max_broken=-1", "a whole number of at least 0 and at most 1,000,000,000, not -1"),
]


@pytest.mark.parametrize(("text", "words"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_a_setting_that_cannot_be_is_answered_with_what_it_takes(text: str, words: str) -> None:
    name = text.partition("=")[0].replace("-", "_")
    with pytest.raises(UserError) as caught:
        stage_settings("long-sft", parse_changes([text]), "cpu")
    assert str(caught.value).startswith(f"setting {name} takes {words}; this stage has ")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("learning_rate=1e-3", 1e-3),
        ("learning_rate=1", 1.0),
        ("learning_rate=10", 10.0),
        ("warmup=0", 0.0),
        ("seed=4294967295", 2**32 - 1),
    ],
)
def test_the_ends_of_what_can_be_are_taken(text: str, value: float) -> None:
    found = stage_settings("sft", parse_changes([text]), "cpu").training
    assert getattr(found, text.partition("=")[0]) == value


def test_a_stage_does_not_take_what_it_would_pass_over() -> None:
    with pytest.raises(UserError, match=r"setting length_groups parts .* a stage packs its samples instead"):
        stage_settings("sft", parse_changes(["length-groups=1000000"]), "cpu")


def test_a_study_has_no_more_groups_than_samples() -> None:
    study = {"baseline": {"mixer": "gla", "pattern": "SLLL"}, "changes": {}}
    assert Study(**study, overrides={"length_groups": 8}).cells("cpu")
    with pytest.raises(UserError, match="a batch_size of 8 makes no 9 length_groups; give at most 8"):
        Study(**study, overrides={"length_groups": 9}).cells("cpu")


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown setting 'stepps'; did you mean steps"):
        changed(TrainArguments(steps=1), {"stepps": 2}, "this has")


@pytest.mark.parametrize("overrides", [{"learning_rate": float("nan")}, {"steps": True}, {"steps": -1}])
def test_a_study_refuses_them_before_it_has_a_cell(overrides: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"setting (learning_rate|steps) takes .*; scale tiny has (0\.002|600)"):
        Study(baseline={"mixer": "gla", "pattern": "SLLL"}, changes={}, overrides=overrides).cells("cpu")


def test_the_python_interface_refuses_them() -> None:
    with pytest.raises(UserError, match="setting learning_rate takes a finite number above 0 and at most 10, not inf"):
        ablate("gla", learning_rate=float("inf"), device="cpu", runs="nowhere")
