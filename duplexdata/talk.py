"""A conversation's utterances in the making, one after the other: the notation that scenarios are written in."""

from __future__ import annotations

from dataclasses import dataclass

from duplexdata.dialogue import Channel, Dialogue, Kind, Turn, Utterance


@dataclass(frozen=True, slots=True)
class Cast:
    """Who is heard: voice ids."""

    user: str
    assistant: str
    bystander: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A line that a template wrote, and that a language model may write better.

    Attributes:
        kind: what it is: "termination", "regeneration", "reset", "back_on_topic", "interweaving" or "distractor".
        utterance: index of the user's utterance. What the assistant says to it comes behind it.
        request: which part of it a dialogue gave, behind the transition; its writer.
        earlier: of an interweaving: indices of what was said about the topic before.
        overheard: of a distractor: its kind in the phrase bank.
    """

    kind: str
    utterance: int
    request: Turn | None = None
    earlier: tuple[int, ...] = ()
    overheard: str = ""


class Talk:
    """Utterances in the making; keeps the indices that later ones refer to, and notes which of them are drafts."""

    def __init__(self, cast: Cast) -> None:
        self._cast = cast
        self.utterances: list[Utterance] = []
        self.drafts: list[Draft] = []

    def _add(self, channel: Channel, kind: Kind, turn: Turn, **links: int | None) -> None:
        voice = self._cast.user if channel is Channel.USER else self._cast.assistant
        self.utterances.append(Utterance(channel, kind, turn.text, turn.writer, voice, **links))  # type: ignore[arg-type]

    def draft(self, kind: str, request: Turn | None = None, earlier: tuple[int, ...] = ()) -> None:
        """The next utterance is one."""
        self.drafts.append(Draft(kind, len(self.utterances), request, earlier))

    def ask(self, turn: Turn) -> None:
        self._add(Channel.USER, Kind.QUERY, turn)

    def answer(self, turn: Turn) -> None:
        asked = max(i for i, u in enumerate(self.utterances) if u.channel is Channel.USER)
        self._add(Channel.ASSISTANT, Kind.REPLY, turn, replies_to=asked)

    def interrupt(self, turn: Turn) -> None:
        """Barge into the reply said last."""
        self._add(Channel.USER, Kind.INTERRUPTION, turn, interrupts=len(self.utterances) - 1)

    def resume(self, transition: str, reply: int) -> None:
        rest = Turn(Channel.ASSISTANT, transition, f"template+{self.utterances[reply].writer}")
        self._add(Channel.ASSISTANT, Kind.RESUMPTION, rest, resumes=reply)

    def exchanges(self, dialogue: Dialogue, since: int = 0, upto: int | None = None) -> None:
        for query, reply in exchanges(dialogue)[since:upto]:
            self.ask(query)
            self.answer(reply)


def exchanges(dialogue: Dialogue) -> list[tuple[Turn, Turn]]:
    """Query and reply, in order."""
    return list(zip(dialogue.turns[::2], dialogue.turns[1::2], strict=False))


def template(text: str) -> Turn:
    return Turn(Channel.USER, text, "template")


def behind(transition: str, turn: Turn, language: str) -> Turn:
    """The user's turn behind a transition, which may be empty."""
    writer = f"template+{turn.writer}" if transition else turn.writer
    return Turn(turn.channel, join(transition, turn.text, language), writer)


def join(first: str, second: str, language: str) -> str:
    """Two phrases as one text; behind a comma the second goes on in lower case, but for "I" and names."""
    if not first or not second:
        return first or second
    if language.split("-")[0] == "zh":
        return first + second
    head = second.split(" ", 1)[0]
    if first.endswith(",") and head.lower() in _LOWERED:
        second = second[0].lower() + second[1:]
    return f"{first} {second}"


_LOWERED = frozenset(
    "a an and are at based be by calculate can compare could create define describe did do does explain find for from "
    "generate give hey how identify if in is it let list make my name of on please provide should summarize tell that "
    "the there these this to was were what when where which who whose why will with would write you your".split()
)
