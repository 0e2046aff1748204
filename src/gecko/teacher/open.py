"""A teacher from its SPEC (design: command line), its calls kept in a ledger."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from gecko.errors import GeckoError, UsageError
from gecko.teacher.ask import Engine
from gecko.teacher.options import TeacherOptions
from gecko.teacher.protocol import Teacher

if TYPE_CHECKING:
    from gecko.teacher.caller import Caller
    from gecko.teacher.gathered import StreamingEngine
    from gecko.teacher.ledger import Ledger
    from gecko.teacher.ledgered import LedgeredTeacher
    from gecko.teacher.llm import LLMTeacher
    from gecko.teacher.schedule import Thrifty

logger = logging.getLogger(__name__)

SPECS = (
    "offline, recorded:DIR, openai:MODEL, transformers:MODEL, llama-cpp:FILE.gguf, ray-vllm:MODEL, "
    "cross-encoder:MODEL (ranking)"
)
# Rows begun at once: enough that there is always a next call to make; for batches, as many as there are; where a call
# starts an engine, as many as have room (ranked, 170,000 questions).
_ROWS, _BATCH_ROWS, _GATHERED_ROWS = 1024, 50_000, 4096
ENGINES = ("openai", "transformers", "llama-cpp", "ray-vllm")


def open_teacher(
    spec: str,
    ledger: Ledger,
    *,
    options: TeacherOptions | None = None,
    seed: int = 0,
    styles: dict[str, float] | None = None,
    tell: Callable[[str], None] | None = None,
    thrifty: Thrifty | None = None,
    asked: bool = True,
    ray_address: str | None = None,
) -> LedgeredTeacher | LLMTeacher:
    """Open the teacher a SPEC names; it makes no call before it is asked something.

    Args:
        spec: One of :data:`SPECS`.
        ledger: Where its calls are kept and found.
        options: How a language model is asked.
        seed: Seed of the teacher's choices.
        styles: The offline teacher's mix of query styles; empty keeps its own.
        tell: Receives progress lines.
        thrifty: The schedule where the options name the thrifty one, with the recipe's own thresholds.
        asked: Whether it will be asked anything; without, no key is needed.
        ray_address: Of the Ray cluster that a ``ray-vllm:`` teacher joins; None: that of RAY_ADDRESS, if any.

    Raises:
        UsageError: The SPEC names no teacher, or an option is not for it.
        GeckoError: The teacher's files cannot be read.
    """
    options = options or TeacherOptions()
    if spec.partition(":")[0] not in ENGINES:
        from gecko.teacher.ledgered import LedgeredTeacher

        return LedgeredTeacher(open_plain(spec, seed=seed, styles=styles), ledger)
    from gecko.teacher.llm import LLMTeacher
    from gecko.teacher.schedule import FULL, Thrifty

    engine = open_engine(spec, options, asked=asked, ray_address=ray_address)
    caller = _caller(engine, ledger, options, tell or logger.info)
    return LLMTeacher(
        engine,
        caller,
        ledger,
        prompts=options.prompts,
        temperature=options.temperature,
        max_tokens=options.reply_tokens,
        rung=options.rung,
        seed=seed,
        rows_at_once=_BATCH_ROWS if options.batch else _GATHERED_ROWS if _gathers(engine) else _ROWS,
        schedule=(thrifty or Thrifty()) if options.schedule == "thrifty" else FULL,
    )


def _caller(engine: Engine, ledger: Ledger, options: TeacherOptions, tell: Callable[[str], None]) -> Caller:
    from gecko.teacher.batched import BATCH_DISCOUNT
    from gecko.teacher.budget import FREE, Budget, Price, price_of
    from gecko.teacher.caller import Caller
    from gecko.teacher.traffic import Patience

    price = price_of(engine.name)
    if options.price and engine.name.startswith("openai:"):  # a model that runs here costs nothing
        price = Price(**options.price.model_dump())
    if price is not None and options.batch:
        price = price.times(BATCH_DISCOUNT)
    if price is not None and price != FREE:
        ledger.price_unpriced(engine.name, price.of)
    caps: dict[str, Any] = {"max_usd": options.max_usd, "max_tokens": options.max_tokens}
    if not options.batch:
        if _gathers(engine):
            from gecko.teacher.gathered import GatheringCaller

            return GatheringCaller(engine, ledger, Budget(price, **caps), rows=_GATHERED_ROWS, tell=tell)
        patience = Patience(call_seconds=5 * options.timeout)
        return Caller(engine, ledger, Budget(price, **caps), patience=patience, tell=tell)
    from gecko.teacher.batched import BatchCaller
    from gecko.teacher.openai import OpenAIEngine

    if not isinstance(engine, OpenAIEngine):
        raise UsageError(
            "teacher.batch is for openai: teachers", "leave it out; a model in this process is asked at once"
        )
    return BatchCaller(engine, ledger, Budget(price, **caps), poll_seconds=options.poll_seconds, tell=tell)


def _gathers(engine: Engine) -> TypeGuard[StreamingEngine]:
    return hasattr(engine, "stream")


def open_plain(spec: str, *, seed: int = 0, styles: dict[str, float] | None = None) -> Teacher:
    """Open a teacher that is no language model.

    Raises:
        UsageError: The SPEC names no such teacher.
        GeckoError: The teacher's files cannot be read.
    """
    kind, _, argument = spec.partition(":")
    if kind == "offline" and not argument:
        from gecko.teacher.offline.teacher import OfflineTeacher

        return OfflineTeacher(seed=seed, styles=styles)
    if kind == "recorded" and argument:
        from gecko.teacher.recorded import RecordedTeacher

        return RecordedTeacher(Path(argument))
    if kind == "cross-encoder" and argument:
        from gecko.teacher.cross_encoder import CrossEncoderTeacher

        return CrossEncoderTeacher(argument)
    raise UsageError(f"unknown teacher {spec!r}", f"known are {SPECS}")


def open_engine(spec: str, options: TeacherOptions, *, asked: bool = True, ray_address: str | None = None) -> Engine:
    """Open the language model a SPEC names.

    Args:
        spec: Its kind and name.
        options: How it is asked.
        asked: Whether it will be asked anything; without, no key is needed.
        ray_address: Of the Ray cluster that a ``ray-vllm:`` model runs on; None: that of RAY_ADDRESS, if any.

    Raises:
        UsageError: The SPEC names no language model.
        GeckoError: Its files or the library that runs it are missing.
    """
    kind, _, argument = spec.partition(":")
    if not argument:
        raise UsageError(f"teacher {spec!r} does not say which model", f"known are {SPECS}")
    if kind == "openai":
        from gecko.teacher.openai import OpenAIEngine

        return OpenAIEngine(
            argument,
            base_url=options.base_url,
            api_key=_key(options.key_variable, asked=asked),
            own_key=options.key_variable is not None,
            in_flight=options.in_flight,
            timeout=options.timeout,
            asked=asked,
        )
    given: dict[str, Any] = {} if options.batch_size is None else {"batch": options.batch_size}
    if kind == "transformers":
        from gecko.teacher.transformers import TransformersEngine

        return TransformersEngine(argument, **given)
    if kind == "llama-cpp":
        from gecko.teacher.llama_cpp import LlamaCppEngine

        return LlamaCppEngine(Path(argument), context=options.context)
    if kind == "ray-vllm":
        from gecko.teacher.ray_vllm import RayVllmEngine

        address = ray_address or os.environ.get("RAY_ADDRESS") or None
        return RayVllmEngine(argument, address=address, arguments=options.vllm, asked=asked, **given)
    raise UsageError(f"teacher {spec!r} is no language model", f"known are {SPECS}")


def _key(variable: str | None, *, asked: bool) -> str | None:
    """The key in an environment variable; None to look in the usual ones.

    Raises:
        GeckoError: It is to be asked, and the variable holds none.
    """
    if variable is None:
        return None
    from gecko.teacher.openai import NO_KEY

    if not variable:
        return NO_KEY
    key = os.environ.get(variable) or ("" if asked else NO_KEY)
    if not key:
        raise GeckoError(f"the environment variable {variable} holds no key", "set it, or leave key_variable out")
    return key
