"""The rank's control plane: a unix socket through which a hung rank can be asked what it is doing.

torch runs a small server on threads of its own (`torch._C._distributed_c10d._WorkerServer`, which
`torch.distributed.elastic.control_plane` uses as well; seen with 2.13). It answers while Python is blocked in a
collective or in a compiler, in milliseconds: `/handler/fr_trace_json` is the flight recorder, `/handler/dump_traceback`
the Python stacks. Whoever asks is `lanemark.launch.asking`.

The socket lies in the rank's own directory under the name `control.sock`, and only its owner may connect. A socket's
address holds at most 107 bytes and attempts lie deep, so it is bound through `/proc/self/fd/N`, which is short whatever
it stands for.

The server is never shut down, only hidden: its name is removed before the rank ends. A shutdown waits for the request
under way, that request waits for the interpreter's lock, and the caller holds it: a rank that was looked at in its last
moment would hang. For the same reason it is kept from being destroyed with the interpreter.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from lanemark.records.observation import observed, unavailable

_SOURCE: Final = "torch._C._distributed_c10d._WorkerServer"


def open_control_plane(path: Path) -> tuple[Callable[[], None], dict[str, Any]]:
    """Start the server on a socket at `path`. Imports torch.

    Returns:
        A function that takes the name away again (call it before the rank ends; it may be called twice), and an
        observation in JSON form: `observed` true, or why this rank cannot be asked. Never raises: a rank that cannot be
        asked is still a rank.
    """

    def close() -> None:
        with contextlib.suppress(OSError):
            os.unlink(path)

    try:
        from torch._C._distributed_c10d import _WorkerServer as WorkerServer

        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            server = WorkerServer(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(server))  # see the module: it must outlive the interpreter
        os.chmod(path, 0o600)
    except Exception as error:  # no torch, a torch without it, a file system without sockets
        close()
        return close, unavailable(_SOURCE, f"{type(error).__name__}: {error}"[:300]).to_json()
    return close, observed(value=True, source=_SOURCE).to_json()
