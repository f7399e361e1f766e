"""A reader of arrays in pickle files that runs no code of the file.

A pickle is a program. The only names it may use here are those that numpy writes for an array and its dtype, and they
stand for the small classes below, which check their arguments. Everything else in the file must be plain Python values.
"""

import math
import pickle
import struct
from typing import Any

import numpy as np

from islr.untrusted.pickle_files import BoundedUnpickler

_KINDS = ("f", "i", "u", "b")  # numbers; no objects, no structures
_MOST_DIMENSIONS = 8


class _Dtype:
    """The stand-in for numpy.dtype: its code and byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or code[:1] not in _KINDS or not code[1:].isdecimal():
            shown = repr(code[:20]) if isinstance(code, str) else type(code).__name__
            raise pickle.UnpicklingError(f"an array of {shown}; only numbers are read")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("an array's dtype has an unknown state")
        self.order = state[1]

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array:
    """The stand-in for numpy.ndarray; the array exists once its state is known."""

    values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array has an unknown state")
        _, shape, dtype, by_column, content = state
        self.values = _values(content, dtype, shape, "F" if by_column else "C")


def _reconstruct(*_: Any) -> _Array:
    # numpy would allocate any shape that the file names; the array's state repeats the shape, with content.
    return _Array()


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> _Array:
    array = _Array()
    array.values = _values(content, dtype, shape, order)
    return array


def _values(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(content, bytes | bytearray) or not isinstance(dtype, _Dtype) or order not in ("C", "F"):
        raise pickle.UnpicklingError("an array's content is not plain bytes of numbers")
    if (
        not isinstance(shape, tuple)
        or len(shape) > _MOST_DIMENSIONS
        or not all(isinstance(n, int) and n >= 0 for n in shape)
    ):
        raise pickle.UnpicklingError("an array has an impossible shape")
    kind = dtype.numpy()
    if math.prod(shape) * kind.itemsize != len(content):
        raise pickle.UnpicklingError("an array's shape does not fit its content")
    return np.frombuffer(content, kind).reshape(shape, order=order)


_ALLOWED: dict[tuple[str, str], Any] = {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype}
for _core in ("numpy.core", "numpy._core"):  # the name before and since numpy 2
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _frombuffer


class _Unpickler(BoundedUnpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}; only arrays of numbers are read") from None


def load_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Read the arrays of a pickled dict from names to arrays of numbers.

    Raises:
        ValueError: The content is anything else, or names anything but arrays; none of its code has run.
    """
    try:
        stored = _Unpickler(content).load()
    except (
        *(pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError),
        *(
            OverflowError,
            MemoryError,
            RecursionError,
            struct.error,
            UnicodeError,
        ),  # other errors of a forged stream of opcodes
    ) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
    if not isinstance(stored, dict):
        raise ValueError("it is not a dict of arrays")
    arrays = {key: value.values for key, value in stored.items() if isinstance(key, str) and isinstance(value, _Array)}
    return {key: values for key, values in arrays.items() if values is not None}
