"""What `run`, `plan` and `wave` take for runs on Modal: from arguments to a `Rental`. Looks at the arguments alone."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any, Final

from lanemark.cli.asked import Asked, whole
from lanemark.cli.parsing import Parser
from lanemark.launch.modal_request import Bucket, Rental, check, modal_request
from lanemark.records.errors import UsageError

#: Arguments that mean nothing on another surface, with the values that say they were not given.
_RENTING: Final[dict[str, Any]] = {
    "image": None, "add_python": None, "gpu_fallback": [], "allow_substitute": False, "region": None, "secret": [],
    "environment": None, "cpu": None, "memory_mib": None, "disk_mib": None, "bucket": None, "bucket_secret": None,
    "checkpoints": None, "volumes": None, "startup_timeout": "900",
}  # fmt: skip
_DEFAULT_PREFIX: Final = "lanemark"


def add_arguments(parser: Parser) -> None:
    """The arguments that only `--surface modal` takes."""
    group = parser.add_argument_group("renting from Modal (--surface modal)")
    group.add_argument("--image", default=None, metavar="REF", help="NAME@sha256:DIGEST of the image to run in")
    group.add_argument("--add-python", default=None, metavar="V", help="give the image a Python of this version")
    group.add_argument(
        "--gpu-fallback", action="append", default=[], metavar="SPEC", help="take this GPU when --gpu is not to be had"
    )
    group.add_argument(
        "--allow-substitute", action="store_true", help="accept H100, A100 or B200+, which may be another class"
    )
    group.add_argument("--region", default=None, metavar="R", help="where to run (default: anywhere)")
    group.add_argument("--environment", default=None, metavar="E", help="Modal environment (default: the account's)")
    group.add_argument(
        "--secret", action="append", default=[], metavar="NAME", help="a Modal Secret for the run, by its name"
    )
    group.add_argument("--cpu", default=None, metavar="N", help="cores to reserve")
    group.add_argument("--memory-mib", default=None, metavar="N", help="memory to reserve, MiB")
    group.add_argument("--disk-mib", default=None, metavar="N", help="ephemeral disk, MiB")
    group.add_argument("--bucket", default=None, metavar="NAME[/PREFIX]", help="an S3 bucket to mount, read-only")
    group.add_argument("--bucket-secret", default=None, metavar="NAME", help="the Modal Secret that opens it")
    group.add_argument("--checkpoints", default=None, metavar="NAME", help="a Volume for checkpoints")
    group.add_argument(
        "--volumes", default=None, metavar="PREFIX",
        help="of the Volumes PREFIX-results, -cache and -data (default: lanemark)",
    )  # fmt: skip
    group.add_argument("--startup-timeout", default="900", metavar="S", help="for pulling and starting the image")


def rental(args: argparse.Namespace) -> Rental | None:
    """What is to be rented; None on another surface.

    Raises:
        UsageError: an argument cannot be meant, or means nothing on the surface asked for.
    """
    if args.surface != "modal":
        refuse_on_other_surfaces(args)
        return None
    if args.cache_to is not None:
        raise UsageError(
            "value-invalid", "--cache-to names a file of this host, and a run on Modal keeps its cache on a Volume",
            "leave it out: the cache Volume gets what the run compiled",
        )  # fmt: skip
    prefix = args.volumes or _DEFAULT_PREFIX
    asked = Rental(
        image=args.image or "",
        add_python=args.add_python,
        fallbacks=tuple(args.gpu_fallback),
        allow_substitute=args.allow_substitute,
        cpu=None if args.cpu is None else float(whole(args.cpu, "--cpu", 1, 1024)),
        memory_mib=None if args.memory_mib is None else whole(args.memory_mib, "--memory-mib", 128, 2**23),
        disk_mib=None if args.disk_mib is None else whole(args.disk_mib, "--disk-mib", 1024, 2**23),
        region=args.region,
        startup_timeout_s=whole(args.startup_timeout, "--startup-timeout", 1, 86_400),
        environment=args.environment,
        secrets=tuple(args.secret),
        results=f"{prefix}-results",
        cache=f"{prefix}-cache",
        data=f"{prefix}-data",
        checkpoints=args.checkpoints,
        bucket=_bucket(args),
    )
    check(asked)
    return asked


def rented(asked: Asked, rental: Rental | None) -> Asked:
    """The same question with what is to be rented for it.

    Raises:
        UsageError: the GPU names no one class, or the time limit is beyond the service's.
    """
    if rental is None:
        return asked
    modal_request(asked.case, rental)
    return replace(asked, rental=rental)


def refuse_on_other_surfaces(args: argparse.Namespace) -> None:
    """Refuse what only Modal understands. Raises UsageError `value-invalid`."""
    for name, default in _RENTING.items():
        if getattr(args, name, default) != default:
            flag = "--" + name.replace("_", "-")
            raise UsageError(
                "value-invalid", f"{flag} means nothing on the {args.surface[:20]} surface",
                f"add --surface modal, or leave {flag} out",
            )  # fmt: skip


def _bucket(args: argparse.Namespace) -> Bucket | None:
    if args.bucket is None:
        return None
    name, _, prefix = args.bucket.partition("/")
    if not name or (prefix and not prefix.endswith("/")):
        raise UsageError(
            "value-invalid", f"--bucket {args.bucket[:60]!r} is no bucket with a prefix", "give NAME or NAME/PREFIX/"
        )
    return Bucket(name, prefix, args.bucket_secret)
