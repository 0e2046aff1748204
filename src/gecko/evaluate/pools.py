"""Pools scored: the candidates of a query put in order (reranking), the machine summaries of a text (summarisation)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from gecko.errors import GeckoError
from gecko.evaluate.compare import Score
from gecko.evaluate.evaluate import Embedder
from gecko.evaluate.retrieval import average_precision, ndcg_at_k, reciprocal_rank
from gecko.evaluate.rows import read_rows, score_of, text_of, texts_of


@dataclass(frozen=True, slots=True, eq=False)
class Reranking:
    """Each query's pool of relevant and irrelevant texts put in order: average precision, nDCG@10, reciprocal rank.

    Attributes:
        queries: The queries (n,).
        pools: Each query's texts, the irrelevant ones first, so that equal scores count against the model.
        relevant: How many texts at the end of each pool are relevant.
        left_out: Queries of the file that have nothing to order, lacking either kind.
    """

    queries: list[str]
    pools: list[list[str]]
    relevant: list[int]
    left_out: int = 0

    @classmethod
    def read(cls, path: Path) -> Reranking:
        """Read query, positive and negative (lists of texts).

        Raises:
            GeckoError: A row is bad, or no query has both.
        """
        queries: list[str] = []
        pools: list[list[str]] = []
        relevant: list[int] = []
        left_out = 0
        for row, where in read_rows(path, ("query", "positive", "negative")):
            query = text_of(row, "query", where)
            positive, negative = texts_of(row, "positive", where), texts_of(row, "negative", where)
            if not positive or not negative:
                left_out += 1
                continue
            queries.append(query)
            pools.append([*negative, *positive])
            relevant.append(len(positive))
        if not queries:
            raise GeckoError(f"{path}: no query has both positive and negative texts", "nothing is to be put in order")
        return cls(queries, pools, relevant, left_out)

    def __len__(self) -> int:
        return len(self.queries)

    def take(self, rows: np.ndarray) -> Reranking:
        """Keep some of the queries."""
        return Reranking(
            [self.queries[i] for i in rows],
            [self.pools[i] for i in rows],
            [self.relevant[i] for i in rows],
            self.left_out,
        )

    def encode(self, model: Embedder, word: str) -> tuple[np.ndarray, ...]:
        """Encode queries as queries and texts as passages without a title, all pools in a row."""
        texts = [("", text) for pool in self.pools for text in pool]
        return model.encode_queries(self.queries, word), model.encode_passages(texts)

    def scores(self, vectors: tuple[np.ndarray, ...]) -> dict[str, Score]:
        """Order each pool by cosine; intervals are drawn over the queries."""
        queries, texts = vectors
        ranking = np.full((len(queries), max(map(len, self.pools))), -1, np.int64)
        judged = []
        end = 0
        for row, (query, pool, count) in enumerate(zip(queries, self.pools, self.relevant, strict=True)):
            start, end = end, end + len(pool)
            # Not a matrix product, which may sum equal rows in different orders: their last digits would break the tie.
            cosine = (texts[start:end] * query).sum(axis=1)
            ranking[row, : len(pool)] = np.argsort(-cosine, kind="stable")
            judged.append(dict.fromkeys(range(len(pool) - count, len(pool)), 1))
        return {
            "map": Score.mean(average_precision(ranking, judged)),
            "ndcg_at_10": Score.mean(ndcg_at_k(ranking, judged, 10)),
            "mrr": Score.mean(reciprocal_rank(ranking, judged, 10)),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Summaries:
    """Is a machine's summary the better, the nearer it is to one that people wrote: Spearman's correlation per text.

    Attributes:
        human, machine: The summaries of each text (n,).
        gold: People's scores of the machine's summaries, in parallel.
        left_out: Texts of the file whose scores, or machine summaries, are all equal, so that nothing is ordered.
    """

    human: list[list[str]]
    machine: list[list[str]]
    gold: list[list[float]]
    left_out: int = 0

    @classmethod
    def read(cls, path: Path) -> Summaries:
        """Read human_summaries, machine_summaries and relevance.

        Raises:
            GeckoError: A row is bad, the scores are not one a summary, or no text has scores that differ.
        """
        human: list[list[str]] = []
        machine: list[list[str]] = []
        gold: list[list[float]] = []
        left_out = 0
        for row, where in read_rows(path, ("human_summaries", "machine_summaries", "relevance")):
            people, machines = texts_of(row, "human_summaries", where), texts_of(row, "machine_summaries", where)
            values = row["relevance"] if isinstance(row["relevance"], list) else [row["relevance"]]
            scores = [score_of(value, where) for value in values]
            if len(scores) != len(machines) or not people:
                counts = f"{len(people)} human and {len(machines)} machine summaries and {len(scores)} scores"
                raise GeckoError(f"{where}: {counts}", "one score a machine summary, and a human one, are needed")
            if len(set(scores)) < 2 or len(set(machines)) < 2:
                left_out += 1
                continue
            human.append(people)
            machine.append(machines)
            gold.append(scores)
        if not gold:
            raise GeckoError(f"{path}: no text has summaries with different scores", "is the right column relevance?")
        return cls(human, machine, gold, left_out)

    def __len__(self) -> int:
        return len(self.gold)

    def take(self, rows: np.ndarray) -> Summaries:
        """Keep some of the texts."""
        return Summaries(
            [self.human[i] for i in rows],
            [self.machine[i] for i in rows],
            [self.gold[i] for i in rows],
            self.left_out,
        )

    def encode(self, model: Embedder, word: str) -> tuple[np.ndarray, ...]:
        """Encode both kinds of summary alike, all texts' in a row."""
        flat = ([text for texts in side for text in texts] for side in (self.human, self.machine))
        return tuple(model.encode_symmetric(texts, word, "Summarization") for texts in flat)

    def scores(self, vectors: tuple[np.ndarray, ...]) -> dict[str, Score]:
        """Correlate the nearest human summary's cosine with the scores; an interval is drawn over the texts."""
        from scipy.stats import spearmanr

        sides = [
            np.split(side, list(accumulate(map(len, texts)))[:-1])
            for side, texts in zip(vectors, (self.human, self.machine), strict=True)
        ]
        found = []
        for human, machine, gold in zip(*sides, self.gold, strict=True):
            nearest = (machine @ human.T).max(axis=1)
            found.append(float(spearmanr(gold, nearest).statistic) if np.ptp(nearest) > 0 else 0.0)
        return {"cosine_spearman": Score.mean(np.array(found))}
