"""Pre-training recipes, one file each. A new method is one file here, one YAML and one line in `RECIPES`."""

from types import ModuleType

from pretrain import maskfeat, posemae, supervised, tokenizer

RECIPES: dict[str, ModuleType] = {
    "maskfeat": maskfeat,
    "posemae": posemae,
    "supervised": supervised,
    "tokenizer": tokenizer,
}
