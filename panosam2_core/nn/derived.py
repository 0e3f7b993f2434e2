"""What is computed from weights, computed once: folded kernels, codes, weights of another type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Derived(Generic[T]):
    """What is computed from weights, kept for as long as they stay the same.

    Used where no gradients are wanted; where they are, every call computes anew. A weight that
    was written to or replaced is noticed by its version and its place in memory, which the kept
    alias of the old one holds. Only writes through ``weight.data[...]``, which torch does not
    count either, are not. Copies and files of a module do not contain what it keeps.
    """

    def __init__(self) -> None:
        self._kept: tuple[Any, list[Tensor], T] | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    def __call__(self, sources: Sequence[Tensor], compute: Callable[[], T], *choice: Any) -> T:
        """Return what ``compute`` gives, or gave.

        Args:
            sources: all the weights that it depends on.
            compute: without arguments. Runs without autocast.
            choice: what else it depends on, such as a dtype or a size.

        Returns:
            Its result.
        """
        device = sources[0].device.type
        if torch.is_grad_enabled() or any(source.is_inference() for source in sources):
            with torch.autocast(device, enabled=False):
                return compute()
        key = (choice, [(source.data_ptr(), source._version) for source in sources])
        kept = self._kept
        if kept is None or kept[0] != key:
            # Not as tensors of inference mode: others may use them later.
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                torch.autocast(device, enabled=False),
            ):
                kept = (key, [source.detach() for source in sources], compute())
            self._kept = kept
        return kept[2]


def arithmetic_type(x: Tensor) -> torch.dtype:
    """Type that matrix products with ``x`` run in, autocast considered.

    Args:
        x: any tensor.

    Returns:
        Its own type, or autocast's.
    """
    device = x.device.type
    if x.is_floating_point() and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype
