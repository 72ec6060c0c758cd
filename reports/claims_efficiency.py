"""Judges of the claims on speed and memory; every comparison is of two models on one device under one protocol."""

from collections.abc import Mapping, Sequence

from ..records import Record
from .claims import Finding, Status
from .efficiency import OUT_OF_MEMORY, canonical_model, is_plain, is_point, is_published_architecture
from .estimates import Estimate, estimate, extra_text, group, run_ids, unique
from .published import HYBRID, TRANSFORMER

MATCHED = "matched"
AS_PUBLISHED = "as-published"
PUBLISHED_DEVICE = "RTX 4090"
TRAINING_CONTEXT = 8192
CACHE_ELEMENTS = {HYBRID: 51_904_512, TRANSFORMER: 603_979_776}
Curves = dict[str, dict[int, Estimate]]


def latency_constant(records: Sequence[Record]) -> Finding:
    """C4: latency against context, and the ratio to the Transformer at two contexts."""
    rows = _measured(records, "latency_ms", "context")
    if not rows:
        return Finding("no data")
    device = _device(rows)
    rows = [record for record in rows if record.device == device]
    told = []
    verdicts: dict[str, bool | None] = {}
    missing: list[str] = []
    for protocol in (MATCHED, AS_PUBLISHED):
        curves = _curves([r for r in rows if extra_text(r, "protocol") == protocol], "context")
        holds, effect, lacking = _latency_holds(curves)
        verdicts[protocol] = holds
        told.append(f"{protocol}: {effect}" if effect else "")
        missing += [f"{lack} ({protocol})" for lack in lacking] if protocol == MATCHED or effect else []
    status = _status(verdicts[MATCHED])
    effect = _told(device, "; ".join(part for part in told if part))
    return Finding(status, effect, None, "", tuple(missing), run_ids(rows))


def _latency_holds(curves: Curves) -> tuple[bool | None, str, list[str]]:
    hybrid, transformer = curves[HYBRID], curves[TRANSFORMER]
    missing = []
    flat = None
    effects = []
    if hybrid and min(hybrid) <= 8192 and max(hybrid) >= 250_000:
        flat = hybrid[max(hybrid)].value / hybrid[min(hybrid)].value
        effects.append(f"latency at {max(hybrid):,} over {min(hybrid):,} tokens {flat:.2f}")
    else:
        missing.append("latency of the hybrid from at most 8K to at least 256K tokens")
    ratios = []
    for context, least in ((62_000, 3.6), (360_000, 8.0)):
        ours, theirs = _near(hybrid, context), _near(transformer, context)
        if ours is None or theirs is None:
            missing.append(f"both models at about {context:,} tokens")
        else:
            ratios.append((theirs.value / ours.value, least))
            effects.append(f"{theirs.value / ours.value:.2f} times faster at about {context:,} (claimed {least})")
    if any(ratio < least for ratio, least in ratios) or (flat is not None and flat > 1.05):
        return False, ", ".join(effects), missing
    return (None if missing else True), ", ".join(effects), missing


def streaming_holds(records: Sequence[Record]) -> Finding:
    """C5: frames per second against processed frames."""
    rows = [r for r in _measured(records, "streaming_fps", "frames") if extra_text(r, "protocol") in (MATCHED, None)]
    if not rows:
        return Finding("no data")
    device = _device(rows)
    rows = [record for record in rows if record.device == device]
    curves = _curves(rows, "frames")
    hybrid, transformer = curves[HYBRID], curves[TRANSFORMER]
    missing = []
    effects = []
    holds: bool | None = None
    if hybrid and min(hybrid) <= 10 and max(hybrid) >= 790:
        slowest = min(one.value for one in hybrid.values())
        kept = hybrid[max(hybrid)].value / hybrid[min(hybrid)].value
        holds = slowest >= 24 and kept >= 0.95
        effects.append(f"hybrid at least {slowest:.1f} frames/s, last over first {kept:.2f}")
    else:
        missing.append("streaming speed of the hybrid from frame 10 to frame 790")
    falls = _transformer_falls(rows, transformer, device)
    if falls is None:
        missing.append("streaming speed of the Transformer at about frame 290")
    else:
        effects.append(falls[1])
    decided: bool | None = None
    if holds is False or (falls is not None and not falls[0]):
        decided = False
    elif holds and falls is not None:
        decided = True
    return Finding(_status(decided), _told(device, ", ".join(effects)), None, "", tuple(missing), run_ids(rows))


def _transformer_falls(
    rows: Sequence[Record], curve: Mapping[int, Estimate], device: str | None
) -> tuple[bool, str] | None:
    exhausted = [r.frames or 0 for r in rows if r.extra.get("status") == OUT_OF_MEMORY and _is(r, TRANSFORMER)]
    if exhausted and min(exhausted) <= 319:
        return True, f"Transformer out of memory at frame {min(exhausted)}"
    late = _near(curve, 290)
    if late is None or not curve:
        return None
    share = late.value / curve[min(curve)].value
    on_published = device is not None and PUBLISHED_DEVICE in device
    fallen = late.value < 1.2 or (not on_published and share < 0.13)
    return fallen, f"Transformer {late.value:.1f} frames/s at about frame 290, {share:.0%} of its first"


def memory_constant(records: Sequence[Record]) -> Finding:
    """C6: cache elements, and peak memory against context."""
    # A number of elements depends on neither the device nor the type that they are kept in.
    cache = unique(
        r
        for r in records
        if (r.source, r.metric, r.context) == ("measured", "cache_elements", 32768)
        and r.extra.get("batch", 1) == 1
        and is_published_architecture(r)
    )
    peak = [r for r in _measured(records, "peak_memory_gb", "context") if _is(r, HYBRID) and is_point(r)]
    rows = [*cache, *peak]
    if not rows:
        return Finding("no data")
    missing = []
    effects = []
    checks = []
    for model, expected in CACHE_ELEMENTS.items():
        found = {record.value for record in cache if _is(record, model)}
        if found:
            checks.append(found == {float(expected)})
            effects.append(f"{model} {', '.join(f'{value:,.0f}' for value in sorted(found))} elements")
        else:
            missing.append(f"cache elements of {model} at 32,768 tokens")
    peak = [record for record in peak if record.device == _device(peak)] if peak else []
    by_context = {context: estimate(same).value for context, same in group(peak, lambda r: r.context or 0).items()}
    if by_context and min(by_context) <= 8192 and max(by_context) >= 250_000:
        growth = by_context[max(by_context)] / by_context[min(by_context)] - 1
        checks.append(growth <= 0.01 and all(8 <= value <= 10 for value in by_context.values()))
        effects.append(f"peak {min(by_context.values()):.2f}–{max(by_context.values()):.2f} GB, growth {growth:.1%}")
    else:
        missing.append("peak memory of the hybrid from at most 8K to at least 256K tokens")
    decided = False if not all(checks) else None if missing else True
    return Finding(_status(decided), ", ".join(effects), None, "", tuple(missing), run_ids(rows))


def training_faster(records: Sequence[Record]) -> Finding:
    """C8: ratio of training throughputs."""
    rows = unique(
        r
        for r in records
        if r.source == "measured"
        and r.metric == "training_tokens_per_day"
        and is_published_architecture(r)
        and extra_text(r, "protocol") in (MATCHED, None)
        and r.context in (TRAINING_CONTEXT, None)
        and is_plain(r)
        and is_point(r)
    )
    if not rows:
        return Finding("no data")
    rows = [record for record in rows if record.device == _device(rows)]
    found = {model: [r for r in rows if _is(r, model)] for model in (HYBRID, TRANSFORMER)}
    missing = tuple(f"training throughput of {model} on the same device" for model, same in found.items() if not same)
    if missing:
        return Finding("inconclusive", missing=missing, runs=run_ids(rows))
    ours, theirs = estimate(found[HYBRID]), estimate(found[TRANSFORMER])
    low = (ours.value if ours.low is None else ours.low) / (theirs.value if theirs.high is None else theirs.high)
    high = (ours.value if ours.high is None else ours.high) / (theirs.value if theirs.low is None else theirs.low)
    ratio = ours.value / theirs.value
    decided = True if low >= 3.7 else False if high < 3.7 else None
    effect = _told(rows[0].device, f"{ratio:.2f} times [{low:.2f}, {high:.2f}]")
    return Finding(_status(decided), effect, (low, high), "times", (), run_ids(rows))


def _measured(records: Sequence[Record], metric: str, axis: str) -> list[Record]:
    """Measured records of the two full-size models."""
    return unique(
        r
        for r in records
        if r.source == "measured"
        and r.metric == metric
        and getattr(r, axis) is not None
        and is_published_architecture(r)
        and is_plain(r)
    )


def _is(record: Record, model: str) -> bool:
    return canonical_model(record.model) == model


def _device(rows: Sequence[Record]) -> str | None:
    """The device that measured both models at the most points, the published one first among equals."""
    by_device = group(rows, lambda r: r.device)

    def place(device: str | None) -> tuple[object, ...]:
        models = {canonical_model(record.model) for record in by_device[device]}
        return -len(models), -len(by_device[device]), PUBLISHED_DEVICE not in (device or ""), device or ""

    return min(by_device, key=place)


def _curves(rows: Sequence[Record], axis: str) -> Curves:
    usable = [record for record in rows if is_point(record)]
    return {
        model: {
            position: estimate(same)
            for position, same in group([r for r in usable if _is(r, model)], lambda r: getattr(r, axis)).items()
        }
        for model in (HYBRID, TRANSFORMER)
    }


def _near(curve: Mapping[int, Estimate], target: int) -> Estimate | None:
    """The point nearest to a position, None where none lies within 10 % of it."""
    position = min(curve, key=lambda at: (abs(at - target), at), default=None)
    return curve[position] if position is not None and abs(position - target) <= 0.1 * target else None


def _told(device: str | None, effect: str) -> str:
    return f"{device or 'unnamed device'}: {effect}" if effect else ""


def _status(decided: bool | None) -> Status:
    return "inconclusive" if decided is None else "reproduced" if decided else "not reproduced"
