"""Which rows stand in which batch: sources and tasks mixed as the recipe says, the same for every run of a seed.

An epoch's batches depend on the seed and the epoch alone, and all epochs of a training are one sequence of steps. So a
training that goes on from step n skips n steps and draws what it would have drawn without the interruption.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import BatchSampler

from gecko.errors import GeckoError
from gecko.mixture.options import FRET, MixtureOptions
from gecko.mixture.tasks import task_kind
from gecko.records import UnifiedRow


@dataclass(frozen=True, slots=True, eq=False)
class Stratum:
    """Rows that are drawn at one rate, evenly among them.

    Attributes:
        rows: Their indices, int64 (n,).
        share: Of the draws of the whole mixture.
    """

    rows: Tensor
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class BatchPlan:
    """All batches of a training, made as they are asked for.

    Attributes:
        pools: Groups of strata; the rows of a batch come from one pool: a source, or all of them.
        batch_size: Rows of a step, over all processes; a multiple of their number.
        steps: Steps of the training.
        seed: Decides all draws, together with the epoch.
        proportional: Every row once an epoch; else strata are drawn by their shares.
        processes: Into how many equal parts a step's batch is cut, none of them empty. Of a pool whose rows cannot be
            dealt out evenly, less than one row a process is left out of an epoch, by its shuffle.
    """

    pools: tuple[tuple[Stratum, ...], ...] = field(repr=False)
    batch_size: int
    steps: int
    seed: int
    proportional: bool = True
    processes: int = 1

    def batches(self) -> Iterator[Tensor]:
        """Yield the row indices of each step, never a row twice in one.

        They are int64 (n,), n at most ``batch_size`` and a multiple of ``processes``.
        """
        made = epoch = 0
        while made < self.steps:
            for batch in self.epoch(epoch):
                if made == self.steps:
                    return
                made += 1
                yield batch
            epoch += 1

    def epoch(self, number: int) -> Iterator[Tensor]:
        """Yield the batches of one epoch: a function of the seed and its number."""
        generator = Generator().manual_seed(self.seed + number)
        if self.proportional:
            yield from self._pass(generator)
        else:
            yield from self._drawn(generator)

    def _pass(self, generator: Generator) -> Iterator[Tensor]:
        """Shuffle each pool, cut it into batches of like size, and shuffle those.

        One pool is cut as the trainer's own random sampler does it: whole batches in order, the rest left out.
        """
        batches: list[Tensor] = []
        for pool in self.pools:
            rows = torch.cat([stratum.rows for stratum in pool])
            shuffled = rows[torch.randperm(len(rows), generator=generator)][: self._even(len(rows))]
            if len(self.pools) == 1:
                whole = max(len(shuffled) // self.batch_size, 1)
                yield from shuffled[: whole * self.batch_size].split(self.batch_size)
            else:
                parts = shuffled.view(-1, self.processes).tensor_split(math.ceil(len(shuffled) / self.batch_size))
                batches += [part.flatten() for part in parts]
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[place]

    def _drawn(self, generator: Generator) -> Iterator[Tensor]:
        """Give each pool its share of the batches, in random order, and each stratum its share of the pool's rows."""
        sizes = [self._even(sum(len(stratum.rows) for stratum in pool)) for pool in self.pools]
        count = max(1, round(_per_epoch(sizes, self.batch_size)))
        shares = [sum(stratum.share for stratum in pool) for pool in self.pools]
        per_pool = _allot(count, shares, [count] * len(shares), generator)
        turns = torch.repeat_interleave(torch.arange(len(per_pool)), torch.tensor(per_pool))
        streams = [[_Stream(stratum.rows, generator) for stratum in pool] for pool in self.pools]
        for turn in turns[torch.randperm(len(turns), generator=generator)].tolist():
            pool = self.pools[turn]
            wanted = _allot(
                min(self.batch_size, sizes[turn]),
                [stratum.share for stratum in pool],
                [len(stratum.rows) for stratum in pool],
                generator,
            )
            parts = [stream.take(number) for stream, number in zip(streams[turn], wanted, strict=True)]
            batch = torch.cat(parts)
            yield batch[torch.randperm(len(batch), generator=generator)] if len(parts) > 1 else batch

    def _even(self, size: int) -> int:
        """How many of so many rows can be dealt out evenly to the processes."""
        return size - size % self.processes


def plan_batches(
    sources: Sequence[str],
    batch_size: int,
    options: MixtureOptions,
    *,
    epochs: float,
    seed: int,
    kinds: Sequence[str] | None = None,
    processes: int = 1,
) -> BatchPlan:
    """Plan which rows stand in which batch.

    Args:
        sources: The source of each row.
        batch_size: Rows of a step, over all processes; taken down to a multiple of their number.
        options: How sources and tasks are sampled.
        epochs: Passes; one has as many batches as it takes to see every row once, however they are sampled.
        seed: Decides all draws.
        kinds: The kind of task of each row (:func:`row_kinds`); needed for ``uniform_task``.
        processes: Processes that share a step; each gets an equal part, and all parts are of one pool.

    Raises:
        GeckoError: A source or the batch has fewer rows than there are processes, or a source's weight is unknown.
    """
    if options.sampling != "uniform_task":
        kinds = [""] * len(sources)
    elif kinds is None:
        raise ValueError("uniform_task needs the rows' kinds of task")
    groups: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(sources, kinds, strict=True)):
        groups.setdefault(key, []).append(row)
    shares = _shares({key: len(rows) for key, rows in groups.items()}, options)
    pools: dict[str, list[Stratum]] = {}
    for (source, kind), rows in groups.items():
        stratum = Stratum(torch.tensor(rows), shares[source, kind])
        pools.setdefault(source if options.single_source else "", []).append(stratum)
    sizes = {name: sum(len(stratum.rows) for stratum in pool) for name, pool in pools.items()}
    for name, size in sizes.items():
        if size < processes:
            raise GeckoError(f"{name or 'the mixture'} has {size} rows for {processes} processes", "use fewer of them")
    if batch_size < processes:
        hint = "raise train.batch_size, or use fewer of them"
        raise GeckoError(f"a batch has {batch_size} rows for {processes} processes", hint)
    batch_size -= batch_size % processes
    usable = [size - size % processes for size in sizes.values()]
    return BatchPlan(
        pools=tuple(tuple(pool) for pool in pools.values()),
        batch_size=batch_size,
        steps=max(1, round(epochs * _per_epoch(usable, batch_size))),
        seed=seed,
        proportional=options.sampling == "proportional",
        processes=processes,
    )


def row_kinds(rows: Sequence[UnifiedRow], options: MixtureOptions) -> list[str]:
    """Name each row's kind of task: of a human-labelled source that of its first task string, else of the row's own."""
    of_source = {source.name: task_kind(source.tasks[0]) for source in options.sources}
    return [of_source[row.source] if row.source in of_source else task_kind(row.task) for row in rows]


class PlannedBatches(BatchSampler):
    """Hands a plan to the trainer: ``args.batch_sampler = planned_batches(plan)``.

    The whole training is one epoch to the trainer, so ``max_steps`` must be the plan's steps. With several processes
    the parts of a step follow each other, as accelerate deals them out; batches differ in size, so no size is told.
    """

    batch_size = None  # type: ignore[assignment]
    drop_last = True

    def __init__(self, plan: BatchPlan) -> None:
        self.plan = plan

    def __len__(self) -> int:
        return self.plan.steps * self.plan.processes

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.plan.batches():
            for rows in batch.tensor_split(self.plan.processes):
                yield rows.tolist()


def planned_batches(plan: BatchPlan) -> Any:  # noqa: ANN401
    """Make the ``batch_sampler`` of ``SentenceTransformerTrainingArguments``; picklable, as checkpoints hold them."""
    return partial(_make_sampler, plan)


def _make_sampler(plan: BatchPlan, dataset: Any, **_: Any) -> PlannedBatches:  # noqa: ANN401
    return PlannedBatches(plan)


class _Stream:
    """The rows of a stratum in endless random passes; a draw never holds a row twice."""

    def __init__(self, rows: Tensor, generator: Generator) -> None:
        self._rows = rows
        self._generator = generator
        self._left = rows[:0]

    def take(self, count: int) -> Tensor:
        """Draw ``count`` rows, no more than there are."""
        taken, self._left = self._left[:count], self._left[count:]
        if len(taken) == count:
            return taken
        shuffled = self._rows[torch.randperm(len(self._rows), generator=self._generator)]
        again = torch.isin(shuffled, taken)
        order = torch.cat([shuffled[~again], shuffled[again]])  # what this draw holds comes last in the new pass
        missing = count - len(taken)
        self._left = order[missing:]
        return torch.cat([taken, order[:missing]])


def _per_epoch(sizes: Sequence[int], batch_size: int) -> float:
    """Batches that it takes to see every row once; of one pool, as the trainer counts it, a fraction."""
    return sizes[0] / batch_size if len(sizes) == 1 else sum(math.ceil(size / batch_size) for size in sizes)


def _shares(sizes: dict[tuple[str, str], int], options: MixtureOptions) -> dict[tuple[str, str], float]:
    """Each stratum's share of the draws; strata are (source, kind of task), the kind empty unless tasks are sampled."""
    of_kind: dict[str, int] = {}
    for (_, kind), size in sizes.items():
        of_kind[kind] = of_kind.get(kind, 0) + size
    weights = {source.name: source.weight for source in options.sources} | {FRET: options.fret_weight}
    raw: dict[tuple[str, str], float] = {}
    for (source, kind), size in sizes.items():
        weight = weights.get(source)
        if options.sampling == "uniform_task":
            raw[source, kind] = size / of_kind[kind]
        elif options.sampling == "temperature":
            raw[source, kind] = size ** (1 / options.temperature)
        elif options.sampling == "proportional":
            raw[source, kind] = float(size)
        elif weight is None:
            raise GeckoError(f"no weight for the rows of {source}", "set mixture.fret_weight and each source's weight")
        else:
            raw[source, kind] = weight
    total = sum(raw.values())
    return {key: value / total for key, value in raw.items()}


def _allot(total: int, shares: Sequence[float], most: Sequence[int], generator: Generator) -> list[int]:
    """Divide ``total`` whole things by shares, none getting more than its most; what is cut off goes to the others.

    Fractions are rounded so that on average over many calls each gets exactly its share (systematic sampling).
    """
    counts = [0] * len(shares)
    places = [place for place, share in enumerate(shares) if share > 0]
    while places:
        unit = total / sum(shares[place] for place in places)
        full = [place for place in places if unit * shares[place] >= most[place]]
        if not full:
            break
        for place in full:
            counts[place] = most[place]
            total -= most[place]
        places = [place for place in places if place not in full]
    offset = float(torch.rand((), generator=generator, dtype=torch.float64))
    reached, given = 0.0, 0
    for place in places:
        reached += unit * shares[place]
        upto = total if place == places[-1] else int(reached + offset)
        counts[place] = min(upto - given, most[place])
        given += counts[place]
    return counts
