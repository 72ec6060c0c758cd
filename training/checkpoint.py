"""A training checkpoint: one safetensors file, complete and atomic, so that a killed run goes on where it was.

It holds the trainable weights, AdamW's moments, the random state and the step; the learning rate and the position in
the data are functions of the step. There is no pickle in it.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import UserError
from ..records import atomic_write

FILE_NAME = "checkpoint.safetensors"


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, data_key: str) -> None:
    """Write the state after ``step`` optimizer steps.

    Args:
        path: the file to write; the old one stays until the new one is whole.
        model: its parameters that require a gradient are saved.
        optimizer: AdamW over exactly those parameters, in the order of ``model.named_parameters()``.
        step: steps done.
        data_key: names the data order; loading under another one is refused.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in _trainable(model):
        tensors[f"model.{name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value).detach()
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    # Tied or transposed parameters may share memory or be strided; the file wants each on its own.
    packed = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
    atomic_write(path, save(packed, metadata={"step": str(step), "data_key": data_key}))


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, data_key: str) -> int:
    """Restore what `save_checkpoint` wrote, and return the number of steps done.

    Raises:
        UserError: if the file is damaged, or belongs to another model or other data.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if metadata.get("data_key") != data_key:
                raise UserError(f"checkpoint {path} was made on other data; remove it to start over", 1)
            names = set(file.keys())
            missing = [name for name, _ in _trainable(model) if f"model.{name}" not in names]
            if missing:
                raise UserError(
                    f"checkpoint {path} lacks {missing[0]} (and {len(missing) - 1} more), so another model made it; "
                    "remove it to start over",
                    1,
                )
            with torch.no_grad():
                for name, parameter in _trainable(model):
                    saved = file.get_tensor(f"model.{name}")
                    if saved.shape != parameter.shape:
                        raise UserError(
                            f"checkpoint {path}: {name} is {list(saved.shape)}, the model's is "
                            f"{list(parameter.shape)}; remove it to start over",
                            1,
                        )
                    parameter.copy_(saved)
            state = {}
            for index, (name, _) in enumerate(_trainable(model)):
                moments = {
                    key: file.get_tensor(f"optimizer.{key}.{name}")
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"optimizer.{key}.{name}" in names
                }
                if moments:
                    state[index] = moments
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
            torch.set_rng_state(file.get_tensor("random.cpu"))
            if "random.cuda" in names and torch.cuda.is_available():
                torch.cuda.set_rng_state(file.get_tensor("random.cuda"))
            return int(metadata["step"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"checkpoint {path} cannot be read ({error}); remove it to start over", 1) from None


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
