"""What is said of a server that ended."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from adrastea import ends
from adrastea._proto import launcher_pb2 as pb

SILENT = {"EXIT_CAUSE_STOPPED", "EXIT_CAUSE_REPLACED", "EXIT_CAUSE_FAILED_START"}


def gone(cause: str, server: str = "", **fields: Any) -> pb.Sandbox:
    ended = pb.Exit(cause=cause, **fields)  # pyright: ignore[reportArgumentType]
    return pb.Sandbox(key=pb.ServerKey(user="ana", server=server), phase=pb.PHASE_GONE, exit=ended)


@pytest.mark.parametrize("cause", pb.ExitCause.keys())
def test_every_cause_of_the_contract_has_words(cause: str) -> None:
    silent = gone(cause, code=3)
    assert ends.words(silent).endswith("(exit code 3)")
    assert ("unknown" in ends.words(silent)) == (cause == "EXIT_CAUSE_UNSPECIFIED")
    assert ends.words(gone(cause, message="out of memory:\n\x1b[1mits limit")) == "out of memory: its limit"
    assert ends.unexpected(silent) == (cause not in SILENT)


def test_a_cause_of_the_future_is_told_in_the_launchers_words() -> None:
    sandbox = gone("EXIT_CAUSE_EXITED", message="struck by lightning")
    sandbox.exit.MergeFromString(b"\x08\x63")
    assert sandbox.exit.cause == 99
    assert ends.unexpected(sandbox)
    assert str(ends.notice(sandbox)) == "Your last server ended: struck by lightning."


def test_who_lives_has_not_ended() -> None:
    assert not ends.unexpected(None)
    assert not ends.unexpected(pb.Sandbox(phase=pb.PHASE_READY))


def test_a_notice_is_escaped_whole() -> None:
    page = str(ends.notice(gone("EXIT_CAUSE_EXITED", "<lab>", code=3, message="<i>3", log_tail="</pre><b>")))
    assert page == (
        "Your server &quot;&lt;lab&gt;&quot; ended: &lt;i&gt;3."
        '<pre style="text-align: left; white-space: pre-wrap">&lt;/pre&gt;&lt;b&gt;</pre>'
    )


@pytest.mark.parametrize(
    ("cause", "code", "shown"),
    [
        ("EXIT_CAUSE_EXITED", 3, True),
        ("EXIT_CAUSE_EXITED", 0, False),  # the user shut it down from inside
        ("EXIT_CAUSE_OUT_OF_MEMORY", 137, True),
        ("EXIT_CAUSE_TOO_MANY_PROCESSES", 1, True),
        ("EXIT_CAUSE_KILLED_BY_ADMINISTRATOR", 143, False),
        ("EXIT_CAUSE_DRAINED", 143, False),
    ],
)
def test_the_log_is_shown_where_it_may_tell_more(cause: str, code: int, shown: bool) -> None:
    page = ends.notice(gone(cause, code=code, message="m", log_tail="last words"))
    assert ("last words" in page) == shown


def test_what_became_of_a_home() -> None:
    purged = datetime(2031, 5, 6, 7, 8, tzinfo=timezone.utc).timestamp()
    answer = pb.ForgetResponse(home=pb.HOME_FATE_TO_BE_PURGED, purged_at=int(purged))
    assert "2031-05-06 07:08 UTC" in ends.home_words(answer)
    fates = pb.HomeFate.keys()
    said = {ends.home_words(pb.ForgetResponse(home=fate)) for fate in fates}  # pyright: ignore[reportArgumentType]
    assert len(said) == len(fates)
