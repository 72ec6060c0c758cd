"""One recurrence behind one name: its definition, its chunked matrix form, and kernels where libraries have them.

All forms share one signature, ``(q, k, v, *gates, state=None) -> (o, last_state)``, and one meaning, that of the
reference; the backend chooses how it is computed:

    reference   step by step, any float type: the definition, and the fastest for a single token without a kernel
    torch       chunks of tokens as matrix products, on any device
    fla         Triton kernels of flash-linear-attention, on an accelerator
    mamba_ssm   kernels of mamba-ssm, on an accelerator
    auto        a kernel that can run and is known to be right, else torch; says once why it took none
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from ...errors import UserError, unknown_name
from .kernels import LIBRARIES, Call, Kernel, library_trouble, not_compared
from .packing import pack, packing_of, unpack
from .precision import autocast_type

BACKENDS = ("auto", "reference", "torch", *LIBRARIES)

Form = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Recurrence:
    """A recurrence and its forms; call it like one of them.

    Attributes:
        name: Name of the module that holds it.
        reference: Step by step.
        chunked: In chunks of tokens.
        random_gates: ``(k, v, generator) -> gates``: valid random inputs after q, k and v, for tests and benchmarks.
        kernels: Backend → a library's kernel.
        unit_keys: Whether keys must be l2-normalised.
        parameters: How many of the last gates are parameters: without batch and time, the same for every token.
    """

    name: str
    reference: Form
    chunked: Form
    random_gates: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, ...]]
    kernels: Mapping[str, Kernel] = field(default_factory=dict)
    unit_keys: bool = False
    parameters: int = 0

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *gates: Tensor,
        state: Tensor | None = None,
        backend: str = "auto",
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the recurrence over time.

        Args:
            q: ``[B, T, H, K]``, scaled by the caller.
            k: ``[B, T, H, K]``.
            v: ``[B, T, H, V]``.
            *gates: what else the recurrence takes; see its module.
            state: ``[B, H, K, V]`` to start from; zeros if None. Not modified.
            backend: one of `BACKENDS`.
            cu_seqlens: ``[N + 1]``, where each of N sequences packed into a batch of one begins, and the end; each then
                has a state of its own, ``[N, H, K, V]`` in all.

        Returns:
            o ``[B, T, H, V]`` in v's dtype, and the last state ``[B, H, K, V]`` in float32 (float64 for float64), under
            autocast too.

        Raises:
            UserError: for an unknown backend, one that cannot run this call, or sequences that do not fill the batch.
        """
        if autocast_type(v) is not None:
            # States are sums over all that came before; autocast would round them at every product.
            with torch.autocast(v.device.type, enabled=False):
                return self(q, k, v, *gates, state=state, backend=backend, cu_seqlens=cu_seqlens)
        if v.shape[1] == 0:
            return torch.empty_like(v), start_state(k, v, state)
        with_gradient = torch.is_grad_enabled() and any(
            x.requires_grad for x in (q, k, v, *gates, state) if x is not None
        )
        call = Call(v.device.type, v.dtype, v.shape[1], k.shape[-1], v.shape[-1], with_gradient, state is not None)
        if cu_seqlens is None:
            return self.form(backend, call)(q, k, v, *gates, state=state)
        lengths, borders, _ = packing_of(cu_seqlens, v)
        resolved = self.resolve(backend, call)
        form = self.form(resolved, call)
        if resolved in self.kernels and self.kernels[resolved].packed:
            return form(q, k, v, *gates, state=state, cu_seqlens=borders)
        # Behind the end of a sequence keys and gates are zero, and then nothing happens.
        moving = len(gates) - self.parameters
        padded = (unpack(x, lengths) for x in (q, k, v, *gates[:moving]))
        o, last = form(*padded, *gates[moving:], state=state)
        return pack(o, lengths), last

    def resolve(self, backend: str, call: Call) -> str:
        """The backend that ``backend`` means for a call: never "auto".

        Raises:
            UserError: for an unknown backend.
        """
        if backend not in BACKENDS:
            raise unknown_name("backend", backend, BACKENDS)
        if backend != "auto":
            return backend
        chosen, reasons = self.choose(call)
        if call.device == "cuda" and chosen not in self.kernels:
            for library, reason in reasons.items():
                say_once(f"{self.name} runs on backend {chosen}, not on {library}: {reason}")
        return chosen

    def choose(self, call: Call) -> tuple[str, dict[str, str]]:
        """What `auto` takes for a call, and library → why not, of the kernels that it passed over."""
        reasons: dict[str, str] = {}
        for library in LIBRARIES:
            if library in self.kernels:
                reason = self.trouble(library, call) or not_compared(library, self.name, call)
                if reason is None:
                    return library, reasons
                reasons[library] = reason
        # One token is one step: chunking it would only add work.
        return "reference" if call.T == 1 else "torch", reasons

    def trouble(self, backend: str, call: Call) -> str | None:
        """Why a backend cannot run a call; None where it can."""
        if backend not in LIBRARIES:
            return None
        if backend not in self.kernels:
            return "it has no kernel for it"
        return library_trouble(backend, self.name, call.with_gradient) or self.kernels[backend].limit(call)

    def form(self, backend: str, call: Call) -> Form:
        """The function that runs a call.

        Raises:
            UserError: if the backend cannot.
        """
        backend = self.resolve(backend, call)
        trouble = self.trouble(backend, call)
        if trouble is not None:
            raise UserError(f"backend {backend} cannot run {self.name}: {trouble}; use backend torch or auto", 1)
        if backend in self.kernels:
            return self.kernels[backend].form
        return self.reference if backend == "reference" else self.chunked

    def random_inputs(
        self, B: int, T: int, H: int, K: int, V: int, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, ...]:
        """Valid random inputs ``(q, k, v, *gates)`` on the CPU, for tests and benchmarks."""
        generator = torch.Generator().manual_seed(seed)
        q, k = (torch.randn(B, T, H, K, generator=generator, dtype=dtype) for _ in range(2))
        v = torch.randn(B, T, H, V, generator=generator, dtype=dtype)
        k = torch.nn.functional.normalize(k, dim=-1) if self.unit_keys else k * K**-0.5
        return q * K**-0.5, k, v, *(gate.to(dtype) for gate in self.random_gates(k, v, generator))


@cache
def say_once(message: str) -> None:
    """Warn, once in a process, through the package's logger."""
    logging.getLogger("infinitevl_bench").warning(message)


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
