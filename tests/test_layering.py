"""The structure of the code: floors, circles, doors to other libraries, sizes of files, and what the wheel holds."""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import CHECKOUT
from support.slow_tests import slow_tests

PARTS = ("islr", "pretrain", "probe")
# From the ground up. A module may import its own floor and those below; the longest prefix decides.
FLOORS = (
    ("islr",),  # config, processes, environment, progress, files, errors
    ("islr.data",),
    ("islr.models", "islr.synth"),
    ("islr.training",),
    ("islr.evaluation",),
    ("islr.checks", "islr.perf", "islr.reporting", "islr.study", "pretrain", "probe"),
    ("islr.commands",),
    ("islr.cli",),
    ("islr.__main__", "pretrain.__main__", "probe.__main__"),
)
APART = {"islr": {"pretrain", "probe"}, "pretrain": {"probe"}, "probe": {"pretrain"}}
COMPOSITION_ROOT = "islr.cli"  # puts the parts together, inside its commands
# Libraries that change or disappear under their users: imported in one file of ours each.
ONE_DOOR = ("decord", "jinja2", "mediapipe", "pose_format", "pytorchvideo", "submitit", "torchcodec", "wandb")
HEAVY = ("torch", "torchvision", "timm", "numpy", "scipy", "sklearn", "av", "cv2", "wandb")
DISTRIBUTIONS = {  # where the import has another name
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "sklearn": "scikit-learn",
    "pydantic_core": "pydantic",
    "yaml": "pyyaml",
}
ALTERNATIVES = {"decord2": "decord"}  # another distribution of the same module, declared for other machines
SEPARATE_ENVIRONMENT = {"mediapipe"}  # poses are extracted in an environment of their own
MOST_FILES = 12
MORE_FILES = {  # one entry of a registry a file
    "pretrain": "recipes",
    "islr/models": "encoders",
    "islr/models/layouts": "projects whose weights can be imported",
}
MOST_LINES, MOST_BODY = 400, 60
TAKEN_TWICE = {"GridCell"}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def _trees() -> dict[str, tuple[Path, ast.Module]]:
    """Every module of the project by its name."""
    paths = sorted(path for part in PARTS for path in (CHECKOUT / part).rglob("*.py"))
    return {_name(path): (path, ast.parse(path.read_text(encoding="utf-8"))) for path in paths}


def _imports(tree: ast.AST) -> Iterator[str]:
    """What a module imports, anywhere in it; `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "find_spec"):
            yield from (argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


@functools.cache
def _edges() -> dict[str, set[str]]:
    """The modules of ours that each module imports; importing a name of a package is no import of its siblings."""
    edges = {}
    for name, (_, tree) in _trees().items():
        found = {target for target in _imports(tree) if target in _trees()} - {name}
        edges[name] = {target for target in found if not any(other.startswith(f"{target}.") for other in found)}
    return edges


def _floor(name: str) -> int:
    fitting = [
        (len(prefix), level)
        for level, prefixes in enumerate(FLOORS)
        for prefix in prefixes
        if name == prefix or name.startswith(f"{prefix}.")
    ]
    return max(fitting)[1]


def _project() -> dict:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))


def _distributions(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() for line in requirements}


@functools.cache
def _third_party() -> dict[str, set[str]]:
    """Files that import each library, by the library's import name."""
    users: dict[str, set[str]] = {}
    for path, tree in _trees().values():
        for target in _imports(tree):
            library = target.partition(".")[0]
            if library not in {*PARTS, *sys.stdlib_module_names}:
                users.setdefault(library, set()).add(path.relative_to(CHECKOUT).as_posix())
    return users


def test_imports_go_down() -> None:
    up = [(a, b) for a, targets in _edges().items() for b in sorted(targets) if _floor(b) > _floor(a)]
    assert up == []


def test_no_two_files_import_each_other() -> None:
    """A module whose targets were all removed cannot be in a circle; what is left is one."""
    left = {name: set(targets) for name, targets in _edges().items()}
    while ends := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in ends}
    assert sorted(left) == []


@pytest.mark.parametrize("part", PARTS)
def test_parts_do_not_import_each_other(part: str) -> None:
    names = [name for name in _trees() if name.partition(".")[0] == part and name != COMPOSITION_ROOT]
    assert names
    crossing = [(name, t) for name in names for t in _edges()[name] if t.partition(".")[0] in APART[part]]
    assert crossing == []


def _loaded(*arguments: str) -> set[str]:
    """The modules that a Python process has loaded by its end."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "islr" in loaded
    return {name.partition(".")[0] for name in loaded}


@pytest.mark.parametrize(
    "arguments", [["-m", "islr", "--help"], ["-m", "islr", "data", "--help"], ["-c", "import islr"]]
)
def test_help_and_import_load_nothing_heavy(arguments: list[str]) -> None:
    assert _loaded(*arguments) & set(HEAVY) == set()


@pytest.mark.parametrize("library", ONE_DOOR)
def test_a_library_that_could_rot_has_one_door(library: str) -> None:
    assert len(_third_party()[library]) == 1, _third_party()[library]


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = _project()["project"]
    extras = project["optional-dependencies"]
    declared = _distributions(
        project["dependencies"] + [one for extra, lines in extras.items() if extra != "dev" for one in lines]
    )
    imported = {DISTRIBUTIONS.get(name, name.replace("_", "-")).lower() for name in _third_party()}
    assert imported - declared - SEPARATE_ENVIRONMENT == set(), "imported and not declared"
    assert {ALTERNATIVES.get(name, name) for name in declared} - imported == set(), "declared and not imported"
    assert _distributions(extras["dev"]) >= _distributions(extras["xlsx"] + extras["pose-io"] + extras["slurm"])


def test_the_wheel_is_complete() -> None:
    folders = {path.parent for path, _ in _trees().values()}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
    tool = _project()["tool"]["setuptools"]
    assert set(tool["packages"]) - set(tool["package-dir"]) == {_name(folder / "__init__.py") for folder in folders}


def test_a_folder_holds_about_a_dozen_files() -> None:
    sizes = Counter(
        path.parent.relative_to(CHECKOUT).as_posix()
        for path, _ in _trees().values()
        if path.name not in ("__init__.py", "__main__.py")
    )
    assert {folder for folder, size in sizes.items() if size > MOST_FILES} <= MORE_FILES.keys(), sizes.most_common(5)


def test_files_and_functions_are_short() -> None:
    files, functions = set(), set()
    for path, tree in _trees().values():
        where = path.relative_to(CHECKOUT).as_posix()
        if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES:
            files.add(where)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[ast.get_docstring(node) is not None :]
                if body and (body[-1].end_lineno or 0) - body[0].lineno >= MOST_BODY:
                    functions.add(f"{where}:{node.name}")
    assert files == set()
    assert functions == set()


def test_a_class_name_is_taken_once() -> None:
    names = Counter(node.name for _, tree in _trees().values() for node in tree.body if isinstance(node, ast.ClassDef))
    twice = {name for name, count in names.items() if count > 1 and not name.startswith("_")}
    assert twice - TAKEN_TWICE == set()


def test_no_test_imports_another_test() -> None:
    for path in (CHECKOUT / "tests").rglob("*.py"):
        for target in _imports(ast.parse(path.read_text(encoding="utf-8"))):
            assert not any(piece.startswith("test_") for piece in target.split(".")[:-1] or [target]), (path, target)
            assert target.partition(".")[0] != "tests", (path, target)


def test_every_slow_test_exists() -> None:
    for test in slow_tests():
        file, *_, name = test.split("::")
        assert f"def {name}(" in (CHECKOUT / "tests" / file).read_text(encoding="utf-8"), test
