"""The exponential moving average of what trains, for sampling (Karras et al. 2024, Polyak)."""

from torch import Tensor, nn

from exo2ego.training.parallel import held, part_of

WARM_UP = 10
"""Makes the average young at first: after n steps at most (1 + n) / (10 + n) of it stays."""


class Ema:
    """The average of what this process holds of the parameters, in fp32.

    Choice: the young start is that of the field's trainers (TensorFlow's `num_updates`): without
    it, the average is the initial weights for thousands of steps.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float):
        self._parameters, self._decay = parameters, decay
        self._held = {name: held(parameter) for name, parameter in parameters.items()}
        self.average = {name: own.detach().float().clone() for name, own in self._held.items()}
        """By the parameters' names."""

    def update(self, step: int) -> None:
        """Takes in the weights after the step of that number, the first being 0."""
        moves = 1 - min(self._decay, (1 + step) / (WARM_UP + step))
        for name, average in self.average.items():
            average.lerp_(self._held[name].detach().float(), moves)

    def restore(self, whole: dict[str, Tensor]) -> None:
        """Goes on from a checkpoint's averages."""
        for name, average in self.average.items():
            average.copy_(part_of(self._parameters[name], whole[name]))
