"""The exception tree: the class says who is at fault, ``code`` says what.

``api/wire.py`` alone turns a code into an HTTP status. Outcomes that are expected (a refusal, no
device that fits) are return values elsewhere, not exceptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """What went wrong, by the names that the data plane promises."""

    INVALID_PARAMS = "INVALID_PARAMS"
    UNAUTHORIZED = "UNAUTHORIZED"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    CONFLICT = "CONFLICT"
    LENGTH_REQUIRED = "LENGTH_REQUIRED"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    URI_TOO_LONG = "URI_TOO_LONG"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    HEADERS_TOO_LARGE = "HEADERS_TOO_LARGE"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    HTTP_VERSION_NOT_SUPPORTED = "HTTP_VERSION_NOT_SUPPORTED"
    ADMISSION_REJECT = "ADMISSION_REJECT"
    POOL_UNAVAILABLE = "POOL_UNAVAILABLE"
    RELOAD_FAILED = "RELOAD_FAILED"
    INTERNAL = "INTERNAL"
    CANCELLED = "CANCELLED"
    WORKER_RESET = "WORKER_RESET"
    DECODE_TIMEOUT = "DECODE_TIMEOUT"


class OrchdError(Exception):
    """Root of every fault that orchd itself names; ``str()`` is the message for the user."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in a configuration: where it is, what stands there, and how to mend it."""

    path: str
    """Dotted key path as a user would say it, e.g. ``pools[0].slots``."""
    problem: str
    """What is wrong, with the offending value, and what would be right."""

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}" if self.path else self.problem


class ConfigurationError(OrchdError):
    """The configuration is at fault; holds every fault found, in the order of the document."""

    def __init__(self, faults: Sequence[Fault], source: str) -> None:
        self.faults = tuple(faults)
        self.source = source
        super().__init__("\n".join(f"{source}: {fault}" for fault in self.faults))


class NoConfigurationError(ConfigurationError):
    """No configuration file was named, and none is in the usual places."""


class NoTokenError(ConfigurationError):
    """No token is configured, and no daemon has made one yet."""


class ClientError(OrchdError):
    """The one who asked is at fault; nothing was changed by the request."""

    def __init__(self, code: Code, message: str) -> None:
        self.code = code
        super().__init__(message)


class EngineError(OrchdError):
    """An engine broke its side: it died, hung up early, or said what it may not."""


class HostError(OrchdError):
    """The machine refused: a port taken, a file not readable, a driver that does not answer."""


class AddressTakenError(HostError):
    """Another program listens where the daemon was to."""
