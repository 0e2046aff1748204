"""Which language a passage is in, as an ISO 639-1 code."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

_MIN_LETTERS = 20


@lru_cache(maxsize=1)
def _identifier() -> Any:  # noqa: ANN401
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def detect(text: str) -> str:
    """Identify the language of a text; ``und`` where it is too short to tell or the identifier is unsure."""
    if sum(character.isalpha() for character in text) < _MIN_LETTERS:
        return "und"
    language, confidence = _identifier().classify(text[:1000])
    return str(language) if confidence >= 0.5 else "und"
