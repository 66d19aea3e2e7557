"""Says why a server ended: in one line for logs, and on the pages of its user.

It must never call an end expected that was not, nor show anything unescaped: a
log's last lines were written by the user's own server.
"""

from __future__ import annotations

from datetime import datetime, timezone

from markupsafe import Markup

from ._proto import launcher_pb2 as pb
from .failure import as_html, plain, sentence

# Spoken when the launcher has no words of its own.
_CAUSES: dict[int, str] = {
    pb.EXIT_CAUSE_EXITED: "it ended by itself",
    pb.EXIT_CAUSE_SIGNALED: "it was ended by a signal",
    pb.EXIT_CAUSE_OUT_OF_MEMORY: "it ran out of memory",
    pb.EXIT_CAUSE_STOPPED: "it was stopped",
    pb.EXIT_CAUSE_LOST: "it ended while nobody watched",
    pb.EXIT_CAUSE_FAILED_START: "it failed to start",
    pb.EXIT_CAUSE_TOO_MANY_PROCESSES: "it had too many processes",
    pb.EXIT_CAUSE_KILLED_BY_ADMINISTRATOR: "the administrator ended it",
    pb.EXIT_CAUSE_DRAINED: "this machine is being emptied for maintenance",
    pb.EXIT_CAUSE_REPLACED: "a newer start took its place",
}
# The user, or the hub in the user's name, wanted it; a failed start has a page of its own.
_EXPECTED = (pb.EXIT_CAUSE_STOPPED, pb.EXIT_CAUSE_REPLACED, pb.EXIT_CAUSE_FAILED_START)
# Of these the log says nothing: they came from outside.
_FROM_OUTSIDE = (pb.EXIT_CAUSE_KILLED_BY_ADMINISTRATOR, pb.EXIT_CAUSE_DRAINED, pb.EXIT_CAUSE_LOST)


def words(sandbox: pb.Sandbox) -> str:
    """Why a server ended, in one line. A newer launcher names causes that are unknown here itself."""
    end = sandbox.exit
    said = plain(end.message).replace("\n", " ")
    return said or f"{_CAUSES.get(end.cause, 'the cause is unknown')} (exit code {end.code})"


def ended(sandbox: pb.Sandbox) -> bool:
    """Whether nothing of the server runs any more, though the launcher may still be clearing up after it."""
    return sandbox.phase == pb.PHASE_GONE or (sandbox.phase == pb.PHASE_STOPPING and sandbox.HasField("exit"))


def unexpected(sandbox: pb.Sandbox | None) -> bool:
    """Whether the user has to be told of this end."""
    return sandbox is not None and ended(sandbox) and sandbox.exit.cause not in _EXPECTED


def notice(sandbox: pb.Sandbox) -> Markup:
    """The same for a page, with the last lines of the log where they may tell more."""
    server = f'Your server "{sandbox.key.server}"' if sandbox.key.server else "Your last server"
    end = sandbox.exit
    well = end.cause == pb.EXIT_CAUSE_EXITED and end.code == 0
    tail = "" if well or end.cause in _FROM_OUTSIDE else end.log_tail
    return Markup(as_html(sentence(f"{server} ended: {words(sandbox)}"), "", tail))  # noqa: S704


def home_words(answer: pb.ForgetResponse) -> str:
    """What became of the home of a user who was deleted."""
    if answer.home == pb.HOME_FATE_TO_BE_PURGED:
        when = datetime.fromtimestamp(answer.purged_at, tz=timezone.utc)
        return f"the home is set aside, and purged after {when:%Y-%m-%d %H:%M} UTC"
    fates: dict[int, str] = {
        pb.HOME_FATE_ABSENT: "there was no home",
        pb.HOME_FATE_KEPT: "the home is kept, for a user of the same name",
        pb.HOME_FATE_ARCHIVED: "the home is set aside; a user of the same name gets an empty one",
    }
    return fates.get(answer.home, "what became of the home is the launcher's to say")
