"""Imports go one way, and every recipe and configuration is where the rules say."""

import ast
from pathlib import Path

import pytest
from support.paths import CHECKOUT

from islr.config_files import shipped_configs
from pretrain import RECIPES

FORBIDDEN = {"islr": {"pretrain", "probe"}, "pretrain": {"probe"}, "probe": {"pretrain"}}
# The composition root: imports inside its commands.
ROOT = Path("islr/cli.py")


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_go_one_way(package: str) -> None:
    files = sorted((CHECKOUT / package).rglob("*.py"))
    assert files
    for path in files:
        if path.relative_to(CHECKOUT) == ROOT:
            continue
        assert not _imports(path) & FORBIDDEN[package], path


@pytest.mark.parametrize(
    "library", ["decord", "wandb", "pytorchvideo", "mediapipe", "pose_format", "pyarrow", "torchcodec"]
)
def test_a_library_that_could_rot_has_one_door(library: str) -> None:
    users = [
        path.relative_to(CHECKOUT).as_posix()
        for package in FORBIDDEN
        for path in (CHECKOUT / package).rglob("*.py")
        if library in _imports(path)
    ]
    assert len(users) <= 1, users


@pytest.mark.parametrize(
    "file", ["islr/cli.py", "islr/commands/data.py", "islr/commands/poses.py", "islr/commands/models.py"]
)
def test_help_imports_nothing_heavy(file: str) -> None:
    top = ast.parse((CHECKOUT / file).read_text(encoding="utf-8")).body
    names = {
        name
        for node in top
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    } - {"islr.commands.data", "islr.commands.poses"}
    assert not {name for name in names if name.startswith(("torch", "numpy", "islr.data", "pretrain", "probe"))}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_has_its_name_and_a_shipped_configuration(name: str) -> None:
    assert RECIPES[name].Config.model_fields["name"].default == name
    assert any(f"name: {name}" in path.read_text(encoding="utf-8") for path in shipped_configs().values())
