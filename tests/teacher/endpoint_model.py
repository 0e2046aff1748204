"""The model behind the loopback endpoint, and the shapes in which real servers put its answers.

The model is a hash: the same prefix and token always have the same log-probability, whether the token is generated or
given, so that a client can check one route to a number against another.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

_TOKEN = re.compile(r" ?[^\W\d_]+| ?\d| ?[^\w\s]|\s|\w")
_VOCABULARY = [*"0123456789", *(f" {digit}" for digit in range(10)), " the", " of", ",", ".", " yes", " no", "\n", " a"]
BOS = "<s>"


@dataclass(frozen=True)
class Traits:
    """What an imitated server does; the names of :data:`DIALECTS` are servers by their documented behaviour.

    ``echo``: ``no`` ignores it, ``refuse`` answers 400, ``zero`` and ``one`` do it; ``max_tokens=0`` means none
    for the first, and no limit for the second.
    ``thinks``: tokens thought before a chat reply; ``quiet`` is what may keep it from that: ``minimal`` effort, or
    ``template`` for ``chat_template_kwargs``. Thoughts are ``hidden`` (only counted), or in the text.
    ``schema``: the strongest response_format it obeys; ``refuse`` takes none at all, ``ignore`` writes prose.
    """

    chat: bool = True
    chat_top: int = 20
    completions: bool = True
    completion_top: int = 0
    completion_shape: str = "legacy"
    echo: str = "no"
    prompt_logprobs: bool = False
    label_ids: bool = False
    generate: bool = False
    tokenize: str = ""
    schema: str = "json_schema"
    limit_name: str = ""
    no_sampling: bool = False
    batches: bool = False
    usage: bool = True
    cache: bool = False
    bos: bool = False
    error_shape: str = "openai"
    thinks: int = 0
    quiet: str = ""
    hidden: bool = True


DIALECTS = {
    "openai": Traits(completions=False, batches=True, cache=True),
    "openai-reasoning": Traits(
        completions=False, chat_top=0, limit_name="max_completion_tokens", no_sampling=True, batches=True
    ),
    "openai-thinking": Traits(
        completions=False,
        chat_top=0,
        limit_name="max_completion_tokens",
        no_sampling=True,
        batches=True,
        thinks=400,
        quiet="minimal",
    ),
    "vllm-thinking": Traits(completion_top=20, tokenize="vllm", thinks=600, quiet="template", hidden=False),
    "vllm": Traits(
        completion_top=20, echo="zero", prompt_logprobs=True, label_ids=True, tokenize="vllm", cache=True, bos=True
    ),
    "vllm-base": Traits(chat=False, completion_top=20, echo="zero", prompt_logprobs=True, tokenize="vllm"),
    "sglang": Traits(completion_top=20, generate=True, tokenize="vllm", cache=True),
    "llama.cpp": Traits(completion_top=20, completion_shape="content", echo="refuse", tokenize="llama.cpp"),
    "llama-cpp-python": Traits(completion_top=20, echo="one", schema="json_object with schema", tokenize="count"),
    "ollama": Traits(),
    "anthropic": Traits(completions=False, chat_top=0, schema="ignore"),
    "bare": Traits(chat_top=0, completions=False, schema="refuse", usage=False),
}


class Refused(Exception):
    """An answer with another status than 200."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": "invalid_request_error", "code": code, "param": param}}


class Model:
    """Answers request bodies; ``reply`` writes a chat's text instead of the hash."""

    def __init__(self, name: str, traits: Traits, reply: Callable[[dict[str, Any]], str] | None = None) -> None:
        self.name = name
        self.traits = traits
        self.reply = reply
        self._texts: dict[int, str] = {}

    def tokens(self, text: str) -> list[str]:
        return _TOKEN.findall(text)

    def token_id(self, token: str) -> int:
        number = crc32(token.encode()) % 1_000_003
        self._texts[number] = token
        return number

    def logprob(self, prefix: list[str], token: str) -> float:
        if " cold" in prefix[-6:] and token.strip() in ("0", "1"):
            # The probe's question about ice, which any model that can grade answers rightly.
            return -0.3 - 2.0 * (token.strip() == "0") - (token[0] == " ")
        return -0.05 - 9 * crc32("\x1f".join((self.name, *prefix[-4:], token)).encode()) / 2**32

    def top(self, prefix: list[str], count: int) -> list[tuple[str, float]]:
        """The likeliest next tokens."""
        scored = [(token, self.logprob(prefix, token)) for token in _VOCABULARY]
        return sorted(scored, key=lambda pair: -pair[1])[:count]

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        traits = self.traits
        if not traits.chat:
            raise Refused(400, "you must provide a chat template if the tokenizer does not define one")
        self._check(body)
        limit = self._limit(body)
        text = "\n".join(message["content"] for message in body["messages"])
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        wanted = body.get("top_logprobs", 0) if body.get("logprobs") else 0
        if wanted > traits.chat_top > 0:
            raise Refused(400, f"top_logprobs must be at most {traits.chat_top}")
        prefix = self.tokens(text)
        if wanted and traits.chat_top:
            top = self.top(prefix, wanted)
            content, choice["finish_reason"] = top[0][0], "length"
            choice["logprobs"] = {"content": [_content(top)]}
        else:
            thought = self._thought(body)
            if thought and limit < 32 and traits.hidden:
                raise Refused(
                    400,
                    "Could not finish the message because max_tokens or model output limit was reached. "
                    "Please try again with higher max_tokens.",
                )
            text = [] if traits.hidden or not thought else ["<think>", *[" hm"] * thought, "</think>"]
            written = [*text, *self.tokens(self._written(body))]
            room = limit - thought if traits.hidden else limit
            if len(written) > room:
                choice["finish_reason"] = "length"
            content = "".join(written[: max(room, 0)])
        choice["message"] = {"role": "assistant", "content": content}
        out = {"object": "chat.completion", "model": self.name, "choices": [choice]}
        hidden = min(self._thought(body), limit) if traits.hidden else 0
        out = self._used(out, len(prefix) + 4, len(self.tokens(content)) + hidden)
        if hidden and traits.usage:
            out["usage"]["completion_tokens_details"] = {"reasoning_tokens": hidden}
        return out

    def _thought(self, body: dict[str, Any]) -> int:
        """Tokens it thinks before it replies."""
        traits, effort = self.traits, body.get("reasoning_effort")
        if not traits.thinks:
            return 0
        if traits.quiet == "minimal":
            if effort not in (None, "minimal", "low", "medium", "high"):
                raise Refused(
                    400,
                    f"Unsupported value: 'reasoning_effort' does not support '{effort}' with this model. Supported "
                    "values are: 'minimal', 'low', 'medium', and 'high'.",
                    "unsupported_value",
                    "reasoning_effort",
                )
            return {"minimal": 0, "low": traits.thinks // 2}.get(effort or "", traits.thinks)
        quiet = traits.quiet == "template" and not (body.get("chat_template_kwargs") or {}).get("enable_thinking", True)
        return 0 if quiet else traits.thinks

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        traits = self.traits
        if not traits.completions:
            raise Refused(404, "Invalid URL (POST /v1/completions)")
        given = body["prompt"]
        prompt = self.tokens(given) if isinstance(given, str) else [self._texts[number] for number in given]
        lead = [BOS] if traits.bos and isinstance(given, str) else []
        limit = body.get("max_tokens", 16)
        echo = bool(body.get("echo")) and traits.echo != "no"
        if echo and traits.echo == "refuse":
            raise Refused(400, "echo is not supported")
        if limit == 0 and traits.echo == "one":
            limit = 40  # llama-cpp-python writes until its context is full
        made: list[tuple[str, float]] = []
        for _ in range(limit if limit < 3 else 0):
            made.append(self.top(prompt + [token for token, _ in made], 1)[0])
        if limit >= 3:
            text = self.tokens(self._written(body))[:limit]
            made = [(token, -0.1) for token in text]
        choice: dict[str, Any] = {"index": 0, "text": "".join(token for token, _ in made), "finish_reason": "length"}
        wanted = body.get("logprobs")
        if wanted is not None and traits.completion_top:
            if wanted > traits.completion_top:
                raise Refused(400, f"logprobs must be at most {traits.completion_top}")
            choice["logprobs"] = self._completion_logprobs(prompt, lead, made, body, echo)
        if echo:
            choice["text"] = "".join([*prompt, choice["text"]])
        if body.get("prompt_logprobs") is not None and traits.prompt_logprobs:
            choice["prompt_logprobs"] = [None] * (1 if not lead else 0) + self._prompt_logprobs(lead + prompt, lead)
        out = {"object": "text_completion", "model": self.name, "choices": [choice]}
        return self._used(out, len(lead) + len(prompt), len(made))

    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        """SGLang's own route."""
        if not self.traits.generate:
            raise Refused(404, "Not Found")
        given = body.get("text")
        prompt = self.tokens(given) if given is not None else [self._texts[number] for number in body["input_ids"]]
        made = self.top(prompt, 1)
        meta: dict[str, Any] = {"prompt_tokens": len(prompt), "completion_tokens": 1, "cached_tokens": 0}
        start = body.get("logprob_start_len", -1)
        if self.traits.cache and start > 1:
            meta["cached_tokens"] = start
        if body.get("return_logprob"):
            texts = body.get("return_text_in_logprobs", False)
            meta["output_token_logprobs"] = [[made[0][1], self.token_id(made[0][0]), made[0][0] if texts else None]]
            if start >= 0:
                meta["input_token_logprobs"] = [
                    [
                        None if at == start else self.logprob(prompt[:at], token),
                        self.token_id(token),
                        token if texts else None,
                    ]
                    for at, token in enumerate(prompt)
                    if at >= start
                ]
            if body.get("token_ids_logprob"):
                meta["output_token_ids_logprobs"] = [
                    [[self.logprob(prompt, self._texts[n]), n, None] for n in body["token_ids_logprob"]]
                ]
        return {"text": made[0][0], "meta_info": meta}

    def count(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.traits.tokenize != "count":
            raise Refused(404, "Not Found")
        return {"count": len(self.tokens(body["input"]))}

    def tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.traits.tokenize in ("", "count"):
            raise Refused(404, "Not Found")
        if self.traits.tokenize == "llama.cpp":
            return {"tokens": [self.token_id(token) for token in self.tokens(body["content"])]}
        lead = [BOS] if self.traits.bos and body.get("add_special_tokens", True) else []
        numbers = [self.token_id(token) for token in lead + self.tokens(body["prompt"])]
        return {"tokens": numbers, "count": len(numbers), "max_model_len": 32768}

    def _written(self, body: dict[str, Any]) -> str:
        if self.reply is not None:
            return self.reply(body)
        mark = crc32(json.dumps(body, sort_keys=True).encode())
        form = body.get("response_format") or {}
        if form.get("type") == "json_schema" and self.traits.schema == "json_schema":
            return json.dumps(_instance(form["json_schema"]["schema"], mark))
        if form.get("type") == "json_object" and "schema" in form and self.traits.schema == "json_object with schema":
            return json.dumps(_instance(form["schema"], mark))
        if form and self.traits.schema != "ignore":
            return json.dumps({"reply": f"number {mark}"})
        return f"a reply that says number {mark}"

    def _check(self, body: dict[str, Any]) -> None:
        traits = self.traits
        form = (body.get("response_format") or {}).get("type")
        if form and (traits.schema == "refuse" or (form == "json_schema" and traits.schema.startswith("json_object"))):
            raise Refused(400, f"response_format {form} is not supported", None, "response_format")
        if traits.no_sampling and "temperature" in body:
            raise Refused(
                400,
                "Unsupported value: 'temperature' does not support 0.0 with this model.",
                "unsupported_value",
                "temperature",
            )
        if traits.limit_name == "max_completion_tokens" and body.get("logprobs"):
            raise Refused(403, "You are not allowed to request logprobs from this model")

    def _limit(self, body: dict[str, Any]) -> int:
        name = self.traits.limit_name
        if name and "max_tokens" in body:
            raise Refused(
                400,
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead.",
                "unsupported_parameter",
                "max_tokens",
            )
        return int(body.get(name or "max_tokens", 1 << 20))

    def _used(self, out: dict[str, Any], inputs: int, outputs: int) -> dict[str, Any]:
        if self.traits.usage:
            out["usage"] = {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": inputs + outputs}
            if self.traits.cache:
                out["usage"]["prompt_tokens_details"] = {"cached_tokens": inputs // 2}
        return out

    def _prompt_logprobs(self, tokens: list[str], lead: list[str]) -> list[dict[str, Any] | None]:
        entries: list[dict[str, Any] | None] = []
        words = tokens[len(lead) :]
        for at, token in enumerate(words):
            if at == 0 and not lead:
                continue
            value = {"logprob": self.logprob(words[:at], token), "rank": 9, "decoded_token": token}
            entries.append({str(self.token_id(token)): value})
        return [None, *entries] if lead else entries

    def _completion_logprobs(
        self, prompt: list[str], lead: list[str], made: list[tuple[str, float]], body: dict[str, Any], echo: bool
    ) -> dict[str, Any]:
        tops = [self.top(prompt, max(body["logprobs"], 1))]
        if self.traits.completion_shape == "content":
            return {"content": [_content(tops[0])]}
        if body.get("logprob_token_ids") and self.traits.label_ids:
            chosen = [made[0][0], *(self._texts[number] for number in body["logprob_token_ids"])]
            named = {f"token_id:{self.token_id(token)}": self.logprob(prompt, token) for token in chosen}
            return {"tokens": [made[0][0]], "token_logprobs": [made[0][1]], "top_logprobs": [named]}
        tokens = [token for token, _ in made]
        values: list[float | None] = [value for _, value in made]
        if echo:
            given = [self.logprob(prompt[:at], token) for at, token in enumerate(prompt)]
            tokens, values = [*lead, *prompt, *tokens], [*(None for _ in lead), *given, *values]
            values[0] = None
        offsets = [sum(map(len, tokens[:at])) for at in range(len(tokens))]
        return {
            "tokens": tokens,
            "token_logprobs": values,
            "text_offset": offsets,
            "top_logprobs": [dict(tops[0])] * len(tokens),
        }


def _content(top: list[tuple[str, float]]) -> dict[str, Any]:
    rows = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in top]
    return {**rows[0], "top_logprobs": rows}


def _instance(schema: dict[str, Any], mark: int) -> Any:
    """A value that a JSON schema allows."""
    if "enum" in schema:
        return schema["enum"][mark % len(schema["enum"])]
    kind = schema.get("type")
    if kind == "object":
        return {name: _instance(part, crc32(name.encode(), mark)) for name, part in schema["properties"].items()}
    if kind == "array":
        return [_instance(schema.get("items", {}), mark + at) for at in range(max(schema.get("minItems", 2), 1))]
    simple = {"boolean": mark % 2 == 0, "integer": mark % 4, "number": math.modf(mark / 7)[0], "null": None}
    return simple.get(kind, f"text number {mark % 10_000}")
