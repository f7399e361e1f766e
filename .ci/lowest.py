"""Print the lowest version of each requirement that `pyproject.toml` declares, for `pip install -r`."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
for requirement in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
    print(requirement.replace(">=", "==", 1))
