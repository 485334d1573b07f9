"""Every old version of the store becomes the present one, and nothing in it is lost."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from audit_cases import KEYS, SPANNED, filled, record

from guardrail.audit.ledger import connect
from guardrail.audit.schema import MIGRATIONS, migrate, version_of
from guardrail.audit.store import AuditReader
from guardrail.audit.verify import verify
from guardrail.errors import GuardrailError

ADDED = {2: ("segments", "contents"), 3: ("writers",), 4: (), 5: ()}
OLD_INDEX = "CREATE INDEX records_by_time ON records (time, kind, tenant, route, stage, action, shadow, unjudged, duration_s, violated)"


def schema(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()


def of_version(path: Path, version: int) -> Path:
    """A store as that version wrote it."""
    filled(path, [record(SPANNED), record()])
    with closing(sqlite3.connect(path)) as connection, connection:
        for later in range(version + 1, len(MIGRATIONS) + 1):
            for table in ADDED[later]:
                connection.execute(f"DROP TABLE {table}")
        if 2 <= version < 5:
            connection.execute("ALTER TABLE segments DROP COLUMN damage")
        if version < 4:
            connection.execute("DROP INDEX records_by_time")
            connection.execute(OLD_INDEX)
        connection.execute(f"PRAGMA user_version = {version}")
    return path


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS) + 1))
def test_a_store_of_an_old_version_goes_on(tmp_path: Path, version: int) -> None:
    path = of_version(tmp_path / "audit.db", version)
    before = AuditReader(path, KEYS).find()
    assert [each.genuine for each in before] == [True, True]
    assert version == 1 or verify(AuditReader(path, KEYS), KEYS.chains).damage is None
    filled(path, [record(id="new")])
    assert schema(path) == schema(filled(tmp_path / "fresh.db", []))
    reader = AuditReader(path, KEYS)
    assert reader.find()[1:] == before
    assert (verify(reader, KEYS.chains).damage, verify(reader, KEYS.chains).records) == (None, 3)


@pytest.mark.parametrize("version", range(len(MIGRATIONS) + 1))
def test_each_step_makes_what_its_version_has(tmp_path: Path, version: int) -> None:
    with closing(sqlite3.connect(tmp_path / "stepped.db", isolation_level=None)) as connection:
        migrate(connection, upto=version)
        assert version_of(connection) == version
    if version:
        old = of_version(tmp_path / "old.db", version)
        assert {name for name, _ in schema(tmp_path / "stepped.db")} == {name for name, _ in schema(old)}


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = filled(tmp_path / "audit.db", [record()])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(GuardrailError, match="use a newer one"):
        connect(path)
    with pytest.raises(GuardrailError, match="use the program that wrote it"):
        AuditReader(path).find()
