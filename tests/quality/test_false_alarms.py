"""Speech that nothing is wrong with passes: of a thousand real utterances fewer than one in a hundred is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from duplexdata.config import SourceConfig
from tests.benchmarks.bench_quality import faults_of, utterances


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["bundled", "real"])
def test_fewer_than_one_in_a_hundred_good_utterances_is_refused(corpus: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("espeakng_loader")
    sources = (SourceConfig(),)
    if corpus == "real":
        data: Path = request.getfixturevalue("shared_data")
        sources = tuple(SourceConfig(str(p)) for p in sorted(data.glob("*.js*")))
    judged, refused = 0, Counter[str]()
    for utterance in utterances(1000, sources):
        judged += 1
        if faults := faults_of(utterance):
            refused[faults[0].reason] += 1
    assert judged == 1000
    assert refused.total() < 10, refused
