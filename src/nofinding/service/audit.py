"""The use case `audit`: whether a log is whole, and what it says of a film."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from nofinding.datasets.hospital.pseudonyms import read_key
from nofinding.errors import UserError
from nofinding.service.store.audit_log import Head, followed, verify_audit

__all__ = ["AuditOptions", "audit"]


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """Checks the audit log of the service, or shows its entries."""

    key: Path
    """File with the secret that the log was written with."""
    head: str | None = None
    """Where the log ended when that was noted last, ENTRIES:HASH as `verify` prints it: a log that
    was cut short, or begun anew, shows."""
    about: str | None = None
    """For `show`: only entries that hold this pseudonym."""


def audit(what: Literal["verify", "show"], file: Path, options: AuditOptions) -> Iterator[str]:
    """What is to be printed, line by line. Raises UserError, naming the line, where the log was
    changed."""
    if options.about is not None and what == "verify":
        raise UserError("--about goes with `audit show`")
    key = read_key(options.key)
    head = None if options.head is None else _head(options.head)
    if what == "show":
        for entry in followed(file, key, head):
            if options.about in (None, *entry.values()):
                hidden = {"before", "hash", "time"}
                when = datetime.fromtimestamp(entry["time"], UTC).isoformat(timespec="seconds")
                shown = {"time": when} | {k: v for k, v in entry.items() if k not in hidden}
                yield json.dumps(shown, ensure_ascii=True)
        return
    end = verify_audit(file, key, head)
    yield f"{file}: whole, {end.entries} entries; head {end.entries}:{end.hash}"


def _head(text: str) -> Head:
    match = re.fullmatch(r"(\d{1,15}):([0-9a-f]{64})", text, re.ASCII)
    if match is None:
        raise UserError("--head: write ENTRIES:HASH, as `nofinding audit verify` prints it")
    return Head(entries=int(match[1]), hash=match[2])
