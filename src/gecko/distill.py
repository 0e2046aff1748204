"""FRet alone: passages in, FRet rows out, for whoever trains elsewhere (``gecko distill``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gecko.context import RunContext
from gecko.recipe import Recipe
from gecko.records import FRET
from gecko.run import run_stage
from gecko.shards import claim_folder, fingerprint, locked, read_batches, read_json
from gecko.stages import stages_for


def distill(passages: Path, recipe: Recipe, out: Path, *, tell: Callable[[str], None]) -> dict[str, Any]:
    """Write tasks and queries for passages, and rank and select for them (paper, section 3.2).

    Args:
        passages: Directory of passages, as ``gecko corpus`` or a run makes it.
        recipe: Its ``teacher``, ``fret`` and ``seed`` count, and ``prefinetune`` where that makes the miner.
        out: Gets the FRet rows and their card; what leads to them is kept in ``.work`` in it, so that a call is
            never made twice.
        tell: Receives one line a step.

    Returns:
        The numbers of queries and rows, how many were relabelled or are cross-lingual, and what the teacher's calls
        cost.

    Raises:
        GeckoError: A step failed on something the user can mend; finished teacher calls are kept.
        UsageError: The folder holds other files.
    """
    claim_folder(out, FRET)
    places = {"passages": passages, "fret": out}
    with locked(out), RunContext(recipe, out / ".work", places=places, tell=tell) as context:
        context.marks["passages"] = fingerprint(
            read_json(passages / "_stage.json"),
            [[path.name, path.stat().st_size] for path in sorted(passages.glob("part-*.parquet"))],
        )
        steps = [stage for stage in stages_for(recipe, "fret") if stage.name != "passages"]
        results = {stage.name: run_stage(stage, context, tell) for stage in steps}
        spent = context.ledger.stats()
        from gecko.report.dataset_card import write_distilled_card

        write_distilled_card(out, passages, recipe.model_dump(mode="json"))
    return {
        "out": str(out),
        "queries": results["queries"].rows,
        "rows": results["fret"].rows,
        "relabelled": _relabelled(out),
        "cross_lingual": context.facts("fret").get("cross_lingual", 0),
        **{name: spent[name] for name in ("calls", "input_tokens", "output_tokens", "usd")},
    }


def _relabelled(folder: Path) -> int:
    return sum(
        bool(value)
        for batch in read_batches(folder, ["relabelled"])
        for value in batch.column("relabelled").to_pylist()
    )
