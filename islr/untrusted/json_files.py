"""Json parsed by a schema, so that whatever is wrong with it has a name."""

import stat
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import pydantic

from islr.errors import UserError

MAX_JSON_BYTES = 1 << 30  # of a file; the largest of ours, a manifest's, has some 100 bytes a class

_MOST = 2**53  # the whole numbers that a double holds exactly


def _moderate(value: Any) -> Any:
    """Refuse numbers that cannot be printed or computed with, anywhere in a value."""
    if isinstance(value, int | float) and not abs(value) <= _MOST:
        raise ValueError("a number is not finite, or beyond 2^53")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _moderate(inner)
    return value


Count = Annotated[int, pydantic.Field(ge=0, le=_MOST)]
Number = Annotated[float, pydantic.Field(ge=-_MOST, le=_MOST)]
Plain = Annotated[Any, pydantic.AfterValidator(_moderate)]
Facts = dict[str, Plain]  # names -> plain values of any kind


def refuse_special(path: Path) -> None:
    """Refuse what reading might wait for, such as a pipe or a device.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It is no regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path}: not a regular file")


@lru_cache(maxsize=64)
def _adapter(schema: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(schema)


def parse_json(schema: Any, text: str | bytes, where: str) -> Any:
    """Return the value in a json text, checked by a type or a pydantic model.

    Raises:
        UserError: Not json, too deeply nested, or of other keys and types; the message names `where` and the place.
    """
    try:
        return _adapter(schema).validate_json(text)
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {_first_of(error)}") from error


def check_facts(model: type[pydantic.BaseModel], facts: Any, where: str) -> dict[str, Any]:
    """Return a mapping as it is, after checking by a strict model what of it will be used.

    Raises:
        UserError: A key is missing or of another type; the message names `where` and the key.
    """
    try:
        model.model_validate(facts, strict=True)
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {_first_of(error)}") from error
    checked: dict[str, Any] = facts
    return checked


def _first_of(error: pydantic.ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = " ".join(first["msg"].removeprefix("Value error, ").split())
    if first["type"] == "json_invalid":
        message = f"not valid json ({message.removeprefix('Invalid JSON: ')})"
    return f"{place}: {message}" if place else message


def read_json(schema: Any, path: Path) -> Any:
    """Return what `parse_json` makes of a file.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It is no regular file, cannot be read, or see `parse_json`.
    """
    try:
        refuse_special(path)
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise UserError(f"{path}: {size:,} bytes are too many for a json file")
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read ({error})") from error
    return parse_json(schema, content, str(path))
