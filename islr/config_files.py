"""Configuration files: YAML with a `base:` chain and `key.path=value` overrides, as plain nested dicts."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from islr.errors import UserError, one_line

TASKS = ("pretrain", "finetune", "probe", "bench")
SWEEPS = "sweeps"  # folder of files that `wandb sweep` reads
BASE_KEY = "base"
_DEEPEST, _LONGEST_CHAIN = 60, 32  # groups inside groups, and `base:` files
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # no file name or text file can hold them
_MOST_NODES = 100_000  # values of a file once its aliases are written out
# YAML 1.1, which PyYAML speaks, reads `1e-4` as text; people who write learning rates mean a number.
_FLOAT = re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    """Safe YAML that also refuses a key written twice and reads `1e-4` as a float."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool):
            raise yaml.constructor.ConstructorError(None, None, "keys must be plain text", key_node.start_mark)
        if key in keys:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is written twice", key_node.start_mark)
        keys.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text safely.

    Raises:
        UserError: The text is not valid YAML; the message names `where` and the line.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark is not None else ""
        raise UserError(f"{where}:{line} not valid YAML ({getattr(error, 'problem', None) or error})") from error
    except RecursionError as error:
        raise UserError(f"{where}: nested more than {_DEEPEST} deep") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        # PyYAML lets through what Python says of `!!int x` or of a date that is none.
        raise UserError(f"{where}: a value that does not fit its YAML tag ({one_line(error)})") from error


def _check_size(root: yaml.Node) -> None:
    """Refuse a document that is deep, or that aliases make much larger than its text.

    Raises:
        ConstructorError: Names the line.
    """
    sizes: dict[int, int] = {}  # id of a node -> number of nodes it stands for

    def size(node: yaml.Node, depth: int) -> int:
        if depth > _DEEPEST:
            raise yaml.constructor.ConstructorError(None, None, f"nested more than {_DEEPEST} deep", node.start_mark)
        if id(node) not in sizes:
            sizes[id(node)] = _MOST_NODES  # a node inside itself
            value = node.value if isinstance(node.value, list) else []
            inner = [part for item in value for part in (item if isinstance(item, tuple) else (item,))]
            sizes[id(node)] = 1 + sum(size(part, depth + 1) for part in inner)
        if sizes[id(node)] > _MOST_NODES:
            problem = f"aliases make more than {_MOST_NODES:,} values"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        if isinstance(node.value, str) and _UNWRITABLE.search(node.value):
            problem = "a NUL or half a character"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return sizes[id(node)]

    size(root, 0)


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


def title_of(path: Path) -> str:
    """Return what a config file is for: the first sentence of the comment that it begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or re.match(r"#\s*(Command|Hardware|Data|Batch|Departs)", line):
            break
        lines.append(line.removeprefix("#").strip())
    return re.split(r"(?<=[^.A-Z][.]) ", " ".join(lines))[0].removesuffix(".")


def read_task(task: str, path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """As `read_tree`, for a command that runs one task; it is refused before anything slow is imported.

    Raises:
        UserError: As `read_tree`, and the configuration is one of another task.
    """
    tree = read_tree(path, overrides)
    given = tree.get("task", task)
    if given != task:
        other = f"; `islr {given} {path}` runs it" if given in TASKS else ""
        raise UserError(f"{path}: a configuration of task {given!r}, not {task!r}{other}")
    return tree


def read_tree(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a config file with its `base:` chain and apply overrides; plain nested dicts, nothing validated yet.

    Args:
        path: The config file; `base:` inside it is relative to it or a shipped config's name.
        overrides: `a.b=value` strings; the value is read as YAML.

    Raises:
        UserError: The file is missing, broken, not a mapping, or part of a `base:` cycle; an override has no `=`.
    """
    return _overridden(_read_chain(find_config(path), ()), overrides)


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the tree that `a.b=value` strings alone make; raises as `read_tree`."""
    return _overridden({}, overrides)


def override(key: str, value: str | Sequence[str]) -> str:
    """Return the `key=value` string that sets a key to exactly this text or these texts, whatever is in them."""
    if isinstance(value, str):
        try:
            if _value_of(value, key) == value:
                return f"{key}={value}"
        except UserError:
            pass
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _overridden(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set what the overrides say in a tree, and return the tree."""
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"override '{text}' is not of the form key.path=value")
        node = tree
        *parents, leaf = key.strip().split(".")
        if len(parents) > _DEEPEST:
            raise UserError(f"override of {len(parents) + 1} keys in a row; configurations are not so deep")
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise UserError(f"override '{text}': '{parent}' holds a value, not a group of keys")
            node = child
        node[leaf] = _value_of(value, f"override '{text}'")
    return tree


def _value_of(text: str, where: str) -> Any:
    """Read the value of an override as YAML without comments: `data #2` is a name, not `data` and a remark."""
    value = parse_yaml(text, where)
    node = yaml.compose(text, Loader=_Loader)
    if node is None:
        return text.strip() or None
    if not text[node.end_mark.index :].strip():
        return value
    if isinstance(node, yaml.ScalarNode) and node.style is None:
        return text.strip()
    raise UserError(f"{where}: what follows ' #' would be a comment; put a value that holds it in quotes")


def _read_chain(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise UserError(f"{path}: its base: chain comes back to itself")
    if len(seen) >= _LONGEST_CHAIN:
        raise UserError(f"{path}: its base: chain has more than {_LONGEST_CHAIN} files")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
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
