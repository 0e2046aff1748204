"""A teacher from its SPEC (design: command line)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gecko.errors import UsageError
from gecko.teacher.protocol import Teacher

_PLANNED = ("openai", "transformers", "llama-cpp", "cross-encoder")


def open_teacher(
    spec: str, *, seed: int = 0, options: Mapping[str, Any] | None = None, styles: Mapping[str, float] | None = None
) -> Teacher:
    """Open the teacher a SPEC names.

    Args:
        spec: ``offline`` or ``recorded:DIR``.
        seed: Seed of the offline teacher's choices.
        options: Options of that teacher; the offline teacher has ``styles``.
        styles: Short for ``options["styles"]``: the offline teacher's mix of query styles; empty keeps its own.

    Raises:
        UsageError: The SPEC names no teacher that is built.
        GeckoError: The teacher's files cannot be read.
    """
    kind, _, argument = spec.partition(":")
    chosen = dict(options or {})
    if styles:
        chosen["styles"] = styles
    unknown = sorted(set(chosen) - {"styles"})
    if unknown:
        raise UsageError(f"unknown teacher option {unknown[0]}", "known is styles")
    if kind == "offline" and not argument:
        from gecko.teacher.offline.teacher import OfflineTeacher

        return OfflineTeacher(seed=seed, styles=chosen.get("styles"))
    if kind == "recorded" and argument:
        from gecko.teacher.recorded import RecordedTeacher

        return RecordedTeacher(Path(argument))
    if kind in _PLANNED:
        raise UsageError(f"teacher {spec!r} is not built yet", "use offline or recorded:DIR")
    raise UsageError(f"unknown teacher {spec!r}", "known are offline and recorded:DIR")
