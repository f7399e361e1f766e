"""What a public checkpoint layout is, and how its tensors become an encoder's, strictly."""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from islr.errors import UserError
from islr.models.encoder import Encoder
from islr.models.weights import load_state

State = dict[str, Tensor]
NAMES_SHOWN = 10  # of the tensors that do not fit, in an error


def _as_it_is(state: State) -> State:
    return state


def _nothing(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Layout:
    """The names under which one public project writes an encoder's weights.

    All patterns are regular expressions that must match a whole name.

    Attributes:
        name: What `--from` takes.
        source: Which project and which of its files.
        families: Registry names it can be imported into, as shell patterns.
        marks: A state dict is of this layout when each of these matches one of its names
        absent: and none of these does: marks of a layout that has these names too.
        rules: (pattern, our name) pairs; the first match wins; `\\1` refers to groups.
        left: The file's names that the encoder has no place for: heads, decoders, constants. They stay behind.
        fresh: Our names that such a file does not hold; they keep the values they were made with.
        entries: Where the state dict lies in the file, outermost first wins; the file itself when none is there.
        prefixes: Taken off the front of every name that starts with one, in this order.
        prepare: Joins, splits and reshapes tensors under the file's names, before the rules.
        arguments: What the tensors, under their names without `prefixes`, say about the encoder's arguments, such
            as its form or its pixels' range.
    """

    name: str
    source: str
    families: tuple[str, ...]
    marks: tuple[str, ...]
    rules: tuple[tuple[str, str], ...]
    absent: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    prepare: Callable[[State], State] = _as_it_is
    arguments: Callable[[Mapping[str, Tensor]], dict[str, Any]] = _nothing

    def fits(self, architecture: str) -> bool:
        """Whether files of this layout can be imported into an encoder of this registry name."""
        return any(fnmatch.fnmatch(architecture, pattern) for pattern in self.families)

    def strip(self, state: Mapping[str, Tensor]) -> State:
        """Return the state dict without the prefixes that wrappers put in front of names."""
        stripped = dict(state)
        for prefix in self.prefixes:
            stripped = {name.removeprefix(prefix): value for name, value in stripped.items()}
        return stripped

    def matches(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a state dict is of this layout."""
        names = self.strip(state)

        def has(mark: str) -> bool:
            return any(re.fullmatch(mark, name) for name in names)

        return all(has(mark) for mark in self.marks) and not any(has(mark) for mark in self.absent)


class Renamed(NamedTuple):
    """An encoder's `tensors` under our names, and those `left` behind under the file's."""

    tensors: State
    left: State


def rename(state: Mapping[str, Tensor], layout: Layout, where: str) -> Renamed:
    """Rename a foreign state dict's tensors to the encoder's names.

    Args:
        state: As read from the file's entry.
        layout: Of the file.
        where: Names the file in errors.

    Raises:
        UserError: Names that no rule and no `left` pattern covers.
    """
    rules = [(re.compile(pattern), name) for pattern, name in layout.rules]
    left = re.compile("|".join(layout.left)) if layout.left else None
    tensors: State = {}
    beside: State = {}
    unknown = []
    for name, value in layout.prepare(layout.strip(state)).items():
        match = next(((rule, found) for rule, found in ((r, r[0].fullmatch(name)) for r in rules) if found), None)
        if match:
            (_, target), found = match
            tensors[found.expand(target)] = value
        elif left and left.fullmatch(name):
            beside[name] = value
        else:
            unknown.append(name)
    if unknown:
        raise UserError(f"{where}: layout {layout.name} has no tensors of these names: {shown(unknown)}")
    return Renamed(tensors, beside)


def load_layout(encoder: Encoder, state: Mapping[str, Tensor], layout: Layout, where: str) -> Renamed:
    """Fill an encoder from a foreign state dict, strictly: what is unexpected or missing must be declared.

    Args:
        encoder: Filled in place.
        state: As read from the file's entry.
        layout: Of the file.
        where: Names the file in errors.

    Raises:
        UserError: Names what is neither known to the layout nor declared, or has another shape.
    """
    renamed = rename(state, layout, where)
    absent = set(encoder.state_dict()) - renamed.tensors.keys()
    allowed = [name for name in absent if any(re.fullmatch(pattern, name) for pattern in layout.fresh)]
    load_state(encoder, renamed.tensors, where, allow_missing=allowed)
    return renamed


def shown(names: Iterable[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - NAMES_SHOWN} more" if len(listed) > NAMES_SHOWN else ""
    return ", ".join(listed[:NAMES_SHOWN]) + more
