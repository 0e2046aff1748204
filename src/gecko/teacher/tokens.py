"""A model's tokenizer as prompts are written with it, for every engine that sends a model tokens."""

from __future__ import annotations

from typing import Any

from gecko.teacher.ask import Prompt
from gecko.teacher.pieces import PieceError


class Tokens:
    """Texts and chats as token ids.

    Args:
        tokenizer: One of transformers.

    Attributes:
        start: The beginning-of-sequence token, where the model wants one, else nothing.
    """

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401
        self._tokenizer = tokenizer
        probe = tokenizer("a")["input_ids"]
        bos = tokenizer.bos_token_id
        self.start: tuple[int, ...] = (bos,) if bos is not None and probe[:1] == [bos] else ()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with no special token around it."""
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def chat(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt that a reply follows: by the model's chat template, or as it stands.

        Raises:
            PieceError: The prompt is empty.
        """
        if not getattr(self._tokenizer, "chat_template", None):
            whole = prompt.shared + prompt.own
            tokens = [*self.start, *(self.encode(whole) if whole else [])]
            if not tokens:
                raise PieceError("the prompt is empty")
            return tokens
        messages = [{"role": "system", "content": prompt.shared}] if prompt.shared else []
        messages.append({"role": "user", "content": prompt.own})
        try:
            text = self._template(messages)
        except Exception:  # some templates refuse a system message, each with an error of its own
            text = self._template([{"role": "user", "content": f"{prompt.shared}\n\n{prompt.own}".strip()}])
        return self.encode(text)

    def _template(self, messages: list[dict[str, str]]) -> str:
        # The switch is Qwen's; templates that know none ignore it. Thinking would eat the reply's tokens.
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        )
