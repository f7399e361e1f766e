"""Typed, strict, frozen configuration, resolved once by a pure function.

Whatever is wrong with it (an unknown key, a wrong type, a value out of range, an impossible combination) is a
`UserError` of one line that names the key, the file and, for a misspelt key, the nearest valid one.
"""

import difflib
import hashlib
import json
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import pydantic
import yaml
from pydantic_core import core_schema

from islr.config_files import read_tree
from islr.errors import UserError

C = TypeVar("C", bound="Config")


class Config(pydantic.BaseModel):
    """Base of every configuration object: unknown keys are refused and values never change."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        """Refuse `on` where a number belongs, which Python would take for 1."""
        several = isinstance(value, list | tuple)
        truth = any(isinstance(item, bool) for item in value) if several else isinstance(value, bool)
        if truth and info.field_name and not _takes_truth(cls.model_fields[info.field_name].annotation):
            raise ValueError("'on', 'off', 'yes', 'no', 'true' and 'false' are truth values; put a name in quotes")
        return value


def _takes_truth(annotation: Any) -> bool:
    """Return whether a truth value may stand somewhere in a field of this type."""
    if annotation in (bool, Any) or (isinstance(annotation, type) and issubclass(annotation, bool)):
        return True
    return any(_takes_truth(inner) for inner in get_args(annotation) if not isinstance(inner, str))


@dataclass(frozen=True)
class ChosenByName:
    """Marks a field whose class depends on the key `name` inside it; a plug-in may bring the class.

    Attributes:
        find: Name -> class; raises `UserError` for an unknown one.
        known: Returns the classes by name, for the JSON schema.
    """

    find: Callable[[str], type[Config]]
    known: Callable[[], Mapping[str, type[Config]]]

    def of(self, tree: Any) -> type[Config]:
        """Return the class for a group of keys.

        Raises:
            UserError: The key `name` is not set, or names nothing.
        """
        name = tree.get("name") if isinstance(tree, Mapping) else None
        if not isinstance(name, str):
            raise UserError(f"key 'name' is required; known: {', '.join(self.known())}")
        return self.find(name)

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> Any:
        """Validate a group of keys by the class that its name chooses, and serialise it as what it is."""
        base = handler(source)
        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, source) else self.of(value).model_validate(value),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value, info: value.model_dump(mode=info.mode), info_arg=True
            ),
            metadata={"pydantic_js_functions": [lambda _schema, inner: self._json_schema(base, inner)]},
        )

    def _json_schema(self, base: Any, handler: pydantic.GetJsonSchemaHandler) -> dict[str, Any]:
        """Return one alternative for each known name."""
        return {"oneOf": [handler(model.__pydantic_core_schema__) for model in self.known().values()]}


def load_config(schema: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Read, merge, override and validate a config file.

    Args:
        schema: The config class to build.
        path: A file, or the name of a shipped config.
        overrides: `a.b=value` strings.

    Raises:
        UserError: One line naming the key, the file and the nearest valid key.
    """
    return validate(schema, read_tree(path, overrides), str(path))


def validate(schema: type[C], tree: Mapping[str, Any], where: str) -> C:
    """Build `schema` from a plain tree; see `load_config`."""
    try:
        return schema.model_validate(tree)
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {_explain(schema, error, tree)}") from error


def _explain(schema: type[Config], error: pydantic.ValidationError, tree: Mapping[str, Any]) -> str:
    problems = error.errors(include_url=False)
    # An unknown key often causes a "missing" one; naming the unknown key is what helps.
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    parts = [str(part) for part in first["loc"]]
    groups = list(_groups_along(schema, parts[:-1], tree))
    key = ".".join(parts)
    if first["type"] == "extra_forbidden":
        names = sorted({name for group in groups[-1:] for name in group.model_fields})
        near = difflib.get_close_matches(parts[-1], names, n=1, cutoff=0.5)
        deeper = [] if near else sorted(_paths_to(schema, parts[-1], tree))
        hint = (
            f"did you mean '{' or '.join(near or deeper)}'?"
            if near or deeper
            else f"known keys here: {', '.join(names)}"
        )
        return f"unknown key '{key}'; {hint}"
    if first["type"] == "missing":
        return f"key '{key}' is required and not set"
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = "" if isinstance(given, dict | list | Config) else f" (given: {given!r})"
    return f"{key or 'config'}: {message}{shown}"


def _models_in(annotation: Any) -> Iterator[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, Annotated, list, tuple, dict):
        for inner in get_args(annotation):
            yield from _models_in(inner)


def _paths_to(schema: type[Config], leaf: str, tree: Any, above: str = "") -> Iterator[str]:
    """Yield the full names of the keys that are called `leaf` inside the groups of a configuration."""
    for name, field in schema.model_fields.items():
        if name == leaf and above:
            yield above + name
        part = tree.get(name) if isinstance(tree, Mapping) else None
        choices = [marker for marker in field.metadata if isinstance(marker, ChosenByName)]
        for inner in [choice.of(part) for choice in choices if part] or _models_in(field.annotation):
            yield from _paths_to(inner, leaf, part, f"{above}{name}.")


def _groups_along(schema: type[Config], parts: Sequence[str], tree: Any) -> Iterator[type[Config]]:
    """Yield the configuration classes on the way to a key."""
    yield schema
    candidates: list[type[Config]] = [schema]
    for part in parts:
        tree = tree.get(part) if isinstance(tree, Mapping) else None
        inner: list[type[Config]] = []
        for candidate in candidates:
            if part in candidate.model_fields:
                field = candidate.model_fields[part]
                choices = [marker for marker in field.metadata if isinstance(marker, ChosenByName)]
                inner += [choice.of(tree) for choice in choices] or list(_models_in(field.annotation))
        if inner:
            candidates = inner
            yield inner[0]


def dump_yaml(config: Config) -> str:
    """The resolved config as YAML, keys in declaration order; reading it back gives an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_hash(config: Config) -> str:
    """sha256 of the canonical JSON of a config."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def refuse_idle(config: Config, key: str, acts: bool, needs: str) -> None:
    """Refuse an option that was changed and cannot act. A run's `config.yaml` writes every default, which is no change.

    Raises:
        ValueError: Says with what the option acts.
    """
    if not acts and getattr(config, key) != type(config).model_fields[key].default:
        raise ValueError(f"{key} acts only with {needs}; leave {key} out")
