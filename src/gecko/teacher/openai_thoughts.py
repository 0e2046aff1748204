"""Models that think before they answer, behind an OpenAI-compatible server: how it shows, and what keeps them from it.

Thoughts are paid for like replies and come out of the same limit: a model that thinks may end with nothing said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gecko.teacher.ask import Prompt, Write
from gecko.teacher.objects import without_thoughts
from gecko.teacher.openai_errors import Refusal
from gecko.teacher.openai_read import counted, usage_of
from gecko.teacher.openai_wire import estimate

# Something to think about for a model that thinks, and answered in a line by one that does not.
QUESTION = Prompt(
    "You are a careful assistant.",
    "Write one question that a person might type into a search box, and that this text answers. Reply with the "
    "question only.\n\nThe ferry to the island leaves at noon, but not on the second Sunday of a month.",
)
# Tokens of the answer: with room for thoughts, and without, for a raw prompt is written on until there is none left.
ROOM, LITTLE = 1024, 16
# What keeps models from thinking: OpenAI, Gemini and Ollama; the chat templates of Qwen 3, GLM 4.5 and DeepSeek 3.1 in
# vLLM, SGLang and llama.cpp; DeepSeek's own service. A server that does not know one refuses or ignores it.
QUIET: tuple[dict[str, Any], ...] = (
    {"reasoning_effort": "none"},
    {"reasoning_effort": "minimal"},
    {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}},
    {"thinking": {"type": "disabled"}},
    {"reasoning_effort": "low"},
)
_CUT = re.compile(r"(?i)could not finish the message|output limit was reached")
_FEW = 8  # tokens; an empty thought's tags, and counts that differ by rounding


def is_cut(error: Refusal) -> bool:
    """Whether the server refuses because the model had thought until its room was full, and said nothing."""
    return error.status == 400 and _CUT.search(error.said) is not None


def tokens_used(reply: Mapping[str, Any]) -> tuple[int, int]:
    """Prompt and generated tokens by a server's own count, thoughts among the generated; 0 where it does not count."""
    usage = usage_of(reply)
    inputs, outputs, total = (counted(usage.get(f"{name}_tokens")) or 0 for name in ("prompt", "completion", "total"))
    return inputs, max(outputs, total - inputs)  # Gemini counts thoughts in the total only


def thought_tokens(reply: Mapping[str, Any], ask: Write) -> int:
    """Tokens a model thought before a reply, by whatever the reply shows of them; 0 for a few.

    Args:
        reply: One that can be read as an answer to ``ask``.
        ask: What was asked.
    """
    usage = _mapping(reply.get("usage"))
    choice = reply["choices"][0]
    message = _mapping(choice.get("message"))
    text = message.get("content") or ""
    shown = message.get("reasoning_content") or message.get("reasoning") or ""
    found = [
        counted(_mapping(usage.get("completion_tokens_details")).get("reasoning_tokens")) or 0,
        estimate(shown) if isinstance(shown, str) else 0,
        estimate(text) - estimate(without_thoughts(text)) if isinstance(text, str) else 0,
        tokens_used(reply)[1] - (counted(usage.get("completion_tokens")) or 0) if "completion_tokens" in usage else 0,
        ask.max_tokens if message and not text and choice.get("finish_reason") == "length" else 0,
    ]
    return max(found) if max(found) > _FEW else 0


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
