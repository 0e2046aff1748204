"""What queries are wished for: mixes of kinds of task, lengths and languages, drawn for each passage by itself."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gecko.records import Passage, content_id

TASK_MIX = {
    "question answering": 0.38,
    "search result": 0.25,
    "problem": 0.12,
    "fact checking": 0.10,
    "sentence similarity": 0.05,
    "definition": 0.02,
    "example": 0.02,
    "comparison": 0.02,
    "advice": 0.02,
    "alternative": 0.02,
}
SAME = "same"
_OWN_KIND = "Given "
_LENGTHS = {"short": 0.5, "medium": 0.35, "long": 0.15}
_DIFFICULTIES = {"easy": 0.25, "medium": 0.5, "hard": 0.25}
_LONGEST_NAME = 40


class PromptOptions(BaseModel):
    """The recipe's section on the prompts: what queries are wished for, and how much of a passage is shown."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task_mix: dict[str, float] = Field(
        default_factory=lambda: dict(TASK_MIX),
        description="kind of task -> weight; a kind of your own is its task sentence, 'Given a ..., find ...'",
    )
    persona: tuple[str, ...] = Field(default=(), description="who searches; one is drawn for each passage")
    difficulty: Literal["mixed", "easy", "medium", "hard"] = "mixed"
    length: Literal["mixed", "short", "medium", "long"] = "mixed"
    language: str | dict[str, float] = Field(
        default=SAME,
        description="of the queries: the passage's own ('same') or its English name; or a mapping of these to weights",
    )
    task_language: Literal["English", "query"] = Field(
        default="English", description="of the task sentences; 'query': that of the query it stands beside"
    )
    max_passage_chars: int = Field(default=6000, ge=200, description="longest passage shown to write a query for")
    max_ranked_chars: int = Field(default=1800, ge=100, description="longest passage shown to be ranked")

    @field_validator("task_mix")
    @classmethod
    def _check_mix(cls, mix: dict[str, float]) -> dict[str, float]:
        for kind, weight in mix.items():
            if kind not in TASK_MIX and not (kind.startswith(_OWN_KIND) and len(kind) > len(_OWN_KIND)):
                known = ", ".join(TASK_MIX)
                raise ValueError(
                    f"unknown kind of task {kind!r}; known are {known}, or a sentence 'Given a ..., find ...'"
                )
            if weight < 0:
                raise ValueError(f"the weight of {kind!r} is {weight}, not a number from 0 up")
        if not any(mix.values()):
            raise ValueError("no kind of task has a weight above 0")
        return mix

    @field_validator("persona", mode="before")
    @classmethod
    def _one_persona(cls, persona: Any) -> Any:  # noqa: ANN401
        return (persona,) if isinstance(persona, str) and persona.strip() else persona or ()

    @field_validator("persona")
    @classmethod
    def _check_persona(cls, persona: tuple[str, ...]) -> tuple[str, ...]:
        if not all(one.strip() for one in persona):
            raise ValueError("a persona is empty")
        return persona

    @field_validator("language", mode="before")
    @classmethod
    def _check_language(cls, language: Any) -> str | dict[str, float]:  # noqa: ANN401
        if isinstance(language, str):
            return _language_name(language)
        if not isinstance(language, dict) or not language:
            raise ValueError("expected 'same', the name of a language, or a mapping of these to weights")
        mix = {_language_name(name): _weight(name, weight) for name, weight in language.items()}
        if len({name.casefold() for name in mix}) < len(language):
            raise ValueError("a language is named twice")
        if not any(mix.values()):
            raise ValueError("no language has a weight above 0")
        return mix

    @property
    def language_mix(self) -> dict[str, float]:
        """Name of a language, or ``same``, -> weight; those of weight 0 left out."""
        mix = self.language if isinstance(self.language, dict) else {self.language: 1.0}
        return {name: weight for name, weight in mix.items() if weight > 0}


DEFAULTS = PromptOptions()


def wishes(passage: Passage, options: PromptOptions = DEFAULTS, seed: int = 0) -> dict[str, str]:
    """What is wished of a passage's query, by name.

    Each wish is drawn by a hash of the seed, the passage and the wish's name, so that it does not depend on which other
    passages are asked about, nor on what else is wished.
    """

    def draw(what: str, weights: dict[str, float]) -> str:
        return _drawn(weights, content_id(str(seed), passage.passage_id, what))

    mixed_length, mixed_difficulty = options.length == "mixed", options.difficulty == "mixed"
    wished = {
        "kind": draw("kind", options.task_mix),
        "length": draw("length", _LENGTHS) if mixed_length else options.length,
        "difficulty": draw("difficulty", _DIFFICULTIES) if mixed_difficulty else options.difficulty,
    }
    if options.persona:
        wished["searcher"] = draw("searcher", dict.fromkeys(options.persona, 1.0))
    language = draw("language", options.language_mix)
    return wished if language == SAME else {**wished, "language": language}


def _language_name(name: Any) -> str:  # noqa: ANN401
    if not isinstance(name, str) or not name.strip() or len(name) > _LONGEST_NAME:
        raise ValueError(f"expected 'same' or the name of a language, such as German, not {name!r}")
    return SAME if name.strip().casefold() == SAME else name.strip()


def _weight(name: str, weight: Any) -> float:  # noqa: ANN401
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise ValueError(f"the weight of {name!r} is {weight!r}, not a number from 0 up")
    return float(weight)


def _drawn(weights: dict[str, float], key: str) -> str:
    """One of the names, with the probability of its weight; the same for the same key."""
    point = int(key, 16) / 16 ** len(key) * sum(weights.values())
    names = sorted(name for name, weight in weights.items() if weight > 0)
    for name in names:
        point -= weights[name]
        if point < 0:
            return name
    return names[-1]
