"""Search results as lines of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gecko.serve.search import Hit


def show_hits(hits: Sequence[Hit]) -> str:
    """Render search results for a terminal, one line each."""
    return "\n".join(
        f"  {hit.rank}. {hit.score:.3f}  {hit.title[:60]:<60}  {' '.join(hit.text.split())[:70]}" for hit in hits
    )
