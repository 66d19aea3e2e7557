"""Turns what went wrong into words for the user's page, and a label for the hub's metrics.

Nothing here may show more than the launcher said, and everything it said is
escaped: a log's last lines were written by the user's own server.
"""

from __future__ import annotations

import html
import re

from jupyterhub import spawner as hub_spawner
from tornado import web

from ._proto import launcher_pb2 as pb
from .client import (
    LauncherBusy,
    LauncherDenied,
    LauncherError,
    LauncherHangs,
    LauncherInvalid,
    LauncherTimeout,
    LauncherUnavailable,
)

_LINES = 40
_CHARACTERS = 8000
# Terminal colours, and controls that are neither a tab nor a line's end.
_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# Since JupyterHub 6: a start that was rightly refused. The hub logs it in one line, counts it by its reason,
# and not as a failure of its own (consecutive_failure_limit).
_SpawnException = getattr(hub_spawner, "SpawnException", None)
HUB_KNOWS_REFUSALS = _SpawnException is not None
_RefusedBases: tuple[type, ...] = () if _SpawnException is None else (_SpawnException,)


class StartFailed(web.HTTPError):
    """A start that did not work out. The hub shows `jupyterhub_message`, or its html form."""

    users_own = False

    def __init__(
        self, message: str, *, reason: str, hint: str = "", log_tail: str = "", status_code: int = 500
    ) -> None:
        message = sentence(message)
        hint = sentence(hint)
        self.jupyterhub_message = f"{message} {hint}".strip()
        self.jupyterhub_html_message = as_html(message, hint, log_tail)
        # By name: the next class in line may be the hub's, which wants other arguments.
        web.HTTPError.__init__(self, status_code, self.jupyterhub_message, reason=reason)


class StartRefused(StartFailed, *_RefusedBases):  # pyright: ignore[reportGeneralTypeIssues]
    """A start whose failure is the user's own business: hub and node are in order."""

    users_own = True

    def __init__(
        self, message: str, *, reason: str, hint: str = "", log_tail: str = "", status_code: int = 400
    ) -> None:
        super().__init__(message, reason=reason, hint=hint, log_tail=log_tail, status_code=status_code)
        if HUB_KNOWS_REFUSALS:
            # What the hub's own kind has, and its pages and its log read.
            self.message = self.jupyterhub_message
            self.log_message = self.jupyterhub_message  # pyright: ignore[reportAttributeAccessIssue]
            self.message_html = self.jupyterhub_html_message


def plain(text: str) -> str:
    """Without what drives a terminal."""
    return _CONTROLS.sub("", text).strip()


def sentence(text: str) -> str:
    """Errors are lower case and without a full stop; a page wants a sentence."""
    text = plain(text)
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


def as_html(message: str, hint: str, log_tail: str) -> str:
    parts = [html.escape(message)]
    if hint:
        parts.append(f"<br><em>{html.escape(hint)}</em>")
    tail = "\n".join(plain(log_tail[-_CHARACTERS:]).splitlines()[-_LINES:])
    if tail:
        parts.append(f'<pre style="text-align: left; white-space: pre-wrap">{html.escape(tail)}</pre>')
    return "".join(parts)


# The label, the status of the answer, and whether it is the user's own business. A server's end before it
# answered is: what runs in it, and what it reads in the home, is the user's.
_REASONS: dict[int, tuple[str, int, bool]] = {
    pb.FAILURE_REASON_IMAGE_MISSING: ("image_missing", 503, False),
    pb.FAILURE_REASON_RUNTIME_MISSING: ("runtime_missing", 503, False),
    pb.FAILURE_REASON_ENGINE_UNAVAILABLE: ("engine_unavailable", 503, False),
    pb.FAILURE_REASON_HOME: ("home", 500, False),
    pb.FAILURE_REASON_NETWORK: ("network", 500, False),
    pb.FAILURE_REASON_CAPACITY: ("capacity", 503, True),
    pb.FAILURE_REASON_PROOF: ("proof", 500, False),
    pb.FAILURE_REASON_SERVER_EXITED: ("server_exited", 500, True),
    pb.FAILURE_REASON_TIMEOUT: ("start_timeout", 504, True),
    pb.FAILURE_REASON_CANCELLED: ("cancelled", 409, True),
    pb.FAILURE_REASON_INTERNAL: ("internal", 500, False),
}


def from_failed(failed: pb.Failed) -> StartFailed:
    """What the launcher says at the end of a start that failed; a newer one may have new reasons."""
    reason, status, users_own = _REASONS.get(failed.reason, ("unknown", 500, False))
    return (StartRefused if users_own else StartFailed)(
        failed.message or "the server failed to start",
        reason=reason,
        hint=failed.hint,
        log_tail=failed.log_tail,
        status_code=status,
    )


def from_error(error: LauncherError) -> StartFailed:
    """What the launcher says instead of a start, or that it says nothing."""
    ask = "Please tell the administrator of this hub"
    if isinstance(error, (LauncherUnavailable, LauncherHangs)):
        return StartFailed(
            "the launcher on this machine does not answer, so no server can start",
            reason="launcher_unavailable",
            hint=f"Try again in a minute. {ask} if it stays so",
            status_code=503,
        )
    if isinstance(error, LauncherTimeout):
        return StartFailed(
            "the server was not ready in time",
            reason="start_timeout",
            hint=f"Try again. {ask} if it happens again",
            status_code=504,
        )
    if isinstance(error, LauncherDenied):
        return StartRefused(
            f"denied: {error}",
            reason="denied",
            hint="Choose something else, or ask the administrator of this hub for more",
            status_code=403,
        )
    if isinstance(error, LauncherInvalid):
        return StartRefused(f"refused: {error}", reason="invalid", status_code=400)
    if isinstance(error, LauncherBusy):
        return StartRefused(f"no room: {error}", reason="capacity", hint="Try again later", status_code=503)
    return StartFailed(f"the launcher failed: {error}", reason="internal", hint=ask)
