"""A server's own tokenizer, where it lends it (``/tokenize`` of vLLM, SGLang and llama.cpp)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gecko.teacher.openai_errors import Damaged
from gecko.teacher.openai_wire import TOKENIZE, Dialect

Post = Callable[[str, Mapping[str, Any] | None], Awaitable[dict[str, Any]]]


async def label_ids(post: Post, model: str, dialect: Dialect, label: str) -> list[int]:
    """Token ids a label may become: alone, and after a space.

    Raises:
        EngineError: The server did not say.
    """
    found: list[int] = []
    for text in (label, f" {label}"):
        tokens = await tokenize(post, model, dialect, text, special=False)
        # The last token: some tokenizers put one for the space before the label.
        if tokens and tokens[-1] not in found:
            found.append(tokens[-1])
    if not found:
        raise Damaged("no token ids of a label")
    return found


async def tokenize(post: Post, model: str, dialect: Dialect, text: str, *, special: bool) -> list[int]:
    """Token ids of a text, by the server's own ``/tokenize``.

    Raises:
        EngineError: The call failed.
    """
    body: dict[str, Any] = {"model": model, "prompt": text, "add_special_tokens": special}
    if dialect.tokenize == "llama.cpp":
        body = {"content": text, "add_special": special}
    tokens = (await post(TOKENIZE, body)).get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise Damaged("no token ids")
    return tokens
