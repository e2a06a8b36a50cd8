"""Many processes that train one model: who they are, and what they exchange.

`torchrun` starts them and sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Each
gets its part of every batch. Two ways to hold the weights:

- "ddp": every process has all of them; gradients are summed after the step. The sum is ours and
  not `DistributedDataParallel`'s: gradient caching makes several backward passes, each of which
  that class would take for a step, and a process may have no text at all.
- "fsdp": each has a part of every matrix (FSDP2, `torch.distributed.fsdp.fully_shard`).

Without torchrun there is one process and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from culet.errors import Interrupted, RecipeError, TrainingError
from culet.train.heartbeat import Heartbeat

Parallel = Literal["ddp", "fsdp"]

_TIMEOUT = timedelta(minutes=10)  # of one exchange; waiting for the first process has none
_BUCKET_NUMBERS = 1 << 24  # gradients are summed in pieces of 64 MiB


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: Which process this is, from 0. The first alone writes and prints.
        size: How many there are.
        device: Where this one computes.
        sharded: Each process holds a part of the weights.
        heartbeat: Notices when another process stops; None if there are no others.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    sharded: bool = False
    heartbeat: Heartbeat | None = field(default=None, compare=False)

    @property
    def first(self) -> bool:
        """Return whether this process writes and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here, however long it takes."""
        if self.heartbeat is not None:
            self.heartbeat.wait()

    @contextmanager
    def first_then_others(self) -> Iterator[None]:
        """Run the body in the first process, and when it is done there in the others."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def sums(self, values: Sequence[int]) -> list[int]:
        """Return the sums of some numbers over all processes."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(numbers)
        return [int(number) for number in numbers]

    def totals(self, values: Tensor) -> Tensor:
        """Return the sums of some numbers over all processes, on the CPU."""
        values = values.detach().double().cpu()
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def max(self, value: int) -> int:
        """Return the largest of a number over all processes."""
        if self.size == 1:
            return value
        number = torch.tensor(value)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return int(number)

    def missing_passes(self, own: int) -> int:
        """Return how many more passes through the model the busiest process makes.

        Where weights are split, every pass puts them together from all processes, so none may make
        a pass alone. Where they are not, nothing is missing. Call it before the first pass.

        Args:
            own: Passes of this process.
        """
        return self.max(own) - own if self.sharded else 0

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return every process's rows [n, ...], where n may differ and the rest may not."""
        if self.size == 1:
            return [rows]
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(rows)]))
        longest = max(int(count) for count in counts)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return [part[: int(count)] for part, count in zip(parts, counts, strict=True)]

    def shard(self, model: nn.Module, blocks: Iterable[nn.Module]) -> None:
        """Split the weights of a model over the processes, in place, if they are to be split.

        Args:
            model: The model, with the same weights in every process.
            blocks: Parts of it that are put together one at a time.
        """
        if not self.sharded:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(torch.device(self.device).type, (self.size,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)

    def shard_layers(self, model: nn.Module, blocks: Sequence[nn.Module]) -> None:
        """Split the layers of a model over the processes, in place, if weights are to be split.

        Parameters outside the layers stay whole, such as the token table, which the loss reads
        directly. The gradients of the layers are summed in the backward pass, those of the other
        parameters by `sum_gradients`.

        Args:
            model: What is called, with the same weights in every process.
            blocks: Its layers.
        """
        if not self.sharded:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(torch.device(self.device).type, (self.size,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        inside = {id(p) for block in blocks for p in block.parameters()}
        outside = {p for p in model.parameters() if id(p) not in inside}
        fully_shard(model, mesh=mesh, ignored_params=outside)
        for module in (*blocks, model):
            module.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]
            module.set_gradient_divide_factor(1.0)  # type: ignore[operator]

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by the sum over the processes; sharded ones have been already."""
        if self.size == 1:
            return
        plain = [p for p in parameters if p.requires_grad and not is_sharded(p)]
        has = torch.tensor([p.grad is not None for p in plain], dtype=torch.int64)
        dist.all_reduce(has)
        plain = [p for p, number in zip(plain, has.tolist(), strict=True) if number]
        for bucket in _buckets(plain):
            pieces = [
                p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in bucket
            ]
            flat = torch.cat(pieces)
            dist.all_reduce(flat)
            begin = 0
            for p in bucket:
                p.grad = flat[begin : begin + p.numel()].view_as(p)
                begin += p.numel()

    def seed(self, *seeds: int) -> None:
        """Give this process random numbers of its own for a step; a single one keeps its stream."""
        if self.size > 1:
            sequence = np.random.SeedSequence([*seeds, self.rank])
            torch.manual_seed(int(sequence.generate_state(1)[0]))


ALONE = World()
_current = ALONE


def current() -> World:
    """Return the processes of the current run; outside `joined`, this one alone."""
    return _current


@contextmanager
def alone() -> Iterator[World]:
    """Run the body as if this process were the only one."""
    global _current
    before = _current
    _current = replace(ALONE, device=before.device)
    try:
        yield _current
    finally:
        _current = before


@contextmanager
def joined(device: str, parallel: Parallel = "ddp") -> Iterator[World]:
    """Join the other processes that torchrun has started, if it has.

    Args:
        device: "auto", "cpu", "cuda" or "mps"; with several GPUs each process takes its own.
        parallel: How the weights are held.

    Raises:
        RecipeError: If there are more processes than GPUs, or the device cannot be shared.
        TrainingError: If another process has stopped, with its message.
    """
    global _current
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    place = find_device(device, int(os.environ.get("LOCAL_RANK", "0")), size)
    if size == 1 or "MASTER_ADDR" not in os.environ:
        yield World(device=place)
        return
    backend = "cpu:gloo,cuda:nccl" if place.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=_TIMEOUT)
    heartbeat = Heartbeat(_own_store(), rank=rank, size=size)
    _current = World(rank, size, place, parallel == "fsdp", heartbeat)
    try:
        yield _current
        heartbeat.wait()
        heartbeat.leave()
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, Interrupted):  # all of them have stopped after the same step
            heartbeat.close()
            raise
        cause = _cause(error, heartbeat)
        if cause is not None:
            heartbeat.close()
            raise TrainingError(f"{cause}; run the same command again to go on") from error
        heartbeat.report(str(error) or type(error).__name__)
        heartbeat.close()
        raise
    finally:
        _current = ALONE
    dist.destroy_process_group()


def find_device(device: str, local_rank: int, size: int) -> str:
    """Return the device of one process."""
    if device == "auto":
        if torch.cuda.is_available():
            device = "cuda"
        else:
            device = "mps" if size == 1 and torch.backends.mps.is_available() else "cpu"
    if size == 1:
        return device
    if device == "mps":
        raise RecipeError(
            "device mps cannot be shared by processes; start one, or set run.device = 'cpu'"
        )
    if device != "cuda":
        return device
    if local_rank >= torch.cuda.device_count():
        raise RecipeError(
            f"process {local_rank} of this machine has no GPU: there are "
            f"{torch.cuda.device_count()}; start as many processes as GPUs"
        )
    torch.cuda.set_device(local_rank)
    return f"cuda:{local_rank}"


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is one process's part of a larger one."""
    return hasattr(tensor, "full_tensor")


def unshard(tensor: Tensor) -> Tensor:
    """Return a tensor put together from its parts; every process must call it."""
    if not is_sharded(tensor):
        return tensor
    full: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return full


@torch.no_grad()
def put_together(model: nn.Module) -> None:
    """Put split weights together in the first process, to be read, not to be computed with.

    Every process must call it. One by one they are copied to the CPU; the other processes keep
    none.
    """
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if is_sharded(parameter):
                value = unshard(parameter)
                kept = value.cpu() if current().first else value.new_empty(0)
                module.register_parameter(name, nn.Parameter(kept))


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor in the form of another: itself, or this process's part of it."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    shape: Any = like
    return distribute_tensor(tensor.to(like.device), shape.device_mesh, shape.placements)


def _own_store() -> Any:
    """Return a second connection to the store that the processes met in."""
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=60),
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    prefix = f"culet/{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{attempt}"
    return dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]


def _cause(error: BaseException, heartbeat: Heartbeat) -> str | None:
    """Return why another process has stopped, if that is why this one stops.

    torchrun ends the others by SIGTERM as soon as one is gone, often before this function is done.
    """
    if heartbeat.failure is not None:
        return heartbeat.failure
    try:
        return (
            heartbeat.why(1) if isinstance(error, KeyboardInterrupt) else _broken(error, heartbeat)
        )
    except KeyboardInterrupt:
        return heartbeat.why()


def _broken(error: BaseException, heartbeat: Heartbeat) -> str | None:
    """Return why another process has stopped, if this error is only a consequence of it."""
    if isinstance(error, ConnectionError):
        return str(error)
    if not isinstance(error, RuntimeError):
        return None
    text = str(error).lower()
    if any(words in text for words in ("closed by peer", "reset by peer", "timed out", "refused")):
        return heartbeat.why() or f"another process has stopped ({str(error).splitlines()[0]})"
    return heartbeat.why() if "nccl" in text or "gloo" in text else None


def _buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield parameters of one dtype and device in groups of a bounded size."""
    bucket: list[Tensor] = []
    numbers = 0
    for p in parameters:
        if bucket and (numbers + p.numel() > _BUCKET_NUMBERS or p.dtype != bucket[0].dtype):
            yield bucket
            bucket, numbers = [], 0
        bucket.append(p)
        numbers += p.numel()
    if bucket:
        yield bucket
