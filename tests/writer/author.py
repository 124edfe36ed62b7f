"""The test server with replies that make sense: recorded ones where a moment has one, else written by simple rules.

    python tests/writer/author.py '{"delay": 0.02, "recorded": true, "port": 8765}'

With "gullible" it obeys any order to ignore its instructions that stands outside the marks of the material, as a weak
model would: text of the corpus that got out of them would show.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import scenes
import server

from duplexdata.banks import topic_words
from duplexdata.spoken import speakable

_MARKED = re.compile(r"<(material-[0-9a-f]{12})>\n(.*)\n</\1>")
_ORDER = re.compile(
    r"(?i)(?:ignore|disregard|forget)\b[^.]{0,30}\b(?:instructions|rules|prompt)|say hacked|忽略.{0,8}指令"
)
_NUMBER = re.compile(r"exactly (\d+) more|用户的 (\d+) 个追问")
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
    first = {"rewrite": "turns", "follow_up": "conversation"}
    if kind in first:
        return str(material[first[kind]][0]["text"])
    if kind in ("reset", "interweaving"):
        return str(material["new_request" if kind == "reset" else "request"])
    return str(material["conversation"][-1]["text"])


# -- by rules

_EN_FOLLOW_UPS = (
    ("And how would a beginner start with {0}?",
     "Start small. Pick one easy part of {0}, give it ten minutes a day, and add a little more every week."),
    ("What do most people get wrong about {0}?",
     "They rush it. With {0} the slow and steady way nearly always wins, even if it feels odd in the beginning."),
    ("Does {0} cost a lot?",
     "Not really. You can go far with what you already have at home, and spend on {0} later if you still enjoy it."),
    ("Where can I learn more about {0}?",
     "Ask at your local library first. They often know people who love {0} and are happy to show you the ropes."),
)  # fmt: skip
_ZH_FOLLOW_UPS = (
    ("那初学{0}应该从哪里开始？", "先从{0}里最简单的一小部分练起，每天十分钟，一周以后再慢慢加一点。"),
    ("大家在{0}上最容易犯什么错？", "最常见的是太着急。{0}这件事慢慢来反而更快，开头觉得别扭也没关系。"),
    ("学{0}花钱多吗？", "花不了多少。家里现成的东西就够用一阵子，真喜欢{0}了再添置也不迟。"),
    ("去哪里能多了解一点{0}？", "可以先去附近的图书馆问问，那里常常有喜欢{0}的人愿意带你入门。"),
)
_ENGLISH: dict[str, Json] = {
    "distractor": {"said_to": "her husband", "text": "Daniel, the book on {0} is by the window."},
    "termination": {"text": "All right, that's enough for now, thank you."},
    "regeneration": {
        "request": "No, I meant the short version about {0}.",
        "answer": "In short, with {0} a little patience goes a long way, and all the rest follows from there.",
    },
    "reset": {"text": "Never mind all that, here's what I'd rather know. {1}"},
    "back_on_topic": {
        "question": "Wait, what do you mean by {0}?",
        "answer": "Just {0} in the everyday sense, nothing special.",
        "continuation": "Good, let me go on with that.",
    },
    "interweaving": {"bridge": "Let's get back to {0} for a moment."},
}
_CHINESE: dict[str, Json] = {
    "distractor": {"said_to": "家里人", "text": "小明，那本讲{0}的书在窗台上。"},
    "termination": {"text": "好了，先说到这儿吧，谢谢。"},
    "regeneration": {
        "request": "不是，我是说{0}，简单点再说一次。",
        "answer": "简单说，{0}最要紧的是有耐心，一步一步来，剩下的自然就会了。",
    },
    "reset": {"text": "算了，先不说这个。{1}"},
    "back_on_topic": {
        "question": "等等，{0}是什么意思？",
        "answer": "就是平常说的{0}。",
        "continuation": "好，接着刚才的说。",
    },
    "interweaving": {"bridge": "再说回{0}吧。"},
}


def by_rules(kind: str, material: Mapping[str, Any], language: str) -> Json:
    about = {
        "back_on_topic": material.get("just_said"),
        "interweaving": " ".join([*(t["text"] for t in material.get("earlier", ())), material.get("request", "")]),
    }.get(kind)
    texts = [t["text"] for turns in material.values() if isinstance(turns, list) for t in turns]
    if kind == "rewrite":
        return {"turns": [{"role": t["role"], "text": _spoken(t, language)} for t in material["turns"]]}
    topic = next(iter(topic_words(about or " ".join(texts), language)), "这个" if language == "zh" else "that")
    if kind == "follow_up":
        pairs = _ZH_FOLLOW_UPS if language == "zh" else _EN_FOLLOW_UPS
        return {"exchanges": [{"question": q.format(topic), "answer": a.format(topic)} for q, a in pairs]}
    made = (_CHINESE if language == "zh" else _ENGLISH)[kind]
    return {name: text.format(topic, material.get("new_request", "")) for name, text in made.items()}


def _spoken(turn: Mapping[str, str], language: str) -> str:
    return speakable(turn["text"], language=language, max_seconds=15.0 if turn["role"] == "user" else 20.0)


class Author(server.Server):
    """Settings besides the server's: "recorded": whether recorded replies are used; "gullible"."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        known = scenes.recorded("good") if settings.get("recorded") else ()
        self.recorded = {(r.kind, scenes.moment(r)): r.reply for r in known}

    def complete(self, body: Mapping[str, Any], fault: str) -> dict[str, Any]:
        completion = super().complete(body, fault)
        if fault:
            return completion
        kind, material = kind_of(body), material_of(body)
        reply = self.recorded.get((kind, moment(kind, material)))
        self.stats[f"recorded {kind}"] += reply is not None
        language = "en" if "Write in English" in outside(body) else "zh"
        reply = reply or by_rules(kind, material, language)
        if kind == "follow_up" and (number := _NUMBER.search(outside(body))):
            reply = {"exchanges": reply["exchanges"][: int(number[1] or number[2])]}
        if self.settings.get("gullible") and _ORDER.search(outside(body)):
            reply = dict.fromkeys(reply, "HACKED")
            self.stats["hacked"] += 1
        completion["choices"][0]["message"]["content"] = json.dumps(reply, ensure_ascii=False)
        return completion


class Running(server.Running):
    """The author in a process of its own, as a context manager."""

    def __init__(self, **settings: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(settings)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.base_url = f"http://127.0.0.1:{self.port}/v1"


async def _main() -> None:
    settings = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    listening = await asyncio.start_server(
        Author(settings).serve, "127.0.0.1", settings.get("port", 0), limit=1 << 26, backlog=1024
    )
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
