"""FLOPs and memory of a forward and backward pass, counted on tensors that have no numbers."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class PassCount:
    """What one forward and backward pass takes."""

    forward_flops: int
    backward_flops: int
    """Without gradients of what is frozen."""
    again_flops: int
    """Of the second forward pass of what is checkpointed."""
    saved_bytes: int
    """Of tensors that are kept from forward to backward, parameters apart; of what is checkpointed,
    its inputs, and all that the largest one makes again."""


def count_pass(
    run: Callable[[], Tensor],
    model: nn.Module,
    dtype: torch.dtype = torch.float32,
    checkpointed: Iterable[nn.Module] = (),
) -> PassCount:
    """Counts `run`, which gives a loss, and its backward pass. All tensors are on meta.

    `dtype` is that of matrix products, as autocast has it, which knows no meta tensors; nor does
    torch's checkpointing, so the model is to be without: it is reckoned for the modules named.
    """
    like_gpu = _LikeGpu(dtype)
    own = [parameter.untyped_storage() for parameter in model.parameters()]
    kept = _Kept({storage._cdata: storage for storage in own}, like_gpu.copies)
    saved = torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as forward, like_gpu, saved:
        again = [
            _Again(module, kept, lambda: forward.get_total_flops() + like_gpu.flops)
            for module in checkpointed
        ]
        try:
            loss = run()
        finally:
            for module in again:
                module.remove()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    return PassCount(
        forward.get_total_flops() + like_gpu.flops,
        backward.get_total_flops() + like_gpu.backward_flops,
        sum(module.flops for module in again),
        kept.bytes(),
    )


class _Kept:
    """Storages that are kept from forward to backward. Held, as addresses are used again."""

    def __init__(self, *apart: dict[int, Any]):
        self._apart = apart
        self._always = dict[int, Any]()
        self._made_again = list[dict[int, Any]]()
        self._place = self._always

    def keep(self, tensor: Tensor) -> Tensor:
        """The same tensor, to be counted where the pass is."""
        storage = tensor.untyped_storage()
        if not any(storage._cdata in apart for apart in self._apart):
            self._place[storage._cdata] = storage
        return tensor

    def enter(self, inputs: Iterable[Tensor]) -> None:
        """What comes is made again, but for these."""
        for tensor in inputs:
            self.keep(tensor)
        self._made_again.append({})
        self._place = self._made_again[-1]

    def leave(self) -> None:
        """What comes is kept again."""
        self._place = self._always

    def bytes(self) -> int:
        """At the height of the backward pass."""
        again = [
            sum(storage.nbytes() for key, storage in made.items() if key not in self._always)
            for made in self._made_again
        ]
        return sum(storage.nbytes() for storage in self._always.values()) + max(again, default=0)


class _Again:
    """A module of which inputs are kept, and that runs once more on the way back."""

    def __init__(self, module: nn.Module, kept: _Kept, flops_so_far: Callable[[], int]):
        self.flops = 0
        self._kept, self._flops_so_far = kept, flops_so_far
        self._hooks = [  # before the module's own hooks and after them, which run again, too
            module.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True),
            module.register_forward_hook(self._leave),
        ]

    def remove(self) -> None:
        """Leaves the module as it was."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        self.flops -= self._flops_so_far()
        self._kept.enter(_tensors((*args, *kwargs.values())))

    def _leave(self, _module: nn.Module, _args: Any, _result: Any) -> None:
        self.flops += self._flops_so_far()
        self._kept.leave()


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of arguments, those in tuples, too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


class _LikeGpu(TorchFunctionMode):
    """Matrix products in one type, and attention as fused kernels have it.

    These keep no matrix of weights, and make it again on the way back.
    """

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.flops, self.backward_flops = 0, 0
        self.copies: dict[int, Any] = {}
        """Storages of the parameters' copies in `dtype`, which are no activations."""
        self._dtype, self._copy_of = dtype, dict[int, Tensor]()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            given = {**dict(zip(("query", "key", "value"), args, strict=False)), **kwargs}
            return self._attend(*(self._cast(given[name]) for name in ("query", "key", "value")))
        if func in _PRODUCTS:
            args = [self._cast(value) for value in args]
            kwargs = {name: self._cast(value) for name, value in kwargs.items()}
        elif func in _PRECISE:
            args = [_in_float32(value) for value in args]
        return func(*args, **kwargs)

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if value.dtype == self._dtype or not isinstance(value, nn.Parameter):
            return value.to(self._dtype)
        if id(value) not in self._copy_of:
            copy = self._copy_of[id(value)] = value.to(self._dtype)
            self.copies[copy.untyped_storage()._cdata] = copy
        return self._copy_of[id(value)]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # two products of queries x keys x width; backward: four, and the first once more
        product = 2 * math.prod(query.shape) * key.shape[-2]
        self.flops += 2 * product
        self.backward_flops += 5 * product if query.requires_grad or key.requires_grad else 0
        return _KeepsWhatFusedKernelsKeep.apply(query, key, value)


_PRODUCTS = (
    functional.linear,
    functional.conv1d,
    functional.conv2d,
    functional.conv3d,
    torch.matmul,
    torch.bmm,
)


_PRECISE = (functional.layer_norm, functional.group_norm, functional.normalize)
"""What autocast computes in float32, of the functions that models here use."""


def _in_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


class _KeepsWhatFusedKernelsKeep(torch.autograd.Function):
    """Queries, keys, values, the result, and a number a query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """A result without numbers."""
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result, query.new_empty(query.shape[:-1]).float())
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients without numbers."""
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
