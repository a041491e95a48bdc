"""AdamW of all stages, its states in fp32 or in 8 bit, and its learning rate at every step."""

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from exo2ego.training.experiment import OptimiserSettings
from exo2ego.training.parallel import held, part_of

LEAST_8BIT = 4096
"""Values of the smallest tensor whose states are in 8 bit (Dettmers et al. 2022, bitsandbytes)."""
BLOCK_8BIT = 256
"""Values that share one scale (same source)."""
_SLOTS_FP32 = ("step", "exp_avg", "exp_avg_sq")
_SLOTS_8BIT = ("step", "state1", "absmax1", "state2", "absmax2")


def learning_rate(settings: OptimiserSettings, step: int) -> float:
    """Of step 0, 1, ...: linear warm-up to `lr`, then half a cosine to `min_lr` at the end."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    passed = (step - settings.warmup_steps) / max(1, settings.steps - 1 - settings.warmup_steps)
    return settings.min_lr + (settings.lr - settings.min_lr) * (1 + math.cos(math.pi * passed)) / 2


def is_8bit(shape: torch.Size, settings: OptimiserSettings) -> bool:
    """True if a parameter's states are in 8 bit: large matrices whose rows are whole blocks.

    Choice: rows of whole blocks alone, so that a part of the rows has the very states that it has
    in the whole matrix, and a checkpoint fits any number of processes.
    """
    large = len(shape) == 2 and shape.numel() >= LEAST_8BIT
    return settings.states == "8bit" and large and shape[1] % BLOCK_8BIT == 0


def state_bytes(shape: torch.Size, settings: OptimiserSettings) -> int:
    """Bytes of both moments of a parameter, and of their scales."""
    values = shape.numel()
    if is_8bit(shape, settings):
        return 2 * (values + 4 * values // BLOCK_8BIT)
    return 2 * 4 * values


class AdamW:
    """Steps what this process holds of the parameters: all of each, or a part of its rows."""

    def __init__(self, parameters: dict[str, nn.Parameter], settings: OptimiserSettings):
        self._parameters = parameters
        self._held = {name: held(parameter) for name, parameter in parameters.items()}
        self._large = {name for name, p in parameters.items() if is_8bit(p.shape, settings)}
        full = [own for name, own in self._held.items() if name not in self._large]
        large = [own for name, own in self._held.items() if name in self._large]
        about: dict[str, Any] = {"lr": settings.lr, "betas": settings.betas}
        about |= {"eps": settings.eps, "weight_decay": settings.weight_decay}
        self._full = torch.optim.AdamW(full, **about) if full else None
        self._small = _open_8bit(large, about) if large else None

    def step(self, lr: float) -> None:
        """One step along the gradients, which are gone afterwards."""
        for name, parameter in self._parameters.items():
            own, grad = self._held[name], parameter.grad
            if own is not parameter:
                own.grad = None if grad is None else cast(Any, grad).to_local()
        for optimiser in (self._full, self._small):
            if optimiser:
                for group in optimiser.param_groups:
                    group["lr"] = lr
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
        self.forget()

    def forget(self) -> None:
        """Drops all gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def slots(self) -> dict[str, Tensor]:
        """This process's part of the states, as `slot/parameter`."""
        found = {}
        for name, own in self._held.items():
            optimiser, kept = self._stepper(name)
            state = optimiser.state.get(own, {})
            found |= {f"{slot}/{name}": torch.as_tensor(state[slot]) for slot in kept if state}
        return found

    def restore(self, slots: dict[str, Tensor]) -> None:
        """Takes over whole states, as `slot/parameter`: of each this process's part."""
        for name, own in self._held.items():
            optimiser, kept = self._stepper(name)
            found = {slot: slots.get(f"{slot}/{name}") for slot in kept}
            if found["step"] is None:
                continue  # it never had a gradient
            state = {
                slot: part_of(self._parameters[name], cast(Tensor, whole)).to(own.device).clone()
                for slot, whole in found.items()
                if slot != "step"
            }
            if optimiser is self._small:
                cast(Any, optimiser).init_state(optimiser.param_groups[0], own, 0, 0)
                optimiser.state[own].update(state, step=int(found["step"]))
            else:
                optimiser.state[own] = state | {"step": found["step"].clone()}

    def _stepper(self, name: str) -> tuple[torch.optim.Optimizer, tuple[str, ...]]:
        """What steps the parameter, and the names of the states that it keeps."""
        if name in self._large:
            return cast(torch.optim.Optimizer, self._small), _SLOTS_8BIT
        return cast(torch.optim.Optimizer, self._full), _SLOTS_FP32


def _open_8bit(parameters: Iterable[nn.Parameter], about: dict[str, Any]) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW, which is not read by those who do not use it."""
    from bitsandbytes.optim.adamw import AdamW8bit

    return AdamW8bit(parameters, **about, min_8bit_size=0)  # who gets it is decided here
