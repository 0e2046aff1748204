"""A language model that vLLM runs on the GPUs of a Ray cluster (``ray-vllm:MODEL``), through ``ray.data.llm``.

Not run by us: it needs a GPU. Written against the documented interface of Ray 2.60 and vLLM's ``SamplingParams``, and
tested with Ray's own pipeline around an engine in place of vLLM.

What is sent and how it is read is in ``vllm_rows``. Every call starts vLLM on its workers and ends it, which takes
minutes, and so is made of all there is to ask (``gathered``).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gecko.engine.ray import join
from gecko.errors import GeckoError
from gecko.records import content_id
from gecko.teacher.ask import Answer, Ask, EngineError, Labels, Likelihood, Prompt, Write
from gecko.teacher.pieces import PieceError
from gecko.teacher.protocol import Capabilities
from gecko.teacher.tokens import Tokens
from gecko.teacher.vllm_rows import TOP, Question, answer_of, kept, question_of
from gecko.teacher.weights import fingerprint_of_files, load_tokenizer

_SERVE = "or serve the model (vLLM, Ray Serve) and ask openai:MODEL with --base-url"
_INSTALL = "pip install 'gecko-embed[ray]' vllm"
_NO_CORE = {"num_cpus": 0}
_GPU_SECONDS = 60
_SIZES = ("tensor_parallel_size", "pipeline_parallel_size")
_PROBES: tuple[Ask, ...] = (
    Write(Prompt("You are a careful assistant.", "Say hello."), 16),
    Likelihood(Prompt("", "The capital of France is"), " Paris"),
    Labels(Prompt("", "Say a digit from 0 to 3.\nDigit:"), ("0", "1", "2", "3")),
)


class RayVllmEngine:
    """A causal language model on a Ray cluster with GPUs.

    Args:
        model: Its directory, which every machine sees under the same path, or its Hub id.
        address: Of the cluster; None starts Ray on this machine, unless this process has joined one.
        batch: Prompts that a worker is sent at a time.
        arguments: Of vLLM's engine, such as ``tensor_parallel_size`` or ``max_model_len``.
        asked: Whether it will be asked anything; without, neither Ray nor vLLM need be there.

    Raises:
        GeckoError: Ray or vLLM is missing, or the model's configuration or tokenizer cannot be read.
    """

    def __init__(
        self,
        model: str,
        *,
        address: str | None = None,
        batch: int = 64,
        arguments: Mapping[str, Any] | None = None,
        asked: bool = True,
    ) -> None:
        needed = ("ray", "vllm") if address is None else ("ray",)  # vLLM runs on the cluster's machines
        missing = [name for name in needed if asked and importlib.util.find_spec(name) is None]
        if missing:
            raise GeckoError(f"{' and '.join(missing)} not installed", f"{_INSTALL}; {_SERVE}")
        config, tokenizer = load_tokenizer(model)
        self._tokens = Tokens(tokenizer)
        self._model = str(Path(model).resolve()) if Path(model).is_dir() else model
        self._arguments = dict(arguments or {})
        self._rows_at_once = batch
        self._address = address
        self._ray: Any = None
        self._ours = False
        self._used = (0, 0)
        self.name = f"ray-vllm:{Path(self._model).name if Path(model).is_dir() else model}"
        said = json.dumps(self._arguments, sort_keys=True)
        self.fingerprint = content_id("ray-vllm", fingerprint_of_files(model, config, tokenizer), said)
        self.in_flight, self.batch = 1, 1_000_000

    async def capabilities(self) -> Capabilities:
        """What three short questions got an answer to; they start vLLM twice.

        Raises:
            EngineError: It writes nothing.
        """
        answers = written, likely, labelled = await self.answer(_PROBES)
        self._used = sum(a.input_tokens for a in answers), sum(a.output_tokens for a in answers)
        if written.error:
            raise EngineError(written.error)
        told = not labelled.error and len(labelled.floored) < len(labelled.labels)
        return Capabilities(
            generate=True,
            prompt_logprobs=not likely.error,
            label_logprobs_topk=TOP if told else 0,
            token_id_prompts=True,
        )

    def dialect(self) -> dict[str, Any]:
        """What probing used."""
        return {"probe_input": self._used[0], "probe_output": self._used[1]}

    def set_dialect(self, dialect: dict[str, Any]) -> None:
        """Nothing to take over."""

    async def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answer in order (:meth:`stream`)."""
        found = {number: answer async for number, answer in self.stream(asks)}
        return [found[number] for number in range(len(asks))]

    async def stream(self, asks: Sequence[Ask]) -> AsyncIterator[tuple[int, Answer]]:
        """Answer one by one (:class:`gecko.teacher.gathered.StreamingEngine`); a refused question gets ``error``.

        Raises:
            GeckoError: Ray or vLLM does not start, or there is no GPU.
        """
        loop = asyncio.get_running_loop()
        come: asyncio.Queue[tuple[int, Answer] | Exception | None] = asyncio.Queue()
        unwanted = threading.Event()

        def work() -> None:
            end: Exception | None = None
            try:
                for found in self._answers(asks):
                    if unwanted.is_set():
                        return
                    loop.call_soon_threadsafe(come.put_nowait, found)
            except Exception as error:
                end = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(come.put_nowait, end)

        self._start()
        # A thread that the end of the process does not wait for: vLLM may be loading a model.
        threading.Thread(target=work, daemon=True).start()
        try:
            while (item := await come.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            unwanted.set()

    async def count_tokens(self, text: str) -> int | None:
        """Tokens of a text, with no special token around it."""
        return len(self._tokens.encode(text))

    async def close(self) -> None:
        """Leave the cluster, or end the Ray that was started here."""
        if self._ours and self._ray.is_initialized():
            self._ray.shutdown()

    def _start(self) -> None:
        self._ray, ours = join(self._address)
        self._ours = self._ours or ours
        if self._ray.cluster_resources().get("GPU", 0) < 1:
            raise GeckoError(f"{self.name}: the Ray cluster has no GPU", f"name one that has in RAY_ADDRESS; {_SERVE}")
        if self._address is None and not ours and self._ray.available_resources().get("CPU", 0) < 1:
            raise GeckoError(f"{self.name}: the workers of --engine ray keep every core", "use --engine local")
        # Those of a vLLM that has just ended take a moment to come free; those of our own workers never would.
        deadline = time.monotonic() + _GPU_SECONDS
        while self._ray.available_resources().get("GPU", 0) < 1:
            if time.monotonic() > deadline:
                hint = "workers of --engine ray keep theirs while they search: leave --ray-gpus out"
                raise GeckoError(f"{self.name}: no GPU of the Ray cluster is free", hint)
            time.sleep(1)

    def _answers(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """Ask all of it in two runs of the pipeline: likelihoods, and what needs no look at the whole prompt."""
        for exact in (False, True):
            rows: list[dict[str, Any]] = []
            questions: dict[int, Question] = {}
            for number, ask in enumerate(asks):
                if isinstance(ask, Likelihood) is exact:
                    try:
                        questions[number] = question = question_of(ask, self._tokens)
                        rows.extend({"number": number, **row} for row in question.rows)
                    except PieceError as error:
                        yield number, Answer(error=str(error))
            replies: dict[int, list[dict[str, Any]]] = {}
            for row in self._run(rows) if rows else ():
                number = row["number"]
                replies.setdefault(number, []).append(row)
                if len(replies[number]) == len(questions[number].rows):
                    yield number, answer_of(asks[number], questions.pop(number).reading, replies.pop(number))

    def _run(self, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        ray = self._ray
        try:
            import ray.data.llm as ray_llm

            ray.data.DataContext.get_current().enable_progress_bars = False
            size = math.prod(int(self._arguments.get(name, 1)) for name in _SIZES)
            config = ray_llm.vLLMEngineProcessorConfig(
                model_source=self._model,
                engine_kwargs=dict(self._arguments),
                concurrency=max(1, int(ray.cluster_resources()["GPU"]) // size),
                batch_size=self._rows_at_once,
                should_continue_on_error=True,
                chat_template_stage=False,
                tokenize_stage=False,
                detokenize_stage=False,  # vLLM itself does it
            )
            # No core is asked for the two small steps: the workers may have them all.
            processor = ray_llm.build_processor(
                config, postprocess=kept, preprocess_map_kwargs=_NO_CORE, postprocess_map_kwargs=_NO_CORE
            )
            yield from processor(ray.data.from_items(rows)).iter_rows()
        except Exception as error:  # of Ray, the versions, vLLM or the GPU; its last line says what came first
            said = str(error).strip().rpartition("\n")[2].strip() or type(error).__name__
            hint = f"every machine with a GPU needs gecko, vLLM ({_INSTALL}) and the model; {_SERVE}"
            raise GeckoError(f"{self.name} stopped: {said}", hint) from error
