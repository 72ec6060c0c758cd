"""Agreement with the definition: what is not right is not timed."""

import torch
from torch import Tensor

from ...errors import UserError
from .contenders import Contender, Subject, results


class WrongResultError(Exception):
    """A contender does not agree with the definition; its message says by how much."""


def check_subject(subject: Subject, lengths: list[int], compared: int) -> tuple[dict[str, float], dict[str, str]]:
    """Compare every contender with what is right: outputs at every length, gradients at ``compared`` tokens.

    Returns:
        Contender → the largest relative RMS error seen; contender → why it is left out, for those of libraries.

    Raises:
        UserError: With exit code 1, if one of ours is wrong.
    """
    worst: dict[str, float] = {}
    refused: dict[str, str] = {}
    for T in sorted({*lengths, compared}):
        if subject.check_limit is not None and subject.check_limit < T:
            continue
        gradients = compared == T
        inputs = subject.inputs(T)
        right = subject.judge(inputs, T, gradients)
        for contender in subject.contenders:
            if not contender.runs("forward", T) or contender.name in refused:
                continue
            try:
                error = _error(subject, contender, inputs, right, gradients, T)
            except WrongResultError as wrong:
                if contender.ours:
                    raise UserError(
                        f"no speed is shown: {wrong}; run tests/models/test_ops.py and report it", 1
                    ) from None
                refused[contender.name] = str(wrong)
            except Exception as failure:
                # A library that fails here is a finding, not an end.
                if contender.ours:
                    raise
                refused[contender.name] = f"{type(failure).__name__}: {first_line(failure)}"
            else:
                worst[contender.name] = max(worst.get(contender.name, 0.0), error)
    return worst, refused


def _error(
    subject: Subject,
    contender: Contender,
    inputs: tuple[Tensor, ...],
    right: dict[str, Tensor],
    gradients: bool,
    T: int,
) -> float:
    """The largest error of a contender's results.

    Raises:
        WrongResultError: If it exceeds the subject's tolerance.
    """
    bound = subject.tolerance[inputs[0].dtype]
    found = results(subject, contender.run, inputs, gradients and "training" in contender.passes)
    worst = 0.0
    for what, value in found.items():
        error = relative_error(value, right[what])
        # A NaN compares false with everything, so the condition is that of being right.
        if not error <= bound:
            raise WrongResultError(
                f"{what} of {subject.name} by {contender.name} is off by {error:.1e} of its RMS at {T} tokens "
                f"(at most {bound:.0e})"
            )
        worst = max(worst, error)
    return worst


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of what was expected."""
    # Not in float64 as a whole: at 128 K tokens that would be gigabytes.
    difference = (actual.to(torch.float32) - expected.to(torch.float32)).norm()
    return float(difference / expected.to(torch.float32).norm().clamp(min=1e-12))


def first_line(error: BaseException) -> str:
    """An error's first line, short enough for a table."""
    return (str(error).strip().splitlines() or [""])[0][:160]
