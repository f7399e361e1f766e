"""Order of the rooms inside `islr/data`: a room imports only rooms that stand before it in `ORDER`."""

import ast
from pathlib import Path

import islr.data

ROOT = Path(islr.data.__file__).parent
ORDER = ("manifest", "labels", "phonology", "video", "poses", "packs", "views", "loading", "corpora", "fetch", "audit")


def imported_rooms(file: Path) -> set[str]:
    """Return the rooms of `islr.data` that a file imports."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("islr.data"):
            parts = f"{node.module}".split(".")[2:]
            rooms |= {parts[0]} if parts else {alias.name for alias in node.names}
    return rooms


def test_every_room_has_a_place() -> None:
    found = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert found - {"__init__", "__pycache__"} == set(ORDER)


def test_no_room_imports_one_above_it() -> None:
    upward = []
    for file in sorted(ROOT.rglob("*.py")):
        room = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other in imported_rooms(file) - {room}:
            if ORDER.index(other) > ORDER.index(room):
                upward.append(f"{file.relative_to(ROOT)} imports {other}")
    assert not upward
