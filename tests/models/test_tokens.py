"""Token grids: masks are enlarged by repetition, hidden tokens are replaced."""

import pytest
import torch

from islr.errors import UserError
from islr.models.tokens import hide_tokens, resize_mask


def test_masks_are_enlarged_by_repetition() -> None:
    mask = torch.tensor([[[[1, 0], [0, 1]]]], dtype=torch.bool)
    left, right = [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]
    assert resize_mask(mask, (1, 4, 6)).int().tolist() == [[[left, left, right, right]]]
    with pytest.raises(UserError, match="does not fit a token grid"):
        resize_mask(mask, (1, 3, 3))
    with pytest.raises(UserError, match="does not fit a token grid"):
        resize_mask(mask, (1, 1, 1))
    with pytest.raises(UserError, match="does not fit a token grid"):
        resize_mask(mask, (2, 4, 4))


def test_hidden_tokens_are_replaced_and_the_others_stay() -> None:
    tokens = torch.randn(2, 1, 4, 4, 3)
    mask = torch.tensor([[[[1, 0], [0, 0]]], [[[0, 0], [0, 1]]]], dtype=torch.bool)
    token = torch.tensor([1.0, 2.0, 3.0])
    result = hide_tokens(tokens, mask, token)
    assert torch.equal(result[0, 0, :2, :2], token.expand(2, 2, -1))
    assert torch.equal(result[1, 0, 2:, 2:], token.expand(2, 2, -1))
    assert torch.equal(result[0, 0, 2:], tokens[0, 0, 2:])
    assert torch.equal(result[1, 0, :, :2], tokens[1, 0, :, :2])
