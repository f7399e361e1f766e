"""Typed, strict, frozen configuration: YAML with a `base:` chain and `key.path=value` overrides.

A config file is resolved once, by a pure function, into a frozen pydantic object. Whatever is wrong with it
(an unknown key, a wrong type, a value out of range, an impossible combination) is a `UserError` of one line that
names the key, the file and, for a misspelt key, the nearest valid one.
"""

import difflib
import hashlib
import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import pydantic
import yaml

from islr.errors import UserError

C = TypeVar("C", bound="Config")

SWEEPS = "sweeps"  # folder of files that `wandb sweep` reads
BASE_KEY = "base"
# YAML 1.1, which PyYAML speaks, reads `1e-4` as text; people who write learning rates mean a number.
_FLOAT = re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")


class Config(pydantic.BaseModel):
    """Base of every configuration object: unknown keys are refused and values never change."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)


class _Loader(yaml.SafeLoader):
    """Safe YAML that also refuses a key written twice and reads `1e-4` as a float."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool):
            raise yaml.constructor.ConstructorError(None, None, "keys must be plain words", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is written twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text safely.

    Raises:
        UserError: The text is not valid YAML; the message names `where` and the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark is not None else ""
        raise UserError(f"{where}:{line} not valid YAML ({getattr(error, 'problem', None) or error})") from error


def find_config(path: str | Path) -> Path:
    """Find a config file: as given, or among the configs shipped with the package (`smoke/maskfeat.yaml`).

    Raises:
        UserError: No such file; the message lists the nearest shipped names.
    """
    given = Path(path)
    if given.is_file():
        return given
    shipped = shipped_configs()
    name = given.as_posix().removeprefix("configs/")
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=3, cutoff=0.4)
    hint = f"; shipped configs with near names: {', '.join(near)}" if near else ""
    raise UserError(f"config file {given} does not exist{hint}")


def shipped_configs() -> dict[str, Path]:
    """Relative name -> file of every config shipped with the package (or in this checkout); sweeps are wandb's."""
    package = Path(str(resources.files("islr")))
    for root in (package / "configs", package.parent / "configs"):
        if root.is_dir():
            files = [file for file in sorted(root.rglob("*.yaml")) if file.parent.name != SWEEPS]
            return {file.relative_to(root).as_posix(): file for file in files}
    return {}


def read_tree(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a config file with its `base:` chain and apply overrides; plain nested dicts, nothing validated yet.

    Args:
        path: The config file; `base:` inside it is relative to it or a shipped config's name.
        overrides: `a.b=value` strings; the value is read as YAML.

    Raises:
        UserError: The file is missing, broken, not a mapping, or part of a `base:` cycle; an override has no `=`.
    """
    return _override(_read_chain(find_config(path), ()), overrides)


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """The tree that `a.b=value` strings alone make; raises as `read_tree`."""
    return _override({}, overrides)


def _override(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise UserError(f"override '{override}' is not of the form key.path=value")
        value = parse_yaml(text, f"override '{override}'")
        node = tree
        *parents, leaf = key.strip().split(".")
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise UserError(f"override '{override}': '{parent}' holds a value, not a group of keys")
            node = child
        node[leaf] = value
    return tree


def _read_chain(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise UserError(f"{path}: its base: chain comes back to itself")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from error
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a config file is a mapping of keys to values, this one is {type(tree).__name__}")
    base = tree.pop(BASE_KEY, None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"{path}: base: must be the name of one config file")
    beside = path.parent / base
    return merge(_read_chain(beside if beside.is_file() else find_config(base), (*seen, path.resolve())), tree)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, group by group; lists and plain values are replaced whole."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


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
