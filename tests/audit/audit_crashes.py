"""Processes that are killed in the midst of writing, and what their stores say afterwards.

`python tests/audit/audit_crashes.py 200 REPORT.md` kills so many and writes down what was found.
"""

import platform
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from guardrail.audit.keys import Secrets, open_keys
from guardrail.audit.store import AuditReader
from guardrail.audit.verify import verify
from guardrail.audit.writer import AuditWriter, WriterSettings

HERE = Path(__file__).parent
SECRETS = Secrets("a secret of the tests that is long enough")

WRITING = """
import itertools, os, sys, time
from functools import partial
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from audit_cases import event
from audit_crashes import SECRETS
from guardrail.audit.made import record_of
from guardrail.audit.row import Entry
from guardrail.audit.writer import AuditWriter, Item, WriterSettings

def kept(number, in_store):
    if in_store:
        os.write(1, b"kept %d\\n" % number)

writer = AuditWriter(Path(sys.argv[1]), SECRETS, WriterSettings(queue=500, synchronous="normal", linger_s=0.001))
writer.start()
for number in itertools.count(1):
    time.sleep(0.0005 * (number % 3))  # so that the writer keeps pace, more or less
    decision = event(id=f"{os.getpid()}-{number}")
    make = lambda key, decision=decision: Entry(record_of(decision, key, time=time.time()))
    writer.put(Item(make, 23, partial(kept, number) if number % 7 == 0 else None))
    os.write(1, b"made %d\\n" % number)
"""


@dataclass(frozen=True, slots=True)
class Crash:
    """One killed process: decisions made, in the store, told lost, told left out; `acknowledged` were kept for sure."""

    made: int
    acknowledged: int
    kept: int
    lost: int
    dropped: int


def crash(path: Path, after: int) -> Crash:
    """Kill a process that writes into the store once it has made so many decisions; start another, and see what it says.

    Raises AssertionError where the chain is broken, an acknowledged record is missing, or a decision is unaccounted for.
    """
    before = _report(path) if path.exists() else (0, 0, 0)
    command = [sys.executable, "-c", WRITING, str(path), str(HERE), str(HERE.parents[1])]
    made, acknowledged = 0, []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            word, _, number = line.partition(" ")
            if not line.endswith("\n"):
                continue  # cut off in the midst of it
            if word == "made":
                made = int(number)
                if made == after:
                    process.kill()
            else:
                acknowledged.append(f"{process.pid}-{int(number)}")
    assert process.returncode == -signal.SIGKILL, process.returncode
    after_it = AuditWriter(path, SECRETS, WriterSettings(synchronous="off"))
    after_it.start()
    after_it.close()
    kept, lost, dropped = (now - then for now, then in zip(_report(path), before, strict=True))
    assert made <= kept + lost + dropped <= made + 1, (made, kept, lost, dropped)  # the last one may not have been said yet
    with closing(sqlite3.connect(path)) as connection:
        there = {row[0] for row in connection.execute("SELECT id FROM records WHERE id LIKE ?", (f"{process.pid}-%",))}
    assert there >= set(acknowledged), set(acknowledged) - there
    assert list(path.parent.glob("*writer*")) == []
    return Crash(made, len(acknowledged), kept, lost, dropped)


def _report(path: Path) -> tuple[int, int, int]:
    keys = open_keys(path, SECRETS)
    found = verify(AuditReader(path, keys), keys.chains)
    assert found.damage is None, found.damage
    return found.records, found.lost, found.dropped


def main(count: int, report: Path) -> None:
    """Kill `count` processes at random moments, twenty on each store."""
    chance = random.Random(20261122)
    crashes = []
    for _ in range(0, count, 20):
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(min(20, count - len(crashes))):
                crashes.append(crash(Path(folder) / "audit.db", int(chance.expovariate(1 / 400)) + 1))
                print(len(crashes), crashes[-1], flush=True)
    total = [sum(getattr(each, name) for each in crashes) for name in Crash.__slots__]
    worst = max(each.lost for each in crashes)
    report.write_text(
        f"""# Audit store: processes killed while writing

`python tests/audit/audit_crashes.py {count} {report}`
on {platform.machine()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}.

{count} processes were killed (SIGKILL) after a random number of decisions (1 to {max(each.made for each in crashes)}), 20 on each
store, queue of 500, `synchronous: normal`. After each the store was opened again by a new process and verified.

| | records |
|---|---|
| decisions made | {total[0]} |
| in the stores afterwards | {total[2]} |
| told to be lost at the next start | {total[3]} (at most {worst} with one process) |
| left out of the full queue, and told | {total[4]} |
| acknowledged before the kill, and missing | 0 of {total[1]} |
| broken chains | 0 of {count} |
| decisions unaccounted for | 0 |
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
