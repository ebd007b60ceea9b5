"""Commands as a newcomer has them: a script of this repository and its flags as the recipe of the justfile."""

from __future__ import annotations

from collections.abc import Sequence

# Script -> recipe, and the flags that the recipe takes as words in front.
RECIPES = {
    "train.py": ("train", ("preset", "arm", "seed")),
    "extract_vhack_grad.py": ("extract-vhack", ("preset",)),
    "verify_vhack_heldout.py": ("verify-vhack", ("preset",)),
    "plot_pareto.py": ("report", ()),
    "branch.py": ("branch", ()),
    "diagnose_vhack.py": ("diagnose", ()),
}


def as_recipe(script: str, flags: Sequence[str], gpus: int = 1) -> list[str]:
    """`train.py --preset tiny --arm projected --seed 3 --lr 1e-3` -> just train tiny projected 3 --lr 1e-3.

    gpus: processes of a data-parallel run. A script without a recipe stays a command of python.
    """
    if script not in RECIPES:
        return ["python", script, *flags]
    recipe, in_front = RECIPES[script]
    rest = list(flags)
    if script == "extract_vhack_grad.py" and "--svd-only" in rest:
        recipe = "svd-cache"
        rest.remove("--svd-only")
    words = ["just", "train-dp", str(gpus)] if recipe == "train" and gpus > 1 else ["just", recipe]
    for name in in_front:
        value = take(rest, f"--{name}") or ("tiny" if name == "preset" else "")
        if not value:
            break  # the seed can be a word only after the arm
        words.append(value)
    return words + rest


def take(flags: list[str], name: str) -> str:
    """Remove `name` from the flags; its value, the last where it is named twice, "" where it is not."""
    value = ""
    while True:
        at = next((i for i, word in enumerate(flags) if word == name or word.startswith(f"{name}=")), -1)
        if at < 0 or (flags[at] == name and at + 1 == len(flags)):
            return value
        value = flags[at].partition("=")[2] if "=" in flags[at] else flags.pop(at + 1)
        del flags[at]
