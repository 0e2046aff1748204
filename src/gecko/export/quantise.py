"""A graph with int8 products, at half the error of ONNX Runtime's plain ones.

Weights are int8 with a scale a column; activations become int8 as they are computed, in a range that is found in the
forward pass. A few channels of the activations are far larger than the others and stretch that range, so they are
divided by what calibration texts showed, and the weights multiplied by it (SmoothQuant, Xiao et al., arXiv:2211.10438).
Ranges fixed by calibration would lose more on other texts, and ONNX Runtime fuses finding them with the product.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gecko.errors import GeckoError, reason
from gecko.export.graph import quiet

ALPHA = 0.8  # how much of an activation's range goes to the weights; 0.4 to 1 were tried (docs/log.md)
_LEAST = 1e-5


def quantise(graph: Path, out: Path, texts: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Write a graph with int8 weights.

    Args:
        graph: As :func:`~gecko.export.graph.export_graph` wrote it; it is changed.
        out: The file to write.
        texts: Inputs of the graph to calibrate with; none leaves the activations as they are.

    Raises:
        GeckoError: The graph cannot be calibrated or rounded.
        OSError: The file cannot be written.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    beside = graph.with_name(f"{graph.name}.data").exists()
    try:
        with quiet():
            if not beside:  # a graph of more than 2 GiB cannot be run with outputs of its middle
                smooth(graph, texts)
            quantize_dynamic(graph, out, weight_type=QuantType.QInt8, per_channel=True, use_external_data_format=beside)
    except OSError:
        raise
    except Exception as error:  # of the runtime and its tools
        raise GeckoError(f"the model cannot be exported as int8: {reason(error)}", "try --format onnx") from error


def smooth(graph: Path, texts: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Move the range of large channels from the activations of all linear layers to their weights, in place.

    Args:
        graph: The file; what it computes stays the same.
        texts: As :func:`quantise`'s.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(graph)
    weights = {one.name: one for one in model.graph.initializer}
    uses = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    uses = [node for node in uses if len(weights[node.input[1]].dims) == 2]
    if len({node.input[1] for node in uses}) < len(uses):  # a weight that two layers share cannot have both scales
        return
    scales: dict[str, np.ndarray] = {}
    for name, most in _largest(model, sorted({node.input[0] for node in uses}), texts).items():
        own = [numpy_helper.to_array(weights[node.input[1]]) for node in uses if node.input[0] == name]
        widest = np.max([np.abs(weight).max(1) for weight in own], axis=0)
        scale = np.maximum(most, _LEAST) ** ALPHA / np.maximum(widest, _LEAST) ** (1 - ALPHA)
        scales[name] = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
    for node in uses:
        name = node.input[0]
        if name in scales:
            weight = weights[node.input[1]]
            scaled = numpy_helper.to_array(weight) * scales[name][:, None]
            weight.CopyFrom(numpy_helper.from_array(scaled, weight.name))
            node.input[0] = f"{name}_smooth"
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        for name in node.output:
            if name in scales:
                model.graph.initializer.append(numpy_helper.from_array(1 / scales[name], f"{name}_scale"))
                nodes.append(helper.make_node("Mul", [name, f"{name}_scale"], [f"{name}_smooth"], name=f"{name}_mul"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, graph)


def _largest(model: Any, names: list[str], texts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:  # noqa: ANN401
    """Largest magnitude of each channel of the activations named, over the texts; empty where there is no text."""
    import onnxruntime
    from onnx import ModelProto, helper

    watched = ModelProto()
    watched.CopyFrom(model)
    made = {name for node in model.graph.node for name in node.output}
    names = [name for name in names if name in made]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = {entry.name for entry in session.get_inputs()}
    found: dict[str, np.ndarray] = {}
    for feed in texts:
        values = session.run(names, {name: value for name, value in feed.items() if name in inputs})
        for name, value in zip(names, values, strict=True):
            most = np.abs(value).reshape(-1, value.shape[-1]).max(0)
            found[name] = np.maximum(found.get(name, most), most)
    return found
