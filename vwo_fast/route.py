"""Routes: what is the same for a whole batch, and where the batch goes.

A route is lifted out of its events and travels once per request.  The rules are
those of the official SDKs' traffic (see docs/compatibility.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal

from vwo_fast._options import OPTIONS, in_short, shown
from vwo_fast._value import Value
from vwo_fast.errors import ConfigError

__all__ = ["Route", "fits_header"]

USAGE_STATS_ORDER = ("eb", "ig", "ss", "cl", "ll", "gt", "_l")
FULLSTACK_SDK_NAME = "vwo-python-sdk"

_PREFIX = r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*\Z"


class Route(Value):
    """One destination of batches. Make it with :meth:`fullstack` or :meth:`fme`.

    ``base_url`` overrides the queue's base URL for this route (Wingify's FME host, a proxy).
    ``sdk_key`` may be None for FullStack, whose settings need not name one: then no request does.
    Two routes with equal fields have the same :attr:`key` and share batches.
    """

    _hidden = frozenset({"sdk_key"})

    sdk: Literal["fullstack", "fme"]
    account_id: int | str
    sdk_key: str | None
    sdk_name: str
    sdk_version: str
    collection_prefix: str | None = None
    usage_stats: tuple[tuple[str, int | str], ...] = ()
    base_url: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no request could be made of; a key is never shown."""
        if self.sdk not in ("fullstack", "fme"):
            raise ConfigError(f"sdk={in_short(self.sdk)}: expected 'fullstack' or 'fme'")
        absent = (str, NoneType) if self.sdk == "fullstack" else str
        for name, kind in (("sdk_key", absent), ("sdk_name", str), ("sdk_version", str)):
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(f"{name}: expected text, not {type(getattr(self, name)).__name__}")
        for name in ("sdk_key", "sdk_name"):
            if getattr(self, name) and not fits_header(getattr(self, name)):
                raise ConfigError(f"{name}: expected text that an HTTP header can carry")
        if not isinstance(self.base_url, (str, NoneType)):
            raise ConfigError("base_url: expected text or None")
        if isinstance(self.account_id, bool) or not isinstance(self.account_id, (int, str)):
            raise ConfigError(f"account_id: expected a number, not {type(self.account_id).__name__}")
        for key, value in self.usage_stats:
            if not isinstance(key, str) or not isinstance(value, (int, str)):
                raise ConfigError("usage_stats: expected numbers and texts by name")
        for name in ("account_id", "sdk_version", "base_url"):
            if not _fits_message(getattr(self, name)):
                raise ConfigError(f"{name}: expected a number of at most 64 bits, or text that UTF-8 can carry")
        if not all(_fits_message(text) for pair in self.usage_stats for text in pair):
            raise ConfigError("usage_stats: expected numbers of at most 64 bits, and texts that UTF-8 can carry")

    @classmethod
    def fullstack(
        cls,
        *,
        account_id: int | str,
        sdk_key: str | None,
        sdk_version: str,
        collection_prefix: str | None = None,
        usage_stats: Mapping[str, int | str] | None = None,
        sdk_name: str = FULLSTACK_SDK_NAME,
        base_url: str | None = None,
    ) -> Route:
        """A route of the FullStack SDK: ``/server-side/batch-events``."""
        if not isinstance(usage_stats, (Mapping, NoneType)):
            raise ConfigError(f"usage_stats: expected a dict, not {type(usage_stats).__name__}")
        stats = usage_stats or {}
        known = [(key, stats[key]) for key in USAGE_STATS_ORDER if key in stats]
        known += [(key, value) for key, value in stats.items() if key not in USAGE_STATS_ORDER]
        return cls(
            sdk="fullstack",
            account_id=account_id,
            sdk_key=sdk_key,
            sdk_name=sdk_name,
            sdk_version=sdk_version,
            collection_prefix=_clean_prefix(collection_prefix),
            usage_stats=tuple(known),
            base_url=_checked_url(base_url),
        )

    @classmethod
    def fme(
        cls,
        *,
        account_id: int | str,
        sdk_key: str,
        sdk_name: str,
        sdk_version: str,
        collection_prefix: str | None = None,
        base_url: str | None = None,
    ) -> Route:
        """A route of the Feature Management SDK: ``/server-side/batch-events-v2``."""
        return cls(
            sdk="fme",
            account_id=account_id,
            sdk_key=sdk_key,
            sdk_name=sdk_name,
            sdk_version=sdk_version,
            collection_prefix=_clean_prefix(collection_prefix),
            base_url=_checked_url(base_url),
        )

    def encode(self) -> bytes:
        """Canonical bytes of the route; equal routes give equal bytes."""
        # Here, as in decode, because the import of this package is not to wait for it.
        import msgpack

        encoded: bytes = msgpack.packb(
            [
                self.sdk,
                self.account_id,
                self.sdk_key,
                self.sdk_name,
                self.sdk_version,
                self.collection_prefix,
                [list(pair) for pair in self.usage_stats],
                self.base_url,
            ]
        )
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> Route:
        """The inverse of :meth:`encode`. Raises ValueError when the bytes are not a route."""
        import msgpack

        try:
            values = msgpack.unpackb(data)
            sdk, account_id, sdk_key, sdk_name, sdk_version, prefix, stats, base_url = values
            if sdk not in ("fullstack", "fme"):
                raise ValueError("unknown sdk")
            return cls(
                sdk=sdk,
                account_id=account_id,
                sdk_key=sdk_key,
                sdk_name=sdk_name,
                sdk_version=sdk_version,
                collection_prefix=_clean_prefix(prefix),
                usage_stats=tuple((name, value) for name, value in stats),
                base_url=base_url,
            )
        except (TypeError, ValueError, msgpack.exceptions.UnpackException) as exc:
            raise ValueError(f"not a route: {exc}") from exc

    @property
    def key(self) -> int:
        """62-bit name of the route in records and file names, never 0."""
        return route_key(self.encode())

    @property
    def batch_path(self) -> str:
        """Path of the batch endpoint, collection prefix included."""
        return self.path("batch-events" if self.sdk == "fullstack" else "batch-events-v2")

    def path(self, endpoint: str) -> str:
        """``/<prefix>/server-side/<endpoint>``."""
        return f"{self.prefix}/server-side/{endpoint}"

    @property
    def prefix(self) -> str:
        """The collection prefix with its leading slash, or an empty string."""
        return f"/{self.collection_prefix}" if self.collection_prefix else ""

    @property
    def batch_query(self) -> list[tuple[str, str]]:
        """Query of a batch request, in the order of the official SDK."""
        if self.sdk == "fullstack":
            pairs: list[tuple[str, Any]] = [
                ("a", self.account_id),
                ("sdk", self.sdk_name),
                ("sdk-v", self.sdk_version),
                ("env", self.sdk_key),
                *self.usage_stats,
            ]
        else:
            pairs = [
                ("a", self.account_id),
                ("env", self.sdk_key),
                ("sn", self.sdk_name),
                ("sv", self.sdk_version),
            ]
        return [(name, str(value)) for name, value in pairs if value is not None]

    @property
    def batch_headers(self) -> dict[str, str]:
        """Headers of a batch request beside those of the HTTP library."""
        headers = {"Content-Type": "application/json"}
        if self.sdk_key is not None:
            headers = {"Authorization": self.sdk_key, **headers}
        if self.sdk == "fullstack":
            headers["User-Agent"] = self.sdk_name
        return headers


def route_key(encoded: bytes) -> int:
    """Key of a route from its canonical bytes: BLAKE2b, 62 bits, never 0."""
    # Imported here: it loads OpenSSL, which is a tenth of what importing this package takes.
    from hashlib import blake2b

    digest = int.from_bytes(blake2b(encoded, digest_size=8).digest(), "big")
    return (digest >> 2) or 1


def fits_header(text: str) -> bool:
    """Whether HTTP can carry a text, which is not empty, as the value of a header."""
    if text[0].isspace() or "\r" in text or "\n" in text:
        return False
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _fits_message(value: int | str | None) -> bool:
    """Whether msgpack can carry it."""
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 64
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked_url(base_url: str | None) -> str | None:
    """As it is, when requests can go there. A route that was stored before is believed."""
    if base_url is None:
        return None
    option = OPTIONS["base_url"]
    try:
        option.parse(base_url)
    except ValueError as exc:
        raise ConfigError(f"base_url={shown(option, base_url)}: {exc}; expected {option.expected}, or None") from None
    return base_url


def _clean_prefix(prefix: str | None) -> str | None:
    if prefix is None or prefix == "":
        return None
    if not isinstance(prefix, str):
        raise ConfigError("collection_prefix: expected text or None")
    stripped = prefix.strip("/")
    if not re.match(_PREFIX, stripped):
        expected = "path segments of letters, digits and . _ ~ -"
        raise ConfigError(f"collection_prefix={in_short(prefix)}: expected {expected}")
    return stripped
