"""Which token mixer: every mixer with one sliding-window layer in four, and the controls.

Claims    C1, Gated DeltaNet > Mamba-2 and GLA on text-rich benchmarks; C2, linear attention does not converge
Artifact  table 3
Command   infinitevl-bench ablate --study mixer_choice --scale small
Cost      7.9 minutes of two H200s for the 60 cells of the six claim arms, with the drawing of pages on 32
          cores; 48 cells of 600 steps and three rates took 15.6 minutes of one H200; the 40 cells of the five other
          mixers 21 minutes of one on which frame_scaling ran too. Ratio 0: four arms are not yet measured (mamba1_0,
          hgrn2_0, kimi_delta_attention_0, linear_attention_dressed_0); what the others cost was not noted

GLA stands twice, as published (without a short convolution) and with the one that the other arms have; linear
attention too, bare as published and dressed in convolution, norm and gate. Controls: `identity` passes nothing
between tokens in its layers, `window_only` is sliding-window attention throughout, `full_attention` sees everything.
Pages and questions are 37 to 114 tokens long. A window holds 16 of them, and the two of ratio 1/4 reach back 30 by
themselves, so what stands further up must pass through the linear state.

Arms that end in ``_0`` have the mixer in every layer, without a sliding window (ratio 0): what it does by itself. No
claim rests on them but what `swa_ratio` says of Gated DeltaNet, whose cells are the same. Most hold a tenth more
parameters than the other arms, since an inherited FFN cannot be narrower, and Kimi Delta Attention at ratio 1/4 2.8 %
more; their records and the table say so.
"""

from dataclasses import replace

from .plan import Arm, Plan

DRESSED = {"conv_size": 4, "norm": True, "gate": True}

MIXERS = {
    "gated_deltanet": Arm("gated_deltanet", claim=True, smallest=True),
    "mamba2": Arm("mamba2", claim=True),
    "gla": Arm("gla", claim=True),
    "gla_without_convolution": Arm("gla", mixer_args={"conv_size": 0}, claim=True),
    "linear_attention": Arm("linear_attention", claim=True, smallest=True),
    "linear_attention_dressed": Arm("linear_attention", mixer_args=DRESSED, claim=True),
    "kimi_delta_attention": Arm("kimi_delta_attention"),
    "deltanet": Arm("deltanet"),
    "retnet": Arm("retnet"),
    "hgrn2": Arm("hgrn2"),
    "mamba1": Arm("mamba1"),
}

PLAN = Plan(
    name="mixer_choice",
    claims=("C1", "C2"),
    artifact="table3",
    arms=MIXERS
    | {
        "identity": Arm("identity"),
        "window_only": Arm("gated_deltanet", pattern="S", smallest=True),
        "full_attention": Arm("gated_deltanet", pattern="F"),
    }
    | {f"{name}_0": replace(arm, pattern="L", claim=False, smallest=False) for name, arm in MIXERS.items()},
)
