"""Writes the corpus of records beside this file: `good/`, `bad/` and `cheat/`, and `expected.json`, which says why.

    python tests/assets/records/generate.py

Good records verify. Bad ones are refused by the strict reader or by their name: `expected.json` has the verification
step and the slug. Cheats are well-formed and lie: `expected.json` has the lane rule that catches each, or the step. The
output is deterministic; a test regenerates it in memory and compares. `versions/` is frozen and not written here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bad_records import bad
from cheat_records import FORGED, cheats
from good_paths import good_paths
from good_promotion import PROOFS, good_promotion
from good_records import EVIDENCE, KEPT, Doc, good, sealed
from good_sparse import good_sparse

HERE = Path(__file__).resolve().parent


# -- files -----------------------------------------------------------------------------------------------------------


def build() -> dict[str, bytes]:
    """Every file of the corpus: its path below this directory, and its bytes."""
    files: dict[str, bytes] = {"evidence/ranks/0/samples.bin": EVIDENCE}
    files |= {f"evidence/{name}": data for name, data in FORGED.items()}
    files |= {f"evidence/proofs/{name}.json": data for name, data in PROOFS.items()}
    expected: Doc = {"good": {}, "bad": {}, "cheat": {}}
    for name, predicate in {**good(), **good_paths(), **good_sparse(), **good_promotion()}.items():
        record = sealed(predicate)
        files[f"good/{name}.json"] = record.data
        expected["good"][name] = {"id": record.id, "state": predicate["outcome"]["state"]}
    for name, (data, expectation) in bad().items():
        files[f"bad/{name}.json"] = data
        expected["bad"][name] = expectation
    for name, (data, expectation) in cheats().items():
        files[f"cheat/{name}.json"] = data
        expected["cheat"][name] = expectation
    files |= {f"evidence/{name[:2]}/{name}": data for name, data in KEPT.items()}
    files["expected.json"] = (json.dumps(expected, indent=1, sort_keys=True) + "\n").encode()
    return files


def main() -> None:
    files = build()
    for directory in ("good", "bad", "cheat", "evidence"):
        for stale in (HERE / directory).rglob("*"):
            if stale.is_file() and str(stale.relative_to(HERE)) not in files:
                stale.unlink()
    for name, data in files.items():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    sys.stdout.write(f"{len(files)} files, {sum(map(len, files.values()))} bytes\n")


if __name__ == "__main__":
    main()
