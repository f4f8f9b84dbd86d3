"""Step samples: one mapped row of 56 bytes a step, allocated before the first step and readable after `kill -9`.

The layout is that of `docs/ARCHITECTURE.md` ("samples.bin, version 2"); files of version 1, whose rows have no arrival,
are still read. A row is stored before the count that covers
it, so a reader never takes a half-written row for a step. Raw times are kept and nothing is averaged here: what a
number means is decided later, from these rows, by code that anyone can run again.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from lanemark.measure.durable import map_new_page_file

MAGIC: Final = b"LMSTEPS\0"
VERSION: Final = 2
HEADER_BYTES: Final = 64
ROW_BYTES: Final = 56
#: 560 MB of samples. No declared window comes near; it keeps a forged header from asking for all of memory.
MAX_ROWS: Final = 10_000_000

_HEADER: Final = struct.Struct("<8sIIIIQ")
_PROGRESS: Final = struct.Struct("<Qqq")
_PROGRESS_AT: Final = 32
#: Rows by version: step, begin, data ready, end, compile time so far, device time, and since version 2 the arrival.
_ROWS: Final = {1: struct.Struct("<qqqqqq"), 2: struct.Struct("<qqqqqqq")}
#: Words of the progress fields, counted in 8 bytes.
ROWS_WRITTEN_WORD: Final = 4
WINDOW_BEGIN_WORD: Final = 5
WINDOW_END_WORD: Final = 6
FIRST_ROW_WORD: Final = HEADER_BYTES // 8
ROW_WORDS: Final = ROW_BYTES // 8
DEVICE_NS_COLUMN: Final = 5


class SamplesError(ValueError):
    """The file is no sample file, or its rows contradict each other."""


class SampleFile:
    """The writing end: a mapped file with room for every declared step. `StepRecorder` stores into it."""

    def __init__(self, page: mmap.mmap, *, warmup: int, rows: int) -> None:
        self.page = page
        self.warmup = warmup
        self.rows = rows
        #: The whole file as 8-byte words: one aligned store a field.
        self.words = memoryview(page).cast("q")

    @classmethod
    def create(cls, path: Path, *, rank: int, warmup: int, rows: int) -> SampleFile:
        """Allocate `rows` rows at `path`; the file appears under its name with its header written.

        Raises:
            OSError: ENOSPC when the disk cannot hold every row, before any step has run.
            ValueError: a count that no run can have.
        """
        if not (0 <= warmup <= rows <= MAX_ROWS and rows > 0):
            raise ValueError(f"{rows} rows with {warmup} of warm-up is no sample file")
        if sys.byteorder != "little":
            raise SamplesError("sample files are little-endian and this machine is not")
        size_bytes = HEADER_BYTES + ROW_BYTES * rows
        fd, staged = map_new_page_file(path, size_bytes)
        try:
            page = mmap.mmap(fd, size_bytes)
        finally:
            os.close(fd)
        _HEADER.pack_into(page, 0, MAGIC, VERSION, ROW_BYTES, rank, warmup, rows)
        os.replace(staged, path)
        return cls(page, warmup=warmup, rows=rows)

    @property
    def rows_written(self) -> int:
        return self.words[ROWS_WRITTEN_WORD]

    def set_device_ns(self, row: int, device_ns: int) -> None:
        """Store a step's device time, which is only known once the device was synchronised."""
        if not 0 <= row < self.rows_written:
            raise ValueError(f"row {row} is not written, so it has no device time")
        self.words[FIRST_ROW_WORD + row * ROW_WORDS + DEVICE_NS_COLUMN] = device_ns

    def close(self) -> None:
        """Let go of the mapping; what was stored stays."""
        self.words.release()
        self.page.close()


class StepRow(NamedTuple):
    """One step. `compile_ns` is cumulative over the rank's life; `device_ns` is None where it was not measured.

    `arrived_ns` is when the rank entered the step's first collective: the one time of a step that differs between the
    ranks, since collectives end for all of them together. None where the step entered none that Python can see (a
    single rank, DDP's buckets), and in files of version 1.
    """

    step: int
    begin_ns: int
    data_ready_ns: int
    end_ns: int
    compile_ns: int
    device_ns: int | None
    arrived_ns: int | None = None


@dataclass(frozen=True)
class Samples:
    """Every step a rank recorded.

    Attributes:
        rank: which one.
        warmup: leading steps that are never measured.
        rows_allocated: steps declared.
        rows: steps recorded, row i being step i.
        window_begin_ns: when the measured window was opened; None when it never was.
        window_end_ns: when it was closed; None without an end marker, and then there is no throughput.
    """

    rank: int
    warmup: int
    rows_allocated: int
    rows: tuple[StepRow, ...]
    window_begin_ns: int | None
    window_end_ns: int | None


def read_samples(path: Path) -> Samples:
    """Read a sample file strictly: what contradicts itself is refused, never repaired.

    Raises:
        SamplesError: not a sample file, cut short, or with rows that cannot have happened.
        OSError: the file cannot be read.
    """
    # Not blocking: a pipe in the place of the samples is a damaged attempt, and no reason to wait for ever.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        head = file.read(HEADER_BYTES)
        rank, warmup, allocated, row = _checked_header(head, size_bytes)
        written, window_begin_ns, window_end_ns = _PROGRESS.unpack_from(head, _PROGRESS_AT)
        if written > allocated:
            raise SamplesError(f"the file says that {written} rows are written and has room for {allocated}")
        body = file.read(written * row.size)
    if len(body) != written * row.size:
        raise SamplesError("the file ends inside its rows")
    rows = _checked_rows(body, row)
    _check_window(rows, warmup, window_begin_ns, window_end_ns)
    return Samples(rank, warmup, allocated, rows, window_begin_ns or None, window_end_ns or None)


def _checked_header(head: bytes, size_bytes: int) -> tuple[int, int, int, struct.Struct]:
    """Rank, warm-up steps, rows allocated, and how a row is laid out."""
    if len(head) < HEADER_BYTES:
        raise SamplesError(f"a sample file has a header of {HEADER_BYTES} bytes and this file has {len(head)}")
    magic, version, row_bytes, rank, warmup, allocated = _HEADER.unpack_from(head)
    if magic != MAGIC:
        raise SamplesError(f"the file begins with {magic!r}, not with {MAGIC!r}")
    row = _ROWS.get(version)
    if row is None:
        raise SamplesError(f"the file is of version {version}, and only versions up to {VERSION} are read")
    if row_bytes != row.size or not 0 < allocated <= MAX_ROWS or warmup > allocated:
        raise SamplesError(f"the header declares {allocated} rows of {row_bytes} bytes, {warmup} of them warm-up")
    if size_bytes != HEADER_BYTES + row.size * allocated:
        raise SamplesError(f"{allocated} declared rows do not make a file of {size_bytes} bytes")
    return rank, warmup, allocated, row


def _checked_rows(body: bytes, layout: struct.Struct) -> tuple[StepRow, ...]:
    rows: list[StepRow] = []
    last_end_ns = last_compile_ns = 0
    for index, row in enumerate(layout.iter_unpack(body)):
        step, begin_ns, data_ready_ns, end_ns, compile_ns, device_ns, arrived_ns = row if len(row) == 7 else (*row, 0)
        if step != index:
            raise SamplesError(f"row {index} is of step {step}; steps are consecutive from 0")
        if not 0 < begin_ns <= data_ready_ns <= end_ns:
            raise SamplesError(f"step {step} has times that do not follow each other")
        if begin_ns < last_end_ns:
            raise SamplesError(f"step {step} begins before step {step - 1} ends")
        if compile_ns < last_compile_ns or device_ns < 0:
            raise SamplesError(f"step {step} has a compile or device time that cannot be")
        if arrived_ns and not begin_ns <= arrived_ns <= end_ns:
            raise SamplesError(f"step {step} entered its first collective at a time outside the step")
        last_end_ns, last_compile_ns = end_ns, compile_ns
        arrived = arrived_ns or None
        rows.append(StepRow(step, begin_ns, data_ready_ns, end_ns, compile_ns, device_ns or None, arrived))
    return tuple(rows)


def _check_window(rows: tuple[StepRow, ...], warmup: int, begin_ns: int, end_ns: int) -> None:
    if begin_ns < 0 or end_ns < 0 or (end_ns and not begin_ns) or (end_ns and end_ns < begin_ns):
        raise SamplesError("the measured window ends before it begins")
    if begin_ns and len(rows) < warmup:
        raise SamplesError("the measured window was opened before the warm-up was over")
    if begin_ns and warmup and rows[warmup - 1].end_ns > begin_ns:
        raise SamplesError("the measured window begins inside the warm-up")
    if not begin_ns and len(rows) > warmup:
        raise SamplesError("steps beyond the warm-up were recorded and no window was opened")
    if begin_ns and len(rows) > warmup and rows[warmup].begin_ns < begin_ns:
        raise SamplesError("the first measured step begins before its window")
    if end_ns and rows and rows[-1].end_ns > end_ns:
        raise SamplesError("the last step ends after its window")
