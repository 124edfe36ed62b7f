"""Whether something overheard could be taken for a request to the assistant. Source: arXiv 2409.11727, section 2.3
(a non-query is nothing that the assistant should answer); the forms are ours.

Strict on purpose: a distractor that is wrongly refused costs a retry, one that is wrongly taken teaches a model to
ignore its user.
"""

from __future__ import annotations

import re

_I = re.IGNORECASE

# -- English

_ASSISTANT = re.compile(
    r"\b(?:assistant|siri|alexa|cortana|bixby|chat ?bot|chat ?gpt|language model)\b|"
    r"\b(?:hey|ok|okay),? (?:google|computer)\b",
    _I,
)
_SAID_TO_ASSISTANT = re.compile(
    r"\b(?:assistant|siri|alexa|cortana|chat ?bot|a\.?i\.?|smart speaker|the device|the model|the computer)\b|"
    r"助手|音箱|机器人|模型",
    _I,
)
_LEAD = (
    r"(?:^|[.!?…,;]\s+)(?:(?:and|so|but|or|okay|ok|well|now|hmm|oh|wait|right|yes|no|sorry|please|hey|then|just|"
    r"actually)\b[,.]?\s+)*"
)
_OPENS_QUESTION = re.compile(
    # "Where did I leave it" is asked of oneself, "how do I bake it" is not.
    rf"{_LEAD}(?:(?:what|who|whom|when|where|why|how|which)(?:(?:'s|'re)|\s+(?:(?:is|are|were|do|does|can|would|will|"
    r"much|many|long|far|about)\b|(?:was|did|could|should)\b(?!\s+i\b)))|"
    r"(?:do|did|does|have|are|is|should|may|can|could|would|will)\s+(?:you|i|we|it|there|that|this)\b(?!,))",
    _I,
)
_TASK = (
    r"(?:tell me|explain|describe|summari[sz]e|translate|define|calculate|compare|list|give me|show me|remind me|"
    r"help me|teach me|search for|look up|look that up|write me|read me|answer me|repeat|say that again|say it again|"
    r"go on|continue|carry on|keep going|stop talking|stop there|be quiet|shut up|start over|start again|skip|"
    r"play (?:some|the|a|my)|set (?:a|an|the) (?:timer|alarm|reminder)|turn (?:it|the volume) (?:up|down)|"
    r"stop it there|pause|never ?mind)"
)
_ORDERS = re.compile(rf"{_LEAD}{_TASK}\b", _I)
_ORDERS_FOR_ME = re.compile(rf"{_LEAD}(?:tell|give|show|teach|answer|read|help|remind) me\b", _I)
_WISHES = re.compile(
    r"\b(?:i (?:want|need|would like|'d like) you to|i'd like to (?:know|hear|ask)|i want to (?:know|hear|ask)|"
    r"i have a question|my question|you just said|you said|what you (?:said|told)|"
    r"your (?:answer|reply|explanation|last point)|i meant|not what i (?:asked|meant|said)|"
    r"that's not what i|can you hear me)\b",
    _I,
)
_TO_YOU = re.compile(r"\b(?:you|your|yours|you're|you've|you'll)\b", _I)
_COMMAND = re.compile(
    rf"{_LEAD}(?:tell|give|show|explain|make|find|stop|help|play|turn|set|call|open|close|read|write|search|check|bring|send|"
    r"take|put|try|wait|listen|remember|answer|describe|compare|translate|repeat|thanks|thank)\b(?!\s+(?:is|was|were|of)\b)",
    _I,
)
_RELATIVE = (
    r"mom|mum|mommy|mummy|dad|daddy|grandma|grandpa|granny|honey|darling|love|sweetie|sweetheart|dear|buddy|pal|mate|"
    r"kids|kiddo|guys|everyone|everybody|boys|girls|folks|children|team|good boy|good girl|baby|pumpkin|little one|sir|"
    r"madam|doctor"
)
_CALLS_SOMEBODY = re.compile(
    rf"(?:^|[.!?…]\s+|,\s+)(?:(?:hey|oh|no|yes|okay|hi|hello|well|sorry|thanks|come on|easy|careful),?\s+)?"
    rf"(?:(?i:{_RELATIVE})|[A-Z][a-zà-ÿ]+)(?=[,.!…]|$)"
)
_NO_NAMES = re.compile(
    r"(?:Okay|Ok|Well|Now|So|And|But|No|Yes|Hmm|Oh|Right|Sorry|Wait|Please|Hey|Then|Actually|Anyway|Look|Listen|Stop|"
    r"Thanks|Hello|Hi|Sure|Fine|Good|Great|Alright|Enough|Again|Never)$",
)

# -- Chinese

_ZH_ASSISTANT = re.compile(r"助手|小爱|小度|小艺|天猫精灵|机器人|人工智能|语音|模型|siri|alexa", _I)
_ZH_QUESTION = re.compile(
    r"[吗嘛么](?:[。！，]|$)|(?:^|[，。！；])(?:请问|你说(?![。！]|$)|你知道|你觉得|能不能|可不可以|可以给我|为什么|什么是|怎么才能)"
)
_ZH_TASK = (
    r"(?:请|麻烦|快|再)?(?:你)?(?:再)?(?:告诉我|解释|说明一下|翻译|总结|列出|列举|介绍|给我(?:讲|说|写|查|找)|帮我(?:查|找|写|算|翻译|设|定|播)|"
    r"再说一遍|重复一遍|继续说|接着说|往下说|别说了|停下|停一下|安静|播放|算一下|查一下|重新说)"
)
_ZH_ORDERS = re.compile(rf"(?:^|[，。！；]){_ZH_TASK}")
_ZH_WISHES = re.compile(r"我想(?:知道|问)|我的问题|你刚(?:才|刚)?说|你的回答|我是说|我不是问|听得到我说话")
_ZH_TO_YOU = re.compile(r"[你您]")
_ZH_CALLS_SOMEBODY = re.compile(
    r"(?:^|[。！，])(?:喂|哎|诶|好|行|嗯)?(?:，)?(?:妈妈?|爸爸?|爷爷|奶奶|外公|外婆|姥姥|姥爷|老公|老婆|亲爱的|宝贝|宝宝|孩子|儿子|闺女|大家|"
    r"师傅|老师|医生|哥|姐|弟弟?|妹妹?|[小老阿][\u4e00-\u9fff])(?=[，。！]|$)|"
    r"(?:^|[。！])[\u4e00-\u9fff]{2,3}(?=，)"
)

QUESTION_MARKS = ("?", "？", "؟")
SPEECH_OF_OTHERS = frozenset({"television", "reading_aloud"})
"""Kinds that quote somebody: what is asked or told in them is for another audience."""
TO_SOMEBODY = frozenset({"side_talk", "phone_call", "child_or_pet"})
"""Kinds that are said to somebody else, who is named where something is asked of them."""


def request_in(text: str, kind: str, language: str) -> str | None:
    """What in an overheard text could be taken for a request to the assistant; None if there is nothing.

    Args:
        kind: as the phrase banks name them ("side_talk", "television" …).
    """
    if any(mark in text for mark in QUESTION_MARKS):
        return "it holds a question mark"
    chinese = language.split("-")[0].lower() == "zh"
    found = _in_chinese(text, kind) if chinese else _in_english(text.replace("’", "'"), kind)
    return None if found is None else f'"{found.strip(" ,.;!?，。！；")}" could be meant for the assistant'


def addresses_assistant(said_to: str) -> bool:
    """Whether a description of who is spoken to names the assistant."""
    return _SAID_TO_ASSISTANT.search(said_to) is not None


def _in_english(text: str, kind: str) -> str | None:
    if found := _ASSISTANT.search(text) or _WISHES.search(text):
        return found[0]
    if kind in SPEECH_OF_OTHERS:
        return found[0] if (found := _ORDERS_FOR_ME.search(text)) else None
    if found := _OPENS_QUESTION.search(text):
        return found[0]
    if kind not in TO_SOMEBODY:
        found = _ORDERS.search(text) or _COMMAND.search(text) or _TO_YOU.search(text)
        return found[0] if found else None
    found = _ORDERS.search(text)
    return found[0] if found and not _calls_somebody(text) else None


def _calls_somebody(text: str) -> bool:
    return any(not _NO_NAMES.search(m[0]) for m in _CALLS_SOMEBODY.finditer(text))


def _in_chinese(text: str, kind: str) -> str | None:
    if found := _ZH_ASSISTANT.search(text) or _ZH_WISHES.search(text):
        return found[0]
    if kind in SPEECH_OF_OTHERS:
        return None
    if found := _ZH_QUESTION.search(text):
        return found[0]
    if kind not in TO_SOMEBODY:
        found = _ZH_ORDERS.search(text) or _ZH_TO_YOU.search(text)
        return found[0] if found else None
    found = _ZH_ORDERS.search(text)
    return found[0] if found and not _ZH_CALLS_SOMEBODY.search(text) else None


# -- requests that are meant for it

_SILENCE = re.compile(
    r"\b(?:stop|enough|quiet|silen\w*|hush|shush|sh+|no more|that'll do|that will do|that does it|leave it|hold it|"
    r"hold on|pause|shut|cut it|cut there|done|thanks|thank you|got it|never ?mind|that's all|that is all|"
    r"all i need\w*|zip it|not now|rest|later|i have to go|gotta go)\b",
    _I,
)
_ZH_SILENCE = re.compile(
    "停|别说|不用|够了|安静|闭嘴|打住|可以了|行了|好了|到这|到此|先这样|谢谢|不要再|别讲|别再|不必|算了|歇|先不|收声"
)
_AGAIN = re.compile(
    r"\b(?:again|repeat|once more|one more time|over|from the (?:start|beginning|top)|simpler|simply|slower|slowly|"
    r"louder|shorter|briefly|other words|clearer|clearly|catch|start|rephrase|differently)\b",
    _I,
)
_ZH_AGAIN = re.compile("再|重新|重说|重讲|从头|简单|慢|没听清|没听懂|换个|一遍|短一点|清楚")


def asks_for_silence(text: str, language: str) -> bool:
    """Whether a termination says that it is enough."""
    pattern = _ZH_SILENCE if language.split("-")[0].lower() == "zh" else _SILENCE
    return pattern.search(text.replace("’", "'")) is not None


def asks_again(text: str, language: str) -> bool:
    """Whether it asks for the same once more, without naming it."""
    pattern = _ZH_AGAIN if language.split("-")[0].lower() == "zh" else _AGAIN
    return pattern.search(text.replace("’", "'")) is not None


_NEW_TASK = re.compile(
    rf"{_LEAD}(?:tell me|explain|describe|summari[sz]e|translate|define|calculate|compare|list|give me|show me|help me|"
    r"what|who|when|where|why|how|which)\b",
    _I,
)
_ZH_NEW_TASK = re.compile(
    r"(?:^|[，。！；])(?:请|麻烦)?(?:告诉我|解释|翻译|总结|列出|介绍|给我讲|换成|为什么|什么是|怎么)|吗[？?]"
)


def new_task_in(text: str, language: str) -> str | None:
    """The beginning of a question or task in a text that should have none."""
    chinese = language.split("-")[0].lower() == "zh"
    found = (_ZH_NEW_TASK if chinese else _NEW_TASK).search(text.replace("’", "'"))
    return found[0].strip(" ,.;!?，。！；") if found else None
