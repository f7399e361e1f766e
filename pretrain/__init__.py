"""Pre-training recipes, one file each. A new method is one file here, one YAML and one line in `RECIPES`."""

from types import ModuleType

from pretrain import bevt, maskfeat, posemae, supervised

RECIPES: dict[str, ModuleType] = {
    "bevt": bevt,
    "maskfeat": maskfeat,
    "posemae": posemae,
    "supervised": supervised,
}
