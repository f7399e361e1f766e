"""Stand-ins of corpora: manifests whose clips are ranges of one small file, for what is decided before decoding."""

from pathlib import Path

from islr.data.manifest import Clip, Manifest
from islr.synth import SynthOptions
from islr.synth.lexicon import write_lexicon
from islr.synth.write import load_signs

SIGNS = 60


def stand_in(folder: Path, lost: int = 0, signers: int = 8) -> Path:
    """Write a manifest of 60 signs by signers with poses, and its lexicon; `lost` test clips are missing.

    The last two signers are the test, the one before is val.

    Returns:
        The manifest's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clips.bin").write_bytes(folder.name.encode())
    signs = load_signs(SynthOptions(signs=SIGNS))
    write_lexicon(folder / "lexicon.csv", signs)
    clips = []
    for number in range(SIGNS * signers):
        sign, signer = divmod(number, signers)
        split = "train" if signer < signers - 3 else "val" if signer == signers - 3 else "test"
        gone = split == "test" and lost > 0
        lost -= gone
        clips.append(
            Clip(
                f"{folder.name}-{number}",
                "clips.bin",
                gloss=signs[sign].entry_id,
                label=sign,
                split=split,
                start=float(number),
                end=number + 1.0,
                signer=f"{folder.name}-{signer}",
                frames=25,
                fps=25.0,
                width=320,
                height=256,
                status="missing" if gone else "ok",
                pose=f"{number}.npz",
            )
        )
    manifest = Manifest(folder.name, tuple(clips), folder, tuple(sign.entry_id for sign in signs))
    manifest.save(folder / "manifest.csv")
    return folder / "manifest.csv"
