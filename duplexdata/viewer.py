"""Looking at one conversation: two lanes in the terminal, its WAV, its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile as sf

from duplexdata.audio import from_flac
from duplexdata.conversation import Conversation, Spoken
from duplexdata.dialogue import Channel
from duplexdata.errors import DatasetError
from duplexdata.manifest import read_manifest
from duplexdata.records import RECORD_COLUMNS, conversations_from
from duplexdata.shards import batches
from duplexdata.units import SAMPLE_RATE, to_seconds


def find(dataset: Path, id_: str, *, first: bool = False) -> tuple[Conversation, np.ndarray | None]:
    """A conversation by its id (or the start of it, if only one has it or `first` is set) and its sound, int16 (n, 2).

    Raises: DatasetError: no conversation or several have it (and `first` is not set).
    """
    read_manifest(dataset)
    found: list[tuple[Path, int, str]] = []
    for path in sorted((dataset / "conversations").glob("*.parquet")):
        at = 0
        for batch in batches(path, ["id"], 4096):
            ids = batch.column("id").to_pylist()
            found += [(path, at + n, x) for n, x in enumerate(ids) if x.startswith(id_)]
            at += len(ids)
    exact = [x for x in found if x[2] == id_] or found
    if len(exact) != 1 and not (first and exact):
        some = ", ".join(x[2] for x in exact[:5])
        raise DatasetError(
            f"{dataset}: {len(exact)} conversations have an id that starts with {id_!r}"
            + (f" ({some}, …)" if exact else "; `duplexdata show DIR` lists them")
        )
    return _read_row(exact[0][0], exact[0][1])


def _read_row(path: Path, row: int) -> tuple[Conversation, np.ndarray | None]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            n = file.metadata.row_group(group).num_rows
            if row < n:
                table = file.read_row_group(group, columns=[*RECORD_COLUMNS, "provenance", "audio"]).slice(row, 1)
                batch = table.combine_chunks().to_batches()[0]
                conversation = conversations_from(batch)[0]
                return conversation, _sound(conversation.id, batch.column("audio")[0].as_py())
            row -= n
    raise DatasetError(f"{path}: row {row} is not there")


def _sound(id_: str, audio: Mapping[str, Any] | None) -> np.ndarray | None:
    """What the row itself holds; a path in it names nothing that is read."""
    if not audio:
        return None
    if not audio["bytes"]:
        raise DatasetError(f"{id_}: its row holds no sound, only the name {audio['path']!r}")
    try:
        return from_flac(audio["bytes"])
    except (ValueError, RuntimeError) as error:
        raise DatasetError(f"{id_}: {error}") from error


def ids(dataset: Path, most: int) -> list[tuple[str, str, float]]:
    """(id, scenario, duration) of the first conversations."""
    read_manifest(dataset)
    rows: list[tuple[str, str, float]] = []
    for path in sorted((dataset / "conversations").glob("*.parquet")):
        for batch in batches(path, ["id", "scenario", "duration"], most):
            rows += list(zip(*(batch.column(c).to_pylist() for c in ("id", "scenario", "duration")), strict=True))
            if len(rows) >= most:
                return rows[:most]
    return rows


def timeline(conversation: Conversation, width: int = 100) -> list[str]:
    """The conversation as text: for each stretch of time a ruler and a lane for either channel, then what is said.

    Each column is a tenth of a second or more, so that a row holds what fits into `width`.
    """
    seconds = to_seconds(conversation.n_samples)
    per_column = max(0.1, seconds / (width * 4))
    columns = int(np.ceil(seconds / per_column))
    lanes = {channel: _lane(conversation.utterances, channel, per_column, columns) for channel in Channel}
    lines = [
        f"{conversation.id}  {conversation.scenario}  {seconds:.1f} s  {conversation.language}  "
        f"user {conversation.user_voice}",
        f"one column = {per_column:.2f} s;  = speech   ~ distractor   · backchannel   > barge-in   | cut",
        "",
    ]
    for a in range(0, columns, width):
        b = min(columns, a + width)
        lines += [
            f"{'':10}{_ruler(a, b, per_column)}",
            f"{'user':10}{lanes[Channel.USER][a:b]}",
            f"{'assistant':10}{lanes[Channel.ASSISTANT][a:b]}",
            "",
        ]
    for u in conversation.utterances:
        said = u.spoken_text + (" —" if u.cut else "")
        lines.append(f"{to_seconds(u.start):7.2f} {to_seconds(u.end):7.2f}  {u.channel:9} {u.kind:12} {said}")
    return lines


def _lane(utterances: Sequence[Spoken], channel: Channel, per_column: float, columns: int) -> str:
    lane = [" "] * columns
    marks = {"distractor": "~", "backchannel": "·"}
    for u in utterances:
        if u.channel is not channel:
            continue
        a = int(to_seconds(u.start) / per_column)
        b = min(columns, max(a + 1, round(to_seconds(u.end) / per_column)))
        lane[a:b] = marks.get(u.kind, "=") * (b - a)
        if u.kind == "interruption":
            lane[a] = ">"
        if u.cut:
            lane[b - 1] = "|"
    return "".join(lane)


def _ruler(a: int, b: int, per_column: float) -> str:
    ruler = [" "] * (b - a)
    step = max(1, round(10 * per_column)) * 5
    for second in range(int(a * per_column), int(b * per_column) + 1):
        at = round(second / per_column) - a
        label = str(second)
        if second % step == 0 and 0 <= at <= b - a - len(label):
            ruler[at : at + len(label)] = label
    return "".join(ruler)


def write_wav(path: Path, audio: np.ndarray) -> None:
    """Two channels, left the assistant, right the user."""
    sf.write(path, audio, SAMPLE_RATE, subtype="PCM_16")


def write_picture(path: Path, conversation: Conversation, audio: np.ndarray) -> None:
    """A spectrogram of either channel, with the utterances drawn over it. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(8.0, min(40.0, to_seconds(len(audio)) / 2.5)), 5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for axis, channel, column in zip(axes, (Channel.USER, Channel.ASSISTANT), (1, 0), strict=True):
        samples = audio[:, column].astype(np.float32) / 32768
        with np.errstate(divide="ignore"):  # digital silence is drawn as the lowest level
            axis.specgram(samples, NFFT=512, Fs=SAMPLE_RATE, noverlap=256, cmap="magma", vmin=-140, vmax=-40)
        axis.set_facecolor("black")
        axis.set_ylabel(f"{channel} (Hz)")
        for u in conversation.utterances:
            if u.channel is channel:
                a, b = to_seconds(u.start), to_seconds(u.end)
                axis.axvspan(a, b, ymin=0.96, color="red" if u.cut else "lime" if u.addressed else "cyan")
                axis.text(a, 7300, str(u.kind), color="white", fontsize=7, va="top")
    axes[-1].set_xlabel("seconds")
    axes[0].set_title(f"{conversation.id} ({conversation.scenario})")
    figure.savefig(path, dpi=90)
