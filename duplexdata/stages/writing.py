"""A language model's part in a shard's scripts: dialogues rewritten before they are planned, drafts written after.

Everything is asked for in as few rounds as what depends on what allows: dialogues, their follow-ups, the drafts, and
the distractors that are heard among drafts. In each round as many requests are on their way as the writer takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

from pydantic import BaseModel

from duplexdata.config import Config
from duplexdata.dialogue import Dialogue, Scenario, Script
from duplexdata.interactions import Planned
from duplexdata.rng import rng_for
from duplexdata.stages.plan import Plan, model_name
from duplexdata.stages.work import Counts
from duplexdata.talk import Draft
from duplexdata.windows import windows
from duplexdata.writer.placing import place_draft, place_follow_up, place_rewrite, without_overlay
from duplexdata.writer.prompts import PromptFile, load_prompt
from duplexdata.writer.reply_models import FollowUp, Rewrite
from duplexdata.writer.tasks import Limits, draft_task, follow_up_task, rewrite_task
from duplexdata.writer.types import Prompt, Task, Writer, Written
from duplexdata.writer.usage import Tally

_WINDOW = 1024
"""Scripts whose drafts are in memory at a time."""
MEAN_EXCHANGES, MOST_EXCHANGES = 2.0, 5
"""Exchanges that a single-turn dialogue is made to have: Poisson, clipped to 1 to 5. Source: LLaMA-Omni2, arXiv
2505.02625, section 3 (multi-turn data)."""
NO_PROMPT = "no_prompt"
"""Reason of what stays as it is because there are no prompts in its language."""


K = TypeVar("K")
Job = tuple[K, PromptFile, Callable[[], Task]]
"""What it is for, and how it is asked; the task is made when its turn comes, so that few are in memory."""


def exchanges_wanted(dialogue: Dialogue, config: Config) -> int:
    """How many exchanges a single-turn dialogue is to have."""
    return exchanges_drawn(dialogue.id, config)


def exchanges_drawn(dialogue_id: str, config: Config) -> int:
    """The same, by the dialogue's id."""
    drawn = int(rng_for(config.seed, dialogue_id, "exchanges").poisson(MEAN_EXCHANGES))
    return min(max(1, drawn), MOST_EXCHANGES, config.text.max_exchanges)


class Scribe:
    """Asks a writer, puts its texts in place, and counts what came of it. For one shard.

    Where a text could not be written, `writer.on_failure` decides: what rules and templates made stays ("template"),
    or what needs the text is dropped ("drop"): a distractor alone; else the conversation. A dialogue without
    follow-ups is as good as before, and stays in both cases.
    """

    def __init__(self, writer: Writer, config: Config) -> None:
        assert config.writer.model is not None
        self._writer, self._config = writer, config
        self._limits = Limits(config.text, config.timing)
        self._drop = config.writer.on_failure == "drop"
        self._tally = Tally()
        self._no_prompt: Counter[str] = Counter()
        self._writers: dict[str, dict[str, object]] = {}

    @classmethod
    def of(cls, plan: Plan) -> Scribe:
        """Raises: ConfigError, WriterError: the configured writer cannot be had."""
        from duplexdata.writer.open import open_writer  # brings the client's libraries

        return cls(open_writer(plan.config.writer, plan.work), plan.config)

    def __enter__(self) -> Scribe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._writer.close()

    # -- dialogues

    def dialogues(
        self, wanted: Sequence[tuple[Scenario, tuple[Dialogue, ...]]], raw: Mapping[str, Dialogue]
    ) -> dict[str, Dialogue | None]:
        """Dialogues in the model's words, with follow-ups where the source has a single exchange.

        Args:
            wanted: of each conversation the scenario and its dialogues by rules, its own first.
            raw: all of them as they were read, by id.

        Returns: by id; None for one that could not be rewritten and is to be dropped.
        """
        found: dict[str, Dialogue | None] = {d.id: d for _, dialogues in wanted for d in dialogues}
        self._rewrite(found, [i for i in found if i in self._heard(wanted)], raw)
        self._follow_up(found, [i for i in found if i in self._continued(wanted)], raw)
        return found

    def _heard(self, wanted: Sequence[tuple[Scenario, tuple[Dialogue, ...]]]) -> frozenset[str]:
        """Ids of dialogues whose texts will be heard. What a side question borrows will not, if it is written."""
        written = "back_on_topic" in self._config.writer.write

        def unheard(asked: Scenario, own: Dialogue) -> bool:
            return (
                written and asked is Scenario.BACK_ON_TOPIC and load_prompt("back_on_topic", own.language) is not None
            )

        return frozenset(
            d.id
            for asked, dialogues in wanted
            for n, d in enumerate(dialogues)
            if not (n and unheard(asked, dialogues[0]))
        )

    def _continued(self, wanted: Sequence[tuple[Scenario, tuple[Dialogue, ...]]]) -> frozenset[str]:
        """Ids of dialogues of which more than the first exchange can be heard."""
        return frozenset(
            d.id
            for asked, dialogues in wanted
            for d in (dialogues if asked is Scenario.TOPIC_INTERWEAVING else dialogues[:1])
        )

    def _rewrite(self, found: dict[str, Dialogue | None], ids: Sequence[str], raw: Mapping[str, Dialogue]) -> None:
        spoken = {i: d for i in ids if (d := found[i]) is not None}

        def job(i: str, prompt: PromptFile) -> Job[str]:
            return i, prompt, lambda: rewrite_task(raw[i], spoken[i], prompt, self._limits)

        jobs = [job(i, prompt) for i, d in spoken.items() if (prompt := self._prompt("rewrite", d.language))]
        for i, label, reply in self._ask(jobs):
            if isinstance(reply, Rewrite):
                found[i] = place_rewrite(spoken[i], reply, label)
            elif self._drop:
                found[i] = None

    def _follow_up(self, found: dict[str, Dialogue | None], ids: Sequence[str], raw: Mapping[str, Dialogue]) -> None:
        single = {i: d for i in ids if len(raw[i].turns) <= 2 and (d := found[i]) is not None}
        more = {i: n for i, d in single.items() if (n := exchanges_wanted(d, self._config) - len(d.turns) // 2) > 0}

        def job(i: str, prompt: PromptFile) -> Job[str]:
            return i, prompt, lambda: follow_up_task(single[i], more[i], prompt, self._limits)

        jobs = [job(i, prompt) for i in more if (prompt := self._prompt("follow_up", single[i].language))]
        for i, label, reply in self._ask(jobs):
            if isinstance(reply, FollowUp):
                found[i] = place_follow_up(single[i], reply, label)

    # -- scripts

    def scripts(self, planned: Iterable[tuple[Planned, Dialogue]]) -> Iterator[Script | None]:
        """The scripts with the model's texts, in order; None for one that lacks a text and is to be dropped.

        Args:
            planned: with each one's own dialogue.
        """
        for window in windows(planned, _WINDOW):
            scripts: list[Script | None] = [p.script for p, _ in window]
            own = [d for _, d in window]
            first, second = self._rounds([p for p, _ in window])
            self._write(scripts, first, own)
            self._write(scripts, [(n, d) for n, d in second if scripts[n] is not None], own)
            yield from scripts

    def _rounds(self, planned: Sequence[Planned]) -> tuple[list[tuple[int, Draft]], list[tuple[int, Draft]]]:
        """What is overheard fits what was said: where that is being written, it comes second."""
        first: list[tuple[int, Draft]] = []
        second: list[tuple[int, Draft]] = []
        for n, p in enumerate(planned):
            said = [d for d in p.drafts if d.kind != "distractor"]
            heard = [d for d in p.drafts if d.kind == "distractor"]
            later = any(d.kind in self._config.writer.write for d in said)
            first += [(n, d) for d in said]
            (second if later else first).extend((n, d) for d in heard)
        return first, second

    def _write(
        self, scripts: list[Script | None], drafts: Sequence[tuple[int, Draft]], own: Sequence[Dialogue]
    ) -> None:
        """Put the drafts' texts into `scripts`."""
        before = list(scripts)  # what is asked must not depend on which replies are there already

        def job(n: int, draft: Draft, prompt: PromptFile) -> Job[tuple[int, Draft]]:
            script = before[n]
            assert script is not None
            return (n, draft), prompt, lambda: draft_task(script, draft, prompt, self._limits)

        jobs = [job(n, d, prompt) for n, d in drafts if (prompt := self._prompt(d.kind, own[n].language))]
        for (n, draft), label, reply in self._ask(jobs):
            script = scripts[n]
            if script is None:
                continue
            if reply is not None:
                scripts[n] = place_draft(script, draft, reply, label, own[n])
            elif self._drop:
                overlay = draft.kind == "distractor"
                scripts[n] = without_overlay(script, draft.utterance) if overlay else None

    # -- asking and counting

    def _prompt(self, kind: str, language: str) -> PromptFile | None:
        """None for what is not to be written, or cannot be in this language; the latter is counted."""
        if kind not in self._config.writer.write:
            return None
        found = load_prompt(kind, language)
        if found is None:
            self._no_prompt[kind] += 1
        return found

    def _ask(self, jobs: Sequence[Job[K]]) -> Iterator[tuple[K, str, BaseModel | None]]:
        """What each is for, who wrote it as it stands in an utterance, and the reply; None for one that failed."""
        outcomes = self._writer.write(make() for _, _, make in jobs)
        for (key, prompt, _), outcome in zip(jobs, outcomes, strict=True):
            self._tally.add(outcome)
            label = self._label(prompt.prompt)
            yield key, label, outcome.reply if isinstance(outcome, Written) else None

    def _label(self, prompt: Prompt) -> str:
        """Names the model and the prompt's version; what else was asked of the model is noted under it."""
        settings = self._config.writer
        assert settings.model is not None
        label = f"{model_name(settings.model)}@{prompt.name.replace('_', '-')}-{prompt.version}"
        if label not in self._writers:
            sampling = {
                "temperature": prompt.temperature if settings.temperature is None else settings.temperature,
                "top_p": prompt.top_p,
            }
            self._writers[label] = {
                "model": model_name(settings.model),
                "prompt": f"{prompt.language}/{prompt.name}",
                "version": prompt.version,
                "schema": prompt.schema_name,
                **{name: value for name, value in sampling.items() if name not in settings.omit},
                "max_tokens": prompt.max_tokens,
            }
        return label

    def counts(self) -> tuple[Counts, ...]:
        """Per kind of text: asked for, written, and the rest by reason."""
        facts = self._tally.facts()
        found = []
        for kind in self._config.writer.write:
            of = facts.get(kind, {"items": 0, "written": 0, "failed": {}})
            missing = self._no_prompt[kind]
            failed = {**of["failed"], **({NO_PROMPT: missing} if missing else {})}
            found.append(Counts(f"writing {kind}", of["items"] + missing, of["written"], failed))
        return tuple(found)

    def facts(self) -> dict[str, object]:
        """For the manifest: who wrote, and what replies took. The same whether they were paid for or known."""
        return {"writers": dict(sorted(self._writers.items())), "usage": self._tally.facts()}
