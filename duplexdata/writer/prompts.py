"""Prompts from `prompts/<language>/<name>.md`, and how source text is put into them.

A prompt file has YAML front matter (its reply's schema, sampling parameters) and two parts, `# System` and `# User`.
Source text is data: it stands as JSON between two marks that it cannot contain, for every character that could end
the mark, the JSON string, the line, or be read as a chat template's token is escaped.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from duplexdata.errors import ConfigError
from duplexdata.resources import folder
from duplexdata.writer.reply_models import REPLIES, reply_schemas, schema_file
from duplexdata.writer.types import Message, Prompt

NAMES = tuple(REPLIES)
LANGUAGES = ("en", "zh")
"""Those that there are prompts and checks for."""

MATERIAL = "material"
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_PARTS = re.compile(
    r"\A---\n(?P<head>.*?)^---\n+# System\n+(?P<system>.*?)\n+^# User\n+(?P<user>.*)\Z", re.DOTALL | re.MULTILINE
)
_SETTINGS = {"schema", "temperature", "top_p", "max_tokens", "phrases"}


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A prompt with its text.

    Attributes:
        system, user: hold {{placeholders}}; `user` holds {{material}} once.
        phrases: what is put in for some placeholders, by name: the kinds of distractor as the phrase banks call them,
            say.
    """

    prompt: Prompt
    system: str
    user: str
    phrases: Mapping[str, str]

    @property
    def instructions(self) -> str:
        """All of it but the material, for a check that nothing of it comes back."""
        return f"{self.system}\n{self.user}"

    def messages(self, material: Mapping[str, object], values: Mapping[str, str]) -> tuple[Message, ...]:
        """The request's messages.

        Args:
            material: source text in plain values; the only thing here that others wrote.
            values: for the other placeholders; ours.

        Raises: KeyError: a placeholder has no value.
        """
        data = escaped_json(material)
        mark = f"{MATERIAL}-{hashlib.sha256(data.encode()).hexdigest()[:12]}"
        opening, closing = f"<{mark}>", f"</{mark}>"
        all_values = {**values, "open": opening, "close": closing, MATERIAL: f"{opening}\n{data}\n{closing}"}
        return (
            Message("system", filled(self.system, all_values)),
            Message("user", filled(self.user, all_values)),
        )


def escaped_json(value: object) -> str:
    """JSON on one line; strings without angle or square brackets, ampersands, and anything that is not seen."""
    if isinstance(value, str):
        return "".join(_escaped(c) for c in json.dumps(value, ensure_ascii=False))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{escaped_json(str(k))}: {escaped_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(escaped_json, value)) + "]"
    return json.dumps(value)


@cache
def _escaped(c: str) -> str:
    # Cc, Cf, Co, Cs, Cn: control characters, marks of direction, tags, private and lone ones; Zl, Zp: line ends.
    if c in "<>&[]" or unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"):
        return "".join(f"\\u{unit:04x}" for unit in _utf16(c))
    return c


def _utf16(c: str) -> list[int]:
    data = c.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]


def filled(template: str, values: Mapping[str, str]) -> str:
    """A text with its {{placeholders}} filled. One pass: what is put in is not looked at again."""
    return _PLACEHOLDER.sub(lambda m: values[m[1]], template)


@cache
def load_prompt(name: str, language: str) -> PromptFile | None:
    """The prompt for a language (BCP 47; the primary tag decides); None where there is none.

    Raises: ConfigError: the file is not what a prompt file looks like.
    """
    where = language.lower().split("-")[0]
    if where not in LANGUAGES:
        return None
    return read_prompt(folder("prompts") / where / f"{name}.md", name, where)


def read_prompt(path: Path, name: str, language: str) -> PromptFile:
    """Raises ConfigError, naming the file and what it lacks."""
    try:
        data = path.read_bytes()
        parts = _PARTS.match(data.decode("utf-8").replace("\r\n", "\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if parts is None:
        raise ConfigError(f"{path}: expected front matter between lines of ---, then '# System' and '# User'")
    head = _head(path, parts["head"], name)
    user = parts["user"].strip()
    if user.count("{{" + MATERIAL + "}}") != 1 or "{{open}}" not in parts["system"]:
        raise ConfigError(f"{path}: '# User' must hold {{{{{MATERIAL}}}}} once, and '# System' name its marks")
    return PromptFile(
        Prompt(
            name=name,
            version=hashlib.sha256(data).hexdigest()[:8],
            language=language,
            schema_name=Path(schema_file(name)).stem,
            schema=reply_schemas()[schema_file(name)],
            reply=REPLIES[name],
            temperature=float(head["temperature"]),
            top_p=float(head["top_p"]),
            max_tokens=int(head["max_tokens"]),
        ),
        parts["system"].strip(),
        user,
        dict(head.get("phrases", {})),
    )


def _head(path: Path, text: str, name: str) -> dict[str, Any]:
    try:
        head = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: its front matter is no YAML: {error}") from error
    if not isinstance(head, dict) or set(head) - _SETTINGS or _SETTINGS - {"phrases"} - set(head):
        raise ConfigError(f"{path}: its front matter must hold schema, temperature, top_p and max_tokens")
    if head["schema"] != schema_file(name):
        raise ConfigError(f"{path}: its schema is {head['schema']!r}, expected {schema_file(name)!r}")
    numbers = [head["temperature"], head["top_p"], head["max_tokens"]]
    good = all(isinstance(n, int | float) for n in numbers) and isinstance(head.get("phrases", {}), dict)
    if not (good and 0 <= numbers[0] <= 2 and 0 < numbers[1] <= 1 and numbers[2] > 0):
        raise ConfigError(f"{path}: temperature must be 0 to 2, top_p above 0 and at most 1, max_tokens above 0")
    return head


def prompt_versions() -> dict[str, str]:
    """Versions of all prompts there are, by language and name: what decides on written texts besides the model."""
    found = ((language, name, load_prompt(name, language)) for language in LANGUAGES for name in NAMES)
    return {f"{language}/{name}": p.prompt.version for language, name, p in found if p is not None}
