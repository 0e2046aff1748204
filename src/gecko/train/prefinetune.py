"""Pre-finetuning: pairs of texts to a student that knows what belongs together (paper, section 3.1, equation 2)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gecko.errors import GeckoError
from gecko.recipe import PrefinetuneOptions, TrainOptions
from gecko.records import UnifiedRow
from gecko.train.finetune import finetune


def prefinetune(
    rows: Sequence[UnifiedRow],
    options: PrefinetuneOptions,
    train: TrainOptions,
    out: Path,
    *,
    seed: int = 0,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train the student on pairs with one-direction, in-batch InfoNCE, and save it; resumes as fine-tuning does.

    Negatives that rows hold are not used. A batch larger than the rows it can be drawn from becomes as large as those.

    Args:
        rows: Query and positive of each pair.
        options: The recipe's ``prefinetune`` section.
        train: The recipe's ``train`` section, for the student and how texts are rendered.
        out: Directory for the model; checkpoints stand beside it until it is written.
        seed: Seeds the order of the rows.
        tell: Receives what will be drawn, and that a batch was made smaller.

    Returns:
        What :func:`finetune` returns.

    Raises:
        GeckoError: There are less than two different pairs, the disk or the memory is full, or the training diverged.
    """
    if len(rows) < 2:
        raise GeckoError(f"only {len(rows)} pairs to pre-finetune on", "give prefinetune more sources, or leave it out")
    settings = options.training(train)
    batch = options.batch_of(Counter(row.source for row in rows).values())
    if batch < settings.batch_size:
        if tell is not None:
            most = f"all {batch:,} pairs" + (" of the largest source" if options.single_source else "")
            tell(f"a batch of {settings.batch_size:,} is more than there are: a step takes at most {most}")
        settings = settings.model_copy(update={"batch_size": batch})
    try:
        # Fine-tuning goes on from this model, and may read longer texts.
        window = max(settings.max_length, train.max_length)
        return finetune(rows, settings, out, seed=seed, mixture=options.mixture, window=window, tell=tell)
    except GeckoError as error:
        raise type(error)(error.message, _own_keys(error.hint)) from error


def _own_keys(hint: str) -> str:
    """Name the keys of fine-tuning that pre-finetuning has too as its own; others, such as the student, are shared."""

    def own(found: re.Match[str]) -> str:
        return f"prefinetune.{found[1]}" if found[1] in PrefinetuneOptions.model_fields else found[0]

    return re.sub(r"\btrain\.(\w+)", own, hint)
