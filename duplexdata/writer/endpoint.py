"""One request to an OpenAI-compatible endpoint, through whatever goes wrong on the way.

What is wrong with the endpoint as a whole (it is down, refuses the key, knows no such model) stops the run with an
error that says what to do. What is wrong with one request is that request's outcome.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import openai
import pydantic

from duplexdata.config import WriterConfig
from duplexdata.errors import ConfigError, WriterError
from duplexdata.writer.asking import Request, likely_tokens
from duplexdata.writer.attempts import Refused
from duplexdata.writer.http import PatientHttp, TooLongAWait, httpx, retry_after_sec
from duplexdata.writer.meter import METER, Meter
from duplexdata.writer.parsing import RawReply
from duplexdata.writer.redact import Redactor, read_key

REFUSALS = ("bad_request", "server_error", "timeout", "connection", "no_completion")
"""Why one request got no reply where others did. All but the first may pass."""

_LOG = logging.getLogger(__name__)
_GIVE_UP = 20
"""A request that keeps failing for patience_sec / 20, while others are answered, is given up."""
_LONGEST_BACKOFF_SEC = 30.0
_DETAIL = 300


class _Message(pydantic.BaseModel):
    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None


class _Choice(pydantic.BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(pydantic.BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(pydantic.BaseModel):
    """What we read of a chat completion."""

    choices: list[_Choice] = pydantic.Field(min_length=1)
    usage: _Usage | None = None


class _Trouble(Exception):
    """Something that may pass.

    Args:
        wait_sec: what the endpoint asks for.
        limited: it is the rate limit: the request is fine and its turn will come.
    """

    def __init__(self, reason: str, detail: str, wait_sec: float | None = None, *, limited: bool = False) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.wait_sec, self.limited = reason, detail, wait_sec, limited


class Endpoint:
    """An endpoint, asked from one event loop.

    Args:
        proven: names of prompts that the endpoint has answered before; added to.
        charge: called with a prompt's name and a reply that was paid for and is of no use.

    Raises: WriterError: there is no key where one is needed. ConfigError: the address holds more than an address.
    """

    def __init__(self, config: WriterConfig, proven: set[str], charge: Callable[[str, RawReply], None]) -> None:
        assert config.model is not None
        key = read_key(config)
        self._config = config
        self._redactor = Redactor(key)
        self._http = PatientHttp(
            timeout_sec=config.timeout_sec, patience_sec=config.patience_sec, connections=config.in_flight + 4
        )
        self.client = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=config.base_url,
            max_retries=config.max_retries,
            http_client=self._http,
        )
        address = urlsplit(str(self.client.base_url))
        if address.username or address.password or address.query:
            raise ConfigError("OPENAI_BASE_URL holds more than an address: keys come from writer.api_key_env only")
        self.host = f"{address.hostname}:{address.port}" if address.port else str(address.hostname)
        self._limit_field = "max_tokens"
        self._served_at = -1e9
        self._proven, self._charge = proven, charge
        self._probing = asyncio.Lock()

    async def complete(self, request: Request, meter: Meter) -> RawReply:
        """Ask until there is a reply, as long as there is hope.

        Raises:
            Refused: this request got none, though the endpoint answers others.
            WriterError: the endpoint cannot be worked with.
        """
        began, backoff, hopeless_sec = time.monotonic(), 1.0, 0.0
        while True:
            round_began = time.monotonic()
            try:
                return await self._once(request, meter)
            except _Trouble as trouble:
                now = time.monotonic()
                if not trouble.limited and self._served_at > round_began:
                    hopeless_sec += now - round_began
                    if hopeless_sec >= self._config.patience_sec / _GIVE_UP:
                        raise Refused(trouble.reason, trouble.detail, transient=True) from None
                wait = trouble.wait_sec if trouble.wait_sec is not None else backoff * random.uniform(0.75, 1.0)
                if now + wait - max(began, self._served_at) > self._config.patience_sec:
                    if not trouble.limited and await self._answers():
                        raise Refused(trouble.reason, trouble.detail, transient=True) from None
                    raise self._gone(trouble) from None
                _LOG.debug("%s: %s; asking again in %.1f s", self.host, trouble.reason, wait)
            await asyncio.sleep(wait)
            backoff = min(2 * backoff, _LONGEST_BACKOFF_SEC)

    def error(self, what: str, *, retryable: bool = False) -> WriterError:
        return WriterError(f"the language model at {self.host}: {self._redactor.clean(what)}", retryable=retryable)

    def stopping(self, error: openai.APIStatusError) -> WriterError | None:
        """The error to stop with, if a status is about the endpoint and not about one request."""
        status, said = error.status_code, self._said(error)
        if status == 401:
            return self.error(f"the key is refused (401): {said}; set {self._config.api_key_env} to a valid one")
        if status == 403:
            return self.error(
                f"access is refused (403): {said}; the key in {self._config.api_key_env} may lack a right"
            )
        if status == 404:
            return self.error(f"not found (404): {said}; check writer.model ({self._config.model}) and writer.base_url")
        if status == 402 or _code(error) == "insufficient_quota":
            return self.error(f"no credit left ({status}): {said}; add some and run the same command again")
        return None

    def reply(self, completion: object, likely_prompt_tokens: int) -> RawReply | None:
        """What a completion says, None if it is none. Tokens that it does not count are estimated."""
        try:
            found = _Completion.model_validate(completion)
        except pydantic.ValidationError:
            return None
        choice = found.choices[0]
        content = choice.message.content
        if isinstance(content, list):
            content = "".join(part["text"] for part in content if isinstance(part.get("text"), str))
        text = self._redactor.clean(content or "")
        refusal = choice.message.refusal
        usage = found.usage or _Usage()
        likely = likely_tokens(len(text.encode("utf-8", "replace")))
        return RawReply(
            text=text,
            finish=choice.finish_reason or "",
            prompt_tokens=likely_prompt_tokens if usage.prompt_tokens is None else usage.prompt_tokens,
            completion_tokens=likely if usage.completion_tokens is None else usage.completion_tokens,
            refusal=self._redactor.clean(refusal) if refusal else None,
        )

    def fields(self, request: Request) -> dict[str, Any]:
        """A request's body as this endpoint takes it."""
        body = dict(request.body)
        body[self._limit_field] = body.pop("max_tokens")
        return body

    async def close(self) -> None:
        await self.client.close()

    async def _once(self, request: Request, meter: Meter) -> RawReply:
        """One round of the client's, with its own retries. Raises _Trouble, Refused, WriterError."""
        body = self.fields(request)
        try:
            content = await self._post(body, meter)
        except TooLongAWait as error:
            raise self.error(
                f"it {error}, more than writer.patience_sec ({self._config.patience_sec:g} s); "
                "run the same command again later",
                retryable=True,
            ) from None
        except openai.APITimeoutError:
            told = f"no whole reply within writer.timeout_sec ({self._config.timeout_sec:g} s)"
            raise _Trouble("timeout", told) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__
            told = f"{type(cause).__name__}: {cause}" if cause is not None else str(error)
            raise _Trouble("connection", self._redactor.clean(told)[:_DETAIL]) from None
        except openai.APIStatusError as error:
            await self._weigh(error, request, body)
            return await self._once(request, meter)
        try:
            completion = json.loads(content, strict=False)
        except (ValueError, RecursionError):
            completion = None
        reply = self.reply(completion, request.likely_prompt_tokens)
        if reply is None:
            raise _Trouble("no_completion", self._shown(completion, content))
        self._served_at = time.monotonic()
        self._proven.add(request.prompt)
        return reply

    async def _post(self, body: Mapping[str, Any], meter: Meter) -> bytes:
        token = METER.set(meter)
        try:
            # `chat.completions.create` would check the body's types and build the reply's: half of a request's time.
            reply = await self.client.post("/chat/completions", body=dict(body), cast_to=httpx.Response)
        finally:
            METER.reset(token)
        return reply.content

    async def _weigh(self, error: openai.APIStatusError, request: Request, body: Mapping[str, Any]) -> None:
        """Raise what a status means; return where the same request should go out again, in another form."""
        if stopping := self.stopping(error):
            raise stopping from None
        status, said = error.status_code, self._said(error)
        headers = error.response.headers
        wait = retry_after_sec(headers.get("retry-after"), headers.get("retry-after-ms"))
        if status == 429:
            raise _Trouble("rate_limited", said, wait, limited=True) from None
        if status in (408, 409) or status >= 500:
            raise _Trouble("server_error", f"{status}: {said}", wait) from None
        if "max_tokens" in body and (_param(error) == "max_tokens" or "max_completion_tokens" in said):
            self._limit_field = "max_completion_tokens"  # newer hosted models refuse the older name
            return
        if self._limit_field not in body:
            return  # another request found that out meanwhile
        await self._prove(request, f"{status}: {said}")
        raise Refused("bad_request", f"{status}: {said}", transient=False) from None

    async def _prove(self, request: Request, said: str) -> None:
        """Whether requests of this prompt are refused whatever is in them. Raises WriterError: so it is."""
        async with self._probing:
            if request.prompt in self._proven:
                return
            try:
                if await self._probe(request.prompt, request.body):
                    self._proven.add(request.prompt)
            except openai.APIStatusError as error:
                if error.status_code < 500 and error.status_code not in (408, 409, 429):
                    raise self.error(
                        f"it refuses every request for {request.prompt!r} ({said}); check writer.model "
                        f"({self._config.model}), and see writer.structured and writer.omit for what some do not take"
                    ) from None
            except openai.OpenAIError:
                return

    async def _answers(self) -> bool:
        """Whether the endpoint answers a request that nothing can be wrong with."""
        async with self._probing:
            if time.monotonic() - self._served_at < 1:
                return True
            try:
                answers = await self._probe("probe", {"model": self._config.model})
            except openai.OpenAIError:
                return False
            if answers:
                self._served_at = time.monotonic()
            return answers

    async def _probe(self, prompt: str, body: Mapping[str, Any]) -> bool:
        """Whether a small request with the fields of `body` is answered with a completion."""
        small = {k: v for k, v in body.items() if k != "max_tokens"}
        small["messages"] = [{"role": "user", "content": "Reply with any small example."}]
        small[self._limit_field] = 16
        content = await self._post(small, Meter())
        try:
            reply = self.reply(json.loads(content, strict=False), 16)
        except (ValueError, RecursionError):
            return False
        if reply is not None:
            self._charge(prompt, reply)
        return reply is not None

    def _gone(self, trouble: _Trouble) -> WriterError:
        patience = f"for writer.patience_sec ({self._config.patience_sec:g} s)"
        if trouble.limited:
            what = f"it let nothing through {patience}: {trouble.detail}; lower writer.tokens_per_minute or in_flight"
        elif trouble.reason == "timeout":
            what = f"it answered nothing {patience}: {trouble.detail}; raise writer.timeout_sec, or see to the server"
        elif trouble.reason == "no_completion":
            what = f"what it replies is no chat completion: {trouble.detail}; check writer.base_url"
        else:
            what = f"it answered nothing {patience}: {trouble.detail}; check writer.base_url and that it is up"
        return self.error(what + ", then run the same command again", retryable=True)

    def _said(self, error: openai.APIStatusError) -> str:
        body = error.body
        said = body.get("message") if isinstance(body, Mapping) else None
        if isinstance(body, Mapping) and not isinstance(said, str):
            said = body.get("detail")
        text = said if isinstance(said, str) else str(error.message)
        return " ".join(self._redactor.clean(text).split())[:_DETAIL]

    def _shown(self, completion: object, content: bytes) -> str:
        error = completion.get("error") if isinstance(completion, Mapping) else None
        said = error.get("message") if isinstance(error, Mapping) else None
        text = said if isinstance(said, str) else content[:_DETAIL].decode("utf-8", "replace")
        return " ".join(self._redactor.clean(text).split())[:_DETAIL] or "an empty body"


def _code(error: openai.APIStatusError) -> object:
    return error.body.get("code") if isinstance(error.body, Mapping) else None


def _param(error: openai.APIStatusError) -> object:
    return error.body.get("param") if isinstance(error.body, Mapping) else None
