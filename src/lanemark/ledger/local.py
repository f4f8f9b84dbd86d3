"""`LocalStore`: the store that is a directory. What it does is in `lanemark.ledger.objects`.

Standard library only: appending happens beside the ranks.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from lanemark.ledger import objects
from lanemark.records.encoding import safe_text
from lanemark.records.errors import LedgerError

if TYPE_CHECKING:
    from lanemark.ledger.store import Log


class LocalStore:
    """A store (see `lanemark.ledger.store.Store`) that is a directory.

    Args:
        root: the directory; made by the first thing that is kept in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def exists(self) -> bool:
        return self.root.is_dir()

    def publish(self, data: bytes) -> Path:
        return objects.publish(self.root, data)

    def publish_evidence(self, name: str, source: Path | bytes) -> None:
        objects.publish_evidence(self.root, name, source)

    def keep_signature(self, record_id: str, keyid: str, envelope: bytes) -> bytes | None:
        from lanemark.ledger.signing import keep

        return keep(self.root, record_id, keyid, envelope)

    def find(self, prefix: str) -> str:
        try:
            return "sha256:" + objects.find(self.root, prefix).stem
        except OSError as error:
            raise unreadable(self.root, error) from error

    def path(self, record_id: str) -> Path:
        return objects.object_path(self.root, record_id)

    def place(self, record_id: str) -> str:
        return os.fspath(self.path(record_id))

    def signature_place(self, record_id: str, keyid: str) -> str:
        from lanemark.ledger.signing import signature_directory

        return os.fspath(signature_directory(self.root, record_id) / f"{keyid}.json")

    def at_hand(self, record_id: str) -> contextlib.AbstractContextManager[Path]:  # noqa: ARG002 - the protocol's
        return contextlib.nullcontext(self.root)

    def log(self) -> Log:
        from lanemark.ledger.log import TransparencyLog

        return TransparencyLog(self.root)


def unreadable(root: Path, error: OSError) -> LedgerError:
    """The `ledger-unreadable` error for what the operating system said."""
    return LedgerError(
        "ledger-unreadable",
        f"the ledger {safe_text(os.fspath(root))!r} cannot be read ({error.strerror or type(error).__name__})",
        "check the permissions of the directory and of the files in it",
    )
