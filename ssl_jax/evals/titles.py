"""Names of the protocols' numbers in tables."""

import re
from collections.abc import Iterable, Mapping

_FIELD = re.compile(r"\{(\w+)\}")


def titles_of(
    names: Iterable[str], declared: Mapping[str, str], families: bool = True
) -> dict[str, str]:
    """Return name -> title of those of `names` that have one, in the order of `declared`.

    Args:
      names: names of numbers, without the prefix "eval/".
      declared: name -> title. With a part in braces it is that of a family of numbers, and its
        title may contain the part: "svm{k}_map" -> "SVM, {k} labels per class". A name belongs to
        the family with most letters outside of the braces. The numbers of a family are in the order
        of their names, 5 before 10.
      families: also return titles by families.
    """
    places = {name: place for place, name in enumerate(declared)}
    patterns = [name for name in declared if families and _FIELD.search(name)]
    patterns.sort(key=lambda pattern: -len(_FIELD.sub("", pattern)))
    titles: dict[str, tuple[int, str]] = {}
    for name in dict.fromkeys(names):
        if name in declared:
            titles[name] = places[name], declared[name]
            continue
        for pattern in patterns:
            if match := _compiled(pattern).fullmatch(name):
                titles[name] = places[pattern], declared[pattern].format(**match.groupdict())
                break
    order = sorted(titles, key=lambda name: (titles[name][0], _natural(name)))
    return {name: titles[name][1] for name in order}


def _compiled(pattern: str) -> re.Pattern[str]:
    texts = _FIELD.split(pattern)  # text, field, text, field, ..., text
    parts = (f"(?P<{x}>.+)" if i % 2 else re.escape(x) for i, x in enumerate(texts))
    return re.compile("".join(parts))


def _natural(name: str) -> list[str | int]:
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]
