"""A training checkpoint: one safetensors file, complete and atomic, so that a killed run goes on where it was.

It holds the trainable weights, AdamW's moments and the step, whole even where processes hold a shard each, so that any
number of processes can go on from it. The learning rate, the position in the data and the random state are functions of
the step. There is no pickle in it.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import UserError
from ..files import mode

FILE_NAME = "checkpoint.safetensors"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def checkpoint_name(stage: str) -> str:
    """The file of a stage of a run; of the run's only stage if it has no name."""
    return f"checkpoint-{stage}.safetensors" if stage else FILE_NAME


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, data_key: str, write: bool = True
) -> None:
    """Write the state after ``step`` optimizer steps. Where the model is sharded, every process must call this.

    Args:
        path: the file to write; the old one stays until the new one is whole.
        model: its parameters that require a gradient are saved.
        optimizer: AdamW over exactly those parameters, in the order of ``model.named_parameters()``.
        step: steps done.
        data_key: names the data order; loading under another one is refused.
        write: whether this process is the one that writes.

    Raises:
        UserError: if the file cannot be written; the old one is untouched.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in _trainable(model):
        _gather(tensors, f"model.{name}", parameter, write)
        for key, value in optimizer.state[parameter].items():
            _gather(tensors, f"optimizer.{key}.{name}", torch.as_tensor(value), write)
    if write:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"step": str(step), "data_key": data_key})


def _gather(tensors: dict[str, Tensor], name: str, tensor: Tensor, keep: bool) -> None:
    whole = tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()
    if keep:
        # Tied or transposed parameters may share memory or be strided; the file wants each on its own.
        whole = whole.to("cpu", memory_format=torch.contiguous_format)
        tensors[name] = whole.clone() if whole.data_ptr() == tensor.data_ptr() else whole


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of ``path`` once it is written: for files too large to hold in memory.

    Raises:
        UserError: if the disk is full or the folder cannot be written to; the old file is untouched.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode(0o666))
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}; free some space or choose another folder", 1) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, data_key: str) -> int:
    """Restore what `save_checkpoint` wrote, and return the number of steps done.

    Every process of a sharded model reads the whole file and keeps its shard of it, tensor by tensor.

    Raises:
        UserError: if the file is damaged, or belongs to another model or other data.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if metadata.get("data_key") != data_key:
                raise UserError(f"checkpoint {path} was made on other data; remove it to start over", 1)
            names = set(file.keys())
            _refuse_misfit(path, file, names, model)
            state = {}
            with torch.no_grad():
                for index, (name, parameter) in enumerate(_trainable(model)):
                    parameter.copy_(_as_held(file.get_tensor(f"model.{name}"), parameter))
                    moments = {
                        key: file.get_tensor(f"optimizer.{key}.{name}")
                        for key in MOMENTS
                        if f"optimizer.{key}.{name}" in names
                    }
                    if moments:
                        state[index] = {
                            key: value if key == "step" else _as_held(value, parameter)
                            for key, value in moments.items()
                        }
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
            return int(metadata["step"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"checkpoint {path} cannot be read ({error}); remove it to start over", 1) from None


def _refuse_misfit(path: Path, file: Any, names: set[str], model: nn.Module) -> None:
    missing = [name for name, _ in _trainable(model) if f"model.{name}" not in names]
    if missing:
        raise UserError(
            f"checkpoint {path} lacks {missing[0]} (and {len(missing) - 1} more), so another model made it; "
            "remove it to start over",
            1,
        )
    for name, parameter in _trainable(model):
        shape = file.get_slice(f"model.{name}").get_shape()
        if list(shape) != list(parameter.shape):
            raise UserError(
                f"checkpoint {path}: {name} is {list(shape)}, the model's is {list(parameter.shape)}; "
                "remove it to start over",
                1,
            )


def _as_held(whole: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor as the process holds the parameter: a shard of it where the parameter is one."""
    if isinstance(parameter, DTensor):
        return distribute_tensor(whole.to(parameter.device), parameter.device_mesh, parameter.placements)
    return whole


def whole_state(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """The state dictionary with whole tensors on the CPU, for saving; every process of a sharded model must call this.

    Args:
        model: any model.
        keep: False where this process only helps to gather.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            found[name] = whole.detach().cpu()
    return found


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
