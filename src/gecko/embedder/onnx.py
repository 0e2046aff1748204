"""An ONNX export in use: its own tokenizer and runtime, without torch or transformers (``gecko export`` makes it)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gecko.engine.local import cores
from gecko.errors import GeckoError, reason

MARK = "gecko_export.json"
GRAPHS = {"onnx": "onnx/model.onnx", "onnx-int8": "onnx/model_quantized.onnx"}  # where transformers.js looks for them
OUTPUT = "sentence_embedding"
INSTALL = "pip install 'gecko-embed[onnx]'"

_AGAIN = "make it again: gecko export MODEL --format {} --out DIR"
_COLUMNS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
_SAID = 160  # characters of what a library says
_TOKENS_AT_ONCE = 256  # of a forward pass: what is computed stays in the processor's cache
# ONNX Runtime's fused kernel for a sum and its layer norm is slower on CPUs than the two apart: by a fifth of a text's
# time in float32, by a third in int8 (docs/log.md).
_SLOWER = ["SkipLayerNormFusion"]


def is_onnx(folder: Path) -> bool:
    """Whether a folder is an ONNX export of gecko."""
    return (folder / MARK).is_file() and str((_facts(folder) or {}).get("format", "")) in GRAPHS


def _facts(folder: Path) -> dict[str, Any] | None:
    try:
        value = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise GeckoError(f"{folder / MARK} is damaged", "export the model again") from error
    if not isinstance(value, dict):
        raise GeckoError(f"{folder / MARK} is damaged", "export the model again")
    return value


def export_facts(folder: Path) -> dict[str, Any] | None:
    """What an export says of itself: format, dim, dims, model, fingerprint; None where a folder is no export.

    Raises:
        GeckoError: Its facts are damaged, or a file of it is not there.
    """
    facts = _facts(folder)
    if facts is None:
        return None
    wanted = {"format": str, "dim": int, "dims": list, "max_tokens": int, "model": str, "fingerprint": str}
    if not all(isinstance(facts.get(name), kind) for name, kind in wanted.items()):
        raise GeckoError(f"{folder / MARK} is damaged", "export the model again")
    if facts["format"] in GRAPHS:
        for name in (GRAPHS[facts["format"]], "tokenizer.json", "config_sentence_transformers.json"):
            if not (folder / name).is_file():
                raise GeckoError(f"{folder} holds no {name}", _AGAIN.format(facts["format"]))
    return facts


class OnnxModel:
    """A graph from tokens to unit vectors, with its tokenizer and prompts.

    Texts of one length go through the graph together, so nothing is padded; in int8 each goes alone, because the
    ranges of its activations are found in the forward pass and a text's vector would depend on the texts beside it.

    Args:
        folder: The export.
        threads: Texts encoded at the same time; default: OMP_NUM_THREADS, or the processors this process may use.

    Raises:
        GeckoError: ONNX Runtime is not installed, or the export is incomplete or damaged.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        facts = export_facts(folder)
        if facts is None or facts["format"] not in GRAPHS:
            raise GeckoError(f"{folder} is not an ONNX export of gecko", _AGAIN.format("onnx"))
        self.format: str = facts["format"]
        self.origin: str = facts["fingerprint"]
        self.max_seq_length: int | None = facts["max_tokens"] or None
        self.prompts = _prompts(folder)
        self._dim: int = facts["dim"]
        self._graph = folder / GRAPHS[self.format]
        self._threads = threads or _threads()
        self._session = _session(self._graph, self.format)
        self._inputs = {entry.name for entry in self._session.get_inputs()}
        self._tokenizer = _tokenizer(folder, self.max_seq_length)
        widths = [entry.shape[-1] for entry in self._session.get_outputs() if entry.name == OUTPUT]
        if not self._inputs <= set(_COLUMNS) or widths != [self._dim]:
            raise GeckoError(f"{self._graph} is another graph than {MARK} says", _AGAIN.format(self.format))

    def eval(self) -> OnnxModel:
        """Do nothing: an export is never in training."""
        return self

    def get_embedding_dimension(self) -> int:
        """Length of a vector."""
        return self._dim

    @cached_property
    def digest(self) -> bytes:
        """Hash of the graph with its weights."""
        digest = hashlib.sha256()
        for file in sorted(self._graph.parent.glob(f"{self._graph.name}*")):  # large weights lie beside the graph
            with file.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
        return digest.digest()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode rendered texts to float32 unit vectors (n, dim); a text without tokens gets a vector of zeros.

        Raises:
            GeckoError: The graph cannot be run.
        """
        encodings = self._tokenizer.encode_batch(list(texts))
        out = np.zeros((len(texts), self._dim), np.float32)
        groups = list(_groups([len(encoding.ids) for encoding in encodings], alone=self.format == "onnx-int8"))

        def run(places: list[int]) -> None:
            out[places] = self._run([encodings[place] for place in places])

        if self._threads == 1 or len(groups) == 1:
            for group in groups:
                run(group)
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(run, groups))
        return out

    def _run(self, encodings: Sequence[Any]) -> np.ndarray:
        feed = {
            name: np.array([getattr(encoding, _COLUMNS[name]) for encoding in encodings], np.int64)
            for name in self._inputs
        }
        try:
            return np.asarray(self._session.run([OUTPUT], feed)[0])
        except Exception as error:  # the runtime's own classes
            raise GeckoError(
                f"cannot run {self._graph}: {reason(error)[:_SAID]}", _AGAIN.format(self.format)
            ) from error


def _groups(lengths: Sequence[int], *, alone: bool) -> Iterator[list[int]]:
    """Put places of texts of one length together, the longest first, so that the last ones to finish are short."""
    order = sorted((place for place, length in enumerate(lengths) if length), key=lambda place: -lengths[place])
    group: list[int] = []
    for place in order:
        full = group and (
            alone or lengths[place] != lengths[group[0]] or (len(group) + 1) * lengths[place] > _TOKENS_AT_ONCE
        )
        if full:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked):
        return int(asked)
    return cores()


def _session(graph: Path, name: str) -> Any:  # noqa: ANN401
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise GeckoError("an ONNX export needs onnxruntime, which is not installed", INSTALL) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # texts are encoded side by side, each on one processor
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOWER
        )
    except Exception as error:  # the runtime's own classes
        raise GeckoError(
            f"{graph} is damaged or cannot be run: {reason(error)[:_SAID]}", _AGAIN.format(name)
        ) from error


def _tokenizer(folder: Path, max_tokens: int | None) -> Any:  # noqa: ANN401
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises nothing more special
        raise GeckoError(f"{folder / 'tokenizer.json'} is damaged: {reason(error)[:_SAID]}", "export again") from error
    if max_tokens is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return tokenizer


def _prompts(folder: Path) -> dict[str, str]:
    path = folder / "config_sentence_transformers.json"
    try:
        prompts = json.loads(path.read_text(encoding="utf-8")).get("prompts") or {}
        return {str(name): str(text or "") for name, text in prompts.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise GeckoError(f"{path} is damaged", "export the model again") from error
