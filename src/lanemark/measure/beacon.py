"""The phase beacon: one mapped page per rank that says where the rank is, readable from outside at any time.

The rank stores into shared memory and never makes a system call for it, so a store costs a fraction of a microsecond
and outlives the rank: after `kill -9` the page still holds the last phase, step and label. The layout is that of
`docs/ARCHITECTURE.md` ("beacon.page, version 2"); pages of version 1 are still read.

Two stamps say what cannot be told from a phase. *Arrival* is when the rank entered the first collective of its step:
collectives end on all ranks together, so the length of a step is the same on every rank and says nothing of who was
late; only the arrivals differ. *Data ready* is when the step's tokens were in hand: a rank that has begun a step and
has not stamped it is inside its loader.

Writing is a sequence lock. The sequence number is made odd, the fields are stored, the number is made even; a reader
that saw an odd number, or two different ones around its copy, looks again. Each number is one aligned 8-byte store,
through `memoryview.cast` or a native `struct`, which copy whole machine words; `struct.pack_into("<q")` was rejected
because it stores byte by byte. So even a page whose writer died between the two numbers holds whole fields, and
`BeaconView.whole` says that they may not belong together.

Compilations run on other threads (the backward pass is compiled on autograd's), so every write but `at_step` holds one
lock. It is re-entrant: a signal handler may enter a phase while the interrupted thread is inside a write.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from time import monotonic_ns
from typing import Final, Literal, get_args

from lanemark.measure.durable import map_new_page_file

Phase = Literal[
    "start", "import", "init_process_group", "build", "shard", "load", "warmup", "window", "collective", "compile",
    "checkpoint", "drain", "done", "failed", "prewarm",
]  # fmt: skip
#: Phases in the order of their number in the page, not of a life: new ones are appended, so that old pages
#: read the same.
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)

MAGIC: Final = b"LMBEACON"
VERSION: Final = 2
#: Version 1 had no stamps of data and arrival.
_READ_VERSIONS: Final = (1, 2)
PAGE_BYTES: Final = 4096
SPAN_ROWS: Final = 120
#: Rows that compile spans may not take, so that a rank that recompiles without end still shows its later phases.
RESERVED_ROWS: Final = 16
#: Collectives up to the end of step 0 that take a row: there ranks wait for one that compiles. More would fill it.
FIRST_COLLECTIVES: Final = 24
LABEL_BYTES: Final = 64
FLAG_TRUNCATED: Final = 1

_HEADER: Final = struct.Struct("<8sIIIIQ")
_ANCHOR: Final = struct.Struct("<Qqd")
_NOW: Final = struct.Struct("<QIIqqIIq64s")
_SPAN: Final = struct.Struct("<IIqqq")
#: The *now* struct again, for the writer: native words are copied whole and in order, the sequence first.
_PACK_NOW: Final = struct.Struct("@QQQQQQ64s").pack_into
_STAMPS: Final = struct.Struct("<qqq")
_ANCHOR_AT: Final = 32
_NOW_AT: Final = 64
_STAMPS_AT: Final = 176
_SPANS_AT: Final = 256
#: Indexes of the same fields, counted in 8-byte words.
_SEQUENCE, _STEP, _SINCE = 8, 10, 11
_ARRIVED_STEP, _ARRIVED = 23, 24
#: The recorder stores here itself, without a call: one word, part of no sequence, when a step's tokens are in hand.
DATA_READY_WORD: Final = 22
_SPANS_WORD: Final = _SPANS_AT // 8
_SPAN_WORDS: Final = _SPAN.size // 8
_U32: Final = 0xFFFF_FFFF

_NUMBER: Final[dict[str, int]] = {name: number for number, name in enumerate(PHASES)}
_COMPILE: Final = _NUMBER["compile"]
_COLLECTIVE: Final = _NUMBER["collective"]


class BeaconError(ValueError):
    """The file is no beacon page: too short, of another kind, of a newer version, or with impossible fields."""


#: One open phase: token, phase number, label, since (ns), thread that opened it, row in the span table (None: no row).
#: A plain tuple, because one is made at every collective.
_Frame = tuple[int, int, bytes, int, int, "int | None"]


class Beacon:
    """The writing end, one per rank. Make it with `Beacon.create`; every method may be called from any thread."""

    __slots__ = (
        "__weakref__", "_base_label", "_base_number", "_base_row", "_base_since_ns", "_compile_depth",
        "_compile_since_ns", "_frames", "_labels", "_lock", "_page", "_step", "_tokens", "_truncated", "_used_rows",
        "arrived_ns", "collectives", "compilations", "compile_ns", "words",
    )  # fmt: skip

    def __init__(self, page: mmap.mmap, begin_ns: int) -> None:
        self._page: mmap.mmap | bytearray = page
        #: The page as words. Another object after `close` and in forked children, so nobody keeps it.
        self.words = memoryview(page).cast("Q")
        self._lock = threading.RLock()
        self._frames: list[_Frame] = []
        self._labels: dict[str, bytes] = {}
        self._tokens = 0
        self._step = 0
        self._used_rows = 0
        self._truncated = False
        self._compile_depth = 0
        self._compile_since_ns = 0
        #: Nanoseconds spent in compilations that have ended; overlapping ones are counted once.
        self.compile_ns = 0
        self.compilations = 0
        self.collectives = 0
        #: When the first collective was entered since the present step or phase began, once it is not older than that.
        self.arrived_ns = 0
        self._base_number = _NUMBER["start"]
        self._base_label = bytes(LABEL_BYTES)
        self._base_since_ns = begin_ns
        self._base_row = self._open_span(self._base_number, begin_ns)

    @classmethod
    def create(cls, path: Path, *, rank: int, world_size: int) -> Beacon:
        """Make the page at `path`, in phase `start`. It appears under its name only when it is whole.

        Raises:
            OSError: the page cannot be made; ENOSPC when its 4,096 bytes cannot be had.
        """
        if sys.byteorder != "little":
            raise BeaconError("beacon pages are little-endian and this machine is not")
        fd, staged = map_new_page_file(path, PAGE_BYTES)
        try:
            page = mmap.mmap(fd, PAGE_BYTES)
        finally:
            os.close(fd)
        anchor_ns = monotonic_ns()
        _HEADER.pack_into(page, 0, MAGIC, VERSION, rank, world_size, os.getpid(), 0)
        _ANCHOR.pack_into(page, _ANCHOR_AT, anchor_ns, time.time_ns(), 0.0)
        beacon = cls(page, anchor_ns)
        beacon._publish()
        os.replace(staged, path)
        _detach_in_forked_children(beacon)
        return beacon

    @property
    def phase(self) -> Phase:
        """The top-level phase that is open."""
        return PHASES[self._base_number]

    def enter(self, phase: Phase, label: str = "") -> None:
        """Close the open top-level phase and open `phase`. Nested phases that are still open stay open."""
        number = _NUMBER.get(phase)
        if number is None:
            raise _unknown(phase)
        with self._lock:
            now_ns = monotonic_ns()
            self._close_span(self._base_row, now_ns)
            self._base_row = self._open_span(number, now_ns)
            self._base_number = number
            self._base_label = self._label(label)
            self._base_since_ns = now_ns
            self._publish()

    def push(self, phase: Phase, label: str = "") -> int:
        """Open a nested phase. Collectives are counted, and only the first few take a row of the span table.

        Returns:
            A token that `pop` takes, for callers whose end may run on another thread than their beginning.
        """
        number = _NUMBER.get(phase)
        if number is None:
            raise _unknown(phase)
        label_bytes = self._labels.get(label) or self._label(label)
        # acquire/release, not `with`: half the cost, and this runs twice around every collective.
        self._lock.acquire()
        try:
            now_ns = monotonic_ns()
            row = None
            if number == _COLLECTIVE:
                self.collectives += 1
                if self.arrived_ns < self._base_since_ns:
                    self._stamp_arrival(now_ns)
                if not self._step and self.collectives <= FIRST_COLLECTIVES:
                    row = self._open_span(number, now_ns, nested=True)
            else:
                row = self._open_span(number, now_ns, nested=True)
            if number == _COMPILE:
                if self._compile_depth == 0:
                    self._compile_since_ns = now_ns
                self._compile_depth += 1
            token = self._tokens = self._tokens + 1
            self._frames.append((token, number, label_bytes, now_ns, get_ident(), row))
            self._publish()
            return token
        finally:
            self._lock.release()

    def pop(self, token: int | None = None) -> None:
        """Close a nested phase: the one of `token`, else the last one that this thread opened. None open: no effect."""
        self._lock.acquire()
        try:
            frames = self._frames
            frame = frames.pop() if frames and frames[-1][0] == token else self._take_frame(token)
            if frame is None:
                return
            number = frame[1]
            if number != _COLLECTIVE or frame[5] is not None:
                now_ns = monotonic_ns()
                self._close_span(frame[5], now_ns)
                if number == _COMPILE:
                    self.compilations += 1
                    self._compile_depth -= 1
                    if self._compile_depth == 0:
                        self.compile_ns += now_ns - self._compile_since_ns
            self._publish()
        finally:
            self._lock.release()

    def at_step(self, step: int, since_ns: int = 0) -> None:
        """Say that `step` began (at `since_ns`, by default now). The hot path: four stores and no lock.

        A lock costs as much as all the rest, and would only serve a compilation that begins or ends on another thread
        at this very moment. What may happen without it: the page shows the age of the step for that of the
        compilation, or the reverse, until the next write. The sequence ends even whatever the order of the stores.
        """
        since_ns = since_ns or monotonic_ns()
        self._step = step
        self._base_since_ns = since_ns
        words = self.words
        odd = words[_SEQUENCE] | 1
        words[_SEQUENCE] = odd
        words[_STEP] = step
        if not self._frames:
            words[_SINCE] = since_ns
        words[_SEQUENCE] = odd + 1

    def close(self) -> None:
        """End the open spans and let go of the page. Later calls have no effect that anyone can see."""
        with self._lock:
            now_ns = monotonic_ns()
            for row in (self._base_row, *(frame[5] for frame in self._frames)):
                self._close_span(row, now_ns)
            page = self._page
            self._detach()
            if isinstance(page, mmap.mmap):
                page.close()

    def _stamp_arrival(self, now_ns: int) -> None:
        """The first collective of a step (or, before any, of a phase). Under an odd sequence: the words are a pair."""
        self.arrived_ns = now_ns
        words = self.words
        words[_SEQUENCE] |= 1
        words[_ARRIVED_STEP] = self._step
        words[_ARRIVED] = now_ns

    def _take_frame(self, token: int | None) -> _Frame | None:
        frames = self._frames
        thread = get_ident()
        for index in range(len(frames) - 1, -1, -1):
            if frames[index][0] == token if token is not None else frames[index][4] == thread:
                return frames.pop(index)
        return None

    def _label(self, text: str) -> bytes:
        known = self._labels.get(text)
        if known is None:
            if len(self._labels) >= 256:  # labels repeat; the bound is for callers whose labels do not
                self._labels.clear()
            raw = text.encode("utf-8", "replace")[:LABEL_BYTES]
            known = self._labels[text] = raw.decode("utf-8", "ignore").encode("utf-8").ljust(LABEL_BYTES, b"\0")
        return known

    def _publish(self) -> None:
        frames = self._frames
        if frames:
            _, number, label, since_ns, _, _ = frames[-1]
        else:
            number, label, since_ns = self._base_number, self._base_label, self._base_since_ns
        odd = self.words[_SEQUENCE] | 1
        counts = (self.compilations & _U32) | (self.collectives & _U32) << 32
        _PACK_NOW(
            self._page, _NOW_AT, odd, number | len(frames) << 32, self._step, since_ns, counts, self.compile_ns, label
        )
        self.words[_SEQUENCE] = odd + 1

    def _open_span(self, number: int, begin_ns: int, *, nested: bool = False) -> int | None:
        row = self._used_rows
        if row >= SPAN_ROWS - (RESERVED_ROWS if nested else 0):
            if not self._truncated:
                self._truncated = True
                self.words[_SPANS_WORD + (SPAN_ROWS - 1) * _SPAN_WORDS] |= FLAG_TRUNCATED << 32
            return None
        self._used_rows = row + 1
        at = _SPANS_WORD + row * _SPAN_WORDS
        words = self.words
        # The flag may already stand in the last row; begin is stored last because a row counts from then on.
        words[at] = (words[at] & (FLAG_TRUNCATED << 32)) | number
        words[at + 2] = 0
        words[at + 3] = self._step
        words[at + 1] = begin_ns
        return row

    def _close_span(self, row: int | None, end_ns: int) -> None:
        if row is not None:
            self.words[_SPANS_WORD + row * _SPAN_WORDS + 2] = end_ns

    def _detach(self) -> None:
        """Go on writing into private memory: after `close`, and in a forked child, which shares the mapping."""
        page = self._page
        self.words.release()
        self._page = bytearray(page[:])
        self.words = memoryview(self._page).cast("Q")

    def detach_forked(self) -> None:
        """Called in a forked child: see `_detach_in_forked_children`."""
        self._lock = threading.RLock()  # another thread may have held it at the fork, and is not here to let go
        self._detach()


def _detach_in_forked_children(beacon: Beacon) -> None:
    """A forked data loader must not write into its parent's page. Registered once a beacon; holds it weakly."""
    reference = weakref.ref(beacon)

    def after_fork() -> None:
        alive = reference()
        if alive is not None:
            alive.detach_forked()

    os.register_at_fork(after_in_child=after_fork)


def _unknown(phase: str) -> ValueError:
    return ValueError(f"{phase!r} is no phase; one of {', '.join(PHASES)}")


@dataclass(frozen=True)
class Span:
    """One phase in the table. `end_ns` is None while it is open (or was, when the rank died)."""

    phase: Phase
    begin_ns: int
    end_ns: int | None
    step: int


@dataclass(frozen=True)
class BeaconView:
    """What a page said at one moment.

    Attributes:
        sequence: grows by two with every write; a changed number is progress.
        whole: False when the writer was (or died) in the middle of a write: the fields may not belong together.
        anchor_ns: `monotonic_ns` when the rank made the page; `anchor_wall_ns` the wall clock then.
        phase: the innermost open phase, opened at `since_ns` (or the step that began then).
        depth: nested phases that are open around it.
        spans: phases in the order they were opened; `spans_truncated` says that later ones are missing.
        data_ready_ns: when the last step that told so had its tokens in hand; None where none did, or in version 1.
        arrived_step, arrived_ns: the last step in which the rank entered a collective, and when it entered the first
            one of that step; None before any, and in version 1. Outside the step loop: the first one of the phase, with
            the step that the page showed then.
    """

    rank: int
    world_size: int
    pid: int
    anchor_ns: int
    anchor_wall_ns: int
    sequence: int
    whole: bool
    phase: Phase
    depth: int
    step: int
    since_ns: int
    compilations: int
    collectives: int
    compile_ns: int
    label: str
    spans: tuple[Span, ...]
    spans_truncated: bool
    version: int = VERSION
    data_ready_ns: int | None = None
    arrived_step: int | None = None
    arrived_ns: int | None = None

    @property
    def waiting_for_data(self) -> bool | None:
        """Whether the rank is inside its loader: it has begun a step and its tokens are not in hand.

        None where it cannot be told: in the middle of a write, in pages of version 1, and where the loop has never
        said that it had its tokens. True for a moment is no stall: every step begins with it.
        """
        if not self.whole or self.data_ready_ns is None:
            return None
        return self.phase in ("warmup", "window") and self.data_ready_ns < self.since_ns

    @property
    def measuring(self) -> bool:
        """Whether the measured window is open, whatever the rank does in it."""
        return any(span.phase == "window" and span.end_ns is None for span in self.spans)


def read_beacon(path: Path) -> BeaconView:
    """Read a page, whatever its writer is doing at the moment.

    Raises:
        BeaconError: the file is short, foreign, of a newer version, or holds impossible fields.
        OSError: the file cannot be read (FileNotFoundError: the rank has not come that far).
    """
    # Not blocking: a pipe in the place of the page is a damaged attempt, and no reason to wait for ever.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        data, whole = _stable_copy(fd)
    finally:
        os.close(fd)
    return _parse(data, whole=whole)


def _stable_copy(fd: int) -> tuple[bytes, bool]:
    data = b""
    for attempt in range(50):
        before = os.pread(fd, 8, _NOW_AT)
        data = os.pread(fd, PAGE_BYTES, 0)
        after = os.pread(fd, 8, _NOW_AT)
        if len(data) < PAGE_BYTES:
            return data, False
        if before == after == data[_NOW_AT : _NOW_AT + 8] and before[0] % 2 == 0:
            return data, True
        if attempt > 10:
            time.sleep(0.0002)  # the writer was preempted between its two numbers, or died there
    return data, False


def _parse(data: bytes, *, whole: bool) -> BeaconView:
    if len(data) < PAGE_BYTES:
        raise BeaconError(f"a beacon page has {PAGE_BYTES} bytes and this file has {len(data)}")
    magic, version, rank, world_size, pid, _ = _HEADER.unpack_from(data, 0)
    if magic != MAGIC:
        raise BeaconError(f"the file begins with {magic!r}, not with {MAGIC!r}")
    if version not in _READ_VERSIONS:
        raise BeaconError(f"the page is of version {version}, and only versions up to {VERSION} are read")
    anchor_ns, anchor_wall_ns, _ = _ANCHOR.unpack_from(data, _ANCHOR_AT)
    sequence, number, depth, step, since_ns, compilations, collectives, compile_ns, label = _NOW.unpack_from(
        data, _NOW_AT
    )
    last_flags = _SPAN.unpack_from(data, _SPANS_AT + (SPAN_ROWS - 1) * _SPAN.size)[1]
    # Version 1 left these bytes zero, and promised nothing about them.
    data_ready_ns, arrived_step, arrived_ns = _STAMPS.unpack_from(data, _STAMPS_AT) if version > 1 else (0, 0, 0)
    if min(step, since_ns, compile_ns, anchor_ns, data_ready_ns, arrived_step, arrived_ns) < 0:
        raise BeaconError("the page holds a negative step or time")
    return BeaconView(
        rank=rank,
        world_size=world_size,
        pid=pid,
        anchor_ns=anchor_ns,
        anchor_wall_ns=anchor_wall_ns,
        sequence=sequence,
        whole=whole,
        phase=_phase_of(number),
        depth=depth,
        step=step,
        since_ns=since_ns,
        compilations=compilations,
        collectives=collectives,
        compile_ns=compile_ns,
        label=label.split(b"\0", 1)[0].decode("utf-8", "replace"),
        spans=_spans(data),
        spans_truncated=bool(last_flags & FLAG_TRUNCATED),
        version=version,
        data_ready_ns=data_ready_ns or None,
        arrived_step=arrived_step if arrived_ns else None,
        arrived_ns=arrived_ns or None,
    )


def _spans(data: bytes) -> tuple[Span, ...]:
    spans: list[Span] = []
    for row in range(SPAN_ROWS):
        number, _, begin_ns, end_ns, step = _SPAN.unpack_from(data, _SPANS_AT + row * _SPAN.size)
        if begin_ns == 0:
            break
        if begin_ns < 0 or step < 0 or (end_ns != 0 and end_ns < begin_ns):
            raise BeaconError(f"span {row} of the page ends before it begins, or is negative")
        spans.append(Span(_phase_of(number), begin_ns, end_ns or None, step))
    return tuple(spans)


def _phase_of(number: int) -> Phase:
    if number >= len(PHASES):
        raise BeaconError(f"the page holds phase number {number}, and there are {len(PHASES)} phases")
    return PHASES[number]
