"""Tokenizer files: safetensors with the facts to rebuild the tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from islr.config import Config
from islr.errors import UserError
from islr.files import write_atomic
from islr.models import create_model
from islr.models.convnets.frame_conv import FrameConv
from islr.models.weights import arguments_in, read_metadata, read_tensors, serialise
from islr.untrusted.json_files import parse_json
from pretrain.targets.codebook import Codebook
from pretrain.targets.dvae import DalleTokenizer
from pretrain.targets.frame_tokenizer import FrameTokenizer, PixelTokenizer

TOKENIZER = "tokenizer.safetensors"  # in the run folder
KIND = "tokenizer"  # metadata key that names the class which reads a file
FrozenTokenizer = FrameTokenizer | DalleTokenizer


class _Built(Config):
    """What a tokenizer's file says of its parts."""

    encoder: str
    encoder_arguments: dict[str, Any]
    vocabulary: int = Field(ge=2, le=2**20)
    code_dim: int = Field(ge=1, le=2**14)
    decoder: tuple[int, int] | None


def save_tokenizer(tokenizer: FrameTokenizer, path: Path, facts: Mapping[str, str]) -> None:
    """Write a tokenizer with what is needed to rebuild it, and further facts."""
    encoder = tokenizer.encoder
    vocabulary, code_dim = tokenizer.codebook.codes.shape
    built = {
        "encoder": encoder.architecture,
        "encoder_arguments": dict(encoder.arguments),
        "vocabulary": vocabulary,
        "code_dim": code_dim,
        "decoder": [tokenizer.width, tokenizer.depth] if isinstance(tokenizer, PixelTokenizer) else None,
    }
    metadata = dict(facts) | {"format": "pt", KIND: "codebook", "arguments": json.dumps(built, sort_keys=True)}
    state = {name: value.detach().cpu().contiguous() for name, value in tokenizer.state_dict().items()}
    write_atomic(path, serialise(state, metadata))


def load_tokenizer(path: str | Path) -> FrozenTokenizer:
    """Return a trained tokenizer, in evaluation mode and frozen.

    It has `vocabulary`, `stride` (side of a visual token's cell in pixels) and `tokens(uint8 [B, 3, H, W])` -> int64
    `[B, H / stride, W / stride]`; some also `decode(tokens)` -> uint8 frames.

    Args:
        path: `tokenizer.safetensors` of a run, or a file written by `python -m pretrain.targets.dvae`.

    Raises:
        UserError: The file holds no tokenizer, or a part of one.
    """
    facts = read_metadata(path)
    tokenizer: FrozenTokenizer
    if facts.get(KIND) == "codebook":
        built: _Built = parse_json(_Built, facts.get("arguments", "{}"), f"{path}: metadata 'arguments'")
        encoder = create_model(built.encoder, **built.encoder_arguments)
        if not isinstance(encoder, FrameConv):
            raise UserError(f"{path}: a tokenizer on the encoder {built.encoder}, which is none of frames")
        codebook = Codebook(built.vocabulary, built.code_dim)
        decoder = built.decoder
        tokenizer = PixelTokenizer(encoder, codebook, *decoder) if decoder else FrameTokenizer(encoder, codebook)
    elif facts.get(KIND) == "dalle":
        tokenizer = DalleTokenizer(**arguments_in(facts, path))
    else:
        raise UserError(f"{path}: holds no tokenizer; a tokenizer run writes {TOKENIZER}")
    try:
        tokenizer.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise UserError(f"{path}: its tensors are not those of the tokenizer it describes ({error})") from error
    return tokenizer.requires_grad_(False).eval()
