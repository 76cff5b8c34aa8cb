"""From the payload of a record to a sealed request, for events that travel alone."""

from __future__ import annotations

from array import array
from typing import Any

import msgpack

from vwo_fast import _batch
from vwo_fast._wire import fullstack_impression_request
from vwo_fast.aggregator.sealed import NOBODY, RequestHead, Sealed, Source, new_batch_id
from vwo_fast.route import Route

__all__ = ["impression_parts", "request_parts", "sealed_request"]

EXT_BIGINT = 1
METHODS = frozenset({"GET", "POST"})

Parts = tuple[RequestHead, bytes, int]
"""Head, body, visitor."""


def impression_parts(route: Route, payload: bytes) -> Parts:
    """A FullStack impression as its GET. The body is not sent; it is what a report shows. Raises ValueError."""
    body = _batch.to_json(payload)
    impression = _unpack(payload)
    if not isinstance(impression, dict):
        raise ValueError("an impression is a map")
    method, path, query, headers, _ = fullstack_impression_request(route, impression)
    head = RequestHead(method, path, tuple(query), tuple(headers.items()), False)
    return head, body, _batch.visitor(payload)


def request_parts(payload: bytes) -> Parts:
    """A request as its producer described it: [method, path, query, headers, JSON text or nil, visitor]."""
    try:
        method, path, query, headers, text, visitor = _unpack(payload)
        pairs = tuple((_text(name), _text(value)) for name, value in query)
        fields = tuple((_text(name), _text(value)) for name, value in headers.items())
    except (AttributeError, TypeError) as exc:
        raise ValueError("not a request") from exc
    if method not in METHODS or not _text(path).startswith("/"):
        raise ValueError("not a request that may be made")
    if type(visitor) is not int or not 0 <= visitor < 1 << 64:
        raise ValueError("not a visitor")
    body = b"" if text is None else _text(text).encode("ascii")
    return RequestHead(method, path, pairs, fields, text is not None), body, visitor


def sealed_request(parts: Parts, *, route_key: int, ordinal: int, source: Source, created: float) -> Sealed:
    """One event, whole, on its own way."""
    head, body, visitor = parts
    return Sealed(
        id=new_batch_id(),
        route_key=route_key,
        ordinal=ordinal,
        head=head,
        body=body,
        offsets=array("I", (0, len(body) + 1)).tobytes(),
        events=1,
        visitors=_batch.visitor_filter([visitor]) if visitor else NOBODY,
        sources=(source,),
        created=created,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("expected text")
    # A lone surrogate could neither be sent nor spooled.
    value.encode("utf-8")
    return value


def _unpack(payload: bytes) -> Any:
    try:
        return msgpack.unpackb(
            payload, ext_hook=_ext, strict_map_key=False, unicode_errors="surrogatepass", max_ext_len=1 << 20
        )
    except (msgpack.exceptions.UnpackException, UnicodeError, ValueError) as exc:
        raise ValueError("not a msgpack value") from exc


def _ext(code: int, data: bytes) -> object:
    if code != EXT_BIGINT:
        raise ValueError("unknown extension")
    # Text, because a query shows an integer by its digits, and int() refuses very long ones.
    return data.decode("ascii")
