"""A picture of a bank's recordings: the level of each over time, what is speech in it, and why it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from duplexdata.errors import ConfigError
from duplexdata.voices.bank import Fault
from duplexdata.voices.judge import frame_energy, speech_frames
from duplexdata.voices.load import Surveyed, read_prompt

_MOST = 48
_COLUMNS = 4


def write_picture(path: Path, found: Sequence[Surveyed]) -> int:
    """Up to 48 recordings, refused ones first and in red. Needs matplotlib.

    Returns: how many there are to see.
    Raises: ConfigError: matplotlib is missing, or no recording can be drawn.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        raise ConfigError("--png needs matplotlib: pip install 'duplexdata[fit]'") from None
    drawn = [s for s in sorted(found, key=lambda s: s.accepted) if s.measured is not None][:_MOST]
    if not drawn:
        raise ConfigError("there is no recording in this bank that could be drawn")
    rows = -(-len(drawn) // _COLUMNS)
    figure, axes = plt.subplots(rows, _COLUMNS, figsize=(16, 2.2 * rows), squeeze=False, layout="constrained")
    for axis, s in zip(axes.flat, drawn, strict=False):
        _draw(axis, s)
    for axis in axes.flat[len(drawn) :]:
        axis.set_axis_off()
    figure.supxlabel("seconds; shaded: taken for speech", fontsize=8)
    figure.supylabel("dBFS", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return len(drawn)


def _draw(axis: Any, s: Surveyed) -> None:
    assert s.voice is not None and s.voice.voice.prompt is not None
    sound = read_prompt(Path(s.voice.voice.prompt.path).read_bytes())
    if isinstance(sound, Fault):
        return
    samples, rate = sound
    energy = frame_energy(samples, rate // 100)
    seconds = np.arange(len(energy)) / 100
    level = 10 * np.log10(energy + 1e-10)
    colour = "tab:blue" if s.accepted else "tab:red"
    axis.fill_between(seconds, -100, level, where=speech_frames(energy), color=colour, alpha=0.35)
    axis.plot(seconds, level, color=colour, linewidth=0.7)
    why = ", ".join(f.reason for f in s.faults)
    axis.set_title(f"{s.where}{': ' if why else ''}{why}"[:70], fontsize=8, color="black" if s.accepted else "tab:red")
    axis.set(ylim=(-90, 0), xlim=(0, max(3.0, len(samples) / rate)))
    axis.tick_params(labelsize=7)
