"""Put a model in its place whole, and tell a disk that is full from an error of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from gecko.embedder.save import save_model
from gecko.errors import GeckoError, cannot_write, system_error
from gecko.replace import replaced


def is_write_error(error: BaseException) -> bool:
    """Whether an exception comes from a full disk or the like: safetensors, tokenizers and torch hide the OSError."""
    # Of torch's archives, as the disk fills sooner or later.
    words = ("PytorchStreamWriter", "inline_container", "iostream error")
    hidden = system_error(error) or any(word in str(error) for word in words)
    return isinstance(error, OSError | SafetensorError) or bool(hidden)


def save_whole(model: Any, out: Path) -> None:  # noqa: ANN401
    """Save a model beside its place, then swap the two folders.

    Args:
        model: A Sentence-Transformers model.
        out: Its directory; a model that is there is replaced.

    Raises:
        GeckoError: The directory holds something that is not a saved model, or cannot be written.
    """
    try:
        if out.exists() and any(out.iterdir()) and not (out / "modules.json").exists():
            raise GeckoError(f"{out} holds something that is not a model of gecko", "choose another --out")
        with replaced(out) as fresh:
            save_model(model, fresh)
    except Exception as error:
        if not is_write_error(error):
            raise
        raise cannot_write(out, error) from error
