"""Pre-training recipes, one class a file. A new method is one file here, one YAML and one line in `RECIPES`."""

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
