"""SVT: match a student's distribution of many views of a clip to its teacher's (Ranasinghe et al., arXiv 2112.01514).

DINO (arXiv 2104.14294) on video: two global views cover nearly the whole clip, eight local ones a short window and a
small crop. The student encodes all views, the teacher the global ones; the student's distribution over prototypes of
each view is trained towards the teacher's of the other views. The teacher is the running mean of the student and is
exported, because SVT fine-tunes the teacher. The numbers are kahnchana/svt's.

Deviations: the teacher is in evaluation mode, as DINO's is; the original's never leaves training mode and drops paths
at random. Windows are shares of the clip, because a trim of 5 frames is a fifth of a short sign
(`video.windows: frames` is the original's). Views are not mirrored. bf16 instead of fp16, so no loss scaling.

Shapes: B clips, V views of which the first G are global, D feature width, K prototypes.
"""

import copy
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from islr.checks.goal import Goal
from islr.data.loading.loader import Batch
from islr.data.views.input_spec import InputSpec
from islr.data.views.views import View
from islr.errors import UserError
from islr.evaluation.pretext import Trivial
from islr.models.encoder import to_input
from islr.models.timesformer import TimeSformer
from islr.training.distributed.collectives import share
from islr.training.optim import cosine
from pretrain.pictures import VISIBLE_DIM
from pretrain.recipe import Recipe, RecipeConfig
from pretrain.targets.dino import Centre, DINOHead, dino_loss
from pretrain.views.svt import ViewConfig, ViewGroup, ViewSet, svt_view, view_groups

GOAL_SHARE = 2 / 3  # of the distance from a constant student to the teacher that `islr check` lets be left


class SVTConfig(RecipeConfig):
    """Options of SVT; the defaults are those of kahnchana/svt."""

    name: Literal["svt"] = "svt"
    views: ViewSet = Field("code_rand_fr", description="frame counts of the views: pretrain/views/svt.py")
    video: ViewConfig = ViewConfig()
    prototypes: int = Field(65536, ge=2)
    hidden_dim: int = Field(2048, ge=1)
    bottleneck_dim: int = Field(256, ge=1)
    student_temperature: float = Field(0.1, gt=0)
    teacher_temperature: float = Field(0.04, gt=0)
    centre_momentum: float = Field(0.9, ge=0, lt=1)
    teacher_momentum: float = Field(0.996, ge=0, lt=1, description="at the first step; 1 at the last, by a cosine")
    freeze_last_layer: float = Field(1, ge=0, description="epochs in which the prototypes stay as they are")


def groups_of(config: SVTConfig, spec: InputSpec) -> list[ViewGroup]:
    """Return the groups of views that a batch holds."""
    return view_groups(config.views, spec.frames, spec.size, config.video.local_size)


class SVT(Recipe):
    """Student encoder and head, their running means, and the centre of the teacher's scores.

    Raises:
        UserError: The encoder is no TimeSformer, or its patches do not divide the size of local views.
    """

    Config = SVTConfig
    modality = "video"
    encoder: TimeSformer
    trivial_predictors: ClassVar = {"uniform_teacher": Trivial("every prototype alike")}

    @staticmethod
    def views(config: SVTConfig, input_spec: InputSpec) -> View:
        """Return the view of all views of a clip, grouped by shape."""
        return svt_view(groups_of(config, input_spec), config.video)

    @classmethod
    def smallest(cls, folder: Path) -> dict[str, Any]:
        """Return a tiny TimeSformer with 32 prototypes and views of four frames."""
        video = {"local_size": 16, "local_area": [0.3, 0.6]}
        sizes = {"prototypes": 32, "hidden_dim": 32, "bottleneck_dim": 16}
        return {
            "recipe": {"name": "svt", "views": "code", "video": video, **sizes},
            "encoder": {"name": "timesformer_tiny", "arguments": {"frames": 4, "size": 32}},
        }

    def __init__(self, encoder: TimeSformer, config: SVTConfig) -> None:
        super().__init__()
        if not isinstance(encoder, TimeSformer):
            raise UserError(f"svt trains timesformer encoders, not {type(encoder).__name__}")
        if config.video.local_size % encoder.patch_size:
            raise UserError(f"local_size={config.video.local_size} is no multiple of the patch, {encoder.patch_size}")
        self.encoder, self.config = encoder, config
        self.groups = groups_of(config, encoder.input_spec)
        self.head = DINOHead(encoder.dim, config.prototypes, config.hidden_dim, config.bottleneck_dim)
        self.teacher = nn.ModuleDict({"encoder": copy.deepcopy(encoder), "head": copy.deepcopy(self.head)})
        self.teacher.requires_grad_(False)
        self.centre = Centre(config.prototypes, config.centre_momentum)

    @property
    def exported(self) -> TimeSformer:
        """The encoder that a run leaves behind: the teacher's."""
        teacher = self.teacher["encoder"]
        assert isinstance(teacher, TimeSformer)
        return teacher

    def train(self, mode: bool = True) -> "SVT":
        """Set the student's mode as `nn.Module.train` does; leave the teacher in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, and the measures of `collapse_measures`."""
        return self.compare(self.clips(batch))

    def trivial(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of a student to which all prototypes are alike, log K, whatever the teacher says."""
        return {"uniform_teacher": self.centre.value.new_tensor(math.log(self.config.prototypes))}

    @torch.no_grad()
    def goal(self, batch: Batch) -> Goal:
        """Return a third of the way from one distribution for all clips to the teacher's of each clip.

        At the start the teacher's distributions nearly agree, and its global views disagree; less can be gained than
        by a recipe with fixed targets. The teacher does not move in the check.
        """
        _, _, target = self.taught(self.clips(batch))  # [B, G, K]
        constant = float(torch.special.entr(target.mean(dim=(0, 1))).sum())
        apart = float(torch.special.entr(target.mean(dim=1)).sum(dim=-1).mean())
        reason = (
            f"a third of the way from one distribution for all clips ({constant:.3g}) to one for each ({apart:.3g})"
        )
        return Goal("loss", apart + GOAL_SHARE * (constant - apart), reason)

    def clips(self, batch: Batch) -> dict[str, Tensor]:
        """Return the batch's views, normalised: `[B, views, 3, t, h, w]` for each group."""
        spec = self.encoder.input_spec
        clips = {}
        for group in self.groups:
            flat = to_input(batch[group.name].flatten(0, 1), spec)  # [B * views, 3, t, h, w]
            clips[group.name] = flat.unflatten(0, (-1, group.views))
        return clips

    def compare(self, clips: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the result of `forward` for normalised views `[B, views, 3, t, h, w]`."""
        features, scores, target = self.taught(clips)
        prediction = self.head(self.features(self.encoder, clips, self.groups))  # [B, V, K]
        if self.training:
            self.centre.note(scores)
        with torch.autocast(prediction.device.type, enabled=False):  # sums here have 65,536 terms
            loss = dino_loss(prediction / self.config.student_temperature, target) * share(len(prediction))
            return {"loss": loss} | self.collapse_measures(features.float(), target)

    @torch.no_grad()
    def taught(self, clips: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the teacher's features `[B, G, D]` of the global views, scores, and probabilities `[B, G, K]`."""
        global_groups = [group for group in self.groups if group.is_global]
        features = self.features(self.exported, clips, global_groups)
        scores = self.teacher["head"](features)
        return features, scores, ((scores - self.centre.value) / self.config.teacher_temperature).softmax(dim=-1)

    @staticmethod
    def features(encoder: nn.Module, clips: dict[str, Tensor], groups: list[ViewGroup]) -> Tensor:
        """Return the class tokens of the views of some groups, in their order, `[B, V, D]`; one pass per shape."""
        parts = [encoder(clips[group.name].flatten(0, 1)).unflatten(0, (-1, group.views)) for group in groups]
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def collapse_measures(self, features: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the measures that reveal a collapse.

        If the teacher's distribution is the same for all clips, either one prototype wins: `prototype_entropy`, that of
        the mean over clips, falls to 0 and `centre_norm` grows; or none does: `teacher_entropy` rises to log K. If its
        features agree, `feature_std`, their distance from their mean on the unit sphere, falls to 0. If they differ in
        few directions, `feature_rank`, at most B - 1, falls to 1.

        Args:
            features: The teacher's `[B, G, D]`.
            target: Its probabilities `[B, G, K]`.
        """
        unit = nn.functional.normalize(features.mean(dim=1), dim=-1)  # [B, D], one per clip
        apart = unit - unit.mean(dim=0)
        gram = apart @ apart.t()  # its eigenvalues are those of the covariance; their participation ratio is the rank
        return {
            "teacher_entropy": torch.special.entr(target).sum(dim=-1).mean(),
            "prototype_entropy": torch.special.entr(target.mean(dim=(0, 1))).sum(),
            "centre_norm": self.centre.value.norm(),
            "feature_std": apart.square().mean(dim=0).sum().sqrt(),
            "feature_rank": gram.trace().square() / gram.square().sum().clamp(min=torch.finfo(gram.dtype).tiny),
        }

    def before_update(self, epoch: float) -> None:
        """Freeze the prototypes in the first epochs (DINO's freeze_last_layer) by dropping their gradient."""
        if epoch < self.config.freeze_last_layer:
            self.head.last_layer.weight.grad = None

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> None:
        """Update teacher and centre; `step` counts from 1, the schedule from 0."""
        momentum = cosine(self.config.teacher_momentum, 1.0, (step - 1) / total)
        student = [*self.encoder.parameters(), *self.head.parameters()]
        get_ema_multi_avg_fn(momentum)(list(self.teacher.parameters()), student, None)
        self.centre.update()

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return the middle frame of one view of every group, and the teacher's attention in the first one.

        In the last panel, brightness is the class token's attention to a patch, mean over heads, relative to the
        maximum.
        """
        panels = {}
        for group in self.groups:
            kind = "global" if group.is_global else "local"
            panels[f"{kind} view of {group.frames} frames"] = _middle_frames(batch[group.name][:, 0])
        clip = batch[self.groups[0].name][:, 0]
        attention = self.exported.class_attention(to_input(clip, self.encoder.input_spec))  # [B, T, A, h, w]
        attention = attention[:, clip.shape[2] // 2].mean(dim=1)
        attention = attention / attention.amax(dim=(1, 2), keepdim=True)
        bright = nn.functional.interpolate(attention[:, None], size=clip.shape[3:], mode="nearest")[:, 0, ..., None]
        shown = _middle_frames(clip) * (VISIBLE_DIM + (1 - VISIBLE_DIM) * bright.cpu().numpy())
        panels["attention of the teacher"] = np.rint(shown).astype(np.uint8)
        return panels


def _middle_frames(clips: Tensor) -> np.ndarray:
    """uint8 `[B, 3, T, H, W]` -> `[B, H, W, 3]`."""
    return clips[:, :, clips.shape[2] // 2].permute(0, 2, 3, 1).cpu().numpy()
