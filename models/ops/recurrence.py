"""One recurrence behind one name: its definition, its chunked matrix form, and a kernel where a library has one.

All forms share one signature, ``(q, k, v, *gates, state=None) -> (o, last_state)``, and one meaning, that of the
reference; the backend chooses how it is computed:

    reference   step by step, any float type: the definition, and the fastest for a single token without a kernel
    torch       chunks of tokens as matrix products, on any device
    fla         Triton kernels of flash-linear-attention, on an accelerator
    auto        fla where it is usable and known to be right, else torch
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UserError, unknown_name
from .kernels import auto_trouble, kernel_trouble

BACKENDS = ("auto", "reference", "torch", "fla")

Form = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Recurrence:
    """A recurrence and its forms; call it like one of them.

    Attributes:
        name: Name of the module that holds it.
        reference: Step by step.
        chunked: In chunks of tokens.
        kernel: Through flash-linear-attention; None where it has none.
        random_gates: ``(k, generator) -> gates``: valid random inputs after q, k and v, for tests and benchmarks.
        unit_keys: Whether keys must be l2-normalised.
    """

    name: str
    reference: Form
    chunked: Form
    kernel: Form | None
    random_gates: Callable[[Tensor, torch.Generator], tuple[Tensor, ...]]
    unit_keys: bool = False

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *gates: Tensor, state: Tensor | None = None, backend: str = "auto"
    ) -> tuple[Tensor, Tensor]:
        """Run the recurrence over time.

        Args:
            q: ``[B, T, H, K]``, scaled by the caller.
            k: ``[B, T, H, K]``.
            v: ``[B, T, H, V]``.
            *gates: what else the recurrence takes; see its module.
            state: ``[B, H, K, V]`` to start from; zeros if None. Not modified.
            backend: one of `BACKENDS`.

        Returns:
            o ``[B, T, H, V]`` in v's dtype, and the last state ``[B, H, K, V]`` in float32 (float64 for float64).

        Raises:
            UserError: for an unknown backend, or one that is not usable here.
        """
        if v.shape[1] == 0:
            return torch.empty_like(v), start_state(k, v, state)
        with_gradient = torch.is_grad_enabled() and any(
            x.requires_grad for x in (q, k, v, *gates, state) if x is not None
        )
        form = self.form(self.resolve(backend, v, with_gradient))
        return form(q, k, v, *gates, state=state)

    def resolve(self, backend: str, v: Tensor, with_gradient: bool) -> str:
        """The backend that ``backend`` means for these inputs: never "auto"."""
        if backend not in BACKENDS:
            raise unknown_name("backend", backend, BACKENDS)
        if backend != "auto":
            return backend
        kernel_fits = self.kernel is not None and v.device.type == "cuda" and v.dtype != torch.float64
        one_token = v.shape[1] == 1
        # Kernels of a single step are for decoding; nothing says that all of them have a gradient.
        if kernel_fits and not (one_token and with_gradient) and auto_trouble(self.name, with_gradient) is None:
            return "fla"
        # One token is one step: chunking it would only add work.
        return "reference" if one_token else "torch"

    def form(self, backend: str) -> Form:
        """The function of a backend.

        Raises:
            UserError: if the recurrence has no such form here.
        """
        if backend == "fla":
            trouble = kernel_trouble(self.name)
            if self.kernel is None or trouble is not None:
                reason = trouble or "flash-linear-attention has no kernel for it"
                raise UserError(f"backend fla cannot run {self.name}: {reason}; use torch or auto", 1)
            return self.kernel
        return self.reference if backend == "reference" else self.chunked

    def random_inputs(
        self, B: int, T: int, H: int, K: int, V: int, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, ...]:
        """Valid random inputs ``(q, k, v, *gates)`` on the CPU, for tests and benchmarks."""
        generator = torch.Generator().manual_seed(seed)
        q, k = (torch.randn(B, T, H, K, generator=generator, dtype=dtype) for _ in range(2))
        v = torch.randn(B, T, H, V, generator=generator, dtype=dtype)
        k = torch.nn.functional.normalize(k, dim=-1) if self.unit_keys else k * K**-0.5
        return q * K**-0.5, k, v, *(gate.to(dtype) for gate in self.random_gates(k, generator))


def steps(dtype: torch.dtype, *streams: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Streams ``[B, T, …]`` token by token, in a type; unbound at once, so that their gradients are made once."""
    yield from zip(*(stream.to(dtype).unbind(1) for stream in streams), strict=True)


def wide_dtype(x: Tensor) -> torch.dtype:
    """The type that states are kept in: float64 for float64 inputs, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def start_state(k: Tensor, v: Tensor, state: Tensor | None) -> Tensor:
    """The given state ``[B, H, K, V]`` in the wide type, or zeros; k ``[B, T, H, K]``, v ``[B, T, H, V]``."""
    if state is not None:
        return state.to(wide_dtype(v))
    B, _, H, K = k.shape
    return torch.zeros(B, H, K, v.shape[-1], dtype=wide_dtype(v), device=v.device)
