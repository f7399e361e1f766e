"""Named sizes of an encoder family, as data."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from islr.models.encoder import Encoder


@dataclass(frozen=True)
class Preset:
    """One named size: calling it builds the encoder, and its signature lists the arguments that `create_model` takes.

    Attributes:
        family: The encoder's class, or a function that builds one.
        defaults: The arguments a caller may change, with their defaults.
        sizes: The remaining arguments of `family`, which the name stands for.
    """

    family: Callable[..., Encoder]
    defaults: Mapping[str, Any]
    sizes: Mapping[str, Any]

    @property
    def __signature__(self) -> inspect.Signature:
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature(
            [inspect.Parameter(name, kind, default=value) for name, value in self.defaults.items()]
        )

    def __call__(self, **arguments: Any) -> Encoder:
        """Build the encoder."""
        return self.family(**self.sizes, **{**self.defaults, **arguments})
