"""Hooks of mkdocs.yml: links out of docs/ work on the site as they do in the repository."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)")
PICTURES = (".png", ".svg", ".webp")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what pages link to outside docs/: pictures as they are, everything else as a page that shows it."""
    outside = {target for page in files.documentation_pages() for target in _outside(page.src_uri, page.content_string)}
    for target in sorted(outside):
        if target.suffix in PICTURES:
            files.append(File.generated(config, _place(target), abs_src_path=str(ROOT / target)))
        else:
            files.append(File.generated(config, _place(target), content=_shown(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links out of docs/ to the pages that `on_files` made; others stay, and mkdocs complains of them."""
    here = page.file.src_uri

    def place(match: re.Match[str]) -> str:
        target = _target(here, match[1])
        return match[1] if target is None else os.path.relpath(_place(target), os.path.dirname(here) or ".")

    return LINK.sub(place, markdown)


def _outside(page: str, markdown: str) -> set[Path]:
    targets = {_target(page, match[1]) for match in LINK.finditer(markdown)}
    return {target for target in targets if target is not None}


def _target(page: str, link: str) -> Path | None:
    """The file or folder of the repository outside docs/ that a link of a page means, from the root."""
    found = Path(os.path.normpath(ROOT / "docs" / os.path.dirname(page) / link))
    if not found.exists() or not found.is_relative_to(ROOT) or found.is_relative_to(ROOT / "docs"):
        return None
    return found.relative_to(ROOT)


def _place(target: Path) -> str:
    return f"repository/{target}" if target.suffix in PICTURES else f"repository/{target}.md"


def _shown(target: Path) -> str:
    source = ROOT / target
    hidden = "---\nsearch:\n  exclude: true\n---\n"
    if source.is_dir():
        names = "\n".join(f"- `{one.name}`" for one in sorted(source.iterdir()) if not one.name.startswith(("_", ".")))
        return f"{hidden}# {target}\n\nA folder of the repository:\n\n{names}\n"
    text = source.read_text("utf-8")
    if source.suffix == ".md":
        return hidden + text
    language = {".py": "python", ".yaml": "yaml", ".json": "json", ".cpp": "cpp", ".c": "c"}.get(source.suffix, "text")
    return f"{hidden}# {target}\n\n~~~~{language}\n{text}\n~~~~\n"
