"""Weights on disk: strict loading, refusals, resized position tables."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from islr.errors import UserError
from islr.models import create_model
from islr.models.encoder import EncoderConfig, interpolate_positions
from islr.models.weights import build_encoder, export_encoder, load_encoder, load_state, load_weights


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    path = tmp_path / "encoder.safetensors"
    export_encoder(create_model("pose_transformer_tiny", frames=4), path, {})
    return path


def test_pickles_are_never_opened(tmp_path: Path, exported: Path) -> None:
    state = load_file(exported)
    torch.save(state, tmp_path / "zip.pt")
    torch.save(state, tmp_path / "bare.pt", _use_new_zipfile_serialization=False)
    for name in ("zip.pt", "bare.pt"):
        with pytest.raises(UserError, match="is a pickle"):
            load_encoder(tmp_path / name)
        with pytest.raises(UserError, match="is a pickle"):
            load_weights(create_model("pose_transformer_tiny", frames=4), tmp_path / name)


def test_broken_files_are_named(tmp_path: Path, exported: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    for length in (0, 5, 100, exported.stat().st_size - 1):
        cut.write_bytes(exported.read_bytes()[:length])
        with pytest.raises(UserError, match=r"cut\.safetensors: truncated or not a safetensors file"):
            load_encoder(cut)
    with pytest.raises(UserError, match="no such weights file"):
        load_encoder(tmp_path / "absent.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="no architecture in its metadata"):
        load_encoder(tmp_path / "foreign.safetensors")


def test_weights_load_strictly(tmp_path: Path, exported: Path) -> None:
    encoder = create_model("pose_transformer_tiny", frames=4)
    state = load_file(exported)
    with pytest.raises(UserError, match="has tensors the encoder does not: extra"):
        load_state(encoder, state | {"extra": torch.zeros(1)}, "file")
    lacking = {name: value for name, value in state.items() if name != "part_embed"}
    with pytest.raises(UserError, match="lacks tensors of the encoder: part_embed"):
        load_state(encoder, lacking, "file")
    fresh = encoder.part_embed.clone()
    load_state(encoder, lacking, "file", allow_missing=["part_embed"])
    assert torch.equal(encoder.part_embed, fresh)
    assert torch.equal(encoder.part_embeds[0].weight, state["part_embeds.0.weight"])
    with pytest.raises(UserError, match=r"file holds 'time_embed' of an earlier version: positions in time are fixed"):
        load_state(encoder, state | {"time_embed": torch.zeros(4, 96)}, "file")
    with pytest.raises(UserError, match=r"'part_embed' is \[4, 96\], the encoder needs \[3, 96\]"):
        load_state(encoder, state | {"part_embed": torch.zeros(4, 96)}, "file")


def test_config_builds_with_weights_of_its_own_architecture_only(exported: Path) -> None:
    config = EncoderConfig(name="pose_transformer_tiny", weights=str(exported))
    assert build_encoder(config).input_spec.frames == 4
    assert build_encoder(config, frames=6).input_spec.frames == 6
    with pytest.raises(UserError, match="holds 'pose_transformer_tiny', not the wanted 'mvit_tiny'"):
        build_encoder(EncoderConfig(name="mvit_tiny", weights=str(exported)))


def test_position_tables_keep_a_straight_line_straight() -> None:
    table = torch.arange(27.0)[:, None].expand(-1, 2)
    shorter = interpolate_positions(table, 13)
    assert torch.allclose(shorter[:, 0], (torch.arange(13) + 0.5) * 27 / 13 - 0.5, atol=1e-5)
