"""Themes of a pile of texts: found by density, named by the words that set them apart.

The course is BERTopic's (Grootendorst 2022): embed, lay out, cluster by density, weigh words by class. The layout is
t-SNE's, the map that is drawn as well, so that the picture shows what was clustered; on labelled texts it does as well
as UMAP (docs/log.md) and needs no further library.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gecko.errors import GeckoError

FEWEST = 30  # texts; fewer are read sooner than clustered
MOST_LAID_OUT = 10_000  # texts; t-SNE of as many takes minutes, and more show no more themes
_PRINCIPAL = 50  # dimensions kept before the layout, as t-SNE's authors advise
_PERPLEXITY = 15.0
_NEIGHBOURS = 5  # HDBSCAN's min_samples: how many texts make a place dense
_OUTER = 5  # percentile of a theme's own texts that a further one has to be as near as
_WORDS = 6  # of a theme
_WORD = re.compile(r"\b\w[\w'’.+#-]*[\w+#]")  # also C#, node.js and don't
_COMMON = 120  # words of a language that name nothing
_TELLING = 200  # texts that its language is known by


@dataclass(frozen=True, slots=True)
class Theme:
    """A theme.

    Attributes:
        number: Its place by size, from 1.
        name: What it is called.
        words: The words that set it apart, heaviest first.
        members: Its texts by their place among all, those nearest to its centre first.
    """

    number: int
    name: str
    words: tuple[str, ...]
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Themes:
    """What was found in n texts.

    Attributes:
        themes: By size.
        of: (n,) the number of each text's theme; 0 for none.
        placed: (m,) the texts on the map.
        layout: (m, 2) their places, 0 to 1 each way.
    """

    themes: list[Theme]
    of: np.ndarray
    placed: np.ndarray
    layout: np.ndarray


def find_themes(vectors: np.ndarray, texts: Sequence[str], *, smallest: int | None = None, seed: int = 0) -> Themes:
    """Find and name the themes of texts.

    Args:
        vectors: (n, d) unit vectors.
        texts: Their texts, whose words name the themes.
        smallest: Texts that make a theme; None: one in 150, at least five.
        seed: Of the layout, and of the sample where there are more texts than one holds.

    Raises:
        GeckoError: There are too few texts, or too few that differ.
    """
    if len(texts) < FEWEST:
        raise GeckoError(f"{len(texts)} texts are too few for themes", f"give {FEWEST} or more")
    if len(set(texts)) < FEWEST:
        raise GeckoError(f"only {len(set(texts))} of the texts differ", f"themes need {FEWEST} or more that do")
    placed = np.arange(len(texts))
    if len(texts) > MOST_LAID_OUT:
        placed = np.sort(np.random.default_rng(seed).choice(len(texts), MOST_LAID_OUT, replace=False))
    layout = lay_out(vectors[placed], seed)
    scale = len(placed) / len(texts)
    of = np.zeros(len(texts), int)
    of[placed] = _cluster(layout, max(5, round(scale * smallest) if smallest else len(placed) // 150))
    _join(vectors, of, np.setdiff1d(np.arange(len(texts)), placed))
    of = _by_size(of)
    themes = []
    for number, words in enumerate(theme_words(texts, of), start=1):
        members = np.flatnonzero(of == number)
        nearness = vectors[members] @ vectors[members].mean(axis=0)
        ordered = members[np.argsort(-nearness, kind="stable")].tolist()
        themes.append(Theme(number, ", ".join(words[:3]) or f"theme {number}", words, tuple(ordered)))
    return Themes(themes, of, placed, layout)


def _cluster(layout: np.ndarray, smallest: int) -> np.ndarray:
    """Number the dense places of a layout from 1; 0 is between them."""
    from sklearn.cluster import HDBSCAN

    model = HDBSCAN(min_cluster_size=smallest, min_samples=_NEIGHBOURS, copy=True)
    return np.asarray(model.fit_predict(layout), int) + 1


def _join(vectors: np.ndarray, of: np.ndarray, others: np.ndarray) -> None:
    """Give texts that are not on the map the theme whose centre is nearest, if that is as near as to its own texts."""
    numbers = [number for number in np.unique(of) if number]
    if not len(others) or not numbers:
        return
    centres = np.stack([vectors[of == number].mean(axis=0) for number in numbers])
    edges = [np.percentile(vectors[of == n] @ centre, _OUTER) for n, centre in zip(numbers, centres, strict=True)]
    nearness = vectors[others] @ centres.T - np.array(edges)
    best = nearness.argmax(axis=1)
    near = nearness.max(axis=1) >= 0
    of[others[near]] = np.array(numbers)[best[near]]


def _by_size(of: np.ndarray) -> np.ndarray:
    """Number the themes anew, the largest first; 0 stays."""
    sizes = Counter(of[of > 0].tolist())
    new = {old: number for number, (old, _) in enumerate(sizes.most_common(), start=1)}
    return np.array([new.get(old, 0) for old in of.tolist()], int)


def lay_out(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Lay (n, d) unit vectors out in the plane by t-SNE; (n, 2), 0 to 1 each way."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    kept = min(_PRINCIPAL, *vectors.shape)
    principal = PCA(kept, random_state=seed).fit_transform(vectors)
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init="pca", metric="cosine", random_state=seed, max_iter=750)
    places = np.asarray(model.fit_transform(principal), np.float64)
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - low) / np.maximum(high - low, 1e-9)


def theme_words(texts: Sequence[str], of: np.ndarray) -> list[tuple[str, ...]]:
    """The words that set each theme apart, by class-based TF-IDF (Grootendorst 2022, equation 2).

    Args:
        texts: The texts (n).
        of: (n,) each text's theme from 1, 0 for none, whose words count as everybody's.

    Returns:
        Of each theme its words and pairs of words, heaviest first; a word that is part of a pair before it is left out.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    themes = int(of.max(initial=0))
    common = _common_words(texts)
    counter = CountVectorizer(analyzer=lambda text: list(_terms(text, common)))
    try:
        counts = counter.fit_transform(texts).tocsr()
    except ValueError:  # not one word in all of them
        return [()] * themes
    vocabulary = np.array(counter.get_feature_names_out())
    pair = np.char.find(vocabulary.astype(str), " ") > 0
    total = np.asarray(counts.sum(axis=0)).ravel()
    average = counts.sum() / (themes + 1)
    rarity = np.log1p(average / np.maximum(total, 1))
    found = []
    for number in range(1, themes + 1):
        own = np.asarray(counts[of == number].sum(axis=0)).ravel()
        weights = own / max(own.sum(), 1) * rarity
        chosen: list[str] = []
        # Of equals the pair before its words.
        for place in np.lexsort((~pair, -weights))[: 5 * _WORDS]:
            word = str(vocabulary[place])
            apart = all(set(word.split()).isdisjoint(other.split()) for other in chosen)
            if weights[place] > 0 and apart and len(chosen) < _WORDS:
                chosen.append(word)
        found.append(tuple(chosen))
    return found


def _terms(text: str, common: frozenset[str]) -> Iterator[str]:
    """The telling words of a text, and pairs of them that stand side by side."""
    words = _WORD.findall(text.lower())
    for first, second in pairwise([*words, ""]):
        if first not in common:
            yield first
            if second and second not in common:
                yield f"{first} {second}"


def _common_words(texts: Sequence[str]) -> frozenset[str]:
    """Words that name nothing, of the language that most of the texts are in."""
    import py3langid
    import wordfreq
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    step = max(1, len(texts) // _TELLING)
    language = Counter(py3langid.classify(text)[0] for text in texts[::step]).most_common(1)[0][0]
    if language == "en":
        return ENGLISH_STOP_WORDS
    known = language in wordfreq.available_languages()
    return frozenset(wordfreq.top_n_list(language, _COMMON) if known else ())
