"""A graph with int8 products, at a quarter of the error of ONNX Runtime's plain ones.

Weights are int8 with a scale a column, embedding tables with a scale a row. Activations become int8 as they are
computed, each token in a range of its own: a few tokens are far larger than the others behind the wide inner layers. A
few channels are larger too, so they are divided by what calibration texts showed, and the weights multiplied by it
(SmoothQuant, Xiao et al., arXiv:2211.10438). Ranges fixed by calibration would lose more on other texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gecko.errors import GeckoError, reason
from gecko.export.graph import quiet

ALPHA = 0.5  # how much of an activation's range goes to the weights; 0.3 to 0.8 were tried (docs/log.md)
_LEAST = 1e-5
_TOP = 127  # int8 without -128: symmetric
_BELOW_GELU = 0.17  # its least value is -0.16997, so what comes from it wants no half of the range below zero
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
                by_row(graph, out)
            else:
                quantize_dynamic(
                    graph, out, weight_type=QuantType.QInt8, per_channel=True, use_external_data_format=True
                )
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


def by_row(graph: Path, out: Path) -> None:
    """Write a graph whose linear layers and embedding tables are int8.

    Args:
        graph: The float graph, smoothed or not.
        out: The file to write.
    """
    import onnx
    from onnx import helper

    model = onnx.load(graph)
    linear = {node.name for node in _linear(model)}
    rounding = _Rounding(model)
    for node in model.graph.node:
        if node.op_type == "Gather" and rounding.is_matrix(node.input[0]):
            rounding.table(node)
        elif node.name in linear:
            rounding.product(node)
        else:
            rounding.nodes.append(node)
    used = {name for node in rounding.nodes for name in node.input}
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(rounding.nodes)
    model.graph.initializer.extend(one for name, one in rounding.constants.items() if name in used)
    if all(one.domain != _RUNTIME for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_RUNTIME, 1))
    onnx.save(model, out)


class _Rounding:
    """The nodes and constants of a graph that is being rewritten in int8."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        self.nodes: list[Any] = []
        self.constants = {one.name: one for one in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._coded: dict[str, tuple[str, str, str]] = {}

    def is_matrix(self, name: str) -> bool:
        return name in self.constants and len(self.constants[name].dims) == 2

    def table(self, node: Any) -> None:  # noqa: ANN401
        """Look rows up in codes, and multiply each by its scale."""
        from onnx import TensorProto

        name, place, out = node.input[0], node.input[1], node.output[0]
        rows, scale = _rounded(self._value(name), 1)
        codes = self._add("Gather", [self._constant(f"{name}_int8", rows), place], f"{out}_int8", axis=0)
        scales = self._add("Gather", [self._constant(f"{name}_scale", scale), place], f"{out}_scale", axis=0)
        self._add("Mul", [self._add("Cast", [codes], f"{out}_cast", to=TensorProto.FLOAT), scales], out)

    def product(self, node: Any) -> None:  # noqa: ANN401
        """Multiply the codes of tokens by those of the weights."""
        x, name, out = node.input[0], node.input[1], node.output[0]
        columns, scale = _rounded(self._value(name), 0)
        codes, step, zero = self._codes(x, len(columns))
        inputs = [codes, self._constant(f"{name}_int8", columns), self._constant("int8_one", np.array(1, np.float32))]
        inputs += [self._constant(f"{name}_scale", scale[0]), zero]
        sums = self._add("MatMulIntegerToFloat", inputs, f"{out}_sums", domain=_RUNTIME)
        shift = self._shift(x)
        if shift is None:
            self._add("Mul", [sums, step], out)
            return
        more = (shift @ (columns * scale)).astype(np.float32)
        self._add("Sub", [self._add("Mul", [sums, step], f"{out}_more"), self._constant(f"{name}_more", more)], out)

    def _codes(self, x: str, width: int) -> tuple[str, str, str]:
        """Codes of activations, the step of each token, and the code of zero."""
        if x in self._coded:
            return self._coded[x]
        shift, last = self._shift(x), self._constant("int8_axis", np.array([-1]))
        if shift is None:
            zero, top = self._constant("int8_half", np.array(128, np.uint8)), _TOP
            values, sizes = x, self._add("Abs", [x], f"{x}_abs")
        else:
            zero, top = self._constant("int8_none", np.array(0, np.uint8)), 255
            values = sizes = self._add("Add", [x, self._constant(f"{x}_shift", shift)], f"{x}_shifted")
        most = self._add("ReduceMax", [sizes, last], f"{x}_most")
        step = self._add("Mul", [most, self._constant(f"int8_{top}", np.array(1 / top, np.float32))], f"{x}_raw_step")
        step = self._add("Max", [step, self._constant("int8_least", np.array(_LEAST / top, np.float32))], f"{x}_step")
        # One scale a token: what the runtime rounds by rows has two dimensions.
        flat = self._add("Reshape", [values, self._constant(f"int8_by_{width}", np.array([-1, width]))], f"{x}_flat")
        steps = self._add("Reshape", [step, last], f"{x}_steps")
        zeros = self._add("Expand", [zero, self._add("Shape", [steps], f"{x}_count")], f"{x}_zeros")
        codes = self._add("QuantizeLinear", [flat, steps, zeros], f"{x}_flat_codes", axis=0)
        codes = self._add("Reshape", [codes, self._add("Shape", [x], f"{x}_shape")], f"{x}_codes")
        self._coded[x] = codes, step, zero
        return self._coded[x]

    def _shift(self, x: str) -> np.ndarray | None:
        """What lifts activations above zero, for each channel; None where they have no least value."""
        maker = self._makers.get(x)
        if maker is not None and maker.op_type == "Mul" and maker.input[1] in self.constants:  # smoothed
            before, scale = self._makers.get(maker.input[0]), self._value(maker.input[1])
            if before is not None and before.op_type == "Gelu" and scale.ndim == 1:
                return (_BELOW_GELU * scale).astype(np.float32)
        return None

    def _value(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name])

    def _constant(self, name: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def _add(self, kind: str, inputs: list[str], output: str, **options: Any) -> str:  # noqa: ANN401
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}_node", **options))
        return output


def _linear(model: Any) -> list[Any]:  # noqa: ANN401
    """Products with a matrix of weights."""
    weights = {one.name: one for one in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    return [node for node in products if len(weights[node.input[1]].dims) == 2]


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
