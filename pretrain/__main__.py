"""`python -m pretrain CONFIG key=value ...`, also under `torchrun -m pretrain`: the same as `islr pretrain`."""

from islr.cli import main

if __name__ == "__main__":
    main("pretrain")
