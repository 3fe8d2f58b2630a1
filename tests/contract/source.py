"""Access to ``lua/src``, which is no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SRC = Path(__file__).parent.parent.parent / "lua" / "src"


def load_module(name: str, folder: Path = SRC) -> ModuleType:
    """Load a program of that folder as a new module."""
    spec = importlib.util.spec_from_file_location(f"lua_src_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    return module
