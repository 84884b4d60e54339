"""HTML and SVG from strings; all text is escaped on the way in, and all tags are closed."""

import html
from collections.abc import Iterable

VOID = ("img", "meta", "br", "path", "line", "circle", "rect")
Content = "str | Iterable[str]"


class Markup(str):
    """Text that is already markup."""


def tag(name: str, *content: str, **attributes: object) -> Markup:
    """Return `<name attributes>content</name>`; content that is not `Markup` is escaped.

    A trailing underscore of an attribute is dropped (`class_`), other underscores become hyphens,
    and attributes that are None are left out.
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{pairs}/>")
    return Markup(f"<{name}{pairs}>{join(content)}</{name}>")


def join(content: Iterable[str]) -> Markup:
    """Concatenate pieces of content; pieces that are not `Markup` are escaped."""
    return Markup(
        "".join(c if isinstance(c, Markup) else html.escape(c, quote=False) for c in content)
    )


def table(
    head: Iterable[str], rows: Iterable[Iterable[str]], caption: str = "", **attributes: object
) -> Markup:
    """Return a table in a scrolling box; the first cell of each row is its heading.

    A cell that is already a `<td>` is used as it is.
    """
    titles = [tag("th", cell, scope="col") for cell in head]
    lines = []
    for first, *rest in rows:
        cells = [c if c.startswith("<td") and isinstance(c, Markup) else tag("td", c) for c in rest]
        lines.append(tag("tr", tag("th", first, scope="row"), *cells))
    captions = [tag("caption", caption)] if caption else []
    inner = tag("table", *captions, tag("thead", tag("tr", *titles)), tag("tbody", *lines))
    # A scrolling box must be reachable by keyboard, so it needs a name.
    name = caption or next(iter(attributes.values()), "table")
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=name)
