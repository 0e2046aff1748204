"""BM25, the keyword search every embedding model is measured against (Lucene's variant, k1 = 0.9, b = 0.4)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np

# Keeps one-letter words, as Lucene does; bm25s drops them by default ("vitamin d", "c language").
WORD_PATTERN = r"(?u)\b\w+\b"


class Bm25:
    """An in-memory keyword index over "title text", English stop words and Snowball stemmer.

    These are the settings of the BM25 figures published with BEIR by Anserini.

    Args:
        titles: One title a document (may be empty).
        texts: One text a document, parallel to ``titles``.
    """

    def __init__(self, titles: Sequence[str], texts: Sequence[str]) -> None:
        import bm25s
        import Stemmer

        # bm25s sets its own logger to DEBUG, which tells a user of every index that is built.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self._tokenize = partial(
            bm25s.tokenize,
            token_pattern=WORD_PATTERN,
            stopwords="en",
            stemmer=Stemmer.Stemmer("english"),
            show_progress=False,
        )
        self.size = len(texts)
        documents = [f"{title} {text}" for title, text in zip(titles, texts, strict=True)]
        tokens = self._tokenize(documents)
        # bm25s cannot index a corpus without one word in it; such a corpus simply matches nothing.
        self._index = bm25s.BM25(method="lucene", k1=0.9, b=0.4) if tokens.vocab else None
        if self._index is not None:
            self._index.index(tokens, show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rank the documents that share a word with each query.

        Args:
            queries: n questions.
            k: Documents a query; fewer where the corpus is smaller.

        Returns:
            Document positions (n, k) int64 and scores (n, k) float32, best first; position -1 (score 0)
            fills a row where fewer than k documents match.
        """
        k = min(k, self.size)
        if self._index is None or not queries or k == 0:
            return np.full((len(queries), k), -1, np.int64), np.zeros((len(queries), k), np.float32)
        tokens = self._tokenize(list(queries), return_ids=False)
        positions, scores = self._index.retrieve(tokens, k=k, show_progress=False)
        positions = np.asarray(positions, np.int64)
        scores = np.asarray(scores, np.float32)
        # bm25s pads with arbitrary documents of score 0; Lucene would not return them.
        return np.where(scores > 0, positions, -1), np.maximum(scores, 0)
