"""The miniature trainings' optimiser: Muon for matrices and kernels, AdamW for the rest.

With AdamW alone half of ten short runs of the VAE never left the mean picture (docs/mini.md).
"""

from typing import Any

import torch
from torch import nn


class MuonAndAdam:
    """Steps a model on the CPU; a kernel is the matrix of its output channels by all else."""

    def __init__(self, model: nn.Module, lr: float, *, decay: float = 0.0):
        parameters = list(model.parameters())
        self._whole = [one for one in parameters if one.ndim > 1 and one.numel() > one.shape[0]]
        # matrices over the kernels' own memory: a step on these is a step on the kernels
        self._flat = [nn.Parameter(one.data.view(len(one), -1)) for one in self._whole]
        kernels = {id(one) for one in self._whole}
        rest = [one for one in parameters if id(one) not in kernels]
        self._muon = torch.optim.Muon(
            self._flat, lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
        )
        self._adam = torch.optim.AdamW(rest, lr, (0.9, 0.99), weight_decay=0.0)
        self._model = model

    def step(self, lr: float) -> None:
        """One step at this learning rate; gradients are cut to norm 1 before, and gone after."""
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for matrix, kernel in zip(self._flat, self._whole, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.view(len(kernel), -1)
        for optimiser in (self._muon, self._adam):
            for group in optimiser.param_groups:
                group["lr"] = lr
            optimiser.step()
        self._model.zero_grad()
        for matrix in self._flat:
            matrix.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Both optimisers' states."""
        return {"muon": self._muon.state_dict(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` gave."""
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])
