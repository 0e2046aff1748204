"""Put a model in its place whole: what stood there before goes only when the new one is on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from gecko.embedder.embedder import save_model
from gecko.errors import GeckoError


def is_write_error(error: BaseException) -> bool:
    """Whether an exception comes from a full disk or the like: safetensors and torch hide the OSError."""
    return isinstance(error, OSError | SafetensorError) or "PytorchStreamWriter" in str(error)


def save_whole(model: Any, out: Path) -> None:  # noqa: ANN401
    """Save a model beside its place, then swap the two folders.

    Args:
        model: A Sentence-Transformers model.
        out: Its directory; a model that is there is replaced.

    Raises:
        GeckoError: The directory holds something that is not a saved model, or cannot be written.
    """
    fresh, old = (out.with_name(f".{out.name}.{state}") for state in ("new", "old"))
    try:
        if out.exists() and any(out.iterdir()) and not (out / "modules.json").exists():
            raise GeckoError(f"{out} holds something that is not a model of gecko", "choose another --out")
        for left in (fresh, old):  # by a process that was killed
            if left.exists():
                shutil.rmtree(left)
        save_model(model, fresh)
        if out.exists():
            out.rename(old)
        fresh.rename(out)
    except Exception as error:
        if not is_write_error(error):
            raise
        raise GeckoError(f"cannot write the model {out}: {reason(error)}", "free space, then run again") from error
    finally:
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)


def reason(error: BaseException) -> str:
    """First line of what an exception says, or its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
