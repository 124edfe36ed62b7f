"""The names of symbols in languages other than English."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_SIGNS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "zh": {"%": "百分号", "&": "和", "+": "加", "=": "等于", "°C": "摄氏度", "°": "度", "$": "美元",
               "€": "欧元", "£": "英镑", "¥": "元", " times ": "乘", " divided by ": "除以", "/": "、",
               "<": "小于", ">": "大于", " to ": "到"},
        "de": {"%": " Prozent", "&": " und ", "+": " plus ", "=": " gleich ", "€": " Euro", "$": " Dollar",
               "°": " Grad"},
        "fr": {"%": " pour cent", "&": " et ", "+": " plus ", "=": " égale ", "€": " euros",
               "$": " dollars", "°": " degrés"},
        "es": {"%": " por ciento", "&": " y ", "+": " más ", "=": " igual a ", "€": " euros",
               "$": " dólares", "°": " grados"},
        "it": {"%": " per cento", "&": " e ", "+": " più ", "=": " uguale a ", "€": " euro",
               "$": " dollari", "°": " gradi"},
    }
)  # fmt: skip


def say_signs(text: str, language: str) -> str:
    """Symbols in another language than English, where we know their names; the others are left out."""
    for sign, words in _SIGNS.get(language, {}).items():
        if sign in text:
            text = text.replace(sign, words)
    return text
