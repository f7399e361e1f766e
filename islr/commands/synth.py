"""`islr synth`. It imports inside its function, so that `--help` answers at once."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def synth_command(
    out: Annotated[Path, typer.Argument(help="folder for the corpus")],
    kind: Annotated[
        Literal["isolated", "continuous", "actions"],
        typer.Option(help="clips of one sign, 10 to 30 s of signing, or whole-body actions without signs"),
    ] = "isolated",
    difficulty: Annotated[
        Literal["easy", "medium", "hard"],
        typer.Option(help="a studio (easy), people at home (medium), or found footage (hard)"),
    ] = "medium",
    lexicon: Annotated[Path | None, typer.Option(help="csv in ASL-LEX columns; default: the built-in lexicon")] = None,
    signs: Annotated[
        int | None, typer.Option(min=1, help="number of signs or actions; default: 48 signs, all actions")
    ] = None,
    signers: Annotated[int, typer.Option(min=1, help="number of signers")] = 10,
    reps: Annotated[int, typer.Option(min=1, help="clips per sign and signer; continuous: per signer")] = 2,
    size: Annotated[int, typer.Option(min=64, help="width and height in pixels")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="seed of the signers, their clips and the choice of signs")] = 0,
    vocabulary: Annotated[Literal["a", "b"], typer.Option(help="built-in lexicon a or b; they share no sign")] = "a",
    homophones: Annotated[
        int, typer.Option(min=0, help="number of built-in signs with the same form as another sign")
    ] = 0,
    val_signers: Annotated[int, typer.Option(min=0, help="number of signers in split val")] = 2,
    test_signers: Annotated[int, typer.Option(min=0, help="number of signers in split test")] = 2,
    name: Annotated[
        str, typer.Option(help="name of the corpus in the manifest; default: from kind, vocabulary and seed")
    ] = "",
    workers: Annotated[int, typer.Option(min=1, help="processes that render")] = 1,
) -> None:
    """Render a synthetic corpus. Videos, exact poses, a manifest, and lists as of WLASL, OpenASL or Kinetics."""
    from islr.progress import ProgressBar
    from islr.synth import SynthOptions, coverage, summary, write_corpus
    from islr.synth.write import load_signs

    options = SynthOptions(
        kind=kind,
        difficulty=difficulty,
        lexicon=lexicon,
        vocabulary=vocabulary,
        signs=signs,
        homophones=homophones,
        signers=signers,
        reps=reps,
        size=size,
        seed=seed,
        val_signers=val_signers,
        test_signers=test_signers,
        name=name,
        workers=workers,
    )
    with ProgressBar("rendering", 0) as bar:
        write_corpus(out, options, bar.callback)
    if lexicon is not None:
        print("\n".join(summary(coverage(load_signs(options)))))
    print(out / "manifest.csv")
