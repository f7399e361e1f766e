"""What an encoder of the registry is, in numbers, without its weights."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from islr import plugins
from islr.models import Encoder, create_model, parameters_of
from islr.models.front_end import CHANNELS
from islr.models.layouts import layouts_of


@dataclass(frozen=True)
class Description:
    """One line of `islr models`.

    Attributes:
        name: Registry name.
        modality: `video` or `pose`.
        frames: Frames per clip.
        size: Height and width in pixels; 0 for poses.
        inputs: What its first layer can be built to take; none for poses.
        parameters: How many, with the first of them.
        blocks: Blocks whose tokens `forward_layers` gives.
        macs: Multiply-accumulates of `forward` on one clip in matrix products and convolutions, as this project
            computes them; element-wise work, norms and pooling are not counted.
        layouts: Public layouts that can be imported into it.
        source: Paper, and code where it follows one.
    """

    name: str
    modality: str
    frames: int
    size: int
    inputs: tuple[str, ...]
    parameters: int
    blocks: int
    macs: int
    layouts: tuple[str, ...]
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Return a mapping for JSON."""
        return asdict(self)


def describe(name: str, **arguments: Any) -> Description:
    """Describe a registered encoder without computing anything: neither it nor its clip has values.

    Raises:
        UserError: As `create_model`.
    """
    with torch.device("meta"):
        encoder = create_model(name, **arguments).eval().requires_grad_(False).to("meta")
        macs = _count_macs(encoder)
    spec = encoder.input_spec
    return Description(
        name=name,
        modality=spec.modality,
        frames=spec.frames,
        size=spec.size,
        inputs=_inputs(name, encoder),
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        blocks=len(encoder.layer_dims),
        macs=macs,
        layouts=tuple(layouts_of(name)),
        source=encoder.source + (f" ({origin})" if (origin := plugins.origin_of("encoder", name)) else ""),
    )


def _inputs(name: str, encoder: Encoder) -> tuple[str, ...]:
    """Return the values of an encoder's argument `input`, that of this encoder first."""
    if encoder.input_spec.modality == "pose":
        return ()
    others = CHANNELS if "input" in parameters_of(name) else ()
    return tuple(dict.fromkeys((encoder.input, *others)))


def _count_macs(encoder: Encoder) -> int:
    """Count the multiply-accumulates of one clip; the encoder and the default device are `meta`."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # Which fused attention kernels the counter knows, and which one a processor picks, differs between versions of
        # torch: uncounted attention was a quarter of MViTv2-S. Matrix products are counted in all of them.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            encoder(torch.empty(1, *encoder.input_spec.clip_shape))
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    return counter.get_total_flops() // 2
