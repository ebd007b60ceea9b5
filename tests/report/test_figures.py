"""What the figures draw."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from report_helpers import PROJECTED, VANILLA
from synthetic_runs import make_arm, make_run

from report import figures, pareto, trajectories
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


# --- many arms


def test_means_that_lie_on_each_other_are_found_as_one_crowd():
    points = np.array([(0.5, 0.5), (0.1, 0.1), (0.53, 0.5), (0.12, 0.1), (0.55, 0.53), (0.9, 0.9)])
    assert pareto.crowd(points, near=0.05).tolist() == [0, 2, 4]
    assert not len(pareto.crowd(points[:4], near=0.05))  # two are told apart by eye


def test_a_crowd_is_magnified_where_no_point_lies_and_every_mean_of_it_is_apart_there(tmp_path):
    for i, arm in enumerate(("vanilla", "random-v", "reversed", "rebound")):
        make_run(tmp_path, arm, 0, 0.52 + 0.01 * i, 0.30 + 0.004 * i)
    make_run(tmp_path, "projected", 0, 0.02, 0.30)
    used, _ = select(load_runs([tmp_path]))
    axes = Figure(figsize=(5, 5)).subplots()
    pareto.draw_pareto(axes, used, arm_rows(used))
    (inset,) = axes.child_axes
    axes.figure.draw_without_rendering()
    (left, right), (bottom, top) = inset.get_xlim(), inset.get_ylim()
    for i in range(4):
        assert left < 30 + 0.4 * i < right and bottom < 52 + i < top
    assert (top - bottom) / 12 < 1  # neighbours, 1 pp apart, by more than a twelfth of the height
    box = inset.get_position()
    low, high = axes.transAxes.inverted().transform(axes.figure.transFigure.transform([box.min, box.max]))
    for x, y in [(30, 52), (31.2, 55), (30, 2)]:
        place = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
        assert not ((low < place) & (place < high)).all()


def test_no_part_is_magnified_without_a_crowd_or_without_room(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA)
    make_arm(tmp_path, "projected", PROJECTED)
    used, _ = select(load_runs([tmp_path]))
    axes = Figure().subplots()
    pareto.draw_pareto(axes, used, arm_rows(used))
    assert not axes.child_axes
    everywhere = np.stack(np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 9)), axis=-1).reshape(-1, 2)
    assert pareto.free_place(everywhere, 0.4, 0.4) is None


def test_many_arms_have_a_row_each_on_common_axes_with_vanilla_behind(tmp_path):
    arms = ["vanilla", "projected", "rebound", "random-v", "reversed", "shuffled-v", "no-loophole"]
    for i, arm in enumerate(arms):
        make_run(tmp_path, arm, 0, 0.1 * i, 0.5)
    used, _ = select(load_runs([tmp_path]))
    fig = trajectories.small_multiples(used, list(trajectories.PANELS))
    rows = [fig.axes[i : i + 4] for i in range(0, 28, 4)]
    assert [row[0].get_title(loc="left") for row in rows][:2] == ["vanilla", "projected"]
    assert len({row[0].get_ylim() for row in rows}) == 1 and len(rows[0][0].get_lines()) == 2
    behind = rows[3][0].get_lines()[0]
    assert behind.get_color() == "0.8" and behind.get_ydata()[-1] == 0
    assert trajectories.plot_trajectories(used, tmp_path) and (tmp_path / "trajectories.svg").exists()


def test_an_axis_of_rates_spans_ten_points_at_least(tmp_path):
    make_run(tmp_path, "vanilla", 0, 0.5, 0.006)
    used, _ = select(load_runs([tmp_path]))
    axes = Figure().subplots()
    figures.draw_series(axes, used, trajectories.PANELS[2])
    figures.from_zero(axes)
    assert axes.get_ylim() == (0, 10)
