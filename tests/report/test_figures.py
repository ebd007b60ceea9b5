"""What the figures draw."""

from __future__ import annotations

import math

from matplotlib.figure import Figure
from report_helpers import PROJECTED, VANILLA
from synthetic_runs import make_arm, make_run

from report import figures, pareto
from report.numbers import select
from report.runs import load_runs
from report.tables import arm_rows


def test_a_trajectory_shows_every_run_and_its_mean_ends_with_the_shortest(tmp_path):
    make_run(tmp_path, "vanilla", 0, 0.8, 0.5)
    make_run(tmp_path, "vanilla", 1, 0.2, 0.5, curve=[(0, 0.0, 0.5), (25, 0.3, 0.5)], complete=False)
    used, _ = select(load_runs([tmp_path]), include_incomplete=True)
    axes = Figure().subplots()
    figures.draw_series(axes, used, figures.Panel("evals", "hack", "hack", 100, seeds=True))
    *each, mean = axes.get_lines()
    assert sorted(line.get_xdata()[-1] for line in each) == [25, 200]
    assert list(mean.get_xdata()) == [0, 25] and math.isclose(mean.get_ydata()[-1], 20)


def test_pareto_front():
    points = {"a": (10, 50), "b": (20, 60), "c": (30, 55), "d": (5, 20), "e": (10, 40)}
    assert pareto.pareto_front(points) == ["d", "a", "b"]


def test_pass_is_on_x_hack_on_y_and_rebound_is_annotated(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA)
    make_arm(tmp_path, "projected", PROJECTED)
    make_arm(tmp_path, "rebound", [(0.4, 0.3)] * 3)
    used, _ = select(load_runs([tmp_path]))
    axes = Figure().subplots()
    pareto.draw_pareto(axes, used, arm_rows(used))
    assert "pass" in axes.get_xlabel() and "hack" in axes.get_ylabel()
    names = {text.get_text() for text in axes.texts}
    assert {"rebound", "better"} <= names
    means = {line.get_label(): line.get_xydata()[0].tolist() for line in axes.get_lines()}
    assert means["rebound (n=3)"] == [30, 40]


def test_every_run_stands_at_its_take_off_and_is_hollow_where_there_was_none(tmp_path):
    make_arm(tmp_path, "vanilla", [(0.8, 0.5), (0.0, 0.5)])
    used, _ = select(load_runs([tmp_path]))
    axes = Figure().subplots()
    pareto.draw_takeoffs(axes, {"vanilla": pareto.arm_takeoff(used)})
    points = [(line.get_xdata()[0], line.get_markerfacecolor()) for line in axes.get_lines()]
    assert points == [(2, "#000000"), (200, "white")]
    assert axes.get_yticklabels()[0].get_text() == "vanilla (1 of 2)"
