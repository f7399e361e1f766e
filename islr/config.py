"""Typed, strict, frozen configuration, resolved once by a pure function.

Whatever is wrong with it (an unknown key, a wrong type, a value out of range, an impossible combination) is a
`UserError` of one line that names the key, the file and, for a misspelt key, the nearest valid one.
"""

import difflib
import hashlib
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import pydantic
import yaml

from islr.config_files import read_tree
from islr.errors import UserError

C = TypeVar("C", bound="Config")


class Config(pydantic.BaseModel):
    """Base of every configuration object: unknown keys are refused and values never change."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)


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
        raise UserError(f"{where}: {_explain(schema, error)}") from error


def _explain(schema: type[Config], error: pydantic.ValidationError) -> str:
    problems = error.errors(include_url=False)
    # An unknown key often causes a "missing" one; naming the unknown key is what helps.
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    parts = [str(part) for part in first["loc"]]
    groups = list(_groups_along(schema, parts[:-1]))
    key = ".".join(part for part in parts if part not in _union_tags(schema))
    if first["type"] == "extra_forbidden":
        names = sorted({name for group in groups[-1:] for name in group.model_fields})
        near = difflib.get_close_matches(parts[-1], names, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys here: {', '.join(names)}"
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


def _union_tags(schema: type[Config]) -> set[str]:
    """Values of `name` literals inside `schema`: pydantic puts a union's chosen tag into the error's location."""
    tags: set[str] = set()
    for field in schema.model_fields.values():
        for model in _models_in(Annotated[field.annotation, "field"] if field.annotation else None):
            tags |= (
                {str(tag) for tag in get_args(model.model_fields["name"].annotation)}
                if "name" in (model.model_fields)
                else set()
            )
    return tags


def _groups_along(schema: type[Config], parts: Sequence[str]) -> Iterator[type[Config]]:
    yield schema
    candidates: list[type[Config]] = [schema]
    for part in parts:
        inner: list[type[Config]] = []
        for candidate in candidates:
            if part in candidate.model_fields:
                inner += list(_models_in(candidate.model_fields[part].annotation))
            elif part in {str(t) for t in get_args(getattr(candidate.model_fields.get("name"), "annotation", None))}:
                inner.append(candidate)
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
