"""Texts of an audit store: what was judged under a policy, where the route kept it whole."""

from collections.abc import Iterator

from guardrail.audit.record import AuditRecord
from guardrail.audit.store import AuditReader, Filter
from guardrail.evaluation.policy_comparison import Asked
from guardrail.types import Stage

_PAGE = 500


def stored_texts(reader: AuditReader, policy: str, *, most: int) -> list[Asked]:
    """The newest texts that were judged under a policy, each once, no more than `most`. Redacted ones are left out."""
    found: dict[tuple[Stage, str], Asked] = {}
    for record in _records(reader, policy):
        for part in record.content or ():
            if record.keeps == "full" and part.text and part.text.strip():
                stage = Stage(record.stage)
                found.setdefault((stage, part.text), Asked(f"{record.id}:{part.path}", part.text, stage))
        if len(found) >= most:
            break
    return list(found.values())[:most]


def _records(reader: AuditReader, policy: str) -> Iterator[AuditRecord]:
    before: int | None = None
    while page := reader.find(Filter(policy=policy), _PAGE, before, content=True):
        yield from page
        before = page[-1].sequence
