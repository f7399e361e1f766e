"""What every encoder offers, and the classifier built on one.

Shapes: B batch, C = 3 channels, T frames, H, W, N tokens, D width. Video is `[B, C, T, H, W]`, poses `[B, T,
75, 3]`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # the common base of BatchNorm1d-3d and SyncBatchNorm
from torch.utils.checkpoint import checkpoint

from islr.config import Config
from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models.front_end import RGB, Input, with_change

NORM_EPS = 1e-6  # of every LayerNorm here, as in the MViT and ViT families
INIT_STD = 0.02  # of truncated normals, as in the same families
FAN_IN_POSITION_STD = 0.5  # of learned positions where layers start at 1 / sqrt(inputs): half of what tokens vary by

# Mean and std per channel of pixels scaled to 0..1, by the name of those who train with them.
Normalisation = Literal["imagenet", "kinetics", "slowfast", "half", "centred"]
NORMALISATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "kinetics": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),  # torchvision's convolutional networks
    "slowfast": ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),  # its configs' DATA.MEAN and DATA.STD
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # pixels in -1..1
    "centred": ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0)),  # pixels in -0.5..0.5: BSL-1K's I3D
}

HeadNorm = Literal["layer", "batch"]


class EncoderConfig(Config):
    """Which encoder a run builds, and the weights it starts from."""

    name: str
    weights: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)


def to_input(clip: Tensor, spec: InputSpec) -> Tensor:
    """Turn a batch's clip into what an encoder takes.

    Args:
        clip: uint8 `[B, 3, T, H, W]` for video, float `[B, T, 75, 3]` for poses.
        spec: The encoder's input.

    Returns:
        Float, in the spec's order of colours and normalised by its mean and std for video; poses pass through.
    """
    if spec.modality == "pose":
        return clip
    assert clip.dtype == torch.uint8, f"video arrives as uint8, not {clip.dtype}"
    if spec.channels == "bgr":
        clip = clip.flip(1)
    mean = torch.tensor(spec.mean, device=clip.device).view(-1, 1, 1, 1)
    std = torch.tensor(spec.std, device=clip.device).view(-1, 1, 1, 1)
    return (clip.float() / 255 - mean) / std


def interpolate_positions(table: Tensor, length: int) -> Tensor:
    """Resize a table of learned positions `[L, D]` to `[length, D]`: linear, as SlowFast does."""
    resized = nn.functional.interpolate(table.float().t()[None], size=length, mode="linear")  # [1, D, length]
    return resized[0].t().to(table.dtype).contiguous()


class Encoder(nn.Module, ABC):
    """Base of every encoder: one vector per clip, the tokens of every layer, and the layer that a parameter is in.

    Attributes:
        architecture: The registry name it was made by; empty when made directly.
        arguments: Everything `create_model` needs, beside the name, to build it again.
        input_spec: The clip it takes.
        input: What its first layer sees of a clip (`islr/models/front_end.py`).
        dim: Width of `forward`'s result.
        layer_dims: Width of each block's tokens, in order.
        checkpointing: Keep only the input of each block for the backward pass and compute the rest again
            (arXiv 1604.06174): less memory, about a third more time. Same numbers.
        frozen: Set by `freeze`.
        frozen_parts: Names of the largest modules without a parameter that trains, where `freeze` left others.
        source: Whose architecture it is: paper, and code where it follows one.
        batch_norm: In training a clip's result depends on the others of its batch, through BatchNorm.
        retired: Parameters of earlier versions -> what they were and what to do; files that hold one are refused.
    """

    architecture: str = ""
    arguments: Mapping[str, Any]
    input_spec: InputSpec
    input: Input = RGB
    dim: int
    layer_dims: list[int]
    checkpointing: bool = False
    frozen: bool = False
    frozen_parts: tuple[str, ...] = ()
    source: str
    batch_norm: bool = False
    retired: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def forward(self, clip: Tensor) -> Tensor:
        """Encode normalised clips into `[B, dim]`."""

    @abstractmethod
    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """Return tokens after every block, `[B, N_l, D_l]` each, special tokens removed."""

    @abstractmethod
    def layer_of(self, parameter_name: str) -> int:
        """Return the depth of a parameter for layer-wise learning rates: 0 = embeddings, i + 1 = block i."""

    def resize_parameter(self, name: str, value: Tensor, shape: torch.Size) -> Tensor | None:
        """Stored `value` made to fit an input of another size, or None where the size may not differ.

        Args:
            name: Parameter name.
            value: Stored tensor.
            shape: The shape this encoder has.
        """
        return None

    def freeze(self, blocks: int | None = None) -> None:
        """Freeze the encoder: no gradients, and evaluation mode even inside a module that trains.

        Without the latter, BatchNorm would go on counting batches and a clip's features depend on its neighbours.

        Args:
            blocks: Only the embeddings and this many blocks, as `layer_of` counts; none = all of it.

        Raises:
            UserError: There are not that many blocks, or none would be left to train.
        """
        if blocks is None:
            self.requires_grad_(False)
            self.frozen = True
            self.eval()
            return
        if not 0 < blocks < len(self.layer_dims):
            raise UserError(
                f"{self.architecture or type(self).__name__} has {len(self.layer_dims)} blocks: 1 to "
                f"{len(self.layer_dims) - 1} can be frozen, not {blocks} (all of it: a linear probe)"
            )
        for name, parameter in self.named_parameters():
            if self.layer_of(name) <= blocks:
                parameter.requires_grad_(False)
        self.frozen_parts = tuple(_frozen_parts(self))
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training mode as `nn.Module`; frozen modules stay in evaluation mode."""
        super().train(mode and not self.frozen)
        for name in self.frozen_parts:
            self.get_submodule(name).eval()
        return self

    def run_block(self, block: Callable[..., Any], *inputs: Any) -> Any:
        """Run `block(*inputs)`; with `checkpointing` and gradients enabled, without keeping its activations."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return block(*inputs)
        if self.batch_norm and self.training and not torch.compiler.is_compiling():  # a compiler counts once by itself
            return checkpoint(block, *inputs, use_reentrant=False, context_fn=self._checkpoint_contexts)
        return checkpoint(block, *inputs, use_reentrant=False)

    def _checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Around a block's first pass, and around the one that the backward pass makes."""
        return nullcontext(), _statistics_kept(self)

    def front_end(self, clip: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return the channels that the first layer takes, of normalised clips `[B, 3, T, H, W]`.

        Args:
            clip: As a view delivers it, normalised.
            hidden: bool `[B, t, h, w]`, cells that the first layer's other channels must not depend on.
        """
        return clip if self.input == RGB else with_change(clip, hidden)

    @property
    def num_layers(self) -> int:
        """Return the number of depths: the embeddings, each block, and the head with its norm."""
        return len(self.layer_dims) + 2

    def check_clip(self, clip: Tensor) -> None:
        """Refuse a clip of another size: position embeddings fit one size only.

        Raises:
            UserError: Names both shapes.
        """
        if tuple(clip.shape[1:]) != self.input_spec.clip_shape:
            raise UserError(
                f"{self.architecture or type(self).__name__} takes clips of shape "
                f"{list(self.input_spec.clip_shape)}, not {list(clip.shape[1:])}; "
                "build it with other arguments or change the view"
            )


def _frozen_parts(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Return the names of the largest modules inside `module` that have parameters, all of them frozen."""
    for name, child in module.named_children():
        trained = [parameter.requires_grad for parameter in child.parameters()]
        if any(trained):
            yield from _frozen_parts(child, f"{prefix}{name}.")
        elif trained:
            yield prefix + name


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's running statistics unchanged within; in training it still normalises by the batch.

    They move by nothing rather than being taken away: a checkpoint expects the second pass to save what the first did.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, BatchNorm) and norm.track_running_stats]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


@contextmanager
def running_statistics(module: nn.Module, use: bool) -> Iterator[None]:
    """Let batch norms normalise by their running statistics within, where `use` says so: one clip is no batch."""
    norms = [
        norm
        for norm in (module.modules() if use else ())
        if isinstance(norm, BatchNorm) and norm.training and norm.track_running_stats
    ]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


class Classifier(nn.Module):
    """Pooled tokens -> norm -> Linear (MaskFeat fine-tuning, arXiv 2112.09133 section 4, has LayerNorm).

    Args:
        encoder: Its `forward` gives the pooled tokens.
        num_classes: Width of the result.
        dropout: Applied before the linear layer.
        head_init_scale: Multiplies the fresh head, so that training starts near uniform scores.
        norm: `layer`, or `batch`: a BatchNorm without affine parameters (as in MAE's probes, arXiv 2111.06377
            A.1). It removes what all clips have in common, which for signers before a camera is most of the
            features; training from few clips then starts at once.

    Raises:
        UserError: Another `norm`.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        dropout: float = 0.0,
        head_init_scale: float = 0.001,
        norm: HeadNorm = "layer",
    ) -> None:
        super().__init__()
        if norm not in ("layer", "batch"):
            raise UserError(f"norm='{norm}' is unknown; it is one of layer, batch")
        self.encoder = encoder
        layer_norm = norm == "layer"
        self.norm = nn.LayerNorm(encoder.dim, eps=NORM_EPS) if layer_norm else nn.BatchNorm1d(encoder.dim, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=INIT_STD)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.mul_(head_init_scale)

    @property
    def num_layers(self) -> int:
        """As `Encoder.num_layers`."""
        return self.encoder.num_layers

    def layer_of(self, parameter_name: str) -> int:
        """As `Encoder.layer_of`; the head and its norm are the last layer."""
        if parameter_name.startswith("encoder."):
            return self.encoder.layer_of(parameter_name.removeprefix("encoder."))
        return self.num_layers - 1

    def forward(self, clip: Tensor) -> Tensor:
        """Return the class scores `[B, num_classes]` of normalised clips."""
        return self.head(self.dropout(self.norm(self.encoder(clip))))
