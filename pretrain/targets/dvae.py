"""DALL-E's image encoder as a tokenizer (Ramesh et al., arXiv 2102.12092 appendix A; openai/DALL-E), from its file.

BEVT's targets are its visual tokens. The published file is a pickle of whole modules; `python -m pretrain.targets.dvae
encoder.pkl OUT.safetensors` converts it for `load_tokenizer`
(`pretrain/targets/tokenizer_files.py`) without running any of its code.

Shapes: B frames, H W pixels, h w = H / 8, W / 8.
"""

import json
import logging
import re
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from islr.errors import UserError
from islr.files import file_sha256, write_atomic
from islr.logs import show_logs
from islr.models.public.pickles import read_modules
from islr.models.weights import serialise
from pretrain.targets.frame_tokenizer import check_frames

GROUPS = 4  # of blocks; between them the map is halved
SQUEEZE, EDGE = 0.8, 0.1  # pixels are mapped to .1 to .9 (`map_pixels`, appendix A.3)
CLASSES = ("dall_e.encoder.Encoder", "dall_e.encoder.EncoderBlock", "dall_e.utils.Conv2d")  # named in the file

logger = logging.getLogger("pretrain.targets.dvae")  # `__main__` when it is run as a command


class Convolution(nn.Module):
    """A convolution that keeps the size, under the published names `w` and `b`."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.b = nn.Parameter(torch.zeros(outputs))
        nn.init.normal_(self.w, std=(inputs * kernel**2) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `[B, inputs, h, w]` to `[B, outputs, h, w]`."""
        return F.conv2d(x, self.w, self.b, padding=self.w.shape[-1] // 2)


class Block(nn.Module):
    """Four convolutions in a bottleneck, beside the identity; `gain` keeps the sum of all blocks in bounds."""

    def __init__(self, inputs: int, outputs: int, layers: int) -> None:
        super().__init__()
        hidden = outputs // 4
        self.gain = 1 / layers**2
        self.id_path = nn.Identity() if inputs == outputs else Convolution(inputs, outputs, 1)
        path: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (before, after, kernel) in enumerate(
            ((inputs, hidden, 3), (hidden, hidden, 3), (hidden, hidden, 3), (hidden, outputs, 1)), 1
        ):
            path[f"relu_{number}"] = nn.ReLU()
            path[f"conv_{number}"] = Convolution(before, after, kernel)
        self.res_path = nn.Sequential(path)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both paths."""
        return self.id_path(x) + self.gain * self.res_path(x)


class DalleTokenizer(nn.Module):
    """DALL-E's encoder with the most likely visual token of each cell; parameter names are the published ones.

    Args:
        hidden: Width of the first group.
        blocks: In each group.
        vocabulary: Number of visual tokens.

    Attributes:
        vocabulary: Number of visual tokens.
        stride: Side of the cell that a visual token describes, in pixels.
    """

    stride = 2 ** (GROUPS - 1)

    def __init__(self, hidden: int = 256, blocks: int = 2, vocabulary: int = 8192) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        parts: OrderedDict[str, nn.Module] = OrderedDict(input=Convolution(3, hidden, 7))
        width = hidden
        for group in range(1, GROUPS + 1):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            for number in range(1, blocks + 1):
                wide = hidden * 2 ** (group - 1)
                layers[f"block_{number}"] = Block(width, wide, GROUPS * blocks)
                width = wide
            if group < GROUPS:
                layers["pool"] = nn.MaxPool2d(2)
            parts[f"group_{group}"] = nn.Sequential(layers)
        parts["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=Convolution(width, vocabulary, 1)))
        self.blocks = nn.Sequential(parts)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits `[B, vocabulary, h, w]` of pixels `[B, 3, H, W]` in 0..1."""
        return self.blocks(SQUEEZE * pixels + EDGE)

    @torch.no_grad()
    def tokens(self, frames: Tensor) -> Tensor:
        """Return visual tokens int64 `[B, H / 8, W / 8]` of uint8 frames `[B, 3, H, W]` of any multiple of 8 pixels.

        Raises:
            UserError: The frames are not made of whole cells.
        """
        check_frames(frames, self.stride)
        return self(frames.float() / 255).argmax(dim=1)


def arguments_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of the `DalleTokenizer` that these tensors belong to.

    Raises:
        UserError: They belong to another model.
    """
    if not {"blocks.input.w", "blocks.output.conv.w"} <= state.keys():
        raise UserError("its tensors are not those of DALL-E's encoder (blocks.input.w, ..., blocks.output.conv.w)")
    names = (re.fullmatch(r"blocks\.group_1\.block_(\d+)\..+", name) for name in state)
    return {
        "hidden": state["blocks.input.w"].shape[0],
        "blocks": max((int(match[1]) for match in names if match), default=0),
        "vocabulary": state["blocks.output.conv.w"].shape[0],
    }


def convert(source: Path, out: Path) -> DalleTokenizer:
    """Write the tokenizer in DALL-E's `encoder.pkl` as safetensors.

    Args:
        source: The pickle; its classes are replaced by inert ones.
        out: File to write.

    Raises:
        UserError: The file is broken, names other classes, or holds another model.
    """
    state = read_modules(source, CLASSES)
    try:
        arguments = arguments_of(state)
        tokenizer = DalleTokenizer(**arguments)
        tokenizer.load_state_dict(state)
    except (UserError, RuntimeError) as error:
        raise UserError(f"{source}: {error}") from error
    origin = {"file": source.name, "sha256": file_sha256(source), "project": "openai/DALL-E"}
    facts = {
        "format": "pt",
        "tokenizer": "dalle",
        "arguments": json.dumps(arguments, sort_keys=True),
        "source": json.dumps(origin, sort_keys=True),
    }
    write_atomic(out, serialise({name: value.contiguous() for name, value in state.items()}, facts))
    return tokenizer


def main() -> None:
    """Convert the file named on the command line: `python -m pretrain.targets.dvae SRC OUT`."""
    show_logs()
    try:
        source, out = (Path(argument) for argument in sys.argv[1:])
    except ValueError:
        sys.exit("usage: python -m pretrain.targets.dvae encoder.pkl OUT.safetensors")
    try:
        tokenizer = convert(source, out)
    except UserError as error:
        sys.stderr.write(f"islr: {' '.join(str(error).split())}\n")
        sys.exit(2)
    size = sum(parameter.numel() for parameter in tokenizer.parameters())
    logger.info("%s: %s visual tokens, %s parameters", out, tokenizer.vocabulary, f"{size:,}")


if __name__ == "__main__":
    main()
