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
    LauncherInvalid,
    LauncherTimeout,
    LauncherUnavailable,
)

_LINES = 40
_CHARACTERS = 8000
# Terminal colours, and controls that are neither a tab nor a line's end.
_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# Since JupyterHub 6 the hub asks for its own kind, logs it in one line and counts it by reason.
_SpawnException = getattr(hub_spawner, "SpawnException", None)
_Base: type[web.HTTPError] = _SpawnException or web.HTTPError


class StartFailed(_Base):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
    """A start that did not work out. The hub shows `jupyterhub_message`, or its html form."""

    def __init__(
        self, message: str, *, reason: str, hint: str = "", log_tail: str = "", status_code: int = 500
    ) -> None:
        message = sentence(message)
        hint = sentence(hint)
        self.jupyterhub_message = f"{message} {hint}".strip()
        self.jupyterhub_html_message = as_html(message, hint, log_tail)
        if _SpawnException is None:
            super().__init__(status_code, self.jupyterhub_message)
        else:
            super().__init__(  # pyright: ignore[reportCallIssue]
                self.jupyterhub_message,  # pyright: ignore[reportArgumentType]
                reason=reason,
                message_html=self.jupyterhub_html_message,  # pyright: ignore[reportCallIssue]
                status_code=status_code,  # pyright: ignore[reportCallIssue]
            )
        self.reason = reason


def sentence(text: str) -> str:
    """Errors are lower case and without a full stop; a page wants a sentence."""
    text = _CONTROLS.sub("", text).strip()
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


def as_html(message: str, hint: str, log_tail: str) -> str:
    parts = [html.escape(message)]
    if hint:
        parts.append(f"<br><em>{html.escape(hint)}</em>")
    tail = "\n".join(_CONTROLS.sub("", log_tail[-_CHARACTERS:]).splitlines()[-_LINES:]).strip()
    if tail:
        parts.append(f'<pre style="text-align: left; white-space: pre-wrap">{html.escape(tail)}</pre>')
    return "".join(parts)


_REASONS: dict[int, tuple[str, int]] = {
    pb.FAILURE_REASON_IMAGE_MISSING: ("image_missing", 503),
    pb.FAILURE_REASON_RUNTIME_MISSING: ("runtime_missing", 503),
    pb.FAILURE_REASON_ENGINE_UNAVAILABLE: ("engine_unavailable", 503),
    pb.FAILURE_REASON_HOME: ("home", 500),
    pb.FAILURE_REASON_NETWORK: ("network", 500),
    pb.FAILURE_REASON_CAPACITY: ("capacity", 503),
    pb.FAILURE_REASON_PROOF: ("proof", 500),
    pb.FAILURE_REASON_SERVER_EXITED: ("server_exited", 500),
    pb.FAILURE_REASON_TIMEOUT: ("start_timeout", 504),
    pb.FAILURE_REASON_CANCELLED: ("cancelled", 409),
    pb.FAILURE_REASON_INTERNAL: ("internal", 500),
}


def from_failed(failed: pb.Failed) -> StartFailed:
    """What the launcher says at the end of a start that failed."""
    reason, status = _REASONS.get(failed.reason, ("unknown", 500))
    message = failed.message or "the server failed to start"
    return StartFailed(message, reason=reason, hint=failed.hint, log_tail=failed.log_tail, status_code=status)


def from_error(error: LauncherError) -> StartFailed:
    """What the launcher says instead of a start, or that it says nothing."""
    ask = "Please tell the administrator of this hub"
    if isinstance(error, LauncherUnavailable):
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
        return StartFailed(
            f"denied: {error}",
            reason="denied",
            hint="Choose something else, or ask the administrator of this hub for more",
            status_code=403,
        )
    if isinstance(error, LauncherInvalid):
        return StartFailed(f"refused: {error}", reason="invalid", status_code=400)
    if isinstance(error, LauncherBusy):
        return StartFailed(f"no room: {error}", reason="capacity", hint="Try again later", status_code=503)
    return StartFailed(f"the launcher failed: {error}", reason="internal", hint=ask)


_CAUSES: dict[int, str] = {
    pb.EXIT_CAUSE_EXITED: "it ended by itself",
    pb.EXIT_CAUSE_SIGNALED: "it was ended by a signal",
    pb.EXIT_CAUSE_OUT_OF_MEMORY: "it ran out of memory",
    pb.EXIT_CAUSE_STOPPED: "it was stopped",
    pb.EXIT_CAUSE_LOST: "it ended while nobody watched",
    pb.EXIT_CAUSE_FAILED_START: "it failed to start",
}


def exit_words(sandbox: pb.Sandbox) -> str:
    """Why a server ended, in one line."""
    cause = _CAUSES.get(sandbox.exit.cause, "the cause is unknown")
    words = _CONTROLS.sub("", sandbox.exit.message).strip() or cause
    return f"{words} (exit code {sandbox.exit.code})"
