"""Elements of SVG as strings: text is escaped, tags are closed. HTML is written as templates."""

from markupsafe import Markup, escape

VOID = ("img", "meta", "br", "path", "line", "circle", "rect")


def tag(name: str, *content: str, **attributes: object) -> Markup:
    """Return `<name attributes>content</name>`; content that is not `Markup` is escaped.

    A trailing underscore of an attribute is dropped (`class_`), other underscores become hyphens.
    """
    pairs = Markup("").join(
        Markup(' {}="{}"').format(Markup(key.rstrip("_").replace("_", "-")), value)
        for key, value in attributes.items()
    )
    inner = Markup("").join(map(escape, content))
    return Markup(f"<{name}{pairs}/>" if name in VOID else f"<{name}{pairs}>{inner}</{name}>")
