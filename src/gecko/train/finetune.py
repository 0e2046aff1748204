"""Unified rows to a fine-tuned model, with the Sentence-Transformers trainer and the paper's loss."""

from __future__ import annotations

import ctypes
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gecko.embedder.embedder import Embedder, has_fast_bf16, load_model
from gecko.errors import GeckoError
from gecko.mixture.format import TextFormat, model_prompts, render_query
from gecko.mixture.options import MixtureOptions
from gecko.recipe import TrainOptions
from gecko.records import UnifiedRow
from gecko.shards import fingerprint, read_json, write_json
from gecko.train.save import is_write_error, reason, save_whole

if TYPE_CHECKING:
    from gecko.mixture.sampler import BatchPlan

_WHOLE = "whole"


def finetune(
    rows: Sequence[UnifiedRow],
    options: TrainOptions,
    out: Path,
    *,
    seed: int = 0,
    mixture: MixtureOptions | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Fine-tune the student on unified rows and save it.

    An interrupted call resumes from its last checkpoint and then gives the same model as an uninterrupted one.

    Args:
        rows: Training rows; their order does not matter, the seed decides.
        options: The recipe's ``train`` section.
        out: Directory for the model; checkpoints stand beside it until it is written.
        seed: Seeds the order of rows and the dropout.
        mixture: How the rows' sources are sampled; None takes every row once an epoch.
        tell: Receives, before training, the lines of what will be drawn where there is more than one source.

    Returns:
        ``{"loss": [{"step", "loss", "learning_rate"}], "rows", "seconds", "steps", "mixture"}``; the last is what
        ``describe_mixture`` returns.

    Raises:
        GeckoError: There are fewer rows than a batch needs, or the disk or the memory is full.
    """
    if len(rows) < 2:
        raise GeckoError(f"only {len(rows)} training rows", "raise fret.limit or use a larger corpus")
    from sentence_transformers import SentenceTransformerTrainer
    from transformers import set_seed

    from gecko.mixture.describe import describe_mixture, mixture_lines
    from gecko.mixture.sampler import plan_batches, row_kinds
    from gecko.train.loss import GeckoLoss, LossOptions

    mixture = mixture or MixtureOptions()
    sources = [row.source for row in rows]
    kinds = row_kinds(rows, mixture)
    plan = plan_batches(sources, options.batch_size, mixture, epochs=options.epochs, seed=seed, kinds=kinds)
    facts = describe_mixture(rows, plan, mixture)
    if tell is not None and len(facts["sources"]) > 1:
        for line in mixture_lines(facts):
            tell(line)
    set_seed(seed)
    model = load_model(options.student)
    inference_length = model.max_seq_length
    model.model_card_data.widget = [{}]  # an empty one would be filled, with a progress bar of its own
    disable_dropout(model)
    model.max_seq_length = min(options.max_length, inference_length or options.max_length)
    prompts = training_prompts(options.text_format, model.prompts)
    dims = tuple(dim for dim in options.dims if dim <= int(model.get_embedding_dimension() or 0))
    loss = GeckoLoss(
        model,
        LossOptions(
            temperature=options.temperature,
            in_batch=options.in_batch,
            same_tower=options.same_tower,
            mask_duplicates=options.mask_duplicates,
            dims=dims,
            mini_batch=options.mini_batch,
        ),
    )
    checkpoints = out.parent / "checkpoints"
    trainer = SentenceTransformerTrainer(
        model=model,
        args=_arguments(options, checkpoints, seed, plan),
        train_dataset=_dataset(rows, options, prompts),
        loss=loss,
    )
    trainer.remove_callback(_progress_printer())
    trainer.add_callback(_whole_checkpoint_marker())
    trainer.add_callback(_memory_returner())
    started = time.monotonic()
    mark = fingerprint(
        options.model_dump(), Embedder(model).fingerprint, seed, [asdict(row) for row in rows], mixture.model_dump()
    )
    _keep_own_checkpoints(checkpoints, mark)
    last = _last_whole_checkpoint(checkpoints)
    _train(trainer, last)
    seconds = time.monotonic() - started
    model.max_seq_length = inference_length
    model.prompts = {**prompts}
    save_whole(model, out)
    shutil.rmtree(checkpoints, ignore_errors=True)
    curve = [
        {"step": entry["step"], "loss": entry["loss"], "learning_rate": entry["learning_rate"]}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    return {
        "loss": curve,
        "rows": len(rows),
        "seconds": round(seconds, 1),
        "steps": trainer.state.global_step,
        "mixture": facts,
    }


def _train(trainer: Any, checkpoint: Path | None) -> None:  # noqa: ANN401
    """Train, from a checkpoint where there is one; what the machine lacks is said in a line."""
    import torch

    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except torch.OutOfMemoryError as error:
        raise GeckoError(f"training: {reason(error)}", "lower train.mini_batch or train.max_length") from error
    except Exception as error:
        if not is_write_error(error):
            raise
        raise GeckoError(
            f"training stopped: {reason(error)}",
            "free space where the disk is full, then run again: it goes on from its last checkpoint",
        ) from error


def _keep_own_checkpoints(folder: Path, mark: str) -> None:
    """Throw away the checkpoints of another training (student, settings, rows): to go on would mix the two."""
    owner = folder / "training.json"
    if read_json(owner) != mark:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(owner, mark)


def _last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; a torn one, left by a kill in the middle, is removed.

    The trainer writes a checkpoint's files straight into its folder, so the folder alone proves nothing.
    """
    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / _WHOLE).exists():
            whole.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    return max(whole, key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]), default=None)


def _whole_checkpoint_marker() -> Any:  # noqa: ANN401
    """A trainer callback that marks each checkpoint once all its files are there."""
    from transformers import TrainerCallback

    class Marker(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _WHOLE).touch()

    return Marker()


def _memory_returner() -> Any:  # noqa: ANN401
    """A trainer callback that gives freed memory back to the system after each step.

    Batches of ever new widths leave holes that the C library keeps: without it a run on CPUs held 1.9 GB more after
    fourteen steps than it used (docs/log.md).
    """
    from transformers import TrainerCallback

    class Returner(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
            return_freed_memory()

    return Returner()


def return_freed_memory() -> None:
    """Ask the C library to give freed memory back; nothing where it is not glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def disable_dropout(model: Any) -> None:  # noqa: ANN401
    """Train without dropout.

    Contrastive fine-tuning of a pretrained encoder over a few epochs gains nothing from it, while on CPUs it keeps
    attention off its fast path: without it the forward pass was four times faster (docs/log.md).
    """
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def training_prompts(text_format: TextFormat, own: Mapping[str, str | None]) -> dict[str, str]:
    """The prompts a model is trained with and saved with: the format's, or in the plain format the student's own."""
    if text_format == "gecko":
        return model_prompts(text_format)
    return {name: own.get(name) or "" for name in ("query", "document")}


def _dataset(rows: Sequence[UnifiedRow], options: TrainOptions, prompts: Mapping[str, str]) -> Any:  # noqa: ANN401
    """Columns query, positive, negative_1 … and how many of the negatives a row has (the loss's label).

    The unified format's strings are rendered already; a plain text gets the student's own prompt here, that of queries
    on both sides of a symmetric row.
    """
    from datasets import Dataset

    plain = options.text_format == "plain"
    asks, tells = (prompts["query"], prompts["document"]) if plain else ("", "")
    before = [asks if row.symmetric else tells for row in rows]  # before the other side's texts
    columns: dict[str, list[Any]] = {
        "query": [asks + render_query(row.task, row.query, options.text_format) for row in rows],
        "positive": [prompt + row.positive for prompt, row in zip(before, rows, strict=True)],
    }
    for slot in range(options.negatives):
        columns[f"negative_{slot + 1}"] = [
            prompt + row.negatives[slot] if slot < len(row.negatives) else ""
            for prompt, row in zip(before, rows, strict=True)
        ]
    columns["label"] = [min(len(row.negatives), options.negatives) for row in rows]
    return Dataset.from_dict(columns)


def _arguments(options: TrainOptions, checkpoints: Path, seed: int, plan: BatchPlan) -> Any:  # noqa: ANN401
    import torch
    from sentence_transformers import SentenceTransformerTrainingArguments

    from gecko.mixture.sampler import planned_batches

    bf16 = has_fast_bf16() if options.bf16 is None else options.bf16
    steps = plan.steps
    return SentenceTransformerTrainingArguments(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        warmup_steps=round(options.warmup * steps),
        lr_scheduler_type="linear",
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        data_seed=seed,
        batch_sampler=planned_batches(plan),
        logging_steps=max(1, steps // 40),
        save_strategy="steps",
        save_steps=max(1, steps // 5),
        save_total_limit=2,  # the older one stays until the newer is whole
        report_to=list(options.report_to) or "none",
        disable_tqdm=True,
    )


def _progress_printer() -> type:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback
