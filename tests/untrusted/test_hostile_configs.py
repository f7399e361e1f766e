"""Configurations and environments that nobody would write by accident: one line, exit code 2, at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import CHECKOUT
from support.tiny_runs import PRETRAIN

from islr import cli
from islr.config import validate
from islr.config_files import parse_yaml, read_overrides, read_tree
from islr.errors import UserError
from islr.training.distributed.world import World
from islr.training.run_config import RunConfig
from pretrain.run import PretrainConfig

DOUBLING = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
MERGING = "a0: &a0 {k: x}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))
TEXTS = {
    "doubling": (DOUBLING, "aliases make more than 100,000 values"),
    "merging": (MERGING, "aliases make more than 100,000 values"),
    "inside itself": ("a: &a [*a]", "aliases make more than"),
    "deep": ("[" * 100 + "]" * 100, "nested more than 60 deep"),
    "very deep": ("[" * 100_000, "nested more than 60 deep"),
    "whole number": ("!!int x", "a value that does not fit its YAML tag"),
    "number": ("!!float {}", "not valid YAML|does not fit its YAML tag"),
    "date": ("!!timestamp x", "a value that does not fit its YAML tag"),
    "NUL": (r'run: {out: "a\0b"}', "a NUL or half a character"),
    "half a character": (r'name: "\ud83e"', "a NUL or half a character"),
    "no date": ("2026-13-45", "a value that does not fit its YAML tag"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_yaml_is_refused(name: str) -> None:
    text, message = TEXTS[name]
    with pytest.raises(UserError, match=message) as refusal:
        parse_yaml(text, "c.yaml")
    assert str(refusal.value).startswith("c.yaml")


def test_harmless_aliases_are_read() -> None:
    assert parse_yaml("a: &a {k: 1}\nb: *a", "c.yaml") == {"a": {"k": 1}, "b": {"k": 1}}
    assert parse_yaml("", "c.yaml") is None


def test_long_chains_and_deep_overrides_are_refused(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.yaml").write_text(f"base: {number + 1}.yaml\n", encoding="utf-8")
    with pytest.raises(UserError, match="its base: chain has more than 32 files"):
        read_tree(tmp_path / "0.yaml")
    with pytest.raises(UserError, match="override of 3000 keys in a row"):
        read_overrides([".".join("a" * 3000) + "=1"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", True, "optim.batch_size: 'on', 'off'"),
        ("lr", False, "optim.lr: 'on', 'off'"),
        ("seed", 2**64, "run.seed: Input should be less than"),
        ("threads", 100_000, "run.threads: Input should be less than or equal to 1024"),
    ],
)
def test_values_that_would_break_later_are_refused(key: str, value: object, message: str) -> None:
    tree = PRETRAIN | {"data": {"manifest": "m.csv"}, "run": {"out": "r"}}
    group = "run" if key in RunConfig.model_fields else "optim"
    with pytest.raises(UserError, match=message):
        validate(PretrainConfig, tree | {group: tree[group] | {key: value}}, "c.yaml")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "x"}, "RANK is 'x', not a whole number"),
        ({"RANK": "1"}, "RANK=1 and WORLD_SIZE=1"),
        ({"WORLD_SIZE": "2"}, "lacks MASTER_ADDR"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, "lacks MASTER_PORT"),
    ],
)
def test_an_environment_of_no_run_is_refused(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        World("cpu")


def test_a_lone_rank_hears_why_and_an_ascii_terminal_shows_what_it_can() -> None:
    script = "import sys; from islr.cli import run; sys.exit(run(['config', 'show', 'n\u2019one.yaml']))"
    environment = {**os.environ, "RANK": "1", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(CHECKOUT)}
    environment.pop("WORLD_SIZE", None)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("islr: config file n?one.yaml does not exist")


def test_too_little_memory_is_no_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")):

        def fail(error: Exception = error, **_: object) -> None:
            raise error

        monkeypatch.setattr(cli, "app", fail)
        assert cli.run([]) == 1
        assert capsys.readouterr().err.startswith("islr: not enough memory (")
