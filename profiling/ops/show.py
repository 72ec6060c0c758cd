"""The tables of `bench ops`, and its last line, which is JSON."""

from collections.abc import Sequence
from typing import Any

import torch
from rich.table import Table

from ...models.device import device_name
from ...printing import PlainConsole
from ..ceilings import Ceilings
from .geometry import B, Geometry
from .measure import YARDSTICKS, Timing, growth_exponents, speed_ratios

WIDTH = 130
"""Columns of text that goes to a file or a pipe."""

_TITLES = {
    "recurrence": "recurrences: q, k, v and gates in, outputs and last state out",
    "layer": "layers: hidden states in and out",
    "attention": "attention",
}


def show(
    timings: Sequence[Timing], geometry: Geometry, ceilings: Ceilings, device: str, remarks: Sequence[str]
) -> None:
    """Print a table a scope, one of growth, and what must be said beside them."""
    console = PlainConsole()
    if not console.is_terminal:
        # What goes to a file or a pipe need not be folded to a screen.
        console.width = WIDTH
    console.print(
        f"geometry {geometry.name}: B {B}, H {geometry.H}, K {geometry.K}, V {geometry.V}, width {geometry.D}; "
        f"{device_name(device)}, {torch.get_num_threads()} threads; ceilings of this run: copy "
        f"{ceilings.copy_gb_per_s:,.0f} GB/s, {ceilings.dtype} products {ceilings.matmul_tflops:,.2f} TFLOP/s"
    )
    ratios = speed_ratios(timings)
    for scope, title in _TITLES.items():
        rows = [t for t in timings if t.scope == scope]
        if rows:
            console.print(_speeds(title, rows, ratios, ceilings))
    growth = growth_exponents(timings)
    if growth:
        console.print(_growth(timings, growth))
    for remark in remarks:
        console.print(f"note: {remark}")


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def _speeds(title: str, rows: Sequence[Timing], ratios: dict[tuple[Timing, str], float], ceilings: Ceilings) -> Table:
    table = _table(title, ("mixer", "pass", "backend"), ("T", "ms", "p90", "tokens/s", "× floor", "speed over"))
    for t in sorted(rows, key=lambda t: (t.what, t.tokens)):
        over = ", ".join(
            f"{ratio:.2f}× {name}" for (other, name), ratio in ratios.items() if other is t and name in YARDSTICKS
        )
        table.add_row(
            t.label, t.what, t.backend, f"{t.tokens:,}", f"{t.median_ms:.4g}", f"{t.samples.p90_ms:.4g}",
            f"{t.tokens_per_second:,.0f}", f"{t.median_ms / t.work.floor_ms(ceilings):.2f}", over,
        )  # fmt: skip
    return table


def _growth(timings: Sequence[Timing], growth: dict[Any, float]) -> Table:
    lengths = sorted({t.tokens for t in timings if t.what != "decode"})
    table = _table(
        "microseconds per token, and p of time ∝ Tᵖ (1 is linear)",
        ("mixer", "scope", "pass", "backend"),
        (*map(str, lengths), "p"),
    )
    at = {(t.label, t.scope, t.what, t.backend, t.tokens): t for t in timings}
    for key, exponent in growth.items():
        found = (at.get((*key, T)) for T in lengths)
        table.add_row(*key, *("" if t is None else f"{t.us_per_token:.2f}" for t in found), f"{exponent:.2f}")
    return table


def summary(
    timings: Sequence[Timing],
    geometry: Geometry,
    ceilings: Ceilings,
    device: str,
    errors: dict[str, dict[str, float]],
    remarks: Sequence[str],
) -> dict[str, Any]:
    """The machine-readable result, units in the keys."""
    return {
        "artifact": "bench_ops",
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch_version": torch.__version__,
        "geometry": {
            "name": geometry.name, "B": B, "H": geometry.H, "K": geometry.K, "V": geometry.V, "D": geometry.D,
        },
        **ceilings.extra,
        "relative_rms_error": errors,
        "notes": list(remarks),
        "speed_ratios": [
            {
                "mixer": t.label, "scope": t.scope, "pass": t.what, "backend": t.backend, "context_tokens": t.tokens,
                "over": over, "ratio": round(ratio, 3),
            }
            for (t, over), ratio in speed_ratios(timings).items()
        ],
        "growth": [
            {"mixer": label, "scope": scope, "pass": what, "backend": backend, "exponent": round(exponent, 4)}
            for (label, scope, what, backend), exponent in growth_exponents(timings).items()
        ],
        "rows": [
            {
                "mixer": t.label, "scope": t.scope, "subject": t.subject, "backend": t.backend, "pass": t.what,
                "context_tokens": t.tokens, "median_ms": round(t.median_ms, 5), "p90_ms": round(t.samples.p90_ms, 5),
                "tokens_per_second": round(t.tokens_per_second, 1),
                "ratio_to_floor": round(t.median_ms / t.work.floor_ms(ceilings), 3),
                "samples_ms": [round(sample, 5) for sample in t.samples.milliseconds],
            }
            for t in timings
        ],
    }  # fmt: skip
