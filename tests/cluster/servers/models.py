"""Small ONNX models whose answer tells which version gave it, at a chosen cost for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 64
INPUT, OUTPUT = "INPUT", "VERSION"


def config_text(model: str, *, max_batch_size: int = 8) -> str:
    """Return the text of a complete config.pbtxt, as porting publishes it: one repository for either backend."""
    return f"""name: "{model}"
backend: "onnxruntime"
max_batch_size: {max_batch_size}
input [ {{ name: "{INPUT}" data_type: TYPE_FP32 dims: [ {WIDTH} ] }} ]
output [ {{ name: "{OUTPUT}" data_type: TYPE_INT64 dims: [ 1 ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
dynamic_batching {{ }}
"""


def version_model(number: int, *, layers: int = 1, width: int = 256, one_matrix: bool = False) -> bytes:
    """Return an ONNX file that answers every row with its own number, after `layers` products of width x width.

    The answer depends on the products, so that nothing can leave them out. With `one_matrix` all layers share one:
    a small file that costs much to compute.
    """
    random = np.random.default_rng(0)
    weights = [numpy_helper.from_array(random.standard_normal((WIDTH, width)).astype(np.float32), "w_in")]
    nodes = [helper.make_node("MatMul", [INPUT, "w_in"], ["h0"])]
    for layer in range(layers):
        name = "w0" if one_matrix else f"w{layer}"
        if layer == 0 or not one_matrix:
            matrix = (random.standard_normal((width, width)) / width**0.5).astype(np.float32)
            weights.append(numpy_helper.from_array(matrix, name))
        nodes.append(helper.make_node("MatMul", [f"h{layer}", name], [f"h{layer + 1}"]))
    weights += [
        numpy_helper.from_array(np.array([number], dtype=np.int64), "number"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"),
    ]
    nodes += [
        helper.make_node("ReduceMax", [f"h{layers}", "axis"], ["largest"], keepdims=1),
        helper.make_node("IsNaN", ["largest"], ["nan"]),  # false for every honest input
        helper.make_node("Cast", ["nan"], ["zero"], to=TensorProto.INT64),
        helper.make_node("Add", ["zero", "number"], [OUTPUT]),
    ]
    graph = helper.make_graph(
        nodes,
        "version",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.INT64, ["batch", 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write_task(
    repository: Path, model: str, layers_by_version: dict[int, int], *, width: int = 256, one_matrix: bool = False
) -> str:
    """Write one task with its versions into the repository; returns the text of its config.pbtxt."""
    text = config_text(model)
    for number, layers in layers_by_version.items():
        folder = repository / model / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(version_model(number, layers=layers, width=width, one_matrix=one_matrix))
    (repository / model / "config.pbtxt").write_text(text)
    return text
