"""Pre-training recipes, one class a file. A new method is one file here, one YAML and one line in `RECIPES`."""

from islr import plugins
from islr.errors import UserError
from pretrain.bevt import BEVT
from pretrain.dpc import DPC
from pretrain.maskfeat import MaskFeat
from pretrain.posemae import PoseMAE
from pretrain.recipe import Recipe
from pretrain.supervised import Supervised
from pretrain.svt import SVT
from pretrain.tokenizer import Tokenizer
from pretrain.videomae import VideoMAE

RECIPES: dict[str, type[Recipe]] = {
    "bevt": BEVT,
    "dpc": DPC,
    "maskfeat": MaskFeat,
    "posemae": PoseMAE,
    "supervised": Supervised,
    "svt": SVT,
    "tokenizer": Tokenizer,
    "videomae": VideoMAE,
}


def find_recipe(name: str) -> type[Recipe]:
    """Return the recipe of a name: a key of `RECIPES`, an entry point of a plug-in, or `path/to/file.py:Name`.

    Raises:
        UserError: There is none, it cannot be imported, or it is no recipe.
    """
    recipe = RECIPES.get(name) or plugins.find("recipe", name, RECIPES)
    if not (isinstance(recipe, type) and issubclass(recipe, Recipe)):
        raise UserError(f"recipe '{name}' is no subclass of pretrain.recipe.Recipe")
    return recipe
