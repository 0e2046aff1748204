"""Any OpenAI-compatible endpoint as an engine: OpenAI, vLLM, SGLang, llama.cpp, Ollama, and the many others.

One call is one attempt; whether it is made again is decided in ``caller``. What the endpoint can do is found out by
asking (``openai_probe``); how it is asked then is in ``openai_wire``.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gecko.errors import GeckoError
from gecko.shards import fingerprint
from gecko.teacher.ask import Answer, Ask, EngineError, Labels, Likelihood, Write
from gecko.teacher.openai_errors import Damaged, Refusal, refusal, unreached
from gecko.teacher.openai_probe import Probe
from gecko.teacher.openai_read import prompt_estimate, read
from gecko.teacher.openai_thoughts import is_cut
from gecko.teacher.openai_tokenize import label_ids, tokenize
from gecko.teacher.openai_tokens import Unspelled
from gecko.teacher.openai_wire import COUNT, Dialect, request
from gecko.teacher.protocol import Capabilities

if TYPE_CHECKING:
    import openai

_OPENAI = "https://api.openai.com/v1"
NO_KEY = "none"  # servers of one's own ask for no key, and the client cannot be made without one
_STARTS_KEPT = 64
_BEFORE_SHARED_ENDS = 4  # tokens; the last ones of the shared part may join with what follows


def _is_address(url: str) -> bool:
    """Whether something can be asked at a URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # read only now; one that is no number raises
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


class OpenAIEngine:
    """A language model behind an OpenAI-compatible endpoint.

    A likelihood ask's continuation is what ends the text: a token that begins in the prompt and ends in the
    continuation counts to the continuation.

    Args:
        model: Name the endpoint knows the model by.
        base_url: Address up to and with ``/v1``; without it, OPENAI_BASE_URL, else OpenAI itself.
        api_key: The key; without it, GECKO_API_KEY or OPENAI_API_KEY. An endpoint with a ``base_url`` needs none.
        own_key: Whether the key is its own and not the common one; then nothing that the environment holds for the
            common endpoint (organization, project, headers) is sent.
        in_flight: Calls at once, at most.
        timeout: Seconds one call may take, its reply read to the end.
        asked: Whether it will be asked anything; without, no key is needed.

    Raises:
        GeckoError: There is no key for OpenAI itself, or the address is none.
    """

    batch = 1

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        own_key: bool = False,
        in_flight: int = 64,
        timeout: float = 120.0,
        asked: bool = True,
    ) -> None:
        given = base_url or os.environ.get("OPENAI_BASE_URL") or ""
        self._base_url = (given or _OPENAI).strip().rstrip("/")
        if not _is_address(self._base_url):
            raise GeckoError("the model's address is not a URL", "it looks like http://127.0.0.1:8000/v1")
        key = api_key or os.environ.get("GECKO_API_KEY") or os.environ.get("OPENAI_API_KEY") or ""
        if asked and not key and not given:
            raise GeckoError(
                "there is no key for the OpenAI API",
                "set OPENAI_API_KEY, or give the address of another endpoint: OPENAI_BASE_URL=http://127.0.0.1:8000/v1",
            )
        self.name = f"openai:{model}"
        self.in_flight = in_flight
        self.timeout = timeout
        self.model = model
        self._key = key or NO_KEY
        self._own_key = own_key
        self._dialect = Dialect()
        self._client: openai.AsyncOpenAI | None = None
        self._starts: OrderedDict[str, int] = OrderedDict()
        self._lock = asyncio.Lock()
        self.fingerprint = self._mark()

    def __repr__(self) -> str:
        return f"OpenAIEngine({self.model!r})"

    def _mark(self) -> str:
        parts = urlsplit(self._base_url)
        # The same name on another server is another model; a user and a password in the address are not part of it.
        address = f"{parts.scheme}://{(parts.hostname or '').lower()}:{parts.port or ''}{parts.path}"
        return fingerprint(self.model, address, *self._dialect.mark())

    def dialect(self) -> dict[str, Any]:
        """What probing found out, to be kept and given to :meth:`set_dialect`; empty before."""
        return self._dialect.to_json() if self._dialect.probed else {}

    def set_dialect(self, dialect: dict[str, Any]) -> None:
        """Take over what an earlier probing found out, so that :meth:`capabilities` asks nothing."""
        if dialect:
            self._dialect = Dialect.from_json(dialect)
            self.fingerprint = self._mark()

    async def capabilities(self) -> Capabilities:
        """Find out by asking what it can do, once.

        Raises:
            EngineError: It does not answer, or does not know the key or the model (``fatal``).
        """
        if not self._dialect.probed:
            self._dialect = await Probe(self.post, self.model).run()
            self.fingerprint = self._mark()
        return self._dialect.capabilities()

    async def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answer one ask with one call.

        Raises:
            EngineError: It failed.
            ValueError: There is more than one.
        """
        if len(asks) != 1:
            raise ValueError("an endpoint takes one ask a call")
        return [await self._answer(asks[0])]

    async def _answer(self, ask: Ask) -> Answer:
        texts = (ask.prompt.shared, ask.prompt.own, getattr(ask, "continuation", ""))
        start = 0
        if isinstance(ask, Labels) and self._dialect.labels in ("sglang", "vllm"):
            await self._learn_labels(ask)
        elif isinstance(ask, Likelihood) and self._dialect.likelihood == "sglang":
            start = await self._start(ask.prompt.shared)
        for _ in range(4):
            route, body = request(self.model, self._dialect, ask, start=start)
            try:
                reply = await self.post(route, body, texts)
                break
            except Refusal as error:
                if isinstance(ask, Write) and is_cut(error):
                    # It thought until there was no room left: what other servers call a reply cut off at its limit.
                    return Answer(finish="length", input_tokens=prompt_estimate(ask), output_tokens=ask.max_tokens)
                # A parameter the model does not take: the same call without it was not made yet.
                self._dialect.adapt(error.said, error.param, body)
                if error.status not in (400, 422) or request(self.model, self._dialect, ask, start=start)[1] == body:
                    raise
            except Damaged as damaged:
                damaged.input_tokens = damaged.input_tokens or prompt_estimate(ask)
                raise
        else:
            raise EngineError("the server takes no form of the call")
        try:
            return read(self._dialect, ask, reply)
        except Unspelled:
            if not isinstance(ask, Likelihood) or not self._dialect.tokenize:
                raise
        return read(self._dialect, ask, reply, continuation_tokens=await self._count_continuation(ask))

    async def _count_continuation(self, ask: Likelihood) -> int:
        """Tokens of the continuation after its prompt; those that the prompt's own end changes are counted."""
        prompt = ask.prompt.shared + ask.prompt.own
        before = await tokenize(self.post, self.model, self._dialect, prompt, special=True)
        whole = await tokenize(self.post, self.model, self._dialect, prompt + ask.continuation, special=True)
        same = 0
        while same < min(len(before), len(whole)) and before[same] == whole[same]:
            same += 1
        return len(whole) - same

    async def _start(self, shared: str) -> int:
        """Where SGLang may begin to report: shortly before the shared part ends, so that its cache of it is read."""
        if not self._dialect.tokenize or not shared:
            return 0
        if shared not in self._starts:
            tokens = await tokenize(self.post, self.model, self._dialect, shared, special=True)
            self._starts[shared] = max(0, len(tokens) - _BEFORE_SHARED_ENDS)
            if len(self._starts) > _STARTS_KEPT:
                self._starts.popitem(last=False)
        return self._starts[shared]

    async def _learn_labels(self, ask: Labels) -> None:
        async with self._lock:
            for label in ask.labels:
                if label not in self._dialect.label_ids:
                    found = await label_ids(self.post, self.model, self._dialect, label)
                    self._dialect.label_ids[label] = found

    async def count_tokens(self, text: str) -> int | None:
        """Tokens of a text, where the server's tokenizer can be asked; else None."""
        if self._dialect.counts:
            return int((await self.post(COUNT, {"model": self.model, "input": text})).get("count") or 0)
        if not self._dialect.tokenize:
            return None
        return len(await tokenize(self.post, self.model, self._dialect, text, special=False))

    async def post(self, route: str, body: Mapping[str, Any] | None, texts: Sequence[str] = ()) -> dict[str, Any]:
        """Send one request, once.

        Args:
            route: Below ``/v1``; with a leading slash, below the server's root.
            body: JSON to post; None gets the route.
            texts: What must not appear in an error's message.

        Raises:
            EngineError: There is no reply, or no answer in it.
        """
        import openai
        from aiohttp import ClientError

        url = self._root() + route if route.startswith("/") else f"{self._base_url}/{route}"
        try:
            client = self._opened()
            # Bytes, and not the package's models: building those takes as long as all the rest of a call.
            async with asyncio.timeout(self.timeout):
                if body is None:
                    data = await client.get(url, cast_to=bytes)
                else:
                    data = await client.post(url, cast_to=bytes, body=body)
        except (openai.OpenAIError, ClientError, TimeoutError, OSError, ValueError) as error:
            raise self.failure(error, texts) from None
        try:
            reply = json.loads(data)
        except (ValueError, RecursionError):
            raise Damaged("not JSON", output_tokens=len(data) // 4) from None
        if not isinstance(reply, dict):
            raise Damaged("not a JSON object")
        if reply.get("error") and not reply.get("choices"):
            told = reply["error"]
            code = told.get("code") if isinstance(told, Mapping) else None
            raise refusal(code if isinstance(code, int) and code >= 400 else 500, reply, {}, self._key, texts)
        return reply

    def failure(self, error: Exception, texts: Sequence[str] = ()) -> EngineError:
        """What the ``openai`` package raised, as the error of a call; it holds neither the key nor the texts."""
        response, status = getattr(error, "response", None), getattr(error, "status_code", None)
        if response is None or not isinstance(status, int):
            return unreached(error, self.timeout)
        body = getattr(error, "body", None)
        return refusal(status, response.text if body is None else body, response.headers, self._key, texts)

    def _root(self) -> str:
        return self._base_url.removesuffix("/v1")

    def _opened(self) -> openai.AsyncOpenAI:
        if self._client is None:
            import openai

            self._client = openai.AsyncOpenAI(
                api_key=self._key,
                base_url=self._base_url,
                timeout=self.timeout,
                max_retries=0,
                default_headers=self._headers(),
                http_client=openai.DefaultAioHttpClient(),  # the default one costs twice the CPU a call (docs/log.md)
            )
            self._forget_account(self._client)
        return self._client

    def _headers(self) -> dict[str, Any]:
        """Headers that the package is to leave out.

        What it tells of this machine nobody needs; and what the environment sets for the usual endpoint
        (OPENAI_CUSTOM_HEADERS) is kept from one that has a key rule of its own.
        """
        from openai import Omit

        told = ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")
        names = [f"X-Stainless-{name}" for name in told]
        if self._own_key:
            lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
            names += [line.partition(":")[0].strip() for line in lines if ":" in line]
        return {name: Omit() for name in names}

    def blocking_client(self) -> openai.OpenAI:
        """A client of the same endpoint for calls that are few and long, such as those of the Batch API."""
        import openai

        client = openai.OpenAI(
            api_key=self._key,
            base_url=self._base_url,
            timeout=600.0,
            max_retries=0,
            default_headers=self._headers(),
        )
        self._forget_account(client)
        return client

    def _forget_account(self, client: openai.AsyncOpenAI | openai.OpenAI) -> None:
        """Keep the common account (OPENAI_ORG_ID, OPENAI_PROJECT_ID) from an endpoint with a key of its own."""
        if self._own_key:
            client.organization = client.project = None

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
