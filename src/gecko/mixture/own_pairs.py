"""The pairs of texts that a run makes of its own corpus, for pre-finetuning (paper, section 3.1 and footnote 1).

Titles with their bodies stand for the paper's crawled title-body pairs; queries with the seeds they were written from
are what the paper's miner is trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from gecko.mixture.format import TextFormat
from gecko.mixture.load import LoadedSource, collect
from gecko.mixture.options import QUERIES, TITLES, SourceOptions
from gecko.mixture.rows import Passages
from gecko.mixture.sources.make import RowMaker
from gecko.mixture.sources.pairs import pairs
from gecko.mixture.sources.read import Item
from gecko.records import GeneratedQuery, Passage


def title_pairs(passages: Iterable[Passage], task: str, text_format: TextFormat, *, repeats: int) -> LoadedSource:
    """Make a row of each passage: its title is the query, its body the positive.

    The body stands without its title, or the words of one side alone would give the other away.

    Args:
        passages: The corpus, gone through twice.
        task: Put before a title as before a query.
        text_format: How texts are rendered.
        repeats: A title of more passages than this is left out: it says too little of any one of them.

    Returns:
        The rows, and what became of every passage.
    """
    maker = _maker(TITLES, text_format, task)
    times = Counter(_alike(passage.title) for passage in passages)

    def items() -> Iterator[Item]:
        for passage in passages:
            maker.account.read += 1
            title = passage.title.strip()
            if not title:
                maker.account.unused["no title"] += 1
            elif times[_alike(title)] > repeats:
                maker.account.unused[f"a title of more than {repeats} passages"] += 1
            else:
                yield Item(passage.passage_id, {"query": title, "positive": [passage.text]})

    return collect(maker, [maker.render(draft) for draft in pairs(items(), maker)])


def query_pairs(
    queries: Iterable[GeneratedQuery],
    passages: Passages,
    text_format: TextFormat,
    *,
    held_out: Callable[[str], bool],
) -> LoadedSource:
    """Make a row of each query of FRet's first step: its seed, with its title, is the positive, its task its own.

    Args:
        queries: What the teacher wrote.
        passages: Finds the seeds.
        text_format: How texts are rendered.
        held_out: Whether the queries of a seed are kept for the gate, so that they must not be trained on.

    Returns:
        The rows, and what became of every query.
    """
    maker = _maker(QUERIES, text_format)
    rows = []
    for query in queries:
        maker.account.read += 1
        if held_out(query.seed_id):
            maker.account.unused["held out for the gate"] += 1
            continue
        seed = passages.passage(query.seed_id)
        for draft in maker.keep(maker.titled(query.query, (seed.title, seed.text))):
            rows.append(replace(maker.render(draft), task=query.task))
    return collect(maker, rows)


def _maker(name: str, text_format: TextFormat, *task: str) -> RowMaker:
    return RowMaker(SourceOptions(path=name, kind="pairs", name=name, task=task), text_format, seed=0)  # draws nothing


def _alike(title: str) -> str:
    return " ".join(title.split()).casefold()
