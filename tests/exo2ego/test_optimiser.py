"""AdamW with fp32 and 8-bit states: near each other, exact to go on with, the same in parts."""

from collections.abc import Iterable

import pytest
import torch
from torch import nn

from exo2ego.training.experiment import DiffusionOptimiserSettings, OptimiserSettings
from exo2ego.training.experiment_file import load_experiment
from exo2ego.training.optimiser import AdamW, is_8bit, state_bytes

SHAPES = {"large": (24, 512), "odd": (48, 130), "vector": (5120,), "small": (3, 256)}
EIGHT = DiffusionOptimiserSettings(lr=1e-3)
FULL = OptimiserSettings(lr=1e-3)


def parameters_of(shapes: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, nn.Parameter]:
    draws = torch.Generator().manual_seed(5)
    return {name: nn.Parameter(torch.randn(*s, generator=draws)) for name, s in shapes.items()}


def stepped(
    parameters: dict[str, nn.Parameter], optimiser: AdamW, steps: Iterable[int]
) -> dict[str, nn.Parameter]:
    for step in steps:
        draws = torch.Generator().manual_seed(step)
        for parameter in parameters.values():
            parameter.grad = torch.randn(*parameter.shape, generator=draws)
        optimiser.step(1e-3)
    return parameters


def test_large_matrices_of_whole_blocks_alone_are_in_8_bit():
    assert {n: is_8bit(torch.Size(s), EIGHT) for n, s in SHAPES.items()} == {
        "large": True,
        "odd": False,  # a row is no whole number of blocks
        "vector": False,
        "small": False,
    }
    assert not any(is_8bit(torch.Size(shape), FULL) for shape in SHAPES.values())


def test_the_paper_trains_wan_with_8_bit_states_and_align_without():
    states = {s: load_experiment(s).optimiser.states for s in ("align", "multiexocon", "vawan")}
    assert states == {"align": "fp32", "multiexocon": "8bit", "vawan": "8bit"}


def test_8_bit_states_step_nearly_as_fp32_ones_and_small_tensors_exactly():
    start, eight, full = parameters_of(), parameters_of(), parameters_of()
    stepped(eight, AdamW(eight, EIGHT), range(20))
    stepped(full, AdamW(full, FULL), range(20))
    for name in SHAPES:
        moved = (full[name] - start[name]).norm()
        off = (eight[name] - full[name]).norm() / moved
        assert (0 < off < 0.02) if name == "large" else off == 0, name


@pytest.mark.parametrize("settings", [EIGHT, FULL])
def test_it_goes_on_as_if_it_had_never_stopped(settings: OptimiserSettings):
    straight = parameters_of()
    stepped(straight, AdamW(straight, settings), range(6))
    first, second = parameters_of(), parameters_of()
    before = AdamW(first, settings)
    stepped(first, before, range(3))
    for name, parameter in second.items():
        parameter.data.copy_(first[name].data)
    after = AdamW(second, settings)
    after.restore(before.slots())
    stepped(second, after, range(3, 6))
    assert all(torch.equal(second[name], straight[name]) for name in SHAPES)


def test_rows_by_themselves_have_the_8_bit_states_that_they_have_in_the_whole():
    whole, rows = parameters_of({"m": (24, 512)}), {}
    for part, name in enumerate(("upper", "lower")):
        rows[name] = nn.Parameter(whole["m"].detach()[12 * part : 12 * (part + 1)].clone())
    of_whole, of_rows = AdamW(whole, EIGHT), AdamW(rows, EIGHT)
    for step in range(5):
        grad = torch.randn(24, 512, generator=torch.Generator().manual_seed(step))
        whole["m"].grad, rows["upper"].grad, rows["lower"].grad = grad, grad[:12], grad[12:]
        of_whole.step(1e-3)
        of_rows.step(1e-3)
    slots, parts = of_whole.slots(), of_rows.slots()
    assert torch.equal(torch.cat([rows["upper"], rows["lower"]]), whole["m"])
    for slot in ("state1", "absmax1", "state2", "absmax2"):
        together = torch.cat([parts[f"{slot}/upper"], parts[f"{slot}/lower"]])
        assert torch.equal(together, slots[f"{slot}/m"]), slot


@pytest.mark.parametrize("settings", [EIGHT, FULL])
def test_state_bytes_are_those_of_the_states(settings: OptimiserSettings):
    parameters = parameters_of()
    optimiser = AdamW(parameters, settings)
    stepped(parameters, optimiser, range(1))
    for name, parameter in parameters.items():
        own = [v for k, v in optimiser.slots().items() if k.endswith(f"/{name}") and v.dim()]
        assert sum(v.nbytes for v in own) == state_bytes(parameter.shape, settings), name


def test_gradients_are_gone_after_a_step():
    parameters = parameters_of()
    stepped(parameters, AdamW(parameters, EIGHT), range(1))
    assert all(parameter.grad is None for parameter in parameters.values())


def test_a_parameter_that_never_had_a_gradient_is_left_alone_and_goes_on():
    parameters = parameters_of({"a": (3, 5), "b": (4, 2)})
    start, optimiser = parameters["b"].detach().clone(), AdamW(parameters, FULL)
    parameters["a"].grad = torch.ones(3, 5)
    optimiser.step(1e-3)
    assert torch.equal(parameters["b"], start)
    again = AdamW(parameters, FULL)
    again.restore(optimiser.slots())
    assert {key.rpartition("/")[2] for key in again.slots()} == {"a"}
