"""A language model in a GGUF file, run in this process by llama.cpp: small, quantised, and without torch.

Likelihoods and labels are read off the logits themselves, of which llama.cpp computes only those that are asked for;
the tokens a question has in common with the one before it stay in the model's cache.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gecko.errors import GeckoError, reason
from gecko.teacher.ask import Answer, Ask, EngineError, Labels, Likelihood, Prompt, Write
from gecko.teacher.pieces import PieceError, Reading, label_values, read_labels, read_likelihood
from gecko.teacher.protocol import Capabilities

_INSTALL = "pip install 'gecko-embed[llama]'"
# Tokens per call of the decoder.
_CHUNK = 512


class LlamaCppEngine:
    """A GGUF file through llama-cpp-python.

    Args:
        path: The file; of a model in several, the first.
        context: Tokens of prompt and reply together; its cache is kept in memory.
        threads: CPU threads; None lets llama.cpp choose.

    Raises:
        GeckoError: llama-cpp-python is not installed, or the file is no GGUF or cannot be loaded.
    """

    def __init__(self, path: str | Path, *, context: int = 4096, threads: int | None = None) -> None:
        path = Path(path)
        _refuse_no_gguf(path)
        try:
            import llama_cpp
        except ImportError as error:
            raise GeckoError("llama-cpp-python is not installed", _INSTALL) from error

        self.in_flight = 1
        self.batch = 1
        self.name = f"llama-cpp:{path.name}"
        try:
            self._llama: Any = llama_cpp.Llama(
                str(path),
                n_ctx=context,
                n_batch=_CHUNK,
                n_threads=threads,
                n_threads_batch=threads,
                n_gpu_layers=-1,
                verbose=False,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise GeckoError(
                f"llama.cpp cannot load {path.name}: {reason(error)}",
                "is the file whole, and of a model this version knows?",
            ) from error
        self._lib: Any = llama_cpp
        with path.open("rb") as file:
            self.fingerprint = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._llama.model)
        self._words: int = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        bos: int = llama_cpp.llama_vocab_bos(self._vocabulary)
        self._start = (bos,) if bos >= 0 and llama_cpp.llama_vocab_get_add_bos(self._vocabulary) else ()
        self._limit = min(context, llama_cpp.llama_model_n_ctx_train(self._llama.model) or context)
        self._template: Any = _chat_template(llama_cpp, self._llama)
        self._held: tuple[int, ...] = ()
        # The context is not safe for threads, and a call whose waiter was cancelled still runs in its own.
        self._lock = threading.Lock()

    async def capabilities(self) -> Capabilities:
        """All that needs logits, and replies held to a schema by a grammar."""
        return Capabilities(
            generate=True,
            prompt_logprobs=True,
            prefix_cache_with_prompt_logprobs=True,
            label_logprobs_exact=True,
            constrained_choice=True,
            token_id_prompts=True,
        )

    def dialect(self) -> dict[str, Any]:
        """Nothing: it is asked in one way only."""
        return {}

    def set_dialect(self, dialect: dict[str, Any]) -> None:
        """Nothing to take over."""

    async def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answer in order. A question too long for the model, or that its tokens cannot express, gets ``error``.

        Raises:
            EngineError: llama.cpp failed.
        """
        return await asyncio.to_thread(self._answer, list(asks))

    async def count_tokens(self, text: str) -> int | None:
        """Tokens of a text, with no special token around it."""
        return len(self._encode(text))

    async def close(self) -> None:
        """Free the model."""
        with self._lock:
            self._llama.close()

    def _answer(self, asks: list[Ask]) -> list[Answer]:
        with self._lock:
            answers = []
            for ask in asks:
                try:
                    answers.append(self._write(ask) if isinstance(ask, Write) else self._read(ask))
                except PieceError as error:
                    answers.append(Answer(error=str(error)))
            return answers

    def _encode(self, text: str) -> list[int]:
        return list(self._llama.tokenize(text.encode(), add_bos=False, special=True)) if text else []

    def _check(self, tokens: int, more: int) -> None:
        if tokens + more > self._limit:
            raise PieceError(f"the prompt has {tokens} tokens, and {self.name} takes {self._limit - more}")

    def _reading(self, ask: Likelihood | Labels) -> Reading:
        if isinstance(ask, Likelihood):
            reading = read_likelihood(self._encode, self._start, ask)
        else:
            reading = read_labels(self._encode, self._start, ask)
        self._check(len(reading.prefix) + len(reading.rest), 0)
        return reading

    def _read(self, ask: Likelihood | Labels) -> Answer:
        reading = self._reading(ask)
        values, cached = self._evaluate(reading)
        if reading.forms:
            labels = label_values(reading, values)
            return Answer(labels=labels, input_tokens=reading.input_tokens, cached_tokens=cached)
        return Answer(logprobs=tuple(values), input_tokens=reading.input_tokens, cached_tokens=cached)

    def _evaluate(self, reading: Reading) -> tuple[list[float], int]:
        """The wanted log-probabilities, and how many tokens were in the cache already."""
        fed = reading.prefix + reading.rest
        places = {place for place, _ in reading.wanted}
        kept = self._keep(fed, min(places))
        values: dict[tuple[int, int], float] = {}
        batch = self._lib.llama_batch_init(_CHUNK, 0, 1)
        try:
            for first in range(kept, len(fed), _CHUNK):
                chunk = fed[first : first + _CHUNK]
                batch.n_tokens = len(chunk)
                for index, token in enumerate(chunk):
                    batch.token[index] = token
                    batch.pos[index] = first + index
                    batch.n_seq_id[index] = 1
                    batch.seq_id[index][0] = 0
                    batch.logits[index] = first + index in places
                code = self._lib.llama_decode(self._llama.ctx, batch)
                if code:
                    self._forget()
                    raise EngineError(f"llama.cpp gave {code} for a prompt of {len(fed)} tokens")
                self._held = fed[: first + len(chunk)]
                for index in range(len(chunk)):
                    if first + index in places:
                        values |= self._logprobs(index, first + index, reading)
        finally:
            self._lib.llama_batch_free(batch)
        return [values[pair] for pair in reading.wanted], kept

    def _logprobs(self, index: int, place: int, reading: Reading) -> dict[tuple[int, int], float]:
        """Log-probabilities wanted at one place, from the logits of one token of the last chunk."""
        import numpy as np

        pointer = self._lib.llama_get_logits_ith(self._llama.ctx, index)
        logits = np.ctypeslib.as_array(pointer, (self._words,)).astype(np.float64)
        top = logits.max()
        total = top + np.log(np.exp(logits - top).sum())
        return {(at, token): float(logits[token] - total) for at, token in reading.wanted if at == place}

    def _keep(self, fed: tuple[int, ...], most: int) -> int:
        """Cut the cache back to what it has in common with these tokens; returns how many that is, at most ``most``."""
        same = 0
        for old, new in zip(self._held[:most], fed, strict=False):
            if old != new:
                break
            same += 1
        memory = self._lib.llama_get_memory(self._llama.ctx)
        # A sliding window has lost what lies behind it, and a recurrent state cannot be cut at all.
        if same == 0 or not self._lib.llama_memory_seq_rm(memory, 0, same, -1):
            self._forget()
            return 0
        self._held = fed[:same]
        return same

    def _forget(self) -> None:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._llama.ctx), True)
        self._held = ()

    def _write(self, ask: Write) -> Answer:
        tokens = self._write_tokens(ask.prompt)
        self._check(len(tokens), 1)
        # The library keeps an account of its own of what the cache holds; it must find it as it left it: empty.
        self._llama.reset()
        self._forget()
        try:
            grammar = None
            if ask.schema is not None:
                grammar = self._lib.LlamaGrammar.from_json_schema(json.dumps(ask.schema), verbose=False)
            reply = self._llama.create_completion(
                tokens, max_tokens=ask.max_tokens, temperature=ask.temperature, seed=ask.seed, grammar=grammar
            )
        except Exception as error:  # of a grammar or the decoder, each with its own kinds
            raise EngineError(f"llama.cpp failed: {reason(error)}") from error
        choice, usage = reply["choices"][0], reply["usage"]
        return Answer(
            text=choice["text"],
            finish=choice["finish_reason"] or "",
            input_tokens=usage["prompt_tokens"],
            output_tokens=usage["completion_tokens"],
        )

    def _write_tokens(self, prompt: Prompt) -> list[int]:
        if self._template is None:
            tokens = [*self._start, *self._encode(prompt.shared + prompt.own)]
            if not tokens:
                raise PieceError("the prompt is empty")
            return tokens
        user = {"role": "user", "content": prompt.own}
        try:
            return self._chat([{"role": "system", "content": prompt.shared}, user] if prompt.shared else [user])
        except Exception:  # some templates refuse a system message, each with an error of its own
            merged = f"{prompt.shared}\n\n{prompt.own}".strip()
            return self._chat([{"role": "user", "content": merged}])

    def _chat(self, messages: list[dict[str, str]]) -> list[int]:
        # Not create_chat_completion, which for some templates uses a format of its own that drops the system message.
        # The switch is Qwen's; templates that know none ignore it. Thinking would eat the reply's tokens.
        return self._encode(self._template(messages=messages, enable_thinking=False).prompt)


def _chat_template(library: Any, llama: Any) -> Any:  # noqa: ANN401
    """What turns messages into a prompt, from the template in the file; None where there is none."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    template = llama.metadata.get("tokenizer.chat_template")
    if not template:
        return None
    vocabulary = library.llama_model_get_vocab(llama.model)
    ends = (library.llama_vocab_bos(vocabulary), library.llama_vocab_eos(vocabulary))
    bos, eos = (library.llama_vocab_get_text(vocabulary, token).decode() if token >= 0 else "" for token in ends)
    return Jinja2ChatFormatter(template, eos_token=eos, bos_token=bos)


def _refuse_no_gguf(path: Path) -> None:
    if not path.is_file():
        raise GeckoError(f"no file at {path}", "give a .gguf file; a model's directory is for transformers:DIR")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise GeckoError(f"{path} is no GGUF file", "it should begin with the letters GGUF")
