"""The best constant prediction: the goal of recipes that regress values.

The constant is the same for every token and is fitted to the batch under the recipe's own loss, so that no
normalisation of targets is written down twice.
"""

from typing import Any

import torch
from torch import Tensor, nn

from islr.checks.goal import Goal, half_of
from islr.data.loading.loader import Batch

_FIT_STEPS = 20


def half_of_best_constant(recipe: nn.Module, batch: Batch, token_dims: int) -> Goal:
    """Return the goal of half the loss of the best constant; arguments as `best_constant`."""
    return half_of("loss", best_constant(recipe, batch, token_dims), "the best constant")


def best_constant(recipe: Any, batch: Batch, token_dims: int) -> float:
    """Return the lowest loss of one prediction for every token of every clip.

    Args:
        recipe: Has `predict`, whose results have tokens first.
        batch: On its device.
        token_dims: How many of the last dimensions of a prediction belong to one token.
    """
    training = recipe.training
    recipe.eval()  # a fit must not move running statistics
    constants: list[Tensor] = []
    predictions: list[Tensor] = []  # each constant, expanded to all tokens
    single = False

    def predict(*inputs: Tensor) -> Any:
        if not constants:
            with torch.no_grad():
                real = type(recipe).predict(recipe, *inputs)
            nonlocal single
            single = isinstance(real, Tensor)
            for prediction in [real] if single else real:
                shape = prediction.shape
                constants.append(torch.zeros(shape[-token_dims:], device=prediction.device, requires_grad=True))
                predictions.append(constants[-1].expand(shape))
        return predictions[0] if single else predictions

    recipe.predict = predict
    try:
        recipe(batch)  # makes the constants
        fit = torch.optim.LBFGS(constants, max_iter=_FIT_STEPS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            fit.zero_grad()
            loss = recipe(batch)["loss"]
            loss.backward()
            return loss

        fit.step(closure)
        return float(recipe(batch)["loss"].detach())
    finally:
        del recipe.predict
        recipe.train(training)
