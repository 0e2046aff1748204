"""Read what the report shows out of a run directory: counts by streaming, texts only of what is shown."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gecko.shards import MARKS

SAMPLE_ROWS = 2000
EXAMPLES = 12
BATCH_ROWS = 4096
LAST_RANK = 21  # histograms of ranks end with "21 and beyond"
MOST_KEYS = 100_000
QUESTION = (
    r"(?i)[?\x{FF1F}\x{061F}]\s*$|^(what|who|whom|whose|which|when|where|why|how|is|are|was|were|do|does|did|can|could|should|will"
    r"|would|has|have)\b"
)
WORD = re.compile(r"\w+")
LATIN_WORD = r"\S+"


@dataclass(slots=True)
class FretFacts:
    """What the FRet rows say, counted over all of them; ``sample`` is an even draw of at most SAMPLE_ROWS."""

    rows: int = 0
    relabelled: int = 0
    cross_lingual: int = 0
    without_negative: int = 0
    questions: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    origins: Counter[str] = field(default_factory=Counter)
    made: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)  # teacher, ranker, rung, prompt version
    input_tokens: int = 0
    output_tokens: int = 0
    notes: Counter[str] = field(default_factory=Counter)  # what is wrong with a ranking, where something is
    query_words: Counter[int] = field(default_factory=Counter)
    ranks: dict[str, np.ndarray] = field(
        default_factory=lambda: {who: np.zeros(LAST_RANK, np.int64) for who in ("seed", "positive", "negative")}
    )
    sample: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class PassageFacts:
    """What the passages say, counted over all of them; ``shown`` holds the few texts the report needs."""

    rows: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    shown: dict[str, tuple[str, str]] = field(default_factory=dict)
    overlap: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class SourceFacts:
    """What the unified rows of one source say; ``negatives`` and ``symmetric`` are sums over the rows."""

    rows: int = 0
    negatives: int = 0
    symmetric: int = 0
    tasks: Counter[str] = field(default_factory=Counter)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It does not hold a JSON object.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} does not hold an object")
    return value


def check_made(run: Path, stage: str) -> None:
    """Refuse what a stage left under another recipe, or what it has not finished.

    A folder without the marks of a run (made by hand, or by an older version) is taken as it is.

    Raises:
        StaleError: The stage is not finished under the run's present recipe.
    """
    try:
        mark = read_json(run / MARKS).get(stage)
    except FileNotFoundError:
        return
    try:
        made = read_json(run / stage / "_stage.json").get("fingerprint")
    except FileNotFoundError:
        made = None
    if made != mark:
        raise StaleError


def takes_part(run: Path, stage: str) -> bool:
    """Whether a run has a stage that not every recipe has; without the marks of a run, whether its folder is there."""
    try:
        return stage in read_json(run / MARKS)
    except (OSError, ValueError):
        return (run / stage).is_dir()


class StaleError(Exception):
    """What is there was made under another recipe, or is not finished."""


def read_fret(folder: Path) -> FretFacts:
    """Count the FRet rows of a run in one pass and draw a sample of them.

    Raises:
        FileNotFoundError: The run holds none.
    """
    facts = FretFacts()
    # The passages' languages are not in the rows; the stage counted while it had both at hand.
    if (folder / "_stage.json").is_file():
        facts.cross_lingual = int(read_json(folder / "_stage.json").get("cross_lingual", 0))
    sample: pa.Table | None = None
    for batch in _batches(folder, None):
        facts.rows += batch.num_rows
        facts.relabelled += pc.sum(batch["relabelled"]).as_py() or 0
        facts.without_negative += pc.sum(pc.equal(batch["negative_id"], "")).as_py() or 0
        facts.questions += pc.sum(pc.match_substring_regex(batch["query"], QUESTION)).as_py() or 0
        _count(facts.tasks, batch["task"])
        _count(facts.languages, batch["lang"])
        origins = zip(*(batch[name].to_pylist() for name in ("teacher", "rung", "prompt_version")), strict=True)
        facts.origins.update(" · ".join(filter(None, columns)) for columns in origins)
        made = ("teacher", "ranker", "rung", "prompt_version")
        facts.made.update(zip(*(_texts(batch, name) for name in made), strict=True))
        facts.input_tokens += pc.sum(batch["input_tokens"]).as_py() or 0
        facts.output_tokens += pc.sum(batch["output_tokens"]).as_py() or 0
        facts.notes.update(filter(None, _texts(batch, "note")))
        _prune(facts.notes)
        _count(facts.query_words, pc.count_substring_regex(batch["query"], LATIN_WORD))
        _count_ranks(facts.ranks, batch)
        # Row ids are content hashes, so the smallest ones are an even draw whatever the order of the shards.
        table = pa.Table.from_batches([batch])
        sample = table if sample is None else pa.concat_tables([sample, table])
        smallest = pc.select_k_unstable(sample, min(SAMPLE_ROWS, sample.num_rows), sort_keys=[("row_id", "ascending")])
        sample = sample.take(smallest)
    facts.sample = sample.to_pylist() if sample is not None else []
    return facts


def pick_examples(sample: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choose the rows shown in full: relabelled ones for two thirds, since they show what ranking is for."""
    moved = [row for row in sample if row["relabelled"]]
    kept = [row for row in sample if not row["relabelled"]]
    first = moved[: max(EXAMPLES * 2 // 3, EXAMPLES - len(kept))]
    return first + kept[: EXAMPLES - len(first)]


def read_passages(folder: Path, examples: list[dict[str, Any]], sample: list[dict[str, Any]]) -> PassageFacts:
    """Count the passages in one pass, keeping the texts of the examples and the overlap of the sample.

    Args:
        folder: Where the passages lie.
        examples: FRet rows whose candidates will be shown.
        sample: FRet rows whose share of query words found in the positive is measured, by row id.

    Raises:
        FileNotFoundError: The run holds none.
    """
    facts = PassageFacts()
    show = {c["passage_id"] for row in examples for c in row["candidates"] or ()}
    show |= {row[key] for row in examples for key in ("seed_id", "positive_id", "negative_id")}
    asked: dict[str, list[dict[str, Any]]] = {}
    for row in sample:
        asked.setdefault(row["positive_id"], []).append(row)
    wanted = pa.array(sorted(show | set(asked)), pa.string())
    for batch in _batches(folder, ["passage_id", "title", "text", "lang"]):
        facts.rows += batch.num_rows
        _count(facts.languages, batch["lang"])
        _count(facts.words, pc.count_substring_regex(batch["text"], LATIN_WORD))
        for passage in batch.filter(pc.is_in(batch["passage_id"], wanted)).to_pylist():
            passage_id, title, text = passage["passage_id"], passage["title"] or "", passage["text"] or ""
            if passage_id in show:
                facts.shown[passage_id] = (title, text[:600])
            if passage_id in asked:
                words = set(WORD.findall(f"{title} {text}".lower()))
                for row in asked[passage_id]:
                    query = set(WORD.findall(row["query"].lower()))
                    facts.overlap[row["row_id"]] = len(query & words) / max(len(query), 1)
    return facts


def read_mixture(folder: Path) -> dict[str, SourceFacts]:
    """Count the unified rows of each source of a mixture in one pass, in the order they come.

    Raises:
        FileNotFoundError: There are none.
    """
    found: dict[str, SourceFacts] = {}
    for batch in _batches(folder, ["source", "task", "negatives", "symmetric"]):
        lengths = pc.list_value_length(batch["negatives"]).to_pylist()
        columns = (batch["source"].to_pylist(), batch["task"].to_pylist(), lengths, batch["symmetric"].to_pylist())
        for source, task, negatives, symmetric in zip(*columns, strict=True):
            facts = found.setdefault(source, SourceFacts())
            facts.rows += 1
            facts.negatives += negatives
            facts.symmetric += symmetric
            facts.tasks[task] += 1
            _prune(facts.tasks)
    return found


def read_quarantine(run: Path) -> Counter[tuple[str, str]]:
    """Count what every stage set aside, by (stage, reason)."""
    return count_quarantine(sorted(run.glob("*/quarantine.parquet")))


def count_quarantine(paths: Iterable[Path]) -> Counter[tuple[str, str]]:
    """Count what is in files of rows set aside, by (stage, reason); one that is not there holds nothing."""
    counts: Counter[tuple[str, str]] = Counter()
    for path in filter(Path.is_file, paths):
        for batch in _batches_of(path, ["stage", "reason"]):
            counts.update(zip(batch["stage"].to_pylist(), batch["reason"].to_pylist(), strict=True))
            _prune(counts)
    return counts


def read_aside(run: Path) -> dict[str, int]:
    """Count what every stage set aside, by the stage's folder."""
    return {path.parent.name: pq.read_metadata(path).num_rows for path in run.glob("*/quarantine.parquet")}


def read_calls(ledger: Path) -> list[dict[str, Any]]:
    """Total a ledger's calls, by their kind and model.

    Raises:
        FileNotFoundError: There is no ledger.
        GeckoError: It cannot be opened.
    """
    from gecko.teacher.ledger import Ledger

    if not ledger.is_file():
        raise FileNotFoundError(ledger)
    with Ledger(ledger) as opened:
        return opened.totals()


def _batches(folder: Path, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a stage's shards, a few thousand at a time."""
    shards = sorted(path for path in folder.glob("*.parquet") if path.name != "quarantine.parquet")
    if not shards:
        raise FileNotFoundError(folder)
    for shard in shards:
        yield from _batches_of(shard, columns)


def _batches_of(path: Path, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    yield from pq.ParquetFile(path, page_checksum_verification=True).iter_batches(BATCH_ROWS, columns=columns)


def _texts(batch: pa.RecordBatch, name: str) -> list[str]:
    """A column of texts; empty ones where rows of an older version do not have it."""
    if name not in batch.schema.names:
        return [""] * batch.num_rows
    return [text or "" for text in batch[name].to_pylist()]


def _count(counter: Counter[Any], values: pa.Array) -> None:
    """Add a column to a counter, which stays small even where every value is new."""
    for entry in pc.value_counts(values).to_pylist():
        counter[entry["values"]] += entry["counts"]
    _prune(counter)


def _prune(counter: Counter[Any]) -> None:
    """Forget the rare half of an overgrown counter; what the report shows is the frequent end."""
    if len(counter) > MOST_KEYS:
        kept = counter.most_common(MOST_KEYS // 2)
        counter.clear()
        counter.update(dict(kept))


def _count_ranks(ranks: dict[str, np.ndarray], batch: pa.RecordBatch) -> None:
    """Add up at which miner rank each row's seed, positive and negative stood."""
    parents = pc.list_parent_indices(batch["candidates"])
    flat = pc.list_flatten(batch["candidates"])
    passage_ids, miner_ranks = pc.struct_field(flat, "passage_id"), pc.struct_field(flat, "miner_rank")
    for who, counts in ranks.items():
        mine = pc.equal(passage_ids, pc.take(batch[f"{who}_id"], parents))
        found = pc.drop_null(pc.filter(miner_ranks, mine)).to_numpy(zero_copy_only=False)
        found = found[found >= 1]
        counts += np.bincount(np.minimum(found, LAST_RANK) - 1, minlength=LAST_RANK)
