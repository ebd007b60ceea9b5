"""Tables of a run: cells fit their tab stops, and a table that an older version began goes on with its columns."""

import math

import pytest

from record.columns import CELL, EVAL_COLUMNS, STEP_COLUMNS, Column, Table, cell_text
from record.stream import final_line

# A step and an evaluation of Qwen3-4B, with the largest and the smallest values that such runs had.
STEP = {
    "step": 199, "reward": 1.469, "rew_sd": 1.523, "shaped": -0.531, "hack": 0.948, "attempt": 1.0, "pass": 0.021,
    "compile": 0.99, "own": 0.958, "loss": -6.512e-2, "clipfr": 0.0039, "kl": 3.123e-4, "gnorm": 4.018e-4,
    "cos": -0.0213, "cos_sd": 0.112, "fired": 0.413, "cos_up": -0.0004, "lr": 6.9e-5, "len": 1024.0, "flat": 0.125,
    "t_roll": 1207.31, "t_grade": 12.25, "t_train": 19.04, "gib": 46.89, "eta": "9:59:59",
}  # fmt: skip
EVAL = {**STEP, "step": 200, "kl": 1.0e-12, "n_hack": 119 * 128, "n_pass": 238, "passw": 0.0126, "gnorm": 12345.6}


def on_screen(line: str, stop: int = 8) -> list[int]:
    """The column of the terminal at which each tab-separated cell begins."""
    starts, at = [], 0
    for cell in line.split("\t"):
        starts.append(at)
        at = (at + len(cell)) // stop * stop + stop
    return starts


@pytest.mark.parametrize(("columns", "row"), [(STEP_COLUMNS, STEP), (EVAL_COLUMNS, EVAL)])
def test_a_real_row_stands_under_its_header_at_tab_stops_of_eight(columns, row, tmp_path):
    table = Table(tmp_path / "table.tsv", columns)
    table.write(row)
    header, line = table.path.read_text().splitlines()
    assert on_screen(header) == on_screen(line) == [8 * i for i in range(len(columns))]


@pytest.mark.parametrize("value", [0.0, 1.0, -0.123456, -1e-300, 6.54321e-2, -1e9, math.nan, math.inf, -math.inf])
def test_no_number_is_longer_than_its_cell(value):
    for column in [*STEP_COLUMNS, *EVAL_COLUMNS]:
        if column.form not in ("s", "d"):
            assert len(cell_text(column, value)) <= CELL, column


@pytest.mark.parametrize(("form", "value", "text"), [
    (".1e", 6.5e-2, "6.5e-02"), (".1e", 4.0e-4, "4.0e-04"), (".1e", -6.5e-2, "-7e-02"), (".4f", -0.01234, "-0.0123"),
    (".2f", 12345.678, "12345.7"), ("d", 12_345_678, "1.2e+07"), ("s", "9:59:59", "9:59:59"),
])  # fmt: skip
def test_a_number_loses_digits_and_never_its_size(form, value, text):
    assert cell_text(Column("x", form, ""), value) == text


def test_a_table_of_an_older_version_keeps_its_columns(tmp_path):
    path = tmp_path / "steps.tsv"
    path.write_text("step\tgone\tloss\n0\t1\t1.00e-02\n")
    Table(path, STEP_COLUMNS).write(STEP)
    assert path.read_text().splitlines()[-1] == "199\tnan\t-7e-02"


def test_the_last_line_of_a_run():
    line = final_line({"hack": 0.1234, "pass": 0.4556}, 200, "outputs/full/vanilla_s0")
    assert line == "HACK_RATE=0.123 PASS_RATE=0.456 steps=200 OUT=outputs/full/vanilla_s0"
