"""The request is compared whole: a field nobody thought of shows up here."""

from __future__ import annotations

from typing import Any

import pytest

from adrastea._proto import launcher_pb2 as pb
from adrastea.request import (
    BadOptions,
    Choice,
    build_start,
    parse_cpu,
    parse_memory,
    parse_options,
    split_environment,
)

KEY = pb.ServerKey(hub="jupyterhub", user="ana", server="")


def test_a_plain_start() -> None:
    built = build_start(
        request_id="r1",
        key=KEY,
        choice=Choice(),
        environment={"JUPYTERHUB_SERVICE_PREFIX": "/user/ana/", "JUPYTERHUB_API_TOKEN": "t"},
        api_token="t",
    )
    assert built == pb.StartRequest(
        request_id="r1",
        key=KEY,
        limits=pb.Limits(),
        environment={"JUPYTERHUB_SERVICE_PREFIX": "/user/ana/"},
        secret_environment={"JUPYTERHUB_API_TOKEN": "t"},
        ready_path="/user/ana/api",
    )


def test_a_start_with_everything() -> None:
    built = build_start(
        request_id="r2",
        key=KEY,
        choice=Choice("large", "runc", "singleuser", 2 << 30, 1500),
        arguments=["--debug"],
        environment={"JUPYTERHUB_SERVICE_PREFIX": "/b/user/a%40b/lab/", "LANG": "C", "SITE": "x"},
        secret_names=["SITE"],
    )
    assert built == pb.StartRequest(
        request_id="r2",
        key=KEY,
        profile="large",
        runtime="runc",
        image="singleuser",
        limits=pb.Limits(memory_bytes=2 << 30, cpu_millis=1500),
        arguments=["--debug"],
        environment={"JUPYTERHUB_SERVICE_PREFIX": "/b/user/a%40b/lab/", "LANG": "C"},
        secret_environment={"SITE": "x"},
        ready_path="/b/user/a%40b/lab/api",
    )


def test_the_profile_decides_what_nobody_chose() -> None:
    built = build_start(request_id="r", key=KEY, choice=Choice(), environment={})
    assert not built.limits.HasField("memory_bytes")
    assert not built.limits.HasField("cpu_millis")


def test_secrets_by_name_and_by_value() -> None:
    environment = {
        "JPY_API_TOKEN": "t0ken",
        "AWS_SECRET_ACCESS_KEY": "a",
        "DB_PASSWORD": "b",
        "HEADER": "Bearer t0ken",
        "KEYBOARD": "de",
        "JUPYTERHUB_USER": "ana",
        "NUMBER": 3,
        "NOTHING": None,
    }
    plain, hidden = split_environment(environment, [], ["t0ken", ""])
    assert plain == {"KEYBOARD": "de", "JUPYTERHUB_USER": "ana", "NUMBER": "3"}
    assert set(hidden) == {"JPY_API_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "HEADER"}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (None, None),
        ("", None),
        (1048576, 1048576),
        ("512M", 512 << 20),
        ("1.5g", 3 << 29),
        ("2 GiB", 2 << 30),
        ("1GB", 1 << 30),
        ("100b", 100),
    ],
)
def test_memory(text: object, size: int | None) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    ("text", "millis"), [(None, None), ("", None), (2, 2000), (0.25, 250), ("1.5", 1500)]
)
def test_cpu(text: object, millis: int | None) -> None:
    assert parse_cpu(text) == millis


@pytest.mark.parametrize(
    "options",
    [
        [],
        "profile",
        None,
        {"Profile": "x"},
        {"mounts": ["/etc"]},
        {1: 2},
        {"profile": 1},
        {"profile": ["standard"]},
        {"profile": "\ud800"},
        {"profile": "x" * 256},
        {"image": {"reference": "x"}},
        {"memory": "lots"},
        {"memory": -1},
        {"memory": 0},
        {"memory": True},
        {"memory": 1.5},
        {"memory": "1e9"},
        {"memory": 1 << 63},
        {"memory": "99999999999999T"},
        {"memory": "1G; rm"},
        {"cpu": "many"},
        {"cpu": 0},
        {"cpu": True},
        {"cpu": float("nan")},
        {"cpu": float("inf")},
        {"cpu": 10**400},
        {"cpu": "-1"},
        {"cpu": "nan"},
    ],
)
def test_nonsense_is_refused_in_words(options: Any) -> None:
    with pytest.raises(BadOptions, match="option"):
        parse_options(options)


def test_options_are_read_whole() -> None:
    options = {"profile": "p", "runtime": "r", "image": "i", "memory": "1G", "cpu": "0.5"}
    assert parse_options(options) == Choice("p", "r", "i", 1 << 30, 500)
    assert parse_options({}) == Choice()
