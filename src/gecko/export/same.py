"""Whether two models give the same vectors: what an export is checked by before it is kept, and ``gecko verify``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gecko.embedder.embedder import Embedder, cut
from gecko.errors import GeckoError

SAME_GAP = 1e-4  # one minus the cosine, of formats that compute what the model computes
# What readers disagree on: no text, one letter, other scripts, spaces, more than fits.
ODD_TEXTS = ("", "a", "naïve café 東京 \U0001f98e", " two  spaces\n", "keys rotate " * 600)


def gaps(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """One minus the cosine of each pair of rows, (n,); theirs may have fewer dimensions.

    A text without tokens has a vector of zeros; where both have, they are the same.
    """
    ours = cut(ours, theirs.shape[1])
    found = 1 - (ours * theirs).sum(1)
    found[~ours.any(1) & ~theirs.any(1)] = 0
    return np.asarray(found)


def check_same(model: Embedder, export: Path) -> None:
    """Refuse an export that does not answer as its model.

    Raises:
        GeckoError: It does not, or cannot be opened.
    """
    worst = float(gaps(model.encode(ODD_TEXTS), Embedder(export, bf16=False).encode(ODD_TEXTS)).max())
    if not worst <= SAME_GAP:
        raise GeckoError(
            f"the export would answer otherwise than {model.path} (worst cosine {1 - worst:.4f})",
            "this kind of model cannot be exported to this format; use the model itself",
        )
