"""The impression that is measured everywhere. Imports nothing of vwo_fast: its import is measured too."""

from __future__ import annotations

from typing import Any

__all__ = ["ACCOUNT", "AGENT", "SDK_KEY", "impression"]

ACCOUNT = 888888
SDK_KEY = "0123456789abcdef0123456789abcdef"
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36"


def impression(number: int) -> dict[str, Any]:
    """What FullStack's dispatcher receives for one activation: 13 keys, and the url."""
    return {
        "random": 0.25 + number % 100 / 1000,
        "sdk": "vwo-python-sdk",
        "sdk-v": "1.68.2",
        "ap": "server",
        "sId": 1700000000 + number,
        "u": f"{number:032X}",
        "account_id": ACCOUNT,
        "env": SDK_KEY,
        "visitor_ua": AGENT,
        "visitor_ip": f"203.0.113.{number % 250}",
        "experiment_id": 200 + number % 50,
        "combination": 1 + number % 4,
        "ed": '{"p": "server"}',
        "url": "https://dev.visualwebsiteoptimizer.com/server-side/track-user",
    }
