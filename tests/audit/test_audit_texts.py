"""Texts of a store that are judged again: whole ones of the policy alone, each once, the newest first."""

from pathlib import Path

from audit_cases import event, verdict

from guardrail.audit.keys import Secrets, open_keys
from guardrail.audit.sink import AuditSink, SinkSettings
from guardrail.audit.store import AuditReader
from guardrail.audit.writer import WriterSettings
from guardrail.evaluation.stored_texts import stored_texts
from guardrail.types import Audit, Stage

SECRETS = Secrets("a secret of the tests that is long enough", "another secret of the tests for texts")
FULL = Audit(content="full")


def test_whole_texts_of_the_policy_are_given_once(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    sink = AuditSink(path, SECRETS, SinkSettings(60.0, WriterSettings(synchronous="off", close_s=60.0)), lambda _: None)
    sink.start()
    for made in (
        event(id="d1", text="one", audit=FULL),
        event(id="d2", text="two", audit=FULL, stage=Stage.OUTPUT),
        event(id="d3", text="one", audit=FULL),
        event(verdict("other"), id="d4", text="of another policy", audit=FULL),
        event(id="d5", text="redacted", audit=Audit(content="redacted")),
        event(id="d6", text="not kept"),
    ):
        sink.emit(made)
    sink.close()
    reader = AuditReader(path, open_keys(path, SECRETS))
    found = stored_texts(reader, "violence", most=10)
    assert [(each.id, each.text, each.stage) for each in found] == [
        ("d3:messages[0].content", "one", Stage.INPUT),
        ("d2:messages[0].content", "two", Stage.OUTPUT),
    ]
    assert [each.text for each in stored_texts(reader, "violence", most=1)] == ["one"]
    assert stored_texts(AuditReader(path), "violence", most=10) == []
