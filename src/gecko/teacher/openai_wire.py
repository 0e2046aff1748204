"""How asks are put to an OpenAI-compatible server; no input or output here.

Servers differ in what they take. What was found out about one is its :class:`Dialect`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from gecko.teacher.ask import Ask, EngineError, Labels, Likelihood, Write
from gecko.teacher.protocol import Capabilities

CHAT = "chat/completions"
COMPLETIONS = "completions"
GENERATE = "/generate"
TOKENIZE = "/tokenize"
COUNT = "/extras/tokenize/count"
# From the strongest: the first two are held to the schema, the last to JSON of any form.
SCHEMAS = ("json_schema", "json_object with schema", "json_object")
_ONE_TOKEN = {"max_new_tokens": 1, "temperature": 0}


@dataclass(slots=True)
class Dialect:
    """What a server takes, as :mod:`gecko.teacher.openai_probe` found it out.

    Attributes:
        write: Route for text: ``chat`` or ``completions``.
        limit: Name of the limit on generated tokens.
        refused: Parameters the server does not take.
        schema: The strongest ``response_format`` it obeys, one of :data:`SCHEMAS`, or nothing.
        likelihood: Route to the log-probabilities of given text: ``sglang``, ``vllm``, ``echo``, or nothing.
        depth: ``prompt_logprobs`` of the vLLM route; ``max_tokens`` of the echo route.
        offsets: Whether the echo route's ``text_offset`` counts characters from the text's start.
        prefix_cache: Whether that route reads the server's prefix cache.
        labels: Route to label log-probabilities: ``sglang``, ``vllm`` (both exact), ``completions``, ``chat`` (both
            top-k), or nothing.
        top: The k of a top-k route.
        space: Whether a raw prompt gets a space at its end before labels, because its tokenizer parts it from digits.
        tokenize: Whose ``/tokenize`` it has: ``vllm`` (SGLang's is the same), ``llama.cpp``, or nothing.
        counts: Whether it only counts tokens (llama-cpp-python's server).
        token_ids: Whether prompts may be token ids.
        batch: Whether it has the Batch API.
        probed: Whether all this was found out rather than assumed.
        label_ids: Token ids of the labels asked so far.
    """

    write: str = "chat"
    limit: str = "max_tokens"
    refused: list[str] = field(default_factory=list)
    schema: str = ""
    likelihood: str = ""
    depth: int = 0
    offsets: bool = False
    prefix_cache: bool = False
    labels: str = ""
    top: int = 0
    space: bool = False
    tokenize: str = ""
    counts: bool = False
    token_ids: bool = False
    batch: bool = False
    probed: bool = False
    label_ids: dict[str, list[int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The dialect as a run keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Dialect:
        """The dialect from what :meth:`to_json` wrote; names it does not know are left out."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: part for name, part in value.items() if name in known})

    def mark(self) -> list[object]:
        """What of it can change an answer."""
        return [self.write, sorted(self.refused), self.schema, self.likelihood, self.labels, self.top, self.space]

    def capabilities(self) -> Capabilities:
        """What an engine with this dialect can do."""
        exact = self.labels in ("sglang", "vllm")
        return Capabilities(
            generate=bool(self.write),
            prompt_logprobs=bool(self.likelihood),
            prefix_cache_with_prompt_logprobs=self.prefix_cache,
            label_logprobs_exact=exact,
            label_logprobs_topk=0 if exact else self.top,
            constrained_choice=self.schema in SCHEMAS[:2],
            token_id_prompts=self.token_ids,
            batch_async=self.batch,
            listwise=bool(self.write),
        )

    def adapt(self, said: str, param: str, body: Mapping[str, Any]) -> None:
        """Learn from a refused call what to leave out of the next one.

        Args:
            said: The server's message.
            param: The parameter it names.
            body: What it refused.
        """
        text = f"{param} {said}".casefold()
        if "max_tokens" in body and "max_completion_tokens" in text:
            self.limit = "max_completion_tokens"
            return
        form = _form_name(body.get("response_format") or {})
        if form and ("response_format" in text or "schema" in text):
            if form == self.schema:  # else another call has learnt it meanwhile
                self.schema = ([*SCHEMAS, ""])[SCHEMAS.index(form) + 1]
            return
        for name in ("temperature", "seed"):
            if name in body and name in text and name not in self.refused:
                self.refused.append(name)
                return


def chat_body(model: str, dialect: Dialect, ask: Write | Labels) -> dict[str, Any]:
    """Body of a chat call."""
    shared, own = ask.prompt.shared, ask.prompt.own
    messages = [{"role": "system", "content": shared}] if shared and own else []
    messages.append({"role": "user", "content": own or shared})
    body: dict[str, Any] = {"model": model, "messages": messages}
    if isinstance(ask, Labels):
        body |= {dialect.limit: 1, "temperature": 0, "logprobs": True, "top_logprobs": dialect.top}
    else:
        body |= {dialect.limit: ask.max_tokens, "temperature": ask.temperature, "seed": ask.seed}
        if ask.schema is not None and dialect.schema:
            body["response_format"] = _form(dialect.schema, ask.schema)
    return {name: value for name, value in body.items() if name not in dialect.refused}


def _form(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    if name == "json_schema":
        own = {"name": "reply", "schema": schema, "strict": _is_closed(schema)}
        return {"type": "json_schema", "json_schema": own}
    return {"type": "json_object"} | ({} if name == "json_object" else {"schema": schema})


def _form_name(form: Mapping[str, Any]) -> str:
    return "json_object with schema" if "schema" in form else str(form.get("type") or "")


def request(model: str, dialect: Dialect, ask: Ask, *, start: int = 0) -> tuple[str, dict[str, Any]]:
    """Route and body of a call.

    Args:
        model: Name the server knows the model by.
        dialect: What the server takes; for :class:`Labels` by ids, the labels' ids are in it.
        ask: What is asked.
        start: For SGLang: how many tokens of the prompt surely come before the continuation.

    Raises:
        EngineError: The server cannot answer such an ask.
    """
    if isinstance(ask, Likelihood):
        route, body = _likelihood(dialect, ask, start)
    elif (dialect.labels if isinstance(ask, Labels) else dialect.write) == "chat":
        return CHAT, chat_body(model, dialect, ask)
    elif isinstance(ask, Labels):
        route, body = _labels(dialect, ask)
    else:
        text = ask.prompt.shared + ask.prompt.own
        sampling = {"max_tokens": ask.max_tokens, "temperature": ask.temperature, "seed": ask.seed}
        route, body = COMPLETIONS, {"prompt": text, **sampling}
    if route == COMPLETIONS:
        body["model"] = model
    return route, {name: value for name, value in body.items() if name not in dialect.refused}


def _likelihood(dialect: Dialect, ask: Likelihood, start: int) -> tuple[str, dict[str, Any]]:
    text = ask.prompt.shared + ask.prompt.own + ask.continuation
    if dialect.likelihood == "sglang":
        own = {"return_logprob": True, "logprob_start_len": start, "return_text_in_logprobs": True}
        return GENERATE, {"text": text, "sampling_params": _ONE_TOKEN, **own}
    if dialect.likelihood == "vllm":
        return COMPLETIONS, {"prompt": text, "max_tokens": 1, "temperature": 0, "prompt_logprobs": dialect.depth}
    if dialect.likelihood == "echo":
        sampling = {"max_tokens": dialect.depth, "temperature": 0}
        return COMPLETIONS, {"prompt": text, **sampling, "echo": True, "logprobs": 1}
    raise EngineError("this model gives no log-probabilities of given text")


def _labels(dialect: Dialect, ask: Labels) -> tuple[str, dict[str, Any]]:
    text = ask.prompt.shared + ask.prompt.own
    text += " " if dialect.space and not text[-1:].isspace() else ""
    if dialect.labels == "completions":
        return COMPLETIONS, {"prompt": text, "max_tokens": 1, "temperature": 0, "logprobs": dialect.top}
    ids = [number for label in ask.labels for number in dialect.label_ids.get(label, ())]
    if dialect.labels == "sglang":
        own = {"return_logprob": True, "token_ids_logprob": ids}
        return GENERATE, {"text": text, "sampling_params": _ONE_TOKEN, **own}
    if dialect.labels == "vllm":
        own = {"logprobs": 1, "logprob_token_ids": ids, "return_tokens_as_token_ids": True}
        return COMPLETIONS, {"prompt": text, "max_tokens": 1, "temperature": 0, **own}
    raise EngineError("this model gives no log-probabilities of labels")


def estimate(text: str) -> int:
    """Tokens of a text, roughly: four characters a token."""
    return math.ceil(len(text) / 4)


def _is_closed(schema: Mapping[str, Any]) -> bool:
    """Whether a schema is one that OpenAI's strict mode takes: every object closed, every property required."""
    parts: Iterable[Any] = [*(schema.get("properties") or {}).values(), schema.get("items")]
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            return False
        if set(schema.get("required") or ()) != set(schema.get("properties") or ()):
            return False
    return all(_is_closed(part) for part in parts if isinstance(part, Mapping))
