"""How numbers and hostile text are written into HTML and Markdown."""

import math
import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from lethe.tables import number

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~-])")


def visible(text: str) -> str:
    """Text whose control and direction marks are written out: they may act on no neighbour."""
    shown = _HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)
    return shown.encode("utf-8", "replace").decode()  # halves of surrogate pairs


def finalize_html(value: Any) -> Any:
    """What Jinja applies to every value it writes, before it escapes it."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value)
    return value


def finalize_markdown(value: Any) -> Any:
    """Text that can be neither Markdown nor HTML; what is `Markup` passes."""
    if isinstance(value, Markup):
        return str(value)
    if isinstance(value, str):
        line = " ".join(visible(value).split())
        line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return _MARKDOWN.sub(r"\\\1", line)
    return value


def num(value: float | None, digits: int = 3, *, sign: bool = False) -> Markup:
    """A number that keeps its exact value beside what is shown: `<data value="0.125">0.125</data>`.

    Undefined is a dash.
    """
    if value is None or not math.isfinite(value):
        return Markup('<span class="none">–</span>')
    shown = number(float(value), digits, sign=sign)
    return Markup('<data value="{}">{}</data>').format(f"{value:.8g}", shown)


def count(value: int | None) -> Markup:
    """A whole number, its thousands set apart."""
    if value is None:
        return Markup('<span class="none">–</span>')
    return Markup('<data value="{}">{}</data>').format(value, f"{value:,}".replace(",", " "))


def interval(found: Mapping[str, Any] | None, digits: int = 3) -> Markup:
    """An estimate with its bounds."""
    if found is None:
        return Markup('<span class="none">–</span>')
    low, high = (num(found[edge], digits, sign=True) for edge in ("low", "high"))
    return num(found["estimate"], digits, sign=True) + Markup(
        ' <span class="bounds">[{}, {}]</span>'
    ).format(low, high)


def bounds(found: Mapping[str, Any] | None, digits: int = 3) -> Markup:
    """Bounds alone."""
    if found is None:
        return Markup('<span class="none">–</span>')
    low, high = (num(found[edge], digits, sign=True) for edge in ("low", "high"))
    return Markup('<span class="bounds">[{}, {}]</span>').format(low, high)


def probability(value: float | None) -> Markup:
    """A p- or q-value."""
    if value is not None and value < 0.001:
        return Markup('<data value="{}">&lt;.001</data>').format(f"{value:.8g}")
    return num(value)


def text_interval(found: Mapping[str, Any]) -> Markup:
    """As `interval`, in plain characters."""
    parts = [
        number(float("nan") if found[edge] is None else found[edge], sign=True)
        for edge in ("estimate", "low", "high")
    ]
    return Markup(escape(f"{parts[0]} [{parts[1]}, {parts[2]}]"))


def text_number(value: float | None, digits: int = 3) -> Markup:
    """As `num`, in plain characters."""
    return Markup(escape(number(float("nan") if value is None else value, digits)))


def duration(seconds: float | None) -> Markup:
    """Seconds for people."""
    if seconds is None:
        return Markup('<span class="none">–</span>')
    if seconds < 90:
        shown = f"{seconds:.1f} s"
    elif seconds < 5400:
        shown = f"{seconds / 60:.1f} min"
    else:
        shown = f"{seconds / 3600:.1f} h"
    return Markup('<data value="{}">{}</data>').format(f"{seconds:.6g}", shown)


def size(count: float | None) -> str:
    """Bytes for people."""
    if count is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")
