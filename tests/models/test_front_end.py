"""The front end of video encoders: the change channels, what masks keep from them, and every family that takes them."""

from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.encoder_clips import random_clip
from torch import Tensor

from islr.errors import UserError
from islr.models import Encoder, create_model, list_models, parameters_of
from islr.models.describe import describe
from islr.models.front_end import with_change
from islr.models.public.importing import import_weights
from islr.models.public.reader import PublicFile
from islr.models.vit import ViTEncoder
from islr.models.weights import export_encoder, load_encoder, read_metadata

FAMILIES = [name for name in list_models("*_tiny") if "input" in parameters_of(name)]
MASKABLE = ["mvit_tiny", "swin_tiny", "vit_tiny"]
REACH = {"mvit_tiny": (1, 3, 3)}  # frames and pixels by which a token's kernel looks beyond the token
CELLS = (2, 2, 2)


def cubes() -> Tensor:
    """Two of four places hidden, at one moment each."""
    mask = torch.zeros(1, *CELLS, dtype=torch.bool)
    mask[0, 0, 0, 0] = mask[0, 1, 1, 0] = True
    return mask


def tubes() -> Tensor:
    """Two of four places hidden throughout."""
    mask = torch.zeros(1, *CELLS, dtype=torch.bool)
    mask[0, :, 0, 0] = mask[0, :, 1, 0] = True
    return mask


def test_change_is_the_difference_from_the_mean_over_visible_moments() -> None:
    clip = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    hidden = cubes()
    hidden[0, :, 1, 1] = True  # a place that is never visible
    both = with_change(clip, hidden)
    assert torch.equal(both[:, :3], clip)
    for row in range(4):
        for column in range(4):
            moments = [time for time in range(4) if not hidden[0, time // 2, row // 2, column // 2]]
            pixel, change = clip[0, :, :, row, column], both[0, 3:, :, row, column]
            for time in range(4):
                wanted = pixel[:, time] - pixel[:, moments].mean(dim=1) if time in moments else torch.zeros(3)
                assert torch.allclose(change[:, time], wanted, atol=1e-6)
    assert torch.allclose(with_change(clip), with_change(clip, torch.zeros_like(hidden)), atol=1e-6)
    with pytest.raises(UserError, match=r"a mask of \[3, 2, 2\] cells does not fit a clip of \[4, 4, 4\]"):
        with_change(clip, torch.zeros(1, 3, 2, 2, dtype=torch.bool))


def test_what_stays_the_same_is_not_in_the_change() -> None:
    still = torch.randn(1, 3, 1, 4, 4).expand(-1, -1, 4, -1, -1)
    moving = torch.randn(1, 3, 4, 4, 4)
    assert with_change(still)[:, 3:].abs().max() < 1e-6
    assert torch.allclose(with_change(moving + still)[:, 3:], with_change(moving)[:, 3:], atol=1e-6)


def unseen(name: str, mask: Tensor, clip: Tensor) -> Tensor:
    """Which pixels lie under no visible token's kernel, bool `[B, 1, T, H, W]`."""
    size = [clip.shape[axis] for axis in (2, 3, 4)]
    visible = F.interpolate(mask.logical_not()[:, None].float(), size=size)  # nearest
    reach = REACH.get(name, (0, 0, 0))
    return F.max_pool3d(visible, [2 * steps + 1 for steps in reach], 1, reach) == 0


def tokens(encoder: Encoder, clip: Tensor, mask: Tensor) -> Tensor:
    """Return the tokens of the first block; those of hidden cells hold the mask token, or are not there."""
    if isinstance(encoder, ViTEncoder):
        hidden = mask
        for axis in (1, 2, 3):
            hidden = hidden.repeat_interleave(encoder.grid[axis - 1] // mask.shape[axis], dim=axis)
        return encoder.forward_tokens(clip, hidden.flatten(1).logical_not().nonzero()[:, 1].view(len(clip), -1))[0]
    width = {"mvit_tiny": 24, "swin_tiny": 24}[encoder.architecture]
    first = encoder.forward_tokens(clip, mask, torch.ones(width))[0]  # type: ignore[operator]
    return first.tokens if encoder.architecture == "mvit_tiny" else first


@pytest.mark.parametrize("mask", [cubes(), tubes()], ids=["cubes", "tubes"])
@pytest.mark.parametrize("name", MASKABLE)
def test_hidden_pixels_reach_no_token(name: str, mask: Tensor) -> None:
    encoder = create_model(name, frames=4, size=64, input="rgb+change").eval()
    clip = random_clip(encoder.input_spec, batch=1)
    other = torch.where(unseen(name, mask, clip), clip + 100, clip)
    assert not torch.equal(clip, other)
    assert torch.equal(tokens(encoder, clip, mask), tokens(encoder, other, mask))
    whole = torch.where(unseen("", mask, clip), clip + 100, clip)  # up to the border of what is visible
    before, after = (encoder.front_end(one, mask)[:, 3:] for one in (clip, whole))
    assert torch.equal(before, after)
    assert not torch.equal(tokens(encoder, clip, mask), tokens(encoder, clip + torch.arange(4.0)[:, None, None], mask))


@cache
def empty(name: str) -> Encoder:
    """Return an encoder without values."""
    with torch.device("meta"):
        return create_model(name)


def test_the_list_of_maskable_families_is_whole() -> None:
    masked = {name for name in FAMILIES if "mask" in dir_of(name) or "visible" in dir_of(name)}
    assert masked == set(MASKABLE)


def dir_of(name: str) -> tuple[str, ...]:
    """Return the arguments of an encoder's `forward_tokens`."""
    forward = getattr(empty(name), "forward_tokens", None)
    return forward.__code__.co_varnames[: forward.__code__.co_argcount] if forward else ()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_both_inputs_and_its_file_says_which(name: str, tmp_path: Path) -> None:
    encoder = create_model(name, input="rgb+change").eval()
    clip = random_clip(encoder.input_spec, batch=1)
    still = clip[:, :, :1].expand_as(clip)
    plain, wider = (sum(p.numel() for p in model.parameters()) for model in (empty(name), encoder))
    assert plain < wider
    assert not torch.allclose(encoder(clip), encoder(still))
    path = tmp_path / "encoder.safetensors"
    export_encoder(encoder, path, {})
    assert '"input": "rgb+change"' in read_metadata(path)["arguments"]
    loaded = load_encoder(path)
    assert loaded.input == "rgb+change"
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in encoder.state_dict().items())
    with pytest.raises(UserError, match=r"was trained with input=rgb\+change, not input=rgb"):
        load_encoder(path, input="rgb")


def test_video_encoders_without_the_key_see_single_frames() -> None:
    video = {name for name in list_models("*_tiny") if empty(name).input_spec.modality == "video"}
    assert video - set(FAMILIES) == {"frame_conv_tiny"}
    assert describe("vit_tiny").inputs == ("rgb", "rgb+change")
    assert describe("vit_tiny", input="rgb+change").inputs == ("rgb+change", "rgb")
    assert describe("frame_conv_tiny").inputs == ("rgb",)
    assert describe("stgcn_tiny").inputs == ()


def test_inputs_that_there_are_not_are_refused() -> None:
    with pytest.raises(UserError, match=r"input='flow' is unknown; it is one of rgb, rgb\+change"):
        create_model("vit_tiny", input="flow")
    with pytest.raises(UserError, match=r"input=rgb\+change: public weights were trained with input=rgb"):
        import_weights(PublicFile(Path("file"), "", {}, {}), "mvit_tiny", arguments={"input": "rgb+change"})
