"""Write a model in another format, whole or not at all, with tokenizer, prompts, dimensions and card."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gecko.embedder.embedder import Embedder
from gecko.embedder.onnx import GRAPHS, MARK
from gecko.embedder.open import PACKAGED_MODEL, load_model, resolve_model
from gecko.embedder.save import save_model
from gecko.errors import GeckoError, UsageError, cannot_write
from gecko.export.card import write_card
from gecko.export.graph import check_installed, export_graph
from gecko.export.origin import run_of, trained_dims
from gecko.export.quantise import quantise
from gecko.export.same import check_same
from gecko.export.static import write_static
from gecko.replace import replaced
from gecko.shards import read_rows, to_passage, write_json
from gecko.train.backbone import UNLIMITED, window_of
from gecko.train.general_texts import general_texts
from gecko.train.save import is_write_error

FORMATS = ("compat", "onnx", "onnx-int8", "static")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_STATIC_DIM = 256
_PASSAGES, _QUESTIONS = 48, 16  # texts that int8 is calibrated on
_MOST_TOKENS = 512  # of each, where the model reads texts without end


@dataclass(frozen=True, slots=True)
class Export:
    """What ``gecko export --json`` prints; ``bytes`` counts all files."""

    out: str
    format: str
    model: str
    dim: int
    dims: tuple[int, ...]
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return asdict(self)


def export_model(
    spec: str,
    kind: str,
    out: Path,
    *,
    dim: int | None = None,
    rows: Path | None = None,
    tell: Callable[[str], None],
    seed: int = 0,
) -> Export:
    """Export a model.

    Args:
        spec: A path, a Hub id or ``all-MiniLM-L6-v2``.
        kind: ``compat``: files that Sentence-Transformers 5 and 6, transformers, vLLM, TEI and transformers.js read;
            ``onnx``: one graph from tokens to unit vectors; ``onnx-int8``: the same with int8 products; ``static``: a
            table of token vectors.
        out: The folder; an export that is there is replaced.
        dim: Dimensions of the export's vectors; default: all of the model's, in a static table 256.
        rows: ``static``: unified rows to train the table on; default: those of the run that made the model.
        tell: Receives lines on what is done.
        seed: ``static``: of the training.

    Raises:
        UsageError: There is no such format, the options contradict each other, or the folder holds something else.
        GeckoError: The model cannot be loaded or exported, it has no such dimension, or the disk is full.
    """
    if kind not in FORMATS:
        raise UsageError(f"--format {kind}: there is no such format", f"it is one of {', '.join(FORMATS)}")
    if dim is not None and kind == "compat":
        raise UsageError("--dim is not of compat", "its readers cut vectors themselves: truncate_dim")
    if rows is not None and kind != "static":
        raise UsageError("--rows is of static", "leave it out: only a table is trained")
    _check_place(out, spec)
    if kind.startswith("onnx"):
        check_installed()
    model = _opened(spec, kind)
    if dim is not None and not 1 <= dim <= model.full_dim:
        raise GeckoError(f"dimension {dim} is outside 1..{model.full_dim}", "choose a smaller --dim")
    width = dim or (min(_STATIC_DIM, model.full_dim) if kind == "static" else model.full_dim)
    sizes = tuple(size for size in trained_dims(spec) if size < width)
    facts: dict[str, Any] = {
        "format": kind,
        "dim": width,
        "dims": [width, *sizes],
        "max_tokens": _max_tokens(model.model),
        "model": _known_as(spec),
        "fingerprint": model.fingerprint,
    }
    try:
        with replaced(out) as fresh:
            if kind == "static":
                facts |= write_static(model, spec, fresh, dim=width, dims=sizes, rows=rows, tell=tell, seed=seed)
            elif kind == "compat":
                save_model(model.model, fresh)
                check_same(model, fresh)
            else:
                _write_onnx(model, spec, fresh, facts, tell)
            write_json(fresh / MARK, facts)
            write_card(fresh, Path(resolve_model(spec)), facts)
    except Exception as error:
        if not is_write_error(error):
            raise
        raise cannot_write(out, error) from error
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return Export(str(out), kind, spec, width, (width, *sizes), size)


def _opened(spec: str, kind: str) -> Embedder:
    """The model on the CPU, where exporters trace it.

    Raises:
        GeckoError: It cannot be loaded, or is of a kind that has no such export.
    """
    model: Any = load_model(spec, device="cpu")
    model.gecko_path = spec
    transformer = getattr(model[0], "auto_model", None)
    if kind != "compat" and transformer is None:
        raise GeckoError(f"{spec} has no transformer, so it cannot be exported as {kind}", "try --format compat")
    if getattr(transformer, "_hf_peft_config_loaded", False):
        raise GeckoError(f"{spec} holds adapters and not whole weights", "merge them: peft's merge_and_unload")
    return Embedder(model, bf16=False)


def _known_as(spec: str) -> str:
    """The name that an export remembers its model by; no path, which would be published with it."""
    if spec == PACKAGED_MODEL or not Path(spec).is_dir():
        return spec
    folder, run = Path(spec).resolve(), run_of(spec)
    return folder.name if run is None else f"{run.name}/{folder.name}"


def _write_onnx(
    embedder: Embedder, spec: str, folder: Path, facts: dict[str, Any], tell: Callable[[str], None]
) -> None:
    model, max_tokens = embedder.model, facts["max_tokens"]
    save_model(model, folder)
    # The graph holds the transformer's weights; what stays says to other readers how to pool and normalise.
    for pattern in _WEIGHTS:
        for file in folder.glob(pattern):
            file.unlink()
    if not (folder / "tokenizer.json").is_file():
        raise GeckoError("the model has no tokenizer.json, which an ONNX export is used with", "try --format compat")
    whole = folder / GRAPHS["onnx"]
    tell("onnx: writing the graph")
    export_graph(model, whole, dim=facts["dim"], max_tokens=max_tokens)
    write_json(folder / MARK, facts | {"format": "onnx"})
    check_same(embedder, folder)
    if facts["format"] == "onnx":
        return
    tell("onnx-int8: calibrating and rounding the weights")
    out = folder / GRAPHS[facts["format"]]
    quantise(whole, out, _calibration(embedder, spec, max_tokens or _MOST_TOKENS))
    for file in whole.parent.glob(f"{whole.name}*"):
        file.unlink()


def _calibration(embedder: Embedder, spec: str, max_tokens: int) -> Iterator[dict[str, np.ndarray]]:
    """Tokens of passages of the model's corpus, where a run has them, and of general questions; each text alone."""
    run = run_of(spec)
    passages: list[tuple[str, str]] = []
    if run is not None and any((run / "passages").glob("part-*.parquet")):
        found = read_rows(run / "passages", to_passage)
        passages = [(row.title, row.text) for row in itertools.islice(found, 0, _PASSAGES * 50, 50)]
    asked = general_texts("general", _QUESTIONS, random.Random(0))  # noqa: S311
    for text in (*embedder.render_queries(asked), *embedder.render_passages(passages)):
        tokens = embedder.model.tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="np")
        yield {name: np.asarray(value, np.int64) for name, value in tokens.items()}


def _max_tokens(model: Any) -> int:  # noqa: ANN401
    """Tokens that a model reads of a text; 0 where there is no end."""
    if getattr(model[0], "auto_model", None) is None:
        return 0
    limit = window_of(model, UNLIMITED)
    return 0 if limit >= UNLIMITED else limit


def _check_place(out: Path, spec: str) -> None:
    """Refuse a folder where an export would replace, or stand in, something else.

    Raises:
        UsageError: It would.
    """
    if spec != PACKAGED_MODEL and Path(spec).is_dir():
        place, source = out.resolve(), Path(spec).resolve()
        if place == source or source in place.parents or place in source.parents:
            raise UsageError(f"--out {out} is, holds or lies in the model", "choose a folder beside it")
    known = (out / MARK).exists() and not (out / "recipe.yaml").exists()  # the latter is of a run
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not known)):
        raise UsageError(f"{out} holds something that is not an export", "choose another --out")
