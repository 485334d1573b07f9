"""Kept texts: what is taken out of them, and who can read the rest."""

from pathlib import Path

from audit_cases import CONTENT_KEY, verdict
from hypothesis import given
from hypothesis import strategies as st

from guardrail.audit.content import digest, opened, redacted, sealed
from guardrail.audit.keys import Secrets, open_keys
from guardrail.types import Part, Span

PARTS = (Part("a", "Meet me at the library.", "user"), Part("b", None, kind="image"), Part("c", "See you.", choice=1))
KEY = b"K" * 32


def said(*verdicts: object) -> list[str | None]:
    return [part.text for part in redacted(PARTS, verdicts)]  # type: ignore[arg-type]


def test_what_violates_is_taken_out_and_the_rest_stays() -> None:
    rest = [None, "See you."]
    assert said(verdict(part="a", score=0.2, span=Span(0, 4))) == ["Meet me at the library.", *rest]
    assert said(verdict(part="a", score=0.9, span=Span(5, 7))) == ["Meet [redacted: violence] at the library.", *rest]
    assert said(verdict(part="a", score=0.9)) == ["[redacted: violence]", *rest]
    assert said(verdict(part="a", score=None)) == ["[redacted: unjudged]", *rest]
    assert said(verdict(part="c", score=0.9)) == ["Meet me at the library.", *rest]  # another choice's
    assert said(verdict(part="c", score=0.9, choice=1))[2] == "[redacted: violence]"


def test_what_violates_in_a_joined_text_is_taken_out_of_its_pieces() -> None:
    pieces = (Part("m[0]", "How do I forbid"), Part("m[2]", "den things, please"))
    whole = Part("m", "How do I forbid\nden things", pieces=(("m[0]", 0, 0), ("m[2]", 16, 0)))
    texts = [part.text for part in redacted((*pieces, whole), [verdict(part="m", score=0.9, span=Span(9, 19))])]
    hidden = "[redacted: violence]"
    assert texts == [f"How do I {hidden}", f"{hidden} things, please", hidden]
    texts = [part.text for part in redacted((*pieces, whole), [verdict(part="m[0]", score=0.9, span=Span(0, 3))])]
    assert texts == [f"{hidden} do I forbid", "den things, please", hidden]  # verdicts on joined texts name the piece that they lie in


@given(st.lists(st.tuples(st.integers(0, 23), st.integers(0, 23)), max_size=4))
def test_no_character_of_a_violating_span_stays(spans: list[tuple[int, int]]) -> None:
    text = "".join(chr(0x2460 + at) for at in range(24))
    found = [verdict("x", 0.9, part="a", span=Span(min(pair), max(pair))) for pair in spans]
    (part,) = redacted((Part("a", text),), found)
    hidden = {at for pair in spans for at in range(min(pair), max(pair))}
    assert {at for at in range(24) if text[at] in (part.text or "")} == set(range(24)) - hidden


def test_only_the_key_and_the_own_record_open_a_text() -> None:
    stored = sealed("d1", PARTS, [CONTENT_KEY, KEY])
    assert b"library" not in stored
    assert opened("d1", stored, [KEY, CONTENT_KEY]) == PARTS
    assert opened("d2", stored, [CONTENT_KEY]) is None
    assert opened("d1", stored, [KEY]) is None
    assert opened("d1", stored[:-1] + bytes([stored[-1] ^ 1]), [CONTENT_KEY]) is None
    assert opened("d1", b"", [CONTENT_KEY]) is None


def test_equal_texts_have_different_digests_so_that_a_dropped_one_cannot_be_guessed() -> None:
    assert digest(sealed("d1", PARTS, [])) != digest(sealed("d1", PARTS, []))
    assert opened("d1", sealed("d1", PARTS, []), []) == PARTS


def test_a_store_without_a_secret_has_a_key_of_its_own_for_hashes(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    assert open_keys(path, Secrets()).texts == ()
    made = open_keys(path, Secrets(), create=True)
    assert made == open_keys(path, Secrets(), create=True)
    own = tmp_path / "audit.db.key"
    assert own.stat().st_mode & 0o777 == 0o600
    assert made.chains.current.key is None
    secret = open_keys(path, Secrets("a secret that is long enough for it"))
    assert secret.texts[1:] == made.texts
    assert "a secret" not in repr(Secrets("a secret that is long enough for it")) + repr(secret)
