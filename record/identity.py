"""What makes a run the run that it is: the fields of config.json in which two runs of one experiment may differ.

A field of config.json that is neither free to change nor about how the run was made makes it another run. No torch, so
that a sweep can ask.
"""

from __future__ import annotations

import dataclasses

from config import Config
from lib.run_fields import PROVENANCE, RESUMABLE

DEFAULTS = dataclasses.asdict(Config(isolation="bwrap"))  # not what the environment says today


def config_of_run(there: dict) -> Config:
    """The configuration in a run's config.json, `there`, as far as this code has its fields."""
    known = {f.name for f in dataclasses.fields(Config)}
    return Config(**{k: v for k, v in there.items() if k in known})


def differing(before: dict, config: dict) -> list[str]:
    """Fields of `config` in which a run with config.json `before` is another one, each with both of its values.

    A field that is younger than the run had the value that it has by default.
    """
    there = DEFAULTS | before
    fields = [k for k in config if k not in RESUMABLE | PROVENANCE and there.get(k) != config[k]]
    return [f"{k} ({there.get(k)!r} there, {config[k]!r} now)" for k in fields]
