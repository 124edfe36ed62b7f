"""YAML that others wrote, as plain values: safe tags only, nothing in it that swells, nests or contradicts itself."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from duplexdata.names import on_one_line

MAX_BYTES = 1024 * 1024
"""Of a file. All settings of a run are 6,000; a thousand sources with long paths are 200,000."""
MAX_NODES = 20_000
"""Values, those that an alias repeats counted again: ten lines of aliases may stand for a billion."""
MAX_DEPTH = 32
"""Values inside each other. Settings need 4."""


class BadYaml(ValueError):
    """A text is no YAML, or none that is taken; says where."""


def parse_yaml(text: str) -> Any:
    """
    Raises: BadYaml: it is no YAML, has a key twice, more than `MAX_NODES` values or `MAX_DEPTH` levels.
    """
    if len(text) > MAX_BYTES:
        raise BadYaml(f"it has more than {MAX_BYTES} characters, which is the limit")
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise BadYaml(_on_one_line(error)) from None
    except RecursionError:
        raise BadYaml(f"it is nested more than {MAX_DEPTH} levels deep, which is the limit") from None
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        # What PyYAML raises for !!int "" or the 31st of February.
        raise BadYaml(f"a value in it cannot be read ({type(error).__name__}: {str(error)[:200]})") from None


def _on_one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    parts = [getattr(error, "context", None), getattr(error, "problem", None)]
    said = ", ".join(part for part in parts if part) or str(error)
    return on_one_line(where + " ".join(said.split()))


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0
        self._sizes: dict[int, int] = {}
        """Values in each finished node, by its identity. Nodes live as long as the loader."""
        self._finished: list[yaml.Node] = []

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        mark = event.start_mark
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise yaml.composer.ComposerError(None, None, "an alias stands inside what it stands for", mark)
            self._add(self._sizes[id(node)], mark)
            return node
        self._depth += 1
        if self._depth > MAX_DEPTH:
            message = f"more than {MAX_DEPTH} levels inside each other, which is the limit"
            raise yaml.composer.ComposerError(None, None, message, mark)
        before = self._nodes
        self._add(1, mark)
        node = super().compose_node(parent, index)
        assert node is not None
        self._depth -= 1
        self._sizes[id(node)] = self._nodes - before
        self._finished.append(node)
        return node

    def _add(self, n: int, mark: yaml.Mark) -> None:
        self._nodes += n
        if self._nodes > MAX_NODES:
            raise yaml.composer.ComposerError(None, None, f"more than {MAX_NODES} values, which is the limit", mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if (key.tag, key.value) in seen:
                shown = repr(key.value[:40])
                raise yaml.constructor.ConstructorError(None, None, f"the key {shown} stands twice", key.start_mark)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep=deep)
