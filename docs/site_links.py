"""Links of the site that leave docs/: the hook of mkdocs.yml.

On GitHub a page of docs/ may link to any file of the repository. The site has a page for each such
file below `repository/`: Markdown as it is, code as one block.
"""

import posixpath
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
DOCS, COPIES = PurePosixPath("docs"), PurePosixPath("repository")
UNSEARCHED = "---\nsearch: {exclude: true}\n---\n"
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
CODE = re.compile(r"(^ *```.*?^ *```|`[^`\n]*`)", re.S | re.M)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file of the repository that a page links to, directly or not."""
    waiting = [file.src_uri for file in files.documentation_pages()]
    while waiting:
        uri = waiting.pop()
        file = files.get_file_from_path(uri)
        assert file is not None
        for path in links(file.content_string, origin(uri)):
            if path.is_relative_to(DOCS) or files.get_file_from_path(page_of(path)):
                continue
            text = (ROOT / path).read_text()
            if path.suffix != ".md":
                text = f"{UNSEARCHED}# {path}\n\n```{path.suffix[1:]}\n{text}\n```\n"
            files.append(File.generated(config, page_of(path), content=text))
            waiting += [page_of(path)] if path.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page to the pages of the site."""
    source = origin(page.file.src_uri)
    here = PurePosixPath(page.file.src_uri).parent

    def relink(match: re.Match[str]) -> str:
        path = target(source, match[2])
        if path is None:
            return match[0]
        uri = str(path.relative_to(DOCS)) if path.is_relative_to(DOCS) else page_of(path)
        return f"{match[1]}{posixpath.relpath(uri, here)}{match[3]}"

    parts = CODE.split(markdown)
    parts[::2] = [LINK.sub(relink, part) for part in parts[::2]]
    return "".join(parts)


def links(markdown: str, source: PurePosixPath) -> list[PurePosixPath]:
    """List the files of the repository that a page at `source` links to."""
    paths = (target(source, match[2]) for match in LINK.finditer(CODE.sub("", markdown)))
    return [path for path in paths if path is not None]


def target(source: PurePosixPath, link: str) -> PurePosixPath | None:
    """Return the file of the repository that a link of the page `source` names; None if it names
    none: another site, or nothing.
    """
    path = PurePosixPath(posixpath.normpath(source.parent / link))
    return path if "://" not in link and (ROOT / path).is_file() else None


def origin(uri: str) -> PurePosixPath:
    """Return the file of the repository from which a page of the site comes."""
    path = PurePosixPath(uri)
    return path.relative_to(COPIES) if path.is_relative_to(COPIES) else DOCS / path


def page_of(path: PurePosixPath) -> str:
    """Return the page of the site that shows a file from outside docs/."""
    return str(COPIES / (path if path.suffix == ".md" else f"{path}.md"))
