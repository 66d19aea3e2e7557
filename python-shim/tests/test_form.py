"""The start form: what is shown is escaped, what comes back is what was chosen."""

from __future__ import annotations

import pytest

from adrastea import form
from adrastea._proto import launcher_pb2 as pb

GIB = 1 << 30
STANDARD = pb.Offer(
    profile="standard",
    display_name="Standard",
    description="1 GiB",
    runtimes=["runc"],
    images=["singleuser"],
    memory_default_bytes=GIB,
    memory_ceiling_bytes=2 * GIB,
    cpu_default_millis=1000,
    cpu_ceiling_millis=1000,
)
HOSTILE = pb.Offer(
    profile='"><x', display_name="<script>1</script>", description="a & b", runtimes=["a'\"", "b"]
)


def test_everything_is_escaped() -> None:
    page = form.render([HOSTILE], intro="<b>", notice="<i>")
    for raw in ("<script", "<x", "<b>", "<i>", "a'", "a & b"):
        assert raw not in page
    assert "&lt;script&gt;1&lt;/script&gt;" in page


def test_only_real_choices_are_asked() -> None:
    page = form.render([STANDARD])
    assert 'name="memory:standard"' in page
    for field in ("cpu", "runtime", "image"):
        assert f'name="{field}:standard"' not in page
    assert page.count(" checked") == 1


def test_the_last_choice_is_preselected() -> None:
    other = pb.Offer(profile="other", runtimes=["x", "y"])
    page = form.render([STANDARD, other], chosen={"profile": "other", "runtime": "y"})
    assert 'value="other" required checked' in page
    assert '<option value="y" selected>' in page
    assert 'value="standard" required checked' in form.render([other, STANDARD], default_profile="standard")


def test_what_a_runtime_costs_is_beside_it() -> None:
    hints = {"b": "+0.3 s start, -5 % <CPU>", "elsewhere": "nothing"}
    page = form.render([pb.Offer(profile="p", runtimes=["a", "b"], runtime_hints=hints)])
    assert '<option value="a">a</option>' in page
    assert '<option value="b">b (+0.3 s start, -5 % &lt;CPU&gt;)</option>' in page


def test_what_a_runtime_is_stands_in_words() -> None:
    described = pb.Offer(
        profile="p",
        runtimes=["a", "b"],
        runtime_descriptions={"a": "Fast & shared"},
        runtime_hints={"a": "1 s start"},
    )
    page = form.render([described])
    assert '<option value="a">a: Fast &amp; shared (1 s start)</option>' in page
    assert '<option value="b">b</option>' in page


def test_what_a_runtime_cannot_do_stands_with_its_reason() -> None:
    cannot = pb.RuntimeLimitation(what="no <FUSE>", why="its kernel has none")
    offer = pb.Offer(profile="p", runtimes=["a", "b"])
    offer.runtime_limitations["b"].limitations.append(cannot)
    page = form.render([offer])
    assert "What b cannot do" in page
    assert "What a cannot do" not in page
    assert "<li><small>no &lt;FUSE&gt; (its kernel has none)</small></li>" in page


def test_no_offers_is_said() -> None:
    assert "no profile for you" in form.render([])


@pytest.mark.parametrize(
    ("default", "ceiling", "expected"),
    [
        (1, 1, [1]),
        (1, 2, [1, 2]),
        (1, 8, [1, 2, 4, 8]),
        (3, 10, [3, 6, 10]),
        (0, 5, []),
        (2, 1, [2]),
    ],
)
def test_steps(default: int, ceiling: int, expected: list[int]) -> None:
    assert form.steps(default, ceiling) == expected


def test_the_form_is_read_back() -> None:
    sent = {
        "_xsrf": ["x"],
        "profile": ["standard"],
        "memory:standard": ["2147483648"],
        "memory:other": ["1"],
        "cpu:standard": [""],
    }
    assert form.read_form(sent) == {"profile": "standard", "memory": "2147483648"}
    assert form.read_form({}) == {}


def test_a_link_keeps_its_mistakes() -> None:
    assert form.read_query({"memory": ["2G"]}) == {"memory": "2G"}
    assert form.read_query({"memroy": ["2G"], "profile": ["p"]}) == {"memroy": "2G", "profile": "p"}
