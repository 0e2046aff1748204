"""How the answers of an OpenAI-compatible server are read, in the several shapes that servers give them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from gecko.corpus.decode import clean
from gecko.teacher.ask import Answer, Ask, EngineError, Likelihood, Write
from gecko.teacher.openai_errors import Damaged
from gecko.teacher.openai_tokens import Scored, Unspelled, match_labels, sum_by_label, tail, values
from gecko.teacher.openai_wire import Dialect, estimate

_MOST_TOKENS = 10**9


def read(dialect: Dialect, ask: Ask, reply: Mapping[str, Any], *, continuation_tokens: int | None = None) -> Answer:
    """The answer in a server's reply.

    Args:
        dialect: What the call was made by.
        ask: What was asked.
        reply: The reply's JSON.
        continuation_tokens: Tokens of a :class:`Likelihood`'s continuation, where the server counted them.

    Raises:
        EngineError: The reply is damaged, or its tokens do not spell the continuation (:class:`Unspelled`).
    """
    if not isinstance(reply, Mapping):
        raise Damaged("not a JSON object", input_tokens=prompt_estimate(ask))
    used = _usage(ask, reply)
    try:
        if isinstance(ask, Write):
            text, finish = _written(reply)
            if "output_tokens" not in used:
                used["output_tokens"] = estimate(text)
            return Answer(text=text, finish=finish, **used)
        used.setdefault("output_tokens", 1)
        if isinstance(ask, Likelihood):
            scored = scored_tokens(dialect, reply)
            return Answer(logprobs=tail(scored, ask, continuation_tokens), **used)
        if dialect.labels in ("sglang", "vllm"):
            found = sum_by_label(_by_id(dialect, reply), {label: dialect.label_ids[label] for label in ask.labels})
            return Answer(labels=found, **used)
        labels, floored = match_labels(top_tokens(reply), ask.labels)
        return Answer(labels=labels, floored=floored, **used)
    except (Damaged, Unspelled) as damaged:
        _paid(damaged, used, reply)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        _paid(Damaged(f"{type(error).__name__} in its shape"), used, reply)


def scored_tokens(dialect: Dialect, reply: Mapping[str, Any]) -> Scored:
    """The given text's tokens and their log-probabilities, as a likelihood route returns them."""
    if dialect.likelihood == "sglang":
        entries = reply["meta_info"]["input_token_logprobs"]
        return Scored([entry[2] or "" for entry in entries], [entry[0] for entry in entries])
    choice = reply["choices"][0]
    if dialect.likelihood == "vllm":
        rows = choice["prompt_logprobs"]
        if (expected := (reply.get("usage") or {}).get("prompt_tokens", len(rows))) != len(rows):
            raise Damaged(f"{len(rows)} log-probabilities of {expected} tokens")
        # The given token comes first, the likeliest ones after it.
        firsts = [next(iter(row.values())) if row else None for row in rows]
        return Scored(
            [first.get("decoded_token") or "" if first else "" for first in firsts],
            [first["logprob"] if first else None for first in firsts],
        )
    logprobs = choice["logprobs"]
    tokens, numbers, offsets = logprobs["tokens"], logprobs["token_logprobs"], logprobs.get("text_offset")
    if len(tokens) != len(numbers) or (offsets and len(offsets) != len(tokens)):
        raise Damaged("lists of different lengths")
    # It may be more than was asked for: some servers go on until a character is whole.
    generated = (reply.get("usage") or {}).get("completion_tokens", dialect.depth)
    return Scored(tokens, numbers, offsets or (), generated, dialect.offsets)


def top_tokens(reply: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The likeliest first tokens a reply reports, whichever of the two shapes it uses; empty where it has none."""
    logprobs = reply["choices"][0].get("logprobs") or {}
    if logprobs.get("content"):
        first = logprobs["content"][0]
        rows = first.get("top_logprobs") or []
        pairs = [(row["token"], row["logprob"]) for row in rows]
        if all(first["token"] != token for token, _ in pairs):
            pairs.append((first["token"], first["logprob"]))
    else:
        tops = logprobs.get("top_logprobs") or [None]
        pairs = list((tops[0] or {}).items())
    return [(str(token), value) for (token, _), value in zip(pairs, values(pair[1] for pair in pairs), strict=True)]


def _by_id(dialect: Dialect, reply: Mapping[str, Any]) -> dict[int, float]:
    if dialect.labels == "sglang":
        pairs = [(entry[1], entry[0]) for entry in reply["meta_info"]["output_token_ids_logprobs"][0]]
    else:
        named = reply["choices"][0]["logprobs"]["top_logprobs"][0]
        pairs = [(int(re.sub(r"\D", "", token)), value) for token, value in named.items()]
    return dict(zip((int(number) for number, _ in pairs), values(value for _, value in pairs), strict=True))


def _written(reply: Mapping[str, Any]) -> tuple[str, str]:
    choice = reply["choices"][0]
    finish = clean(str(choice.get("finish_reason") or ""))
    if "message" not in choice:
        return clean(str(choice["text"])), finish
    message = choice["message"]
    content = message["content"]
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = "".join(part.get("text") or "" for part in content)
    if not content and message.get("refusal"):
        return "", "content_filter"
    return clean(str(content or "")), finish


def _usage(ask: Ask, reply: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens used as the server counted them; the prompt's are estimated where it did not."""
    usage = usage_of(reply)
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    cached = counted(cached or usage.get("cached_tokens") or usage.get("prompt_cache_hit_tokens"))
    inputs, outputs = counted(usage.get("prompt_tokens")), counted(usage.get("completion_tokens"))
    total = counted(usage.get("total_tokens"))
    if inputs is not None and total is not None and total > inputs:
        outputs = max(outputs or 0, total - inputs)  # some count a model's thoughts in the total only
    inputs = prompt_estimate(ask) if inputs is None else inputs
    used = {"input_tokens": inputs, "cached_tokens": min(cached or 0, inputs)}
    return used if outputs is None else {**used, "output_tokens": outputs}


def usage_of(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a server counts a call's tokens; empty where it does not."""
    meta = reply.get("meta_info")
    usage = meta if isinstance(meta, Mapping) else reply.get("usage")
    return usage if isinstance(usage, Mapping) else {}


def counted(number: object) -> int | None:
    """A number of tokens as a server gave it, or None where it can be none."""
    return number if type(number) is int and 0 <= number < _MOST_TOKENS else None


def prompt_estimate(ask: Ask) -> int:
    """Tokens of an ask's text, roughly."""
    text = ask.prompt.shared + ask.prompt.own
    return estimate(text + ask.continuation if isinstance(ask, Likelihood) else text)


def _paid(damaged: EngineError, used: Mapping[str, int], reply: Mapping[str, Any]) -> NoReturn:
    """Raise the error with the tokens that were paid for all the same."""
    if "error" in reply and not reply.get("choices"):
        raise damaged from None
    damaged.input_tokens, damaged.output_tokens = used["input_tokens"], used.get("output_tokens", 0)
    raise damaged from None
