"""Is what is installed what the wheel holds? One digest over contents, made alike from a wheel and an installation.

A wheel's name and version say what somebody meant to build. Two builds of one version differ in their kernels, and a
shared library can be exchanged after it was installed, with every piece of metadata left as it was. So both sides are
brought to the same list, a line `PATH HASH` for each file that installing a wheel only copies, and the lists' digests
are compared:

* of a wheel: from the RECORD inside it, which the wheel's own sha256 covers;
* of an installation: the same files of the installed RECORD, each read and hashed again.

Left out are files that an installer writes or changes (RECORD itself, scripts, byte code). Source: PyPA specification
"Recording installed projects" and "Binary distribution format".
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import Any, Final

from lanemark.observe.reading import guarded
from lanemark.records.observation import Observation, absent, observed, unavailable

_READ_BYTES: Final = 1024 * 1024
#: A RECORD of 100,000 files has about 12 MB.
_MAX_RECORD_BYTES: Final = 64 * 1024 * 1024
_BY_INSTALLER: Final = ("RECORD", "RECORD.jws", "RECORD.p7s", "INSTALLER", "REQUESTED", "direct_url.json")
_RELOCATED: Final = re.compile(r"[^/]+\.data/(purelib|platlib)/(.+)")
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,118}[A-Za-z0-9])?")


@dataclass(frozen=True)
class WheelFacts:
    """What a wheel says of itself.

    Attributes:
        distribution: its name, as pip would normalise it.
        version: from its METADATA.
        contents: the digest of the module's docstring, with `sha256:`.
        module: the package whose import shows that it loads, or None where it holds none.
    """

    distribution: str
    version: str
    contents: str
    module: str | None

    def to_json(self) -> dict[str, str]:
        doc = {"distribution": self.distribution, "version": self.version, "contents": self.contents}
        return doc if self.module is None else {**doc, "module": self.module}


def normalised(name: str) -> str:
    """A distribution's name as PyPA compares them. Pure."""
    return re.sub(r"[-_.]+", "-", name).lower()


def copied_rows(record: str) -> dict[str, str]:
    """RECORD's text → path after installation to hash, of the files that installing only copies. Pure.

    Raises:
        ValueError: it is no RECORD, or names a file without its sha256.
    """
    rows: dict[str, str] = {}
    for row in csv.reader(io.StringIO(record)):
        if len(row) != 3:
            raise ValueError("a line of its RECORD is not a path, a hash and a size")
        path, digest, _ = row
        relocated = _RELOCATED.fullmatch(path)
        path = relocated[2] if relocated else path
        name = PurePosixPath(path)
        if not relocated and re.match(r"[^/]+\.data/", path):
            continue  # scripts, headers and data go elsewhere, and scripts are rewritten
        if name.is_absolute() or ".." in name.parts or name.suffix == ".pyc" or "__pycache__" in name.parts:
            continue
        if name.parent.name.endswith(".dist-info") and name.name in _BY_INSTALLER:
            continue
        if not digest.startswith("sha256="):
            raise ValueError(f"its RECORD has no sha256 of {path[:100]}")
        rows[path] = digest.removeprefix("sha256=")
    return rows


def contents_digest(rows: Iterable[tuple[str, str]]) -> str:
    """The digest over paths and hashes, whatever order they come in. Pure."""
    text = "".join(f"{path} {digest}\n" for path, digest in sorted(rows))
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}"


def wheel_facts(path: Path) -> WheelFacts:
    """What a wheel file says of itself. Nothing in it is unpacked or run.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no wheel.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)]
            if len(records) != 1:
                raise ValueError("it holds no RECORD, or several")
            record = _member(archive, records[0])
            about = HeaderParser().parsestr(_member(archive, records[0].replace("RECORD", "METADATA")))
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, RuntimeError, EOFError) as error:
        raise ValueError(f"it is no wheel ({type(error).__name__})") from error
    name, version = about.get("Name"), about.get("Version")
    if name is None or not _NAME.fullmatch(name) or not version:
        raise ValueError("its METADATA has no name or no version")
    rows = copied_rows(record)
    return WheelFacts(normalised(name), version.strip()[:100], contents_digest(rows.items()), _module(rows))


def _member(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as file:
        data = file.read(_MAX_RECORD_BYTES + 1)
    if len(data) > _MAX_RECORD_BYTES:
        raise ValueError(f"its {name[-40:]} is larger than {_MAX_RECORD_BYTES} bytes")
    return data.decode()


def _module(rows: Iterable[str]) -> str | None:
    """The first package by name, else the first extension module."""
    packages = sorted(path.partition("/")[0] for path in rows if re.fullmatch(r"[A-Za-z_]\w*/__init__\.py", path))
    modules = sorted(path.partition(".")[0] for path in rows if re.fullmatch(r"[A-Za-z_]\w*(\.[^/]*)?\.(so|py)", path))
    return next(iter([*packages, *modules]), None)


def installed_contents(distribution: str) -> Observation[str]:
    """The contents digest of what is installed here under a name. Every file is read. Never raises."""
    source = f"files of {distribution}, each hashed"

    def look() -> Observation[Any]:
        try:
            found = importlib.metadata.distribution(distribution)
        except importlib.metadata.PackageNotFoundError:
            return absent(source, "not installed")
        record = found.read_text("RECORD")
        if not record:
            return unavailable(source, "installed without a RECORD file")
        rows = [(path, _hash(str(found.locate_file(path)))) for path in copied_rows(record)]
        return observed(contents_digest(rows), source)

    return guarded(source, look)


def _hash(path: str) -> str:
    """A file's sha256 as RECORD writes it; of one that is gone, a word that is no hash."""
    state = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while part := file.read(_READ_BYTES):
                state.update(part)
    except FileNotFoundError:
        return "gone"
    return base64.urlsafe_b64encode(state.digest()).rstrip(b"=").decode("ascii")
