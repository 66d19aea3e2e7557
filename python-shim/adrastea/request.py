"""Builds the request of a start from what the hub and the user said.

Pure: no I/O, no clock, no hub. What a user sends is checked for its shape only
(keys, types, numbers); whether it is allowed is the launcher's decision, and
nothing is ever corrected on the way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._proto import launcher_pb2 as pb

OPTIONS = ("profile", "runtime", "image", "memory", "cpu")

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(^|_)KEY$", re.IGNORECASE)
_MEMORY = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE)
_CPU = re.compile(r"\d{1,6}(\.\d{1,6})?")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class BadOptions(ValueError):
    """What the user chose makes no sense; the text is for the user."""


@dataclass(frozen=True)
class Choice:
    """What a user chose; empty or None where the profile decides."""

    profile: str = ""
    runtime: str = ""
    image: str = ""
    memory_bytes: int | None = None
    cpu_millis: int | None = None


def parse_options(options: object) -> Choice:
    """Reads `user_options`, which anybody may fill with anything through the API."""
    if not isinstance(options, Mapping):
        raise BadOptions("the options must be an object with names and values")
    unknown = [str(key) for key in options if key not in OPTIONS]
    if unknown:
        raise BadOptions(f"unknown option {_shown(unknown[0])}; known are {', '.join(OPTIONS)}")
    return Choice(
        profile=_name(options, "profile"),
        runtime=_name(options, "runtime"),
        image=_name(options, "image"),
        memory_bytes=parse_memory(options.get("memory")),
        cpu_millis=parse_cpu(options.get("cpu")),
    )


def _name(options: Mapping[Any, Any], key: str) -> str:
    value = options.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > 255 or not _is_unicode(value):
        raise BadOptions(f"option {key} must be a name, not {_shown(value)}")
    return value


def parse_memory(value: object) -> int | None:
    """Bytes from a number or from text such as "1.5G" or "512 MiB" (units of 1024, as in the hub)."""
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        memory = value
    elif isinstance(value, str) and (match := _MEMORY.fullmatch(value.strip())):
        memory = int(float(match[1]) * _UNITS[(match[2] or "").upper()])
    else:
        raise BadOptions(f"option memory must be a size such as 512M or 2G, not {_shown(value)}")
    if not 0 < memory < 1 << 63:
        raise BadOptions(f"option memory is out of range: {_shown(value)}")
    return memory


def parse_cpu(value: object) -> int | None:
    """Thousandths of a CPU from a number of CPUs such as 0.5 or "2"."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and _CPU.fullmatch(value.strip()):
        cpus = float(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        cpus = float(value) if abs(value) < 1e9 else math.inf
    else:
        raise BadOptions(f"option cpu must be a number of CPUs such as 0.5, not {_shown(value)}")
    if not 0 < cpus < 1e6:
        raise BadOptions(f"option cpu is out of range: {_shown(value)}")
    return round(cpus * 1000)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def split_environment(
    environment: Mapping[str, Any], secret_names: Iterable[str], secrets: Iterable[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Separates what must never be shown: by name, and wherever one of `secrets` appears in a value."""
    names = set(secret_names)
    known = [secret for secret in secrets if secret]
    plain: dict[str, str] = {}
    hidden: dict[str, str] = {}
    for name, value in environment.items():
        if value is None:
            continue
        text = str(value)
        secret = name in names or _SECRET_NAME.search(name) or any(part in text for part in known)
        (hidden if secret else plain)[name] = text
    return plain, hidden


def build_start(
    *,
    request_id: str,
    key: pb.ServerKey,
    choice: Choice,
    arguments: Sequence[str] = (),
    environment: Mapping[str, Any],
    secret_names: Iterable[str] = (),
    api_token: str = "",
    disable_user_config: bool = False,
) -> pb.StartRequest:
    plain, hidden = split_environment(environment, secret_names, [api_token])
    prefix = plain.get("JUPYTERHUB_SERVICE_PREFIX", "/")
    return pb.StartRequest(
        request_id=request_id,
        key=key,
        profile=choice.profile,
        runtime=choice.runtime,
        image=choice.image,
        limits=pb.Limits(memory_bytes=choice.memory_bytes, cpu_millis=choice.cpu_millis),
        arguments=list(arguments),
        environment=plain,
        secret_environment=hidden,
        # The hub asks the same path before it calls the server up.
        ready_path=f"{prefix.rstrip('/')}/api",
        disable_user_config=disable_user_config,
    )
