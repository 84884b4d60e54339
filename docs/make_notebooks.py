"""Writer of docs/notebooks/: `python docs/make_notebooks.py`; needs `pip install nbformat`.

Each page of docs/tutorials/ becomes a notebook. The page is the source: blocks marked `bash` and
`python` become cells that run, with `title="FILE"` one that writes the file, and everything else
is text. `tests/tutorials_test.py` runs the same blocks as a script.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent
PAGES = sorted((DOCS / "tutorials").glob("[!R]*.md"))
NOTEBOOKS = DOCS / "notebooks"
BLOCK = re.compile(r'^```(bash|python)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


class Block(NamedTuple):
    """A part of a page: `kind` is "text", "bash", "python" or "file"; `name` is a file's."""

    kind: str
    text: str
    name: str = ""


def blocks(page: str) -> Iterator[Block]:
    """Yield the parts of a page in order."""
    end = 0
    for match in BLOCK.finditer(page):
        yield Block("text", page[end : match.start()].strip())
        language, name, text = match.groups()
        yield Block("file" if name else language, text.rstrip(), name or "")
        end = match.end()
    yield Block("text", page[end:].strip())


def script(page: str) -> str:
    """Return a Python program that does what a reader of the page does."""
    lines = ["import subprocess", "from pathlib import Path", ""]
    for kind, text, name in blocks(page):
        if kind == "python":
            lines.append(text)
        elif kind == "bash":
            lines.append(f"subprocess.run(['bash', '-euc', {text!r}], check=True)")
        elif kind == "file":
            lines.append(f"Path({name!r}).write_text({text + chr(10)!r})")
    return "\n".join(lines) + "\n"


def cells(page: str) -> list[tuple[str, str]]:
    """Return the type ("markdown" or "code") and the source of each cell of a notebook."""
    out = []
    for kind, text, name in blocks(page):
        if kind == "text" and text:
            out.append(("markdown", relinked(text)))
        elif kind == "bash":  # one line per command: its output appears while it runs
            commands = text.splitlines()
            starts = [not before.endswith("\\") for before in ["", *commands[:-1]]]
            marked = (f"!{c}" if s else c for c, s in zip(commands, starts, strict=True))
            out.append(("code", "\n".join(marked)))
        elif kind == "file":
            out.append(("code", f"%%writefile {name}\n{text}"))
        elif kind == "python":
            out.append(("code", text))
    return out


def relinked(text: str) -> str:
    """Point a page's links to other pages, as seen from docs/notebooks/."""
    return re.sub(r"(\]\()(?!\w+:|\.\./|#)", r"\1../tutorials/", text)


def write(page: Path) -> None:
    import nbformat

    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    for i, (kind, source) in enumerate(cells(page.read_text())):
        notebook.cells.append(make[kind](source, id=f"cell-{i}"))
    nbformat.validate(notebook)
    nbformat.write(notebook, NOTEBOOKS / f"{page.stem}.ipynb")


if __name__ == "__main__":
    NOTEBOOKS.mkdir(exist_ok=True)
    for path in PAGES:
        write(path)
