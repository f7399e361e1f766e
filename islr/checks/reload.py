"""The reload check: weights that a run writes must give the same bits when another process loads them.

Run as a program in the new process: `python -m islr.checks.reload FOLDER DEVICE THREADS`.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import islr
from islr.checks.subject import CheckOutcome, Subject, evenly
from islr.data.loading.batches import eval_batches
from islr.data.loading.store import ClipStore
from islr.data.views.views import eval_view
from islr.errors import UserError
from islr.evaluation.classifier import load_classifier
from islr.models.encoder import to_input
from islr.models.weights import load_encoder, read_metadata
from islr.training.determinism import prepare_process
from islr.training.distributed.world import World

WEIGHTS, CLIPS, RESULTS = "weights.safetensors", "clips.safetensors", "results.safetensors"
_MOST_SECONDS = 600.0  # in which the new process must start, load and compute one batch


def reload(subject: Subject, module: nn.Module, clips: int, world: World) -> CheckOutcome:
    """Compare the exported model in memory with its file as another process loads it.

    Args:
        subject: The run.
        module: The result of `subject.build`, trained a little, so that running statistics have moved.
        clips: How many clips of the corpus both compute.
        world: The device.
    """
    exported = subject.exported(module)
    manifest = subject.train.select()
    store = ClipStore(manifest.replace(evenly(list(manifest), clips)), subject.data)
    batch = next(eval_batches(store, eval_view(subject.spec), batch_size=clips))
    clip = to_input(batch["clip"], subject.spec)
    with tempfile.TemporaryDirectory(prefix="islr-check-") as name:
        folder = Path(name)
        subject.save(module, folder / WEIGHTS)
        save_file({"clip": clip.contiguous()}, folder / CLIPS)
        here = results(exported, clip.to(world.device))
        problem = _in_new_process(folder, world.device, subject.run.threads)
        if problem:
            return CheckOutcome("reload", "fail", f"the new process could not load it: {problem}", {"equal": False})
        loaded = load_file(folder / RESULTS)["results"]
    what = "class scores" if subject.task == "finetune" else "features"
    if torch.equal(here, loaded):
        message = f"{what} of {len(clip)} clips are equal, bit for bit, in a new process that loads the file"
        return CheckOutcome("reload", "pass", message, {"equal": True, "clips": len(clip)})
    if here.shape != loaded.shape:
        message = f"{what} {list(here.shape)} became {list(loaded.shape)}"
        return CheckOutcome("reload", "fail", message, {"equal": False})
    difference = float((here - loaded).abs().max())
    message = f"{what} of {len(clip)} clips differ by up to {difference:.2g} in a new process that loads the file"
    values = {"equal": False, "clips": len(clip), "largest_difference": difference}
    return CheckOutcome("reload", "fail", message, values)


@torch.inference_mode()
def results(model: nn.Module, clip: Tensor) -> Tensor:
    """Return features or class scores of normalised clips, computed in evaluation mode, as float32 on the CPU."""
    return model.eval()(clip).float().cpu().contiguous()


def _in_new_process(folder: Path, device: torch.device, threads: int) -> str:
    """Let a new process write its results; return what went wrong, or nothing."""
    root = str(Path(islr.__file__).parent.parent)
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "islr.checks.reload", str(folder), str(device), str(threads)]
    try:
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=_MOST_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no result within {_MOST_SECONDS:.0f} s"
    lines = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else (lines[-1] if lines else f"exit {done.returncode}")


def load_and_compute(folder: Path, device: str) -> None:
    """Load the folder's weights and write their results; the new process calls this."""
    path = folder / WEIGHTS
    model: nn.Module = load_classifier(path)[0] if "classes" in read_metadata(path) else load_encoder(path)
    clip = load_file(folder / CLIPS)["clip"].to(device)
    save_file({"results": results(model.to(device), clip)}, folder / RESULTS)


if __name__ == "__main__":
    try:
        prepare_process(int(sys.argv[3]))
        load_and_compute(Path(sys.argv[1]), sys.argv[2])
    except UserError as error:
        sys.exit(str(error))
