"""A study is a baseline and one dict of changes; its grid is every combination of them.

Study(baseline={"mixer": "gated_deltanet", "pattern": "SLLL"}, changes={"mixer": ["gla", "mamba2"], "seed": [0, 1]})
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError, unknown_name
from ..models.matching import INHERITING, Matched, matched, resolve_match
from ..models.presets import get_preset
from ..models.registry import canonical_name, get_mixer
from ..models.shipped import SHIPPED as SHIPPED_MODELS
from ..models.shipped import TEACHER
from ..records import RunSpec, file_digest, package_path
from ..training.settings import changed
from .distillation import stage_steps
from .scales import Scale, check_recipe, get_scale

CELL_FIELDS = ("mixer", "mixer_args", "pattern", "seed", "recipe")

SHIPPED, TRAINED = "shipped", "trained"
"""Teachers: the package's own, which is only scored, or one that is trained from scratch at the scale first."""

TEACHERS = {SHIPPED: "the package's own", TRAINED: "full attention from scratch, trained before its students"}


@dataclass(frozen=True)
class Study:
    """What varies, and what it is compared with.

    Attributes:
        baseline: the cell's fields (``mixer``, ``mixer_args``, ``pattern``, ``seed``, ``recipe``) where nothing changes
            them; the recipe is the scale's without.
        changes: field → the values it takes.
        scale: a name in `scales.SCALES`.
        overrides: hyper-parameters of training that replace the scale's (``steps``, ``learning_rate``, …).
        match: a name in `models.matching.MATCHES`; what all the recipes allow if None.
        questions: test questions of each benchmark; the scale's if None.
        pages: training pages; the scale's if None.
        teacher: whom students inherit or learn from, of `TEACHERS`.
    """

    baseline: dict[str, Any]
    changes: dict[str, list[Any]]
    scale: str = "tiny"
    overrides: dict[str, Any] = field(default_factory=dict)
    match: str | None = None
    questions: int | None = None
    pages: int | None = None
    teacher: str = SHIPPED

    def cells(self, device: str) -> list[RunSpec]:
        """The specs of all cells, each once, every one checked before any of them trains.

        Args:
            device: "cpu" or "cuda"; part of the spec, since numbers differ between devices.

        Raises:
            UserError: for an unknown field, mixer or scale, or a pattern that does not tile the model's depth.
        """
        unknown = set(self.baseline) | set(self.changes)
        if unknown := unknown - set(CELL_FIELDS):
            raise UserError(f"a study cannot change {sorted(unknown)[0]!r}; it can change {', '.join(CELL_FIELDS)}")
        if self.teacher not in TEACHERS:
            raise unknown_name("teacher", self.teacher, TEACHERS)
        scale = get_scale(self.scale)
        default: dict[str, Any] = {"mixer_args": {}, "seed": 0, "recipe": scale.recipe}
        chosen = [
            default | self.baseline | dict(zip(self.changes, values, strict=True))
            for values in itertools.product(*self.changes.values())
        ]
        for one in chosen:
            check_recipe(one["recipe"])
        # One match for all: a student that is distilled is compared with the same student from scratch.
        inheriting = [one["recipe"] for one in chosen if one["recipe"] in INHERITING]
        if self.teacher == TRAINED and not inheriting:
            raise UserError("recipe scratch has no teacher to train; add --recipe distill or inherit")
        match = resolve_match(self.match, inheriting[0] if inheriting else "scratch")
        cells = [self._spec(scale, device, match, **one) for one in chosen]
        return list({spec.id: spec for spec in cells}.values())

    def teachers(self, device: str) -> list[RunSpec]:
        """The cells that must be there before the others: the teacher that students take over from or learn from.

        That which is shipped needs no training; it is scored where students learn from it, to be compared with.
        """
        scale = get_scale(self.scale)
        recipes = {cell.arguments["recipe"] for cell in self.cells(device)}
        if "distill" in recipes or (recipes & set(INHERITING) and self.teacher == TRAINED):
            return [self._teacher(scale, device)]
        return []

    def _teacher(self, scale: Scale, device: str) -> RunSpec:
        recipe = SHIPPED if self.teacher == SHIPPED else "scratch"
        # Students take over its FFNs, so their width is left as it is.
        return self._spec(scale, device, "none", mixer="none", mixer_args={}, pattern="F", seed=0, recipe=recipe)

    def _teacher_key(self, scale: Scale, device: str, recipe: str) -> str | None:
        """What tells a cell's teacher from others: the hash of its file, or the run that trains it."""
        if recipe == SHIPPED or (recipe in INHERITING and self.teacher == SHIPPED):
            return file_digest(package_path(*SHIPPED_MODELS[TEACHER]))
        return self._teacher(scale, device).id if recipe in INHERITING else None

    def _spec(
        self,
        scale: Scale,
        device: str,
        match: str,
        *,
        mixer: str,
        mixer_args: dict[str, Any],
        pattern: str,
        seed: int,
        recipe: str,
    ) -> RunSpec:
        if "L" in pattern:
            mixer = canonical_name(mixer)
            get_mixer(mixer)
        else:
            # Without a linear layer the mixer is not part of the model; naming it would make twins of one cell.
            mixer, mixer_args = "none", {}
        config = get_preset(scale.preset, mixer="gated_deltanet" if mixer == "none" else mixer, pattern=pattern)
        training = changed(scale.training, self.overrides | {"seed": seed}, f"scale {self.scale} has")
        if "length_groups" in self.overrides and training.length_groups > training.batch_size:
            raise UserError(
                f"a batch_size of {training.batch_size} makes no {training.length_groups} length_groups; "
                f"give at most {training.batch_size}"
            )
        pages = scale.pages.model_copy(update={"pages": self.pages or scale.pages.pages})
        spec = RunSpec(
            kind="ablate",
            arguments={
                "scale": self.scale,
                "mixer": mixer,
                "mixer_args": mixer_args,
                "pattern": config.text_config.pattern,
                "seed": seed,
                "recipe": recipe,
                "match": match,
                "teacher": self._teacher_key(scale, device, recipe),
                "training": training.model_dump(mode="json"),
                "pages": pages.model_dump(mode="json"),
                "benchmarks": list(scale.benchmarks),
                "questions": self.questions or scale.questions,
                "device": device,
            }
            | ({"stages": stage_steps(training.steps)} if recipe == "distill" else {}),
        )
        arm_config(spec)
        return spec


def arm_config(spec: RunSpec) -> Matched:
    """The configuration of a cell, matched as its spec says.

    Raises:
        UserError: for an option that the mixer does not have, or an arm that cannot be matched.
    """
    arguments = spec.arguments
    preset = get_scale(arguments["scale"]).preset
    config = get_preset(
        preset,
        mixer="gated_deltanet" if arguments["mixer"] == "none" else arguments["mixer"],
        pattern=arguments["pattern"],
        mixer_args=arguments["mixer_args"],
    )
    return matched(config, preset, arguments["match"], arguments["recipe"])
