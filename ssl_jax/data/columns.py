"""Columns of a table that hold images, labels, captions and names."""

from collections.abc import Callable, Iterable, Mapping

import pyarrow as pa

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.plain import from_json

IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png")
LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "cls")
CAPTION_COLUMNS = ("captions", "caption", "text", "txt")
NAME_COLUMNS = ("file_name", "filename", "path")
COLUMNS = ("image", "label", "caption", "name")  # columns that the user can name


def features_of(schema: pa.Schema) -> dict:
    """Return the columns' types in the metadata of Hugging Face's `datasets`, {} without."""
    try:
        info = from_json((schema.metadata or {}).get(b"huggingface", b"{}"))
        return dict(info["info"]["features"])
    except (ValueError, KeyError, TypeError):
        return {}


def image_column(name: str, schema: pa.Schema, features: dict, named: str | None) -> str:
    """Return the column of images.

    Raises:
      UserError: no column holds images, or the named one does not.
    """
    if named is not None and named not in schema.names:
        raise UserError(f"{name}: no column {named!r}; {suggest(named, schema.names)}")
    noted = [k for k, f in features.items() if isinstance(f, dict) and f.get("_type") == "Image"]
    candidates = [named] if named else [c for c in (*IMAGE_COLUMNS, *noted) if c in schema.names]
    if not candidates:
        raise UserError(
            f"{name}: no column {' or '.join(IMAGE_COLUMNS)}; it has {', '.join(schema.names)}; "
            "name one with '#image=COLUMN' after the path"
        )
    column = candidates[0]
    kind = whole = schema.field(column).type
    kind = kind.value_type if is_list(kind) else kind
    if is_struct(kind):
        kinds = [kind.field(f).type for f in ("bytes", "path") if kind.get_field_index(f) >= 0]
        kind = next((k for k in kinds if not pa.types.is_null(k)), kind)
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or is_string(kind)):
        raise UserError(
            f"{name}: column {column} is {whole}; expected the bytes of image files, or paths, "
            "or lists of them"
        )
    return column


class Columns:
    """Lookup of columns by content: the column that the user names, or the first usual one."""

    def __init__(self, name: str, schema: pa.Schema, named: Mapping[str, str]) -> None:
        self._name, self._schema, self._named = name, schema, named

    def find(
        self,
        what: str,
        usual: Iterable[str],
        fits: Callable[[pa.DataType], bool],
        expected: str,
        strict: bool = False,
    ) -> str | None:
        """Return the name of a column, or None.

        Raises:
          UserError: the column that the user names, or with `strict` the first usual one, has the
            wrong type.
        """
        names, named = self._schema.names, self._named.get(what)
        if named == "":
            return None
        if named is not None and named not in names:
            raise UserError(f"{self._name}: no column {named!r}; {suggest(named, names)}")
        there = [c for c in ([named] if named else usual) if c in names]
        there = there[:1] if strict else there
        column = next((c for c in there if fits(self._schema.field(c).type)), None)
        if column is None and there and (named or strict):
            raise UserError(
                f"{self._name}: column {there[0]} is {self._schema.field(there[0]).type}; expected "
                f"{expected}; name another with '#{what}=COLUMN' after the path, or none with "
                f"'#{what}='"
            )
        return column


def is_labels(kind: pa.DataType) -> bool:
    """Tell whether a column holds a label, or a list of labels, per row."""
    return is_label(kind.value_type if is_list(kind) else kind)


def is_label(kind: pa.DataType) -> bool:
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return numeric or pa.types.is_null(kind) or is_string(kind)


def is_list(kind: pa.DataType) -> bool:
    return any(f(kind) for f in (pa.types.is_list, pa.types.is_large_list))


def is_struct(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind))


def is_text(kind: pa.DataType) -> bool:
    return is_string(kind.value_type if is_list(kind) else kind)


def is_string(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
