"""Several processes that train one model, as torchrun starts them: by DDP or by FSDP2."""

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from exo2ego.training.experiment import BatchSettings
from stores.errors import UserFault

Sharing = Literal["ddp", "fsdp"]
"""ddp: every process has the whole model; fsdp: each holds a part of every tensor (FSDP2)."""

LONGEST_WAIT = timedelta(hours=1)
"""For another process, which may be writing a checkpoint or sample videos. Choice."""


class RankFault(UserFault, RuntimeError):
    """Processes that do not fit the experiment, or one of them that is lost."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Of this machine; the number of its GPU."""

    @property
    def is_first(self) -> bool:
        """True for the one process that writes and speaks."""
        return self.rank == 0

    def device(self, device: str) -> str:
        """This process's own GPU, if GPUs are meant."""
        return f"cuda:{self.local_rank}" if device == "cuda" and self.world_size > 1 else device

    def clips(self, batch: BatchSettings) -> int:
        """Clips a step of this process.

        Raises RankFault unless global_batch = processes x micro_batch x accumulation.
        """
        at_once = self.world_size * batch.micro_batch
        if batch.global_batch % at_once:
            raise RankFault(
                "The global batch cannot be divided among these processes.",
                where="batch",
                expected="global_batch = processes x micro_batch x accumulation",
                got=f"{batch.global_batch} clips, {self.world_size} processes, micro_batch "
                f"{batch.micro_batch}",
                fix="Start another number of processes, or set batch.micro_batch to a divisor of "
                "global_batch / processes; losses stay the same.",
            )
        return batch.global_batch // self.world_size

    def total(self, *values: float) -> list[float]:
        """Sums over all processes, the same bits on each; the values themselves if it is alone."""
        if self.world_size == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=_speaking_device())
        dist.all_reduce(summed)
        return summed.tolist()

    def joined_lists(self, own: list[Any]) -> list[Any]:
        """The lists of all processes, one after the other, the same on each."""
        lists: list[list[Any]] = [own]
        if self.world_size > 1:
            lists = [[] for _ in range(self.world_size)]
            dist.all_gather_object(lists, own)
        return [item for one in lists for item in one]

    def wait(self) -> None:
        """Returns once every process is here."""
        self.total(0.0)


ALONE = Ranks()
"""One process."""


def ranks_of_environment() -> Ranks:
    """What torchrun says of this process; alone without it."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    rank, world_size, local_rank = (
        int(os.environ.get(name, value)) for name, value in zip(names, (0, 1, 0), strict=True)
    )
    return Ranks(rank, world_size, local_rank)


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """This process among the others: NCCL between GPUs, gloo between CPUs.

    What `share` made must be gone by the end, after `stop_sharing`, and with it the group's
    threads: gloo's and Python may else wait for each other for ever, or abort as Python ends (seen
    in torch 2.13: DDP in about one run of three, FSDP2 twice in one run of the tests).
    """
    ranks = ranks_of_environment()
    if ranks.world_size == 1:
        yield ranks
        return
    on_gpus = torch.device(device).type == "cuda"
    if on_gpus:
        torch.cuda.set_device(ranks.local_rank)
    dist.init_process_group("nccl" if on_gpus else "gloo", timeout=LONGEST_WAIT)
    try:
        yield ranks
    except RuntimeError as cause:
        if isinstance(cause, UserFault) or not is_lost_rank(cause):
            raise
        raise lost_rank(ranks, "the last one in the run's folder") from cause
    finally:
        gc.collect()  # modules that are shared lie in circles
        dist.destroy_process_group()


def share(model: nn.Module, ranks: Ranks, sharing: Sharing) -> nn.Module:
    """The module to call in place of the model, whose gradients are means over the processes."""
    return model if ranks.world_size == 1 else SHARINGS[sharing](model)


def _whole(model: nn.Module) -> nn.Module:
    # every process has built or read the same weights: nothing is sent around at the start
    return DistributedDataParallel(model, init_sync=False, forward_sync_buffers=False)


def _in_parts(model: nn.Module) -> nn.Module:
    """FSDP2, block by block: one block's weights are whole at a time, and the next one's."""
    for block in blocks_of(model):
        fully_shard(block)
    fully_shard(model)
    return model


SHARINGS: Mapping[Sharing, Callable[[nn.Module], nn.Module]] = {"ddp": _whole, "fsdp": _in_parts}
"""How each form of sharing makes the module that is called."""


def stop_sharing(parameters: Iterable[nn.Parameter]) -> None:
    """Lets FSDP2's parameters forget the group of processes, which ends with its last owner.

    torch keeps their mesh in caches of its own for as long as Python runs, and the mesh the group.
    """
    for parameter in parameters:
        if isinstance(parameter, DTensor):
            # a private name: tests/exo2ego/test_parallel.py sees to it that no thread is left
            getattr(parameter.device_mesh, "_pg_registry", {}).clear()


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of any stage's model, in their order."""
    return [
        block
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] == "blocks"
        for block in module
    ]


def without_exchange(module: nn.Module) -> AbstractContextManager[None]:
    """Where a backward pass only adds to DDP's gradients, as another one will send them.

    FSDP2 sends them each time: a process has no room for whole gradients.
    """
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def held(parameter: nn.Parameter) -> nn.Parameter:
    """What this process holds of a parameter, in the parameter's own memory: all, or its rows."""
    return nn.Parameter(parameter.to_local()) if isinstance(parameter, DTensor) else parameter


def part_of(parameter: nn.Parameter, whole: Tensor) -> Tensor:
    """This process's rows of a tensor that belongs to the parameter, row by row or in pieces."""
    if not isinstance(parameter, DTensor) or not whole.dim():
        return whole
    rank, world_size = parameter.device_mesh.get_local_rank(), parameter.device_mesh.size()
    rows = parameter.shape[0]
    each, pieces = -(-rows // world_size), whole.shape[0] // rows  # as torch.chunk divides them
    return whole[rank * each * pieces : (rank + 1) * each * pieces]


def whole_tensors(
    parts: dict[str, Tensor], parameters: dict[str, nn.Parameter]
) -> dict[str, Tensor]:
    """All processes' parts put together, on the first one's CPU; nothing on the others.

    A part is called as its parameter is, or `slot/parameter`. All processes must call this.
    """
    if not dist.is_initialized():
        return {name: part.cpu() for name, part in parts.items()}
    shapes: list[dict[str, torch.Size]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(shapes, {name: part.shape for name, part in parts.items()})
    found = {}
    for name, part in parts.items():
        parameter = parameters[name.rpartition("/")[2]]
        if isinstance(parameter, DTensor) and part.dim():
            part = _together(part, [shape[name] for shape in shapes])
        if dist.get_rank() == 0:
            found[name] = part.cpu()
    return found


def _together(part: Tensor, shapes: list[torch.Size]) -> Tensor:
    """Rows of all processes; they are sent with as many rows each, as collectives want it."""
    most = max(shape[0] for shape in shapes)
    padded = part.new_zeros(most, *shapes[0][1:])
    padded[: len(part)] = part
    everybody = [torch.empty_like(padded) for _ in shapes]
    dist.all_gather(everybody, padded)
    return torch.cat([rows[: shape[0]] for rows, shape in zip(everybody, shapes, strict=True)])


def is_lost_rank(cause: RuntimeError) -> bool:
    """True if an exchange failed since another process is gone."""
    return isinstance(cause, dist.DistError) or "gloo" in str(cause)


def lost_rank(ranks: Ranks, checkpoint: str) -> RankFault:
    """What ends this process; `checkpoint` is the newest one that it knows of."""
    return RankFault(
        "Another process of this run is lost; this one ends, too.",
        where=f"process {ranks.rank} of {ranks.world_size}",
        expected="an answer of all processes",
        got="none",
        fix="Read what the lost process said, mend it, and pass --resume, on any number of "
        f"processes. The newest checkpoint is {checkpoint}.",
    )


def _speaking_device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
