"""The columns of every config of a dataset: one Arrow schema each, carrying the features that `datasets` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa

_WORD = pa.struct([("text", pa.string()), ("start", pa.float64()), ("end", pa.float64())])
UTTERANCE = pa.struct(
    [
        ("channel", pa.string()),
        ("kind", pa.string()),
        ("text", pa.string()),
        ("spoken_text", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("cut", pa.bool_()),
        ("addressed", pa.bool_()),
        ("writer", pa.string()),
        ("voice", pa.string()),
        ("words", pa.list_(_WORD)),
    ]
)
_PROVENANCE = pa.struct(
    [
        ("licence", pa.string()),
        ("synthesizer", pa.string()),
        ("prompt_version", pa.string()),
        ("config", pa.string()),
        ("package", pa.string()),
    ]
)
_AUGMENTATION = pa.struct(
    [
        ("gain_db", pa.float64()),
        ("room", pa.struct([("rt60_sec", pa.float64()), ("drr_db", pa.float64()), ("seed", pa.int64())])),
        ("echo", pa.struct([("delay_ms", pa.float64()), ("attenuation_db", pa.float64()), ("filtered", pa.bool_())])),
        (
            "noise",
            pa.struct(
                [
                    ("kind", pa.string()),
                    ("snr_db", pa.float64()),
                    ("seed", pa.int64()),
                    ("file", pa.string()),
                    ("offset_sec", pa.float64()),
                ]
            ),
        ),
        (
            "distractors",
            pa.list_(pa.struct([("utterance", pa.int32()), ("acoustics", pa.string()), ("level_db", pa.float64())])),
        ),
        ("scale_db", pa.float64()),
    ]
)
_NULLABLE = frozenset({"augmentation", "gain_db", "room", "echo", "noise", "seed", "file", "offset_sec"})
"""Of the columns and what is in them: null where nothing of the kind was done to the user's channel."""
_NEGATIVE = pa.struct(
    [
        ("kind", pa.string()),
        ("utterance", pa.int32()),
        ("positive_sec", pa.float64()),
        ("negative_sec", pa.float64()),
        ("assistant", pa.list_(pa.uint16())),
        ("start", pa.float64()),
        ("end", pa.float64()),
    ]
)
_IDS = pa.list_(pa.int32())
_AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

COLUMNS: Mapping[str, list[tuple[str, pa.DataType]]] = {
    "conversations": [
        ("id", pa.string()),
        ("source", pa.string()),
        ("source_ids", pa.list_(pa.string())),
        ("scenario", pa.string()),
        ("language", pa.string()),
        ("audio", _AUDIO),
        ("duration", pa.float64()),
        ("utterances", pa.list_(UTTERANCE)),
        ("user_voice", pa.string()),
        ("assistant_voice", pa.string()),
        ("augmentation", _AUGMENTATION),
        ("provenance", _PROVENANCE),
    ],
    "codes": [
        ("id", pa.string()),
        ("frame_rate", pa.float64()),
        ("codebook_size", pa.int32()),
        ("codec", pa.string()),
        ("user", pa.list_(pa.uint16())),
        ("assistant", pa.list_(pa.uint16())),
        ("negatives", pa.list_(_NEGATIVE)),
    ],
    "sft": [
        ("id", pa.string()),
        ("scenario", pa.string()),
        ("input_ids", _IDS),
        ("labels", _IDS),
        ("n_blocks", pa.int32()),
        ("n_speech", pa.int32()),
        ("n_text", pa.int32()),
    ],
    "dpo": [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("chosen_input_ids", _IDS),
        ("chosen_labels", _IDS),
        ("rejected_input_ids", _IDS),
        ("rejected_labels", _IDS),
        ("positive_sec", pa.float64()),
        ("negative_sec", pa.float64()),
        ("n_blocks", pa.int32()),
        ("n_speech", pa.int32()),
        ("n_text", pa.int32()),
    ],
    "tdm": [
        ("id", pa.string()),
        ("scenario", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ],
    "duo": [
        ("id", pa.string()),
        ("scenario", pa.string()),
        ("text", pa.string()),
        ("input_ids", _IDS),
        ("labels", _IDS),
        ("channel", pa.list_(pa.int8())),
        ("position", _IDS),
    ],
}
CONFIGS = tuple(COLUMNS)

_TOKENS = pa.list_(pa.uint16())
CODES_OF_SEVERAL = "codes of several codebooks"
"""Not a config, but what the files of `codes` are made to where a codec has more than one codebook."""


def codes_shape(n_codebooks: int) -> str:
    """The name under which the columns of `codes` are found.

    With several codebooks, K lists of n_frames tokens each, coarse to fine, stand where one such list does else.
    """
    return "codes" if n_codebooks == 1 else CODES_OF_SEVERAL


def _of_several(type_: pa.DataType) -> pa.DataType:
    if type_ == _TOKENS:
        return pa.list_(_TOKENS)
    if pa.types.is_list(type_):
        return pa.list_(_of_several(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([(field.name, _of_several(field.type)) for field in type_])
    return type_


SHAPES: Mapping[str, list[tuple[str, pa.DataType]]] = {
    **COLUMNS,
    CODES_OF_SEVERAL: [(name, _of_several(type_)) for name, type_ in COLUMNS["codes"]],
}
"""The columns of every config, and of `codes` in its other shape."""

DICTIONARY: Mapping[str, list[str]] = {
    # Leaf paths; a list's own name would be taken silently and leave the column plain (pyarrow's trap).
    "conversations": [
        *("source", "scenario", "language", "user_voice", "assistant_voice"),
        *(f"utterances.list.element.{name}" for name in ("channel", "kind", "writer", "voice")),
        *(f"provenance.{field.name}" for field in _PROVENANCE),
    ],
    "codes": [
        "codec",
        "user.list.element",
        "assistant.list.element",
        "negatives.list.element.assistant.list.element",
    ],
    CODES_OF_SEVERAL: [
        "codec",
        "user.list.element.list.element",
        "assistant.list.element.list.element",
        "negatives.list.element.assistant.list.element.list.element",
    ],
    # Speech tokens are most of a row, and few distinct values: a dictionary packs them to their entropy.
    "sft": ["scenario", "input_ids.list.element", "labels.list.element"],
    "dpo": [
        "kind",
        *(f"{which}_{what}.list.element" for which in ("chosen", "rejected") for what in ("input_ids", "labels")),
    ],
    "tdm": ["scenario", "messages.list.element.role"],
    "duo": ["scenario", "labels.list.element", "channel.list.element"],
}


def _leaves(name: str, type_: pa.DataType) -> list[str]:
    if pa.types.is_struct(type_):
        return [leaf for field in type_ for leaf in _leaves(f"{name}.{field.name}", field.type)]
    if pa.types.is_list(type_):
        return _leaves(f"{name}.list.element", type_.value_type)
    return [name]


COMPRESSION: Mapping[str, Mapping[str, str]] = {
    # FLAC does not compress again.
    config: {leaf: "none" if leaf == "audio.bytes" else "zstd" for c in columns for leaf in _leaves(*c)}
    for config, columns in SHAPES.items()
}


def arrow_schema(config: str, facts: Mapping[str, object] | None = None) -> pa.Schema:
    """The schema of a config's files.

    Args:
        config: or the name that `codes_shape` gives.
        facts: stored as JSON under the metadata key `duplexdata` (the vocabulary's layout, say).
    """
    columns = SHAPES[config]
    features = {name: feature(type_) for name, type_ in columns}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    if facts:
        metadata["duplexdata"] = json.dumps(facts, sort_keys=True)
    return pa.schema(columns, metadata=metadata)


def feature(type_: pa.DataType) -> dict[str, object]:
    """A type as `datasets` writes it into a file's metadata (datasets 4 and later)."""
    if type_ == _AUDIO:
        return {"decode": False, "_type": "Audio"}
    if pa.types.is_struct(type_):
        return {field.name: feature(field.type) for field in type_}
    if pa.types.is_list(type_):
        return {"feature": feature(type_.value_type), "_type": "List"}
    return {"dtype": _DTYPES.get(str(type_), str(type_)), "_type": "Value"}


_DTYPES = {"double": "float64"}

_JSON_TYPES = {"string": "string", "double": "number", "bool": "boolean", "binary": "string"}


def json_schema(config: str) -> dict[str, object]:
    """JSON Schema of one row, as shipped in `schemas/`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"a row of {config}",
        **_json_type(pa.struct(COLUMNS[config]), several=config == "codes"),
    }


def _json_type(type_: pa.DataType, *, several: bool = False) -> dict[str, object]:
    """
    Args:
        several: whether speech tokens may as well be those of several codebooks.
    """
    if pa.types.is_struct(type_):
        properties = {}
        for field in type_:
            inner = _json_type(field.type, several=several)
            properties[field.name] = {"anyOf": [inner, {"type": "null"}]} if field.name in _NULLABLE else inner
        return {"type": "object", "properties": properties, "additionalProperties": False}
    if several and type_ == _TOKENS:
        return {"anyOf": [_json_type(_TOKENS), _json_type(_of_several(_TOKENS))]}
    if pa.types.is_list(type_):
        return {"type": "array", "items": _json_type(type_.value_type, several=several)}
    if pa.types.is_integer(type_):
        limits = {"uint16": {"minimum": 0, "maximum": 65535}, "int8": {"minimum": 0, "maximum": 1}}
        return {"type": "integer", **limits.get(str(type_), {})}
    return {"type": _JSON_TYPES[str(type_)]}
