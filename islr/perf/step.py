"""A training step of our MViTv2-S beside torchvision's: the same weights, the same maths, time and memory in one run.

torchvision's class differs in the attention alone: it builds the [queries x keys] table of scores and positions that
ours folds into one fused dot product. On a CPU both run in float32 on one thread, on a GPU under bfloat16 autocast.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.video.mvit import MViT

from islr.data.loading.loader import pin_threads
from islr.errors import RunFailed, UserError
from islr.models import Classifier, create_model
from islr.models.layouts import LAYOUTS, load_layout
from islr.models.mvit.encoder import MViTEncoder
from islr.perf.decode import fastest
from islr.training.memory import saved_bytes

Device = Literal["cpu", "cuda"]
PEER, OURS, CHECKPOINTED = "torchvision, explicit attention", "ours, folded attention", "ours, checkpointing"
CLASSES = 400
LOGIT_TOLERANCE = 1e-4  # absolute, of logits near 1, after 16 blocks in float32
# Of all gradients as one vector, relative: in float32 a max pool can choose another of two nearly equal tokens, whose
# gradient then goes elsewhere. In float64 the two agree to rounding.
GRADIENT_TOLERANCE = 1e-2
CPU_REPEATS, GPU_REPEATS = 3, 20
WARM_UP = 3  # steps in which a GPU's libraries choose their kernels
MIB = 2**20


class Step(NamedTuple):
    """What one training step needs beside the model.

    Attributes:
        clip: `[B, 3, T, H, W]`.
        labels: `[B]`.
        half: Run the forward pass under bfloat16 autocast.
    """

    clip: Tensor
    labels: Tensor
    half: bool

    def loss(self, model: nn.Module) -> Tensor:
        """Return the loss of a forward pass."""
        with torch.autocast(self.clip.device.type, torch.bfloat16, enabled=self.half):
            return nn.functional.cross_entropy(model(self.clip), self.labels)

    def run(self, model: nn.Module) -> None:
        """Run forward and backward from gradients of None, as in training."""
        model.zero_grad(set_to_none=True)
        self.loss(model).backward()


def step_speed(
    frames: int = 16, size: int = 224, batch: int = 1, device: Device = "cpu", repeats: int | None = None
) -> str:
    """Check that both agree, then tabulate time and memory of a forward and backward pass.

    Args:
        frames: Frames per clip.
        size: Height and width in pixels.
        batch: Clips per step.
        device: Where to run.
        repeats: Steps of each; the fastest counts. None = 3 on a CPU, 20 on a GPU.

    Raises:
        UserError: There is no such device, or the sizes do not fit the model.
        RunFailed: The two do not compute the same.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no CUDA device here; leave the option out to measure on the CPU")
    pin_threads()
    encoder = create_model("mvit_s", frames=frames, size=size, widen_in="attention", pool="class")
    assert isinstance(encoder, MViTEncoder)
    ours, peer = build_pair(encoder)
    for model in (ours, peer):
        model.to(device)
    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(batch, 3, frames, size, size, generator=generator).to(device)
    step = Step(clip, torch.arange(batch, device=device) % CLASSES, half=device == "cuda")
    agreement = check_agreement(ours, peer, step._replace(half=False))

    runs: dict[str, Callable[[], object]] = {
        PEER: partial(step.run, peer),
        OURS: partial(_run, step, ours, False),
        CHECKPOINTED: partial(_run, step, ours, True),
    }
    memory = {name: _memory(step, model, checkpointing) for name, (model, checkpointing) in _rows(ours, peer).items()}
    if device == "cuda":
        fastest(runs, WARM_UP, _gpu_clock)
    repeats = repeats or (GPU_REPEATS if device == "cuda" else CPU_REPEATS)
    load = f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} cores busy"
    best = fastest(runs, repeats, _gpu_clock if device == "cuda" else time.process_time)
    return _table(step, best, memory, agreement, repeats, load)


def build_pair(encoder: MViTEncoder) -> tuple[Classifier, MViT]:
    """Build a classifier on an encoder of the supervised form, and torchvision's with the same random weights."""
    ours = Classifier(encoder, CLASSES)
    spec = encoder.input_spec
    peer = MViT(
        spatial_size=(spec.size, spec.size),
        temporal_size=spec.frames,
        block_setting=encoder.block_settings,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        dropout=0.0,
        num_classes=CLASSES,
    )
    for module in peer.modules():  # position tables that matter: trained ones are far from their start
        if hasattr(module, "rel_pos_t"):
            for axis in "thw":
                nn.init.normal_(getattr(module, f"rel_pos_{axis}"), std=0.3)
    left = load_layout(encoder, peer.state_dict(), LAYOUTS["torchvision-mvit"], "torchvision's MViT").left
    ours.norm.load_state_dict({name: left[f"norm.{name}"] for name in ("weight", "bias")})
    ours.head.load_state_dict({name: left[f"head.1.{name}"] for name in ("weight", "bias")})
    return ours, peer


def check_agreement(ours: Classifier, peer: MViT, step: Step) -> str:
    """Compare the logits and gradients of both models and describe the agreement in one line.

    Raises:
        RunFailed: They differ by more than rounding.
    """
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        with torch.no_grad():
            logits = float((ours(step.clip) - peer(step.clip)).abs().max())
        for model in (ours, peer):
            step.run(model)
    difference = norm = 0.0
    left = {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    for name, parameter in ours.named_parameters():
        theirs = name.replace("head.", "head.1.") if name in left else name.removeprefix("encoder.")
        reference = peer.get_parameter(theirs).grad
        assert parameter.grad is not None
        assert reference is not None
        difference += float((parameter.grad - reference).double().square().sum())
        norm += float(reference.double().square().sum())
    relative = (difference / norm) ** 0.5
    text = f"largest difference of logits {logits:.1e}, of the gradient {relative:.1e} of its length, in float32"
    if not (logits < LOGIT_TOLERANCE and relative < GRADIENT_TOLERANCE):
        raise RunFailed(f"our MViTv2-S and torchvision's do not compute the same: {text}")
    return text


def _rows(ours: Classifier, peer: MViT) -> dict[str, tuple[nn.Module, bool]]:
    return {PEER: (peer, False), OURS: (ours, False), CHECKPOINTED: (ours, True)}


def _run(step: Step, model: Classifier, checkpointing: bool) -> None:
    model.encoder.checkpointing = checkpointing
    step.run(model)


def _memory(step: Step, model: nn.Module, checkpointing: bool) -> int:
    """Return bytes: on a GPU the peak above weights and gradients, on a CPU the tensors saved for the backward pass."""
    if isinstance(model, Classifier):
        model.encoder.checkpointing = checkpointing
    if step.clip.device.type == "cpu":
        return saved_bytes(lambda: step.loss(model), model)
    step.run(model)  # gradients are there from now on
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.zero_()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step.loss(model).backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _gpu_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def _table(step: Step, best: dict[str, float], memory: dict[str, int], agreement: str, repeats: int, load: str) -> str:
    batch, _, frames, size, _ = step.clip.shape
    if step.clip.device.type == "cuda":
        how = f"bfloat16 autocast on {torch.cuda.get_device_name()}, wall time"
        what = "peak memory above weights and gradients"
    else:
        how = f"float32, CPU time on one thread; load at start {load}"
        what = "memory: what the forward pass keeps for the backward pass"
    lines = [
        f"MViTv2-S, forward and backward, {batch} x {frames}x{size}x{size}; minimum of {repeats} interleaved steps",
        how,
        f"{'':<34}{'ms':>10}{'times as fast':>16}{'MiB':>10}{'of its memory':>16}",
    ]
    for name in best:
        faster, share = best[PEER] / best[name], memory[name] / memory[PEER]
        lines.append(f"{name:<34}{1000 * best[name]:>10.1f}{faster:>15.2f}x{memory[name] / MIB:>10.1f}{share:>16.2f}")
    return "\n".join([*lines, f"    {agreement}; {what}"])
