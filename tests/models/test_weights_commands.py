"""`islr models` and `islr weights`: what is imported, what is refused, and what is said about it."""

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from support.records import result
from torch import Tensor

from islr.cli import run
from islr.evaluation.classifier import save_classifier
from islr.evaluation.results import save_results
from islr.files import file_sha256
from islr.models import MODELS, Classifier, create_model, list_models
from islr.models.describe import Description, describe
from islr.models.encoder import interpolate_positions
from islr.models.layouts import LAYOUTS, Layout
from islr.models.layouts.slowfast import to_slowfast_name
from islr.models.mvit.encoder import MViTEncoder, Pool
from islr.models.mvit.sizes import MViTSizes
from islr.models.pose_transformer import PoseTransformer
from islr.models.weights import export_encoder, load_encoder, read_metadata

PUBLIC = Layout(
    name="dotted",
    source="someone/poses: net.part and net.time",
    families=("placed_poses", "pose_transformer_*"),
    marks=(r"part", r"body\.0\.norm1\.weight"),
    rules=(
        (r"part", "part_embed"),
        (r"time", "time_embed"),
        (r"in(\d)\.(weight|bias)", r"part_embeds.\1.\2"),
        (r"body\.(.+)", r"blocks.\1"),
    ),
    left=(r"head\.(weight|bias)",),
    fresh=(r"time_embed",),
    entries=("net_state",),
    prefixes=("net.",),
    arguments=lambda state: {"frames": len(state["time"])} if "time" in state else {},
)


class PlacedPoses(PoseTransformer):
    """A pose transformer with a table of learned positions, which fixed ones do not have to resize."""

    retired: ClassVar = {}

    def __init__(self, *, frames: int = 10, drop_path: float = 0.0) -> None:
        super().__init__(frames=frames, dim=96, depth=2, heads=4, drop_path=drop_path)
        self.time_embed = torch.nn.Parameter(torch.randn(frames, 96))

    def resize_parameter(self, name: str, value: Tensor, shape: torch.Size) -> Tensor | None:
        return interpolate_positions(value, shape[0]) if name == "time_embed" else None


def mvit_narrow(
    frames: int = 4, size: int = 64, widen_in: Literal["attention", "mlp"] = "mlp", pool: Pool = "mean"
) -> MViTEncoder:
    return MViTEncoder(
        MViTSizes(
            depth=3,
            embed_dim=16,
            dim_mul={1: 2},
            head_mul={1: 2},
            q_stride={1: 2},
            kv_stride=4,
        ),
        frames=frames,
        size=size,
        widen_in=widen_in,
        pool=pool,
    )


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(LAYOUTS, PUBLIC.name, PUBLIC)
    monkeypatch.setitem(MODELS, "mvit_narrow", mvit_narrow)
    monkeypatch.setitem(MODELS, "placed_poses", PlacedPoses)


def _public(encoder: torch.nn.Module) -> dict[str, Tensor]:
    """The encoder's weights as `PUBLIC` writes them."""
    names = ((r"part_embed$", "part"), (r"time_embed", "time"), (r"part_embeds\.", "in"), (r"blocks\.", "body."))
    state = {}
    for name, value in encoder.state_dict().items():
        for ours, theirs in names:
            name = re.sub(f"^{ours}", theirs, name)
        state[f"net.{name}"] = value.clone()
    return state | {"net.head.weight": torch.ones(3, 96), "net.head.bias": torch.ones(3)}


def _save(state: dict[str, Tensor], path: Path) -> Path:
    torch.save({"net_state": state, "epoch": 3}, path)
    return path


def _import(source: Path | str, out: Path, *more: str, arch: str = "placed_poses") -> int:
    return run(["weights", "import", str(source), "--arch", arch, "--out", str(out), *more])


def _rows(command: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run([*command, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def _same(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def test_a_public_file_becomes_an_encoder_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = create_model("placed_poses", frames=10)
    source, out = _save(_public(encoder), tmp_path / "public.pth"), tmp_path / "new" / "ours.safetensors"
    assert _import(source, out) == 0
    said = capsys.readouterr().out
    count = sum(p.numel() for p in encoder.parameters())
    assert f"{len(encoder.state_dict())} tensors, {count:,} of {count:,} parameters" in said
    assert re.search(r"left +2 tensors: head\.bias, head\.weight", said)
    assert re.search(r"fresh +nothing", said)
    assert re.search(r"resized +nothing", said)
    loaded = load_encoder(out)
    assert loaded.input_spec.frames == 10, "the layout's arguments are taken from the tensors"
    assert _same(loaded.state_dict(), encoder.state_dict())
    facts = read_metadata(out)
    origin = json.loads(facts["source"])
    assert origin["file"] == "public.pth"
    assert origin["sha256"] == file_sha256(source)
    assert origin["layout"] == "dotted"
    stage = json.loads(facts["pretraining"])[0]
    assert stage["fingerprint"] == origin["sha256"], "reports must not take it for random initialisation"


def test_the_users_arguments_win_and_positions_follow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = _save(_public(create_model("placed_poses", frames=10)), tmp_path / "a.pth")
    assert _import(source, tmp_path / "a.safetensors", "frames=20", "drop_path=0.1", "--from", "dotted") == 0
    assert re.search(r"resized +1 tensors: time_embed", capsys.readouterr().out)
    assert load_encoder(tmp_path / "a.safetensors").input_spec.frames == 20
    assert json.loads(read_metadata(tmp_path / "a.safetensors")["arguments"])["drop_path"] == 0.1


def test_what_the_file_lacks_stays_fresh_only_where_the_layout_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = _public(create_model("placed_poses", frames=10))
    del state["net.time"]
    assert _import(_save(state, tmp_path / "a.pth"), tmp_path / "a.safetensors") == 0
    assert re.search(r"fresh +1 tensors: time_embed", capsys.readouterr().out)
    assert json.loads(read_metadata(tmp_path / "a.safetensors")["fresh"]) == ["time_embed"]
    del state["net.in0.bias"]
    assert _import(_save(state, tmp_path / "a.pth"), tmp_path / "b.safetensors") == 2
    assert "lacks tensors of the encoder: part_embeds.0.bias" in capsys.readouterr().err
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"net.extra": torch.ones(1)}, "", "has no tensors of these names: extra"),
        ({"net.part": torch.ones(5, 96)}, "", r"'part_embed' is \[5, 96\], the encoder needs \[3, 96\]"),
        ({"net.part": torch.full((3, 96), float("nan"))}, "", "not finite in part_embed"),
        ({}, "frame=3", "no argument 'frame'; did you mean 'frames'"),
        ({}, "frames", "'frames' is not of the form"),
        ({}, "--from slowfast", "slowfast cannot be imported into placed_poses; its layouts: .*dotted"),
        ({}, "--from dottet", "unknown layout 'dottet'; known for placed_poses: .*dotted"),
        ({}, "--arch mvit_narrow", "no layout known for mvit_narrow|no tensors here; it has net_state"),
        ({}, "--arch pose_transformr", "did you mean 'pose_transformer"),
        ({}, "--out {0}/a.pth", "must end in .safetensors"),
    ],
)
def test_what_does_not_fit_is_exit_code_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Tensor], options: str, message: str
) -> None:
    state = _public(create_model("placed_poses", frames=10)) | change
    source = _save(state, tmp_path / "public.pth")
    assert _import(source, tmp_path / "out.safetensors", *shlex.split(options.format(tmp_path))) == 2
    assert re.search(message, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == [source]


def test_a_file_of_two_layouts_needs_a_name_and_one_of_another_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = Layout(name="twin", source="", families=PUBLIC.families, marks=(r"net\.part",), rules=PUBLIC.rules)
    monkeypatch.setitem(LAYOUTS, "twin", twin)
    source = tmp_path / "a.safetensors"
    save_file(_public(create_model("placed_poses", frames=10)), source)
    assert _import(source, tmp_path / "out.safetensors") == 2
    assert re.search(r"several layouts \(.*dotted, twin\); name one with --from", capsys.readouterr().err)
    assert _import(source, tmp_path / "out.safetensors", "--from", "dotted") == 0
    save_file({"other": torch.ones(1)}, source)
    assert _import(source, tmp_path / "no.safetensors", "--from", "dotted") == 2
    assert "is not of layout dotted; its tensors: other" in capsys.readouterr().err
    assert _import(source, tmp_path / "no.safetensors") == 2
    assert "of no layout known for placed_poses" in capsys.readouterr().err


def test_our_own_files_need_no_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_encoder(create_model("pose_transformer_tiny"), tmp_path / "ours.safetensors", {})
    assert _import(tmp_path / "ours.safetensors", tmp_path / "again.safetensors") == 2
    assert "written by this project; it is used as it is" in capsys.readouterr().err


@pytest.mark.parametrize("form", [{"widen_in": "mlp"}, {"widen_in": "attention"}])
def test_slowfast_files_are_imported_in_their_form(tmp_path: Path, form: dict[str, Any]) -> None:
    encoder = create_model("mvit_narrow", **form)
    state = {to_slowfast_name(name): value for name, value in encoder.state_dict().items() if "offset" not in name}
    state = {name: value for name, value in state.items() if re.match(r"patch_embed|cls_token|blocks", name)}
    state["cls_token"] = state["cls_token"].view(1, 1, -1)
    torch.save({"epoch": 3, "model_state": state, "cfg": "TRAIN: true"}, tmp_path / "a.pyth")
    assert _import(tmp_path / "a.pyth", tmp_path / "a.safetensors", arch="mvit_narrow") == 0
    loaded = load_encoder(tmp_path / "a.safetensors")
    assert loaded.arguments["widen_in"] == form["widen_in"]
    assert _same(loaded.state_dict(), encoder.state_dict())


def test_timm_names_are_fetched_by_timm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = create_model("placed_poses", frames=10)
    asked: list[tuple[str, bool]] = []

    def stand_in(name: str, pretrained: bool) -> Any:
        asked.append((name, pretrained))
        if name == "absent":
            raise RuntimeError("Unknown model (absent)")
        return SimpleNamespace(state_dict=lambda: _public(encoder))

    monkeypatch.setattr(timm, "create_model", stand_in)
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    for source, name in (("timm:net_base", "net_base"), ("hf-hub:some/net", "hf-hub:some/net")):
        out = tmp_path / "out.safetensors"
        assert _import(source, out) == 0
        assert asked[-1] == (name, True)
        assert _same(load_encoder(out).state_dict(), encoder.state_dict())
        assert len(json.loads(read_metadata(out)["source"])["sha256"]) == 64
    capsys.readouterr()
    assert _import("timm:absent", tmp_path / "no.safetensors") == 2
    assert "timm:absent: timm cannot give these weights (RuntimeError: Unknown model" in capsys.readouterr().err


def test_show_tells_of_any_weights_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = _public(create_model("placed_poses", frames=10))
    state["net.head.bias"] = torch.tensor([1.0, float("inf"), 0.0]).half()
    source = _save(state, tmp_path / "public.pth")
    assert run(["weights", "show", str(source), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["layouts"] == ["dotted (into placed_poses, pose_transformer_*)"]
    assert facts["entries"] == {"net_state": f"{len(state)} tensors"}
    assert facts["types"] == {"float32": len(state) - 1, "float16": 1}
    assert facts["elements"] == sum(value.numel() for value in state.values())
    assert facts["not finite"] == ["net.head.bias"]
    assert facts["sha256"] == file_sha256(source)
    export_encoder(create_model("pose_transformer_tiny"), tmp_path / "ours.safetensors", {"recipe": "posemae"})
    assert run(["weights", "show", str(tmp_path / "ours.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "  architecture: pose_transformer_tiny" in said
    assert "  recipe: posemae" in said
    assert "layouts: none" in said
    assert run(["weights", "show", str(tmp_path / "absent.pth")]) == 2


def test_models_are_described_by_what_they_compute(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in _rows(["models", "pose*"], capsys)}
    assert set(rows) == set(list_models("pose*"))
    encoder = create_model("pose_transformer_tiny")
    row = rows["pose_transformer_tiny"]
    assert row["parameters"] == sum(p.numel() for p in encoder.parameters())
    assert row["layouts"] == ["dotted"]
    assert row["source"] == encoder.source
    # By hand: embeddings of the parts, then per block qkv + projection + MLP of four times the width, and attention.
    frames, dim, parts = encoder.input_spec.frames, encoder.dim, len(encoder.part_embeds)
    tokens = frames * parts
    embedding = sum(frames * embed.in_features * dim for embed in encoder.part_embeds)
    block = tokens * dim * dim * (3 + 1 + 8) + 2 * tokens * tokens * dim
    assert row["macs"] == embedding + len(encoder.blocks) * block
    assert run(["models", "pose_transformer_tiny"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split("\t")[:4] == ["encoder", "clip", "input", "M param"]
    assert line.split("\t")[:2] == ["pose_transformer_tiny", f"{frames} poses"]


def test_encoders_of_this_package_are_counted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []

    def counting(name: str) -> Description:
        counted.append(name)
        return describe(name)

    def shown(*names: str) -> dict[str, Any]:
        counted.clear()
        rows = [row for name in names for row in _rows(["models", name], capsys)]
        return {row["name"]: row for row in rows}

    monkeypatch.setattr("islr.models.description_cache.describe", counting)
    names = ("vit_tiny", "mvit_narrow")
    first = shown(*names)
    assert counted == list(names)
    assert shown(*names) == first
    assert counted == ["mvit_narrow"], "which this package does not define"
    monkeypatch.delitem(LAYOUTS, PUBLIC.name)
    assert shown("pose_transformer_tiny", "vit_tiny")["pose_transformer_tiny"]["layouts"] == []
    monkeypatch.setitem(LAYOUTS, PUBLIC.name, PUBLIC)
    assert shown("pose_transformer_tiny")["pose_transformer_tiny"]["layouts"] == ["dotted"]
    assert counted == []

    monkeypatch.setattr("islr.models.description_cache.libraries", lambda: {"torch": "another"})
    assert shown("vit_tiny") == {"vit_tiny": first["vit_tiny"]}
    assert counted == ["vit_tiny"]
    (tmp_path / "cache" / "islr" / "encoders.json").write_text('{"definition": ')
    assert shown("vit_tiny") == {"vit_tiny": first["vit_tiny"]}
    assert counted == ["vit_tiny"]
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert shown("vit_tiny") == {"vit_tiny": first["vit_tiny"]}


@pytest.mark.parametrize(
    ("arguments", "published"), [({}, 71.16e9), ({"widen_in": "attention", "pool": "class"}, 64.22e9)]
)
def test_mvit_s_costs_about_what_is_published(arguments: dict[str, Any], published: float) -> None:
    # Ours adds position scores by wider queries and keys instead of a table: 4.7 GMAC more.
    assert describe("mvit_s", **arguments).macs == pytest.approx(published, rel=0.08)


def test_exported_weights_have_a_model_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "run", tmp_path / "out"
    folder.mkdir()
    encoder = create_model("placed_poses", frames=10)
    stages = [{"recipe": "posemae", "manifest": "synth", "fingerprint": "c" * 64, "clips": "960", "pretext": "learned"}]
    facts = {"name": "PoseMAE", "recipe": "posemae", "pretraining": json.dumps(stages), "config_hash": "1" * 64}
    export_encoder(encoder, folder / "encoder.safetensors", facts | {"seed": "7", "commit": "2" * 40})
    assert run(["weights", "export", str(folder), str(out)]) == 0
    card = (out / "README.md").read_text()
    assert card.startswith("# PoseMAE\n")
    assert re.search(r"`create_model\('placed_poses', .*frames=10.*\)`", card)
    for fact in (
        "1. posemae on synth: 960 clips",
        "1" * 64,
        "seed: `7`",
        "2" * 40,
        "needs a classifier trained on it",
        "; task learned",
    ):
        assert fact in card
    assert "## Results" not in card
    assert load_file(out / "encoder.safetensors").keys() == encoder.state_dict().keys()

    classes = {"classes": ["a", "b"], "pretraining": json.dumps(stages), "recipe": "posemae"}
    save_classifier(folder / "classifier.safetensors", Classifier(encoder, 2), classes)
    record = result(name="fine-tuned")
    save_results(folder / "result.json", [record])
    assert run(["weights", "export", str(folder), str(out)]) == 0
    card = (out / "README.md").read_text()
    assert card.startswith("# fine-tuned\n")
    assert "| Top-1 | 79.0 | 75.0–83.0 | 240 |" in card
    assert "240 of 258 expected clips of wlasl100" in card
    assert "scores of 2 classes" in card
    assert record.provenance.config_hash in card
    assert "needs a classifier trained on it" not in card


def test_layouts_are_well_formed() -> None:
    assert all(name == layout.name and layout.source for name, layout in LAYOUTS.items())
    for layout in LAYOUTS.values():
        patterns = [*layout.marks, *(pattern for pattern, _ in layout.rules), *layout.left, *layout.fresh]
        for pattern in patterns:
            re.compile(pattern)
        for pattern, name in layout.rules:
            used = {int(number) for number in re.findall(r"\\(\d)", name)}
            assert used <= set(range(1, re.compile(pattern).groups + 1)), (layout.name, pattern)
        assert layout.marks, "a layout without marks would match every file"
        for family in layout.families:
            assert list_models(family), f"{layout.name} is for {family}, which no encoder is called"
