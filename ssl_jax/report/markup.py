"""HTML and SVG from strings: every text is escaped where it enters, and tags are always closed."""

import html
from collections.abc import Iterable

VOID = ("img", "meta", "br", "path", "line", "circle", "rect")
Content = "str | Iterable[str]"


class Markup(str):
    """Text that is markup already."""


def tag(name: str, *content: str, **attributes: object) -> Markup:
    """`<name attributes>content</name>`; content that is no `Markup` is escaped.

    A trailing underscore of an attribute falls (`class_`), others become hyphens, and an attribute
    that is None is left out.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{said}/>")
    return Markup(f"<{name}{said}>{join(content)}</{name}>")


def join(content: Iterable[str]) -> Markup:
    """Pieces of content one after another, escaped where they are no markup."""
    return Markup(
        "".join(c if isinstance(c, Markup) else html.escape(c, quote=False) for c in content)
    )


def table(
    head: Iterable[str], rows: Iterable[Iterable[str]], caption: str = "", **attributes: object
) -> Markup:
    """A table in a box of its own that scrolls; the first cell of each row is its heading.

    A cell that is a `<td>` already is taken as it is.
    """
    titles = [tag("th", cell, scope="col") for cell in head]
    lines = []
    for first, *rest in rows:
        cells = [c if c.startswith("<td") and isinstance(c, Markup) else tag("td", c) for c in rest]
        lines.append(tag("tr", tag("th", first, scope="row"), *cells))
    said = [tag("caption", caption)] if caption else []
    inner = tag("table", *said, tag("thead", tag("tr", *titles)), tag("tbody", *lines))
    # A box that scrolls must be reachable by keyboard, and so have a name.
    name = caption or next(iter(attributes.values()), "table")
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=name)
