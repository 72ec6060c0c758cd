"""Multi-query recall over image tokens: the diagnostic between the published one and the studies' pages.

Claim     none of the paper's; what lies between a mixer that recalls text and one that answers about pages
Artifact  mqar: in tables of its own, as MQAR-vision
Command   infinitevl-bench ablate --study mqar_vision --scale small
Cost      tiny: 4.8 minutes of CPU time; small: not measured, 0.8 G tokens an arm, 11 G for all 14

The sequences, model, arms and choice of rates are those of `mqar`, but that keys and values stand on a page, a pair a
line and a code of two characters a tile, which the shipped vision tower has looked at (`training.seen_recall`). So a
value passes through image tokens, in Qwen2.5-VL's positions, and the queries ask in text for what was only seen. The
pages of the other studies ask several questions each in training too, and score the first alone; here all are scored,
of as many pairs as in the published task, and nothing but recall is asked: no wording, no clutter, no spelling.

The width is 128, the tower's own, at every scale: nothing lies between the tower and the decoder that could adapt it.
Scale small has the published lengths, numbers of pairs and rates; a vocabulary of 1024, since two characters name no
more than 1156; and 24,576 pages, whose features fit beside the models. Scale tiny is 4 pairs on a page and 24 places
after it, a vocabulary of 64 and 300 steps: it shows that the machine works and, as `mqar` says, tests no mixer. Both
were set before anything was run.
"""

from ..training.loop import TrainArguments
from .mqar import PLAN as TEXT
from .mqar import PUBLISHED_RATES, RecallPlan, RecallSize

SEEN_SIZES: dict[str, RecallSize] = {
    "tiny": RecallSize(
        tasks=((32, 4, 16),),
        widths=(128,),
        vocabulary=64,
        training=TrainArguments(steps=300),
        examples=2048,
        test_examples=500,
        probe_examples=100,
        learning_rates=PUBLISHED_RATES[1:],
        test_seeds=1,
    ),
    "small": RecallSize(
        tasks=((64, 4, 128), (128, 8, 128), (256, 16, 128)),
        widths=(128,),
        vocabulary=1024,
        training=TrainArguments(steps=2000, precision="tf32"),
        examples=24_576,
        test_examples=3000,
        probe_examples=500,
        learning_rates=PUBLISHED_RATES,
        test_seeds=3,
    ),
}

PLAN = RecallPlan(name="mqar_vision", claims=(), artifact="mqar", arms=TEXT.arms, sizes=SEEN_SIZES, seen=True)
