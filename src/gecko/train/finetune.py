"""Unified rows to a fine-tuned model, with the Sentence-Transformers trainer and the paper's loss."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gecko.embedder.embedder import Embedder, has_fast_bf16
from gecko.errors import GeckoError
from gecko.mixture.format import TextFormat, model_prompts
from gecko.mixture.options import MixtureOptions
from gecko.recipe import TrainOptions
from gecko.records import UnifiedRow
from gecko.shards import fingerprint
from gecko.train.failures import check_sound, train
from gecko.train.fit import trained_sizes
from gecko.train.loss_options import LossOptions
from gecko.train.save import save_whole

if TYPE_CHECKING:
    from gecko.mixture.sampler import BatchPlan

CHECKPOINTS = "checkpoints"
VECTORS = "vectors"


def finetune(
    rows: Sequence[UnifiedRow],
    options: TrainOptions,
    out: Path,
    *,
    seed: int = 0,
    mixture: MixtureOptions | None = None,
    start: str | None = None,
    window: int | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Fine-tune the student on unified rows and save it.

    An interrupted call resumes from its last checkpoint and then gives the same model as an uninterrupted one. Where
    several processes make the call together (torchrun), they share the work and one of them saves.

    Args:
        rows: Training rows; their order does not matter, the seed decides.
        options: The recipe's ``train`` section.
        out: Directory for the model; beside it stand the checkpoints, until it is written, and the vectors of a guide
            or teacher.
        seed: Seeds the order of rows and the new weights.
        mixture: How the rows' sources are sampled; None takes every row once an epoch.
        start: The model to train on from, such as the pre-finetuned student; what ``options.backbone`` asks of the
            student and this model has already is kept. None starts from the student.
        window: Tokens of a text that the model is to read in use, where neither its tokenizer nor its positions say;
            None: as many as in training.
        tell: Receives, before training, the lines of what will be drawn where there is more than one source, of what
            the rows hold for the switches that are on, and that checkpoints of another training are set aside.

    Returns:
        ``{"loss": [{"step", "loss", "learning_rate"}], "rows", "seconds", "steps", "mixture", "soup"}``; ``mixture`` is
        what ``describe_mixture`` returns, ``soup`` the steps of the checkpoints merged into the model, if any were.

    Raises:
        GeckoError: There are fewer different rows than a batch needs, they hold nothing for a switch that is on, the
            training diverged (a model that stood there is kept), or the disk or the memory is full.
        UsageError: The recipe asks of the student what it has not.
    """
    from transformers import set_seed

    from gecko.train.backbone import open_student
    from gecko.train.processes import call_followers, is_main, wait_for_all

    _enough(rows, options.negatives)
    call_followers(finetune, rows, options, out, seed=seed, mixture=mixture, start=start, window=window)
    set_seed(seed)
    model = open_student(options, seed=seed, start=start, window=window)
    loss = loss_options(options, int(model.get_embedding_dimension() or 0))
    history = train_rows(model, rows, options, loss, out.parent, seed=seed, mixture=mixture, tell=tell)
    if is_main():
        check_sound(model, rows)
        save_whole(model, out)
        shutil.rmtree(out.parent / CHECKPOINTS, ignore_errors=True)
    wait_for_all()
    return history


def loss_options(options: TrainOptions, width: int) -> LossOptions:
    """What the loss reads of the recipe's ``train`` section; the student's whole vector is always trained.

    Raises:
        UsageError: A Matryoshka size is larger than the vector.
    """
    same = {field.name: getattr(options, field.name) for field in fields(LossOptions) if field.name != "dims"}
    return LossOptions(dims=trained_sizes(options.dims, width, options.student), **same)


def train_rows(
    model: Any,  # noqa: ANN401
    rows: Sequence[UnifiedRow],
    options: TrainOptions,
    loss: LossOptions,
    folder: Path,
    *,
    seed: int = 0,
    mixture: MixtureOptions | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train a model on unified rows, with whatever loss; it is ready to be saved then, in the process that writes.

    Args:
        model: The Sentence-Transformers model; it is changed in place.
        rows: Training rows.
        options: How to train; of the loss's switches, those of ``loss`` count.
        loss: The loss.
        folder: Gets ``checkpoints``, which an interrupted call goes on from and which are the caller's to delete, and
            ``vectors``, which stay for the next training on the same texts.
        seed: Seeds the order of rows.
        mixture: How the rows' sources are sampled.
        tell: As :func:`finetune`'s.

    Returns:
        As :func:`finetune`.

    Raises:
        GeckoError: As :func:`finetune`.
        UsageError: As :func:`finetune`.
    """
    _enough(rows, options.negatives)
    from gecko.mixture.describe import describe_mixture, mixture_lines
    from gecko.mixture.sampler import plan_batches, row_kinds
    from gecko.train.adapt import plain_weights, prepare
    from gecko.train.checkpoints import checkpoint_keeper, own_checkpoint, step_of, whole_checkpoints
    from gecko.train.columns import RowCollator, column_layout, describe_rows, make_dataset, training_rows
    from gecko.train.loss import GeckoLoss
    from gecko.train.memory import memory_returner
    from gecko.train.processes import is_main, join, wait_for_all
    from gecko.train.rehearsal import Rehearsal
    from gecko.train.trainer import StudentTrainer
    from gecko.train.unique_ids import keep_unique_ids
    from gecko.train.vectors import TextNumbers, make_aids
    from gecko.train.weights import soup_of

    together = join()
    say = tell if tell is not None and is_main() else lambda line: None
    mixture = mixture or MixtureOptions()
    sources, kinds = [row.source for row in rows], row_kinds(rows, mixture)
    plan = plan_batches(
        sources,
        options.batch_size,
        mixture,
        epochs=options.epochs,
        seed=seed,
        kinds=kinds,
        processes=together,
    )
    plan = replace(plan, steps=min(plan.steps, options.max_steps or plan.steps))
    facts = describe_mixture(rows, plan, mixture)
    inference_length = model.max_seq_length
    window = min(options.max_length, inference_length or options.max_length)
    prompts = training_prompts(options.text_format, model.prompts)
    rows = keep_unique_ids(rows, model.tokenizer, window, options.text_format, prompts, say)
    made = training_rows(rows, options, loss, mixture)
    for line in [*(mixture_lines(facts) if len(facts["sources"]) > 1 else []), *describe_rows(made, options, loss)]:
        say(line)
    prepare(model, options.backbone)
    model.model_card_data.widget = [{}]  # an empty one would be filled, with a progress bar of its own
    disable_dropout(model)
    model.max_seq_length = window
    layout = column_layout(made, options)
    numbers = TextNumbers() if loss.embedders else None
    dataset = make_dataset(made, layout, options.text_format, prompts, numbers)
    aids = make_aids(model, loss, numbers, folder / VECTORS, seed, say)
    rehearsal = None
    if options.rehearse.weight:
        rehearsal = Rehearsal(model, options.rehearse, loss.dims, options.text_format, plan.steps, seed)
    mark = fingerprint(
        options.model_dump(),
        str(loss),
        aids.mark,
        rehearsal.mark if rehearsal else None,
        Embedder(model).fingerprint,
        seed,
        [asdict(row) for row in rows],
        mixture.model_dump(),
        plan.processes,
    )
    checkpoints = folder / CHECKPOINTS
    module = GeckoLoss(model, loss, layout, aids)
    trainer = StudentTrainer(
        model=model,
        args=_arguments(options, checkpoints, seed, plan),
        train_dataset=dataset,
        loss=module,
        data_collator=RowCollator(preprocess_fn=model.preprocess),
    )
    trainer.rehearsal = rehearsal
    trainer.remove_callback(_progress_printer())
    trainer.add_callback(checkpoint_keeper(module))
    trainer.add_callback(memory_returner())
    started = time.monotonic()
    train(trainer, own_checkpoint(checkpoints, mark, say), options)
    seconds = time.monotonic() - started
    souped = whole_checkpoints(checkpoints)[-options.soup.last :] if options.soup.last > 1 else []
    state = soup_of(module, souped, options) if souped and is_main() else None
    wait_for_all()  # the checkpoints are read
    plain_weights(model)
    if state is not None:
        model.load_state_dict(state)
        say(f"merged from the checkpoints of steps {', '.join(str(step_of(checkpoint)) for checkpoint in souped)}")
    model.max_seq_length = inference_length
    model.prompts = {**prompts}
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
        "soup": [step_of(checkpoint) for checkpoint in souped],
    }


def _enough(rows: Sequence[UnifiedRow], negatives: int) -> None:
    """Refuse rows that would all mask each other in a batch; only so many hard negatives of each are read."""
    if len(rows) < 2:
        raise GeckoError(f"only {len(rows)} training rows", "raise fret.limit or use a larger corpus")
    said = (replace(row, row_id="", source="", negatives=row.negatives[:negatives]) for row in rows)
    first = next(said)
    if all(row == first for row in said):
        raise GeckoError(
            f"all {len(rows):,} training rows are the same one",
            "give others: a row's negatives are the other rows of its batch, so it has nothing to learn from",
        )


def disable_dropout(model: Any) -> None:  # noqa: ANN401
    """Train without dropout.

    Contrastive fine-tuning of a pretrained encoder over a few epochs gains nothing from it, while on CPUs it keeps
    attention off its fast path: without it the forward pass was four times faster (docs/log.md).
    """
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def training_prompts(text_format: TextFormat, own: Mapping[str, str | None]) -> dict[str, str]:
    """The prompts a model is trained with and saved with: the format's, or in the plain format the student's own."""
    if text_format == "gecko":
        return model_prompts(text_format)
    return {name: own.get(name) or "" for name in ("query", "document")}


def _arguments(options: TrainOptions, checkpoints: Path, seed: int, plan: BatchPlan) -> Any:  # noqa: ANN401
    import torch
    from sentence_transformers import SentenceTransformerTrainingArguments

    from gecko.mixture.sampler import planned_batches

    bf16 = has_fast_bf16() if options.bf16 is None else options.bf16
    steps = plan.steps
    return SentenceTransformerTrainingArguments(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=plan.batch_size // plan.processes,
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
        save_total_limit=max(2, options.soup.last),  # the older one stays until the newer is whole
        dataloader_drop_last=plan.processes > 1,  # the plan's parts are even; without it the trainer warns
        report_to=list(options.report_to) or "none",
        disable_tqdm=True,
    )


def _progress_printer() -> type:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback
