"""The test server with replies that make sense: recorded ones where a moment has one, else written by simple rules.

    python -m tests.writer.author '{"delay": 0.02, "recorded": "tests/writer/replies/good.json"}'

With "gullible" it obeys whatever it is told outside the marks of the material, as a weak model would: text of the
corpus that got out of them would show.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from duplexdata.banks import topic_words
from duplexdata.spoken import sentences, speakable
from tests.writer import server

_MARKED = re.compile(r"<(material-[0-9a-f]{12})>\n(.*)\n</\1>")
_ORDER = re.compile(r"(?i)(?:ignore|disregard|forget) (?:all |your |the |any )*(?:previous |prior )*(?:instructions|rules)|say hacked")
Json = dict[str, Any]


def material_of(body: Mapping[str, Any]) -> Json:
    """What stands between the marks of a request."""
    user = next(m["content"] for m in body["messages"] if m["role"] == "user")
    [found] = _MARKED.findall(user)
    return dict(json.loads(found[1]))


def outside(body: Mapping[str, Any]) -> str:
    """All that a model is told, the material taken out."""
    return "\n".join(_MARKED.sub("", str(m["content"])) for m in body["messages"] if m["role"] in ("system", "user"))


def kind_of(body: Mapping[str, Any]) -> str:
    return str(body["response_format"]["json_schema"]["name"]).removeprefix("writer-").replace("-", "_")


def moment(kind: str, material: Mapping[str, Any]) -> str:
    """What a recorded reply is found by: the text that it is a reaction to."""
    if kind == "rewrite":
        return str(material["turns"][0]["text"])
    if kind == "follow_up":
        return str(material["conversation"][0]["text"])
    if kind == "reset":
        return str(material["new_request"])
    if kind == "interweaving":
        return str(material["request"])
    return str(material["conversation"][-1]["text"])


def written(kind: str, material: Mapping[str, Any], told: str) -> Json:
    """A reply by rules, from the material and what is told around it."""
    texts = [t["text"] for turns in material.values() if isinstance(turns, list) for t in turns]
    chinese = bool(re.search("[\u4e00-\u9fff]", "".join(texts)))
    write = _chinese if chinese else _english
    return write(kind, material, texts, told)


def _english(kind: str, material: Mapping[str, Any], texts: list[str], told: str) -> Json:
    topic = next(iter(topic_words(" ".join(texts), "en")), "that")
    if kind == "rewrite":
        return {"turns": [{"role": t["role"], "text": _spoken(t, "en")} for t in material["turns"]]}
    if kind == "follow_up":
        number = int(re.search(r"exactly (\d+) more", told)[1])  # type: ignore[index]
        return {"exchanges": _exchanges(topic)[:number]}
    if kind == "distractor":
        lines = {
            "phone call" if "phone" in told else "": {"said_to": "a friend on the phone", "text": f"Yes, Daniel, I'm reading up on {topic} just now."},
        }
        return lines.get("phone call") or {"said_to": "her husband", "text": f"Daniel, the {topic} book is on the table by the window."}
    if kind == "termination":
        return {"text": "All right, that's enough for now, thank you."}
    if kind == "regeneration":
        return {
            "request": f"No, I meant the short version about {topic}.",
            "answer": f"In short, the thing to know about {topic} is that a little patience goes a long way, and the rest follows.",
        }
    if kind == "reset":
        request = material["new_request"]
        return {"text": f"Never mind all that, here's what I'd rather know. {request}"}
    if kind == "back_on_topic":
        word = next(iter(topic_words(material["just_said"], "en")), topic)
        return {
            "question": f"Wait, what do you mean by {word}?",
            "answer": f"Just {word} in the everyday sense, nothing special.",
            "continuation": "Good, let me go on with that.",
        }
    assert kind == "interweaving", kind
    topic = next(iter(topic_words(" ".join([material["request"], *(t["text"] for t in material["earlier"])]), "en")), "that")
    return {"bridge": f"Let's get back to {topic} for a moment."}


def _exchanges(topic: str) -> list[Json]:
    return [
        {"question": f"And how would a beginner start with {topic}?", "answer": f"Start small. Pick one easy part of {topic}, give it ten minutes a day, and add a little more every week."},
        {"question": f"What do most people get wrong about {topic}?", "answer": f"They rush it. With {topic} the slow and steady way nearly always wins, even if it feels odd in the beginning."},
        {"question": f"Does {topic} cost a lot?", "answer": f"Not really. You can go far with what you already have at home, and spend on {topic} later if you still enjoy it."},
        {"question": f"Where can I learn more about {topic}?", "answer": f"Ask at your local library first. They often know people who love {topic} and are happy to show you the ropes."},
    ]  # fmt: skip


def _chinese(kind: str, material: Mapping[str, Any], texts: list[str], told: str) -> Json:
    topic = next(iter(topic_words(" ".join(texts), "zh")), "这个")
    if kind == "rewrite":
        return {"turns": [{"role": t["role"], "text": _spoken(t, "zh")} for t in material["turns"]]}
    if kind == "follow_up":
        number = int(re.search(r"请接着写用户的 (\d+) 个追问", told)[1])  # type: ignore[index]
        made = [
            {"question": f"那初学{topic}应该从哪里开始？", "answer": f"先从{topic}里最简单的一小部分练起，每天十分钟，一周以后再慢慢加一点。"},
            {"question": f"大家在{topic}上最容易犯什么错？", "answer": f"最常见的是太着急。{topic}这件事慢慢来反而更快，开头觉得别扭也没关系。"},
            {"question": f"学{topic}花钱多吗？", "answer": f"花不了多少。家里现成的东西就够用一阵子，真喜欢{topic}了再添置也不迟。"},
            {"question": f"去哪里能多了解一点{topic}？", "answer": f"可以先去附近的图书馆问问，那里常常有喜欢{topic}的人愿意带你入门。"},
        ]  # fmt: skip
        return {"exchanges": made[:number]}
    if kind == "distractor":
        return {"said_to": "家里人", "text": f"小明，那本讲{topic}的书在窗台上。"}
    if kind == "termination":
        return {"text": "好了，先说到这儿吧，谢谢。"}
    if kind == "regeneration":
        return {"request": f"不是，我是说{topic}，简单点再说一次。", "answer": f"简单说，{topic}最要紧的是有耐心，一步一步来，剩下的自然就会了。"}
    if kind == "reset":
        return {"text": f"算了，先不说这个。{material['new_request']}"}
    if kind == "back_on_topic":
        word = next(iter(topic_words(material["just_said"], "zh")), topic)
        return {"question": f"等等，{word}是什么意思？", "answer": f"就是平常说的{word}。", "continuation": "好，接着刚才的说。"}
    request = material["request"] + "".join(t["text"] for t in material["earlier"])
    return {"bridge": f"再说回{next(iter(topic_words(request, 'zh')), topic)}吧。"}


def _spoken(turn: Mapping[str, str], language: str) -> str:
    return speakable(turn["text"], language=language, max_seconds=14.0 if turn["role"] == "user" else 19.0)


class Author(server.Server):
    """Settings besides the server's: "recorded": a file of replies by kind and moment; "gullible"."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        path = settings.get("recorded")
        self.recorded: dict[str, dict[str, Json]] = json.loads(Path(path).read_text("utf-8")) if path else {}

    def complete(self, body: Mapping[str, Any], fault: str) -> dict[str, Any]:
        completion = super().complete(body, fault)
        if fault:
            return completion
        kind, material = kind_of(body), material_of(body)
        reply = self.recorded.get(kind, {}).get(moment(kind, material)) or written(kind, material, outside(body))
        if kind == "follow_up":
            wanted = int(re.search(r"exactly (\d+) more|用户的 (\d+) 个追问", outside(body))[1] or 0)  # type: ignore[index]
            reply = {"exchanges": reply["exchanges"][: wanted or None]}
        if self.settings.get("gullible") and (found := _ORDER.search(outside(body))):
            reply = {name: f"HACKED because of {found[0]}" for name in reply}
        completion["choices"][0]["message"]["content"] = json.dumps(reply, ensure_ascii=False)
        return completion


async def _main() -> None:
    settings = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    listening = await asyncio.start_server(
        Author(settings).serve, "127.0.0.1", settings.get("port", 0), limit=1 << 26, backlog=1024
    )
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())

__all__ = ["Author", "kind_of", "material_of", "outside", "sentences", "written"]
