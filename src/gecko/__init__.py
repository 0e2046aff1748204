"""Gecko: your own compact text-embedding model, distilled from a language model (arXiv:2403.20327)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gecko.embedder.embedder import Embedder

__all__ = ["Embedder"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import what the package offers only when it is asked for: numpy and what follows it take their time."""
    if name == "Embedder":
        from gecko.embedder.embedder import Embedder

        return Embedder
    raise AttributeError(f"module 'gecko' has no attribute {name!r}")
