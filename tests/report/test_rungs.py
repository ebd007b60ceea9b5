"""The ladder's order: from what must work to what must not."""

import pytest

from arms import ARMS, VARIANTS
from report.rungs import SECTIONS, is_control, rung_order, section


@pytest.mark.parametrize(
    ("label", "heading"),
    [
        ("screen-oracle", "ground truth"),
        ("oracle-live-moment", "a labelled direction, made anew"),
        ("oracle-v+mproject", "a labelled direction, made once"),
        ("oracle-k16-update", "several labelled directions"),
        ("self-v", "the model's own pairs"),
        ("projected+mzero", "authored pairs"),
        ("pairs-k16-update", "authored pairs"),
        ("gated", "other remedies"),
        ("trusted", "other remedies"),
        ("rebound-zscore", "Rebound"),
        ("random-k16-update", "controls"),
        ("shuffled-v-moment", "controls"),
        ("shrunk", "controls"),
        ("no-loophole", "controls"),
        ("of-no-arm", "other remedies"),
    ],
)
def test_a_rung_stands_in_its_section(label, heading):
    assert SECTIONS[section(label)].startswith(heading)


def test_every_arm_has_a_section_and_controls_stand_last():
    labels = sorted([*ARMS, *VARIANTS], key=rung_order)
    controls = [is_control(label) for label in labels]
    assert controls == sorted(controls)


def test_within_a_section_the_plain_arm_comes_first_and_numbers_go_by_size():
    of_self = sorted((label for label in VARIANTS if label.startswith("self")), key=rung_order)
    assert of_self[0] == "self-v" and of_self.index("self-k4-update") < of_self.index("self-k16-update")
    assert min((label for label in [*ARMS, *VARIANTS] if section(label) == 5), key=rung_order) == "projected"
