"""Data sets of the Hugging Face hub at a pinned revision, or local copies in the same format, through `datasets`.

Only tools/fetch_data.py reads them: a run reads the JSONL that fetching wrote, and needs no network. Where the hub does
not answer, the local cache is asked before a sentence says what to do; `datasets` alone would retry for half a minute.
"""

from __future__ import annotations

import http.client
import sys
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from lib.errors import DataError, UserError


@dataclass(frozen=True)
class Hub:
    """A data set of the hub."""

    id: str
    config: str
    revision: str
    """Commit of the data set's repository."""
    columns: tuple[str, ...]
    """What its records must have."""


ADVICE = "run `just data` on a machine with network access and copy data/ here"


def load_records(hub: Hub, source: str = "", cache: str | None = None) -> list[dict]:
    """All records of every split of `hub`, or of `source`: a local JSON file or a folder in the same format.

    cache: folder of `datasets`' files (None: its default). Raises UserError where the hub cannot be reached, DataError
    where the records lack a column.
    """
    if source and not Path(source).exists():
        raise UserError(f"{source} is not there: give a JSON file or folder in the format of {hub.id}")
    snapshot = None if source else offline_snapshot(hub)
    import datasets  # seconds, and only here

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        if snapshot is not None:
            found = datasets.load_dataset(str(snapshot), hub.config, cache_dir=cache)
        elif not source:
            found = datasets.load_dataset(hub.id, hub.config, revision=hub.revision, cache_dir=cache)
        elif Path(source).is_dir():
            found = datasets.load_dataset(source, cache_dir=cache)
        else:
            found = datasets.load_dataset("json", data_files=source, cache_dir=cache)
        records = [record for split in found.values() for record in split]
    except Exception as error:  # `datasets` and what it stands on raise whatever a broken file or network leads them to
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{source or hub.id} could not be loaded ({first}): {ADVICE}") from error
    lacking = [column for column in hub.columns if any(record.get(column) is None for record in records)]
    if lacking or not records:
        what = f"records without {', '.join(lacking)}" if lacking else "no records"
        raise DataError(f"{source or hub.id} has {what}: expected the format of {hub.id}")
    return records


def offline_snapshot(hub: Hub) -> Path | None:
    """The cached files of `hub`, where the hub does not answer; None where it does.

    Raises UserError where they are not cached either.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    address = f"{constants.ENDPOINT}/api/datasets/{hub.id}/revision/{hub.revision}"
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else unreachable(address)
    if not reason:
        return None
    folder = repo_folder_name(repo_id=hub.id, repo_type="dataset")
    snapshot = Path(constants.HF_HUB_CACHE) / folder / "snapshots" / hub.revision
    if not snapshot.exists():
        raise UserError(f"{hub.id} is not cached and {constants.ENDPOINT} cannot be reached ({reason}): {ADVICE}")
    return snapshot


def unreachable(address: str, seconds: float = 5.0) -> str:
    """Why `address` does not answer HTTP with success within `seconds`; "" where it does."""
    reasons = [f"no answer in {seconds:g} s"]

    def ask() -> None:
        try:
            urllib.request.urlopen(address, timeout=seconds).close()
            reasons.append("")
        except (OSError, ValueError, http.client.HTTPException) as error:
            reasons.append(str(getattr(error, "reason", "") or error))

    asking = threading.Thread(target=ask, daemon=True)  # looking a name up has no time limit of its own
    asking.start()
    asking.join(seconds)
    return reasons[-1]
