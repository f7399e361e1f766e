"""The sizes of MViTv2 by name, as their authors publish them, and one that two CPU cores train.

All take frames in multiples of 2 and sizes in multiples of 4.
"""

from islr.models.encoder import Normalisation
from islr.models.mvit.encoder import Init, MViTEncoder, Pool, WidenIn


def mvit_tiny(
    frames: int = 8,
    size: int = 64,
    last_stride: int = 2,
    pool: Pool = "mean",
    drop_path: float = 0.0,
    init: Init = "fan_in",
    positions: bool = True,
    change_channels: float = 0.5,
) -> MViTEncoder:
    """Under a million parameters, for two CPU cores: the shape of `mvit_s` at a width and depth for 8 x 64 x
    64.

    Args:
        frames: As in `MViTEncoder`.
        size: As in `MViTEncoder`.
        last_stride: 1 for MaskFeat pre-training (tokens of 16 pixels at the end), 2 otherwise.
        pool: As in `MViTEncoder`.
        drop_path: As in `MViTEncoder`.
        init: As in `MViTEncoder`.
        positions: As in `MViTEncoder`.
        change_channels: As in `MViTEncoder`.
    """
    return MViTEncoder(
        frames=frames,
        size=size,
        depth=6,
        embed_dim=24,
        dim_mul={1: 2, 3: 2, 5: 2},
        head_mul={1: 2, 3: 2, 5: 2},
        q_stride={0: 2, 2: 2, 5: last_stride},
        kv_stride=8,
        pool=pool,
        drop_path=drop_path,
        init=init,
        positions=positions,
        change_channels=change_channels,
    )


def mvit_s(
    frames: int = 16,
    size: int = 224,
    last_stride: int = 2,
    widen_in: WidenIn = "mlp",
    pool: Pool = "mean",
    drop_path: float = 0.0,
    init: Init = "slowfast",
) -> MViTEncoder:
    """MViTv2-S, 16 x 4 (arXiv 2112.01526 table 1; SlowFast `k400_MVITv2_S_16x4_MaskFeat_PT`/`_FT`).

    Args:
        frames: As in `MViTEncoder`.
        size: As in `MViTEncoder`.
        last_stride: Query stride of block 14: 1 for MaskFeat pre-training, 2 otherwise.
        widen_in: `mlp` for MaskFeat's form, `attention` for the supervised MViTv2-S of SlowFast and
            torchvision.
        pool: As in `MViTEncoder`; the supervised form is trained on its class token.
        drop_path: As in `MViTEncoder`; .1 in MaskFeat's fine-tuning.
        init: As in `MViTEncoder`.
    """
    return MViTEncoder(
        frames=frames,
        size=size,
        depth=16,
        embed_dim=96,
        dim_mul={1: 2, 3: 2, 14: 2},
        head_mul={1: 2, 3: 2, 14: 2},
        q_stride={1: 2, 3: 2, 14: last_stride},
        kv_stride=8,
        widen_in=widen_in,
        pool=pool,
        drop_path=drop_path,
        init=init,
    )


def mvit_b(
    frames: int = 32,
    size: int = 224,
    last_stride: int = 2,
    widen_in: WidenIn = "attention",
    pool: Pool = "class",
    drop_path: float = 0.0,
    init: Init = "slowfast",
) -> MViTEncoder:
    """MViTv2-B, 32 x 3 (arXiv 2112.01526 table 1; SlowFast `Kinetics/MVITv2_B_32x3`, 51.2 M parameters).

    Published as a supervised model alone; MaskFeat's form is had by `widen_in="mlp", pool="mean"`.

    Args:
        frames: As in `MViTEncoder`.
        size: As in `MViTEncoder`.
        last_stride: Query stride of block 21: 1 for MaskFeat pre-training, 2 otherwise.
        widen_in: As in `MViTEncoder`.
        pool: As in `MViTEncoder`.
        drop_path: As in `MViTEncoder`; .3 in the supervised training.
        init: As in `MViTEncoder`.
    """
    return MViTEncoder(
        frames=frames,
        size=size,
        depth=24,
        embed_dim=96,
        dim_mul={2: 2, 5: 2, 21: 2},
        head_mul={2: 2, 5: 2, 21: 2},
        q_stride={2: 2, 5: 2, 21: last_stride},
        kv_stride=8,
        widen_in=widen_in,
        pool=pool,
        drop_path=drop_path,
        init=init,
    )


def mvit_l(
    frames: int = 16,
    size: int = 224,
    last_stride: int = 2,
    widen_in: WidenIn = "mlp",
    pool: Pool = "mean",
    drop_path: float = 0.0,
    init: Init = "slowfast",
    normalisation: Normalisation = "slowfast",
) -> MViTEncoder:
    """MViTv2-L (arXiv 2112.01526 table 1) in MaskFeat's form (SlowFast `k400_MVITv2_L_16x4_MaskFeat_PT`/`_FT`).

    The supervised model (`Kinetics/MVITv2_L_40x3_test`) is `frames=40, size=312, widen_in="attention",
    pool="class", normalisation="imagenet"`: unlike the smaller ones it was trained on ImageNet's mean and std.

    Args:
        frames: As in `MViTEncoder`.
        size: As in `MViTEncoder`.
        last_stride: Query stride of block 44: 1 for MaskFeat pre-training, 2 otherwise.
        widen_in: As in `MViTEncoder`.
        pool: As in `MViTEncoder`.
        drop_path: As in `MViTEncoder`; .2 in MaskFeat's fine-tuning, .75 in the supervised training.
        init: As in `MViTEncoder`.
        normalisation: As in `MViTEncoder`.
    """
    return MViTEncoder(
        frames=frames,
        size=size,
        depth=48,
        embed_dim=144,
        num_heads=2,
        dim_mul={2: 2, 8: 2, 44: 2},
        head_mul={2: 2, 8: 2, 44: 2},
        q_stride={2: 2, 8: 2, 44: last_stride},
        kv_stride=8,
        widen_in=widen_in,
        pool=pool,
        drop_path=drop_path,
        init=init,
        normalisation=normalisation,
    )
