"""The documentation site: it builds without a warning, has every page, and asks no other host for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(https?:)?//|<link\b[^>]*\bhref=["']?(?:https?:)?//"""
)


@pytest.mark.slow
def test_the_site(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs the extra docs")
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(site).as_posix(): path.read_text("utf-8") for path in site.rglob("*.html")}
    for source in (ROOT / "docs").rglob("*.md"):
        assert source.relative_to(ROOT / "docs").with_suffix(".html").as_posix() in pages
    for name, page in pages.items():
        assert not LOADED.search(page), f"{name} loads {LOADED.search(page)} from another host"  # type: ignore[str-bytes-safe]
    # What is generated: docstrings, headers, what lies outside docs/.
    assert 'id="edgedet.Detector.submit"' in pages["reference/edgedet.html"]
    assert "EDGEDET_OK" in pages["reference/c.html"]
    assert 'href="repository/deploy/kubernetes.yaml.html"' in pages["serving.html"]
