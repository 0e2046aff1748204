"""Finds out what an OpenAI-compatible server can do: a feature counts only when an answer shows it.

Servers accept parameters they ignore, so that a status says nothing: the log-probabilities have to be there, as many as
there are tokens, and to agree with what the server says of the same token another way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gecko.teacher.ask import Answer, EngineError, Labels, Likelihood, Prompt, Write
from gecko.teacher.openai_errors import Damaged, Refusal, is_missing_model
from gecko.teacher.openai_evidence import distinct, first_of, label_mass, obeys
from gecko.teacher.openai_read import read, scored_tokens, top_tokens
from gecko.teacher.openai_thoughts import LITTLE, QUESTION, QUIET, ROOM, is_cut, thought_tokens, tokens_used
from gecko.teacher.openai_tokenize import Post, label_ids
from gecko.teacher.openai_tokens import span, squeeze
from gecko.teacher.openai_wire import COMPLETIONS, COUNT, SCHEMAS, TOKENIZE, Dialect, request

_LEADS = (
    "Count with me: one two three four five six seven, one two three four five six seven, one two three four",
    "one two three, one two three (one two three) and once more:",
    "Days of the week are Monday, Tuesday,",
)
_DIGIT = Prompt(
    "Answer with one digit, 1 for yes, 0 for no.\n\nQuestion: is fire hot\nAnswer: 1\n\n"
    "Question: is snow black\nAnswer: 0\n\n",
    "Question: is ice cold\nAnswer:",
)
_SCHEMA = {
    "type": "object",
    "properties": {"warm": {"type": "boolean"}, "degrees": {"type": "integer"}},
    "required": ["warm", "degrees"],
    "additionalProperties": False,
}
_TRIES = 3  # a busy server's 500 is not a missing feature
_WAITS, _LONGEST_WAIT = 6, 60.0  # for a server that is crowded; seconds
_LEAST_MASS = 0.3  # of the labels together, where a digit was asked for
_AGREE, _AGREE_SHARE = 0.1, 0.03  # nats, and of the value: one token asked twice differs by batch and precision only


class Probe:
    """One probing of one server.

    Args:
        post: Sends a body to a route and gives the reply's JSON; None instead of a body gets the route.
        model: Name the server knows the model by.
    """

    def __init__(self, post: Post, model: str) -> None:
        self._send = post
        self._model = model
        self.dialect = Dialect()
        self._next: dict[str, list[tuple[str, float]]] = {}
        self._used = (0, 0)

    async def run(self) -> Dialect:
        """Ask what there is to ask.

        Raises:
            EngineError: The server does not answer, or has no such model.
        """
        await self._writes()
        await self._thinks_less()
        await self._tokenizes()
        await self._scores()
        await self._labels()
        await self._schemas()
        await self._lists_batches()
        self.dialect.probed = True
        self.dialect.probe_input, self.dialect.probe_output = self._used
        return self.dialect

    async def _post(self, route: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        """Send, and wait where the server says that it is crowded; what it used is counted."""
        for attempt in range(_WAITS):
            try:
                reply = await self._send(route, body)
                break
            except EngineError as error:
                if not error.crowded or error.timeout or attempt == _WAITS - 1:
                    raise
                await asyncio.sleep(min(2.0**attempt if error.wait is None else error.wait, _LONGEST_WAIT))
        inputs, outputs = tokens_used(reply)
        self._used = self._used[0] + inputs, self._used[1] + outputs
        return reply

    async def _feature(self, route: str, body: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """A reply, or None where the server has no such feature.

        Raises:
            EngineError: It does not answer at all, or does not know the key.
        """
        for attempt in range(_TRIES):
            try:
                return await self._post(route, body)
            except Refusal as error:
                if error.status == 401 or error.crowded or error.status in (402, 502, 504):
                    raise
                if error.status < 500 or error.status == 501 or attempt == _TRIES - 1:
                    return None
            except Damaged:
                if attempt == _TRIES - 1:
                    return None
        return None

    async def _writes(self) -> None:
        refused: list[Refusal] = []
        # The second, because a context may be so short that a long reply is refused, or is the server's end.
        for route, room in (("chat", ROOM), ("chat", LITTLE), ("completions", LITTLE)):
            self.dialect = Dialect(write=route)
            ask = Write(QUESTION, max_tokens=room)
            try:
                self.dialect.thoughts = thought_tokens(await self._ask_adapting(ask), ask)
                return
            except Refusal as error:
                if is_cut(error):
                    self.dialect.thoughts = room
                    return
                passing = error.crowded or (error.retry and room == LITTLE)
                if passing or error.status in (401, 402) or is_missing_model(error):
                    raise
                refused.append(error)
        refused[0].fatal = True
        raise refused[0]

    async def _thinks_less(self) -> None:
        """Find what keeps a model that thinks before it answers from doing so, or what shortens its thoughts most."""
        ask = Write(QUESTION, max_tokens=ROOM)
        for extra in QUIET:
            if not self.dialect.thoughts or self.dialect.write != "chat":
                return
            dialect = replace(self.dialect, extra=extra)
            reply = await self._feature(*request(self._model, dialect, ask))
            with contextlib.suppress(EngineError):
                if reply is not None and read(dialect, ask, reply).text:
                    thoughts = thought_tokens(reply, ask)
                    if thoughts < self.dialect.thoughts:
                        self.dialect = replace(dialect, thoughts=thoughts)

    async def _ask_adapting(self, ask: Write) -> dict[str, Any]:
        for _ in range(4):
            route, body = request(self._model, self.dialect, ask)
            try:
                reply = await self._post(route, body)
                read(self.dialect, ask, reply)
                return reply
            except Refusal as error:
                self.dialect.adapt(error.said, error.param, body)
                if error.status not in (400, 422) or request(self._model, self.dialect, ask) == (route, body):
                    raise
        raise EngineError("the server takes no form of the call")

    async def _tokenizes(self) -> None:
        # One body for both kinds: each leaves the other's names alone.
        body = {
            "model": self._model,
            "prompt": "one two three",
            "content": "one two three",
            "add_special_tokens": False,
        }
        reply = await self._feature(TOKENIZE, body)
        tokens = reply.get("tokens") if reply else None
        if reply and isinstance(tokens, list) and len(tokens) > 1 and all(isinstance(token, int) for token in tokens):
            self.dialect.tokenize = "vllm" if reply.get("count") == len(tokens) else "llama.cpp"
            sent = {"model": self._model, "prompt": tokens, "max_tokens": 1, "temperature": 0}
            answered = await self._feature(COMPLETIONS, sent)
            used = (answered or {}).get("usage") or {}
            self.dialect.token_ids = used.get("prompt_tokens") == len(tokens)
            return
        counted = (await self._feature(COUNT, {"model": self._model, "input": "one two three"}) or {}).get("count")
        self.dialect.counts = isinstance(counted, int) and counted > 1

    async def _scores(self) -> None:
        """Find the route to the log-probabilities of given text."""
        # Where no token is generated for 0, one is for 1; llama-cpp-python writes on for 0 until its context is full.
        for name, depth in (("sglang", 0), ("vllm", 0), ("vllm", 1), ("echo", 1), ("echo", 0)):
            dialect = replace(self.dialect, likelihood=name, depth=depth)
            if not await self._is_in_place(dialect):
                continue
            self.dialect = dialect
            ask = Likelihood(Prompt(_LEADS[0], ""), " five six seven")
            if name == "sglang":
                await self._caches(ask)
            elif name == "echo":
                await self._measures(ask)
            return

    async def _is_in_place(self, dialect: Dialect) -> bool:
        """Whether a route gives the continuation's log-probabilities, each in its token's place.

        The tokens a server says it would write next are given to it as text: it must say the same of them.
        llama-cpp-python does not for models without a token for the text's start: there it pairs each token with the
        distribution after it. A server of which no token can be compared is not believed.
        """
        needed, agreed = (2 if dialect.likelihood == "echo" else 1), 0
        for lead in _LEADS:
            for token, value in await self._next_tokens(lead):
                ask = Likelihood(Prompt(lead, ""), token + " six seven")
                reply = await self._feature(*request(self._model, dialect, ask))
                first = first_of(dialect, ask, reply)
                if first is None:
                    return False
                if squeeze(first[0]) != squeeze(token):
                    continue
                if abs(first[1] - value) > _AGREE + _AGREE_SHARE * abs(value):
                    return False
                agreed += 1
                if agreed == needed:
                    return True
        return False

    async def _next_tokens(self, lead: str) -> list[tuple[str, float]]:
        if lead not in self._next:
            body = {"model": self._model, "prompt": lead, "max_tokens": 1, "temperature": 0, "logprobs": 5}
            reply = await self._feature(COMPLETIONS, body)
            top: list[tuple[str, float]] = []
            with contextlib.suppress(EngineError, LookupError, TypeError, AttributeError):
                top = sorted(top_tokens(reply or {}), key=lambda pair: -pair[1])
            self._next[lead] = [(token, value) for token, value in top if token.strip().isalnum()][:4]
        return self._next[lead]

    async def _caches(self, ask: Likelihood) -> None:
        route, body = request(self._model, self.dialect, ask, start=8)
        reply = await self._feature(route, body)
        cached = ((reply or {}).get("meta_info") or {}).get("cached_tokens")
        self.dialect.prefix_cache = isinstance(cached, int) and cached > 0

    async def _measures(self, ask: Likelihood) -> None:
        """Find whether the echo route's offsets count characters from the text's start."""
        reply = await self._feature(*request(self._model, self.dialect, ask))
        with contextlib.suppress(EngineError, LookupError, TypeError, AttributeError):
            scored = scored_tokens(self.dialect, reply or {})
            by_text = span(replace(scored, offsets=()), ask)
            self.dialect.offsets = bool(scored.offsets) and span(replace(scored, trusted=True), ask) == by_text

    async def _labels(self) -> None:
        """Find the route to label log-probabilities."""
        ask = Labels(_DIGIT, ("0", "1"))
        routes: list[tuple[str, int]] = []
        if self.dialect.tokenize == "vllm":
            for label in ask.labels:
                self.dialect.label_ids[label] = await label_ids(self._post, self._model, self.dialect, label)
            if distinct(self.dialect.label_ids):
                routes += [("sglang", 0), ("vllm", 0)]
        routes += [("completions", 20), ("completions", 5)]
        if self.dialect.write == "chat":
            routes += [("chat", 20), ("chat", 8), ("chat", 5)]
        for name, top in routes:
            found: list[tuple[float, Dialect]] = []
            # Many tokenizers keep digits apart: after "Answer:" comes a space, and only then the digit.
            for space in (False, True) if name != "chat" else (False,):
                dialect = replace(self.dialect, labels=name, top=top, space=space)
                reply = await self._feature(*request(self._model, dialect, ask))
                mass = label_mass(dialect, ask, reply)
                if reply is not None and mass >= _LEAST_MASS:
                    dialect.top = min(top, len(top_tokens(reply))) if top else 0
                    found.append((mass, dialect))
            if found:
                self.dialect = max(found, key=lambda pair: pair[0])[1]
                return

    async def _schemas(self) -> None:
        """Find whether it obeys a JSON schema that the prompt does not speak of."""
        if self.dialect.write != "chat":
            return
        said = Prompt("You are a careful assistant. Reply in JSON.", "Say hello.")
        for schema in SCHEMAS:
            for limit in (256, 2048):  # a model that thinks first may need more
                dialect = replace(self.dialect, schema=schema)
                ask = Write(said, max_tokens=limit, schema=_SCHEMA)
                reply = await self._feature(*request(self._model, dialect, ask))
                answer = Answer()
                with contextlib.suppress(EngineError):
                    answer = read(dialect, ask, reply or {})
                if obeys(answer.text, schema):
                    self.dialect = dialect
                    return
                if answer.finish != "length":
                    break

    async def _lists_batches(self) -> None:
        reply = await self._feature("batches?limit=1", None)
        found = reply or {}
        self.dialect.batch = found.get("object") == "list" and isinstance(found.get("data"), list)
