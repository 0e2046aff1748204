"""Terms that the statistical ranker compares: stems without stop words, in the corpus's language."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from gecko.records import Passage
from gecko.teacher.offline.language import is_cjk

_WORD = re.compile(r"\w+")
_SNOWBALL = {
    "da": "danish", "de": "german", "en": "english", "es": "spanish", "fr": "french", "it": "italian", "nl": "dutch",
    "no": "norwegian", "nb": "norwegian", "pt": "portuguese", "ru": "russian", "sv": "swedish", "tr": "turkish",
}  # fmt: skip


class Terms:
    """Cuts text into terms.

    Args:
        lang: Two letters; a language without a stemmer is compared by whole words, one without spaces by bigrams.
    """

    def __init__(self, lang: str = "en") -> None:
        import Stemmer
        from bm25s import stopwords

        name = _SNOWBALL.get(lang)
        self._stem = Stemmer.Stemmer(name).stemWords if name else list
        listed = getattr(stopwords, "STOPWORDS_EN" if lang == "en" else f"STOPWORDS_{(name or '').upper()}", ())
        self._stop = frozenset(listed)

    def of(self, text: str) -> list[str]:
        """Terms of a text, in order."""
        low = text.lower()
        if is_cjk(low):
            runs = _WORD.findall(low)
            return [run[i : i + 2] for run in runs for i in range(max(1, len(run) - 1))]
        return list(self._stem([word for word in _WORD.findall(low) if word not in self._stop]))


def main_language(passages: Iterable[Passage]) -> str:
    """The commonest language of a corpus; English where none is named."""
    counts = Counter(passage.lang for passage in passages if passage.lang not in {"", "und"})
    return counts.most_common(1)[0][0] if counts else "en"
