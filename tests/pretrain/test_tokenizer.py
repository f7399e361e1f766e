"""The tokenizer: the codebook and DALL-E's encoder against recorded numbers, words that tell pixels, files."""

import copy
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from support.oracle_helpers import Differences, oracle_entry, state_of
from support.tiny_runs import PRETRAIN, write_config
from torch import Tensor, nn

from islr.cli import run
from islr.errors import UserError
from islr.models import create_model
from islr.models.weights import export_encoder, load_encoder, read_metadata
from pretrain.bevt import BEVT, CELL, BEVTConfig
from pretrain.targets.codebook import Codebook
from pretrain.targets.dvae import Block, Convolution, DalleTokenizer, arguments_of, convert
from pretrain.targets.frame_tokenizer import FrameTokenizer, PixelTokenizer
from pretrain.targets.tokenizer_files import load_tokenizer
from pretrain.tokenizer import TeacherConfig, Tokenizer, TokenizerConfig

SMALL = {"vocabulary": 32, "code_dim": 8, "decoder_width": 16, "decoder_depth": 1}


def small_recipe(**options: Any) -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(create_model("frame_conv_tiny", frames=2, size=32), TokenizerConfig(**(SMALL | options)))


def scenes(clips: int = 8, seed: int = 0) -> dict[str, Tensor]:
    """Clips of 2 frames of 32 pixels made of 8-pixel cells of four colours."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.tensor([[250, 20, 20], [20, 250, 20], [20, 20, 250], [240, 240, 240]], dtype=torch.uint8)
    cells = torch.randint(4, (clips, 2, 4, 4), generator=generator)
    clip = colours[cells].repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)  # [B, T, H, W, 3]
    return {"clip": clip.permute(0, 4, 1, 2, 3), "cells": cells}


def trained(recipe: Tokenizer, steps: int, lr: float = 1e-2) -> list[dict[str, float]]:
    optimizer = torch.optim.AdamW([p for p in recipe.parameters() if p.requires_grad], lr=lr)
    recipe.train()
    seen = []
    for step in range(steps):
        torch.manual_seed(step)
        values = recipe(scenes(seed=step))
        optimizer.zero_grad()
        values["loss"].backward()
        optimizer.step()
        seen.append({name: float(value.detach()) for name, value in values.items()})
    return seen


# Codebook -----------------------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_codebook_is_beit_v2s(oracles: Path, differences: Differences) -> None:
    entry, tensors = oracle_entry(oracles, "vqkd_quantizer.safetensors", "svt_bevt")
    numbers = entry["params"]
    codebook = Codebook(
        numbers["n_embed"],
        numbers["embedding_dim"],
        decay=numbers["decay"],
        commitment=numbers["beta"],
        kmeans=numbers["kmeans_init"],
    )
    codebook.codes.copy_(tensors["codebook_before"])
    z = tensors["z"].clone().requires_grad_()
    found = codebook.train()(z)
    (found.codes.square().sum() + found.loss).backward()
    differences.within("words", found.indices, tensors["indices"])
    assert z.grad is not None
    for what, value, want in (
        ("codes", found.codes, "z_q"),
        ("loss", found.loss, "loss"),
        ("gradient", z.grad, "grad_z"),
        ("codebook after the step", codebook.codes, "codebook_after"),
        ("use after the step", codebook.usage, "cluster_size_after"),
    ):
        differences.within(what, value, tensors[want], absolute=1e-6)


def test_codes_go_to_the_means_of_what_they_stand_for() -> None:
    torch.manual_seed(0)
    centres = F.normalize(torch.randn(4, 8), dim=1)
    vectors = centres.repeat_interleave(64, dim=0) + 0.05 * torch.randn(256, 8)
    maps = 3 * vectors.t().view(1, 8, 16, 16)  # the length of a vector does not count
    codebook = Codebook(4, 8, kmeans=True, restart_below=0.5)
    for _ in range(30):  # k-means may begin with two of one centre; restarts put that right
        found = codebook.train()(maps)
    means = F.normalize(F.normalize(vectors, dim=1).view(4, 64, 8).sum(dim=1), dim=1)
    assert (codebook.codes @ means.t()).amax(dim=0).min() > 0.99
    assert found.perplexity.item() == pytest.approx(4, rel=0.01)
    assert found.used.item() == 1


def test_dead_codes_stay_or_start_again() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 8, 4, 4)
    for restart, moves in ((0.0, False), (0.1, True)):
        codebook = Codebook(64, 8, kmeans=False, decay=0.5, restart_below=restart)
        codebook.codes.copy_(F.normalize(codebook.codes + 100 * torch.eye(8)[0], dim=1))
        codebook.codes[0] = F.normalize(maps[0, :, 0, 0], dim=0)
        before = codebook.codes.clone()
        used = codebook.train()(maps).indices.unique()
        dead = torch.ones(64, dtype=torch.bool)
        dead[used] = False
        assert dead.sum() > 30
        assert torch.allclose(codebook.codes[dead], before[dead], atol=1e-6) is not moves
        assert torch.allclose(codebook.codes.norm(dim=1), torch.ones(64), atol=1e-6)


def test_nothing_moves_when_it_is_only_used() -> None:
    codebook = Codebook(8, 4, kmeans=False).eval()
    before = {name: value.clone() for name, value in codebook.state_dict().items()}
    codebook(torch.randn(1, 4, 3, 3))
    assert all(torch.equal(value, before[name]) for name, value in codebook.state_dict().items())


# The recipe ---------------------------------------------------------------------------------------------------------


def pixel_accuracy(recipe: Tokenizer, batch: dict[str, Tensor]) -> float:
    """Return how often a cell has the commonest colour among the cells of its visual token."""
    words, cells = recipe.eval().tokenizer.tokens(batch["clip"][:, :, 0]), batch["cells"][:, 0]
    common = {int(word): int(cells[words == word].mode().values) for word in words.unique()}
    guessed = torch.tensor([common[int(word)] for word in words.flatten()])
    return (guessed == cells.flatten()).float().mean().item()


def test_words_come_to_tell_pixels(tmp_path: Path) -> None:
    recipe, batch = small_recipe(restart_below=0.1, decay=0.9), scenes(16, seed=1000)
    before = pixel_accuracy(recipe, batch)
    seen = trained(recipe, 60)
    assert seen[-1]["reconstruction"] < 0.6 * seen[0]["reconstruction"]
    assert seen[-1]["perplexity"] > 10
    assert pixel_accuracy(recipe, batch) > before + 0.15
    frames = batch["clip"][:, :, 0]
    words = recipe.tokenizer.tokens(frames)
    assert words.shape == (16, 4, 4)
    assert words.dtype == torch.int64
    assert isinstance(recipe.tokenizer, PixelTokenizer)
    drawn = recipe.tokenizer.decode(words)
    assert drawn.shape == frames.shape
    assert drawn.dtype == torch.uint8
    guess = frames.float().mean(dim=(0, 2, 3), keepdim=True)
    assert (drawn.float() - frames.float()).abs().mean() < 0.7 * (guess - frames.float()).abs().mean()

    recipe.export(tmp_path, {"recipe": "tokenizer"})
    loaded = load_tokenizer(tmp_path / "tokenizer.safetensors")
    assert isinstance(loaded, PixelTokenizer)
    assert (loaded.vocabulary, loaded.stride) == (32, 8)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded.tokens(frames), words)
    assert torch.equal(loaded.decode(words), drawn)
    wide = torch.zeros(1, 3, 24, 40, dtype=torch.uint8)
    assert loaded.tokens(wide).shape == (1, 3, 5), "any size of whole cells"
    with pytest.raises(UserError, match="20 x 32 pixels are not made of whole cells"):
        loaded.tokens(torch.zeros(1, 3, 20, 32, dtype=torch.uint8))
    panels = recipe.pictures(batch)
    assert list(panels) == ["input", "visual tokens", "decoded pixels"]
    assert all(image.dtype == np.uint8 and image.shape[0] == 16 and image.shape[-1] == 3 for image in panels.values())


def test_every_parameter_has_a_gradient() -> None:
    recipe = small_recipe()
    recipe(scenes())["loss"].backward()
    for name, parameter in recipe.named_parameters():
        assert parameter.grad is not None, name
        if name != "tokenizer.project.0.bias":  # batch normalisation takes it away
            assert parameter.grad.abs().max() > 0, name


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "teacher.safetensors"
    export_encoder(create_model("mvit_tiny", frames=4, size=64), path, {})
    return path


def test_codes_can_tell_a_teachers_features_instead(teacher: Path, tmp_path: Path) -> None:
    recipe = small_recipe(teacher=TeacherConfig(weights=str(teacher), layer=1, grid=(1, 4, 4)), restart_below=0.1)
    assert type(recipe.tokenizer) is FrameTokenizer
    assert recipe.teacher is not None
    before = {name: value.clone() for name, value in recipe.teacher.state_dict().items()}
    seen = trained(recipe, 30)
    assert seen[-1]["reconstruction"] < 0.6 * seen[0]["reconstruction"]
    assert all(torch.equal(value, before[name]) for name, value in recipe.teacher.state_dict().items())
    assert not recipe.train().teacher.training  # type: ignore[union-attr]
    # The loss is the mean of 1 - cosine over the teacher's tokens, each told by the cells at its place.
    batch = scenes(clips=2)
    recipe.eval()
    codes = recipe.tokenizer.quantise(batch["clip"].transpose(1, 2).flatten(0, 1)).codes
    features = recipe.head(codes).view(2, 2, -1, 4, 4).mean(dim=1).flatten(2).transpose(1, 2)
    spec = recipe.teacher.input_spec
    pixels = (batch["clip"].float() / 255 - spec.mean[0]) / spec.std[0]
    wanted = recipe.teacher.forward_layers(pixels)[1]
    pairs = zip(features.flatten(0, 1), wanted.flatten(0, 1), strict=True)
    cosines = torch.stack([a @ b / (a.norm() * b.norm()) for a, b in pairs])
    assert recipe.reconstruction(codes, recipe.targets(batch["clip"])).item() == pytest.approx(
        1 - cosines.mean().item(), abs=1e-5
    )
    recipe.export(tmp_path, {})
    loaded = load_tokenizer(tmp_path / "tokenizer.safetensors")
    frames = batch["clip"][:, :, 0]
    assert torch.equal(loaded.tokens(frames), recipe.tokenizer.tokens(frames))  # type: ignore[operator]
    assert not hasattr(loaded, "decode")
    assert "decoded pixels" not in recipe.pictures(batch)


def test_what_cannot_be_trained_is_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tokenizer trains frame_conv encoders, not MViTEncoder"):
        Tokenizer(create_model("mvit_tiny"), TokenizerConfig())
    for wrong, message in (
        ({"grid": (2, 4, 4)}, r"grid=\[2, 4, 4\] is not the grid of the teacher's 16 tokens"),
        ({"layer": 9}, "layer names block 9, the teacher has blocks 0 to 5"),
    ):
        given = {"weights": str(teacher), "layer": 1, "grid": (1, 4, 4)} | wrong
        with pytest.raises(UserError, match=message):
            small_recipe(teacher=TeacherConfig(**given))
    export_encoder(create_model("pose_transformer_tiny"), tmp_path / "pose.safetensors", {})
    with pytest.raises(UserError, match="takes poses"):
        small_recipe(teacher=TeacherConfig(weights=str(tmp_path / "pose.safetensors"), grid=(1, 4, 4)))
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(teacher)
    small_recipe().export(tmp_path, {})
    file = tmp_path / "tokenizer.safetensors"
    state = load_file(file)
    del state["project.0.weight"]
    save_file(state, tmp_path / "part.safetensors", metadata=read_metadata(file))
    with pytest.raises(UserError, match="its tensors are not those of the tokenizer it describes"):
        load_tokenizer(tmp_path / "part.safetensors")


def test_a_run_leaves_a_tokenizer_beside_the_encoder(mini_corpus: Path, tmp_path: Path) -> None:
    config = write_config(PRETRAIN, tmp_path / "t.yaml", mini_corpus / "manifest.csv", tmp_path / "run")
    options = [f"{key}={value}" for key, value in SMALL.items()]
    recipe = "recipe={name: tokenizer, " + ", ".join(option.replace("=", ": ") for option in options) + "}"
    encoder = "encoder={name: frame_conv_tiny, arguments: {frames: 2, size: 32}}"
    assert run(["pretrain", str(config), recipe, encoder, "optim.epochs=2"]) == 0
    file = tmp_path / "run" / "tokenizer.safetensors"
    tokenizer = load_tokenizer(file)
    assert read_metadata(file)["recipe"] == "tokenizer"
    encoder_state = load_encoder(tmp_path / "run" / "encoder.safetensors").state_dict()
    own = tokenizer.encoder.state_dict()  # type: ignore[union-attr, operator]
    assert all(torch.equal(value, own[name]) for name, value in encoder_state.items())
    assert bool(tokenizer.codebook.started)  # type: ignore[union-attr, arg-type]


def test_mean_prediction_is_what_the_mean_colour_scores() -> None:
    recipe, batch = small_recipe(), scenes()
    out = recipe(batch)
    wanted = recipe.targets(batch["clip"])
    mean = wanted.mean(dim=(0, 2, 3), keepdim=True).expand_as(wanted)
    assert out["mean_prediction"].item() == pytest.approx(F.mse_loss(mean, wanted).item(), rel=1e-5)


# DALL-E -------------------------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_dalle_encoder_is_openais(oracles: Path, differences: Differences) -> None:
    entry, tensors = oracle_entry(oracles, "dalle_dvae_encoder_tiny.safetensors", "svt_bevt")
    state = state_of(tensors)
    numbers = entry["params"]
    assert arguments_of(state) == {
        "hidden": numbers["n_hid"],
        "blocks": numbers["n_blk_per_group"],
        "vocabulary": numbers["vocab_size"],
    }
    tokenizer = DalleTokenizer(**arguments_of(state)).eval()
    tokenizer.load_state_dict(state)
    logits = tokenizer(tensors["x01"])
    differences.within("DALL-E's logits", logits, tensors["logits"], absolute=1e-5)
    differences.within("DALL-E's words", logits.argmax(dim=1), tensors["tokens"])
    assert tensors["x01"].shape[2] // tensors["tokens"].shape[1] == tokenizer.stride


def test_dalle_encoder_has_the_published_size() -> None:
    with torch.device("meta"):
        tokenizer = DalleTokenizer()
    assert len(tokenizer.state_dict()) == 74
    assert round(sum(p.numel() for p in tokenizer.parameters()) / 1e6, 1) == 53.8


def _pickle_as_published(tokenizer: DalleTokenizer, path: Path, zipped: bool) -> None:
    """`torch.save` the modules under the names of openai/DALL-E's classes, which are gone afterwards."""
    published = {DalleTokenizer: "encoder.Encoder", Block: "encoder.EncoderBlock", Convolution: "utils.Conv2d"}
    files = {name: ModuleType(name) for name in ("dall_e", "dall_e.encoder", "dall_e.utils")}
    classes: dict[type, type] = {}
    for own, name in published.items():
        file, _, title = name.partition(".")
        classes[own] = type(title, (nn.Module,), {"__module__": f"dall_e.{file}"})
        setattr(files[f"dall_e.{file}"], title, classes[own])
    for module in tokenizer.modules():
        module.device = torch.device("cpu")  # type: ignore[assignment]
        module.__class__ = classes.get(type(module), type(module))
    sys.modules.update(files)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # legacy files carry the source of the classes; these have none
            torch.save(tokenizer, path, _use_new_zipfile_serialization=zipped)
    finally:
        for name in files:
            del sys.modules[name]


@pytest.mark.parametrize("zipped", [True, False])
def test_dalles_pickle_is_converted_without_its_package(tmp_path: Path, zipped: bool) -> None:
    path, out = tmp_path / "encoder.pkl", tmp_path / "dalle.safetensors"
    own = DalleTokenizer(8, 1, 16)
    _pickle_as_published(copy.deepcopy(own), path, zipped)
    convert(path, out)
    loaded = load_tokenizer(out)
    assert (loaded.vocabulary, loaded.stride) == (16, 8)
    frames = torch.randint(256, (2, 3, 32, 48), dtype=torch.uint8)
    assert torch.equal(loaded.tokens(frames), own.tokens(frames))  # type: ignore[operator]
    assert loaded.tokens(frames).shape == (2, 4, 6)  # type: ignore[operator]
    with pytest.raises(UserError, match="not made of whole cells"):
        loaded.tokens(frames[..., :20])  # type: ignore[operator]


def test_other_pickles_are_no_dalle(tmp_path: Path) -> None:
    path = tmp_path / "other.pkl"
    torch.save(nn.Sequential(nn.Linear(2, 2)), path)
    with pytest.raises(UserError, match=r"other\.pkl: its tensors are not those of DALL-E's encoder"):
        convert(path, tmp_path / "out.safetensors")
    torch.save(Block(4, 4, 1), path)
    with pytest.raises(UserError, match=r"other\.pkl: it names pretrain\.targets\.dvae\.Block"):
        convert(path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    assert Convolution(1, 2, 3).w.shape == (2, 1, 3, 3)


def test_bevt_takes_either_tokenizer(tmp_path: Path) -> None:
    small_recipe().export(tmp_path, {})
    _pickle_as_published(DalleTokenizer(8, 1, 16), tmp_path / "encoder.pkl", zipped=True)
    convert(tmp_path / "encoder.pkl", tmp_path / "dalle.safetensors")
    for name, words in (("tokenizer.safetensors", 32), ("dalle.safetensors", 16)):
        encoder = create_model("swin_tiny")
        recipe = BEVT(encoder, BEVTConfig(tokenizer=str(tmp_path / name)))
        assert recipe.head.out_features == words
        frames, size = encoder.input_spec.frames, encoder.input_spec.size
        clip = torch.randint(256, (1, 3, frames, size, size), dtype=torch.uint8)
        targets = recipe.targets(clip)
        assert targets.shape == (1, frames, size // CELL, size // CELL)
        assert 0 <= targets.min() <= targets.max() < words
