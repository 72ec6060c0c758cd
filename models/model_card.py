"""The model card that stands beside exported weights: what the model is, where it comes from, how it is loaded."""

from pathlib import Path

from ..records import atomic_write
from .accounting import count_parameters, state_elements
from .config import HybridVLConfig

_CARD = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
tags:
- infinitevl-bench
- {mixer_tag}
---

# {name}

{origin}

| | |
|---|---|
| layers | {depth}, pattern `{pattern}` (S sliding-window attention, L linear mixer, F full attention) |
| token mixer | {mixer} |
| sliding window | {window} |
| width, FFN, vocabulary | {width}, {ffn}, {vocabulary} |
| parameters | {parameters:,} |
| recurrent state | {state:,} elements a sequence, at any length |

## Loading

The architecture is that of the package `infinitevl-bench`; importing it registers the model with transformers:

```python
import infinitevl_bench.models.hybrid
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(".", dtype="auto")
processor = AutoProcessor.from_pretrained(".")
```

`infinitevl-bench eval DocVQA --model .` scores it, and `infinitevl-bench convert . DST --to infinitevl` writes it for
the released modeling code where that can express it. No scores are claimed here: those of a run are in its records.
"""


def model_card(config: HybridVLConfig, name: str, origin: str) -> str:
    """Write the card of a model.

    Args:
        config: of the model.
        name: what it is called.
        origin: where its weights come from, in a sentence.
    """
    text = config.text_config
    options = ", ".join(f"{key}={value}" for key, value in (text.mixer_args or {}).items())
    mixer = (
        f"{text.mixer}{f' ({options})' if options else ''}" if text.linear_layers else "none: attention in every layer"
    )
    return _CARD.format(
        mixer_tag=text.mixer if text.linear_layers else "attention",
        name=name,
        origin=origin,
        depth=text.num_hidden_layers,
        pattern=text.pattern,
        mixer=mixer,
        window=f"{text.sliding_window} tokens" if text.sliding_window else "none",
        width=text.hidden_size,
        ffn=text.intermediate_size,
        vocabulary=text.vocab_size,
        parameters=count_parameters(config),
        state=state_elements(config),
    )


def write_card(config: HybridVLConfig, folder: Path, name: str, origin: str) -> None:
    """Write the card of a model beside its weights; arguments are those of `model_card`.

    Raises:
        UserError: if the folder cannot be written to.
    """
    atomic_write(folder / "README.md", model_card(config, name, origin))
