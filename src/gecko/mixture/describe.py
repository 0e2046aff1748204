"""What a plan will draw, counted before training begins: for the run's record, and as lines to print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from gecko.mixture.options import MixtureOptions, SourceOptions
from gecko.mixture.sampler import BatchPlan, row_kinds
from gecko.records import UnifiedRow

_SHOWN_TASKS = 5


def describe_mixture(rows: Sequence[UnifiedRow], plan: BatchPlan, options: MixtureOptions) -> dict[str, Any]:
    """Count what a plan draws of each source and each kind of task.

    Args:
        rows: The training rows that the plan's indices mean.
        plan: The plan.
        options: The recipe's section.

    Returns:
        JSON-ready: ``{"rows", "steps", "batch_size", "sampling", "single_source", "sources", "tasks"}``. Each source
        has ``source``, ``kind``, ``rows``, ``batches`` (that hold a row of it), ``draws``, ``share`` (of all draws),
        ``epochs`` (draws over rows), ``tasks`` (the most frequent strings), ``distinct_tasks``, ``negatives`` (mean a
        row), ``symmetric``, ``same_tower`` and ``in_batch`` (None: as the recipe's ``train``); ``tasks`` maps a kind of
        task to its share of the draws.
    """
    names = list(dict.fromkeys(row.source for row in rows))
    code = {name: number for number, name in enumerate(names)}
    source_of = np.array([code[row.source] for row in rows])
    draws = np.zeros(len(rows), np.int64)
    batches = np.zeros(len(names), np.int64)
    for batch in plan.batches():
        drawn = batch.numpy()
        draws[drawn] += 1
        batches[np.unique(source_of[drawn])] += 1
    total = int(draws.sum())
    by_kind: Counter[str] = Counter()
    for kind, times in zip(row_kinds(rows, options), draws.tolist(), strict=True):
        by_kind[kind] += times
    known = {source.name: source for source in options.sources}
    sources = []
    for name in names:
        own = [row for row in rows if row.source == name]
        drawn_of = int(draws[source_of == code[name]].sum())
        sources.append(
            {
                "source": name,
                **_own_facts(own, known.get(name)),
                "batches": int(batches[code[name]]),
                "draws": drawn_of,
                "share": round(drawn_of / total, 4),
                "epochs": round(drawn_of / len(own), 3),
            }
        )
    return {
        "rows": len(rows),
        "steps": plan.steps,
        "batch_size": plan.batch_size,
        "sampling": options.sampling,
        "single_source": options.single_source,
        "sources": sources,
        "tasks": {kind: round(times / total, 4) for kind, times in by_kind.most_common()},
    }


def mixture_lines(facts: dict[str, Any]) -> list[str]:
    """Write the facts as lines of a table, the sources in their order."""
    lines = [
        f"mixture: {facts['rows']} rows, {facts['steps']} steps of {facts['batch_size']}, {facts['sampling']} sampling"
        + (", one source a batch" if facts["single_source"] else ", sources mixed in a batch"),
        f"{'source':<28}{'rows':>9}{'share':>8}{'epochs':>8}{'negatives':>11}  tasks",
    ]
    for source in facts["sources"]:
        off = [key for key in ("same_tower", "in_batch") if source[key] is False]
        more = source["distinct_tasks"] - 2
        tasks = "; ".join(source["tasks"][:2]) + (f"; and {more} more" if more > 0 else "")
        lines.append(
            f"{source['source']:<28}{source['rows']:>9}{source['share']:>8.1%}{source['epochs']:>8.2f}"
            f"{source['negatives']:>11.2f}  {tasks}" + (f"  (off: {', '.join(off)})" if off else "")
        )
    lines.append("kinds of task: " + ", ".join(f"{kind} {share:.1%}" for kind, share in facts["tasks"].items()))
    return lines


def _own_facts(rows: Sequence[UnifiedRow], options: SourceOptions | None) -> dict[str, Any]:
    tasks = Counter(row.task for row in rows)
    return {
        "kind": options.kind if options else rows[0].source,
        "rows": len(rows),
        "tasks": [task for task, _ in tasks.most_common(_SHOWN_TASKS)],
        "distinct_tasks": len(tasks),
        "negatives": round(sum(len(row.negatives) for row in rows) / len(rows), 3),
        "symmetric": rows[0].symmetric,
        "same_tower": options.same_tower if options else None,
        "in_batch": options.in_batch if options else None,
    }
