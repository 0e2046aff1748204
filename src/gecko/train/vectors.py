"""Another embedder's vectors of the training texts: made once, kept in a file, looked up by number in training.

The guide that masks false negatives and the teacher that is distilled are asked for the same texts in every epoch; they
are asked once, before the first step, and their weights are out of memory when training begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss
from torch import Tensor

from gecko.corpus.files import file_state
from gecko.embedder.embedder import Embedder
from gecko.embedder.open import resolve_model
from gecko.errors import GeckoError
from gecko.mixture.format import SourceText
from gecko.shards import fingerprint, read_json, write_json
from gecko.train.loss_options import LossOptions
from gecko.train.processes import is_main, wait_for_all

_BLOCK = 2048  # texts encoded between two writes; a kill costs at most these
_FORMAT = 1  # raised when the file's contents change


@dataclass(frozen=True, slots=True)
class Aids:
    """What objectives read beside the batch.

    Attributes:
        guide: The guard's vectors.
        teacher: The distilled embedder's vectors.
        projection: Sentence-Transformers' ``EmbedDistillLoss``: student to teacher.
        mark: Tells the vectors from those of other embedders or texts.
    """

    guide: TextVectors | None = None
    teacher: TextVectors | None = None
    projection: Any = None
    mark: str = ""

    def parameters(self) -> list[torch.nn.Parameter]:
        """Those of the projection, which are trained along with the student."""
        return [] if self.projection is None else list(self.projection.projection.parameters())


class TextNumbers:
    """Numbers distinct texts in the order in which they are first asked for.

    Attributes:
        texts: The texts, each at its number.
    """

    def __init__(self) -> None:
        self.texts: list[SourceText] = []
        self._known: dict[SourceText, int] = {}

    def __call__(self, text: SourceText) -> int:
        """Give the number of a text."""
        number = self._known.setdefault(text, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        return number


class TextVectors:
    """Unit vectors of the numbered texts, memory-mapped.

    Attributes:
        width: Of a vector.
        mark: Tells them from those of other embedders or texts.
    """

    def __init__(self, matrix: np.ndarray, mark: str = "") -> None:
        self._matrix = matrix
        self.width = int(matrix.shape[1])
        self.mark = mark

    def of(self, numbers: Tensor) -> Tensor:
        """Look vectors up, float32 (..., width) on the numbers' device; -1 stands for none and gives any vector."""
        wanted = numbers.clamp(min=0).cpu().numpy()
        return torch.from_numpy(np.asarray(self._matrix[wanted])).to(numbers.device)


def make_aids(
    model: Any,  # noqa: ANN401
    options: LossOptions,
    numbers: TextNumbers | None,
    folder: Path,
    seed: int,
    tell: Callable[[str], None],
) -> Aids:
    """Have the guide and the teacher encode the training texts; the process that writes files does, the others wait.

    Args:
        model: The student, whose width the projection starts from.
        options: Name the guide and the teacher.
        numbers: The texts; None where there is neither.
        folder: Of the files of vectors.
        seed: Of the projection, which is then the same whether or not the teacher was loaded before, in all processes.
        tell: Receives a line for each embedder that has something to encode.

    Raises:
        GeckoError: As :func:`text_vectors`.
    """
    if numbers is None:
        return Aids()
    if is_main():
        keep_vectors(options.embedders, numbers.texts, folder)
        for name in options.embedders:
            text_vectors(name, numbers.texts, folder, tell)
    wait_for_all()
    found = {name: text_vectors(name, numbers.texts, folder) for name in options.embedders}
    guide = found.get(options.guard.embedder or "")
    teacher = found.get(options.distill.embedder or "")
    projection = None
    if teacher is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            projection = EmbedDistillLoss(model, "cosine", projection_dim=teacher.width)
    return Aids(guide, teacher, projection, " ".join(vectors.mark for vectors in found.values()))


def text_vectors(
    spec: str, texts: Sequence[SourceText], folder: Path, tell: Callable[[str], None] | None = None
) -> TextVectors:
    """Map an embedder's vectors of texts, making first those that are not in the file yet.

    Args:
        spec: The embedder, as a recipe names it.
        texts: The texts, each at its number; the embedder renders them in its own format.
        folder: Where the file lies; what is there of an interrupted call is gone on with.
        tell: Receives a line where there is something to encode.

    Raises:
        GeckoError: The embedder cannot be loaded, its vectors are not numbers, or the disk is full.
    """
    path = _path(spec, texts, folder)
    about = path.with_suffix(".json")
    facts = read_json(about) or {}
    done = path.stat().st_size if path.exists() else 0
    if not facts or done != len(texts) * facts["dim"] * 4:
        embedder = Embedder(spec)
        if tell is not None:
            tell(f"{spec} encodes {len(texts):,} training texts, once")
        facts = {"embedder": spec, "texts": len(texts), "dim": embedder.dim}
        write_json(about, facts)
        _complete(path, embedder, texts)
    return TextVectors(np.memmap(path, np.float32, "r", shape=(len(texts), facts["dim"])), path.stem)


def keep_vectors(specs: Sequence[str], texts: Sequence[SourceText], folder: Path) -> None:
    """Delete the files of embedders or texts other than these."""
    wanted = {_path(spec, texts, folder).stem for spec in specs}
    for path in folder.glob("*"):
        if path.suffix in (".f32", ".json") and path.stem not in wanted:
            path.unlink()


def _path(spec: str, texts: Sequence[SourceText], folder: Path) -> Path:
    place = Path(resolve_model(spec))
    files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else []
    state = [file_state(file, file.relative_to(place).as_posix()) for file in files]
    named = [[text.task, text.title, text.text] for text in texts]
    return folder / f"{fingerprint(_FORMAT, spec, state, named)}.f32"


def _complete(path: Path, embedder: Embedder, texts: Sequence[SourceText]) -> None:
    """Append the vectors that the file lacks; half a block, left by a kill, is cut off."""
    row = embedder.dim * 4
    try:
        path.touch()
        done = path.stat().st_size // row
        with path.open("r+b") as handle:
            handle.truncate(done * row)
            handle.seek(done * row)
            for block in _blocks(embedder, texts[done:]):
                handle.write(block.tobytes())
                handle.flush()
    except OSError as error:
        reason = error.strerror or str(error)
        raise GeckoError(
            f"cannot write {path}: {reason}", "free space, then run again: it goes on from there"
        ) from error


def _blocks(embedder: Embedder, texts: Sequence[SourceText]) -> Iterator[np.ndarray]:
    for start in range(0, len(texts), _BLOCK):
        block = texts[start : start + _BLOCK]
        asked = [place for place, text in enumerate(block) if text.task is not None]
        told = [place for place, text in enumerate(block) if text.task is None]
        out = np.empty((len(block), embedder.dim), np.float32)
        out[asked] = embedder.encode_queries([block[i].text for i in asked], [block[i].task or "" for i in asked])
        out[told] = embedder.encode_passages([(block[i].title, block[i].text) for i in told])
        if not np.isfinite(out).all():
            raise GeckoError(f"{embedder.path}: its vectors are not numbers", "name another embedder")
        yield out
