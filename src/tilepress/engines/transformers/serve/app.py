"""The paths of OpenAI's protocol."""

from __future__ import annotations

import asyncio
import hmac
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tilepress.engines.transformers.generate import Generation, render, with_tool_calls
from tilepress.engines.transformers.generation.pieces import CONTENT, THOUGHTS, Piece, Pieces, call_mark
from tilepress.engines.transformers.generation.tools import THOUGHT_START, check_template, tool_schemas
from tilepress.engines.transformers.serve.answering import Answering
from tilepress.engines.transformers.serve.protocol import (
    ChatRequest,
    CompletionRequest,
    Reply,
    called,
    error_body,
    event,
)
from tilepress.errors import TilepressError, UsageError

# Tokens at the end of a prompt among which the mark of a thought would stand.
TAIL = 8
# Seconds after which a client that waits is looked after.
PATIENCE = 0.2
MOST_BYTES = 64 << 20

Item = Generation | list[Piece]


def make_app(answering: Answering, name: str, api_key: str | None = None) -> FastAPI:
    """Return the application. name: what clients call the model. api_key: what they have to send, if any."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        answering.close()

    entry = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "tilepress"}
    entry |= {"max_model_len": answering.model.config.max_position_embeddings}

    def check_model(asked: str | None) -> None:
        if asked not in (None, name):
            raise HTTPException(404, f"model {asked!r} is not served here; there is {name!r}")

    app = FastAPI(title="tilepress", lifespan=life, openapi_url=None)
    _answer_errors(app)
    app.add_middleware(Guard, api_key=api_key)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [entry]}

    @app.get("/v1/models/{model:path}")
    async def one_model(model: str) -> dict[str, Any]:
        check_model(model)
        return entry

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        check_model(body.model)
        return await _Chat(answering, body, Reply("chat.completion", name)).respond(request)

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        check_model(body.model)
        return await _Completion(answering, body, Reply("text_completion", name)).respond(request)

    return app


def _answer_errors(app: FastAPI) -> None:
    """Have errors answered as OpenAI's clients read them."""

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse(error_body(f"{where or 'the request'}: {first['msg']}"), 400)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        code = "model_not_found" if str(error.detail).startswith("model ") else None
        return JSONResponse(error_body(str(error.detail), code=code), error.status_code)

    @app.exception_handler(UsageError)
    async def unusable(_: Request, error: UsageError) -> JSONResponse:
        code = "context_length_exceeded" if "context is" in str(error) else None
        return JSONResponse(error_body(str(error), code=code), 400)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        reason = str(error) if isinstance(error, TilepressError) else f"{type(error).__name__}, see the server's log"
        return JSONResponse(error_body(reason, "server_error"), 500)


class Guard:
    """Asks for the key, and refuses what is too long, before a body is read."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self._app, self._key = app, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._refusal(scope) if scope["type"] == "http" else None
        await (self._app if answer is None else answer)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        if scope["path"].startswith("/v1") and not self._is_known(headers):
            message = "the API key is missing or wrong; send Authorization: Bearer KEY"
            return JSONResponse(error_body(message, "authentication_error", "invalid_api_key"), 401)
        if int(headers.get("content-length") or 0) > MOST_BYTES:
            return JSONResponse(error_body(f"the request is longer than {MOST_BYTES >> 20} MiB"), 413)
        return None

    def _is_known(self, headers: Headers) -> bool:
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        if self._key is None:
            return True
        return scheme.lower() == "bearer" and hmac.compare_digest(sent.strip().encode("latin-1"), self._key.encode())


async def _next(items: AsyncGenerator[Item], request: Request) -> Item:
    """Return the next item. Raises ClientDisconnect where the client leaves meanwhile, and ends the answer."""
    task = asyncio.ensure_future(anext(items))
    try:
        while not (await asyncio.wait({task}, timeout=PATIENCE))[0]:
            if await request.is_disconnected():
                raise ClientDisconnect
        return task.result()
    finally:
        if not task.done():
            task.cancel()  # which ends the answer, too
            await asyncio.wait({task})


class _Answer(ABC):
    """One request and its answer, as a whole or in chunks."""

    def __init__(self, answering: Answering, body: Any, reply: Reply) -> None:
        self.answering, self.body, self.reply = answering, body, reply
        self._pieces = Pieces(body.stops())

    async def respond(self, request: Request) -> Response:
        self._pieces, tokens = await run_in_threadpool(self.prepare)  # a long prompt takes its time
        options = {"max_new_tokens": self.body.limit, "seed": self.body.seed, **self.body.options()}
        items = self.answering.answer(tokens, self._pieces, **options)
        try:
            first = await _next(items, request)
            if self.body.stream:  # errors that show before the first token have got a status of their own
                return StreamingResponse(self._events(first, items, request), media_type="text/event-stream")
            texts, item = list[Piece](), first
            async with aclosing(items):
                while not isinstance(item, Generation):
                    texts += item
                    item = await _next(items, request)
            return JSONResponse(self.reply.whole(self.choice(texts, item), item))
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it

    async def _events(self, first: Item, items: AsyncGenerator[Item], request: Request) -> AsyncIterator[str]:
        async with aclosing(items):
            for choice in self.opening():
                yield event(self.reply.chunk(choice))
            item = first
            while not isinstance(item, Generation):
                for kind, text in item:
                    yield event(self.reply.chunk(self.delta(kind, text)))
                try:
                    item = await _next(items, request)
                except TilepressError as error:
                    yield event(error_body(str(error), "server_error"))
                    return
                except ClientDisconnect:
                    return
            for choice in self.closing(item):
                yield event(self.reply.chunk(choice))
            if self.body.stream_options is not None and self.body.stream_options.include_usage:
                yield event(self.reply.last(item))
            yield event("[DONE]")

    def finish_reason(self, answer: Generation) -> str:
        return "stop" if self._pieces.stopped else answer.finish_reason

    @abstractmethod
    def prepare(self) -> tuple[Pieces, Sequence[int]]:
        """Return what splits the text, and the prompt's tokens."""

    @abstractmethod
    def choice(self, texts: list[Piece], answer: Generation) -> dict[str, Any]:
        """Return the whole answer, as the reply has it."""

    def opening(self) -> list[dict[str, Any]]:
        return []

    @abstractmethod
    def delta(self, kind: str, text: str) -> dict[str, Any]:
        """Return the chunk of a piece of text."""

    @abstractmethod
    def closing(self, answer: Generation) -> list[dict[str, Any]]:
        """Return the chunks that follow the last piece."""


class _Chat(_Answer):
    _offered: list[Any] | None = None

    def prepare(self) -> tuple[Pieces, Sequence[int]]:
        tokenizer, body = self.answering.tokenizer, self.body
        if tokenizer.chat_template is None:
            raise UsageError("the model has no chat template; use /v1/completions")
        if (offered := body.offered_tools()) is not None:
            self._offered = tool_schemas(offered)
            check_template(tokenizer, self._offered)
        tokens = render(body.plain_messages(), tokenizer, body.variables(), self._offered)
        thinking = str(tokenizer.decode(tokens[-TAIL:])).rstrip().endswith(THOUGHT_START)
        call = None if self._offered is None else call_mark(tokenizer.all_special_tokens)
        return Pieces(body.stops(), thoughts=True if thinking else None, call=call), tokens

    def choice(self, texts: list[Piece], answer: Generation) -> dict[str, Any]:
        content, thoughts = ("".join(text for kind, text in texts if kind == wanted) for wanted in (CONTENT, THOUGHTS))
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if thoughts:
            message[THOUGHTS] = thoughts.strip()
        calls = self._calls(answer)
        if calls:
            message |= {"content": message["content"].strip() or None, "tool_calls": calls}
        else:
            message["content"] += self._pieces.rest  # no call, after all
        return {"message": message, "finish_reason": "tool_calls" if calls else self.finish_reason(answer)}

    def opening(self) -> list[dict[str, Any]]:
        return [{"delta": {"role": "assistant", "content": ""}}]

    def delta(self, kind: str, text: str) -> dict[str, Any]:
        return {"delta": {kind: text}}

    def closing(self, answer: Generation) -> list[dict[str, Any]]:
        calls = self._calls(answer)
        chunks = [{"delta": {"tool_calls": [{"index": i, **call}]}} for i, call in enumerate(calls)]
        if not calls and self._pieces.rest:  # no call, after all
            chunks = [self.delta(CONTENT, self._pieces.rest)]
        reason = "tool_calls" if calls else self.finish_reason(answer)
        return [*chunks, {"delta": {}, "finish_reason": reason}]

    def _calls(self, answer: Generation) -> list[dict[str, Any]]:
        if self._offered is None or self._pieces.stopped:
            return []
        return called(with_tool_calls(answer, self.answering.tokenizer)[0])


class _Completion(_Answer):
    def prepare(self) -> tuple[Pieces, Sequence[int]]:
        prompt = self.body.one_prompt()
        tokens = list(prompt) if isinstance(prompt, list) else list(self.answering.tokenizer(prompt)["input_ids"])
        return Pieces(self.body.stops()), tokens

    def choice(self, texts: list[Piece], answer: Generation) -> dict[str, Any]:
        return {"text": "".join(text for _, text in texts), "finish_reason": self.finish_reason(answer)}

    def delta(self, kind: str, text: str) -> dict[str, Any]:
        return {"text": text}

    def closing(self, answer: Generation) -> list[dict[str, Any]]:
        return [{"text": "", "finish_reason": self.finish_reason(answer)}]
