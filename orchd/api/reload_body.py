"""The body of ``POST /v1/pools/{id}/reload``: which model is wanted from now on.

An absent body and an empty object both ask for the same model afresh.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from orchd.api.fields import Check, WrongValueError, check_fields, read_object
from orchd.config.model_form import ModelForm, form_of, is_name
from orchd.errors import ClientError, Code

MAX_PATH_BYTES = 4096
"""Linux takes no longer path."""


def _check_model(engine: str, value: Any) -> str:
    # Whatever was read as JSON can be encoded: a lone surrogate is none.
    is_model = isinstance(value, str) and (value.startswith("/") or is_name(engine, value))
    if not is_model or "\0" in value or len(value.encode()) > MAX_PATH_BYTES:
        kinds = "an absolute path"
        if form_of(engine) is not ModelForm.FILE:
            kinds = f"a model's name or {kinds}"
        raise WrongValueError.wanting(f"{kinds} of at most {MAX_PATH_BYTES} bytes, without NUL")
    return str(value)


def read_new_model_ref(body: bytes, engine: str) -> str | None:
    """The model that is wanted of that engine, None for the same afresh.

    Raises ClientError that names every fault of the body.
    """
    if not body:
        return None
    check: Check = partial(_check_model, engine)
    values, faults = check_fields(read_object(body), {"new_model_ref": check})
    if faults:
        raise ClientError(Code.INVALID_PARAMS, "; ".join(faults))
    return values.get("new_model_ref")
