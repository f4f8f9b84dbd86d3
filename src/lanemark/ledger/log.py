"""The log: which records this ledger has held, in an order that cannot be changed without showing it.

    <ledger>/log/head          name, size and root of the tree; replacing this file is what appends
    <ledger>/log/tile/…        the tree and its entries (`lanemark.ledger.tiles`); an entry is a record's id as text
    <ledger>/log/checkpoint    the last head that was signed, for whoever serves the directory as it is
    <ledger>/log/lock          held (flock) by the one process that appends

**What it proves, and what it does not.** That a record is included proves that it is one of the entries under this
root. If the ledger's owner is also the only one who holds the log, that proves nothing against the owner: every file
here can be made anew around another history. A *checkpoint* that somebody else keeps changes that. Against a checkpoint
from last week, `consistent_with` shows that every entry of then is still there, in its place and unaltered; a record
that was removed, moved or replaced since cannot be hidden. Nothing is proved about entries younger than the youngest
checkpoint outside, nor about records that were never logged.

**Appending survives `kill -9` at any point.** New tiles are written first, each staged, synced and renamed; none of
their names is one that the committed head refers to. Then `head` is replaced. Before that rename the log is the old
one, after it the new one, and what a dead writer left ahead of the head is written over by the next. An append that was
not acknowledged is repeated: an entry that is there already is not added again.

**Writers on one host** take turns by flock. Two hosts on one share must not append: flock does not reach across every
network file system, and a log has one history. Readers take no lock: they read a head and the tiles it names, and look
again when both moved on meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from lanemark.ledger import checkpoint
from lanemark.ledger.checkpoint import Head, SignedHead
from lanemark.ledger.keys import SigningKey
from lanemark.ledger.merkle import (
    EMPTY_ROOT,
    Peaks,
    complete_root,
    consistency_proof,
    consistent,
    included,
    inclusion_proof,
    leaf_hash,
    root,
)
from lanemark.ledger.objects import hash_file, object_path, read_file, unwritable
from lanemark.ledger.tiles import WIDTH, TileError, TileFile, Tiles, grown, right_edge, stale_partials
from lanemark.measure.durable import sync_directory, write_all
from lanemark.records.encoding import safe_text
from lanemark.records.errors import LanemarkError, LedgerError, RecordError

_T = TypeVar("_T")

_ENTRY: Final = re.compile(r"sha256:[0-9a-f]{64}")
#: Up to this many entries are looked for one by one, by their bytes; more of them in one pass that unpacks every entry.
_FEW: Final = 16


class Appending(NamedTuple):
    """The outcome of an append: ids that are new in the log, ids that were there, and the head that now stands."""

    added: tuple[str, ...]
    present: tuple[str, ...]
    head: Head


class Inclusion(NamedTuple):
    """A record's place in the log. `proof` leads from its leaf to the head's root, lowest hash first."""

    record_id: str
    number: int
    head: Head
    proof: tuple[bytes, ...]


class LostRecord(NamedTuple):
    """A logged record that the ledger no longer holds as logged. `slug` is `record-missing` or `record-corrupt`."""

    record_id: str
    number: int
    slug: str


class TransparencyLog:
    """The log of one ledger. Holds no file open between calls; safe from several processes of one host.

    Args:
        ledger_root: the ledger. Nothing is created before the first append.
        directory: where the log lies, when that is not in the ledger.
    """

    def __init__(self, ledger_root: Path, *, directory: Path | None = None) -> None:
        self.ledger_root = ledger_root
        self.directory = ledger_root / "log" if directory is None else directory

    def exists(self) -> bool:
        """Whether the ledger has a log. Raises LedgerError `log-damaged` (tiles and no head), `ledger-unreadable`."""
        try:
            if _there(self.directory / "head"):
                return True
            if _there(self.directory / "tile"):  # the first head is written before the first tile
                raise self._damaged("its head is missing and its tiles are there")
        except OSError as error:
            raise self._unreadable(error) from error
        return False

    def head(self) -> Head:
        """The present state. Raises LedgerError `log-missing`, `log-damaged` or `ledger-unreadable`."""
        if not self.exists():
            raise missing_log(self._shown())
        try:
            data = read_file(self.directory / "head", checkpoint.MAX_NOTE_BYTES)
            return checkpoint.parse_head(data.decode("utf-8"))
        except OSError as error:
            raise self._unreadable(error) from error
        except (UnicodeDecodeError, LanemarkError):
            raise self._damaged("its head does not have a head's form") from None

    def append(self, record_ids: Sequence[str], origin: str | None = None) -> Appending:
        """Add records that are not in the log yet, in the order given. Once this returns they stay.

        Args:
            record_ids: `sha256:…` each.
            origin: the name of the log, should this be its first entries; a new one when not given.

        Raises:
            LedgerError: `ledger-unwritable`, `ledger-unreadable`, or `log-damaged`: nothing is ever built on a tree
                whose right edge does not lead to its root.
        """
        wanted = list(dict.fromkeys(record_ids))
        assert all(map(is_entry, wanted))
        try:
            with self._alone():
                head = self._head_to_grow(origin)
                tiles = Tiles(self.directory, head.size)
                known = self._known(head, tiles, wanted)
                new = [record_id for record_id in wanted if record_id not in known]
                if new:
                    head = self._grow(head, tiles, new)
        except TileError as error:
            raise self._damaged(str(error)) from None
        except OSError as error:
            raise unwritable(self.ledger_root, error) from error
        return Appending(tuple(new), tuple(known), head)

    def known(self, record_ids: Sequence[str]) -> list[str]:
        """Those of the records that are in the log.

        Raises:
            LedgerError: `log-missing`, `log-damaged`, `ledger-unreadable`.
        """
        return self._at_head(lambda head, tiles: self._known(head, tiles, record_ids))

    def entries(self) -> Iterator[str]:
        """Every entry in its order, read while it is used. Raises as `audit`."""
        try:
            for bundle in Tiles(self.directory, self.head().size).entries():
                yield from (entry.decode("ascii", "replace") for entry in bundle)
        except TileError as error:
            raise self._damaged(str(error)) from None
        except OSError as error:
            raise self._unreadable(error) from error

    def peaks(self) -> Peaks:
        """What a tree needs to know of the present one to grow. Raises as `known`."""
        return self._at_head(lambda head, tiles: Peaks.of(tiles.at, head.size))

    def prove(self, record_id: str) -> Inclusion:
        """Where a record is in the log, with a proof that was checked against the present root.

        Raises:
            RecordError: `log-entry-missing`.
            LedgerError: `log-missing`, `log-damaged`, `ledger-unreadable`.
        """

        def look(head: Head, tiles: Tiles) -> Inclusion:
            entry = record_id.encode()
            index = tiles.find(entry)
            if index is None:
                raise RecordError(
                    "log-entry-missing",
                    f"the record {record_id} is not among the {head.size} entries of the ledger's log",
                    "if it is new, add it with `lanemark log append`; if it was logged before, do not rely on either",
                )
            proof = inclusion_proof(tiles.at, index, head.size)
            if not included(leaf_hash(entry), index, head.size, proof, head.root):
                raise self._damaged(f"entry {index} does not lead to its root")
            return Inclusion(record_id, index, head, proof)

        return self._at_head(look)

    def consistent_with(self, old: Head) -> tuple[Head, tuple[bytes, ...]]:
        """Show that the present log is `old` with nothing but new entries after it: (present head, proof).

        Raises:
            LedgerError: `log-inconsistent` when it is not, `log-missing`, `log-damaged`, `ledger-unreadable`.
        """

        def look(head: Head, tiles: Tiles) -> tuple[Head, tuple[bytes, ...]]:
            if old.origin != head.origin:
                raise _inconsistent(f"the checkpoint is of the log {old.origin!r}, and this one is {head.origin!r}")
            if old.size > head.size:
                raise _inconsistent(f"the log has {head.size} entries and had {old.size} at the checkpoint")
            proof = consistency_proof(tiles.at, old.size, head.size)
            if not consistent(old.size, head.size, old.root, head.root, proof):
                raise _inconsistent(f"the first {old.size} entries of the log are not those of the checkpoint")
            return head, proof

        return self._at_head(look)

    def audit(self) -> Head:
        """Read every entry and every tile and hold all of them against one another and the head's root.

        Raises LedgerError `log-damaged` at the first contradiction, `log-missing`, `ledger-unreadable`.
        """

        def look(head: Head, tiles: Tiles) -> Head:
            for index, bundle in enumerate(tiles.entries()):
                if not all(_ENTRY.fullmatch(entry.decode("ascii", "replace")) for entry in bundle):
                    raise TileError(f"bundle {index} holds an entry that is no record's id")
                if tuple(map(leaf_hash, bundle)) != tiles.hashes(0, index):
                    raise TileError(f"the entries of bundle {index} are not those of tile {index} at level 0")
            level, count = 0, head.size
            while count >= WIDTH:
                for index in range(count // WIDTH):
                    expected = tiles.hashes(level + 1, index // WIDTH)[index % WIDTH]
                    if complete_root(tiles.hashes(level, index)) != expected:
                        raise TileError(f"tile {index} at level {level} is not the one that the level above names")
                level, count = level + 1, count // WIDTH
            if root(tiles.at, head.size) != head.root:
                raise TileError("its tiles do not lead to its root")
            return head

        return self._at_head(look)

    def lost_records(self) -> Iterator[LostRecord]:
        """Every logged record that the ledger does not hold with the bytes of its id, in the order of the log.

        Raises:
            LedgerError: `log-missing`, `log-damaged`, `ledger-unreadable`: a file that cannot be read is neither
                there nor lost.
        """
        head = self.head()
        try:
            for number, bundle in enumerate(Tiles(self.directory, head.size).entries()):
                for place, entry in enumerate(bundle):
                    record_id = entry.decode("ascii", "replace")
                    try:
                        found, _ = hash_file(object_path(self.ledger_root, record_id))
                        slug = "" if f"sha256:{found}" == record_id else "record-corrupt"
                    except FileNotFoundError:
                        slug = "record-missing"
                    if slug:
                        yield LostRecord(record_id, number * WIDTH + place, slug)
        except TileError as error:
            raise self._damaged(str(error)) from None
        except OSError as error:
            raise self._unreadable(error) from error

    def sign(self, keys: Sequence[SigningKey]) -> bytes:
        """Sign the present head, publish it as `log/checkpoint`, and return its bytes.

        A log must never sign two histories (c2sp.org/tlog-checkpoint): a head that does not follow from the checkpoint
        signed last is not signed.

        Raises:
            LedgerError: `log-inconsistent`, `checkpoint-invalid` (of the one that lies there), `log-missing`,
                `log-damaged`, `ledger-unwritable`, `ledger-unreadable`.
        """
        self.head()  # a log that is not there is not made by signing it
        try:
            with self._alone():
                head = self.head()
                self._check_edge(head, Tiles(self.directory, head.size))
                last = self.published()
                if last is not None:
                    self.consistent_with(last.head)
                data = checkpoint.sign_checkpoint(head, keys)
                self._put("checkpoint", data)
        except TileError as error:
            raise self._damaged(str(error)) from None
        except OSError as error:
            raise unwritable(self.ledger_root, error) from error
        return data

    def published(self) -> SignedHead | None:
        """The checkpoint signed last, or None when none was. Raises LedgerError `checkpoint-invalid`, OSError."""
        try:
            data = read_file(self.directory / "checkpoint", checkpoint.MAX_NOTE_BYTES)
        except FileNotFoundError:
            return None
        return checkpoint.parse_checkpoint(data)

    # -- reading ---------------------------------------------------------------------------------------------------

    def _at_head(self, look: Callable[[Head, Tiles], _T]) -> _T:
        """Look at one state of the log. A tile that is gone because the log grew meanwhile is no damage: look again."""
        head = self.head()
        while True:
            try:
                return look(head, Tiles(self.directory, head.size))
            except TileError as error:
                now = self.head()
                if not error.gone or now == head:
                    raise self._damaged(str(error)) from None
                head = now
            except OSError as error:
                raise self._unreadable(error) from error

    def _known(self, head: Head, tiles: Tiles, wanted: Sequence[str]) -> list[str]:
        """Those of `wanted` that the log has, once its right edge was found sound."""
        try:
            self._check_edge(head, tiles)
            if len(wanted) <= _FEW:
                return [record_id for record_id in wanted if tiles.find(record_id.encode()) is not None]
            asked, found = {record_id.encode() for record_id in wanted}, set()
            for bundle in tiles.entries():
                found |= asked.intersection(bundle)
            return [record_id for record_id in wanted if record_id.encode() in found]
        except OSError as error:
            raise self._unreadable(error) from error

    def _check_edge(self, head: Head, tiles: Tiles) -> None:
        """Raise TileError unless the right edge, which is all that growing reads, leads to the root."""
        if root(tiles.at, head.size) != head.root:
            raise TileError("its right edge does not lead to its root")
        last = head.size // WIDTH
        if head.size % WIDTH and tuple(map(leaf_hash, tiles.bundle(last))) != tiles.hashes(0, last):
            raise TileError(f"the entries of bundle {last} are not those of tile {last} at level 0")

    # -- writing, under the lock -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self.directory.is_dir():
            self.directory.mkdir(parents=True, exist_ok=True)
            sync_directory(self.directory.parent)
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _head_to_grow(self, origin: str | None) -> Head:
        if self.exists():
            return self.head()
        # The specification wants a name that no other log has; a ledger has no address to take one from.
        head = Head(origin or f"lanemark/{secrets.token_hex(16)}", 0, EMPTY_ROOT)
        self._put("head", head.text.encode())
        return head

    def _grow(self, head: Head, tiles: Tiles, new: Sequence[str]) -> Head:
        entries = [record_id.encode() for record_id in new]
        for file, data in grown(tiles, entries):
            self._put(file.name, data)
        size = head.size + len(new)
        after = Head(head.origin, size, root(Tiles(self.directory, size).at, size))
        self._put("head", after.text.encode())
        self._prune(head.size, after.size)
        return after

    def _put(self, name: str, data: bytes) -> None:
        """Make the file hold `data`, atomically and durably. One fixed staging name will do: the lock is held."""
        staged, target = self.directory / "staged", self.directory / name
        staged.unlink(missing_ok=True)
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, data)
            os.fchmod(descriptor, 0o444)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        missing = [parent for parent in target.parents if not parent.is_dir()]
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, target)
        for directory in (target.parent, *(parent.parent for parent in missing)):
            sync_directory(directory)

    def _prune(self, old_size: int, size: int) -> None:
        """Remove partial tiles that neither this head nor the published checkpoint needs. Failing to is harmless."""
        with contextlib.suppress(OSError, LedgerError):
            last = self.published()
            needed: frozenset[TileFile] = frozenset((*right_edge(size), *right_edge(last.head.size if last else 0)))
            for file in right_edge(old_size):
                for path in stale_partials(self.directory, file, needed):
                    path.unlink()
                    with contextlib.suppress(OSError):
                        path.parent.rmdir()

    # -- errors ----------------------------------------------------------------------------------------------------

    def _shown(self) -> str:
        return repr(safe_text(os.fspath(self.ledger_root)))

    def _damaged(self, what: str) -> LedgerError:
        return LedgerError(
            "log-damaged",
            f"the log of the ledger {self._shown()} contradicts itself: {what}",
            "bring it back from a copy, and hold that against a checkpoint (`lanemark log verify --checkpoint FILE`)",
        )

    def _unreadable(self, error: OSError) -> LedgerError:
        return LedgerError(
            "ledger-unreadable",
            f"the log of the ledger {self._shown()} cannot be read ({error.strerror or type(error).__name__})",
            "check the permissions of its directory and of the files in it",
        )


def is_entry(text: str) -> bool:
    """Whether this is what a log's entries are: the id of a record."""
    return _ENTRY.fullmatch(text) is not None


def missing_log(ledger: str) -> LedgerError:
    """The `log-missing` error."""
    return LedgerError("log-missing", f"the ledger {ledger} has no log", "start one with `lanemark log append --all`")


def _there(path: Path) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _inconsistent(what: str) -> LedgerError:
    return LedgerError(
        "log-inconsistent",
        what,
        "the log was changed after the checkpoint was made, or it is not its log: find out which before relying on it",
    )
