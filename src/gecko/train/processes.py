"""Several processes that train together: the first one runs the program, the others come to its trainings.

``torchrun`` starts the same program several times. Everything but training is one process's work (teacher calls,
stages, files), so the others wait until the first one trains, take part, and wait again until it is done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from gecko.errors import GeckoError

_ROWS = 10_000  # sent at once
_PATIENCE = timedelta(days=7)  # of those who wait; where one process fails, torchrun ends all
_leading = False


def join() -> int:
    """Join the processes that ``torchrun`` or ``accelerate launch`` started; on CPUs they talk over gloo.

    Returns:
        How many there are; 1 where this one is alone.
    """
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
    return processes()


def processes() -> int:
    """How many processes train together, once they have joined; 1 where it is this one alone."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return distributed.get_rank() if processes() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that writes files."""
    return rank() == 0


def wait_for_all() -> None:
    """Wait until all processes are here."""
    if processes() > 1:
        distributed.barrier()


def summed(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes."""
    if processes() > 1:
        value = value.clone()
        distributed.all_reduce(value)
    return value


def run_together(program: Callable[[], object]) -> None:
    """Run a program in the first process; the others take part in its trainings only.

    Args:
        program: Ends with SystemExit, as command lines do, or returns.
    """
    global _leading
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        program()
        return
    if int(os.environ.get("RANK", "0")):
        _follow()
        distributed.destroy_process_group()
        return
    _leading = True
    try:
        program()
    except SystemExit as stop:
        if stop.code:  # torchrun ends the others
            raise
    _send(None)
    distributed.destroy_process_group()


def call_followers(call: Callable[..., object], rows: Sequence[Any], *args: Any, **options: Any) -> None:  # noqa: ANN401
    """Have the waiting processes make a call that this one is making; nothing where none wait.

    Args:
        call: A function of a module.
        rows: Its first argument, sent in parts.
        args: The others.
        options: Its keywords.
    """
    if not _leading:
        return
    _send((call, len(rows), args, options))
    for start in range(0, len(rows), _ROWS):
        _send(rows[start : start + _ROWS])


def _follow() -> None:
    while (job := _send()) is not None:
        call, count, args, options = job
        rows: list[Any] = []
        while len(rows) < count:
            rows += _send()
        try:
            call(rows, *args, **options)
        except GeckoError as error:  # the first process has it too, and says it
            raise SystemExit(1) from error


def _send(value: Any = None) -> Any:  # noqa: ANN401
    """Send a value from the first process to all, and return it."""
    join()
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients over the processes, once all of a step's are there.

    The gradient cache runs the encoder backward once a group of texts, and processes differ in their number of groups,
    so gradients exchanged in every backward pass would wait for ever. A weight without a gradient anywhere keeps none.
    This is the only exchange of gradients at weights: the loss scales its own so that their mean is that of all rows.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained or processes() == 1:
        return
    found = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.int32)
    found = found.to(trained[0].device)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    gradients: list[Tensor] = []
    for parameter, anywhere in zip(trained, found.tolist(), strict=True):
        if anywhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    waits = [distributed.all_reduce(gradient, async_op=True) for gradient in gradients]
    for wait, gradient in zip(waits, gradients, strict=True):
        wait.wait()
        gradient.div_(processes())
