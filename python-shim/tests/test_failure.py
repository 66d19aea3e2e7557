"""What a user reads when a start fails."""

from __future__ import annotations

import pytest
from jupyterhub import spawner as hub_spawner
from jupyterhub.utils import format_exception

from adrastea import failure
from adrastea._proto import launcher_pb2 as pb
from adrastea.client import LauncherDenied, LauncherError, LauncherHangs, LauncherUnavailable


def test_words_hint_and_log_are_escaped() -> None:
    failed = pb.Failed(
        reason=pb.FAILURE_REASON_SERVER_EXITED,
        message="the server ended: <exit 1>",
        hint="look at the log",
        log_tail="\x1b[31mTraceback\x1b[0m\n<script>\x00\n",
    )
    error = failure.from_failed(failed)
    assert error.jupyterhub_message == "The server ended: <exit 1>. Look at the log."
    assert error.jupyterhub_html_message == (
        "The server ended: &lt;exit 1&gt;.<br><em>Look at the log.</em>"
        '<pre style="text-align: left; white-space: pre-wrap">Traceback\n&lt;script&gt;</pre>'
    )
    assert error.reason == "server_exited"
    assert error.status_code == 500


def test_only_the_end_of_a_log_is_shown() -> None:
    page = failure.as_html("x", "", "\n".join(f"line {n}" for n in range(1000)))
    assert "line 999" in page
    assert "line 900" not in page


def test_every_reason_of_the_contract_has_words() -> None:
    for number in pb.FailureReason.values():
        if number != pb.FAILURE_REASON_UNSPECIFIED:
            error = failure.from_failed(pb.Failed(reason=pb.FailureReason.Name(number)))
            assert error.reason != "unknown"
            assert error.jupyterhub_message == "The server failed to start."


def test_a_reason_of_the_future_is_a_failure_like_others() -> None:
    failed = pb.Failed.FromString(b"\x08\x63" + pb.Failed(message="no sun").SerializeToString())
    assert failed.reason == 99
    error = failure.from_failed(failed)
    assert (error.reason, error.status_code, error.users_own) == ("unknown", 500, False)
    assert error.jupyterhub_message == "No sun."


@pytest.mark.parametrize("number", [n for n in pb.FailureReason.values() if n])
def test_the_hub_is_told_whose_business_it_is(number: int) -> None:
    name = pb.FailureReason.Name(number)  # pyright: ignore[reportArgumentType]
    error = failure.from_failed(pb.Failed(reason=name, message="100% <full>"))
    users = {"CAPACITY", "SERVER_EXITED", "TIMEOUT", "CANCELLED"}
    assert error.users_own == (name.removeprefix("FAILURE_REASON_") in users)
    if failure.HUB_KNOWS_REFUSALS:
        refusal = hub_spawner.SpawnException  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(error, refusal) == error.users_own
    assert format_exception(error)[0] == "100% <full>."
    assert "100% &lt;full&gt;" in str(format_exception(error)[1])


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (LauncherUnavailable("connection refused on /run/x"), 503, "The launcher on this machine"),
        (LauncherHangs("it says nothing on /run/x"), 503, "The launcher on this machine"),
        (LauncherDenied("4 GiB of memory is not allowed (rule a.b)"), 403, "Denied: 4 GiB of memory is"),
    ],
)
def test_errors_of_the_launcher(error: LauncherError, status: int, words: str) -> None:
    failed = failure.from_error(error)
    assert failed.status_code == status
    assert failed.jupyterhub_message.startswith(words)
    assert "/run/x" not in failed.jupyterhub_message
