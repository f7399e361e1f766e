"""An interpreter of pickles that names nothing by itself and whose work grows with the file alone.

Python hashes a tuple by hashing its items again, so a few hundred bytes of nested tuples, used as a key, take for ever.
Here every key is checked before it is hashed.
"""

import io
import pickle
import struct
from collections.abc import Iterable
from typing import Any, ClassVar

_PLAIN_KEYS = (str, int, float, bool, bytes, type(None))
_LONGEST_KEY = 16  # items of a tuple that is a key
_WORK_PER_BYTE, _LEAST_WORK = 4, 1000  # arguments that calls of a pickle may have in all


def check_keys(keys: Iterable[Any]) -> None:
    """Refuse keys that are neither plain values nor short tuples of them.

    Raises:
        pickle.UnpicklingError: One of them is not.
    """
    for key in keys:
        short = type(key) is tuple and len(key) <= _LONGEST_KEY
        if not (isinstance(key, _PLAIN_KEYS) or (short and all(isinstance(part, _PLAIN_KEYS) for part in key))):
            raise pickle.UnpicklingError(f"a {type(key).__name__} is the key of a mapping or the member of a set")


# The interpreter in Python can be watched, that in C cannot; its stubs hide what it is made of.
_Interpreter: Any = pickle._Unpickler


class BoundedUnpickler(_Interpreter):
    """Python's own interpreter; a subclass says in `find_class` what a pickle may name."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Interpreter.dispatch)

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._work_left = _WORK_PER_BYTE * len(content) + _LEAST_WORK

    def _since_mark(self) -> list[Any]:
        """Return what lies on the stack since the last mark."""
        return list(self.stack)

    def load_dict(self) -> None:
        check_keys(self._since_mark()[::2])
        super().load_dict()

    def load_setitem(self) -> None:
        check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        check_keys(self._since_mark()[::2])
        super().load_setitems()

    def load_additems(self) -> None:
        check_keys(self._since_mark())
        super().load_additems()

    def load_frozenset(self) -> None:
        check_keys(self._since_mark())
        super().load_frozenset()

    def load_reduce(self) -> None:
        arguments = self.stack[-1]
        self._work_left -= len(arguments) if isinstance(arguments, tuple) else 0
        if self._work_left < 0:
            raise pickle.UnpicklingError("the same arguments are used over and over")
        super().load_reduce()

    def load_build(self) -> None:
        # Without it, the interpreter would set attributes of whatever lies on the stack, our own functions included.
        if not hasattr(type(self.stack[-2]), "__setstate__"):
            raise pickle.UnpicklingError("a state for something that has none")
        super().load_build()

    def load_bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))  # never as long as is only declared

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset
