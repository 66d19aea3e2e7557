"""Makes the start form from the launcher's offers, and reads it back.

Pure. Everything that comes from elsewhere is escaped. A field of a profile is
named `<field>:<profile>`, so the form needs no script.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ._proto import launcher_pb2 as pb
from .request import OPTIONS

_CARD = (
    '<div class="card mb-3"><div class="card-body">'
    '<label class="form-check-label d-block"><input type="radio" class="form-check-input me-2" '
    'name="profile" value="{value}" required{checked}><strong>{title}</strong></label>'
    '<div class="text-muted ms-4">{description}</div>'
    '<div class="row g-2 ms-3 mt-1">{fields}</div>{limitations}</div></div>'
)
_FIELD = (
    '<div class="col-auto"><label class="form-label mb-0"><small>{label}</small> '
    '<select class="form-select form-select-sm" name="{name}">{choices}</select></label></div>'
)
_LIMITATIONS = (
    '<details class="ms-4 mt-2"><summary><small>What {name} cannot do</small></summary>'
    '<ul class="mb-0">{items}</ul></details>'
)
_LABELS = {"memory": "Memory", "cpu": "CPUs", "runtime": "Runtime", "image": "Image"}


def render(
    offers: Sequence[pb.Offer],
    *,
    intro: str = "",
    notice: str | Markup = "",
    chosen: Mapping[str, Any] | None = None,
    default_profile: str = "",
) -> str:
    """The inside of the hub's form. `chosen` is what the user took the last time."""
    if not offers:
        return alert("There is no profile for you. Please ask the administrator of this hub for one.")
    last = chosen or {}
    names = [offer.profile for offer in offers]
    preferred = [name for name in (last.get("profile"), default_profile) if name in names]
    selected = (preferred or names)[0]
    parts = [alert(notice)] if notice else []
    if intro:
        parts.append(f"<p>{html.escape(intro)}</p>")
    for offer in offers:
        mine = last if offer.profile == last.get("profile") else {}
        parts.append(_card(offer, offer.profile == selected, mine))
    return "".join(parts)


def alert(text: str | Markup) -> str:
    """Text is escaped; markup has been."""
    return str(Markup('<div class="alert alert-warning" role="alert">{}</div>').format(text))


def _card(offer: pb.Offer, checked: bool, last: Mapping[str, Any]) -> str:
    fields = {
        "memory": [
            (size, _bytes(int(size)))
            for size in map(str, steps(offer.memory_default_bytes, offer.memory_ceiling_bytes))
        ],
        "cpu": [
            (_cpus(millis), _cpus(millis))
            for millis in steps(offer.cpu_default_millis, offer.cpu_ceiling_millis)
        ],
        "runtime": [
            (name, _runtime(name, offer.runtime_descriptions, offer.runtime_hints)) for name in offer.runtimes
        ],
        "image": [(name, name) for name in offer.images],
    }
    return _CARD.format(
        value=html.escape(offer.profile),
        checked=" checked" if checked else "",
        title=html.escape(offer.display_name or offer.profile),
        description=html.escape(offer.description),
        fields="".join(
            _select(f"{field}:{offer.profile}", _LABELS[field], choices, str(last.get(field, "")))
            for field, choices in fields.items()
            if len(choices) > 1
        ),
        limitations="".join(
            _limitations(name, offer.runtime_limitations[name].limitations)
            for name in offer.runtimes
            if name in offer.runtime_limitations
        ),
    )


def _limitations(name: str, limitations: Iterable[pb.RuntimeLimitation]) -> str:
    items = "".join(
        f"<li><small>{html.escape(one.what)} ({html.escape(one.why)})</small></li>" for one in limitations
    )
    return _LIMITATIONS.format(name=html.escape(name), items=items)


def _select(name: str, label: str, choices: Iterable[tuple[str, str]], chosen: str) -> str:
    return _FIELD.format(
        label=label,
        name=html.escape(name),
        choices="".join(
            f'<option value="{html.escape(value)}"{" selected" if value == chosen else ""}>'
            f"{html.escape(text)}</option>"
            for value, text in choices
        ),
    )


def steps(default: int, ceiling: int) -> list[int]:
    """What a user may pick: the default, doubled until the ceiling, and the ceiling."""
    if default <= 0:
        return []
    found = [default]
    while found[-1] * 2 < ceiling and len(found) < 12:
        found.append(found[-1] * 2)
    return [*found, ceiling] if ceiling > default else found


def _runtime(name: str, descriptions: Mapping[str, str], hints: Mapping[str, str]) -> str:
    """What it is, and what it costs on this node, as far as either is known."""
    words = f"{name}: {descriptions[name]}" if descriptions.get(name) else name
    return f"{words} ({hints[name]})" if hints.get(name) else words


def _bytes(size: int) -> str:
    return f"{size / (1 << 30):g} GiB" if size >= 1 << 30 else f"{size / (1 << 20):g} MiB"


def _cpus(millis: int) -> str:
    return f"{millis / 1000:g}"


def read_form(form: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The chosen profile's fields; other profiles' fields and the hub's own are no choice."""
    profile = _first(form, "profile")
    found = {"profile": profile}
    for field in OPTIONS[1:]:
        found[field] = _first(form, f"{field}:{profile}") or _first(form, field)
    return {field: value for field, value in found.items() if value}


def read_query(query: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """As the form, but what is unknown stays, to be refused: a link may hold a mistake."""
    unknown = {name: _first(query, name) for name in query if name.split(":")[0] not in OPTIONS}
    return {**unknown, **read_form(query)}


def _first(form: Mapping[str, Sequence[str]], name: str) -> str:
    values = form.get(name)
    return values[0] if values else ""
