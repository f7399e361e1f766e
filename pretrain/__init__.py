"""Pre-training recipes, one file each. A new method is one file here, one YAML and one line in `RECIPES`."""

from types import ModuleType

from pretrain import bevt, dpc, maskfeat, posemae, supervised, svt, tokenizer, videomae

RECIPES: dict[str, ModuleType] = {
    "bevt": bevt,
    "dpc": dpc,
    "maskfeat": maskfeat,
    "posemae": posemae,
    "supervised": supervised,
    "svt": svt,
    "tokenizer": tokenizer,
    "videomae": videomae,
}
