"""The appendix of a report: figures by seed, trajectories, what remains, cosines, runs and commands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from lib.recipes import as_recipe
from report.activity import ACTIVE_COS, ACTIVE_FIRED, CHANCE_FIRED, activity, projects
from report.drawing import figure
from report.figures import SMOOTH
from report.findings import Findings
from report.heldout import heldout_line
from report.modules import BLOCK
from report.numbers import Comparison, compare_arms, last_evaluated
from report.runs import RunRecord
from report.samples import remaining
from report.scope import ARM_FIELDS, LABEL_FIELDS, MACHINE_FIELDS
from report.strata import strata_table
from report.tables import PERCENT, markdown_table, rate_cell
from report.verdicts import MIN_SEEDS, OPPONENT, OTHER_OPPONENT, RULES, SMALL_REDUCTION
from report.words import mean_sem

# Vanilla runs of preset dev took off after 10 to 15 strict hacks (docs/RESEARCH_JOURNAL.md); decides nothing.
FEW_HACKS = 10

CAUTION = (
    f"The preregistration calls a projection active when mean cos > {ACTIVE_COS} and fraction fired > {ACTIVE_FIRED}, "
    f"and a silent no-op otherwise. A direction at random fires in {CHANCE_FIRED} of the modules, so that the second "
    "threshold alone lies below chance. Its cosine is 0 in the mean, and about sqrt(2 / (pi r)) in absolute value in a "
    "module of r singular values; every module weighs alike. On the organism, live cosines of 0.02 to 0.08 already "
    "suppressed hacking: the flag says how strongly the gradient met v, not whether the projection worked."
)

CAPTIONS = {
    "trajectories": "Every evaluation. Thin: one run; thick: mean over seeds, as far as every run of the arm goes; "
    "grey, where every arm has a row: vanilla's mean.",
    "flavours": "Attempts by flavour among the evaluation completions sampled in rollouts.jsonl (with write "
    "access, seeds pooled); black dashes: strict hacks of the same sample.",
    "cosine": f"Before projection (the update: as applied), rolling mean of {SMOOTH} steps; mean over seeds, band: "
    "±1 SEM between seeds. Dotted: the preregistered thresholds, and chance.",
    "modules": f"Cosine of each module's gradient with v before projection, means of {BLOCK} steps, modules by kind "
    "and layer; blank: no gradient. One run an arm.",
    "heldout": "Cosine of the held-out pairs' gradient difference with v_hack, one count a module.",
}


def appendix_md(found: Findings, drawn: set[str], command: str) -> str:
    """Everything that the page leaves out."""
    commands = "\n".join([*training_commands(found.used), command])
    parts = [
        "# Appendix",
        "[report.md](report.md) is the result; what follows is descriptive.",
        f"## The hypotheses by seed\n\n{hypotheses_text(found)}",
        f"## Trajectories\n\n{figure(drawn, 'trajectories', CAPTIONS)}",
        f"## What remains\n\n{details(found.rows, found.samples) if found.used else 'No run counts.'}\n\n"
        f"{figure(drawn, 'flavours', CAPTIONS)}",
        strata_text(found),
        f"## Was the projection active?\n\n{activity_text(found.used, found.rows)}\n\n"
        f"{figure(drawn, 'cosine', CAPTIONS)}",
    ]
    if "modules" in drawn:
        parts.append(figure(drawn, "modules", CAPTIONS))
    if found.heldout:
        lines = "\n".join(f"- {heldout_line(name, table)}" for name, table in found.heldout.items())
        parts.append(f"## Held-out cosine of v_hack\n\n{lines}\n\n{figure(drawn, 'heldout', CAPTIONS)}")
    parts += [f"## Runs\n\n{run_list(found)}", f"## Commands\n\n```\n{commands}\n```"]
    return "\n\n".join(filter(None, parts)) + "\n"


def strata_text(found: Findings) -> str:
    """Rates by source and difficulty, where the runs wrote them."""
    table = strata_table(found.used, [row["arm"] for row in found.rows])
    return f"## By stratum\n\n{table}" if table else ""


# --- the hypotheses by seed ---


def hypotheses_text(found: Findings) -> str:
    """The rule and the figures of every seed, a hypothesis at a time."""
    parts = []
    for v in found.verdicts:
        parts.append(f"### {v.name}\n\nRule: {RULES[v.name]}")
        if v.name == "H4":
            body = [[str(r["seed"]), str(r["step"]), f"{r['hack']:.1f}"] for r in v.figures["rows"]]
            parts += [markdown_table(["seed", "step", "hack %"], body)] if body else []
        elif v.name == "H3":
            parts += [seed_table(c) for c in (v.figures[OPPONENT], v.figures[OTHER_OPPONENT]) if c.n]
        elif v.figures["n"]:
            parts.append(seed_table(Comparison(**v.figures), budgets=True))
    return "\n\n".join(parts)


def seed_table(c: Comparison, budgets: bool = False) -> str:
    """Per-seed figures of one paired comparison, with the drops at matched hack-rate budgets where asked."""
    arm, ref = c.arm, c.reference
    header = ["seed", f"hack % {ref}", f"hack % {arm}", "reduction", f"pass % {ref}", f"pass % {arm}", "drop"]
    keys = ["hack_ref", "hack_arm", "reduction", "pass_ref", "pass_arm", "drop"]
    body = [[str(row["seed"]), *(f"{row[k] + 0.0:.1f}" for k in keys)] for row in c.rows]
    if budgets:
        header += [f"drop at {arm}'s budget", f"drop at {ref}'s budget"]
        for line, row in zip(body, c.rows, strict=True):
            for key, who in (("budget_arm", ref), ("budget_ref", arm)):
                within = "" if row[key + "_within"] else ", never within"
                line.append(f"{row[key] + 0.0:.1f} ({who} at step {row[key + '_step']:g}{within})")
        keys += ["budget_arm", "budget_ref"]
    return markdown_table(header, [*body, ["mean ± SEM", *(mean_sem(getattr(c, k)) for k in keys)]])


# --- what remains, and whether the projection was active ---


def details(rows: list[dict], samples: dict) -> str:
    """The second table: attempts, own, compile, pass with write access, steps to 50%, the flag, what remains."""
    optional = {k: t for k, t in (("own", "Own %"), ("passw", "Pass with access %")) if any(r[k].n for r in rows)}
    optional |= {k: k.removeprefix("evals.") for k in sorted({k for r in rows for k in r if k.startswith("evals.")})}
    header = [
        "Arm",
        "Attempt %",
        *optional.values(),
        "Compile %",
        "Steps to 50% hack",
        "cos of update*",
        "cos, whole run",
        "fired, whole run",
        "Projection",
        "Strict hacks that remain",
    ]
    body = [detail_cells(row, list(optional), remaining(samples.get(row["arm"]))) for row in rows]
    note = (
        "Steps to 50% hack: first evaluation with a strict hack rate of 50% or more, mean over the seeds that got "
        "there. Strict hacks that remain: flavours among the completions sampled at the last evaluation, seeds pooled."
    )
    return f"{markdown_table(header, body)}\n\n{note}"


def detail_cells(row: dict, optional: list[str], left: str) -> list[str]:
    """One arm's line of the second table."""
    half = f"{row['to50'].mean:.0f} ({row['reached50']} of {row['n']})" if row["reached50"] else "-"
    flag = activity(row["cos"].mean, row["fired"].mean) if projects(row["arm"]) else ""
    more = [(rate_cell(row, k) if k in PERCENT else mean_sem(row[k], 3)) if k in row else "-" for k in optional]
    cosines = [mean_sem(row[k], 3) for k in ("cos_up", "cos_all", "fired_all")]
    attempt, compiled = rate_cell(row, "attempt"), rate_cell(row, "compile")
    return [row["arm"], attempt, *more, compiled, half, *cosines, flag, left]


def activity_text(used: list[RunRecord], rows: list[dict]) -> str:
    """The preregistered flag of each arm that projects, and the caution beside it."""
    lines = []
    for row in rows:
        if not projects(row["arm"]):
            continue
        flag = activity(row["cos"].mean, row["fired"].mean)
        cos, fired = mean_sem(row["cos"], 3), mean_sem(row["fired"], 3)
        line = f"- {row['arm']}: **{flag}** (mean cos {cos}, fraction fired {fired})"

        # Where the flag and the effect disagree, and where no effect could show.
        reduction = compare_arms(used, row["arm"], "vanilla").reduction
        runs = [run for run in used if run.arm == row["arm"] and run.hacks_sampled is not None]
        few = [f"{run.hacks_sampled} in seed {run.seed}" for run in runs if run.hacks_sampled < FEW_HACKS]
        if few:
            line += f"; too few strict hacks were sampled in training to test suppression, {', '.join(few)}, so that "
            line += "its difference to vanilla says nothing about the flag"
        elif reduction.n >= MIN_SEEDS:
            large = reduction.mean > max(reduction.sem, SMALL_REDUCTION)
            if flag == "silent no-op" and large:
                line += f"; and yet it hacks {mean_sem(reduction)} pp less than vanilla, so here the flag is wrong "
                line += "about its effect"
            if flag == "active" and not large:
                line += f"; and yet it hacks little less than vanilla (reduction {mean_sem(reduction)} pp)"
        lines.append(line)
    return "\n".join([*(lines or ["No arm in this report projects the gradient."]), "", CAUTION])


# --- runs and commands ---


def run_list(found: Findings) -> str:
    """Every run that was read: whether it counts, its length, and what was odd about it."""
    why = {id(run): f"left out: {reason}" for run, reason in found.left_out}
    body = []
    for run in found.runs:
        sha = str(run.config.get("v_hack_sha256") or "")[:8] or "-"
        cells = [
            run.name,
            run.arm,
            str(run.seed),
            "yes" if run.complete else "no",
            last_evaluated(run.end),
            "-" if run.hacks_sampled is None else str(run.hacks_sampled),
            sha,
            why.get(id(run), "counts" if run.complete else "counts (incomplete)"),
            "; ".join(run.notes),
        ]
        body.append(cells)
    header = ["Run", "Arm", "Seed", "Complete", "Evaluated", "Hacks sampled", "v_hack", "State", "Notes"]
    text = markdown_table(header, body) + "\n\nHacks sampled: strict hacks among the training completions."
    differ = differing_fields(found.used)
    return f"{text}\n\nConfiguration fields that differ among the runs that count: {differ}." if differ else text


def differing_fields(used: list[RunRecord]) -> str:
    """Config fields with several values among the runs, but for those that name the arm, the place or the machine."""
    own = MACHINE_FIELDS | ARM_FIELDS | LABEL_FIELDS
    values: dict[str, dict[str, list[str]]] = {}
    for run in used:
        for key, value in run.config.items():
            if key not in own and isinstance(value, str | int | float | bool | None):
                values.setdefault(key, {}).setdefault(json.dumps(value), []).append(f"{run.arm}_s{run.seed}")
    parts = []
    for key, by_value in sorted(values.items()):
        if len(by_value) > 1:
            each = " / ".join(f"{value} in {', '.join(names)}" for value, names in sorted(by_value.items()))
            parts.append(f"{key} ({each})")
    return "; ".join(parts)


def report_command(given: tuple[str, ...], out: Path | None, include_incomplete: bool) -> str:
    """The command that made the report; paths below the working directory are relative to it."""
    flags = ["--out", shown_path(str(out))] if out else []
    flags += ["--include-incomplete"] if include_incomplete else []
    return shlex.join(as_recipe("plot_pareto.py", [*(shown_path(p) for p in given), *flags]))


def training_commands(used: list[RunRecord]) -> list[str]:
    """The training commands, those that differ by the seed alone as one."""
    seeds: dict[str, list[int]] = {}
    for run in used:
        argv = run.config.get("argv")
        if isinstance(argv, list) and argv:
            script, *flags = Path(str(argv[0])).name, *(shown_path(str(a)) for a in argv[1:])
        else:
            script, *flags = "train.py", "--preset", run.preset, "--arm", run.arm, "--seed", str(run.seed)
        if "--seed" in flags[:-1]:
            flags[flags.index("--seed") + 1] = "$SEED"
        words = as_recipe(script, flags, run.config.get("world") or 1)
        command = " ".join(w if w == "$SEED" else shlex.quote(w) for w in words)
        seeds.setdefault(command, []).append(run.seed)
    return [f"{command}  # seed {' '.join(map(str, of))}" for command, of in seeds.items()]


def shown_path(text: str) -> str:
    """A path for the report, such that the command can be run again: relative where it lies below here, else whole."""
    path = Path(text)
    return path.relative_to(Path.cwd()).as_posix() if path.is_absolute() and path.is_relative_to(Path.cwd()) else text
