"""Encoders on pytorchvideo's model factories: SlowFast, X3D, CSN, I3D-R50 and MViTv1-B.

Its class heads stay behind: what is put on top belongs to the task (X3D's would end in a softmax, in training too).
Nothing of it is imported before one of these is built, and `pytorchvideo.transforms`, which no longer imports, never.

Shapes: B batch, T H W frames and pixels, t h w a grid, N = t * h * w tokens, D width. Maps are `[B, D, t, h, w]`,
token sequences `[B, 1 + N, D]`, the class token first.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from operator import attrgetter
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from islr.errors import UserError
from islr.models.convnets.convnet import ConvNet, fan_in_init, video_spec
from islr.models.encoder import FAN_IN_POSITION_STD, Encoder, interpolate_positions
from islr.models.front_end import Input, input_channels
from islr.models.presets import Preset
from islr.models.transformer import init_linear

ALPHA = 4  # SlowFast's fast pathway sees this many times the frames of the slow one (8 x 8: 32 and 8 frames)
# SiLU is its Swish without an autograd function that neither compiles nor keeps to PyTorch's present interface.
X3D_SETTINGS = {"head_activation": None, "inner_act": nn.SiLU}
PATCH_STRIDE = (2, 4)  # of MViT's patch embedding: frames, pixels
Pool = Literal["mean", "class"]
MViTInit = Literal["published", "fan_in"]


def factories() -> ModuleType:
    """`pytorchvideo.models.hub`; the package below it uses a deprecated function when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from pytorchvideo.models import hub
    return hub


# Residual networks ----------------------------------------------------------------------------------------------------


def residual_layers(blocks: Any) -> tuple[list[list[str]], list[int]]:
    """Names of the stem and of each residual stage's blocks, with the pooling before them, and the stages' widths."""
    layers, widths, waiting = [["blocks.0"]], [], ""
    for index, stage in enumerate(blocks):
        if hasattr(stage, "res_blocks"):
            names = [f"blocks.{index}.res_blocks.{block}" for block in range(len(stage.res_blocks))]
            layers.append([waiting + names[0], *names[1:]])
            widths.append(stage.res_blocks[-1].branch2.conv_c.out_channels)
            waiting = ""
        elif index:
            waiting = f"blocks.{index} "
    return layers, widths


def plain_strides(net: Any) -> Any:
    """The network with strides of Python's integers; a compiler takes the factories' own, of numpy, for unknown."""
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            module.stride = tuple(int(step) for step in module.stride)
    return net


class ResNet(ConvNet):
    """A network of `create_resnet` or `create_csn`, without its head.

    Args:
        net: As the factory gives it.
        frames: Frames per clip.
        size: Height and width in pixels.
        source: Of the architecture.
        least_frames: The fewest that leave a map at the end.
        input: What the factory made the stem for.
    """

    def __init__(
        self, net: Any, *, frames: int, size: int, source: str, least_frames: int = 1, input: Input = "rgb"
    ) -> None:
        blocks = plain_strides(net).blocks[:-1]
        layers, widths = residual_layers(blocks)
        super().__init__(video_spec(frames, size, "slowfast"), layers, widths, (least_frames, 1), input)
        self.source = source
        self.blocks = blocks


class X3D(ConvNet):
    """A network of `create_x3d` up to its class layer; the last layer is the head's first convolution.

    `forward` gives what the class layer is given: the mean of the last map through the head's second convolution.

    Args:
        net: As the factory gives it.
        frames: Frames per clip.
        size: Height and width in pixels.
        input: What the factory made the stem for.
    """

    source = "X3D (arXiv 2004.04730), pytorchvideo.models.x3d"

    def __init__(self, net: Any, *, frames: int, size: int, input: Input = "rgb") -> None:
        layers, widths = residual_layers(plain_strides(net).blocks)
        head = net.blocks[-1].pool
        prefix = f"blocks.{len(net.blocks) - 1}.pool"
        layers.append([f"{prefix}.pre_conv {prefix}.pre_norm {prefix}.pre_act"])
        super().__init__(
            video_spec(frames, size, "slowfast"), layers, [*widths, head.pre_conv.out_channels], input=input
        )
        self.blocks = nn.ModuleList([*net.blocks[:-1], nn.ModuleDict({"pool": head})])
        self.dim = head.post_conv.out_channels

    def pool(self, last: Tensor) -> Tensor:
        """Return the features of the class layer, `[B, dim]`."""
        head: Any = self.get_submodule(f"blocks.{len(self.blocks) - 1}.pool")
        return head.post_act(head.post_conv(last.mean(dim=(2, 3, 4), keepdim=True))).flatten(1)

    def layer_of(self, parameter_name: str) -> int:
        """As in `ConvNet`; the head's second convolution is of the last layer."""
        if ".pool.post_conv." in parameter_name:
            return len(self.layer_dims)
        return super().layer_of(parameter_name)


class SlowFast(ConvNet):
    """A network of `create_slowfast`, without its head: one clip in, both pathways made of it.

    A layer's map has the slow pathway's grid: its channels, to which the fast pathway's were fused, then the fast
    pathway's own, averaged over the `ALPHA` frames that stand for one of the slow pathway. The mean of the last map is
    then what the original's head is given.

    Args:
        net: As the factory gives it.
        frames: Frames per clip, of the fast pathway; a multiple of `ALPHA`.
        size: Height and width in pixels.
        input: What the factory made the stems for.

    Raises:
        UserError: The frames are no multiple.
    """

    source = "SlowFast (arXiv 1812.03982), pytorchvideo.models.slowfast"

    def __init__(self, net: Any, *, frames: int, size: int, input: Input = "rgb") -> None:
        if frames % ALPHA:
            raise UserError(f"frames={frames} is not a multiple of {ALPHA}, the ratio of SlowFast's pathways")
        blocks = plain_strides(net).blocks[:-2]  # its last two pool the pathways and score the classes
        widths = []
        for stage in blocks[1:]:
            slow, fast = (pathway.res_blocks[-1].branch2.conv_c for pathway in stage.multipathway_blocks)
            fusion = getattr(stage.multipathway_fusion, "conv_fast_to_slow", None)
            widths.append(slow.out_channels + fast.out_channels + (fusion.out_channels if fusion else 0))
        layers = [[f"blocks.{index}"] for index in range(len(blocks))]
        super().__init__(video_spec(frames, size, "slowfast"), layers, widths, (ALPHA, 1), input)
        self.blocks = blocks

    def enter(self, clip: Tensor) -> list[Tensor]:
        """Return the slow pathway's frames, even from first to last as SlowFast's loader has them, and all frames."""
        frames = clip.shape[2]
        slow = [index * (frames - 1) // (frames // ALPHA - 1) if index else 0 for index in range(frames // ALPHA)]
        clip = self.front_end(clip)
        return [clip[:, :, slow], clip]

    def run_piece(self, piece: str, x: list[Tensor]) -> list[Tensor]:
        """As in `ConvNet`; the modules change the list that they are given."""
        return super().run_piece(piece, list(x))

    def leave(self, x: list[Tensor]) -> Tensor:
        """Return both pathways on the slow one's grid, `[B, D_slow + D_fast, t, h, w]`."""
        slow, fast = x
        return torch.cat([slow, fast.unflatten(2, (slow.shape[2], ALPHA)).mean(dim=3)], dim=1)


# MViTv1 ---------------------------------------------------------------------------------------------------------------


class MViTv1(Encoder):
    """MViTv1 from `create_multiscale_vision_transformers`, without its last norm and its head.

    Args:
        frames: Frames per clip, a multiple of 2.
        size: Height and width in pixels, a multiple of 4.
        pool: What `forward` returns of the last block: the mean of the patch tokens, or the class token.
        drop_path: Stochastic depth of the last block; earlier blocks have proportionally less.
        init: `published` (truncated normal of .02), or `fan_in`, with which narrow encoders learn sooner.
        input: `rgb`, or `rgb+change` (`islr/models/front_end.py`).
        settings: Of the factory.

    Raises:
        UserError: The clip does not fit the patches, or an unknown `pool`, `init` or `input`.
    """

    source = "MViT (arXiv 2104.11227), pytorchvideo.models.vision_transformers"

    def __init__(
        self,
        *,
        frames: int,
        size: int,
        pool: Pool = "mean",
        drop_path: float = 0.0,
        init: MViTInit = "published",
        input: Input = "rgb",
        **settings: Any,
    ) -> None:
        super().__init__()
        for name, chosen, known in (("pool", pool, get_args(Pool)), ("init", init, get_args(MViTInit))):
            if chosen not in known:
                raise UserError(f"{name}='{chosen}' is unknown; it is one of {', '.join(known)}")
        for name, value, stride in (("frames", frames, PATCH_STRIDE[0]), ("size", size, PATCH_STRIDE[1])):
            if value < stride or value % stride:
                raise UserError(f"{name}={value} does not fit the patches: it must be a multiple of {stride}")
        build = factories().vision_transformers.create_multiscale_vision_transformers
        channels = input_channels(input)
        device = torch.get_default_device()
        with torch.device("cpu"):  # it reads its widths back from small tensors, which the meta device cannot
            trunk = build(
                spatial_size=size,
                temporal_size=frames,
                input_channels=channels,
                droppath_rate_block=drop_path,
                head=None,
                **settings,
            )
        trunk.to(device)
        self.patch_embed = trunk.patch_embed
        self.cls_positional_encoding = trunk.cls_positional_encoding
        self.blocks = trunk.blocks
        self.pool, self.input = pool, input
        self.input_spec = video_spec(frames, size, "slowfast")
        self.layer_dims = [block.dim_out for block in self.blocks]
        self.dim = self.layer_dims[-1]
        if init == "fan_in":
            self.apply(init_linear)
            for position in self.cls_positional_encoding.parameters():
                nn.init.normal_(position, std=FAN_IN_POSITION_STD)

    def forward(self, clip: Tensor) -> Tensor:
        """Return the mean patch token or class token of the last block, `[B, dim]`."""
        last = self.forward_tokens(clip)[-1]
        return last[:, 1:].mean(dim=1) if self.pool == "mean" else last[:, 0]

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """Return patch tokens after each block, `[B, N_l, D_l]`."""
        return [tokens[:, 1:] for tokens in self.forward_tokens(clip)]

    def forward_tokens(self, clip: Tensor) -> list[Tensor]:
        """Return all tokens after each block, `[B, 1 + N_l, D_l]`."""
        self.check_clip(clip)
        tokens = self.cls_positional_encoding(self.patch_embed(self.front_end(clip)))
        grid = list(self.cls_positional_encoding.patch_embed_shape)
        outputs = []
        for block in self.blocks:
            tokens, grid = self.run_block(block, tokens, grid)
            outputs.append(tokens)
        return outputs

    def layer_of(self, parameter_name: str) -> int:
        """Return 0 for the patch embedding, the positions and the class token, i + 1 for block i."""
        if parameter_name.startswith("blocks."):
            return int(parameter_name.split(".")[1]) + 1
        assert parameter_name.startswith(("patch_embed.", "cls_positional_encoding.")), parameter_name
        return 0

    def resize_parameter(self, name: str, value: Tensor, shape: torch.Size) -> Tensor | None:
        """Positions `[1, L, D]` follow the grid: linear in time, bilinear in space."""
        if name.endswith("pos_embed_temporal"):
            return interpolate_positions(value[0], shape[1])[None]
        if name.endswith("pos_embed_spatial"):
            old, new = math.isqrt(value.shape[1]), math.isqrt(shape[1])
            tall = interpolate_positions(value[0].reshape(old, -1), new).view(new, old, -1)  # [new, old, D]
            wide = interpolate_positions(tall.transpose(0, 1).flatten(1), new).view(new, new, -1)  # [w, h, D]
            return wide.transpose(0, 1).flatten(0, 1)[None]
        return None


_OURS = ("spatial_size", "temporal_size", "input_channels")  # settings of the factory that arguments stand for

# Presets --------------------------------------------------------------------------------------------------------------


def _build(
    family: Callable[..., Encoder],
    factory: str,
    settings: Mapping[str, Any],
    narrow: bool = False,
    blocks: int | None = None,
    input: Input = "rgb",
    **arguments: Any,
) -> Encoder:
    """Build an encoder on a network of pytorchvideo's.

    Args:
        family: The encoder's class.
        factory: Where `pytorchvideo.models.hub` holds the factory.
        settings: Arguments of the factory.
        narrow: Initialise as narrow networks need it.
        blocks: Blocks of each stage to keep, for networks smaller than the factory's smallest; None keeps all.
        input: What the encoder takes; `factory` gets its number of channels.
        arguments: Further arguments of `family`.
    """
    net = attrgetter(factory)(factories())(**settings, **_channels(family, input))
    if blocks is not None:
        for stage in net.blocks[1:-1]:
            stage.res_blocks = stage.res_blocks[:blocks]
    encoder = family(net, input=input, **arguments)
    return encoder.apply(fan_in_init) if narrow else encoder


def _channels(family: Callable[..., Encoder], input: str) -> dict[str, Any]:
    """Return the argument by which a factory learns its input's channels: one number, or one for each pathway."""
    channels = input_channels(input)
    return {"input_channels": (channels, channels)} if family is SlowFast else {"input_channel": channels}


def _published_mvit(**arguments: Any) -> MViTv1:
    published = factories().vision_transformers.mvit_video_base_config
    settings = {name: value for name, value in published.items() if name not in _OURS}
    return MViTv1(**arguments, **settings)


def _clip(frames: int, size: int) -> dict[str, Any]:
    return {"frames": frames, "size": size, "input": "rgb"}


_TINY = _clip(8, 64)
_PUBLISHED = {"pretrained": False}
_X3D = X3D_SETTINGS | _PUBLISHED
_CSN: dict[str, Any] = {"family": ResNet, "source": "ir-CSN (arXiv 1904.02811), pytorchvideo.models.csn"}
_I3D_R50: dict[str, Any] = {
    "family": ResNet,
    "source": "I3D on ResNet-50 (arXiv 1711.07971 table 1), pytorchvideo.models.resnet",
    "least_frames": 2,
}
_NARROW_MVIT = {
    "depth": 4,
    "patch_embed_dim": 24,
    "embed_dim_mul": [[1, 2.0], [3, 2.0]],
    "atten_head_mul": [[1, 2.0], [3, 2.0]],
    "pool_q_stride_size": [[0, 1, 2, 2], [1, 1, 2, 2], [3, 1, 2, 2]],
    "pool_kv_stride_adaptive": [1, 8, 8],
    "pool_kvq_kernel": [3, 3, 3],
}
PRESETS = {
    # SlowFast-18 at a quarter of the width.
    "slowfast_tiny": Preset(
        _build,
        _TINY,
        {
            "family": SlowFast,
            "factory": "slowfast.create_slowfast",
            "settings": {"model_depth": 18, "stem_dim_outs": (16, 2)},
            "narrow": True,
        },
    ),
    # 8 x 8: frames are those of the fast pathway.
    "slowfast_r50": Preset(
        _build,
        _clip(32, 224),
        {"family": SlowFast, "factory": "slowfast_r50", "settings": _PUBLISHED},
    ),
    # Half the width and depth of X3D-S.
    "x3d_tiny": Preset(
        _build,
        _TINY,
        {
            "family": X3D,
            "factory": "x3d.create_x3d",
            "settings": {"width_factor": 1.0, "depth_factor": 1.0, "head_dim_out": 256} | X3D_SETTINGS,
            "narrow": True,
        },
    ),
    "x3d_s": Preset(_build, _clip(13, 160), {"family": X3D, "factory": "x3d_s", "settings": _X3D}),
    "x3d_m": Preset(_build, _clip(16, 224), {"family": X3D, "factory": "x3d_m", "settings": _X3D}),
    # One block a stage, a quarter of the width.
    "csn_tiny": Preset(
        _build,
        _TINY,
        _CSN
        | {
            "factory": "csn.create_csn",
            "settings": {"model_depth": 50, "stem_dim_out": 16, "stem_pool": nn.MaxPool3d},
            "narrow": True,
            "blocks": 1,
        },
    ),
    "csn_r101": Preset(_build, _clip(32, 224), _CSN | {"factory": "csn_r101", "settings": _PUBLISHED}),
    "i3d_r50": Preset(_build, _clip(8, 224), _I3D_R50 | {"factory": "i3d_r50", "settings": _PUBLISHED}),
    "pytorchvideo_mvit_tiny": Preset(
        MViTv1, _TINY | {"pool": "mean", "drop_path": 0.0, "init": "fan_in"}, _NARROW_MVIT
    ),
    # 16 x 4; trained on its class token, with a drop_path of .2 (arXiv 2104.11227 appendix).
    "pytorchvideo_mvit_b": Preset(_published_mvit, _clip(16, 224) | {"pool": "class", "drop_path": 0.0}, {}),
}
