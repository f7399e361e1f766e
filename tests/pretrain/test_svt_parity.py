"""SVT: parity with the recorded original: head, loss, frames, schedules, and whole steps."""

import json
import math
import re
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.oracle_helpers import Differences, oracle_entry, oracle_file, state_of
from torch import Tensor

from islr.models.layouts import LAYOUTS, load_layout
from islr.models.timesformer import TimeSformer
from islr.training.optim import (
    OptimConfig,
    build_optimizer,
    clip_gradients,
    cosine,
    learning_rate,
    parameter_groups,
    set_weight_decay,
)
from pretrain.svt import SVT, SVTConfig
from pretrain.targets.dino import Centre, DINOHead, dino_loss
from pretrain.views.svt import ViewConfig, ViewGroup, global_windows, local_window, window_indices

PARITY = 1e-5


def head_of(state: dict[str, Tensor]) -> DINOHead:
    """The original's head, whose prototypes' lengths are one."""
    assert torch.equal(state["last_layer.weight_g"], torch.ones_like(state["last_layer.weight_g"]))
    prototypes, bottleneck = state["last_layer.weight_v"].shape
    hidden, dim = state["mlp.0.weight"].shape
    head = DINOHead(dim, prototypes, hidden, bottleneck)
    own = {name: value for name, value in state.items() if not name.startswith("last_layer.")}
    head.load_state_dict(own | {"last_layer.weight": state["last_layer.weight_v"]})
    return head


@pytest.mark.oracle
def test_head_is_svt_s(oracles: Path, differences: Differences) -> None:
    _, tensors = oracle_entry(oracles, "svt_dino_head.safetensors", "svt_bevt")
    differences.within("scores", head_of(state_of(tensors))(tensors["x"]), tensors["y"], absolute=PARITY)


@pytest.mark.oracle
def test_loss_and_centre_are_svt_s(oracles: Path, differences: Differences) -> None:
    entry, tensors = oracle_entry(oracles, "svt_dino_loss.safetensors", "svt_bevt")
    params = entry["params"]

    def by_clip(scores: Tensor) -> Tensor:
        return scores.unflatten(0, (-1, params["batch"])).transpose(0, 1)  # [B, V, K]

    teacher = by_clip(tensors["teacher_output"])
    student = tensors["student_output"].clone().requires_grad_()
    assert by_clip(student).shape[1] == params["ncrops"]
    centre = Centre(params["out_dim"], params["center_momentum"])
    cold = (teacher / params["warmup_teacher_temp"]).softmax(dim=-1)
    loss = dino_loss(by_clip(student) / params["student_temp"], cold)
    losses = {"centre 0": (loss, tensors["loss_defaults_center0"])}
    centre.note(teacher)
    centre.update()
    centres = {"centre 0": (centre.value.clone(), tensors["center_defaults_after"][0])}
    centre.value.copy_(tensors["center_init"][0])
    for epoch, temperature in enumerate(tensors["teacher_temp_schedule"]):
        wanted = ((teacher - centre.value) / temperature).softmax(dim=-1)
        loss = dino_loss(by_clip(student) / params["student_temp"], wanted)
        losses[f"epoch {epoch}"] = (loss, tensors["loss_by_epoch"][epoch])
        if epoch == 0:
            (gradient,) = torch.autograd.grad(loss, student)
            differences.within("gradient of scores", gradient, tensors["student_grad_epoch0"], absolute=PARITY)
        centre.note(teacher)
        centre.update()
        centres[f"epoch {epoch}"] = (centre.value.clone(), tensors["center_after_epoch"][epoch, 0])
    differences.all_within("loss", losses, relative=1e-6)
    differences.all_within("centre", centres, absolute=PARITY)


class _At:
    """A generator that draws one given start."""

    def __init__(self, start: int) -> None:
        self.start = start

    def integers(self, high: int) -> int:
        assert 0 <= self.start < high
        return self.start


@pytest.mark.oracle
def test_frames_are_svt_s(oracles: Path) -> None:
    tensors = load_file(oracle_file(oracles, "svt_temporal_views.safetensors", "svt_bevt"))
    config = ViewConfig(windows="frames")
    assert tensors
    for name, expected in tensors.items():
        found = re.fullmatch(r"(g1|g2|local)_?(\d+)\.(\d+)(?:\.start(\d+))?", name)
        assert found, name
        frames, length = int(found[2]), int(found[3])
        if found[1] == "local":
            window = local_window(length, config, _At(int(found[4])))  # type: ignore[arg-type]
        else:
            window = global_windows(length, config)[int(found[1][1]) - 1]
        assert window_indices(*window, frames, length).tolist() == expected.tolist(), name


@pytest.mark.oracle
def test_schedules_are_svt_s(oracles: Path) -> None:
    entry, tensors = oracle_entry(oracles, "svt_schedules.safetensors", "svt_bevt")
    params = entry["params"]
    numbers = {name: [float(x) for x in re.findall(r"[\d.]+(?:e-?\d+)?", params[name])] for name in ("lr", "wd", "mom")}
    total = params["epochs"] * params["niter_per_ep"]
    for name in ("wd", "mom"):
        ours = [cosine(*numbers[name], step / total) for step in range(total)]
        assert np.abs(np.array(ours) - tensors[f"f64.{name}"].numpy()).max() < 1e-12
    base, batch, reference, low, warmup = numbers["lr"]
    optim = OptimConfig(
        lr=base,
        lr_batch=round(reference),
        batch_size=round(batch),
        min_lr=low * reference / batch,
        start_lr=0,
        epochs=params["epochs"],
        warmup_epochs=warmup,
        weight_decay=numbers["wd"][0],
        weight_decay_end=numbers["wd"][1],
    )
    ours = np.array([learning_rate(optim, step / params["niter_per_ep"]) for step in range(total)])
    theirs = tensors["f64.lr"].numpy()
    first = round(warmup * params["niter_per_ep"])
    assert np.abs(ours[first:] - theirs[first:]).max() < 1e-12
    # Deviation: the original reaches the full rate one step before the end of the warm-up, and keeps it for that step.
    assert np.abs(ours[:first] - theirs[:first] * (first - 1) / first).max() < 1e-12
    group = {"params": [torch.nn.Parameter(torch.zeros(1))], "weight_decay": optim.weight_decay}
    optimizer = build_optimizer(optim, [group, {"params": [torch.nn.Parameter(torch.zeros(1))], "weight_decay": 0.0}])
    set_weight_decay(optimizer, optim, 0.5)
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(tensors["f64.wd"][total // 2].item())
    assert optimizer.param_groups[1]["weight_decay"] == 0


def to_svt(name: str) -> str:
    """The original's name of one of the student's parameters."""
    name = re.sub(r"^encoder\.", "backbone.", name)
    return name.replace("last_layer.weight", "last_layer.weight_v")


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["fixed", "varyfr"])
def test_a_step_is_svt_s(oracles: Path, differences: Differences, kind: str) -> None:
    entry, tensors = oracle_entry(oracles, f"svt_step_{kind}.safetensors", "svt_bevt")
    index = json.loads(oracle_file(oracles, "index.json", "svt_bevt").read_text())
    heads = index["svt_timesformer_tiny"]["params"]["num_heads"]
    momentum = float(re.findall(r"EMA momentum ([\d.]+) ", entry["how"])[0])
    states = {
        role: {name.removeprefix(f"{role}."): v for name, v in state_of(tensors).items() if name.startswith(role)}
        for role in ("student", "teacher")
    }
    # The file holds the teacher after the step, in which the student was not changed.
    after, student_state = states["teacher"], states["student"]
    states["teacher"] = {
        name: value if name.endswith("weight_g") else (value - (1 - momentum) * student_state[name]) / momentum
        for name, value in after.items()
    }
    networks: dict[str, tuple[TimeSformer, DINOHead]] = {}
    for role, whole in states.items():
        dim, _, patch, _ = whole["backbone.patch_embed.proj.weight"].shape
        encoder = TimeSformer(
            frames=whole["backbone.time_embed"].shape[1],
            size=patch * math.isqrt(whole["backbone.pos_embed"].shape[1] - 1),
            patch_size=patch,
            dim=dim,
            depth=len({name.split(".")[2] for name in whole if name.startswith("backbone.blocks.")}),
            heads=heads,
        )
        left = load_layout(encoder, whole, LAYOUTS["svt"], "oracle").left
        networks[role] = (encoder, head_of({name.removeprefix("head."): value for name, value in left.items()}))

    # The views as groups of one shape, in the order of the file.
    batch = len(tensors["view0"])
    globals_there = len(tensors["teacher_out"]) // batch
    numbered = [(number < globals_there, tensors[f"view{number}"]) for number in range(len(entry["frames"]))]
    groups, clips = [], {}
    for (is_global, frames), members in groupby(numbered, key=lambda view: (view[0], view[1].shape[2])):
        stacked = torch.stack([view for _, view in members], dim=1)  # [B, views, 3, t, h, w]
        groups.append(ViewGroup(f"{is_global}{frames}", frames, stacked.shape[-1], stacked.shape[1], is_global))
        clips[groups[-1].name] = stacked
    assert [group.frames for group in groups for _ in range(group.views)] == entry["frames"]

    recipe = SVT(networks["student"][0], SVTConfig(video={"local_size": groups[-1].size}, teacher_momentum=momentum))
    recipe.head, recipe.centre = (
        networks["student"][1],
        Centre(tensors["center_after"].shape[1], SVTConfig().centre_momentum),
    )
    recipe.teacher = torch.nn.ModuleDict(dict(zip(("encoder", "head"), networks["teacher"], strict=True)))
    recipe.teacher.requires_grad_(False)
    recipe.groups = groups
    recipe.train()

    def view_major(scores: Tensor) -> Tensor:
        return scores.transpose(0, 1).flatten(0, 1)  # [V * B, K]

    student = recipe.head(recipe.features(recipe.encoder, clips, groups))
    teacher = recipe.teacher["head"](recipe.features(recipe.exported, clips, [g for g in groups if g.is_global]))
    differences.within("student's scores", view_major(student), tensors["student_out"], absolute=PARITY)
    differences.within("teacher's scores", view_major(teacher), tensors["teacher_out"], absolute=PARITY)
    loss = recipe.compare(clips)["loss"]
    differences.within("loss", loss, tensors["loss"], relative=1e-6)
    loss.backward()

    gradients = {to_svt(name): p.grad for name, p in recipe.named_parameters() if p.grad is not None}
    assert set(gradients) == set(entry["grad_norm_names"])
    norms = torch.stack([gradients[name].norm() for name in entry["grad_norm_names"]])
    differences.within("gradient norms", norms, tensors["grad_norms"], absolute=PARITY)
    (clipped,) = [name for name in tensors if name.startswith("grad_norms_clipped_")]
    limit = float(clipped.rpartition("_")[2])
    optim = OptimConfig(lr=1e-3, epochs=1, batch_size=1, clip_grad=limit, clip_mode="parameter")
    together = clip_gradients(recipe.parameters(), optim)
    assert together.item() == pytest.approx(tensors["grad_norms"].square().sum().sqrt().item(), rel=1e-5)
    norms = torch.stack([gradients[name].norm() for name in entry["grad_norm_names"]])
    differences.within("gradient norms, clipped", norms, tensors[clipped], absolute=PARITY)
    pairs = {name: (gradients[f"backbone.{name}"], tensors[f"grad_{name}"]) for name in ("cls_token", "time_embed")}
    differences.all_within("gradients", pairs, absolute=PARITY)

    recipe.after_step(1, 1000)
    pairs = {name: (value, after[to_svt(name)]) for name, value in recipe.teacher.named_parameters()}
    differences.all_within("teacher after the step", pairs, absolute=PARITY)
    assert torch.equal(after["backbone.time_embed"], tensors["teacher_after.time_embed"])
    differences.within("centre", recipe.centre.value, tensors["center_after"], absolute=PARITY)
    of = {decayed: set[str]() for decayed in (True, False)}
    for group in parameter_groups(recipe, optim):
        of[group["decays"]] |= {to_svt(name) for name in group["names"]}
    assert of[True] == set(entry["decay"])
    assert of[False] == set(entry["no_decay"])
