"""These hooks turn links that lead out of docs/ into links to GitHub, where the site's readers find such files."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
_LINK_OUT = re.compile(r"\]\((\.\./[^)#]+)(#[^)]*)?\)")
_log = logging.getLogger("mkdocs.hooks.links")  # with `strict`, a warning of a mkdocs logger fails the build


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Replace links that lead out of docs/ by links to the repository, and warn of those that lead nowhere."""

    def at_github(link: re.Match[str]) -> str:
        target = (DOCS / Path(page.file.src_uri).parent / link[1]).resolve()
        if not target.exists():
            _log.warning("%s links to %s, which does not exist", page.file.src_uri, link[1])
        kind = "tree" if target.is_dir() else "blob"
        return f"]({config.repo_url}/{kind}/main/{target.relative_to(DOCS.parent)}{link[2] or ''})"

    return _LINK_OUT.sub(at_github, markdown)
