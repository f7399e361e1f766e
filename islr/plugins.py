"""Plug-ins: encoders, recipes and corpora of other packages, or of one file.

A package lists them in the entry-point groups `islr.encoders`, `islr.recipes` and `islr.corpora`; a file is named as
`path/to/file.py:Name`.
"""

import difflib
import importlib.util
import sys
from collections.abc import Collection
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from islr.errors import UserError, one_line
from islr.files import file_sha256

Kind = Literal["encoder", "recipe", "corpus"]
GROUPS: dict[Kind, str] = {"encoder": "islr.encoders", "recipe": "islr.recipes", "corpus": "islr.corpora"}
_USED: dict[str, str] = {}  # package or file -> version or hash, of the plug-ins that this process has loaded


@cache
def listed(kind: Kind) -> dict[str, EntryPoint]:
    """Return the plug-ins that installed packages list, by name; none of them is imported.

    Raises:
        UserError: Two packages list one name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUPS[kind]):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise UserError(
                f"packages {origin(other)} and {origin(entry)} both list the {kind} '{entry.name}'; uninstall one"
            )
    return dict(sorted(found.items()))


def origin(entry: EntryPoint) -> str:
    """Return the package that lists an entry point, with its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.module


def origin_of(kind: Kind, name: str) -> str:
    """Return where a plug-in comes from: package and version, or a file with its hash; empty for built-in names."""
    if _is_file(name):
        return f"file {_file_hash(name)}"
    return origin(listed(kind)[name]) if name in listed(kind) else ""


def find(kind: Kind, name: str, known: Collection[str]) -> Any:
    """Return the plug-in of a name that is not built in.

    Args:
        kind: What it is.
        name: Of an entry point, or `path/to/file.py:Name`.
        known: The built-in names, for the message.

    Raises:
        UserError: There is none (the nearest names are listed), or it cannot be imported.
    """
    if _is_file(name):
        found = _from_file(name)
        _USED[name] = _file_hash(name)
        return found
    plugins = listed(kind)
    if name not in plugins:
        names = sorted({*known, *plugins})
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"unknown {'model' if kind == 'encoder' else kind} '{name}'; {hint}known: {', '.join(names)}")
    entry = plugins[name]
    try:
        found = entry.load()
    except Exception as error:  # whatever another package's import raises
        raise UserError(
            f"{kind} '{name}' of package {origin(entry)} cannot be imported: {type(error).__name__}: {one_line(error)}"
        ) from error
    if entry.dist is not None:
        _USED[entry.dist.name] = entry.dist.version
    return found


def used() -> dict[str, str]:
    """Return the packages and files of the plug-ins that this process has loaded, with version or hash."""
    return dict(_USED)


def _is_file(name: str) -> bool:
    return ".py:" in name


def _file_hash(name: str) -> str:
    return file_sha256(Path(name.rpartition(":")[0]))[:12]


def _from_file(name: str) -> Any:
    path, _, attribute = name.rpartition(":")
    module = _module(Path(path).resolve())
    if not hasattr(module, attribute):
        public = [key for key in vars(module) if not key.startswith("_")]
        near = difflib.get_close_matches(attribute, public, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(f"{path} defines no '{attribute}'{hint}")
    return getattr(module, attribute)


@cache
def _module(path: Path) -> ModuleType:
    """Import a file once, under a name of its own."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    name = f"islr_plugin_{path.stem}_{file_sha256(path)[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look a class's module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file's code raises
        del sys.modules[name]
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {one_line(error)}") from error
    return module
