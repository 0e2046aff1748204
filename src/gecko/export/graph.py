"""A model as one ONNX graph: tokens in, pooled unit vectors out.

The export is our own, because optimum cannot be installed beside transformers 5.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gecko.embedder.onnx import INSTALL, OUTPUT
from gecko.errors import GeckoError, reason

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TOKENS = "last_hidden_state"  # the output that readers with a pooling of their own take
OPSET = 20  # what readers of two years ago know

_MOST = 2**16
_LARGE = 1_800_000_000  # bytes: a file of protobuf ends at 2 GiB, so larger weights lie beside it


class _Graph(nn.Module):
    """A Sentence-Transformers model as a function of tensors."""

    def __init__(self, model: Any, inputs: list[str], dim: int) -> None:  # noqa: ANN401
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.dim = dim

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model(dict(zip(self.inputs, tensors, strict=True)))
        vectors = nn.functional.normalize(found["sentence_embedding"][:, : self.dim], dim=-1)
        return found["token_embeddings"], vectors


def export_graph(model: Any, out: Path, *, dim: int, max_tokens: int) -> None:  # noqa: ANN401
    """Write a model's graph, for batches of any size and texts of any length up to the model's.

    Args:
        model: A Sentence-Transformers model of one transformer with pooling, on the CPU.
        out: The file. Its outputs are the tokens' states, for readers that pool themselves, and the unit vectors.
        dim: Dimensions of the vectors, the first ones of the model's.
        max_tokens: The longest text; 0 is without end.

    Raises:
        GeckoError: The model cannot be exported.
        OSError: The file cannot be written.
    """
    transformer = model[0].auto_model
    tokens = dict(model.tokenizer(["a cat and a dog"] * 2, return_tensors="pt"))
    inputs = [name for name in INPUTS if name in tokens]
    batch = torch.export.Dim("batch", min=1, max=_MOST)
    length = torch.export.Dim("tokens", min=1, max=max_tokens or _MOST)
    attention = transformer.config._attn_implementation
    graph = _Graph(model, inputs, dim).eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The plain formula: what stands for fused attention has extra passes over the scores (docs/decisions.md).
        transformer.set_attn_implementation("eager")
        with quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                graph,
                tuple(tokens[name] for name in inputs),
                input_names=inputs,
                output_names=[TOKENS, OUTPUT],
                dynamic_shapes=(tuple({0: batch, 1: length} for _ in inputs),),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
            program.save(out, external_data=size > _LARGE)
    except OSError:
        raise
    except Exception as error:  # of torch's exporter and what it calls
        raise GeckoError(f"the model cannot be exported to ONNX: {reason(error)}", "try --format compat") from error
    finally:
        transformer.set_attn_implementation(attention)


def check_installed() -> None:
    """Refuse to begin where a package that an ONNX export takes is missing.

    Raises:
        GeckoError: It is.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise GeckoError(f"exporting to ONNX needs {error.name}, which is not installed", INSTALL) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' many notes to themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
