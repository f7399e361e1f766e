"""The pose encoder of temporal convolutions and attention: velocities, parts that are hidden, PoseMAE on it."""

import numpy as np
import torch
from support.encoder_clips import random_clip
from torch import Tensor

from islr.data.poses.pose import LEFT_HAND, RIGHT_HAND
from islr.models import create_model
from islr.models.pose_conv_transformer import PoseConvTransformer, velocities
from pretrain.posemae import PoseMAE, PoseMAEConfig

FRAMES = 12


def encoder() -> PoseConvTransformer:
    torch.manual_seed(0)
    return create_model("pose_conv_transformer_tiny", frames=FRAMES).eval()  # type: ignore[return-value]


def some_visible(made: PoseConvTransformer) -> tuple[Tensor, Tensor, Tensor]:
    """A batch, a mask bool `[B, T, P]`, true = hidden, and the index of the visible parts."""
    clip = random_clip(made.input_spec)
    mask = torch.zeros(2, FRAMES, 3, dtype=torch.bool)
    mask[:, 3:8, 2] = mask[:, 5, 1] = mask[:, 9, 0] = True  # the right hand for five frames; once each other part
    visible = mask.flatten(1).logical_not().nonzero()[:, 1].view(2, -1)
    return clip, mask, visible


def test_velocity_is_the_step_since_the_frame_before_where_both_are_seen() -> None:
    rng = np.random.default_rng(0)
    xy, confidence = rng.normal(size=(2, 5, 3, 2)), (rng.random((2, 5, 3)) > 0.3).astype(float)
    expected = np.zeros_like(xy)
    for clip, frame, point in np.ndindex(2, 5, 3):
        if frame and confidence[clip, frame, point] and confidence[clip, frame - 1, point]:
            expected[clip, frame, point] = xy[clip, frame, point] - xy[clip, frame - 1, point]
    found = velocities(torch.from_numpy(xy), torch.from_numpy(confidence))
    assert np.array_equal(found.numpy(), expected)
    assert (expected != 0).any()


def test_nothing_of_a_hidden_part_reaches_the_visible_ones() -> None:
    made = encoder()
    clip, _, visible = some_visible(made)
    moved = clip.clone()
    moved[:, 3:8, RIGHT_HAND, :2] += 0.5  # as a whole: the palm's length, which is known, stays
    moved[:, 5, LEFT_HAND, :2] -= 0.3
    with torch.inference_mode():
        assert torch.equal(made.forward_tokens(clip, visible)[-1], made.forward_tokens(moved, visible)[-1])
        assert not torch.allclose(made(clip), made(moved))
        everything = torch.arange(FRAMES * 3).expand(2, -1)
        frames = made.forward_layers(clip)[-1]
        assert torch.equal(made.forward_tokens(clip, everything)[-1], frames.repeat_interleave(3, dim=1))


def test_frames_are_told_apart_by_their_order() -> None:
    made = encoder()
    clip = random_clip(made.input_spec)
    with torch.inference_mode():
        assert not torch.allclose(made(clip), made(clip.flip(1)), atol=1e-3)


def test_posemae_trains_it() -> None:
    recipe = PoseMAE(encoder(), PoseMAEConfig(decoder_dim=16, decoder_depth=1)).train()
    clip, mask, _ = some_visible(recipe.encoder)  # type: ignore[arg-type]
    recipe({"clip": clip, "mask": mask})["loss"].backward()
    for name, value in recipe.named_parameters():
        assert value.grad is not None, name
        assert value.grad.abs().max() > 0, name
