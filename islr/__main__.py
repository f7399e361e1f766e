"""`python -m islr`: the same as the `islr` command."""

from islr.cli import main

if __name__ == "__main__":
    main()
