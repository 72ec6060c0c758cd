"""How many sliding-window layers: none, one in 8, in 4, in 2, and all, with Gated DeltaNet and with GLA in the others.

Claim     C3, text-rich scores rise from ratio 0 on, most of it up to 1/8, and more than the control's
Artifact  table 4
Command   infinitevl-bench ablate --study swa_ratio --scale small
Cost      13 minutes of one H200 for the 40 cells of the claim arms that mixer_choice does not have, with 16 of
          mixer_choice beside them on the same GPU for the first 7.5; GLA's 9 test cells 7 minutes beside
          frame_scaling (its 15 rate cells had run before)

The control is the task without text that every arm learns early, the colour of a page (SEEDBench_IMG's twin);
counting and finding shapes (RealWorldQA's twin) is the other one without text. It can be guessed in a third of its
questions, and its threshold of learning, half way from the 5 % that naming a colour of the page gives, is low. Cells
that `mixer_choice` has are the same cells.

Arms of ratio 0 and 1/8 are not matched: linear layers hold more than windows, and inherited FFNs cannot be narrower.
With Gated DeltaNet their decoders hold 10.0 and 5.0 % more than that of its ratio 1/4, with GLA 11.5 and 6.3 % more;
records and table say so.
"""

from .plan import Arm, Plan

RATIOS = {"0": "L", "1_8": "SLLLLLLL", "1_4": "SLLL", "1_2": "SL"}

PLAN = Plan(
    name="swa_ratio",
    claims=("C3",),
    artifact="table4",
    arms={
        f"{mixer}_{ratio}": Arm(
            mixer, pattern, claim=mixer == "gated_deltanet", smallest=mixer == "gated_deltanet" and ratio != "1_8"
        )
        for mixer in ("gated_deltanet", "gla")
        for ratio, pattern in RATIOS.items()
    }
    | {"window_only": Arm("gated_deltanet", "S", claim=True)},
)
