"""`Store` and `RowIndex`: the few things a ledger asks of the place its truth lies in, and of what lists it.

A store holds immutable bytes under the sha256 they hash to, creates and never replaces, and can say what it holds. What
a listing shows, what a prefix means and what is a notice and what a failure is the ledger's business
(`lanemark.ledger.ledger`). Stores are a directory (`lanemark.ledger.local`) and a bucket (`lanemark.ledger.copies`);
indexes are SQLite (`lanemark.ledger.index`) and PostgreSQL (`lanemark.ledger.postgres`).

Shapes for the type checker, which nothing needs at run time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lanemark.ledger.checkpoint import Head, SignedHead
    from lanemark.ledger.index import SyncReport
    from lanemark.ledger.keys import SigningKey
    from lanemark.ledger.log import Appending, Inclusion, LostRecord
    from lanemark.ledger.rows import Filters, IndexRow


class Store(Protocol):
    """Where the truth of one ledger lies.

    Attributes:
        root: the directory on this machine in which its files lie, or copies of them.
    """

    root: Path

    def exists(self) -> bool:
        """Whether there is anything to look at; a ledger that nobody wrote to yet is not there."""

    def publish(self, data: bytes) -> Path:
        """Keep a record's bytes; returns the file on this machine. Once this returns, they are safe.

        Raises:
            LedgerError: the store cannot take it.
            RecordError: `record-too-large`, or `record-corrupt` when other bytes have its name.
        """

    def publish_evidence(self, name: str, source: Path | bytes) -> None:
        """Keep a piece of evidence. Raises as `publish`, or `attempt-unreadable` for a source that cannot be read."""

    def keep_signature(self, record_id: str, keyid: str, envelope: bytes) -> bytes | None:
        """Create a signature's file beside a record; what stands there is never replaced.

        Returns:
            None when it was created now, else the bytes that are there.

        Raises:
            LedgerError: the store cannot take it.
        """

    def find(self, prefix: str) -> str:
        """The one record id that begins with `prefix`. A whole id may be taken at its word.

        Raises:
            RecordError: `record-missing` or `record-ambiguous`.
            LedgerError: the store cannot be looked at.
        """

    def path(self, record_id: str) -> Path:
        """The file of a record on this machine, brought here if it must be. Raises as `find`."""

    def place(self, record_id: str) -> str:
        """Where a record lies, in the store's own terms, for messages."""

    def signature_place(self, record_id: str, keyid: str) -> str:
        """Where a signature of a record lies, in the store's own terms, for messages."""

    def at_hand(self, record_id: str) -> contextlib.AbstractContextManager[Path]:
        """A directory laid out as a ledger that holds what the store really has of this record, to be verified."""

    def log(self) -> Log:
        """The store's log of its records, which may not have been begun."""


class Log(Protocol):
    """An append-only log of records. What its methods promise is written at `lanemark.ledger.log.TransparencyLog`."""

    def exists(self) -> bool: ...
    def append(self, record_ids: Sequence[str]) -> Appending: ...
    def prove(self, record_id: str) -> Inclusion: ...
    def consistent_with(self, old: Head) -> tuple[Head, tuple[bytes, ...]]: ...
    def audit(self) -> Head: ...
    def lost_records(self) -> Iterator[LostRecord]: ...
    def sign(self, keys: Sequence[SigningKey]) -> bytes: ...
    def published(self) -> SignedHead | None: ...


class RowIndex(Protocol):
    """What lists a store: rows that may be lost and made again. Every method raises IndexUnusableError.

    Attributes:
        name: what messages call it.
    """

    name: str

    def add(self, row: IndexRow) -> None:
        """Put one record's row in. Doing so again changes nothing."""

    def query(self, wanted: Filters, *, latest: bool = False) -> tuple[IndexRow, ...]:
        """Rows that are wanted, newest first; with `latest` only the newest of each series."""

    def listed(self, wanted: Filters, *, latest: bool = False) -> tuple[SyncReport, tuple[IndexRow, ...]]:
        """`refresh` and then `query`."""

    def stream(self, wanted: Filters) -> Iterator[IndexRow]:
        """The rows of `query`, a few at a time."""

    def refresh(self) -> SyncReport:
        """Bring in what changed in the store since the index last looked."""

    def sync(self) -> SyncReport:
        """Read and hash everything in the store and make the index say what it says."""
