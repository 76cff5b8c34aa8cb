"""The exceptions of vwo_fast.

::

    VwoFastError
    ├── ConfigError (ValueError)            an option is wrong, or differs from the running queue's
    ├── QueueError (OSError)                the queue's folder or files cannot be used
    ├── UnsupportedSdkError (ImportError)   the official SDK's seam is not as expected
    └── DeliveryError                       what flush_callback receives when VWO did not accept a batch
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DeliveryError",
    "QueueError",
    "UnsupportedSdkError",
    "VwoFastError",
]


class VwoFastError(Exception):
    """Root of everything that vwo_fast raises on purpose."""


class ConfigError(VwoFastError, ValueError):
    """An option is wrong; the text names the option, the value and the allowed range."""


class QueueError(VwoFastError, OSError):
    """The queue's folder or files cannot be used; the text names the path and says what to do."""


class UnsupportedSdkError(VwoFastError, ImportError):
    """The installed VWO SDK is absent or of a version whose seam is not known; the text names the version."""


class DeliveryError(VwoFastError):
    """VWO did not accept a batch.

    ``status``: the HTTP status, or None when there was no answer.
    ``attempts``: POSTs made so far, at least 1.
    ``outcome``: "not delivered", or "unknown" when one of the attempts was sent and had no answer, so that
    VWO may have the events all the same.
    """

    def __init__(self, message: str, *, status: int | None, attempts: int, outcome: str = "not delivered") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.attempts = attempts
        self.outcome = outcome

    def __str__(self) -> str:
        status = "no answer" if self.status is None else f"status {self.status}"
        return f"{self.message} ({status}, {self.outcome}, attempts: {self.attempts})"
