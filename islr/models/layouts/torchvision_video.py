"""torchvision's 3D convolutional networks (`torchvision.models.video`, plain state dicts)."""

from islr.models.layouts.layout import Layout

TORCHVISION_RESNET = Layout(
    name="torchvision-resnet",
    source="torchvision.models.video r3d_18, mc3_18, r2plus1d_18",
    families=("r3d_*", "mc3_*", "r2plus1d_*"),
    marks=(r"stem\.0\.weight", r"layer4\.0\.conv2\..+"),
    rules=((r"((?:stem|layer[1-4])\..+)", r"\1"),),
    left=(r"fc\.(weight|bias)",),
)

TORCHVISION_S3D = Layout(
    name="torchvision-s3d",
    source="torchvision.models.video s3d",
    families=("s3d", "s3d_*"),
    marks=(r"features\.0\.0\.0\.weight", r"features\.15\.branch3\.1\.0\.weight"),
    rules=((r"(features\..+)", r"\1"),),
    left=(r"classifier\.1\.(weight|bias)",),
)
