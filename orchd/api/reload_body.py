"""The body of ``POST /v1/pools/{id}/reload``: which model is wanted from now on.

An absent body and an empty object both ask for the same model afresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchd.api.fields import Check, WrongValueError, check_fields, read_object
from orchd.errors import ClientError, Code

MAX_PATH_BYTES = 4096
"""Linux takes no longer path."""


def _path(value: Any) -> str:
    # Whatever was read as JSON can be encoded: a lone surrogate is none.
    is_path = isinstance(value, str) and value.startswith("/") and "\0" not in value
    if not is_path or len(value.encode()) > MAX_PATH_BYTES:
        expected = f"an absolute path of at most {MAX_PATH_BYTES} bytes, without NUL"
        raise WrongValueError.wanting(expected)
    return str(value)


_FIELDS: Mapping[str, Check] = {"new_model_ref": _path}


def read_new_model_ref(body: bytes) -> str | None:
    """The model that is wanted, None for the same afresh.

    Raises ClientError that names every fault of the body.
    """
    if not body:
        return None
    values, faults = check_fields(read_object(body), _FIELDS)
    if faults:
        raise ClientError(Code.INVALID_PARAMS, "; ".join(faults))
    return values.get("new_model_ref")
