"""`just setup`: another environment that is active is left alone, and the stamp vouches only for what is there."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not (shutil.which("just") and shutil.which("uv")), reason="needs just and uv: `pip install rust-just uv`"
)


def wheel(folder: Path, name: str) -> Path:
    """A wheel with one empty module."""
    path = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as f:
        f.writestr(f"{name}.py", "")
        f.writestr(f"{name}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        f.writestr(f"{name}-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        f.writestr(f"{name}-1.dist-info/RECORD", "")
    return path


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The justfile beside a lock of one package."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(REPO / "justfile", folder)
    for lock in ("requirements.lock", "requirements-gpu.lock"):
        (folder / lock).write_text(f"{wheel(folder, 'locked')}\n")
    return folder


def setup(folder: Path, **env: str) -> None:
    subprocess.run(
        ["just", "setup"], cwd=folder, check=True, timeout=1800, env={**os.environ, "UV_OFFLINE": "1", **env}
    )


def packages(environment: Path) -> list[str]:
    return sorted(path.stem for path in environment.glob("lib/python*/site-packages/*.dist-info"))


def test_an_active_environment_is_left_alone(checkout, tmp_path):
    mine = tmp_path / "mine"
    subprocess.run(["uv", "venv", "--quiet", mine], check=True)
    install = ["uv", "pip", "install", "--quiet", "--offline", "--python", mine / "bin/python", wheel(tmp_path, "mine")]
    subprocess.run(install, check=True)
    setup(checkout, VIRTUAL_ENV=str(mine))
    assert packages(mine) == ["mine-1"] and packages(checkout / ".venv") == ["locked-1"]


def test_an_environment_that_lost_a_package_heals(checkout):
    setup(checkout)
    (lost,) = (checkout / ".venv").glob("lib/python*/site-packages/locked-1.dist-info")
    shutil.rmtree(lost)
    setup(checkout)
    assert packages(checkout / ".venv") == ["locked-1"]


def test_what_was_added_by_hand_stays(checkout, tmp_path):
    setup(checkout)
    python = checkout / ".venv/bin/python"
    install = ["uv", "pip", "install", "--quiet", "--offline", "--python", python, wheel(tmp_path, "extra")]
    subprocess.run(install, check=True)
    setup(checkout)
    assert packages(checkout / ".venv") == ["extra-1", "locked-1"]
