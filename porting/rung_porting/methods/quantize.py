"""Static INT8 quantisation by ONNX Runtime: weights per channel, activations by ranges seen on calibration samples."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rung_porting.errors import PortingError


def quantize(model: Path, quantized: Path, inputs: npt.NDArray[np.float32], input_name: str) -> None:
    """Write the INT8 version of an ONNX file.

    Args:
        model: the float version.
        quantized: where the INT8 version goes.
        inputs: calibration samples (count, *shape), float32.
        input_name: of the model's input.

    Raises:
        PortingError: ONNX Runtime can't quantise it.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[Any] = iter(np.array_split(inputs, max(1, len(inputs) // 16)))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.left, None)
            return None if part is None else {input_name: part}

    logging.getLogger().setLevel(logging.ERROR)  # the quantiser speaks on the root logger
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(quantized),
                Reader(),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
        except Exception as error:  # onnxruntime's errors share no base class
            raise PortingError(f"INT8 quantisation fails: {type(error).__name__}: {str(error)[:300]}") from None
