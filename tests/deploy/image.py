"""Image recipe and project metadata as Python objects."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@cache
def recipe() -> str:
    return (DEPLOY / "Dockerfile").read_text()


def image_user() -> str:
    (user,) = re.findall(r"^USER (\d+):\1$", recipe(), re.M)
    return str(user)


@cache
def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])
