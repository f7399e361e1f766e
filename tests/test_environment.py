"""What `islr --version` and every record name."""

import importlib.metadata
import platform
import subprocess
import sys

import pytest
import torch

from islr.cli import run
from islr.environment import cpu, libraries


def test_version_names_torch_and_the_processor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("torch", "torchvision"):
        assert f"{name} {importlib.metadata.version(name)}" in lines
    assert f"cpu {cpu()}" in lines


@pytest.mark.skipif(platform.system() != "Linux" or platform.machine() != "x86_64", reason="x86 vector extensions")
def test_cpu_names_the_vector_extension_of_torch() -> None:
    assert libraries()["cpu"] == cpu()
    assert torch.backends.cpu.get_cpu_capability().lower() in cpu().lower()


def test_version_does_not_import_torch() -> None:
    code = "import sys; from islr.cli import run; run(['--version']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
