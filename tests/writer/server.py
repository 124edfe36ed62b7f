"""An OpenAI-compatible server in a process of its own, which answers from the schema and fails on demand.

A message that holds `{{faults a,b}}` is answered with fault a the first time it comes, with b the second time, and
well from then on; the text before any repair tells messages apart. `faults` in the settings does the same by the
number of the chat request (from 1). It counts all it did: GET /stats.

    python tests/writer/server.py '{"delay": 0.2}'        prints the port it listens on
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any

_MARK = re.compile(r"\{\{faults ([^}]*)\}\}")
WORDS = (
    "the train leaves at noon and we bring bread for ducks near a quiet lake while rain falls on old tin roofs".split()
)


def from_schema(schema: Mapping[str, Any], draw: random.Random, root: Mapping[str, Any] | None = None) -> Any:
    """A value that follows a JSON Schema."""
    root = schema if root is None else root
    if "$ref" in schema:
        found: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return from_schema(found, draw, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return draw.choice(schema["enum"])
    if "anyOf" in schema:
        return from_schema(draw.choice(schema["anyOf"]), draw, root)
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        return {name: from_schema(inner, draw, root) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        low = schema.get("minItems", 1)
        return [
            from_schema(schema["items"], draw, root) for _ in range(draw.randint(low, schema.get("maxItems", low + 1)))
        ]
    if kind in ("integer", "number"):
        return draw.randint(int(schema.get("minimum", 0)), int(schema.get("maximum", 9)))
    if kind == "boolean":
        return draw.random() < 0.5
    if kind == "null":
        return None
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(4, 9))).capitalize() + "."


class Server:
    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self.stats: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        """Good HTTP answers by body: more than one of the same is an answer paid twice."""
        self.seen: Counter[str] = Counter()
        self.open, self.most_open, self.served_sec = 0, 0, 0.0
        self.first_at, self.last_at = 0.0, 0.0
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}

    # -- HTTP/1.1, as much as the client speaks

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.split("\r\n")
                method, path, _ = first.split(" ")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if not await self.handle(method, path.partition("?")[0], headers, body, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def handle(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection stays open."""
        if path == "/stats":
            return self.send(writer, 200, self.report())
        if path == "/settings":
            self.settings.update(json.loads(body))
            return self.send(writer, 200, {})
        if key := self.settings.get("key"):
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if given != key:
                self.stats["unauthorised"] += 1
                return self.error(writer, 401, f"Incorrect API key provided: {given}.", code="invalid_api_key")
        if path == "/v1/chat/completions":
            return await self.chat(json.loads(body), writer)
        if path == "/v1/models":
            return self.send(writer, 200, {"object": "list", "data": []})
        if path.startswith(("/v1/files", "/v1/batches")):
            return await self.batch_api(method, path, headers, body, writer)
        return self.error(writer, 404, f"no such path: {path}")

    def send(
        self, writer: asyncio.StreamWriter, status: int, value: Any, headers: Mapping[str, str] | None = None
    ) -> bool:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        lines = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        head = "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        writer.write(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body)
        return True

    def error(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        error = {"message": message, "type": "error", "code": code, "param": param}
        return self.send(writer, status, {"error": error}, headers)

    # -- chat

    async def chat(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        began = time.monotonic()
        self.first_at = self.first_at or began
        self.stats["requests"] += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self.answer_chat(body, writer)
        finally:
            self.open -= 1
            self.last_at = time.monotonic()
            self.served_sec += self.last_at - began

    async def answer_chat(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        number = self.stats["requests"]
        fault = self.settings.get("always") or self.fault(body, number)
        self.stats[f"fault {fault}"] += fault is not None
        name, _, value = (fault or "").partition("/")
        if "max_tokens" in body and self.settings.get("newer"):
            said = "Unsupported parameter: 'max_tokens' is not supported with this model."
            return self.error(writer, 400, said, code="unsupported_parameter", param="max_tokens")
        if name == "slow":
            await asyncio.sleep(float(value))
        elif delay := self.settings.get("delay", 0):
            await asyncio.sleep(delay)
        if name.isdecimal():
            code = value if value in ("insufficient_quota",) else None
            wait = {} if code or not value else {"Retry-After": value}
            return self.error(writer, int(name), f"as asked for: {name}", code=code, headers=wait)
        if name == "drop":
            return False
        completion = self.complete(body, name)
        if name == "no_choices":
            return self.send(writer, 200, {"object": "chat.completion", "choices": []})
        if name == "error_in_200":
            return self.send(writer, 200, {"error": {"message": "upstream is asleep"}})
        if name == "html":
            return self.send(writer, 200, b"<html>hello</html>", {"Content-Type": "text/html"})
        text = json.dumps(completion).encode()
        if name in ("cut_mid_reply", "drip"):
            writer.write(
                f"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode()
            )
            for byte in text[: len(text) // 2]:
                writer.write(bytes([byte]))
                if name == "drip":
                    await writer.drain()
                    await asyncio.sleep(0.05)
            return False
        self.paid[_hash(body)] += 1
        self.stats["answered"] += 1
        self.stats["prompt_tokens"] += completion["usage"]["prompt_tokens"]
        self.stats["completion_tokens"] += completion["usage"]["completion_tokens"]
        if self.settings.get("no_usage"):
            del completion["usage"]
        return self.send(writer, 200, json.dumps(completion).encode())

    def fault(self, body: Mapping[str, Any], number: int) -> str | None:
        by_number = self.settings.get("faults", {}).get(str(number))
        if by_number:
            return str(by_number)
        texts = [m["content"] for m in body["messages"] if isinstance(m["content"], str)]
        for text in texts:
            if marked := _MARK.search(text):
                self.seen[text] += 1
                names = marked[1].split(",")
                if names[-1].endswith("*"):  # for ever
                    return names[min(self.seen[text], len(names)) - 1].rstrip("*")
                return names[self.seen[text] - 1] if self.seen[text] <= len(names) else None
        return None

    def complete(self, body: Mapping[str, Any], fault: str) -> dict[str, Any]:
        draw = random.Random(_hash({k: v for k, v in body.items() if k not in ("max_tokens", "max_completion_tokens")}))
        asked = body.get("response_format") or {}
        schema = asked.get("json_schema", asked).get("schema")
        if schema is None:  # told in the messages
            told = re.search(r"(?m)^\{.*\}$", body["messages"][0]["content"])
            schema = json.loads(told[0]) if told else {"type": "object", "properties": {"text": {"type": "string"}}}
        good = json.dumps(from_schema(schema, draw), ensure_ascii=False)
        text = {
            "no_json": "Sure! Here you are: " + good,
            "schema": '{"other": 1}',
            "empty": "",
            "cut": good[: len(good) // 2],
            "filtered": "",
            "refusal": "",
            "fenced": f"```json\n{good}\n```",
            "think": f"<think>They want {{ JSON }}</think>\n\n{good}",
            "control": good.replace(" ", "\n\t", 1),
            "wrong": json.dumps(_all_strings(json.loads(good), "WRONG")),
        }.get(fault, good)
        for echo in self.settings.get("echo", ()):
            text = text.replace(".", f" {echo}.", 1)
        message = {"role": "assistant", "content": text, "refusal": "I cannot do that." if fault == "refusal" else None}
        finish = {"cut": "length", "filtered": "content_filter"}.get(fault, "stop")
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
            "usage": {
                "prompt_tokens": sum(len(str(m["content"]).split()) for m in body["messages"]) + 7,
                "completion_tokens": len(text.split()) + 1,
                "total_tokens": 0,
            },
        }

    # -- files and batches

    async def batch_api(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        parts = path.removeprefix("/v1/").split("/")
        name = f"{method} {parts[0]}{'/id' if len(parts) > 1 else ''}"
        self.stats[name] += 1
        faults = self.settings.get("batch_faults", {}).get(name, [])
        fault = faults[self.stats[name] - 1] if self.stats[name] <= len(faults) else None
        if fault and fault.isdecimal():
            return self.error(writer, int(fault), "as asked for")
        if fault == "drop":
            return False
        reply: Any = None
        if parts == ["files"] and method == "POST":
            reply = self.new_file(_uploaded(headers["content-type"], body), "batch")
        elif parts[0] == "files" and method == "GET" and parts[-1] == "content" and parts[1] in self.files:
            await self.hang(name)
            return self.send(writer, 200, self.files[parts[1]], {"Content-Type": "application/octet-stream"})
        elif parts[0] == "files" and method == "DELETE":
            self.files.pop(parts[1], None)
            reply = {"id": parts[1], "object": "file", "deleted": True}
        elif parts == ["batches"] and method == "POST":
            reply = self.new_batch(json.loads(body))
        elif parts == ["batches"]:
            reply = {"object": "list", "data": [_public(b) for b in reversed(self.batches.values())], "has_more": False}
        elif parts[0] == "batches" and parts[1] in self.batches:
            reply = self.poll(self.batches[parts[1]])
        if reply is None:
            return self.error(writer, 404, f"no such thing: {path}")
        if fault == "drop_after":  # done, and the client never hears of it
            return False
        await self.hang(name)
        return self.send(writer, 200, reply)

    async def hang(self, name: str) -> None:
        """What was asked for is done, and the client waits to hear of it."""
        if self.settings.get("hang") == name:
            self.stats["hanging"] += 1
            await asyncio.sleep(600)

    def new_file(self, content: bytes, purpose: str) -> dict[str, Any]:
        file_id = f"file-{len(self.files) + 1}-{self.stats['files made']}"
        self.stats["files made"] += 1
        self.files[file_id] = content
        return {
            "id": file_id, "object": "file", "bytes": len(content), "created_at": 0, "filename": "x.jsonl",
            "purpose": purpose, "status": "processed",
        }  # fmt: skip

    def new_batch(self, body: Mapping[str, Any]) -> dict[str, Any]:
        batch_id = f"batch_{len(self.batches) + 1}"
        lines = self.files[body["input_file_id"]].splitlines()
        self.stats["batches made"] += 1
        self.batches[batch_id] = {
            "id": batch_id, "object": "batch", "endpoint": body["endpoint"], "input_file_id": body["input_file_id"],
            "completion_window": body["completion_window"], "created_at": 0, "status": "validating",
            "metadata": body.get("metadata"), "output_file_id": None, "error_file_id": None, "errors": None,
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0}, "_polls": 0,
        }  # fmt: skip
        return _public(self.batches[batch_id])

    def poll(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch["_polls"] += 1
        if batch["status"] in ("validating", "in_progress"):
            batch["status"] = "in_progress"
            if batch["_polls"] >= self.settings.get("polls", 2):
                self.finish(batch)
        return _public(batch)

    def finish(self, batch: dict[str, Any]) -> None:
        batch["status"] = end = self.settings.get("batch_end", "completed")
        if end == "failed":
            batch["errors"] = {"object": "list", "data": [{"code": "invalid", "message": "line 1 is wrong", "line": 1}]}
            return
        good, bad = [], []
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        for i, line in enumerate(lines):
            body = line["body"]
            name = self.fault(body, -1) or ""
            row = {"id": f"r{i}", "custom_id": line["custom_id"], "response": None, "error": None}
            if end in ("expired", "cancelled") and i % 2:
                row["error"] = {"code": f"batch_{end}", "message": "not in time"}
                bad.append(row)
            elif name.isdecimal():
                row["response"] = {"status_code": int(name), "request_id": "", "body": {"error": {"message": "no"}}}
                bad.append(row)
            elif name == "missing":
                continue
            else:
                completion = self.complete(body, name)
                row["response"] = {"status_code": 200, "request_id": "", "body": completion}
                good.append(row)
                self.paid[_hash(body)] += 1
                self.stats["answered in batches"] += 1
                self.stats["prompt_tokens"] += completion["usage"]["prompt_tokens"]
                self.stats["completion_tokens"] += completion["usage"]["completion_tokens"]
        good.reverse()  # the order is not promised
        for rows, field in ((good, "output_file_id"), (bad, "error_file_id")):
            if rows:
                batch[field] = self.new_file("".join(json.dumps(r) + "\n" for r in rows).encode(), "batch_output")["id"]
        batch["request_counts"] = {"total": len(lines), "completed": len(good), "failed": len(bad)}

    def report(self) -> dict[str, Any]:
        return {
            **self.stats,
            "bodies": len(self.paid),
            "paid twice": sum(n - 1 for n in self.paid.values()),
            "most_open": self.most_open,
            "served_sec": self.served_sec,
            "wall_sec": self.last_at - self.first_at,
            "files_left": len(self.files),
        }


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _all_strings(value: Any, text: str) -> Any:
    if isinstance(value, dict):
        return {k: _all_strings(v, text) for k, v in value.items()}
    if isinstance(value, list):
        return [_all_strings(v, text) for v in value]
    return text if isinstance(value, str) else value


def _public(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in batch.items() if not k.startswith("_")}


def _uploaded(content_type: str, body: bytes) -> bytes:
    """The file in a multipart form."""
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    for part in body.split(b"--" + boundary):
        head, _, content = part.partition(b"\r\n\r\n")
        if b"filename=" in head:
            return content.removesuffix(b"\r\n")
    raise ValueError("no file in the form")


class Running:
    """The server in a process of its own, as a context manager."""

    def __init__(self, **settings: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(settings)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.base_url = f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=10) as reply:
            return dict(json.load(reply))

    def set(self, **settings: Any) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/settings", json.dumps(settings).encode())
        urllib.request.urlopen(request, timeout=10).close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()


async def _main() -> None:
    settings = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    server = await asyncio.start_server(
        Server(settings).serve, "127.0.0.1", settings.get("port", 0), limit=1 << 26, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
