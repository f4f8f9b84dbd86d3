"""Start one program in a mount namespace where given directories lie at given paths; nothing of the host is written.

    namespace.py LAYOUT.json PROGRAM [ARGUMENT ...]

LAYOUT: `{"work": directory, "binds": [[source, target, read_only]], "copies": [[source, target]], "cwd": directory}`.
The new root is composed from the host's top-level entries; one that receives something is an overlay over the host's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

#: Below these an overlay is either impossible or pointless.
_AS_THEY_ARE = ("tmp", "proc", "sys", "dev", "run")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        layout = json.load(file)
    command = sys.argv[2:]
    root, scratch = f"{layout['work']}/root", f"{layout['work']}/overlays"
    os.makedirs(root)
    os.makedirs(scratch)
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "tmpfs", root)
    mount("-t", "tmpfs", "tmpfs", scratch)
    targets = [entry[1] for entry in (*layout["binds"], *layout["copies"])]
    receiving = {target.split("/")[1] for target in targets} - set(_AS_THEY_ARE)
    for name in os.listdir("/"):
        there, here = f"/{name}", f"{root}/{name}"
        if os.path.islink(there):
            os.symlink(os.readlink(there), here)
        elif os.path.isdir(there):
            os.mkdir(here)
            if name not in receiving:
                mount("--rbind", there, here)
            elif os.access(there, os.R_OK | os.X_OK):  # another user's /root stays empty
                upper, work = f"{scratch}/{name}.upper", f"{scratch}/{name}.work"
                os.mkdir(upper)
                os.mkdir(work)
                options = f"lowerdir={there},upperdir={upper},workdir={work}"
                mount("-t", "overlay", "overlay", "-o", options, here)
    for source, target in layout["copies"]:
        Path(root + target).parent.mkdir(parents=True, exist_ok=True)
        Path(root + target).write_bytes(Path(source).read_bytes())
    for source, target, read_only in layout["binds"]:
        os.makedirs(root + target, exist_ok=True)
        mount("--bind", source, root + target)
        if read_only:
            mount("-o", "remount,bind,ro", root + target)
    mount("-t", "proc", "proc", f"{root}/proc")
    os.chroot(root)
    os.makedirs(layout["cwd"], exist_ok=True)
    os.chdir(layout["cwd"])
    os.execvp(command[0], command)


main()
