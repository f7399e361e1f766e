"""`python -m probe CONFIG key=value ...`: the same as `islr probe`."""

from islr.cli import main

if __name__ == "__main__":
    main("probe")
