"""ONNX Runtime as a Python-based backend of NVIDIA Triton: serves MODEL/VERSION/model.onnx.

Stands in for the official C++ backend of the same name where that is not present, so that one model repository serves
both. Each version runs in a process of its own, so what it imports counts: every loaded standby pays for it.
One thread for each instance: the server's parallelism is its count of instances, as `instance_group` says.

Source of the interface: the documentation of Triton's Python backend ("Python-based backends").
"""

import asyncio  # noqa: F401 - the stub imports it at the first request, which then takes 50 ms longer
import gc
import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

DEFAULT_FILE_NAME = "model.onnx"
DEFAULT_MAX_BATCH_SIZE = 4
"""What the official backend takes for a model that can batch and doesn't say how far."""

WARM_UP_LIMIT_BYTES = 64 * 1024 * 1024

TRITON_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}

_sessions: dict = {}
"""The session that completing the configuration opened, by file: the instance in the same process takes it over."""


class LoadError(Exception):
    """A model that can't be served. The message names the model, the version and the cause."""


def _describe(model_name, version, path, cause):
    return f"model '{model_name}' version {version}: {cause} ({path})"


def _open(model_name, version, path):
    """Open the file, or raise LoadError. Everything that can be wrong with a file ends here, as a message."""
    if not path.is_file():
        raise LoadError(_describe(model_name, version, path, "there is no such file"))
    if path.stat().st_size == 0:
        raise LoadError(_describe(model_name, version, path, "the file is empty"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # The arena keeps the largest batch's memory for ever, in every standby. Without it the allocator of the C library
    # does the same work; the pattern of memory use is only worth keeping with an arena.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        cause = " ".join(str(error).split())
        raise LoadError(_describe(model_name, version, path, f"ONNX Runtime can't load it: {cause}")) from error


def _dims(shape):
    return [size if isinstance(size, int) and size >= 0 else -1 for size in shape]


def _complete(config, session):
    """Fill in what config.pbtxt leaves out: inputs, outputs, the batch size."""
    given = config.as_dict()
    shapes = [_dims(node.shape) for node in (*session.get_inputs(), *session.get_outputs())]
    can_batch = all(shape and shape[0] == -1 for shape in shapes)
    batches = given["max_batch_size"] > 0
    if not batches and can_batch and not given.get("input") and not given.get("output"):
        config.set_max_batch_size(DEFAULT_MAX_BATCH_SIZE)
        config.set_dynamic_batching()
        batches = True
    if batches and not can_batch:
        raise LoadError("max_batch_size is not 0, but a tensor of the model has no dynamic first dimension")
    skip = 1 if batches else 0
    for nodes, given_nodes, add in (
        (session.get_inputs(), given.get("input"), config.add_input),
        (session.get_outputs(), given.get("output"), config.add_output),
    ):
        if given_nodes:
            continue  # what the owner wrote stands; the instance checks that the names exist
        for node in nodes:
            add({"name": node.name, "data_type": TRITON_TYPES[node.type], "dims": _dims(node.shape)[skip:]})


class TritonPythonModel:
    """One instance of one version."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        """Complete the configuration from the file; a complete one costs nothing.

        Faults are left to `initialize`, which runs in the same process and whose message reaches the caller.
        """
        given = auto_complete_model_config.as_dict()
        if given.get("input") and given.get("output"):
            return auto_complete_model_config
        directory = Path(pb_utils.get_model_dir())
        path = directory / (given.get("default_model_filename") or DEFAULT_FILE_NAME)
        session = _open(given["name"], directory.name, path)
        _complete(auto_complete_model_config, session)
        _sessions[path] = session
        return auto_complete_model_config

    def initialize(self, args):
        """Open the session; raises with a message when the file can't be served."""
        config = json.loads(args["model_config"])
        name, version = args["model_name"], args["model_version"]
        path = Path(pb_utils.get_model_dir()) / (config.get("default_model_filename") or DEFAULT_FILE_NAME)
        try:
            self.session = _sessions.pop(path, None) or _open(name, version, path)
            has_inputs = [node.name for node in self.session.get_inputs()]
            has_outputs = [node.name for node in self.session.get_outputs()]
            self.input_names = [tensor["name"] for tensor in config["input"]]
            self.output_names = [tensor["name"] for tensor in config["output"]]
            if sorted(self.input_names) != sorted(has_inputs):
                cause = f"the configuration has the inputs {self.input_names}, the file {has_inputs}"
                raise LoadError(_describe(name, version, path, cause))
            if not set(self.output_names) <= set(has_outputs):
                cause = f"the configuration has the outputs {self.output_names}, the file {has_outputs}"
                raise LoadError(_describe(name, version, path, cause))
        except LoadError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self.batches = config["max_batch_size"] > 0
        self._warm_up(config)
        gc.collect()
        gc.freeze()  # what lives now lives as long as the process: later collections need not look at it

    def _warm_up(self, config):
        """Answer one request of zeros, so that a standby's first answer is as quick as any other.

        A model that can't take it (a shape that depends on its content, say) is served without.
        """
        try:
            feed = {}
            for tensor in config["input"]:
                dims = [1] * self.batches + [max(1, int(size)) for size in tensor["dims"]]
                feed[tensor["name"]] = np.zeros(dims, pb_utils.triton_string_to_numpy(tensor["data_type"]))
                if feed[tensor["name"]].nbytes > WARM_UP_LIMIT_BYTES:
                    return
            for name, array in zip(self.output_names, self.session.run(self.output_names, feed)):
                pb_utils.Tensor(name, array)
        except Exception as error:
            pb_utils.Logger.log_verbose(f"no warm-up: {error}")

    def execute(self, requests):
        """Answer a batch of requests: one run where their shapes agree, one run each where they don't."""
        if len(requests) == 1:
            return [self._answer(requests[0])]
        if not self.batches:
            return [self._answer(request) for request in requests]
        return self._answer_together(requests)

    def _inputs(self, request):
        return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}

    def _wanted(self, request):
        names = request.requested_output_names()
        return names if names else self.output_names

    def _response(self, names, arrays):
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in zip(names, arrays)])

    def _failure(self, error):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(" ".join(str(error).split())))

    def _answer(self, request):
        try:
            names = self._wanted(request)
            return self._response(names, self.session.run(names, self._inputs(request)))
        except Exception as error:
            return self._failure(error)

    def _answer_together(self, requests):
        inputs = [self._inputs(request) for request in requests]
        names = self.output_names
        first = inputs[0]
        if any(array.shape[1:] != first[name].shape[1:] for other in inputs[1:] for name, array in other.items()):
            return [self._answer(request) for request in requests]
        try:
            together = {name: np.concatenate([one[name] for one in inputs]) for name in first}
            outputs = self.session.run(names, together)
        except Exception:
            # One bad request must not fail its neighbours.
            return [self._answer(request) for request in requests]
        responses, start = [], 0
        for request, one in zip(requests, inputs):
            end = start + len(one[self.input_names[0]])
            wanted = set(self._wanted(request))
            kept = [(name, output[start:end]) for name, output in zip(names, outputs) if name in wanted]
            responses.append(self._response(*zip(*kept)))
            start = end
        return responses

    def finalize(self):
        """Free the session."""
        self.session = None
