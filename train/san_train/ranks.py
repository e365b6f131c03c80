"""Several processes that train one network: `torchrun --nproc-per-node N -m san_deploy train ...`.

Every rank draws the same global plan and takes its identities of each batch. The triplet loss looks at the whole
batch: embeddings are gathered, those of other ranks without a gradient, and the ranks' gradients are summed, which
gives the gradient of one process (each embedding's part comes from the rank that made it). Rank 0 alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from san_deploy.errors import SanError, UsageError

#: A rank that waits longer for the others gives up. Rank 0 validates while they wait.
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: 0 .. world - 1.
        world: how many there are; 1 is a run without torchrun, in which every method below does nothing.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes, validates and speaks."""
        return self.rank == 0

    def places(self, num_ids: int, num_instances: int) -> list[int]:
        """Places of this rank's crops in a batch of P x K: identities rank, rank + world, ...

        Raises:
            UsageError: P is no multiple of the number of processes.
        """
        if num_ids % self.world:
            raise UsageError(
                f"{self.world} processes do not share {num_ids} identities evenly",
                do=f"give --set num_ids={-(-num_ids // self.world) * self.world}",
            )
        mine = range(self.rank, num_ids, self.world)
        return [i * num_instances + k for i in mine for k in range(num_instances)]

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all ranks, `(N, ...)` to `(world * N, ...)` in order of rank; a gradient flows into the own ones."""
        if self.world == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.world)]
        self._try(lambda: dist.all_gather(parts, rows.detach().contiguous()))
        parts[self.rank] = rows
        return torch.cat(parts)

    def add_gradients(self, module: nn.Module) -> None:
        """Sum the gradients of all ranks, in place, in one message."""
        if self.world == 1:
            return
        # Which weights the losses reach is the same on all ranks: it hangs on the recipe, not on the crops.
        parameters = [p for p in module.parameters() if p.grad is not None]
        flat = torch.cat([p.grad.float().flatten() for p in parameters if p.grad is not None])
        self._try(lambda: dist.all_reduce(flat))
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def add(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Sums over ranks of a few numbers."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=device)
        self._try(lambda: dist.all_reduce(total))
        return [float(value) for value in total]

    def share(self, module: nn.Module) -> None:
        """Give every rank the weights and buffers of rank 0, in place."""
        if self.world > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                self._try(partial(dist.broadcast, tensor.data, 0))

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.world > 1:
            self._try(dist.barrier)

    def _try(self, send: Callable[[], object]) -> None:
        try:
            send()
        except RuntimeError as error:
            raise SanError(
                f"process {self.rank} of {self.world} lost the others",
                why=str(error).splitlines()[0],
                do="see the message of the process that ended first; --resume goes on from the last epoch",
            ) from error


def join(device: str) -> tuple[Ranks, str]:
    """This process's place among those that torchrun started, and its device.

    Args:
        device: as asked for; `auto` and `cuda` become the GPU of this process's local rank.

    Returns:
        `Ranks()` and `device` as it is where torchrun started nothing.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world < 2 or "RANK" not in os.environ:
        return Ranks(), device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if not dist.is_initialized():
        backend = "nccl" if device.startswith("cuda") else "gloo"
        try:
            dist.init_process_group(backend, timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise SanError(
                "the processes of torchrun do not find each other", why=str(error).splitlines()[0]
            ) from error
    return Ranks(int(os.environ["RANK"]), world), device


def leave() -> None:
    """End the connection, where there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
