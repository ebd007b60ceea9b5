"""screens.py: the pictures of the page are made by a command, small, and of what they say."""

import pytest
from PIL import Image

from lib.files import REPO
from tools.browser import missing
from tools.screens import page_screens, small_png

NAMES = {"page-report.png", "page-light.png", "page-dark.png", "page-beside.png"}


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_the_page_is_pictured_in_light_in_dark_and_side_by_side(tmp_path):
    page_screens(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == NAMES
    grey = {name: Image.open(tmp_path / name).convert("L").resize((1, 1)).getpixel((0, 0)) for name in NAMES}
    assert grey["page-dark.png"] < 80 < 180 < min(grey["page-light.png"], grey["page-beside.png"])


def test_committed_screens_are_small():
    sizes = {path.name: path.stat().st_size for path in (REPO / "docs/screens").iterdir()}
    assert sizes.keys() >= NAMES and max(sizes.values()) < 200_000, sizes


def test_a_picture_shrinks_to_a_palette(tmp_path):
    Image.effect_noise((200, 200), 50).convert("RGB").save(tmp_path / "a.png")
    before = (tmp_path / "a.png").stat().st_size
    small_png(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < before and Image.open(tmp_path / "a.png").mode == "P"
