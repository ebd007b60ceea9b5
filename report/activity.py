"""Was the projection active? The preregistered flag, its thresholds and what chance gives."""

from __future__ import annotations

import math

from arms import arm_of

# A projection is active above both: mean cosine of gradient and v, fraction of modules with a cosine above 0. A
# direction at random has a mean cosine of 0 and a fraction of 0.5, so that the second alone says nothing.
ACTIVE_COS = 0.2
ACTIVE_FIRED = 0.4
CHANCE_FIRED = 0.5


def activity(cos: float, fired: float) -> str:
    """The preregistered flag: `active` above ACTIVE_COS and ACTIVE_FIRED, else `silent no-op`."""
    if not (math.isfinite(cos) and math.isfinite(fired)):
        return "not logged"
    return "active" if cos > ACTIVE_COS and fired > ACTIVE_FIRED else "silent no-op"


def projects(label: str) -> bool:
    """Whether the arm behind the label projects the gradient."""
    arm = arm_of(label)
    return arm is not None and arm.removes != "none"
