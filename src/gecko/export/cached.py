"""The int8 export of a model, made once and found again: what a server and a search answer with on a CPU."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from gecko.embedder.onnx import export_facts
from gecko.embedder.open import resolve_model
from gecko.errors import GeckoError

_VERSION = 2  # raised where exports are made otherwise


def cached_int8(spec: str, tell: Callable[[str], None]) -> Path:
    """Find or make the ``onnx-int8`` export of a model in the user's cache (``$XDG_CACHE_HOME/gecko``).

    It is named by the contents of the model's files, so that a model trained again gets another; making one takes half
    a minute, finding it a second. Old ones may be deleted at any time. An export of another kind is its own answer.

    Args:
        spec: A model's path, or ``all-MiniLM-L6-v2``.
        tell: Receives lines where one is made.

    Raises:
        GeckoError: The model is no folder, it cannot be exported, or the cache cannot be written.
    """
    folder = Path(resolve_model(spec))
    if not folder.is_dir():
        raise GeckoError(f"{spec} is no folder, so its export is not kept", "gecko export it, and name that")
    if _is_other_export(folder):
        return folder
    place = _place(folder)
    if export_facts(place) is None:
        from gecko.export.export import export_model

        tell(f"exporting {spec} as onnx-int8, once")
        own = place.with_name(f"{place.name}.{os.getpid()}")
        export_model(spec, "onnx-int8", own, tell=tell)
        try:
            own.rename(place)
        except OSError:  # another process was faster
            shutil.rmtree(own)
    return place


def held_int8(spec: str) -> Path | None:
    """The export that :func:`cached_int8` would give, where it need not be made; it starts without torch.

    Returns:
        None where there is none, or ONNX Runtime is not installed.

    Raises:
        GeckoError: The model is not there.
    """
    folder = Path(resolve_model(spec))
    if not folder.is_dir() or _is_other_export(folder) or importlib.util.find_spec("onnxruntime") is None:
        return None
    place = _place(folder)
    return place if export_facts(place) is not None else None


def _is_other_export(folder: Path) -> bool:
    facts = export_facts(folder)
    return facts is not None and facts["format"] != "compat"


def _place(folder: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "gecko" / "onnx-int8" / f"{folder.resolve().name}-{_digest(folder)}"


def _digest(folder: Path) -> str:
    """Hash of a model's files but its card."""
    digest = hashlib.sha256(str(_VERSION).encode())
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name != "README.md" and not any(part.startswith(".") for part in Path(name).parts):
            with file.open("rb") as handle:
                digest.update(name.encode() + b"\0" + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]
