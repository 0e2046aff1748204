"""What stops a training, said in a line with what to do: memory and disks that are full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gecko.errors import GeckoError
from gecko.recipe import TrainOptions
from gecko.train.save import is_write_error, reason


def train(trainer: Any, checkpoint: Path | None, options: TrainOptions) -> None:  # noqa: ANN401
    """Let the trainer train, from a checkpoint where there is one.

    Raises:
        GeckoError: The memory or the disk is full.
    """
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except Exception as error:
        if is_memory_error(error):
            raise GeckoError(f"training: {reason(error)}", _less_memory(options)) from error
        if not is_write_error(error):
            raise
        raise GeckoError(
            f"training stopped: {reason(error)}",
            "free space where the disk is full, then run again: it goes on from its last checkpoint",
        ) from error


def is_memory_error(error: BaseException) -> bool:
    """Whether an exception says that memory is full: on CPUs, torch raises a RuntimeError of no special kind."""
    import torch

    full = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in full)
    )


def _less_memory(options: TrainOptions) -> str:
    """Which option to lower, with its value: encoding takes the most memory, then the similarities of a batch."""
    if not options.mini_batch and not options.mini_tokens:
        return f"set train.mini_batch=32: it is 0, so all {options.batch_size} rows of a batch are encoded at once"
    size = "mini_tokens" if options.mini_tokens else "mini_batch"
    return (
        f"lower train.{size} (now {getattr(options, size)}) or train.max_length (now {options.max_length}), and where "
        f"that is not enough train.batch_size (now {options.batch_size})"
    )
