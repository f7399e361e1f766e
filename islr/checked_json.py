"""Json that was written elsewhere, or long ago: parsed by a schema, so that whatever is wrong with it has a name."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pydantic

from islr.errors import UserError

_MOST_BYTES = 2**30  # of a file; the largest of ours, a manifest's, has some 100 bytes a clip


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
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = " ".join(first["msg"].removeprefix("Value error, ").split())
        raise UserError(f"{where}: {place + ': ' if place else ''}{message}") from error


def read_json(schema: Any, path: Path) -> Any:
    """Return what `parse_json` makes of a file.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It is no regular file, cannot be read, or see `parse_json`.
    """
    try:
        status = path.stat()
        if not path.is_file():
            raise UserError(f"{path}: not a regular file")
        if status.st_size > _MOST_BYTES:
            raise UserError(f"{path}: {status.st_size:,} bytes are too many for a json file")
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    return parse_json(schema, content, str(path))
