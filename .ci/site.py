"""Makes a site of the repository's own texts: what mkdocs.yml calls while it builds. No text is written twice for it.

README.md is the first page, and CHANGELOG.md and bench/*.md are pages too. A link to a file of the repository that is no document
leads to a page with its text, so that the reading order of the README can be followed in the browser.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"README.md": "index.md"}  # repository: site, where it is not the same below docs
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)((?:#[^)\s]*)?)(?=\))")
LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".toml": "toml", ".service": "ini", ".json": "json", ".sh": "sh"}


def documents() -> list[str]:
    """Return the documents that are not in docs/."""
    return ["README.md", "CHANGELOG.md", *(f"bench/{path.name}" for path in sorted((ROOT / "bench").glob("*.md")))]


def repository_path(page: str) -> str:
    """Return where a page of the site is in the repository."""
    found = {PLACES.get(path, path): path for path in documents()}
    return found.get(page, f"docs/{page}")


def site_path(path: str) -> str:
    """Return where a file of the repository is on the site."""
    if path in documents():
        return PLACES.get(path, path)
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}.md" if (ROOT / path).is_file() else f"source/{path}/index.md"


def linked(text: str, page: str) -> set[str]:
    """Return the files and directories of the repository that a document links to."""
    here = posixpath.dirname(page)
    found = {posixpath.normpath(posixpath.join(here, link)) for link, _ in LINK.findall(text)}
    return {path for path in found if (ROOT / path).exists()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages that mkdocs.yml does not name at the end of their section, so that a new one is never lost."""
    named = set(re.findall(r"[\w/.-]+\.md", str(config.nav)))
    for section in config.nav or []:
        if "Guides" in section:
            section["Guides"] += sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in named)
        if "Reference" in section:
            section["Reference"] += [path for path in documents() if PLACES.get(path, path) not in named]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents that are elsewhere, and a page for each source that is linked to."""
    texts = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    for path in documents():
        texts[path] = (ROOT / path).read_text()
        files.append(File.generated(config, site_path(path), content=texts[path]))
    sources = set().union(*(linked(text, page) for page, text in texts.items()))
    for path in sorted(sources):
        place = site_path(path)
        if not place.startswith("source/"):
            continue
        content = _listing(path, sources) if (ROOT / path).is_dir() else _source(path)
        files.append(File.generated(config, place, content=content, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def _source(path: str) -> str:
    language = LANGUAGES.get(os.path.splitext(path)[1], "text")
    text = (ROOT / path).read_text()
    return f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n````` {{.{language} linenums=1}}\n{text}\n`````\n"


def _listing(path: str, sources: set[str]) -> str:
    names = sorted(file.name for file in (ROOT / path).iterdir() if file.suffix in LANGUAGES)
    rows = [f"- [{name}]({name}.md)" if posixpath.join(path, name) in sources else f"- {name}" for name in names]
    return f"---\nsearch: {{exclude: true}}\n---\n# {path}/\n\n" + "\n".join(rows) + "\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links that mean the repository mean the site."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    here, folder = posixpath.dirname(repository_path(page.file.src_uri)), posixpath.dirname(page.file.src_uri) or "."

    def moved(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, found[1]))
        return posixpath.relpath(site_path(target), folder) + found[2] if (ROOT / target).exists() else found[0]

    return LINK.sub(moved, markdown)
