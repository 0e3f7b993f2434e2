"""Several processes that train one network: on GPUs of one machine or of many.

Started with ``accelerate launch`` (or ``torchrun``); a plain ``python -m`` is one process. Each
step's batches are shared out among the processes and the gradients are averaged before the
optimiser moves, so that a step does not depend on how many processes there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import nn

from panosam2_core.build import resolve_device
from panosam2_core.errors import ConfigError


def join_processes(device: str) -> PartialState:
    """Find the other processes, if there are any.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; of several processes each takes the GPU
            of its own number.

    Returns:
        Who this process is, and its ``device``.

    Raises:
        ConfigError: for an unknown or absent device, or one GPU named for several processes.
    """
    chosen = resolve_device(device)
    state = PartialState(cpu=chosen.type == "cpu")
    if chosen.index is not None:
        if state.num_processes > 1:
            raise ConfigError(f"device {device!r} is one GPU for {state.num_processes} processes")
        state.device = chosen
    return state


def average_gradients(parameters: Sequence[nn.Parameter], state: PartialState) -> None:
    """Give every process the mean of all processes' gradients.

    Args:
        parameters: the same on each process. One that has no gradient anywhere is left without.
        state: of the processes.
    """
    if state.num_processes == 1:
        return
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=state.device)
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    anywhere = reduce(used, reduction="sum") > 0
    # One message for all of them; small ones would cost a round trip each.
    flat = reduce(torch.cat([grad.flatten() for grad in grads]), reduction="mean")
    parts = flat.split([p.numel() for p in parameters])
    for parameter, part, use in zip(parameters, parts, anywhere.tolist(), strict=True):
        parameter.grad = part.view_as(parameter) if use else None


def average_metrics(metrics: Mapping[str, float], state: PartialState) -> dict[str, float]:
    """Mean of each metric over the processes.

    Args:
        metrics: with the same keys on each process.
        state: of the processes.

    Returns:
        The means.
    """
    if state.num_processes == 1:
        return dict(metrics)
    values = torch.tensor(list(metrics.values()), dtype=torch.float32, device=state.device)
    means = reduce(values, reduction="mean").tolist()
    return dict(zip(metrics, means, strict=True))
