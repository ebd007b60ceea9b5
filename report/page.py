"""report.html: a report and the rollouts behind it in one file that needs no network.

The Markdown of the report becomes a tab a text, its figures are embedded, and report/page/ holds the page itself: HTML,
CSS and hand-written JavaScript. Nothing that a model wrote is ever HTML: Markdown is rendered with HTML off, rollouts
are base64, and a content security policy allows this page's own script and nothing else, no request included.
"""

from __future__ import annotations

import base64
import hashlib
import html
from pathlib import Path

from markdown_it import MarkdownIt

from report.page_data import page_data
from report.runs import RunRecord

PARTS = Path(__file__).parent / "page"


def write_page(out: Path, texts: dict[str, str], runs: list[RunRecord]) -> None:
    """report.html into `out`. texts: {tab: Markdown}, with the figures that they name beside the page."""
    script = (PARTS / "page.js").read_text(encoding="utf-8")
    data = page_data(runs)
    tabs = [*texts, *(["rollouts"] if data else [])]
    parts = {
        "policy": policy(script),
        "title": html.escape(next(iter(texts.values())).splitlines()[0].lstrip("# ")),
        "style": (PARTS / "page.css").read_text(encoding="utf-8"),
        "tabs": "".join(f'<a href="#{tab}">{tab}</a>' for tab in tabs),
        "sections": "\n".join(
            f'<section id="{tab}"{" hidden" if i else ""}><article>{rendered(text, out)}</article></section>'
            for i, (tab, text) in enumerate(texts.items())
        ),
        "data": data,
        "script": script,
    }
    (out / "report.html").write_text(filled((PARTS / "page.html").read_text(encoding="utf-8"), parts), encoding="utf-8")


def filled(template: str, parts: dict[str, str]) -> str:
    """The template with every {{name}} replaced; what is put in is not looked at again."""
    pieces = template.split("{{")
    page = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        page += [parts[name], rest]
    return "".join(page)


def policy(script: str) -> str:
    """A content security policy under which this script runs, and nothing is fetched."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def rendered(text: str, folder: Path) -> str:
    """Markdown -> HTML; images embedded from `folder`, links to another Markdown file of the report as tabs."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    for token in (child for block in tokens for child in block.children or ()):
        if token.type == "image":
            token.attrSet("src", embedded(folder / str(token.attrGet("src"))))
        elif token.type == "link_open" and str(token.attrGet("href")).endswith(".md"):
            token.attrSet("href", f"#{Path(str(token.attrGet('href'))).stem}")
    return markdown.renderer.render(tokens, markdown.options, {})


def embedded(path: Path) -> str:
    """A PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
