"""The card of a run's data (FRet rows, mixture, passages), and that of what ``gecko distill`` makes.

Its head is what the Hub and ``datasets.load_dataset`` read. Neither card lies among Parquet files by a name that Arrow
would read: one README.md among them, and no reader of a folder of Parquet opens it any more.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from gecko.mixture.options import FRET as OWN_ROWS
from gecko.recipe import Recipe
from gecko.report.columns import PASSAGE_COLUMNS
from gecko.report.fret_part import FRET_LIMITS, columns_table, fret_parts
from gecko.report.gather import count_quarantine, read_fret, read_passages
from gecko.report.markdown import as_yaml, details, front_matter, safe, set_aside, shareable, short
from gecko.report.mixture_part import mixture_parts
from gecko.report.own import write_own_card
from gecko.report.run_facts import RunFacts, calls_in
from gecko.report.training_part import STAGES, hub_sets, languages_of
from gecko.shards import read_json
from gecko.teacher.ledger import FILE_NAME

RUN_CARD = "README.md"
DISTILLED_CARD = "_README.md"  # Arrow passes over names with a leading underscore

_SHARDS = "part-*.parquet"
_QUARANTINE = "quarantine.parquet"
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_SIZE_BEYOND = "10M<n<100M"
_FRET = (
    "a task and a query that a teacher wrote for a passage, with the passage that the teacher ranked first as positive "
    "and a hard negative (Gecko's two-step distillation, arXiv:2403.20327)"
)


def write_data_card(facts: RunFacts) -> None:
    """Write the card of a run's data, README.md at the root of the run.

    Raises:
        GeckoError: It cannot be written.
    """
    write_own_card(facts.run / RUN_CARD, _run_card(facts))


def write_distilled_card(folder: Path, passages: Path, recipe: dict[str, Any]) -> None:
    """Write the card of what ``gecko distill`` made, _README.md beside the rows.

    Args:
        folder: The FRet rows; what led to them is in ``.work`` in it.
        passages: The passages they are of.
        recipe: The whole recipe, JSON-ready.

    Raises:
        GeckoError: The card cannot be written.
    """
    write_own_card(folder / DISTILLED_CARD, _distilled_card(folder, passages, recipe))


def _run_card(facts: RunFacts) -> str:
    names = ", ".join(map(short, facts.corpora))
    rows = facts.fret.rows + facts.passages.rows + sum(source.rows for source in facts.mixture.values())
    head = _head(
        f"FRet rows and training mixture of {names}",
        languages_of(facts.passages),
        rows,
        hub_sets(facts),
        [(name, f"{name}/{_SHARDS}") for name in ("fret", "mixture", "passages")],
        people=any(name != OWN_ROWS for name in facts.mixture),
    )
    used = {key: facts.recipe[key] for key in ("seed", "corpus", "teacher", "fret", "mixture")}
    queries = facts.stages.get("queries", {})
    fret = fret_parts(facts.corpora, facts.fret, facts.passages, queries, facts.calls, facts.recipe["fret"])
    return "\n\n".join(
        [
            front_matter(head),
            f"# FRet rows and training mixture of {safe(names)}",
            f"What a text-embedding model was distilled from, in three parts:\n\n"
            f"- `fret`: {_FRET}. Rows name passages by their ids.\n"
            "- `mixture`: the rows that the model was fine-tuned on, FRet and human-labelled ones in one format, as "
            "texts.\n"
            "- `passages`: the corpus that `fret` is of, cut into passages.",
            "```python\nfrom datasets import load_dataset\n\n"
            'place = "path/to/this/folder"  # or its name on the Hub\n'
            'rows = load_dataset(place, "fret", split="train")\n'
            'mixture = load_dataset(place, "mixture", split="train")\n'
            'passages = {p["passage_id"]: p for p in load_dataset(place, "passages", split="train")}\n'
            'positive = passages[rows[0]["positive_id"]]["text"]\n```',
            "\n\n".join(["## FRet rows: `fret`", *fret]),
            "\n\n".join(["## Training mixture: `mixture`", *mixture_parts(facts)]),
            f"## Passages: `passages`\n\n{facts.passages.rows:,} passages.\n\n{columns_table(PASSAGE_COLUMNS)}",
            f"## Set aside\n\n{set_aside(facts.quarantine, STAGES)}",
            "## Licence\n\nPassages keep the licence of the corpus. FRet rows inherit it and the terms of the teacher, "
            "which are not known to this card. Each source of the mixture keeps the licence in its table; where none "
            "is stated, ask before you publish.",
            _limits("Figures on test sets of the same sources are no zero-shot figures."),
            "## Made with\n\n`gecko run recipe.yaml --out DIR`.\n\n"
            + details("The sections of recipe.yaml that count", f"```yaml\n{as_yaml(shareable(used))}```"),
        ]
    )


def _distilled_card(folder: Path, passages: Path, recipe: dict[str, Any]) -> str:
    work, source = folder / ".work", str(passages.resolve())
    aside = count_quarantine([folder / _QUARANTINE, work / "queries" / _QUARANTINE])
    queries = read_json(work / "queries" / "_stage.json") or {}
    fret, corpus = read_fret(folder), read_passages(passages, [], [])
    head = _head(
        f"FRet rows of {short(source)}", languages_of(corpus), fret.rows, [], [("default", _SHARDS)], people=False
    )
    return "\n\n".join(
        [
            front_matter(head),
            f"# FRet rows of {safe(short(source))}",
            f"Each row is {_FRET}. Rows name passages by their ids; the texts lie in the passages' own folder.",
            "```python\nfrom datasets import load_dataset\n\n"
            'def rows(folder):\n    return load_dataset("parquet", data_files=f"{folder}/part-*.parquet", '
            'split="train")\n\n'
            'fret, texts = rows("path/to/this/folder"), {p["passage_id"]: p for p in rows("path/to/passages")}\n'
            'positive = texts[fret[0]["positive_id"]]["text"]\n```',
            "\n\n".join(
                [
                    "## Columns",
                    *fret_parts([source], fret, corpus, queries, calls_in(work / FILE_NAME), recipe["fret"]),
                ]
            ),
            f"## Set aside\n\n{set_aside(aside, STAGES)}",
            "## Licence\n\nThe rows inherit the licence of the corpus (above) and the terms of the teacher, which are "
            "not known to this card.",
            _limits(),
            f"## Made with\n\n```sh\n{_command(passages, recipe)}\n```\n\nPaths are cut to their last part.",
        ]
    )


def _head(
    title: str, languages: list[str], rows: int, sources: list[str], parts: list[tuple[str, str]], *, people: bool
) -> dict[str, Any]:
    """The YAML that the Hub and ``load_dataset`` read; ``parts`` are names and files, the first being the default."""
    configs = [
        {"config_name": name, **({"default": True} if not place else {}), "data_files": files}
        for place, (name, files) in enumerate(parts)
    ]
    return {
        "pretty_name": title,
        "language": languages,
        "task_categories": ["text-retrieval", "sentence-similarity"],
        "annotations_creators": ["machine-generated", *(["found"] if people else [])],
        "size_categories": [next((name for most, name in _SIZES if rows < most), _SIZE_BEYOND)],
        "source_datasets": sources,
        "tags": ["gecko", "fret", "synthetic"],
        "configs": configs,
    }


def _limits(*more: str) -> str:
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in (*FRET_LIMITS, *more))


def _command(passages: Path, recipe: dict[str, Any]) -> str:
    """The command line that makes the rows again, with all settings that are no defaults."""
    changed = _changed(shareable(recipe), shareable(Recipe().model_dump(mode="json")))
    settings = "".join(
        f" --set {shlex.quote(setting)}" for setting in changed if not setting.startswith("teacher.spec=")
    )
    spec = shlex.quote(short(recipe["teacher"]["spec"]))
    return f"gecko distill --corpus {shlex.quote(passages.resolve().name)} --teacher {spec} --out DIR{settings}"


def _changed(value: dict[str, Any], default: dict[str, Any], before: str = "") -> list[str]:
    """The settings that are no defaults, as ``--set`` takes them."""
    found = []
    for name, item in value.items():
        if isinstance(item, dict) and isinstance(default.get(name), dict) and item.keys() == default[name].keys():
            found += _changed(item, default[name], f"{before}{name}.")
        elif item != default.get(name):
            found.append(f"{before}{name}={json.dumps(item, ensure_ascii=False)}")
    return found
