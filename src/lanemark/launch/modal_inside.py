"""Inside a container on Modal: the few things that only the SDK can say or do there."""

from __future__ import annotations

import os
from typing import Any, Final

import modal
from modal.exception import InputCancellation

from lanemark.observe.reading import reason_of
from lanemark.records.encoding import safe_text
from lanemark.records.observation import Observation, absent, observed, unavailable

#: What the platform sets in every container (modal.com/docs/guide/environment_variables).
_VARIABLES: Final = {
    "task_id": "MODAL_TASK_ID",
    "region": "MODAL_REGION",
    "cloud": "MODAL_CLOUD_PROVIDER",
    "image_id": "MODAL_IMAGE_ID",
    "environment": "MODAL_ENVIRONMENT",
}
#: Raised into a function from outside and never kept from the SDK: a person's cancellation, and being taken away.
CANCELLED: Final = InputCancellation
TAKEN_AWAY: Final = KeyboardInterrupt


def where() -> dict[str, dict[str, Any]]:
    """What the container is told of itself: task, region, cloud, image, call and app, as observations in JSON form."""
    seen: dict[str, Observation[str]] = {}
    for name, variable in _VARIABLES.items():
        text = os.environ.get(variable, "")
        seen[name] = observed(safe_text(text), variable) if text else absent(variable, "the platform did not set it")
    call = modal.current_function_call_id()
    seen["call_id"] = observed(call, "modal.current_function_call_id()") if call else absent("the SDK", "no call")
    seen["app_id"] = _app_id()
    return {name: observation.to_json() for name, observation in seen.items()}


def _app_id() -> Observation[str]:
    source = "the SDK's app of this container"
    try:
        app = modal.App._get_container_app()  # noqa: SLF001 - the SDK has no other way to ask
        number = None if app is None else app.app_id
    except Exception as error:  # the SDK's own business changed: the id is then not known, and the run goes on
        return unavailable(source, reason_of(error))
    return absent(source, "the SDK knows no app here") if number is None else observed(str(number), source)


def commit(volume: str, environment: str | None = None) -> None:
    """Make what was written to a Volume visible to everybody. Raises modal.exception.Error."""
    modal.Volume.from_name(volume, environment_name=environment).commit()


def reload(volume: str, environment: str | None = None) -> None:
    """See what others committed. Raises modal.exception.Error, also while files of the Volume are open here."""
    modal.Volume.from_name(volume, environment_name=environment).reload()
