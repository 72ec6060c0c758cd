"""Make the hybrid that the package ships of a finished cell of a study: rounded weights, what they score, and a card.

    python -m infinitevl_bench.training.hybrid runs/ablate-0123456789ab

The cell is one of `mixer_choice` at scale small with Gated DeltaNet at the preset's own pattern; the one with the
highest mean over the text-rich benchmarks was taken. The vision tower is not part of it: it has a file of its own.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load

from ..errors import UserError
from ..files import parse_yaml
from ..models.checkpoints import load_model
from ..models.model_card import model_card
from ..models.processor import load_processor
from ..models.shipped import HYBRID, SHIPPED
from ..models.shipped_models import shipped_bytes, shipped_config
from ..printing import PlainConsole
from ..records import RunSpec, atomic_write, package_path
from .teacher import exact_answers

COMMAND = "infinitevl-bench ablate --study mixer_choice --scale small --arm gated_deltanet"
"""What trains the cells that it is chosen from."""

CHOSEN = "chosen of the seeds by its mean over the study's text-rich test pages, so not a seed at random"
"""A score of the best of several is above what one more seed would have: the card says so."""

LOADING = """\
## Loading

It is the default of `infinitevl-bench eval` and `stream`; `train` and `convert` know it as `hybrid`. From Python:

```python
from infinitevl_bench.models.checkpoints import load_model

model, processor, *_ = load_model("hybrid")
```
"""


def main(arguments: list[str] | None = None) -> None:
    """Round, score, and write ``model.safetensors``, ``training.json`` and the card ``README.md``."""
    parser = argparse.ArgumentParser(prog="python -m infinitevl_bench.training.hybrid", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished cell")
    parser.add_argument("--test-pages", type=int, default=200, help="test pages of each family")
    parser.add_argument("--out", type=Path, default=package_path(*SHIPPED[HYBRID]).parent)
    given = parser.parse_args(arguments)
    try:
        ship(given.run, given.test_pages, given.out)
    except UserError as error:
        raise SystemExit(f"infinitevl-bench: {error}") from None


def ship(run: Path, test_pages: int, out: Path) -> dict[str, Any]:
    """Ship a cell's model.

    Args:
        run: its folder.
        test_pages: test pages of each family that the rounded weights are asked one question of.
        out: where the files are written.

    Returns:
        What ``training.json`` says.

    Raises:
        UserError: if the cell holds another architecture than the shipped hybrid's.
    """
    model = load_model(str(run)).model
    config = shipped_config(HYBRID)
    if architecture(model.config) != architecture(config):
        raise UserError(f"{run} holds another architecture than the shipped hybrid's; name a cell of Gated DeltaNet")
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    told = json.loads((run / "env.json").read_text(encoding="utf-8"))
    scores = [one for one in result["records"] if one["metric"] == "score"]
    notes = scores[0]["extra"]
    spec = RunSpec.model_validate(parse_yaml((run / "spec.yaml").read_text(encoding="utf-8")))
    weights = shipped_bytes(model)
    # What is measured is what is shipped: the rounded weights.
    model.load_state_dict(load(weights), strict=False)
    families = dict(spec.arguments["pages"]["weights"])
    processor = load_processor()
    exact = {name: exact_answers(model.eval(), processor, name, test_pages) for name in families}
    provenance = {
        "run": result["run_id"], "commit": told["git"]["commit"], "device": told["device"],
        "torch": told["packages"]["torch"], "command": COMMAND, "seed": spec.arguments["seed"],
        "recipe": spec.arguments["recipe"], "families": families, "pages": spec.arguments["pages"]["pages"],
        "training": spec.arguments["training"], "loss_nats": notes["train_loss"],
        "scores_of_the_run_percent": {one["benchmark"]: round(one["value"], 1) for one in scores},
        "questions_of_the_run": scores[0]["n"],
        "exact_answers_percent": exact, "test_pages_of_each_family": test_pages,
    }  # fmt: skip
    origin = (
        "A small hybrid, trained on synthetic pages of this package to try things with: it says nothing about "
        f"InfiniteVL. Cell `{result['run_id']}` of the study of mixers: inherited from the shipped full-attention "
        f"teacher, {spec.arguments['training']['steps']:,} steps of {spec.arguments['training']['batch_size']} pages, "
        f"seed {spec.arguments['seed']}, on one {told['device']}, {CHOSEN}. Of {test_pages} other held-out pages of "
        "each kind it answers one question to the letter in: "
        + ", ".join(f"{name.replace('_', ' ')} {value:.1f} %" for name, value in exact.items())
        + ". Weights are float16; the vision tower is in a file of its own."
    )
    atomic_write(out / "model.safetensors", weights)
    atomic_write(out / "training.json", json.dumps(provenance, indent=2) + "\n")
    card = model_card(config, "The shipped hybrid", origin)
    atomic_write(out / "README.md", card[: card.index("## Loading")] + LOADING)
    PlainConsole(soft_wrap=True).print(json.dumps(exact), highlight=False)
    return provenance


def architecture(config: Any) -> tuple[Any, ...]:
    """What decides the shapes and the arithmetic of a decoder."""
    text = config.text_config
    widths = (text.hidden_size, text.intermediate_size, text.num_attention_heads, text.num_key_value_heads)
    return tuple(text.layer_types), text.mixer, tuple(sorted(text.mixer_args.items())), text.sliding_window, widths


if __name__ == "__main__":
    main()
