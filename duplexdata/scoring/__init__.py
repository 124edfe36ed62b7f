"""Does a model take turns, stop when interrupted, and hold its own otherwise?

    score = score_dataset("checkpoint", "dataset")             # the held-out split
    score = score_dataset(None, "dataset", reference="recorded")
    score = score_pairs("folder")                              # input.wav and output.wav, Full-Duplex-Bench's layout
    write_report(score, Path("report"))                        # score.json, score.md, score.png
    difference(first.judgements, second.judgements)            # of two systems on the same conversations

Source: arXiv 2606.14528, section 4.
"""

from __future__ import annotations

from duplexdata.scoring.pairs import score_pairs
from duplexdata.scoring.report import TABLE_WIDTH, as_json, as_markdown, as_table, remarks, write_report
from duplexdata.scoring.score import OFFICIAL, Case, Score, score_dataset
from duplexdata.scoring.summary import BY_NAME, METRICS, Estimate, Metric, difference, summarise

__all__ = [
    "BY_NAME",
    "METRICS",
    "OFFICIAL",
    "TABLE_WIDTH",
    "Case",
    "Estimate",
    "Metric",
    "Score",
    "as_json",
    "as_markdown",
    "as_table",
    "difference",
    "remarks",
    "score_dataset",
    "score_pairs",
    "summarise",
    "write_report",
]
