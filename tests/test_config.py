"""Configuration: strict, typed, one clear line for each mistake."""

import re
from pathlib import Path

import pytest

from islr.config import Config, config_hash, dump_yaml, load_config, validate
from islr.config_files import override, parse_yaml, read_overrides, read_tree, shipped_configs
from islr.errors import UserError
from islr.evaluation.finetune import FinetuneConfig
from islr.study.config import GridConfig
from pretrain.run import PretrainConfig
from probe.config import ProbeConfig

SCHEMAS = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "probe": ProbeConfig, "bench": GridConfig}
GOOD = """
name: check
recipe: {name: maskfeat}
encoder: {name: mvit_tiny}
data: {manifest: somewhere/manifest.csv}
optim: {lr: 1e-4, epochs: 2, batch_size: 4}
run: {out: somewhere}
"""


def _write(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-3E5", -3e5),
        (".5e3", 500.0),
        ("2.5e+2", 250.0),
        ("12", 12),
        ("1e", "1e"),
        ("e4", "e4"),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, value: object) -> None:
    read = parse_yaml(text, "here")
    assert read == value
    assert type(read) is type(value)


def test_base_chain_and_overrides(tmp_path: Path) -> None:
    _write(tmp_path, GOOD, "base.yaml")
    child = _write(tmp_path, "base: base.yaml\noptim: {lr: 2e-4}\n", "child.yaml")
    config = load_config(PretrainConfig, child, ["optim.epochs=5", "data.manifest=[a.csv, b.csv]"])
    assert config.optim.lr == 2e-4
    assert config.optim.epochs == 5
    assert config.optim.batch_size == 4
    assert config.data.manifest == ("a.csv", "b.csv")


def test_resolved_copy_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(PretrainConfig, _write(tmp_path, GOOD))
    again = load_config(PretrainConfig, _write(tmp_path, dump_yaml(config), "resolved.yaml"))
    assert again == config
    assert config_hash(again) == config_hash(config)


def test_config_is_frozen(tmp_path: Path) -> None:
    config = load_config(PretrainConfig, _write(tmp_path, GOOD))
    with pytest.raises(ValueError, match="frozen"):
        config.optim.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.epoch=3", "unknown key 'optim.epoch'; did you mean 'epochs'?"),
        ("lr=0.5", "unknown key 'lr'; did you mean 'optim.lr'?"),
        ("recipe.mask_ration=0.5", "unknown key 'recipe.mask_ration'"),
        ("recipe.name=maskfeet", "maskfeat"),
        ("optim.lr=fast", "optim.lr: .*number.*'fast'"),
        ("optim.lr=-1", "optim.lr: .*greater than 0"),
        ("optim.lr=.nan", "optim.lr: .*finite"),
        ("optim.warmup_epochs=2", "warmup_epochs 2 leaves no epoch"),
        ("encoder=mvit_tiny", "encoder: "),
        ("splits=[testing]", "splits.0: .*'train', 'val', 'test' or 'none'"),
        ("nonsense", "not of the form key.path=value"),
        ("name.inner=1", "'name' holds a value"),
    ],
)
def test_mistakes_name_the_key(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_config(PretrainConfig, _write(tmp_path, GOOD), [override])
    assert "\n" not in str(caught.value)


def test_selection_on_test_cannot_be_expressed(tmp_path: Path) -> None:
    text = GOOD.replace("recipe: {name: maskfeat}\n", "")
    load_config(FinetuneConfig, _write(tmp_path, text))
    with pytest.raises(UserError, match="select_on"):
        load_config(FinetuneConfig, _write(tmp_path, text), ["select_on=test"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1,", "line 1: not valid YAML"),
        ("- a\n- b\n", "a config file is a mapping"),
        ("name: x\nname: y\n", "'name' is written twice"),
        ("name: !!python/object/apply:os.system ['touch canary']", "not valid YAML"),
        ("base: config.yaml\n", "comes back to itself"),
        ("base: other.yaml\n", "other.yaml does not exist"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(PretrainConfig, _write(tmp_path, text))


def test_missing_file_lists_near_names() -> None:
    with pytest.raises(UserError, match="smoke/"):
        load_config(PretrainConfig, "smoke/maskfeet.yaml")


def test_required_key_is_named() -> None:
    class Needs(Config):
        width: int

    with pytest.raises(UserError, match="key 'width' is required"):
        validate(Needs, {}, "here")


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_shipped_configs_resolve(name: str) -> None:
    path = shipped_configs()[name]
    assert path.read_text(encoding="utf-8").startswith("#"), "a config opens with a comment that says what it trains"
    task = read_tree(path).get("task")
    assert task in SCHEMAS, f"{name} names no task"
    assert load_config(SCHEMAS[task], path).task == task


@pytest.mark.parametrize("name", sorted(name for name in shipped_configs() if name.startswith("pretrain/")))
def test_full_size_pre_training_says_its_gpu_hours_and_memory(name: str) -> None:
    header = ""
    path: Path | None = shipped_configs()[name]
    while path is not None:  # a derived file may leave what does not change to its base
        text = path.read_text(encoding="utf-8")
        header += " ".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
        base = re.search(r"^base: (.+)$", text, re.MULTILINE)
        path = path.parent / base[1] if base else None
    assert re.search(r"Hardware:.*\b(GPU|A100)[- ]hours?\b", header), "hours"
    assert re.search(r"Hardware:.*\b\d+ GB\b", header), "memory"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("data #2", "data #2"),
        ("#2/manifest.csv", "#2/manifest.csv"),
        ("  exp #1  ", "exp #1"),
        ("a#b", "a#b"),
        ('"data #2"', "data #2"),
        ("['data #2/m.csv', b]", ["data #2/m.csv", "b"]),
        ("1e-3", 1e-3),
        ("", None),
    ],
)
def test_a_number_sign_in_an_override_is_no_comment(text: str, value: object) -> None:
    assert read_overrides([f"run.out={text}"]) == {"run": {"out": value}}


@pytest.mark.parametrize("text", ["[a, b] # c", '"data" #2', "[data #2/m.csv, b]"])
def test_an_override_that_would_lose_a_part_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"data\.manifest="):
        read_overrides([f"data.manifest={text}"])


@pytest.mark.parametrize(
    "path", ["plain/m.csv", "data #2/m.csv", "#1", "a, b]", "2024", "null", "x: y", 'say "no"', "[a]", "é · ü", " a "]
)
def test_an_override_made_from_a_path_reads_back_as_that_path(path: str) -> None:
    assert read_overrides([override("run.out", path)]) == {"run": {"out": path}}
    assert read_overrides([override("data.manifest", [path, path])]) == {"data": {"manifest": [path, path]}}
