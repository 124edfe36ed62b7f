"""Writes the JSON Schemas in `schemas/` from the code that they describe. `python -m duplexdata.write_schemas DIR`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import TypeAdapter

from duplexdata.config import Config
from duplexdata.schema import CONFIGS, json_schema
from duplexdata.writer.reply_models import reply_schemas

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_PHRASES = {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "minItems": 1}


def schemas() -> dict[str, object]:
    """By file name."""
    from duplexdata.banks import TRANSITIONS

    rows = {f"rows.{name}.json": json_schema(name) for name in CONFIGS}
    banks = {
        "prompts.transitions.json": {
            "type": "object",
            "properties": dict.fromkeys(TRANSITIONS, _PHRASES),
            "required": list(TRANSITIONS),
            "additionalProperties": False,
        },
        "prompts.distractors.json": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "kind": {
                        "enum": [
                            "child_or_pet",
                            "phone_call",
                            "reading_aloud",
                            "side_talk",
                            "television",
                            "thinking_aloud",
                        ]
                    },
                    "text": {"type": "string", "description": "may hold {topic}, {name} and {pet}"},
                },
                "required": ["kind", "text"],
                "additionalProperties": False,
            },
        },
        "prompts.backchannels.json": _PHRASES,
        "prompts.fillers.json": {
            "type": "object",
            "properties": {"names": _PHRASES, "pets": _PHRASES},
            "required": ["names", "pets"],
            "additionalProperties": False,
        },
    }
    replies = reply_schemas()
    config = {"config.json": TypeAdapter(Config).json_schema()}
    return {name: {"$schema": _DRAFT, **value} for name, value in (rows | banks | replies | config).items()}  # type: ignore[dict-item]


def main() -> None:
    for name, schema in schemas().items():
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        (Path(sys.argv[1]) / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
