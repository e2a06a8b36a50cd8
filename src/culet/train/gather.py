"""Gathering a contrastive batch from the processes that share it.

Each process embeds its part of the texts. The loss is over all pairs: every process gathers all
embeddings and all pairs, computes the whole loss, and sends the gradient of its own embeddings back
through its own texts. Each embedding so gets the gradient of the loss of all pairs, whichever
process they are in, and the sum over processes is the gradient of one process with the whole batch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from culet.data.batches.collate import PairBatch
from culet.train.processes import World

_ROLES = ("query", "positive", "negative")  # those a batch may have teacher vectors for


def gather_batch(
    embedding: Tensor, batch: PairBatch, world: World
) -> tuple[Tensor, PairBatch, slice]:
    """Return all embeddings [S, E], the pairs over them, and which rows are this process's.

    Equal texts of several processes become one, the first of them: a text is no negative of its
    duplicate, and the pairs of both send their gradient to it.

    Args:
        embedding: The embeddings of this process [T, E], without a graph.
        batch: The pairs of this process; may be none.
        world: The processes.
    """
    if world.size == 1:
        return embedding, batch, slice(0, len(embedding))
    all_rows = world.gather(embedding)
    counts = [len(rows) for rows in all_rows]
    begins = np.cumsum([0, *counts])
    mine = slice(int(begins[world.rank]), int(begins[world.rank + 1]))
    first = _first_of_equal(batch, counts, world)
    offset = int(begins[world.rank])
    pairs = np.stack([batch.query, batch.positive], axis=1) + offset
    columns = world.max(batch.negative.shape[1])
    negative = np.full((len(pairs), columns), -1, dtype=np.int64)
    given = batch.negative
    negative[:, : given.shape[1]] = np.where(given >= 0, given + offset, -1)
    rows = np.concatenate([pairs, negative], axis=1).astype(np.int64)
    gathered = torch.cat(world.gather(torch.from_numpy(rows))).numpy()
    named = np.where(gathered >= 0, first[gathered], -1)
    whole = replace(
        batch,
        query=named[:, 0],
        positive=named[:, 1],
        negative=named[:, 2:],
        teacher=_gather_teacher(batch, columns, world),
    )
    return torch.cat(all_rows), whole, mine


def _first_of_equal(batch: PairBatch, counts: list[int], world: World) -> np.ndarray:
    """Return, for each text of all processes, the first one that is equal to it [S]."""
    total = sum(counts)
    own = len(batch.texts)
    if world.max(int(len(batch.keys) != own)):  # a process does not know its keys
        return np.arange(total)
    keys = torch.cat(world.gather(torch.from_numpy(np.ascontiguousarray(batch.keys)))).numpy()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse]


def _gather_teacher(batch: PairBatch, columns: int, world: World) -> dict[str, np.ndarray]:
    """Return the teacher vectors of all pairs, NaN where a process has none."""
    teacher = {}
    pairs = len(batch.query)
    for role in _ROLES:
        given = batch.teacher.get(role)
        width = world.max(0 if given is None else given.shape[-1])
        if not width:
            continue
        shape = (pairs, columns, width) if role == "negative" else (pairs, width)
        block = np.full(shape, np.nan, dtype=np.float32)
        if given is not None and role == "negative":
            block[:, : given.shape[1]] = given
        elif given is not None:
            block[:] = given
        teacher[role] = torch.cat(world.gather(torch.from_numpy(block))).numpy()
    return teacher
