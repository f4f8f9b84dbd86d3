"""Many writers at one ledger, killed all the time; hosts that share a directory; and an index that is attacked meanwhile.

Writers are forked from one small process that has imported everything, so that hundreds of them live and die within a
minute, and most are killed in the middle of an append instead of in the middle of an import.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from lanemark.ledger.ledger import Ledger
from lanemark.ledger.objects import iter_objects
from lanemark.records.encoding import digest, encode

GOOD = Path(__file__).parents[1] / "assets" / "records" / "good" / "eager_ddp_cpu.json"
WRITERS = 8
KILLS = 520

#: Forks writers, and kills one after another; ends them all before it ends. Prints how many it killed.
DRIVER = textwrap.dedent(
    """
    import json, os, random, signal, sys, time
    from pathlib import Path
    import lanemark.records.encoding as encoding
    from lanemark.ledger.ledger import Ledger

    root, acknowledgements, template = Path(sys.argv[1]), sys.argv[2], json.loads(Path(sys.argv[3]).read_bytes())
    num_writers, num_kills, seconds = int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6])
    chaos = sys.argv[7] == "chaos"

    def write(serial):
        ledger, number = Ledger(root, {}), 0
        done = os.open(f"{acknowledgements}-{serial}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        while True:
            number += 1
            template["predicate"]["run_id"] = f"training-20260101T000000Z-{serial:04d}{number % 10000:04d}"
            data = encoding.encode(template)
            if number % 3:
                appended = ledger.append(data, [("ranks/0/samples.bin", data[:2000])])
            else:
                with ledger.many():
                    appended = ledger.append(data)
            os.write(done, appended.id.encode() + b"\\n")

    def start(serial):
        child = os.fork()
        if child:
            return child
        try:
            write(serial)
        except BaseException:
            import traceback
            traceback.print_exc()
        os._exit(3)

    rng, serial, kills, failed, began = random.Random(7), num_writers, 0, 0, time.monotonic()
    children = [start(number) for number in range(num_writers)]

    def end(child):
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        return 0 if os.WIFSIGNALED(status) else 1

    try:
        while kills < num_kills and time.monotonic() - began < seconds:
            time.sleep(rng.uniform(0.02, 0.09))
            place = rng.randrange(num_writers)
            failed += end(children[place])
            kills += 1
            children[place] = start(serial)
            serial += 1
            if chaos and kills % 15 == 0:
                index = root / "index.sqlite"
                if kills % 30 == 0:
                    index.unlink(missing_ok=True)
                else:
                    draft = root / "attack"
                    draft.write_bytes(os.urandom(30_000))
                    os.replace(draft, index)
    finally:
        for child in children:
            failed += end(child)
    print(json.dumps({"kills": kills, "failed": failed}))
    """
)


def attacked(root: Path, where: Path, kills: int, seconds: float, *, chaos: bool = False) -> tuple[int, set[str]]:
    """Run the driver; returns (kills, ids that a writer acknowledged before it died)."""
    arguments = [str(root), str(where / "acknowledged"), str(GOOD), str(WRITERS), str(kills), str(seconds)]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *arguments, "chaos" if chaos else "calm"],
        capture_output=True, text=True, timeout=seconds + 60, check=True,
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert result["failed"] == 0, done.stderr
    acknowledged: set[str] = set()
    for path in where.glob("acknowledged-*"):
        # A line cut short by the kill was not acknowledged yet.
        acknowledged |= {line for line in path.read_text().splitlines() if len(line) == len("sha256:") + 64}
    return result["kills"], acknowledged


def holds(root: Path, acknowledged: set[str]) -> None:
    """Nothing torn, nothing acknowledged lost, and the index says what the files say, before and after a sync."""
    found = list(iter_objects(root))
    assert [item for item in found if item.problem] == []
    assert [item.path for item in found if digest(item.path.read_bytes()) != item.record_id] == []
    present = {item.record_id for item in found}
    assert acknowledged <= present
    evidence = list((root / "evidence").glob("*/*"))
    assert [path for path in evidence if digest(path.read_bytes()) != f"sha256:{path.name}"] == []
    ledger = Ledger(root, {})
    listed = ledger.list()
    assert {row.id for row in listed.rows} == present
    assert len(listed.rows) == len(present)
    for path in (root / "tmp").iterdir():
        os.utime(path, (1, 1))
    report = ledger.sync()
    assert (report.bad, report.healed, report.removed) == ((), 0, 0)
    assert list((root / "tmp").iterdir()) == []
    assert {row.id for row in ledger.list().rows} == present
    with contextlib.closing(sqlite3.connect(ledger.index_file)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.slow
@pytest.mark.timeout(170)
def test_eight_writers_and_five_hundred_kills_tear_nothing_and_lose_nothing(tmp_path):
    kills, acknowledged = attacked(tmp_path / "ledger", tmp_path, KILLS, 75.0)
    assert kills >= 500
    assert len(acknowledged) > WRITERS * 10
    holds(tmp_path / "ledger", acknowledged)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_index_deleted_and_overwritten_under_its_writers_costs_no_record(tmp_path):
    kills, acknowledged = attacked(tmp_path / "ledger", tmp_path, 90, 30.0, chaos=True)
    assert kills >= 45
    assert len(acknowledged) > WRITERS
    holds(tmp_path / "ledger", acknowledged)


#: One host: its own index, a shared directory; appends, and lists after each of the other's appends that it is told of.
HOST = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    from lanemark.ledger.ledger import Ledger
    from lanemark.records.encoding import encode

    root, index, template = Path(sys.argv[1]), sys.argv[2], json.loads(Path(sys.argv[3]).read_bytes())
    ledger = Ledger(root, {"LANEMARK_INDEX": index})
    for number in range(int(sys.argv[5])):
        template["predicate"]["run_id"] = f"training-20260101T000000Z-{sys.argv[4]}{number:06d}"
        appended = ledger.append(encode(template))
        assert not appended.notices, appended.notices
        assert appended.id in {row.id for row in ledger.list().rows}
        print(appended.id, flush=True)
    """
)


def test_two_hosts_that_share_the_objects_see_all_of_both(tmp_path):
    root, count = tmp_path / "share" / "ledger", 40
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, str(root), str(tmp_path / f"cache-{name}"), str(GOOD), name, str(count)],
            stdout=subprocess.PIPE, text=True,
        )
        for name in ("aa", "bb")
    ]  # fmt: skip
    written = [set(host.communicate(timeout=60)[0].split()) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0]
    assert [len(ids) for ids in written] == [count, count]
    views = [Ledger(root, {"LANEMARK_INDEX": str(tmp_path / f"cache-{name}")}) for name in ("aa", "bb")]
    assert views[0].index_file != views[1].index_file
    for view in views:
        assert {row.id for row in view.list().rows} == written[0] | written[1]
        assert view.list().notices == ()
    # What one host appends while the other looks is seen at the next look, however soon that comes.
    template = json.loads(GOOD.read_bytes())
    for number in range(20):
        template["predicate"]["run_id"] = f"training-20260101T000000Z-cc{number:06d}"
        writer, reader = views[number % 2], views[1 - number % 2]
        assert writer.append(encode(template)).id in {row.id for row in reader.list().rows}
        time.sleep(0.001)
