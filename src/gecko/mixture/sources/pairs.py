"""Pairs of texts made into rows: inference, similarity, duplicates, translations, queries with their answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from gecko.mixture.sources.make import Draft, RowMaker
from gecko.mixture.sources.read import Item

# As most NLI sets number them; of a set on the Hub that names its labels, the reader gives the names.
_NLI = {"0": "entailment", "1": "neutral", "2": "contradiction"}
_UNLABELLED = frozenset({"-1", "-"})
_YES = frozenset({"1", "true", "yes"})
_NO = frozenset({"0", "false", "no"})


class _Unlike:
    """Pairs of texts that do not belong together, to be hard negatives of each other's rows."""

    def __init__(self, maker: RowMaker) -> None:
        self.maker = maker
        self.pairs: list[tuple[str, str]] = []
        self._others: dict[str, list[str]] = defaultdict(list)
        self._turns: dict[str, int] = defaultdict(int)
        self._taken: set[tuple[str, str]] = set()

    def add(self, one: str, other: str, *, either_way: bool = False) -> None:
        """Make ``other`` a negative of rows whose query is ``one``, or also the reverse."""
        self.pairs.append((one, other))
        self._others[one].append(other)
        if either_way:
            self._others[other].append(one)

    def of(self, query: str) -> list[str]:
        """List a query's negatives; with each call others come first, so that the rows of one query share them out."""
        others = self._others.get(query, [])
        turn = self._turns[query] * self.maker.negatives % len(others) if others else 0
        self._turns[query] += 1
        return others[turn:] + others[:turn]

    def take(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """Note the negatives that drafts hold."""
        for draft in drafts:
            self._taken.update((draft.query, text) for _, text in draft.negatives)
            yield draft

    def close(self) -> None:
        """Enter each pair as used or not."""
        for one, other in self.pairs:
            if (one, other) in self._taken or (other, one) in self._taken:
                self.maker.account.used += 1
            else:
                self.maker.account.unused["an unlike pair that no row needs"] += 1


def nli(items: Iterable[Item], maker: RowMaker) -> Iterator[Draft]:
    """Draft a row of each entailment: the premise as query, a contradiction of the same premise as hard negative.

    The paper says only that NLI data was added, in the symmetric form (section 3.3).

    Raises:
        GeckoError: No pair is an entailment.
    """
    entailed: list[tuple[str, str]] = []
    unlike = _Unlike(maker)
    for item in items:
        premise, hypothesis, label = item.values["premise"], item.values["hypothesis"], item.values["label"].lower()
        meaning = _NLI.get(label, label)
        if meaning == "entailment":
            entailed.append((premise, hypothesis))
        elif meaning == "contradiction":
            unlike.add(premise, hypothesis)
        elif meaning in {"neutral", "not_entailment"}:
            maker.account.unused[meaning] += 1
        else:
            _set_aside(item, label, "none of an NLI set", f"{premise}\n{hypothesis}", maker)
    if not entailed:
        raise maker.trouble("no pair is an entailment", "labels are entailment, neutral, contradiction, or 0, 1, 2")
    yield from _one_way(entailed, unlike)


def sts(items: Iterable[Item], maker: RowMaker) -> Iterator[Draft]:
    """Draft rows of the pairs that score ``min_score`` or more, in both orders.

    Hard negatives of a sentence are those it stands with in a pair of half of that score or less.

    Raises:
        GeckoError: No pair scores that much.
    """
    least = maker.options.min_score
    alike: list[tuple[str, str]] = []
    unlike = _Unlike(maker)
    scores: list[float] = []
    for item in items:
        one, other, score = item.values["sentence1"], item.values["sentence2"], item.values["score"]
        scores.append(score)
        if score >= least:
            alike.append((one, other))
        elif score <= least / 2:
            unlike.add(one, other, either_way=maker.options.both_sides_alike)
        else:
            maker.account.unused[f"score between {least / 2:g} and {least:g}"] += 1
    if not alike:
        spread = f"the scores run from {min(scores):g} to {max(scores):g}" if scores else "there is no score"
        raise maker.trouble(
            f"no pair scores {least:g} or more; {spread}", "set min_score in the file's units: 4 of 5, 0.8 of 1"
        )
    for one, other in alike:
        yield from unlike.take(maker.keep(*_both_ways(one, other, maker, unlike)))
    unlike.close()


def pair_classification(items: Iterable[Item], maker: RowMaker) -> Iterator[Draft]:
    """Draft a row of each pair of label 1 (duplicates, paraphrases); pairs of label 0 give hard negatives.

    Raises:
        GeckoError: No pair has label 1.
    """
    alike: list[tuple[str, str]] = []
    unlike = _Unlike(maker)
    for item in items:
        one, other, label = item.values["sentence1"], item.values["sentence2"], item.values["label"].lower()
        if label in _YES:
            alike.append((one, other))
        elif label in _NO:
            unlike.add(one, other)
        else:
            _set_aside(item, label, "neither 1 nor 0", f"{one}\n{other}", maker)
    if not alike:
        raise maker.trouble("no pair has label 1", "is the right column named as label?")
    yield from _one_way(alike, unlike)


def bitext(items: Iterable[Item], maker: RowMaker) -> Iterator[Draft]:
    """Draft rows of a text and its translation, in both directions."""
    for item in items:
        yield from maker.keep(*_both_ways(item.values["text"], item.values["translation"], maker))


def pairs(items: Iterable[Item], maker: RowMaker) -> Iterator[Draft]:
    """Draft a row of each query and positive, with the positive's title where there is one."""
    for item in items:
        query, title = item.values["query"], item.values.get("title") or ""
        yield from maker.keep(*(maker.draft(query, text, title=title) for text in item.values["positive"]))


def triples(items: Iterable[Item], maker: RowMaker) -> Iterator[Draft]:
    """Draft a row of each query and positive, with the record's negatives."""
    for item in items:
        query, negatives = item.values["query"], item.values["negative"]
        known = set(item.values["positive"])
        negatives = [text for text in negatives if text not in known]
        yield from maker.keep(*(maker.draft(query, text, negatives) for text in item.values["positive"]))


def _set_aside(item: Item, label: str, wrong: str, texts: str, maker: RowMaker) -> None:
    """Quarantine a pair whose label says neither that its texts belong together nor that they do not."""
    reason = "no gold label" if label in _UNLABELLED else f"label {label!r} is {wrong}"
    maker.account.set_aside(item.where, reason, texts)


def _one_way(alike: Iterable[tuple[str, str]], unlike: _Unlike) -> Iterator[Draft]:
    """Draft a row of each pair in the order it has, and account for the unlike pairs."""
    maker = unlike.maker
    for one, other in alike:
        yield from unlike.take(maker.keep(maker.draft(one, other, unlike.of(one))))
    unlike.close()


def _both_ways(one: str, other: str, maker: RowMaker, unlike: _Unlike | None = None) -> list[Draft]:
    """Draft a pair in the order it has and, where both sides are rendered alike, in the other."""
    orders = [(one, other), (other, one)] if maker.options.both_sides_alike else [(one, other)]
    return [maker.draft(query, positive, unlike.of(query) if unlike else ()) for query, positive in orders]
