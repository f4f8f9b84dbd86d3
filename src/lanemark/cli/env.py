"""`lanemark env`: what can be observed of this host, with where each fact comes from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lanemark.cli.deciding import cache_place
from lanemark.cli.parsing import home, parser, print_json
from lanemark.observe.snapshot import host_snapshot


def main(args: list[str]) -> int:
    """Print the host's snapshot. Exit 0."""
    verb = parser("env", "Print what can be observed of this host. Secrets are never printed.")
    verb.add_argument("--json", action="store_true", help="print it as JSON")
    asked = verb.parse_args(args)
    place = home()
    doc = host_snapshot(cwd=Path.cwd(), environ=os.environ, cache_dir=cache_place(place, cold=False).path)
    if asked.json:
        print_json(doc)
        return 0
    for line in _lines(doc, ""):
        print(line)
    return 0


def _shown(entry: dict[str, Any]) -> str:
    if entry["status"] == "observed":
        value = entry["value"]
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{entry['status']}: {entry['reason']}" if "reason" in entry else str(entry["status"])


def _lines(doc: Any, prefix: str) -> list[str]:
    """`part.field  value` for every leaf, an observation being a leaf."""
    if isinstance(doc, dict) and "status" in doc and "source" in doc:
        return [f"{prefix:<36} {_shown(doc)}"]
    if isinstance(doc, dict):
        out: list[str] = []
        for key, value in doc.items():
            out += _lines(value, f"{prefix}.{key}" if prefix else str(key))
        return out
    if isinstance(doc, list):
        out = []
        for item in doc:
            name = item.get("name") if isinstance(item, dict) else None
            rest = {k: v for k, v in item.items() if k != "name"} if name else item
            out += _lines(rest, f"{prefix}[{name}]" if name else prefix)
        return out
    return [f"{prefix:<36} {doc}"]
