"""What a user reads when a start fails."""

from __future__ import annotations

import pytest

from adrastea import failure
from adrastea._proto import launcher_pb2 as pb
from adrastea.client import LauncherDenied, LauncherUnavailable


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
    for number in pb.ExitCause.values():
        sandbox = pb.Sandbox(exit=pb.Exit(cause=pb.ExitCause.Name(number), code=3))
        assert failure.exit_words(sandbox).endswith("(exit code 3)")
        if number != pb.EXIT_CAUSE_UNSPECIFIED:
            assert "unknown" not in failure.exit_words(sandbox)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (LauncherUnavailable("connection refused on /run/x"), 503, "The launcher on this machine"),
        (LauncherDenied("4 GiB of memory is not allowed (rule a.b)"), 403, "Denied: 4 GiB of memory is"),
    ],
)
def test_errors_of_the_launcher(error: Exception, status: int, words: str) -> None:
    assert isinstance(error, (LauncherUnavailable, LauncherDenied))
    failed = failure.from_error(error)
    assert failed.status_code == status
    assert failed.jupyterhub_message.startswith(words)
    assert "/run/x" not in failed.jupyterhub_message
