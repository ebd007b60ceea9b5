"""Pictures of what a researcher sees, for docs/screens: python -m tools.screens [--kinds page] [--out docs/screens]

page    report.html in Chromium: the report, a hack in light and in dark, two completions side by side
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
from loguru import logger
from PIL import Image

from lib.errors import run_main
from lib.files import REPO
from report.page import write_page
from report.runs import load_runs
from tools.browser import Browser
from tools.terminal_screens import terminal_screens

# The study whose report and rollouts are pictured.
STUDY = REPO / "docs/results/organism"
HACK = "arm=vanilla&split=eval&step=100&grade=hack"


@dataclass
class ScreensConfig:
    """Which screens, and where to."""

    kinds: tuple[str, ...] = ()
    """Of KINDS; none: all."""
    out: Path = REPO / "docs/screens"
    """Their folder."""


def page_screens(out: Path) -> None:
    """Four pictures of the study's page."""
    runs = load_runs([STUDY / "runs"])
    with tempfile.TemporaryDirectory() as work, Browser(1200, 940) as browser:
        # The page of the committed report, beside which its figures lie.
        for figure in STUDY.glob("*.png"):
            (Path(work) / figure.name).write_bytes(figure.read_bytes())
        texts = {name: (STUDY / f"{name}.md").read_text(encoding="utf-8") for name in ("report", "appendix")}
        write_page(Path(work), texts, runs)
        url = (Path(work) / "report.html").as_uri()

        def picture(name: str, scheme: str, place: str, *keys: str) -> None:
            browser.prefer(scheme)
            browser.open("about:blank")
            browser.open(f"{url}#{place}")
            browser.wait("return document.documentElement.dataset.ready")
            browser.press(*keys)
            browser.run("const t = document.querySelector('section:not([hidden]) table'); if (t) t.scrollIntoView()")
            browser.screenshot(out / f"page-{name}.png")
            small_png(out / f"page-{name}.png")

        picture("report", "light", "report")
        picture("light", "light", HACK, "j")
        picture("dark", "dark", HACK, "j")

        # The same problem under two arms, whichever is there.
        hack, other = same_problem(browser, url)
        picture("beside", "light", f"at={other}&beside={hack}")


def same_problem(browser: Browser, url: str) -> tuple[str, str]:
    """Links of the page: a strict hack of vanilla's last evaluation, and another arm's completion of that problem."""
    browser.open(f"{url}#{HACK}")
    browser.wait("return document.documentElement.dataset.ready")
    found = """
        const of = (arm) => [...data.rows.run.keys()].filter(
          (i) => field("arm", i) === arm && field("step", i) === "100" && field("split", i) === "eval");
        const [hacks, others] = [of("vanilla").filter((i) => field("grade", i) === "hack"), of(arguments[0])];
        for (const a of hacks)
          for (const b of others) if (field("problem", a) === field("problem", b)) return [linkOf(a), linkOf(b)];
        return [linkOf(hacks[0]), linkOf(others[0])];"""
    return tuple(browser.run(found, "projected-same"))


def small_png(path: Path, colours: int = 256) -> None:
    """The PNG at `path` with a palette, in place."""
    with Image.open(path) as image:
        image.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)


KINDS = {"page": page_screens, "terminal": terminal_screens}


def main() -> None:
    cfg = tyro.cli(ScreensConfig, prog="python -m tools.screens", description=__doc__)
    cfg.out.mkdir(parents=True, exist_ok=True)
    for kind in cfg.kinds or KINDS:
        KINDS[kind](cfg.out)
    sizes = {path.name: f"{path.stat().st_size // 1000} KB" for path in sorted(cfg.out.iterdir())}
    logger.info(f"{cfg.out}: {json.dumps(sizes)}")


if __name__ == "__main__":
    run_main(main)
