"""The log of a ledger on object storage: a chain of commits, each created once, named by what it follows.

    <prefix>/log/commits/<size, 16 digits>        what was appended to a tree of that size: entries, new size and root
    <prefix>/log/checkpoints/<size>-<16 digits>   heads that were signed

A directory's log is appended to under a lock, by replacing its head. Storage has neither lock nor rename; it has
*create only*, and a listing that shows whatever was created before it was asked for. A commit is named by the size of
the tree that it continues, so that a tree has at most one continuation: of many writers who append to the same state
exactly one creates the commit, and the others read it and go on from there. A commit holds its entries, so creating it
is the whole append. A writer that dies before has appended nothing, one that dies after has appended everything, and
nothing is ever half there or written over.

Trees are not stored: they follow from the commits. Each machine derives them into `log-copy/` beside its copies of the
records, as an ordinary log (`lanemark.ledger.log`), which answers what is asked. A commit counts only when its entries
really lead from the root before it to the root that it names. The commits that were read are kept too: one that is gone
from storage or that later is another one is damage, also for who holds no checkpoint. `audit` takes nothing from the
copy, and reads every commit again.

What a log proves, and what it does not prove against its owner, is the same as for a directory.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import random
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lanemark.ledger import checkpoint
from lanemark.ledger.checkpoint import Head, SignedHead
from lanemark.ledger.log import Appending, Inclusion, LostRecord, TransparencyLog, is_entry, missing_log
from lanemark.ledger.merkle import EMPTY_ROOT, Peaks, leaf_hash
from lanemark.ledger.objects import read_file, unwritable
from lanemark.measure.durable import replace_file
from lanemark.records.encoding import decode, digest, encode, safe_text
from lanemark.records.errors import LedgerError

if TYPE_CHECKING:
    from lanemark.ledger.copies import ObjectStore
    from lanemark.ledger.keys import SigningKey

_COMMITS: Final = "log/commits"
_CHECKPOINTS: Final = "log/checkpoints"
_COMMIT_NAME: Final = re.compile(rf"{_COMMITS}/(?P<size>[0-9]{{16}})")
_CHECKPOINT_NAME: Final = re.compile(rf"{_CHECKPOINTS}/(?P<size>[0-9]{{16}})-[0-9a-f]{{16}}")
#: Entries of one commit: 75 bytes each as it stores them, so that one is a quick request and a small document.
MAX_ENTRIES: Final = 4096
MAX_COMMIT_BYTES: Final = 100 * MAX_ENTRIES + 4096
#: Each lost race is another writer's commit; who loses this many in a row is told that storage is busy.
_RACES: Final = 200
_PAUSE_S: Final = 0.05
_AT_ONCE: Final = 8


class Commit(NamedTuple):
    """One append: the entries that follow a tree of `start` entries, and the head that they lead to."""

    start: int
    entries: tuple[str, ...]
    head: Head

    @property
    def name(self) -> str:
        """Its name below the ledger's prefix."""
        return commit_name(self.start)

    @property
    def data(self) -> bytes:
        """Its bytes, the same for the same commit. Their own digest in them tells a byte that flipped on its way."""
        root = base64.b64encode(self.head.root).decode()
        doc = {"entries": list(self.entries), "origin": self.head.origin, "root": root, "size": self.head.size}
        return encode(doc | {"digest": digest(encode(doc))})


def parse_commit(start: int, data: bytes) -> Commit:
    """Read a commit strictly: exactly the bytes that it would be written as. Raises ValueError."""
    doc: Any = decode(data, MAX_COMMIT_BYTES)
    if not isinstance(doc, dict) or set(doc) != {"digest", "entries", "origin", "root", "size"}:
        raise ValueError("it does not have exactly a commit's fields")
    entries = doc["entries"]
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_ENTRIES:
        raise ValueError("it does not hold a commit's entries")
    if not all(isinstance(entry, str) and is_entry(entry) for entry in entries):
        raise ValueError("it holds an entry that is no record's id")
    if type(doc["size"]) is not int or doc["size"] != start + len(entries):
        raise ValueError("its size is not that of the tree before it and of its entries")
    try:
        head = checkpoint.parse_head(f"{doc['origin']}\n{doc['size']}\n{doc['root']}\n")
    except LedgerError as error:
        raise ValueError("it names no head") from error
    commit = Commit(start, tuple(entries), head)
    if commit.data != data:
        raise ValueError("it is written in another way than commits are")
    return commit


class BucketLog:
    """The log of one ledger on object storage. Safe from several processes and hosts.

    Args:
        store: where the ledger lies.
        copy: where its tree is derived; beside the store's copies of records when not given.
    """

    def __init__(self, store: ObjectStore, copy: Path | None = None) -> None:
        self._store = store
        self._bucket = store.bucket
        self._copy = store.root / "log-copy" if copy is None else copy
        self._commits = self._copy / "commits"

    def exists(self) -> bool:
        """Whether anything was ever logged. Raises LedgerError `log-damaged`, or that storage cannot be reached."""
        return self._refreshed() is not None

    def append(self, record_ids: Sequence[str]) -> Appending:
        """As `TransparencyLog.append`. A long append is several commits, each of which stays once it is made.

        Raises:
            LedgerError: `log-damaged`, `ledger-unreachable`, `ledger-denied`, `ledger-unwritable` (of the copy here).
        """
        wanted = list(dict.fromkeys(record_ids))
        assert all(map(is_entry, wanted))
        added: list[str] = []
        mine: set[str] = set()
        lost = 0
        while True:
            copy = self._refreshed()
            known = set(copy.known(wanted)) if copy is not None else set()
            new = [record_id for record_id in wanted if record_id not in known]
            if not new:
                assert copy is not None or not wanted
                head = copy.head() if copy is not None else Head("-", 0, EMPTY_ROOT)
                return Appending(tuple(added), tuple(each for each in wanted if each not in mine), head)
            commit = _following(copy, new[:MAX_ENTRIES])
            # Ours may be the one that stands, although the answer was lost: equal bytes are the same append.
            if (
                self._bucket.create(commit.name, commit.data)
                or self._bucket.read(commit.name, MAX_COMMIT_BYTES) == commit.data
            ):
                added += commit.entries
                mine.update(commit.entries)
                lost = 0
                continue
            lost += 1
            if lost >= _RACES:
                raise LedgerError(
                    "ledger-unreachable",
                    f"the log of {self._bucket.name} took {lost} appends of others and none of this one",
                    "try again when fewer writers are at work; what was added so far stays",
                )
            time.sleep(random.uniform(0, _PAUSE_S))  # noqa: S311 - no secret hangs on it

    def prove(self, record_id: str) -> Inclusion:
        """As `TransparencyLog.prove`, over every commit that storage has now."""
        return self.tree().prove(record_id)

    def consistent_with(self, old: Head) -> tuple[Head, tuple[bytes, ...]]:
        """As `TransparencyLog.consistent_with`, over every commit that storage has now."""
        return self.tree().consistent_with(old)

    def audit(self) -> Head:
        """Read every commit again, derive the whole tree from them alone, and hold what this machine read before to it.

        Raises:
            LedgerError: as `TransparencyLog.audit`, `log-inconsistent` when storage has another log than this machine
                has read before, or that storage cannot be reached.
        """
        here = self.tree().head()
        with tempfile.TemporaryDirectory(prefix="lanemark-log-") as directory:
            fresh = BucketLog(self._store, Path(directory)).tree()
            fresh.consistent_with(here)
            return fresh.audit()

    def lost_records(self) -> Iterator[LostRecord]:
        """As `TransparencyLog.lost_records`; every record is fetched from storage and hashed."""
        places = {entry: number for number, entry in enumerate(self.tree().entries())}
        for fetched in self._store.fetch(places):
            if fetched.data is None:
                slug = "record-corrupt" if fetched.is_damaged else "record-missing"
                yield LostRecord(fetched.record_id, places[fetched.record_id], slug)

    def sign(self, keys: Sequence[SigningKey]) -> bytes:
        """As `TransparencyLog.sign`; the checkpoint is kept as one more object, and none is replaced."""
        copy = self.tree()
        last = self.published()
        if last is not None:
            copy.consistent_with(last.head)
        head = copy.head()
        data = checkpoint.sign_checkpoint(head, keys)
        # The name says which bytes it is for, so that signing the same head with the same keys again changes nothing.
        self._store.create_once(
            f"{_CHECKPOINTS}/{head.size:016d}-{digest(data)[7:23]}", data, checkpoint.MAX_NOTE_BYTES
        )
        return data

    def published(self) -> SignedHead | None:
        """The signed checkpoint of the largest size, or None. Raises LedgerError `checkpoint-invalid`."""
        names = [named.name for named in self._bucket.names(_CHECKPOINTS) if _CHECKPOINT_NAME.fullmatch(named.name)]
        if not names:
            return None
        data = self._bucket.read(max(names), checkpoint.MAX_NOTE_BYTES)
        if data is None:
            raise checkpoint.invalid("it was listed and is gone")
        return checkpoint.parse_checkpoint(data)

    def at_hand(self, ledger_root: Path) -> None:
        """Give a directory that is laid out as a ledger this log, where there is one. It is only to be read there."""
        copy = self._refreshed()
        if copy is not None:
            os.symlink(copy.directory, ledger_root / "log")

    # -- the copy ------------------------------------------------------------------------------------------------------

    def tree(self) -> TransparencyLog:
        """The tree of every commit that storage has now, derived on this machine. To be read only.

        Raises:
            LedgerError: `log-missing`, `log-damaged`, `ledger-unreachable`, `ledger-denied`, `ledger-unwritable`.
        """
        copy = self._refreshed()
        if copy is None:
            raise missing_log(self._bucket.name)
        return copy

    def _refreshed(self) -> TransparencyLog | None:
        """The copy, once it has every commit of the bucket; None where nothing was ever logged."""
        if not self._commits.is_dir() and not self._listed():
            return None  # a ledger without a log costs one request, and nothing on this machine
        with self._alone():
            there, kept = self._listed(), self._kept()
            for start in sorted(kept - there):
                # Asked for by name before anybody is alarmed: not every storage lists what it has just created.
                if self._bucket.read(commit_name(start), MAX_COMMIT_BYTES) is None:
                    raise self._damaged(f"the commit after entry {start}, which this machine has read, is gone")
            try:
                copy = self._restored(kept)
            except _CopyError:
                shutil.rmtree(self._copy / "log", ignore_errors=True)
                shutil.rmtree(self._commits)
                self._commits.mkdir()
                kept, copy = set(), self._restored(set())
            self._catch_up(copy, sorted(there - kept))
            return copy if copy.exists() else None

    def _listed(self) -> set[int]:
        """Where the commits of the bucket start."""
        found = set()
        for named in self._bucket.names(_COMMITS):
            match = _COMMIT_NAME.fullmatch(named.name)
            if match is None:
                raise self._damaged(f"{safe_text(named.name)[:120]!r} lies among its commits and is none")
            found.add(int(match["size"]))
        return found

    def _kept(self) -> set[int]:
        return {int(name) for name in os.listdir(self._commits) if name.isdigit()}

    def _restored(self, kept: set[int]) -> TransparencyLog:
        """The tree of the commits that were kept. Raises _CopyError where they or it are not what was kept."""
        copy = TransparencyLog(self._store.root, directory=self._copy / "log")
        try:
            head = copy.head() if copy.exists() else None
            size = head.size if head is not None else 0
            commits = [self._own(start) for start in sorted(kept) if start >= size]
            if commits:  # a process died after it kept them and before it grew the tree
                head = copy.append([entry for each in commits for entry in each.entries], commits[-1].head.origin).head
            last = self._own(max(kept)).head if kept else None
            sound = head is None or copy.peaks().root() == head.root
        except LedgerError as error:
            if error.slug != "log-damaged":
                raise
            raise _CopyError from error
        except (ValueError, FileNotFoundError) as error:
            raise _CopyError from error
        if head != last or not sound:
            raise _CopyError
        return copy

    def _own(self, start: int) -> Commit:
        return parse_commit(start, read_file(self._commits / f"{start:016d}", MAX_COMMIT_BYTES))

    def _catch_up(self, copy: TransparencyLog, starts: Sequence[int]) -> None:
        """Take in the commits at `starts`. Raises LedgerError `log-damaged` before anything of a false one is kept."""
        if not starts:
            return
        head = copy.head() if copy.exists() else None
        peaks = Peaks() if head is None else copy.peaks()
        commits: list[Commit] = []
        for commit in self._fetched(starts):
            before = commits[-1].head if commits else head
            if commit.start != (before.size if before else 0) or (before and commit.head.origin != before.origin):
                raise self._damaged(f"the commit after entry {commit.start} does not continue the one before it")
            for entry in commit.entries:
                peaks.add(leaf_hash(entry.encode()))
            if peaks.root() != commit.head.root:
                raise self._damaged(f"the commit after entry {commit.start} does not lead to the root that it names")
            commits.append(commit)
        entries = [entry for commit in commits for entry in commit.entries]
        if len(set(entries)) < len(entries) or (head is not None and copy.known(entries)):
            raise self._damaged("one record stands in it twice")
        for commit in commits:  # kept first: what is kept and not yet in the tree is put there next time
            replace_file(self._commits / f"{commit.start:016d}", commit.data)
        copy.append(entries, commits[-1].head.origin)

    def _fetched(self, starts: Sequence[int]) -> Iterator[Commit]:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="lanemark-log") as pool:
            for place in range(0, len(starts), 4 * _AT_ONCE):
                try:
                    yield from pool.map(self._read, starts[place : place + 4 * _AT_ONCE])
                except LedgerError:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise

    def _read(self, start: int) -> Commit:
        problem = "it was listed and is gone"
        for _ in range(2):  # a byte that flipped on its way is not there the second time
            data = self._bucket.read(commit_name(start), MAX_COMMIT_BYTES)
            try:
                if data is not None:
                    return parse_commit(start, data)
            except ValueError as error:
                problem = str(error)
        raise self._damaged(f"the commit after entry {start} cannot be understood: {problem}")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process of this machine at a time touches the copy. What storage has needs no lock."""
        try:
            self._commits.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._copy / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)
        except OSError as error:
            raise unwritable(self._copy, error) from error

    def _damaged(self, what: str) -> LedgerError:
        return LedgerError(
            "log-damaged",
            f"the log of the ledger {self._bucket.name} contradicts itself: {what}",
            "bring it back from the storage's own versions or from a copy, and hold that against a checkpoint "
            "(`lanemark log verify --checkpoint FILE`)",
        )


class _CopyError(Exception):
    """The copy on this machine is not what was kept there: it is derived anew from storage."""


def commit_name(start: int) -> str:
    """The name of the commit that follows a tree of `start` entries, below the ledger's prefix."""
    return f"{_COMMITS}/{start:016d}"


def _following(copy: TransparencyLog | None, entries: Sequence[str]) -> Commit:
    """The commit of these entries after the tree as it stands."""
    if copy is None:
        # The specification wants a name that no other log has. Of several writers who begin it, one creates the commit.
        head, peaks = Head(f"lanemark/{secrets.token_hex(16)}", 0, EMPTY_ROOT), Peaks()
    else:
        head, peaks = copy.head(), copy.peaks()
    for entry in entries:
        peaks.add(leaf_hash(entry.encode()))
    return Commit(head.size, tuple(entries), Head(head.origin, head.size + len(entries), peaks.root()))
