"""Whether what a recipe asks of its student can be had: told before anything is paid for, and again before training."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from gecko.errors import UsageError
from gecko.train.student_options import BackboneOptions


def trained_sizes(dims: Sequence[int], width: int, name: str, key: str = "dims") -> tuple[int, ...]:
    """The Matryoshka sizes that are trained: those of the recipe, and always the whole vector.

    Args:
        dims: The recipe's ``dims``.
        width: Of the student's vectors, after a projection.
        name: The student's.
        key: Where the recipe has them.

    Raises:
        UsageError: A size is larger than the vector.
    """
    wide = [dim for dim in dims if dim > width]
    if wide:
        fitting = [width, *(dim for dim in dims if dim < width)]
        raise UsageError(f"{key} {wide}: the vectors of {name} are {width} wide", f"for example {fitting}")
    return tuple(dims) if width in dims else (width, *dims)


def check_adapters(options: BackboneOptions) -> None:
    """Find out whether the library of adapters is there, where they are wanted.

    Raises:
        UsageError: It is not.
    """
    if options.lora.rank and find_spec("peft") is None:
        raise UsageError("train.backbone.lora needs peft, which is not installed", 'pip install "gecko-embed[lora]"')
