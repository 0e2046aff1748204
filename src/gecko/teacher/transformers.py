"""A language model run in this process by transformers: exact likelihoods and labels, and the oracle for other engines.

The shared part of a prompt goes through the model once; its keys and values are copied for every question after it.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from gecko.teacher.ask import Answer, Ask, Labels, Likelihood, Write
from gecko.teacher.pieces import PieceError, Reading, label_values, read_labels, read_likelihood
from gecko.teacher.protocol import Capabilities
from gecko.teacher.tokens import Tokens
from gecko.teacher.weights import can_copy_cache, fingerprint_of, load_causal

# How many shared prompts are kept: a run has about one for likelihood and one for labels.
_PREFIXES_KEPT = 4
# What a model's own settings say of sampling, which means nothing to a greedy reply.
_GREEDY: dict[str, Any] = {"temperature": None, "top_p": None, "top_k": None, "min_p": None, "typical_p": None}


class TransformersEngine:
    """A causal language model from a directory or the Hub; code that comes with a model is never run.

    Args:
        path_or_id: A model's directory, or its Hub id (``owner/name``).
        device: Such as ``cpu`` or ``cuda``; None takes a GPU where there is one.
        dtype: Such as ``float32`` or ``bfloat16``; None is the checkpoint's own on a GPU and float32 on a CPU.
        batch: Questions per forward pass; halved where memory is short.

    Raises:
        GeckoError: There is no such model, or it is no causal language model, or it has no tokenizer.
    """

    def __init__(
        self, path_or_id: str | Path, *, device: str | None = None, dtype: str | None = None, batch: int = 8
    ) -> None:
        import torch

        self.in_flight = 1
        self.batch = batch
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or ("float32" if self._device.type == "cpu" else "auto")
        self._model, self._tokenizer = load_causal(path_or_id, self._device, dtype)
        self.name = f"transformers:{Path(path_or_id).resolve().name if Path(path_or_id).is_dir() else path_or_id}"
        self.fingerprint = fingerprint_of(self._model, self._tokenizer)
        self._tokens = Tokens(self._tokenizer)
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        self._limit: int | None = limit if isinstance(limit, int) and limit > 0 else None
        self._trims = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self._reuses = can_copy_cache(self._model)
        self._prefixes: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        # A call whose waiter was cancelled still runs in its thread.
        self._lock = threading.Lock()

    async def capabilities(self) -> Capabilities:
        """All that needs logits; a reply cannot be held to a schema."""
        return Capabilities(
            generate=True,
            prompt_logprobs=True,
            prefix_cache_with_prompt_logprobs=self._reuses,
            label_logprobs_exact=True,
            token_id_prompts=True,
        )

    def dialect(self) -> dict[str, Any]:
        """Nothing: it is asked in one way only."""
        return {}

    def set_dialect(self, dialect: dict[str, Any]) -> None:
        """Nothing to take over."""

    async def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answer in order. A question too long for the model, or that its tokens cannot express, gets ``error``."""
        return await asyncio.to_thread(self._answer, list(asks))

    async def count_tokens(self, text: str) -> int | None:
        """Tokens of a text, with no special token around it."""
        return len(self._tokens.encode(text))

    async def close(self) -> None:
        """Free the weights and the caches."""
        import torch

        with self._lock:
            self._prefixes.clear()
            self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _answer(self, asks: list[Ask]) -> list[Answer]:
        import torch

        with self._lock, torch.inference_mode():
            answers: dict[int, Answer] = {}
            readings: list[tuple[int, Reading]] = []
            prompts: list[tuple[int, Write, list[int]]] = []
            for index, ask in enumerate(asks):
                try:
                    if isinstance(ask, Write):
                        prompts.append((index, ask, self._checked(self._tokens.chat(ask.prompt), 1)))
                    else:
                        readings.append((index, self._reading(ask)))
                except PieceError as error:
                    answers[index] = Answer(error=str(error))
            readings.sort(key=lambda pair: pair[1].prefix)
            for _, group in groupby(readings, key=lambda pair: pair[1].prefix):
                answers |= _in_parts(list(group), self._read, self.batch)
            greedy = [row for row in prompts if row[1].temperature == 0]
            answers |= _in_parts(greedy, self._generate, self.batch)
            # A sampled reply depends on its seed alone, and so not on what shares its batch.
            answers |= _in_parts([row for row in prompts if row[1].temperature != 0], self._generate, 1)
            return [answers[index] for index in range(len(asks))]

    def _checked(self, tokens: list[int], more: int) -> list[int]:
        if self._limit is not None and len(tokens) + more > self._limit:
            raise PieceError(f"the prompt has {len(tokens)} tokens, and {self.name} takes {self._limit - more}")
        return tokens

    def _reading(self, ask: Likelihood | Labels) -> Reading:
        if isinstance(ask, Likelihood):
            reading = read_likelihood(self._tokens.encode, self._tokens.start, ask)
        else:
            reading = read_labels(self._tokens.encode, self._tokens.start, ask)
        self._checked([*reading.prefix, *reading.rest], 0)
        return reading if self._reuses else _uncached(reading)

    def _read(self, rows: list[tuple[int, Reading]]) -> dict[int, Answer]:
        """Read questions of one prefix in one forward pass.

        Rows are padded on the right: nothing after a token bears on it, positions stay what they are without padding,
        and so do the distances that a sliding window goes by.
        """
        import torch

        prefix = rows[0][1].prefix
        known = prefix in self._prefixes
        width = max(len(reading.rest) for _, reading in rows)
        padding = self._padding()
        tokens = [[*reading.rest, *[padding] * (width - len(reading.rest))] for _, reading in rows]
        mask = [[1] * (len(prefix) + len(r.rest)) + [0] * (width - len(r.rest)) for _, r in rows]
        places = sorted({place - len(prefix) for _, reading in rows for place, _ in reading.wanted})
        row_of = {place: row for row, place in enumerate(places)}
        logits = self._model(
            input_ids=torch.tensor(tokens, device=self._device),
            attention_mask=torch.tensor(mask, device=self._device),
            past_key_values=self._prefix_cache(prefix, len(rows)),
            use_cache=bool(prefix),
            **({"logits_to_keep": torch.tensor(places, device=self._device)} if self._trims else {}),
        ).logits
        if not self._trims:
            logits = logits[:, places]
        answers = {}
        for number, (index, reading) in enumerate(rows):
            own = sorted({place - len(prefix) for place, _ in reading.wanted})
            logs = logits[number, [row_of[place] for place in own]].float().log_softmax(-1)
            at = [own.index(place - len(prefix)) for place, _ in reading.wanted]
            values = logs[at, [token for _, token in reading.wanted]].tolist()
            cached = len(prefix) if known or number > 0 else 0
            if reading.forms:
                labels = label_values(reading, values)
                answers[index] = Answer(labels=labels, input_tokens=reading.input_tokens, cached_tokens=cached)
            else:
                answers[index] = Answer(logprobs=tuple(values), input_tokens=reading.input_tokens, cached_tokens=cached)
        return answers

    def _prefix_cache(self, prefix: tuple[int, ...], rows: int) -> Any:  # noqa: ANN401
        """A copy of the prefix's keys and values for so many rows, computed at the first call; None for no prefix."""
        import torch
        from transformers import DynamicCache

        if not prefix:
            return None
        if prefix not in self._prefixes:
            cache = DynamicCache(config=self._model.config)
            fed = torch.tensor([prefix], device=self._device)
            # The inner model: nothing is read off the prefix.
            self._model.base_model(
                input_ids=fed, attention_mask=torch.ones_like(fed), past_key_values=cache, use_cache=True
            )
            self._prefixes[prefix] = cache
            if len(self._prefixes) > _PREFIXES_KEPT:
                self._prefixes.popitem(last=False)
        self._prefixes.move_to_end(prefix)
        # A forward pass adds to the cache it is given.
        held = copy.deepcopy(self._prefixes[prefix])
        if rows > 1:
            held.batch_repeat_interleave(rows)
        return held

    def _padding(self) -> int:
        for token in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    def _generate(self, rows: list[tuple[int, Write, list[int]]]) -> dict[int, Answer]:
        """Write replies; rows of one batch must be greedy, a sampled one comes alone."""
        import torch

        width = max(len(tokens) for _, _, tokens in rows)
        most = max(ask.max_tokens for _, ask, _ in rows)
        if self._limit is not None and width + most > self._limit:
            if len(rows) > 1:  # a reply must not end early because another row's prompt is long
                return {index: answer for row in rows for index, answer in self._generate([row]).items()}
            most = self._limit - width
        padding = self._padding()
        settings = copy.deepcopy(self._model.generation_config)
        ends = [settings.eos_token_id, self._tokenizer.eos_token_id]
        stops = {token for end in ends for token in (end if isinstance(end, list) else [end]) if token is not None}
        temperature = rows[0][1].temperature
        settings.update(
            max_new_tokens=most,
            max_length=None,
            do_sample=temperature > 0,
            pad_token_id=padding,
            eos_token_id=sorted(stops) or None,
        )
        settings.update(**({"temperature": temperature} if temperature > 0 else _GREEDY))
        # Padded on the left, so that every reply starts where its prompt ends; generate counts positions from the mask.
        fed = [[padding] * (width - len(tokens)) + tokens for _, _, tokens in rows]
        mask = [[0] * (width - len(tokens)) + [1] * len(tokens) for _, _, tokens in rows]
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(rows[0][1].seed)
            written = self._model.generate(
                torch.tensor(fed, device=self._device),
                attention_mask=torch.tensor(mask, device=self._device),
                generation_config=settings,
            )[:, width:].tolist()
        answers = {}
        for (index, ask, tokens), reply in zip(rows, written, strict=True):
            reply = reply[: ask.max_tokens]
            end = next((place for place, token in enumerate(reply) if token in stops), None)
            answers[index] = Answer(
                text=self._tokenizer.decode(reply[:end], skip_special_tokens=True),
                finish="length" if end is None else "stop",
                input_tokens=len(tokens),
                output_tokens=len(reply) if end is None else end + 1,
            )
        return answers


def _in_parts(rows: list[Any], work: Callable[[list[Any]], dict[int, Answer]], size: int) -> dict[int, Answer]:
    """Do the rows so many at a time, fewer where memory does not suffice."""
    import torch

    answers: dict[int, Answer] = {}
    while rows:
        part = rows[:size]
        try:
            answers |= work(part)
        except torch.OutOfMemoryError:
            if len(part) == 1:
                answers[part[0][0]] = Answer(error="the prompt is too long for the memory there is")
            else:
                size = len(part) // 2
                continue
        rows = rows[len(part) :]
    return answers


def _uncached(reading: Reading) -> Reading:
    return Reading((), reading.prefix + reading.rest, reading.wanted, reading.forms, reading.input_tokens)
