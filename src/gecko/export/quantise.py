"""A graph with int8 products, at a third of the error of ONNX Runtime's plain ones.

Weights are int8 with a scale a column; activations become int8 as they are computed, in a range that is found in the
forward pass. A few channels of the activations are far larger than the others and stretch that range, so they are
divided by what calibration texts showed, and the weights multiplied by it (SmoothQuant, Xiao et al., arXiv:2211.10438).
Ranges fixed by calibration would lose more on other texts, and ONNX Runtime fuses finding them with the product.

Most of the error that is left comes from the layers back from the wide inner one, whose activations are large for a few
tokens only: there each token has a range of its own. So has each row of an embedding table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gecko.errors import GeckoError, reason
from gecko.export.graph import quiet

ALPHA = 0.65  # how much of an activation's range goes to the weights; 0.5 to 0.9 were tried (docs/log.md)
_LEAST = 1e-5
_TOP = 127  # int8 without -128: symmetric
_RUNTIME = "com.microsoft"  # ONNX Runtime's operators beside the standard's


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

    beside = graph.with_name(f"{graph.name}.data").exists()  # more than 2 GiB: cannot be run with outputs of its middle
    try:
        with quiet():
            if not beside:
                smooth(graph, texts)
            quantize_dynamic(
                graph,
                out,
                op_types_to_quantize=["MatMul", "Gemm"] + ["Gather"] * beside,
                nodes_to_exclude=[] if beside else _wide(graph),
                weight_type=QuantType.QInt8,
                per_channel=True,
                use_external_data_format=beside,
            )
            if not beside:
                by_row(out)
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
    uses = _linear(model)
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


def by_row(graph: Path) -> None:
    """Make int8 of the linear layers to fewer features, with a range a token, and of embedding tables, a scale a row.

    Args:
        graph: The file, changed in place.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(graph)
    weights = {one.name: one for one in model.graph.initializer}
    wide = {node.name for node in _linear(model) if _narrows(node, weights)}
    made: list[Any] = []

    def constant(name: str, value: np.ndarray) -> str:
        if name not in weights:
            weights[name] = numpy_helper.from_array(value, name)
        return name

    def add(kind: str, inputs: list[str], output: str, **options: Any) -> str:  # noqa: ANN401
        made.append(helper.make_node(kind, inputs, [output], name=f"{output}_node", **options))
        return output

    def table(node: Any) -> None:  # noqa: ANN401
        name, place, out = node.input[0], node.input[1], node.output[0]
        rows, scale = _rounded(numpy_helper.to_array(weights[name]), 1)
        codes = add("Gather", [constant(f"{name}_int8", rows), place], f"{out}_int8", axis=0)
        scales = add("Gather", [constant(f"{name}_scale", scale), place], f"{out}_scale", axis=0)
        add("Mul", [add("Cast", [codes], f"{out}_cast", to=onnx.TensorProto.FLOAT), scales], out)

    def product(node: Any) -> None:  # noqa: ANN401
        x, name, out = node.input[0], node.input[1], node.output[0]
        columns, scale = _rounded(numpy_helper.to_array(weights[name]), 0)
        zero = constant("int8_zero", np.array(128, np.uint8))
        # One row a token: what the runtime rounds by rows has two dimensions.
        flat = add("Reshape", [x, constant(f"{name}_rows", np.array([-1, len(columns)]))], f"{out}_rows")
        most = add("ReduceMax", [add("Abs", [flat], f"{out}_abs"), constant("int8_axis", np.array([1]))], f"{out}_most")
        least = constant("int8_least", np.array(_LEAST / _TOP, np.float32))
        step = add("Mul", [most, constant("int8_step", np.array(1 / _TOP, np.float32))], f"{out}_raw_step")
        step = add("Max", [step, least], f"{out}_step")
        steps = add("Reshape", [step, constant("int8_flat", np.array([-1]))], f"{out}_steps")
        zeros = add("Expand", [zero, add("Shape", [steps], f"{out}_count")], f"{out}_zeros")
        codes = add("QuantizeLinear", [flat, steps, zeros], f"{out}_codes", axis=0)
        inputs = [codes, constant(f"{name}_int8", columns), constant("int8_one", np.array(1, np.float32))]
        inputs += [constant(f"{name}_scale", scale[0]), zero]
        sums = add("MatMulIntegerToFloat", inputs, f"{out}_sums", domain=_RUNTIME)
        found = add("Mul", [sums, step], f"{out}_product")
        lead = add("Shape", [x], f"{out}_lead", end=-1)
        shape = add("Concat", [lead, constant("int8_flat", np.array([-1]))], f"{out}_shape", axis=0)
        add("Reshape", [found, shape], out)

    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in weights and len(weights[node.input[0]].dims) == 2:
            table(node)
        elif node.name in wide:
            product(node)
        else:
            made.append(node)
    used = {name for node in made for name in node.input}
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(made)
    model.graph.initializer.extend(one for name, one in weights.items() if name in used)
    if all(one.domain != _RUNTIME for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_RUNTIME, 1))
    onnx.save(model, graph)


def _linear(model: Any) -> list[Any]:  # noqa: ANN401
    """Products with a matrix of weights."""
    weights = {one.name: one for one in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    return [node for node in products if len(weights[node.input[1]].dims) == 2]


def _narrows(node: Any, weights: Mapping[str, Any]) -> bool:  # noqa: ANN401
    rows, columns = weights[node.input[1]].dims
    return bool(rows > columns)


def _wide(graph: Path) -> list[str]:
    """Names of the linear layers to fewer features."""
    import onnx

    model = onnx.load(graph)
    weights = {one.name: one for one in model.graph.initializer}
    return [node.name for node in _linear(model) if _narrows(node, weights)]


def _rounded(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes, and the scale that each row or column of them has."""
    scale = np.maximum(np.abs(values).max(axis, keepdims=True), _LEAST) / _TOP
    return np.round(values / scale).astype(np.int8), scale.astype(np.float32)


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
