"""Carry the missing pieces of all wanted objects into their files, several at a time, each one verified.

Threads, not coroutines: the client releases the interpreter while it waits, blake3 while it hashes and the kernel while
it copies, so each thread takes one piece from the first byte to the last: receive a part, write it where it belongs,
hash it, next part. In flight are a few parts a thread, never whole objects, which is what bounds the memory.

A piece whose digest is wrong is fetched again, at most `MAX_BROKEN` times in all: a wire that flips bits gets another
chance, a store that holds other bytes does not get for ever. An object that is only held by one digest over all of it
starts again from its first byte.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from lanemark.records.errors import StageError
from lanemark.stage.journal import Journal
from lanemark.stage.landing import BrokenError, Landing
from lanemark.stage.objects import Found, StagedObject
from lanemark.stage.store import PassingError, Store, extra_missing

#: Pieces in flight: as facts have it, eight fill a fast link, and more only cost memory.
WORKERS: Final = 8
#: Objects whose pieces are in flight at the same time.
ABREAST: Final = 4
#: Small objects cost a round trip each and no bandwidth.
WORKERS_SMALL: Final = 48
#: Objects are small when their mean is below this.
SMALL_BYTES: Final = 1024 * 1024
#: Deliveries of one piece, or of one object with a single digest, before its bytes count as corrupt.
MAX_BROKEN: Final = 3
#: Threads to begin with. As long as the processors are idle the threads wait for the source, and more are started:
#: against a near source more of them only take turns. Measured over loopback on two cores: of large objects 4 carry 5 %
#: more than 8, and of small ones 1 carries 40 % more than 8, which wake one another for the interpreter all the time.
_FIRST: Final = 4
_FIRST_SMALL: Final = 1
_MORE: Final = 8
#: Processors that small objects can keep busy: nearly all that is done to them holds the interpreter.
_CORES_SMALL: Final = 1
_LOOK_S: Final = 0.1
#: How long to wait for threads after staging is over. One that sits in a silent read writes nothing when it wakes.
_GRACE_S: Final = 2.0

#: Called with bytes in place so far, and objects done so far.
Tick = Callable[[int, int], None]


class _StoppedError(Exception):
    """Staging ended elsewhere."""


class Transfer:
    """One pass over the missing pieces.

    Args:
        store: the source.
        landings: the objects; taken from it one by one, as room comes.
        journal: told of every verified piece.
        stopped: set when this or anything else ends staging.
        workers: pieces in flight, at most.
        small: whether the objects are small.

    Attributes:
        fetched: bytes carried from the source, repeats included.
        repeats: pieces that were fetched more than once.
        done: the objects that are whole, by number.
    """

    def __init__(
        self,
        store: Store,
        landings: Iterable[Landing],
        journal: Journal,
        *,
        stopped: threading.Event,
        workers: int,
        small: bool,
    ) -> None:
        try:
            from blake3 import blake3
        except ImportError:
            raise extra_missing("verifying what arrives needs blake3") from None
        self._blake3 = blake3
        self._store, self._journal, self._stopped, self._workers = store, journal, stopped, workers
        self._first = _FIRST_SMALL if small else _FIRST
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._cores = min(cores, _CORES_SMALL) if small else cores
        self._tasks = self._plan(landings)
        self._again: deque[tuple[Landing, int]] = deque()
        self._broken: dict[int, int] = {}
        self._lock = threading.Lock()
        self._turn = threading.Condition(self._lock)
        self._error: BaseException | None = None
        self._in_place = 0
        self._open: dict[int, Landing] = {}
        self._busy = 0
        self.fetched = self.repeats = 0
        self.done: dict[int, StagedObject] = {}

    def run(self, *, ends: float, tick: Tick) -> None:
        """Carry everything. `ends` is the monotonic time by which it has to be over.

        Raises:
            StageError: the first that any thread met, or `stage-unreachable` when the time is over.
        """
        threads: list[threading.Thread] = []
        try:
            self._hire(threads, self._first)
            clock, used = time.monotonic(), time.process_time()
            while any(thread.is_alive() for thread in threads) and self._error is None:
                next((thread for thread in threads if thread.is_alive()), threads[0]).join(_LOOK_S)
                before, clock, used_before, used = clock, time.monotonic(), used, time.process_time()
                if used - used_before < (clock - before) * self._cores / 2:
                    self._hire(threads, _MORE)
                tick(self._in_place, len(self.done))
                if time.monotonic() > ends:
                    raise self._store.unreachable(f"only {self._in_place} bytes arrived before the deadline")
        finally:
            self._end(threads)
        if self._error is not None:
            raise self._error
        tick(self._in_place, len(self.done))

    def _hire(self, threads: list[threading.Thread], count: int) -> None:
        """Start some more threads. A host that allows no more of them is content with those that run."""
        for _ in range(min(count, self._workers - len(threads))):
            thread = threading.Thread(target=self._work, daemon=True, name="stage")
            try:
                thread.start()
            except RuntimeError:
                if not threads:
                    raise
                self._workers = len(threads)
                return
            threads.append(thread)

    def _end(self, threads: list[threading.Thread]) -> None:
        """Stop what still runs. Descriptors that a sleeping thread may hold are left to it: numbers are used again."""
        if any(thread.is_alive() for thread in threads):
            self._stopped.set()
            self._store.hang_up(wake=True)
        until = time.monotonic() + _GRACE_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        if not any(thread.is_alive() for thread in threads):
            self._store.hang_up()
            for landing in self._open.values():
                landing.close()

    # -- tasks -------------------------------------------------------------------------------------------------------

    def _plan(self, landings: Iterable[Landing]) -> Iterator[tuple[Landing, int]]:
        """Pieces of a few objects by turns: writers of one file wait for one another in the kernel."""
        left, abreast = iter(landings), deque[Iterator[tuple[Landing, int]]]()
        while True:
            while len(abreast) < ABREAST and (landing := next(left, None)) is not None:
                abreast.append(self._pieces(landing))
            if not abreast:
                return
            one = abreast.popleft()
            if (task := next(one, None)) is not None:
                abreast.append(one)
                yield task

    def _pieces(self, landing: Landing) -> Iterator[tuple[Landing, int]]:
        missing = [piece for piece in range(landing.num_pieces) if piece not in landing.digests]
        self._open[landing.number] = landing
        if not missing:  # all of it was recovered from an earlier try, but for the last word
            yield landing, -1
        for piece in missing:
            yield landing, piece

    def _next(self) -> tuple[Landing, int] | None:
        """A piece to bring; None when there is nothing left and nobody can bring anything back."""
        with self._turn:
            while not self._stopped.is_set():
                task = self._again.popleft() if self._again else next(self._tasks, None)
                if task is not None:
                    self._busy += 1
                    return task
                if self._busy == 0:
                    return None
                # Somebody is still at the last pieces, and may find that an object has to come again.
                self._turn.wait(_LOOK_S)
        return None

    def _work(self) -> None:
        try:
            while (task := self._next()) is not None:
                try:
                    self._bring(*task)
                finally:
                    with self._turn:
                        self._busy -= 1
                        if self._busy == 0 or self._again:
                            self._turn.notify_all()
        except _StoppedError:
            pass
        except BaseException as error:  # whatever it was, the first of all threads is what is raised
            with self._lock:
                self._error = self._error or error
            self._stopped.set()

    def _bring(self, landing: Landing, piece: int) -> None:
        """One piece: fetch, verify, journal; and the object's own verdict when it was the last."""
        try:
            if piece >= 0:
                digest = self._verified(landing, piece)
                whole = landing.landed(piece, digest)
                self._write_down(landing, piece, digest)
            else:
                whole = landing.landed(0, landing.digests[0])
        except BrokenError as error:
            self._start_again(landing, str(error))
            return
        if whole:
            landing.close()
            with self._lock:
                self.done[landing.number] = landing.staged()
                del self._open[landing.number]

    def _write_down(self, landing: Landing, piece: int, digest: str) -> None:
        try:
            self._journal.piece(landing.number, piece, digest)
        except OSError as error:
            raise unwritable(str(landing.path.parent), error) from error

    def _verified(self, landing: Landing, piece: int) -> str:
        wanted = landing.wanted
        start, stop = landing.span(piece)
        found = Found(wanted.name, wanted.bytes, wanted.etag, wanted.version)
        for _ in range(MAX_BROKEN):
            digest = self._store.persist(lambda: self._fetch(landing, found, start, stop), wanted.name)
            if wanted.pieces is None or wanted.pieces[piece] == digest:
                return digest
            with self._lock:
                self._in_place -= stop - start
                self.repeats += 1
        raise corrupt(found.name, self._store.place.name, f"bytes {start} to {stop} are not the manifest's")

    def _fetch(self, landing: Landing, found: Found, start: int, stop: int) -> str:
        """Receive one piece into its place and return its digest. Raises PassingError when it did not arrive whole."""
        state, at = self._blake3(), start
        fd = self._file(landing)
        try:
            for part in self._store.parts(found, start, stop):
                if self._stopped.is_set():
                    raise _StoppedError
                state.update(part)
                write_at(fd, part, at, landing)
                at += len(part)
                self._count(len(part))
        except PassingError:
            with self._lock:
                self._in_place -= at - start
                self.repeats += 1
            raise
        return state.hexdigest()

    def _file(self, landing: Landing) -> int:
        try:
            return landing.file()
        except OSError as error:
            raise unwritable(str(landing.path.parent), error) from error

    def _count(self, count: int) -> None:
        with self._lock:
            self._in_place += count
            self.fetched += count

    def _start_again(self, landing: Landing, why: str) -> None:
        with self._lock:
            times = self._broken[landing.number] = self._broken.get(landing.number, 1) + 1
            if times > MAX_BROKEN:
                raise corrupt(landing.wanted.name, self._store.place.name, why)
            self._in_place -= landing.wanted.bytes
            self.repeats += landing.num_pieces
            landing.reset()
            self._again.extend((landing, piece) for piece in range(landing.num_pieces))


def write_at(fd: int, part: memoryview, at: int, landing: Landing) -> None:
    """Write every byte of `part` at its place. Raises StageError `stage-space-short` or `stage-destination`."""
    try:
        while part:
            count = os.pwrite(fd, part, at)
            part, at = part[count:], at + count
    except OSError as error:
        raise unwritable(str(landing.path.parent), error) from error


def corrupt(name: str, source: str, why: str) -> StageError:
    """The `stage-corrupt` error."""
    return StageError(
        "stage-corrupt",
        f"the object {name[:120]} of {source} is not what its digest names ({why})",
        "put the right object back at the source, or make a new manifest if the object is meant to be so",
    )


def unwritable(directory: str, error: OSError) -> StageError:
    """What a failed write means: `stage-space-short` for a full disk, `stage-destination` for anything else."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StageError(
            "stage-space-short",
            f"the disk of {directory!r} became full while data was being staged",
            "free some space or name a destination on a larger disk; what was there before is as it was",
        )
    return StageError(
        "stage-destination",
        f"the destination {directory!r} cannot be written ({error.strerror or error})",
        "make it writable or name another one",
    )
