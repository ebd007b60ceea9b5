"""Flags with their range beside them: fields of a dataclass that know which values they may have."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from lib.errors import UserError


def at_least(low: float, default: Any, **bounds: float) -> Any:
    """A field whose values are >= low; further bounds: at_most, below."""
    return dataclasses.field(default=default, metadata={"at_least": low, **bounds})


def above(low: float, default: Any, **bounds: float) -> Any:
    """A field whose values are > low; further bounds: at_most, below."""
    return dataclasses.field(default=default, metadata={"above": low, **bounds})


def refuse_out_of_bounds(cfg: Any) -> None:
    """Raises UserError where a field of the dataclass is out of its range, or no finite number."""
    for f in dataclasses.fields(cfg):
        value, flag, bounds = getattr(cfg, f.name), f"--{f.name.replace('_', '-')} {getattr(cfg, f.name)}", f.metadata
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{flag} is no finite number")
        if "at_least" in bounds and value < bounds["at_least"]:
            raise UserError(f"{flag} is below {bounds['at_least']}")
        if "above" in bounds and not value > bounds["above"]:
            raise UserError(f"{flag} must be above {bounds['above']}")
        if "at_most" in bounds and value > bounds["at_most"]:
            raise UserError(f"{flag} is above {bounds['at_most']}")
        if "below" in bounds and not value < bounds["below"]:
            raise UserError(f"{flag} must be below {bounds['below']}")
