"""What a finished run knows of itself, read once for all its cards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gecko.report import gather
from gecko.shards import read_json
from gecko.teacher.ledger import FILE_NAME


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run's own records; an empty mapping is a stage that the run does not have.

    Attributes:
        stages: What each stage noted of itself, by its name.
        calls: The ledger's totals by kind of call and model.
        quarantine: Counts of what was set aside, by (stage, reason).
    """

    run: Path
    recipe: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    gate: dict[str, Any]
    evaluation: dict[str, Any]
    history: dict[str, Any]
    prefinetune: dict[str, Any]
    audit: dict[str, Any]
    fret: gather.FretFacts
    passages: gather.PassageFacts
    mixture: dict[str, gather.SourceFacts]
    quarantine: Counter[tuple[str, str]]
    calls: list[dict[str, Any]]

    @property
    def alpha(self) -> float:
        """The share of the tuned weights in what the gate shipped: 0 is the base, unchanged."""
        return float(self.gate.get("alpha", 0.0))

    @property
    def corpora(self) -> list[str]:
        """The corpus's sources, as the recipe names them."""
        return list(self.recipe["corpus"]["sources"])

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """The recipe's human-labelled sources by their names, those of pre-finetuning too."""
        named = [*self.recipe["mixture"]["sources"], *self.recipe.get("prefinetune", {}).get("sources", ())]
        return {source["name"]: source for source in named}

    @property
    def sizes(self) -> tuple[int, ...]:
        """The Matryoshka sizes that were trained, the whole vector first."""
        train = self.recipe["train"]
        pooling = read_json(self.run / "model" / "1_Pooling" / "config.json") or {}
        width = (train.get("backbone") or {}).get("projection") or pooling.get("word_embedding_dimension")
        return tuple(sorted({*train["dims"], *([width] if width else [])}, reverse=True))

    @property
    def held_out(self) -> int:
        """FRet rows that the gate judged by."""
        return int(self.gate.get("dev_queries", 0))


def read_run(run: Path) -> RunFacts:
    """Read a finished run.

    Raises:
        FileNotFoundError: It has no recipe, passages or rows.
    """

    def read(*parts: str) -> dict[str, Any]:
        value = read_json(run.joinpath(*parts))
        return value if isinstance(value, dict) else {}

    own = {name: gather.takes_part(run, name) for name in ("prefinetune", "audit")}
    return RunFacts(
        run=run,
        recipe=yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8")),
        stages={place.parent.name: read(place.parent.name, place.name) for place in run.glob("*/_stage.json")},
        gate=read("gate", "gate.json"),
        evaluation=read("evaluation.json"),
        history=read("train", "history.json"),
        prefinetune=read("prefinetune", "history.json") if own["prefinetune"] else {},
        audit=read("audit", "audit.json") if own["audit"] else {},
        fret=gather.read_fret(run / "fret"),
        # No texts: only counts are wanted of the passages.
        passages=gather.read_passages(run / "passages", [], []),
        mixture=gather.read_mixture(run / "mixture"),
        quarantine=gather.read_quarantine(run),
        calls=calls_in(run / FILE_NAME),
    )


def calls_in(ledger: Path) -> list[dict[str, Any]]:
    """A ledger's calls by kind and model; none where there is no ledger."""
    return gather.read_calls(ledger) if ledger.is_file() else []
