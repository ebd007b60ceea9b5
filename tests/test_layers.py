"""The house: imports go down and never in a circle.

tests, bench, tools -> scripts -> ladder and staging -> maths and rooms -> lib
"""

import ast
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
DATA = {"arms", "config", "pairs", "problems"}  # what every room may read
ROOMS = {"grading", "sampling", "problems", "organism", "record", "report", "lib"}
BETWEEN = {"ladder", "staging"}
MATHS = {"antipasto", "extract_vhack_grad", "grpo", "project", "rewards", "rollouts"}
FILES = {
    ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [
        *REPO.glob("*.py"),
        *(p for room in (*ROOMS, *BETWEEN, "tools", "bench") for p in REPO.glob(f"{room}/**/*.py")),
    ]
}


def imports(path: Path) -> set[str]:
    """Modules of this repository that a file imports."""
    named = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in named if name in FILES}


ARROWS = {name: imports(path) for name, path in FILES.items()}


def test_no_import_goes_in_a_circle():
    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"circle: {' -> '.join((*above, name))}"
        for other in ARROWS[name]:
            walk(other, (*above, name))

    for name in FILES:
        walk(name, ())


def test_a_room_imports_lib_its_own_files_and_the_data_modules():
    for name, others in ARROWS.items():
        room = name.split(".")[0]
        if room in ROOMS:
            allowed = {"lib", room} | (DATA if room != "lib" else set())
            up = {other for other in others if other.split(".")[0] not in allowed}
            assert not up, f"{name} imports {sorted(up)}"


def test_the_maths_stand_on_rooms_and_what_is_made_of_them_on_the_maths():
    for name, others in ARROWS.items():
        room = name.split(".")[0]
        if room in MATHS | BETWEEN:
            allowed = MATHS | DATA | ROOMS | ({room} & BETWEEN)
            up = {other for other in others if other.split(".")[0] not in allowed}
            assert not up, f"{name} imports {sorted(up)}"


def test_the_loop_is_imported_by_branches_benches_and_tests_alone():
    """branch.py runs the same loop."""
    importers = {name for name, others in ARROWS.items() if "train" in others}
    assert {name for name in importers if not name.startswith("bench.")} <= {"branch"}


def test_files_stay_readable():
    lengths = {str(p.relative_to(REPO)): len(p.read_text().splitlines()) for p in FILES.values()}
    front = {name: n for name, n in lengths.items() if "/" not in name}
    assert len(front) <= 14 and max(front.values()) <= 330 and sum(front.values()) <= 2500, front
    assert not {name: n for name, n in lengths.items() if n > 350}


def test_the_readme_shows_every_file():
    tree = (REPO / "README.md").read_text().split("```\narms.py")[1].split("```")[0]
    shown = set(f"arms.py{tree}".replace(",", " ").split())
    files = {path.name for name, path in FILES.items() if not name.startswith("bench.")} - {"__init__.py"}
    assert not {name for name in files if name not in shown}, "a line each in README.md"
