"""The tokens a question becomes, and where in them its answer is read: one definition for every in-process engine.

A prompt is tokenised whole, as a server that is sent it does; the tokens that its shared part has in common with it are
the prefix whose cache is kept. A continuation is tokenised apart, so that the border before it is the same under every
passage. The model's beginning-of-sequence token, where it wants one, stands at the very start alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gecko.teacher.ask import Labels, Likelihood

# Token ids of a text, with no special token added around it.
Encode = Callable[[str], Sequence[int]]

_ANCHOR = "\n"


class PieceError(ValueError):
    """A question that this model's tokens cannot express; the message says why."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is fed to a model and what is read off it.

    Attributes:
        prefix: Tokens to feed that questions with the same shared part have in common.
        rest: Tokens to feed after them; at least one, since a cache holds no logits.
        wanted: (place, token) pairs: log P(token) is read after the token at ``place`` of ``prefix + rest``. Places are
            at least ``len(prefix)``.
        forms: Of a :class:`Labels`: for each label, the ways to write it, each as the indices in ``wanted`` of its
            tokens.
        input_tokens: Tokens of the prompt and, where there is one, of the continuation.
    """

    prefix: tuple[int, ...]
    rest: tuple[int, ...]
    wanted: tuple[tuple[int, int], ...]
    forms: tuple[tuple[str, tuple[tuple[int, ...], ...]], ...] = ()
    input_tokens: int = 0


def encode_inside(encode: Encode, text: str) -> tuple[int, ...]:
    """Token ids of a text that does not begin the sequence.

    A SentencePiece vocabulary puts a space before every text it is given, which would be wrong in the middle of one;
    there the text is tokenised behind a line break whose tokens are then taken away.
    """
    plain = tuple(encode(text))
    anchor = tuple(encode(_ANCHOR))
    if not text or tuple(encode(_ANCHOR + "a")) == anchor + tuple(encode("a")):
        return plain
    whole = tuple(encode(_ANCHOR + text))
    return whole[len(anchor) :] if whole[: len(anchor)] == anchor else plain


def read_likelihood(encode: Encode, start: Sequence[int], ask: Likelihood) -> Reading:
    """Where each token of the continuation is read.

    Args:
        encode: The model's tokenizer.
        start: The beginning-of-sequence token, where the model wants one, else nothing.
        ask: The question.

    Raises:
        PieceError: The prompt or the continuation has no tokens.
    """
    shared, own = _prompt(encode, start, ask.prompt.shared, ask.prompt.own)
    continuation = encode_inside(encode, ask.continuation)
    if not continuation:
        raise PieceError("the continuation is empty")
    prefix, rest = _keep_one(shared, own)
    first = len(prefix) + len(rest) - 1
    return Reading(
        prefix,
        rest + continuation[:-1],
        tuple((first + index, token) for index, token in enumerate(continuation)),
        input_tokens=first + 1 + len(continuation),
    )


def read_labels(encode: Encode, start: Sequence[int], ask: Labels) -> Reading:
    """Where each label is read, with and without a space before it.

    A label's forms are different things to write, so their probabilities are added (:func:`label_values`); where a
    vocabulary makes one token of both, it counts once. A form is a single token, " 3" or "3", as the next one. Where
    the vocabulary keeps the space before a digit as a token of its own (Llama 3, Qwen), a model that is about to write
    " 3" puts nearly all its probability on that space and the bare digit says little; there the spaced form is the
    space followed by the digit.

    Raises:
        PieceError: The prompt has no tokens, or a label is no token of the model.
    """
    shared, own = _prompt(encode, start, ask.prompt.shared, ask.prompt.own)
    prefix, rest = _keep_one(shared, own)
    here = len(prefix) + len(rest) - 1
    wanted: list[tuple[int, int]] = []
    forms: list[tuple[str, tuple[tuple[int, ...], ...]]] = []
    space: tuple[int, ...] = ()

    def want(place: int, token: int) -> int:
        if (place, token) not in wanted:
            wanted.append((place, token))
        return wanted.index((place, token))

    for label in ask.labels:
        bare, spaced = encode_inside(encode, label), encode_inside(encode, f" {label}")
        ways: list[tuple[int, ...]] = [(want(here, way[0]),) for way in dict.fromkeys((spaced, bare)) if len(way) == 1]
        if len(spaced) == 2 and len(bare) == 1 and spaced[1] == bare[0] and space in ((), spaced[:1]):
            space = spaced[:1]
            ways.append((want(here, spaced[0]), want(here + 1, spaced[1])))
        if not ways:
            raise PieceError(f"the label {label!r} is not one token of this model")
        forms.append((label, tuple(ways)))
    return Reading(prefix, rest + space, tuple(wanted), tuple(forms), here + 1)


def label_values(reading: Reading, logprobs: Sequence[float]) -> dict[str, float]:
    """Natural log-probability of each label, from those of ``reading.wanted``: that of any of its forms."""
    found: dict[str, float] = {}
    for label, ways in reading.forms:
        values = [sum(logprobs[index] for index in way) for way in ways]
        top = max(values)
        found[label] = min(top + math.log(sum(math.exp(value - top) for value in values)), 0.0)
    return found


def _prompt(encode: Encode, start: Sequence[int], shared: str, own: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of a prompt, cut where those of its shared part alone end, or a little before.

    A vocabulary may join what stands on the two sides of that border (a line break and a word after it, in GPT-2's).
    """
    whole = (*start, *(encode(shared + own) if shared or own else ()))
    alone = (*start, *(encode(shared) if shared else ()))
    same = next((at for at, (one, two) in enumerate(zip(whole, alone, strict=False)) if one != two), len(alone))
    return whole[:same], whole[same:]


def _keep_one(shared: tuple[int, ...], own: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Leave one token of the prompt to feed, so that there is something to read the next one's logits from."""
    if own:
        return shared, own
    if not shared:
        raise PieceError("the prompt is empty, so nothing comes before the first token")
    return shared[:-1], shared[-1:]
