"""`islr perf step`: both models agree before they are timed, and the table adds up."""

import re

import pytest
import torch
from torch import nn

from islr.cli import run
from islr.errors import RunFailed
from islr.models.mvit.encoder import MViTEncoder
from islr.models.mvit.sizes import MViTSizes
from islr.perf.step import Step, build_pair, check_agreement, step_speed
from islr.training.memory import saved_bytes


def rows_of(table: str) -> dict[str, list[float]]:
    """The numbers of each row: milliseconds, times as fast, MiB, share of the memory."""
    found = re.findall(r"^(\S.*?)\s{2,}([\d.]+)\s+([\d.]+)x\s+([\d.]+)\s+([\d.]+)$", table, re.MULTILINE)
    return {name: [float(value) for value in values] for name, *values in found}


def test_the_command_prints_times_and_memory_of_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["perf", "step", "--frames", "2", "--size", "32"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"largest difference of logits \d\.\de-0[5-9]", out)
    rows = rows_of(out)
    peer, ours, checkpointed = rows.values()
    assert list(rows) == ["torchvision, explicit attention", "ours, folded attention", "ours, checkpointing"]
    assert peer[1] == peer[3] == 1
    assert ours[1] == pytest.approx(peer[0] / ours[0], abs=0.02)
    assert checkpointed[3] == pytest.approx(checkpointed[2] / peer[2], abs=0.03)
    assert checkpointed[2] < 0.3 * ours[2]


def test_models_that_differ_are_not_timed() -> None:
    encoder = MViTEncoder(
        MViTSizes(
            depth=2,
            embed_dim=8,
            dim_mul={1: 2},
            head_mul={1: 2},
            q_stride={1: 2},
            kv_stride=2,
        ),
        frames=2,
        size=32,
        widen_in="attention",
        pool="class",
    )
    ours, peer = build_pair(encoder)
    step = Step(torch.randn(1, 3, 2, 32, 32), torch.zeros(1, dtype=torch.long), half=False)
    assert "largest difference of logits" in check_agreement(ours, peer, step)
    exact = Step(step.clip.double(), step.labels, half=False)
    assert re.search(r"gradient \d\.\de-1\d of", check_agreement(ours.double(), peer.double(), exact))
    step = exact
    with torch.no_grad():
        peer.blocks[1].mlp[0].weight.mul_(1.5)
    with pytest.raises(RunFailed, match="do not compute the same: largest difference of logits"):
        check_agreement(ours, peer, step)


def test_saved_bytes_counts_each_storage_once_and_no_weights() -> None:
    model = nn.Linear(4, 4)
    x = torch.randn(8, 4, requires_grad=True)
    assert saved_bytes(lambda: model(x).exp().mul(2).sum(), model) == 2 * 8 * 4 * 4  # the input, and exp's result
    assert saved_bytes(lambda: model(x) * model(x).detach(), model) > 0
    with torch.no_grad():
        assert saved_bytes(lambda: model(x).exp(), model) == 0


def test_no_such_device_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(["perf", "step", "--device", "cuda"]) == 2
    assert "PyTorch sees no CUDA device here" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_step_is_faster_and_smaller() -> None:
    rows = rows_of(step_speed(batch=4, device="cuda"))
    assert rows["ours, folded attention"][1] > 1
    assert rows["ours, folded attention"][3] < 1
