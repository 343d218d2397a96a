"""What is sent: a small set of requests for each stream, serialised before the first one leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rung_loadgen.kserve import ServerError, TensorSpec, numpy_dtype, serialise_request

MAX_EXAMPLES = 256
"""Most requests kept serialised for a stream."""
MAX_ELEMENTS = 16 * 1024 * 1024
"""Most elements of a tensor that is made up: more is a typing error, and would fill the memory of the client."""


def random_requests(
    model: str,
    specs: Sequence[TensorSpec],
    rng: np.random.Generator,
    count: int = 16,
    free_size: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[bytes, ...]:
    """Return `count` serialised requests of random values; a free dimension (the batch's, mostly) gets `free_size`.

    `shapes` gives the shape of inputs by name, with or without the batch dimension. Floats are standard normal,
    integers 0 to 15, booleans even, texts (BYTES) words of eight letters. Raises ServerError for types that can't be
    made up, for a shape that the model doesn't take and for an input that there isn't.
    """
    shapes = shapes or {}
    unknown = sorted(shapes.keys() - {spec.name for spec in specs})
    if unknown:
        raise ServerError(f"model {model!r} has no input {unknown}; it takes {[spec.name for spec in specs]}")
    made = []
    for _ in range(count):
        tensors = {
            spec.name: _random(_shape(spec, shapes.get(spec.name), free_size), numpy_dtype(spec, model), rng)
            for spec in specs
        }
        made.append(serialise_request(model, specs, tensors))
    return tuple(made)


def _shape(spec: TensorSpec, given: tuple[int, ...] | None, free_size: int) -> tuple[int, ...]:
    if given is None:
        shape = tuple(free_size if size < 0 else size for size in spec.shape)
    else:
        shape = (1, *given) if len(given) == len(spec.shape) - 1 and spec.shape[0] in (-1, 1) else given
    if math.prod(shape) > MAX_ELEMENTS:
        raise ServerError(f"input {spec.name!r} of shape {shape} has more than {MAX_ELEMENTS} elements")
    return shape


def _random(shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    if dtype.kind in "fV":  # V: bfloat16, which numpy knows as an extension
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "O":
        words = ["".join(map(chr, rng.integers(97, 123, 8))).encode() for _ in range(math.prod(shape))]
        return np.array(words, dtype=np.object_).reshape(shape)
    return rng.integers(0, 2 if dtype.kind == "b" else 16, shape).astype(dtype)


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
