"""What is sent: a small set of requests for each stream, serialised before the first one leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rung_loadgen.kserve import ServerError, TensorSpec, numpy_dtype, serialise_request

MAX_EXAMPLES = 256
"""Most requests kept serialised for a stream."""


def random_requests(
    model: str, specs: Sequence[TensorSpec], rng: np.random.Generator, count: int = 16, free_size: int = 1
) -> tuple[bytes, ...]:
    """Return `count` serialised requests of random values; a free dimension (the batch's, mostly) gets `free_size`.

    Floats are standard normal, integers 0 to 15, booleans even. Raises ServerError for types that can't be made up.
    """
    made = []
    for _ in range(count):
        tensors: dict[str, npt.NDArray[Any]] = {}
        for spec in specs:
            shape = tuple(free_size if size < 0 else size for size in spec.shape)
            dtype = numpy_dtype(spec, model)
            if dtype.kind == "f":
                tensors[spec.name] = rng.standard_normal(shape).astype(dtype)
            else:
                tensors[spec.name] = rng.integers(0, 2 if dtype.kind == "b" else 16, shape).astype(dtype)
        made.append(serialise_request(model, specs, tensors))
    return tuple(made)


def requests_from_file(model: str, specs: Sequence[TensorSpec], path: Path) -> tuple[bytes, ...]:
    """Return serialised requests of given data: an .npz with one array an input, of shape (examples, *input shape).

    Arrays may lack the batch dimension: (examples, 1, 8, 8) feeds an input of shape (-1, 1, 8, 8) one by one.
    The first 256 examples are used. Raises ServerError that says what is wrong with the file.
    """
    try:
        # Pickled objects would run code from the file.
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, npt.NDArray[Any]] = {name: archive[name][:MAX_EXAMPLES] for name in archive.files}
    except (OSError, ValueError, AttributeError) as error:
        raise ServerError(f"{path}: no .npz file of plain arrays: {error}") from None
    missing = [spec.name for spec in specs if spec.name not in arrays]
    if missing:
        raise ServerError(f"{path}: model {model!r} takes {missing}, the file has {sorted(arrays)}")
    counts = {arrays[spec.name].shape[:1] for spec in specs}
    if len(counts) != 1 or not all(counts) or min(counts) == (0,):
        raise ServerError(f"{path}: every array needs the same number of examples, at least one")
    return tuple(
        serialise_request(model, specs, {spec.name: _example(arrays[spec.name][index], spec) for spec in specs})
        for index in range(counts.pop()[0])
    )


def _example(array: npt.NDArray[Any], spec: TensorSpec) -> npt.NDArray[Any]:
    return array[np.newaxis] if array.ndim == len(spec.shape) - 1 and spec.shape[0] in (-1, 1) else array
