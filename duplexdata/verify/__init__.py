"""`duplexdata verify`: audits a dataset's folder and reads nothing else. Reports, never raises; streams its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from duplexdata.verify.folder import check_card, check_files, check_manifest, read_manifest
from duplexdata.verify.joins import Audit
from duplexdata.verify.rules import RULES, Report, Violation
from duplexdata.verify.settings import check_schema, read_settings, read_tokenizer

__all__ = ["RULES", "Report", "Violation", "verify"]


def verify(dataset: Path, *, report: Report | None = None) -> Iterator[Violation]:
    """Every violation of `RULES` in a dataset's folder. Damage is reported, not raised."""
    said = report or (lambda what, n: None)
    manifest, found = read_manifest(dataset)
    yield from found
    if manifest is None:
        return
    yield from check_manifest(manifest)
    yield from check_card(dataset, manifest["files"])
    yield from check_files(dataset, manifest["files"], said)
    tokenizer, found = read_tokenizer(dataset, manifest)
    yield from found
    settings, found = read_settings(manifest)
    yield from found
    for name in sorted(manifest["files"]):
        if name.endswith(".parquet"):
            yield from check_schema(dataset, name, manifest)
    if settings is not None and tokenizer is not None:
        yield from Audit(dataset, manifest, settings, tokenizer, said).run()
