"""What `make setup` installs is what was pinned, to the byte."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).resolve().parents[1]
ELSEWHERE = re.compile(r"torch|triton|(cuda|nvidia)-.*")
"""Pinned in the Makefile, and what it brings: their files differ by platform and index."""
_PIN = re.compile(r"([a-z0-9.-]+)==(\S+)(?: ; [^\\]+)?((?:\s*\\\n    --hash=sha256:[0-9a-f]{64})*)")


def _pins() -> dict[str, str]:
    text = (CHECKOUT / ".constraints.txt").read_text(encoding="utf-8")
    entries = re.split(r"\n(?! )", re.sub(r"(?m)^#.*\n", "", text).strip())
    found = {}
    for entry in entries:
        pin = _PIN.fullmatch(entry)
        assert pin is not None, entry.splitlines()[0]
        assert pin[3], f"{pin[1]} has no hash"
        assert pin[1] not in found, pin[1]
        found[pin[1]] = pin[2]
    return found


def _required() -> Iterator[Requirement]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        listed += extra
    yield from (r for r in map(Requirement, listed) if r.name != project["project"]["name"])


def test_all_that_is_required_is_pinned_with_its_hashes() -> None:
    pins = _pins()
    for requirement in _required():
        name = canonicalize_name(requirement.name)
        if not ELSEWHERE.fullmatch(name):
            assert name in pins and requirement.specifier.contains(pins[name]), str(requirement)
    assert {"uv", "pip-audit"} <= set(pins) and not [n for n in pins if ELSEWHERE.fullmatch(n)]


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other Pythons resolve within the ranges")
@pytest.mark.skipif(not (CHECKOUT / ".venv/.ready").exists(), reason="not an environment of `make setup`")
@pytest.mark.skipif(Path(sys.prefix) != CHECKOUT / ".venv", reason="not an environment of `make setup`")
def test_nothing_is_installed_that_is_not_pinned() -> None:
    pins = _pins()
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in distributions()}
    others = {n: v for n, v in installed.items() if not ELSEWHERE.fullmatch(n) and pins.get(n) != v}
    assert others.keys() <= {"duplexdata", "pip", "setuptools"}  # the last two may be the interpreter's own


def test_setup_and_audit_use_the_pins() -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    assert "-c .constraints.txt -b .constraints.txt" in makefile and "--require-hashes" in makefile
    assert "--no-verify-hashes" not in makefile


def _wheel(folder: Path, name: str, requires: str = "") -> str:
    """A package without contents; its SHA-256."""
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + (requires and f"Requires-Dist: {requires}\n")
    files = {
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{info}/RECORD,,"]
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record.append(f"{file},sha256={digest},{len(text)}")
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", "\n".join(record) + "\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["", "wanted", "brought"])
def test_a_package_of_another_hash_is_not_installed(tmp_path: Path, wrong: str) -> None:
    """Constraints' hashes hold for what is asked for, and for what that brings with it."""
    uv = Path(sys.executable).parent / "uv"
    if not uv.exists():
        pytest.skip("uv is not installed")
    hashes = {"wanted": _wheel(tmp_path, "wanted", "brought"), "brought": _wheel(tmp_path, "brought")}
    if wrong:
        hashes[wrong] = "0" * 64
    pins = "".join(f"{n}==1.0 \\\n    --hash=sha256:{h}\n" for n, h in hashes.items())
    (tmp_path / "pins.txt").write_text(pins, encoding="utf-8")
    common = ["--no-index", "--no-cache", "--find-links", str(tmp_path), "-c", str(tmp_path / "pins.txt")]
    done = subprocess.run(
        [uv, "pip", "install", "--python", sys.executable, "--target", tmp_path / "there", *common, "wanted"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) is (not wrong), done.stderr
    assert not wrong or "Hash mismatch" in done.stderr


_CLEAN = {"name": "a", "version": "1.0", "vulns": []}
_HIT = {"name": "b", "version": "2.0", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.1"]}]}
_SKIPPED = {"name": "c", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("packages", "status", "told"),
    [
        ([_CLEAN], 0, "1 of 1 packages audited, 0 vulnerabilities known"),
        ([_CLEAN, _HIT, _SKIPPED], 1, "b 2.0: PYSEC-1 CVE-1; fixed in 2.1"),
        ([_CLEAN, _SKIPPED], 2, "NOT AUDITED: 1, the first: c (Dependency not found)"),
        ([], 2, "0 of 0 packages audited"),
        (None, 2, "NOTHING WAS AUDITED: the database of vulnerabilities cannot be asked (no route to it)"),
    ],
)
def test_an_audit_that_did_not_take_place_is_no_clean_one(
    tmp_path: Path, packages: list[dict[str, object]] | None, status: int, told: str
) -> None:
    (tmp_path / "errors.txt").write_text("Traceback\nno route to it\n", encoding="utf-8")
    if packages is not None:
        (tmp_path / "report.json").write_text(json.dumps({"dependencies": packages}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, CHECKOUT / ".ci/audited.py", tmp_path / "report.json", tmp_path / "errors.txt"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status and told in done.stdout, done.stdout + done.stderr
