"""SVT: its views, its teacher, what it learns, and what a run leaves."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from support.recipe_runs import smallest_config
from torch import Tensor

from islr.errors import UserError
from islr.models import create_model
from islr.models.timesformer import TimeSformer
from islr.models.weights import read_metadata
from islr.training.checkpoint import latest_checkpoint
from islr.training.optim import (
    OptimConfig,
    build_optimizer,
    clip_gradients,
    parameter_groups,
    set_weight_decay,
)
from pretrain.run import ENCODER, run_pretrain
from pretrain.svt import SVT, SVTConfig
from pretrain.targets.dino import Centre, dino_loss
from pretrain.views.svt import ViewConfig, global_windows, local_window, view_groups, window_indices

OPTIM = OptimConfig(
    lr=1e-3,
    epochs=5,
    batch_size=4,
    weight_decay=0.04,
    weight_decay_end=0.4,
    clip_grad=0.5,
    clip_mode="parameter",
)


class Waves:
    """A clip of a grating that moves its own way over a frame that is its own colour; quacks like a clip source."""

    fps = 25.0

    def __init__(self, seed: int, length: int = 30, size: tuple[int, int] = (72, 96)) -> None:
        rng = np.random.default_rng(seed)
        self.length, self.size = length, size
        self.colour, self.wave, self.speed = rng.uniform(40, 200, 3), rng.uniform(-0.5, 0.5, 2), rng.uniform(-1, 1)
        self.reads = 0

    def read(self, indices: np.ndarray) -> np.ndarray:
        self.reads += 1
        assert indices.min() >= 0
        assert indices.max() < self.length
        y, x = np.mgrid[: self.size[0], : self.size[1]]
        phase = self.wave[0] * y + self.wave[1] * x + self.speed * indices[:, None, None]
        return np.clip(self.colour + 55 * np.sin(phase)[..., None], 0, 255).astype(np.uint8)


def small_recipe(**options: Any) -> SVT:
    torch.manual_seed(0)
    encoder = TimeSformer(frames=4, size=32, patch_size=8, dim=24, depth=2, heads=2, init="fan_in")
    plain: dict[str, Any] = {"prototypes": 32, "hidden_dim": 24, "bottleneck_dim": 12, "video": {"local_size": 16}}
    return SVT(encoder, SVTConfig(**(plain | options)))


def small_batch(recipe: SVT, clips: int = 4) -> dict[str, Tensor]:
    view = SVT.views(recipe.config, recipe.encoder.input_spec)
    samples = [view(Waves(i), np.random.default_rng(i)) for i in range(clips)]  # type: ignore[arg-type]
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def train_step(recipe: SVT, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], step: int, total: int) -> float:
    """One step as the engine makes it; `step` counts from 0, an epoch is two steps."""
    set_weight_decay(optimizer, OPTIM, step / total)
    loss = recipe.train()(batch)["loss"]
    loss.backward()
    clip_gradients(recipe.parameters(), OPTIM)
    recipe.before_update(step / 2)
    optimizer.step()
    optimizer.zero_grad()
    recipe.after_step(step + 1, total)
    return loss.item()


# Views ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("code", {"global_8": (2, 64), "local_8": (8, 32)}),
        (
            "code_rand_fr",
            {"global_4": (1, 64), "global_8": (1, 64)} | {f"local_{n}": (2, 32) for n in (2, 4, 8, 16)},
        ),
        ("paper", {"global_8": (1, 64), "global_16": (1, 64)} | {f"local_{n}": (2, 32) for n in (2, 4, 8, 16)}),
    ],
)
def test_view_sets_are_the_published_ones_at_eight_frames(name: Any, expected: dict) -> None:
    groups = view_groups(name, 8, 64, 32)
    assert {group.name: (group.views, group.size) for group in groups} == expected
    assert all(group.name.endswith(f"_{group.frames}") for group in groups)
    assert sum(group.views for group in groups if group.is_global) == 2
    source = Waves(0)
    config = SVTConfig(views=name, video=ViewConfig(local_size=32))
    sample = SVT.views(config, create_model("timesformer_tiny").input_spec)(source, np.random.default_rng(0))  # type: ignore
    assert source.reads == 1
    for group in groups:
        assert sample[group.name].shape == (group.views, 3, group.frames, group.size, group.size)
        assert sample[group.name].dtype == torch.uint8


def test_views_are_the_generator_s_and_one_crop_and_colour_for_all_frames() -> None:
    recipe = small_recipe()
    again = small_batch(recipe)
    for name, views_of_clips in small_batch(recipe).items():
        assert torch.equal(views_of_clips, again[name])
    still = Waves(0)
    still.speed = 0.0
    sample = SVT.views(recipe.config, recipe.encoder.input_spec)(still, np.random.default_rng(1))  # type: ignore[arg-type]
    for clips in sample.values():
        assert torch.equal(clips, clips[:, :, :1].expand_as(clips))
    assert not torch.equal(sample["local_2"][0], sample["local_2"][1])


def test_mirroring_is_off_unless_asked_for() -> None:
    plain: dict[str, Any] = {"jitter": 0, "grey": 0, "global_area": (1, 1), "local_area": (1, 1), "local_size": 16}
    whole = Waves(0, size=(32, 32))
    spec = small_recipe().encoder.input_spec
    shown = {
        flip: SVT.views(SVTConfig(video=ViewConfig(flip=flip, **plain)), spec)(whole, np.random.default_rng(0))  # type: ignore
        for flip in (0.0, 1.0)
    }
    for name in shown[0.0]:
        assert torch.equal(shown[0.0][name], shown[1.0][name].flip(-1))
        assert not torch.equal(shown[0.0][name], shown[1.0][name])


@pytest.mark.parametrize("length", [1, 3, 8, 57, 300])
def test_windows_are_shares_of_the_clip(length: int) -> None:
    config = ViewConfig(global_share=0.75, local_share=0.25)
    rng = np.random.default_rng(0)
    last = length - 1
    assert global_windows(length, config) == [(0, 0.75 * last), (0.25 * last, last)]
    for start, stop in [local_window(length, config, rng) for _ in range(50)]:
        assert 0 <= start <= stop <= last + 1e-9
        assert stop - start == pytest.approx(0.25 * last)
    if length == 57:
        assert len({local_window(length, config, rng)[0] for _ in range(50)}) == 50
        assert window_indices(*global_windows(length, config)[1], 4, length).tolist() == [14, 28, 42, 56]


def test_impossible_options_are_refused() -> None:
    with pytest.raises(UserError, match="svt trains timesformer encoders, not MViTEncoder"):
        SVT(create_model("mvit_tiny"), SVTConfig())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="local_size=36 is no multiple of the patch, 8"):
        small_recipe(video={"local_size": 36})
    with pytest.raises(UserError, match="views=code_rand_fr has views of quarters of the encoder's frames=6"):
        view_groups("code_rand_fr", 6, 32, 16)
    assert view_groups("code", 6, 32, 16)[0].frames == 6
    with pytest.raises(ValidationError, match="local_area must be two shares"):
        ViewConfig(local_area=(0.4, 0.1))
    with pytest.raises(ValidationError, match="colours must be"):
        ViewConfig(colours=(0.4, 0.4, 2.0))


# Teacher, centre and prototypes ---------------------------------------------------------------------------------------


def test_teacher_follows_the_student_and_is_what_is_exported() -> None:
    recipe = small_recipe(teacher_momentum=0.75)
    assert recipe.exported is not recipe.encoder
    assert not any(parameter.requires_grad for parameter in recipe.teacher.parameters())
    before = recipe.exported.norm.weight.clone()
    with torch.no_grad():
        recipe.encoder.norm.weight.add_(1)
    recipe.after_step(1, 100)
    assert torch.allclose(recipe.exported.norm.weight, before + 0.25)
    recipe.after_step(101, 100)  # at the end of the schedule it stays
    assert torch.allclose(recipe.exported.norm.weight, before + 0.25)  # type: ignore[arg-type]


def test_teacher_drops_no_paths() -> None:
    encoder = create_model("timesformer_tiny", frames=4, size=32, drop_path=0.9)
    recipe = SVT(encoder, SVTConfig(prototypes=8, hidden_dim=8, bottleneck_dim=4, video={"local_size": 16})).train()
    assert recipe.encoder.training
    assert not any(module.training for module in recipe.teacher.modules())
    clip = torch.randn(2, 3, 4, 32, 32)
    assert torch.equal(recipe.exported(clip), recipe.exported(clip))


def test_a_view_is_not_compared_with_itself() -> None:
    student = torch.randn(3, 5, 7)
    teacher = torch.randn(3, 2, 7).softmax(dim=-1)
    terms = [
        -(teacher[:, g] * student[:, v].log_softmax(dim=-1)).sum(dim=-1).mean()
        for g in range(2)
        for v in range(5)
        if g != v
    ]
    assert len(terms) == 8
    assert dino_loss(student, teacher).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-6)


def test_parts_of_a_step_move_the_centre_once() -> None:
    scores = torch.randn(6, 2, 5)
    whole, parts = Centre(5, 0.9), Centre(5, 0.9)
    whole.note(scores)
    for part in scores.split([4, 2]):
        parts.note(part)
    whole.update()
    parts.update()
    parts.update()  # nothing new: nothing moves
    assert torch.allclose(whole.value, 0.1 * scores.mean(dim=(0, 1)), atol=1e-7)
    assert torch.allclose(parts.value, whole.value)


def test_prototypes_are_held_in_the_first_epoch() -> None:
    recipe = small_recipe()
    optimizer = build_optimizer(OPTIM, parameter_groups(recipe, OPTIM))
    start = recipe.head.last_layer.weight.clone()
    batch = small_batch(recipe)
    for step in range(2):
        train_step(recipe, optimizer, batch, step, 6)
        assert torch.equal(recipe.head.last_layer.weight, start)
    train_step(recipe, optimizer, batch, 2, 6)
    assert not torch.equal(recipe.head.last_layer.weight, start)


def test_gradient_reaches_every_parameter_of_the_student_alone() -> None:
    recipe = small_recipe()
    recipe(small_batch(recipe))["loss"].backward()
    for name, parameter in recipe.named_parameters():
        if name.startswith("teacher."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_half_precision_ends_at_the_prototypes() -> None:
    recipe = small_recipe()
    batch = small_batch(recipe)
    full = recipe(batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = recipe(batch)
    assert all(value.dtype == torch.float32 for value in half.values())
    assert half["loss"].item() == pytest.approx(full.item(), rel=0.02)


def test_pictures_show_the_views_and_where_the_teacher_looks() -> None:
    recipe = small_recipe().eval()
    batch = small_batch(recipe)
    panels = recipe.pictures(batch)
    assert list(panels)[:3] == ["global view of 2 frames", "global view of 4 frames", "local view of 1 frames"]
    first, looks = panels["global view of 2 frames"], panels["attention of the teacher"]
    assert first.shape == looks.shape == (4, 32, 32, 3)
    assert np.array_equal(first, batch["global_2"][:, 0, :, 1].permute(0, 2, 3, 1).numpy())
    assert all(image.dtype == np.uint8 for image in panels.values())
    patches = (looks == first).all(axis=-1).reshape(4, 4, 8, 4, 8).all(axis=(2, 4))
    assert patches.any(axis=(1, 2)).all()  # the patch looked at most is shown as it is
    assert not patches.all(axis=(1, 2)).any()


def test_collapse_measures_show_a_collapse() -> None:
    recipe = small_recipe()
    apart = recipe.collapse_measures(torch.eye(24)[:6, None], torch.eye(32)[:6, None])
    assert apart["feature_std"].item() == pytest.approx(math.sqrt(5 / 6), rel=1e-5)
    assert apart["feature_rank"].item() == pytest.approx(5, rel=1e-4)
    assert apart["teacher_entropy"] == 0
    alike = recipe.collapse_measures(torch.ones(6, 1, 24), torch.full((6, 1, 32), 1 / 32))
    assert alike["feature_std"] < 1e-6
    assert alike["teacher_entropy"].item() == pytest.approx(math.log(32))
    line = recipe.collapse_measures(
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(3, 1)[:, None], torch.eye(32)[:6, None]
    )
    assert line["feature_rank"].item() == pytest.approx(1, rel=1e-4)


def test_it_learns_without_collapse() -> None:
    recipe = small_recipe(views="code", freeze_last_layer=0, teacher_momentum=0.9)
    optimizer = build_optimizer(OPTIM, parameter_groups(recipe, OPTIM))
    batch = small_batch(recipe)
    before = recipe(batch)
    for step in range(15):
        train_step(recipe, optimizer, batch, step, 15)
    after = recipe(batch)
    # The loss is the teacher's entropy and what the student's distributions are away from the teacher's.
    assert after["loss"] - after["teacher_entropy"] < 0.4 * (before["loss"] - before["teacher_entropy"])
    assert after["feature_std"] > 0.3
    assert after["feature_rank"] > 1.2


def test_a_run_leaves_the_teacher(mini_corpus: Path, tmp_path: Path) -> None:
    run_pretrain(smallest_config("svt", mini_corpus / "manifest.csv", tmp_path / "run", health={"looks": 0}))
    saved, exported = latest_checkpoint(tmp_path / "run"), load_file(tmp_path / "run" / ENCODER)
    (stage,) = json.loads(read_metadata(tmp_path / "run" / ENCODER)["pretraining"])
    assert stage["pretext"].startswith(("learned", "not learned: "))
    assert saved is not None
    assert saved["module"]["centre.value"].abs().max() > 0
    assert all(torch.equal(value, saved["module"][f"teacher.encoder.{name}"]) for name, value in exported.items())
    assert not torch.equal(exported["norm.weight"], saved["module"]["encoder.norm.weight"])
