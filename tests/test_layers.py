"""Which way dependencies point, read from the import statements."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import duplexdata

PACKAGE = Path(duplexdata.__file__).parent
CORE = {
    "units", "rng", "errors", "dialogue", "conversation", "config", "words", "spoken", "banks", "interactions",
    "talk", "timeline", "vad", "windows", "splitting", "checks", "layouts", "quality", "text.types", "speech.base",
    "voices.bank", "voices.deck", "voices.judge", "voices.duplicates", "voices.report",
    "writer.language", "writer.requests", "training.config", "training.classes", "training.packing",
    "augment.config", "augment.draw", "augment.signal",
    "decoding.values", "scoring.activity", "scoring.events", "scoring.judge", "scoring.summary",
}  # fmt: skip
"""Standard library and numpy only, and each other (`spoken` spells numbers with num2words, `augment` uses scipy)."""
PURE_OUTSIDE = {"numpy", "num2words", "scipy"}
AT_THE_DOOR = ("writer.types", "writer.reply_models", "writer.checks", "writer.placing", "forecast.writer",
               "forecast.constants", "forecast.estimates", "forecast.values", "forecast.build",
               "forecast.table")  # fmt: skip
"""As pure, but for pydantic's models of what comes in from outside."""
NO_IO = {"pathlib", "os", "socket", "subprocess", "time", "datetime", "random", "logging", "shutil", "tempfile", "io"}


def _modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(p for p in parts if p != "__init__")
        found[name] = path
    return found


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _is_core(name: str) -> bool:
    return any(name == c or name.startswith(f"{c}.") for c in CORE)


def test_the_core_imports_nothing_but_itself_and_numpy() -> None:
    modules = _modules()
    for name, path in modules.items():
        if not name or not _is_core(name):
            continue
        for imported in _imports(path):
            top = imported.split(".")[0]
            if top == "duplexdata":
                inside = imported.removeprefix("duplexdata").lstrip(".")
                target = inside if inside in modules else inside.rpartition(".")[0]
                assert not target or _is_core(target), f"{name} imports {imported}"
            else:
                assert top not in NO_IO, f"{name} imports {imported}"
                assert top in PURE_OUTSIDE or top in __import__("sys").stdlib_module_names, f"{name} imports {imported}"


def test_what_judges_replies_touches_nothing_outside() -> None:
    modules = _modules()
    for name in AT_THE_DOOR:
        imported = {i.split(".")[0] for i in _imports(modules[name])}
        assert not imported & NO_IO, name
        assert not {i for i in imported if i in ("openai", "httpx", "sqlite3", "pyarrow", "torch")}, name


def test_stages_do_not_import_what_calls_them() -> None:
    for name, path in _modules().items():
        if name.startswith(("stages", "codecs", "speech", "sources", "text")):
            above = {"cli", "build", "dataset", "reemit", "verify", "viewer", "card"}
            imported = {
                i.removeprefix("duplexdata.").split(".")[0] for i in _imports(path) if i.startswith("duplexdata.")
            }
            assert not imported & above, (name, imported & above)


def test_nothing_in_the_package_imports_prefect() -> None:
    for name, path in _modules().items():
        assert not any(i.split(".")[0] == "prefect" for i in _imports(path)), name


@pytest.mark.parametrize("name", sorted(m.name for m in pkgutil.walk_packages([str(PACKAGE)], "duplexdata.")))
def test_every_module_can_be_imported(name: str) -> None:
    importlib.import_module(name)
