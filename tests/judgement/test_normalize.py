"""Readings: every disguise comes off, what is none stays as it is, and the way back leads into the raw text."""

import base64
import codecs
import hashlib
import re
import sys
import urllib.parse
import uuid
import zlib
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from guardrail.normalize import Readings, readings
from guardrail.types import ReadingLimits, Span

TEXT = "You are a worthless idiot and everyone in this office hates you."
LIMITS = ReadingLimits()
FLAGS = {chr(ord("a") + place): chr(0x1F1E6 + place) for place in range(26)}
ANY = st.text(
    st.characters(codec="utf-8")
    | st.sampled_from("a b.0149@$!%&#;=\\ux{}-_/+\n\u00ad\u200b\u200d\u202e\ufe0f\U000e0041\U000e007f\u0336аеоα👍🇦")
)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def shifted(text: str, capital: int, small: int) -> str:
    return "".join(chr(ord(s) - 65 + capital) if s.isupper() else chr(ord(s) - 97 + small) if s.islower() else s for s in text)


def selectors(text: str) -> str:
    return "".join(chr(0xFE00 + octet if octet < 16 else 0xE0100 + octet - 16) for octet in text.encode())


DISGUISES = {
    "mathematical": (shifted(TEXT, 0x1D400, 0x1D41A), ("compatibility",)),
    "full width": (shifted(TEXT, 0xFF21, 0xFF41), ("compatibility",)),
    "circled": (shifted(TEXT, 0x24B6, 0x24D0), ("compatibility",)),
    "Cyrillic": (TEXT.translate(str.maketrans("aeocp", "аеоср")), ("confusables",)),
    "Greek": (TEXT.translate(str.maketrans("aov", "αον")), ("confusables",)),
    "zero width": ("\u200b".join(TEXT), ("invisible",)),
    "soft hyphens": ("\u00ad".join(TEXT), ("invisible",)),
    "joiners": ("\u200d".join(TEXT), ("invisible",)),
    "override": (f"\u202e{TEXT[::-1]}\u202c", ("bidi",)),
    "struck through": ("".join(s + "\u0336" if s.isalpha() else s for s in TEXT), ("marks",)),
    "references": ("".join(f"&#{ord(s)};" for s in TEXT), ("html",)),
    "hexadecimal references": ("".join(f"&#x{ord(s):x};" for s in TEXT), ("html",)),
    "URL": (urllib.parse.quote(TEXT), ("url",)),
    "every octet": ("".join(f"%{octet:02X}" for octet in TEXT.encode()), ("url",)),
    "JSON": ("".join(f"\\u{ord(s):04x}" for s in TEXT), ("escapes",)),
    "string": ("".join(f"\\x{ord(s):02x}" for s in TEXT), ("escapes",)),
    "base64": (b64(TEXT), ("base64",)),
    "base64 without padding": (b64(TEXT).rstrip("="), ("base64",)),
    "base64 twice": (b64(b64(TEXT)), ("base64", "base64")),
    "base32": (base64.b32encode(TEXT.encode()).decode(), ("base32",)),
    "hex": (TEXT.encode().hex(), ("hex",)),
    "spaced hex": (TEXT.encode().hex(" "), ("hex",)),
    "binary": (" ".join(f"{octet:08b}" for octet in TEXT.encode()), ("binary",)),
    "rot13": (codecs.encode(TEXT, "rot13"), ("rot13",)),
    "backwards": (TEXT[::-1], ("reversed",)),
    "words backwards": (" ".join(word[::-1] for word in TEXT.split()), ("reversed",)),
    "base64 of hex": (b64(TEXT.encode().hex()), ("base64", "hex")),
    "hex of base64": (b64(TEXT).encode().hex(), ("hex", "base64")),
    "base64 of rot13": (b64(codecs.encode(TEXT, "rot13")), ("base64", "rot13")),
    "rot13 of base64": (codecs.encode(b64(TEXT), "rot13"), ("base64 rot13",)),
    "base64 backwards": (b64(TEXT)[::-1], ("base64 reversed",)),
    "URL of full width": (urllib.parse.quote(shifted(TEXT, 0xFF21, 0xFF41)), ("url", "compatibility")),
    "base64 with zero width": ("\u200b".join(b64(TEXT)), ("invisible", "base64")),
    "hex as rot13": (codecs.encode(TEXT.encode().hex(), "rot13"), ("rot13", "hex")),
    "hex backwards": (TEXT.encode().hex()[::-1], ("reversed", "hex")),
    "base32 as rot13": (codecs.encode(base64.b32encode(TEXT.encode()).decode(), "rot13"), ("rot13", "base32")),
    "base32 backwards": (base64.b32encode(TEXT.encode()).decode()[::-1], ("reversed", "base32")),
    "binary backwards": (" ".join(f"{octet:08b}" for octet in TEXT.encode())[::-1], ("reversed", "binary")),
    "references backwards": ("".join(f"&#{ord(s)};" for s in TEXT)[::-1], ("reversed", "html")),
    "URL as rot13": (codecs.encode("".join(f"%{octet:02X}" for octet in TEXT.encode()), "rot13"), ("rot13", "url")),
    "URL backwards": ("".join(f"%{octet:02X}" for octet in TEXT.encode())[::-1], ("reversed", "url")),
    "JSON as rot13": (codecs.encode("".join(f"\\u{ord(s):04x}" for s in TEXT), "rot13"), ("rot13", "escapes")),
    "JSON backwards": ("".join(f"\\u{ord(s):04x}" for s in TEXT)[::-1], ("reversed", "escapes")),
    "references in JSON": ("".join(f"\\u{ord(s):04x}" for t in TEXT for s in f"&#{ord(t)};"), ("escapes", "html")),
    "rot13 backwards": (codecs.encode(TEXT, "rot13")[::-1], ("rot13 reversed",)),
    "references of references": ("".join(f"&amp;#{ord(s)};" for s in TEXT), ("html", "html")),
}  # fmt: skip

BENIGN = {
    "prose": "Could you help me write a short note to my landlord? The heater broke on Monday; I called twice, and nobody came!",
    "dates": "The 1st, 2nd and 3rd of 5G phones play mp3 at 10am for $20 (covid19, B2B, H2O, A4, web3, e2e, p2p).",
    "abbreviations": "U.S.A. and e.g. i.e. J. R. R. Tolkien at 10 a.m., a, b, c, d; x y z; 1 2 3 4 5 6; A B C D E F G",
    "emoji": "👨‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🏴󠁧󠁢󠁳󠁣󠁴󠁿 ❤️ 1️⃣ #️⃣ 🇫🇷🇩🇪🇮🇹 ☺︎ 🧑🏿‍🚀 ✌🏽️",
    "Arabic": "السلام عليكم ورحمة الله، كيف حالك اليوم؟ \u2067(C++)\u2069\u200f",
    "vowelled Arabic": "بِسْمِ اللَّهِ الرَّحْمٰنِ الرَّحِيمِ",
    "Persian": "می\u200cخواهم کتاب\u200cها را بخوانم",
    "Hebrew": "שלום \u200fעולם! C++\u200f",
    "pointed Hebrew": "שָׁלוֹם עֲלֵיכֶם",
    "Japanese": "今日は良い天気ですね。２０２４年、東京！",
    "Chinese": "你好，世界！这是一个测试。葛\U000e0100飾区",
    "Korean": "안녕하세요 세계",
    "Hindi": "क्\u200dष और र्\u200dय हिन्दी श्री",
    "Bengali": "ক্\u200cষ বাংলা",
    "Thai": "สวัสดี\u200bครับ",
    "Russian": "Привет, как у вас дела? Он не с ней, а я о нём. Windows и Linux.",
    "Greek": "Καλημέρα σας, τι κάνετε; Ο και η το",
    "German": "Trink nicht so viel Kaffee! Wie geht es dir heute Abend?",
    "Polish": "Dzień dobry, jak się masz? Wszystko w porządku, dziękuję bardzo.",
    "Finnish": "Hyvää päivää, mitä kuuluu? Minulla on kaikki hyvin.",
    "Welsh": "Mae'r tywydd yn braf heddiw, diolch yn fawr iawn i chi am ddod.",
    "Vietnamese": "Xin chào, bạn có khỏe không? Tôi rất vui được gặp bạn.",
    "Turkish": "Işık ılık sütünü içti.",
    "decomposed": "Cafe\u0301 cre\u0300me bru\u0302le\u0301e",
    "maths": "∀x∈ℝ: f(x)=α·x²+β",
    "code": "def f(a, b, c):\n    return {k: v for k, v in x.items() if v != 0x1f}  # utf8 sha256 i18n log4j k8s\nprintf(\"%d%%\\n\", x_1)",
    "query": "SELECT * FROM t WHERE a='b' AND c<>d LIMIT 10; \\x1b[0m",
    "hash": " ".join(hashlib.new(name, b"text").hexdigest() for name in ("md5", "sha1", "sha256", "sha512")),
    "UUID": " ".join(str(uuid.UUID(bytes=hashlib.md5(bytes([place])).digest())) for place in range(40)),
    "token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ."
             "SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c",
    "key": "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7 sk-proj-abc123DEF456ghi789JKL",
    "hex with letters like rot13": "93C5B8B492B34A83C19C6B19B673177367507B44CD7986B4",
    "base64 with letters like rot13": "fBnGJNVabDHKc3F6Q8va7jbVknFd0woX",
    "base32 with letters like English from its end": "KMMFNARLDLETJNTUHW5KC57S5TNI6YXBTQJPRIQ=",
    "image": "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + zlib.compress(hashlib.sha512(b"i").digest() * 9)).decode(),
    "named image": "src=" + base64.b64encode(b"\x89PNG\r\n\x1a\n" + zlib.compress(hashlib.sha512(b"i").digest() * 9)).decode(),
    "named keys": f"API_KEY=sk-proj-abc123DEF456ghi789JKL AWS_SECRET={base64.b64encode(hashlib.sha256(b'k').digest()).decode()} id=0042",
    "address": "https://x.example/?utm_source=newsletter&utm_medium=email&session_identifier=q8Xr2Lw9Tz0Kc5Vb&page_size=20",
    "cookie": f"sessionid={base64.b64encode(hashlib.md5(b's').digest()).decode()}; csrftoken={hashlib.md5(b'c').hexdigest()}; theme=dark",
    "settings": "learning_rate=0.001 max_position_embeddings=8192 attention_dropout=0.0 tie_word_embeddings=true num_hidden_layers=42",
    "long image": base64.b64encode(b"".join(hashlib.sha512(place.to_bytes(4)).digest() for place in range(1500))).decode(),
}  # fmt: skip


def plainest(text: str) -> str:
    return readings(text, limits=LIMITS).found[-1].text


@pytest.mark.parametrize("name", DISGUISES)
def test_a_disguise_comes_off_and_says_which_it_was(name: str) -> None:
    disguised, trace = DISGUISES[name]
    told = readings(disguised, limits=LIMITS)
    assert (told.found[0].text, told.found[0].trace) == (disguised, ())
    assert (told.found[-1].text, told.found[-1].trace) == (TEXT, trace)
    assert told.truncated == ()
    assert len(told.found) <= LIMITS.readings


@pytest.mark.parametrize(
    ("disguised", "plain"),
    [
        ("w a r n i n g", "warning"),
        ("w.a.r.n.i.n.g", "warning"),
        ("w-a-r-n i-n-g", "warn ing"),
        ("h o w  t o  m a k e  a  c a k e", "how to make a cake"),
        ("Say: l.o.s.e.r now", "Say: loser now"),
        ("5tup1d 1d10t, y0u 4re 4 l0s3r", "stupid idiot, you are a loser"),
        ("I h4te you", "I hate you"),
        ("c@ke and $ugar", "cake and sugar"),
        ("Nice \U0001f600" + "".join(chr(0xE0000 + ord(sign)) for sign in "go away"), "Nice  go away "),
        ("Nice \U0001f600" + selectors("go away"), "Nice  go away "),
        (" ".join("".join(map(FLAGS.get, word)) for word in ["you", "silly", "goose"]), "you silly goose"),  # type: ignore[arg-type]
        ("ᴀ 🅱🅸🅶 ⒷⒾⒼ cake", "a BIG BIG cake"),
        (codecs.encode("y0u 4r3 a w0rthl355 1d10t 4nd 3v3ry0n3 kn0w5 th4t", "rot13"), "you are a worthless idiot and everyone knows that"),
        ("\u200b".join(selectors("go away")), " go away "),
        (codecs.encode("you are a worthless idiot", "rot13").translate(str.maketrans("aeo", "430")), "you are a worthless idiot"),
        ("З о u   а r е   а   s i l l у   р е r s о n   t о d а у".replace("З", "Y"), "You are a silly person today"),
        ("lbh1ner1n1jbeguyrff1vqvbg jubz1abobql1urer1yvxrf", "you1are1a1worthless1idiot whom1nobody1here1likes"),
        ("con\ufb01dent", "confident"),
        ("роог soul", "poor soul"),
    ],
)
def test_words_in_pieces_come_together(disguised: str, plain: str) -> None:
    assert plainest(disguised) == plain


BESIDE = {
    "a line before base64": f"Instructions\n{b64(TEXT)}",
    "a line before base64 that shifts it": f"Following\n{b64(TEXT)}",
    "a line behind base64": f"{b64(TEXT)[:-2]}\ntranslate the above",
    "lines around base64": f"Following\n{b64(TEXT)[:-2]}\nInstructions",
    "lines of base64": "Instructions\n" + base64.encodebytes((TEXT + TEXT).encode()).decode(),
    "another code in the line before": f"{b64(b64(b64('how are you today?!')))}\n{b64(TEXT)}",
    "letters before base64": f"abc{b64(TEXT)}",
    **{f"octet {octet:02x} {place}": base64.b64encode(said).decode()
       for octet in (0x00, 0x07, 0xFF)
       for place, said in (("behind", TEXT.encode() + bytes([octet])), ("before", bytes([octet]) + TEXT.encode()),
                           ("around", bytes([octet]) * 40 + TEXT.encode() + bytes([octet]) * 40))},
    "UTF-16": base64.b64encode(TEXT.encode("utf-16")).decode(),
    "an octet behind rot13 of base64": codecs.encode(base64.b64encode(TEXT.encode() + b"\xff").decode(), "rot13"),
    "an octet within base64 of base64": b64(base64.b64encode(TEXT.encode() + b"\xff").decode()),
    "digits behind hex": TEXT.encode().hex() + " deadbeef",
    "digits before hex": "ad " + TEXT.encode().hex(),
    "digits around hex": f"ff {TEXT.encode().hex()} ff",
    "ones before binary": "11111111 " + " ".join(f"{octet:08b}" for octet in TEXT.encode()),
    "ones behind binary": " ".join(f"{octet:08b}" for octet in TEXT.encode()) + " 11111111",
    "letters behind base32": base64.b32encode(TEXT.encode()).decode().rstrip("=") + "77",
    "letters before base32": "ABC" + base64.b32encode(TEXT.encode()).decode(),
    "a short name before base64": f"x={b64(TEXT)}",
    "a long name before base64": f"attachment={b64(TEXT)}",
    "names before base64": f"let a_value=b=='{b64(TEXT)}'",
    "a query around base64": f"https://x.example/search?q={b64(TEXT).rstrip('=')}&lang=en",
    "an address before base64": f"data:text/plain;base64,{b64(TEXT)}",
    "letters behind the padding of base64": f"{b64(TEXT)}next",
    "base64 behind the padding of base64": base64.b64encode(b"\xff" * 40).decode() + b64(TEXT),
    "a name before base64 backwards": f"x={b64(TEXT)[::-1]}",
    "a name before rot13 of base64": f"x={codecs.encode(b64(TEXT), 'rot13')}",
    "a name before base32": f"x={base64.b32encode(TEXT.encode()).decode()}",
    "a name before base32 backwards": f"x={base64.b32encode(TEXT.encode()).decode()[::-1]}",
    "a name before rot13 of base32": f"x={codecs.encode(base64.b32encode(TEXT.encode()).decode(), 'rot13')}",
    "a name before hex": f"x={TEXT.encode().hex()}",
    "no UTF-8 behind a URL": "".join(f"%{octet:02x}" for octet in TEXT.encode()) + "%ff",
    "no UTF-8 before a URL": "%C3" + "".join(f"%{octet:02X}" for octet in TEXT.encode()),
    "a control character in a URL": "%07" + "".join(f"%{octet:02x}" for octet in TEXT.encode()),
    "a control character in JSON": "\\u0007" + "".join(f"\\u{ord(s):04x}" for s in TEXT),
    "half a character in JSON": "".join(f"\\u{ord(s):04x}" for s in TEXT) + "\\ud83d",
    "no character in a program": "".join(f"\\U{ord(s):08x}" for s in TEXT) + "\\U00110000",
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_a_code_does_not_hide_it(name: str) -> None:
    assert TEXT[:-1] in plainest(BESIDE[name])


def nested(text: str, layers: int) -> str:
    for _ in range(layers):
        text = b64(text)
    return text


DECOYS = {
    "base64": nested("how are you today", 9),
    "one of each": "  ".join(
        DISGUISES[name][0].replace("\n", " ")
        for name in ("hex", "binary", "base32", "JSON", "every octet", "references", "hex as rot13", "base32 backwards", "full width")
    ),
    "references": "&" + "amp;" * 12 + "#97;",
    "both": nested("how are you today", 9) + "  " + "&" + "amp;" * 12 + "#97;  " + nested("how are you today", 4).encode().hex(),
}
BESIDE_DECOYS = "please tell me how to make a marmalade for the children at home"
PAYLOADS = {
    "rot13": codecs.encode(BESIDE_DECOYS, "rot13"),
    "figures": "pl3453 73ll m3 h0w 70 m4k3 4 marmalade f0r 7h3 ch1ldr3n 47 h0m3",
    "apart": "h o w  t o  m a k e  m a r m a l a d e",
    "backwards": BESIDE_DECOYS[::-1],
    "base64": b64(BESIDE_DECOYS),
    "base64 of hex": b64(BESIDE_DECOYS.encode().hex()),
    "base64 of rot13": b64(codecs.encode(BESIDE_DECOYS, "rot13")),
}


@pytest.mark.parametrize("decoy", DECOYS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_decoy_that_uses_up_the_depth_keeps_nothing_beside_it_from_being_read(payload: str, decoy: str) -> None:
    for text in (f"{PAYLOADS[payload]}\n\n{DECOYS[decoy]}", f"{DECOYS[decoy]}\n\n{PAYLOADS[payload]}"):
        told = readings(text, limits=LIMITS)
        assert any("marmalade" in reading.text and "how to make" in reading.text for reading in told.found[1:])


def test_however_many_codes_stand_before_it_a_nested_one_is_read() -> None:
    """What a bound on their number left out could be hidden behind decoys; what takes too long is an error instead."""
    decoys = " ".join(b64(f"zqxj kvwp {place}") for place in range(1_500))
    told = readings(f"{decoys} {b64(b64(TEXT))}", limits=LIMITS)
    assert told.found[-1].text.endswith(TEXT)
    assert told.truncated == ()


def test_junk_between_the_words_of_a_code_does_not_hide_them() -> None:
    read = plainest(base64.b64encode(TEXT.encode().replace(b" ", b"\xff")).decode())
    assert read.split("\ufffd") == TEXT.split()


@pytest.mark.parametrize("name", BENIGN)
def test_what_is_no_disguise_has_one_reading(name: str) -> None:
    told = readings(BENIGN[name], limits=LIMITS)
    assert [(reading.trace, reading.text) for reading in told.found] == [((), BENIGN[name])]
    assert told.truncated == ()


def test_a_code_within_a_text_is_read_where_it_stands_and_leads_back_there() -> None:
    code = b64("everyone hates you")
    text = f"Please decode {code} for me."
    reading = readings(text, limits=LIMITS).found[-1]
    assert reading.text == "Please decode everyone hates you for me."
    start = reading.text.index("hates")
    assert reading.raw(Span(start, start + 5)) == Span(14, 14 + len(code))
    assert reading.raw(Span(0, 6)) == Span(0, 6)
    assert text[slice(*_pair(reading.raw(Span(reading.text.index("for"), len(reading.text)))))] == "for me."
    assert reading.touched == Span(14, 14 + len(code))


def test_many_codes_in_a_text_make_one_reading() -> None:
    text = " and ".join(b64(f"message number {place} says go away") for place in range(50))
    told = readings(text, limits=LIMITS)
    assert len(told.found) == 2
    assert told.found[-1].text.count("go away") == 50


def test_junk_around_a_message_does_not_hide_it() -> None:
    for junk in ("qzx vkj " * 200, "0123456789 " * 100):
        assert TEXT in plainest(b64(junk + TEXT + junk))


@pytest.mark.parametrize("layers", range(1, LIMITS.depth + 3))
def test_what_lies_too_deep_is_told(layers: int) -> None:
    text = TEXT
    for _ in range(layers):
        text = b64(text)
    told = readings(text, limits=LIMITS)
    assert (told.found[-1].text == TEXT) == (layers <= LIMITS.depth)
    if layers > LIMITS.depth:
        assert told.truncated == ("depth",)


def test_limits_hold_and_are_told() -> None:
    text = b64("u0y 4re 4n 1d10t and " + codecs.encode("everybody knows that very well", "rot13"))
    whole = readings(text, limits=LIMITS)
    assert whole.truncated == ()
    assert len(whole.found) > 2
    two = readings(text, limits=ReadingLimits(readings=2))
    assert [reading.text for reading in two.found] == [text, whole.found[-1].text]
    assert two.truncated == ("readings",)
    assert readings(b64(text), limits=ReadingLimits(depth=1)).truncated == ("depth",)
    assert readings(text, limits=ReadingLimits(characters=20)) == Readings((whole.found[0],), ("characters",))


@settings(max_examples=120, deadline=None)
@given(ANY | ANY.map(b64) | ANY.map(lambda text: text.encode().hex()) | ANY.map("\u200b".join) | ANY.map(urllib.parse.quote))
@example("\U0001f3f4" + "".join(chr(0xE0000 + ord(sign)) for sign in "gbsct") + "\U000e007f")
@example("\ud800 \\ud800 &#xd800; %ed%a0%80")
@example("&#1114112; &#0; \\U00110000 %00")
def test_nothing_raises_the_raw_text_is_first_and_all_stays_within_bounds(text: str) -> None:
    told = readings(text, limits=LIMITS)
    assert (told.found[0].text, told.found[0].trace) == (text, ())
    assert len({reading.text for reading in told.found}) == len(told.found) <= LIMITS.readings
    assert sum(len(reading.text) for reading in told.found[1:]) <= LIMITS.characters
    assert told == readings(text, limits=LIMITS)
    for reading in told.found:
        assert max(Counter(reading.trace).values(), default=0) <= 2 * LIMITS.depth  # codes and words are turned under one name
        places = [reading.raw(Span(place, place + 1)) for place in range(len(reading.text))]
        assert all(0 <= place.start <= place.end <= len(text) for place in places)
        whole = reading.raw(Span(0, len(reading.text)))
        assert 0 <= whole.start <= whole.end <= len(text)
        # A replaced stretch counts whole, so what stands later never leads back to somewhere earlier.
        assert [place.start for place in places] == sorted(place.start for place in places)
        assert [place.end for place in places] == sorted(place.end for place in places)


def test_messages_within_messages_are_found() -> None:
    inner = "Nice " + "".join(chr(0xE0000 + ord(sign)) for sign in TEXT)
    assert TEXT in plainest("Sun \U0001f600" + selectors(inner))


def test_what_reads_as_badly_from_either_end_is_turned_once() -> None:
    told = readings("|eht fo| |gnidaer eht| " * 6 + "the reading of the " * 5, limits=LIMITS)
    assert all(len(set(reading.trace)) == len(reading.trace) for reading in told.found)
    assert len(told.found) == 1 or told.truncated == ("depth",)


@settings(max_examples=60, deadline=None)
@given(ANY)
def test_the_plainest_reading_has_nothing_left_to_undo(text: str) -> None:
    told = readings(text, limits=LIMITS)
    if not told.truncated:
        assert [reading.text for reading in readings(told.found[-1].text, limits=LIMITS).found] == [told.found[-1].text]


WORDS = re.findall(
    r"\w+",
    "the garden needs water after a dry week and we plan to visit friends near lake town on sunday while our children play chess "
    "with music from an old radio because nobody wants rain during this long holiday",
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=60), st.sampled_from([" ", ", ", ". ", "\n", " - "]))
def test_plain_prose_has_one_reading(words: list[str], gap: str) -> None:
    assert len(readings(gap.join(words).capitalize() + ".", limits=LIMITS).found) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=12, max_size=400),
    st.sampled_from([base64.b64encode, base64.urlsafe_b64encode, base64.b32encode, base64.b16encode]),
    st.sampled_from(["", "x=", "key="]),
)
def test_random_octets_are_never_read(octets: bytes, encode, name: str) -> None:  # type: ignore[no-untyped-def]
    octets = hashlib.shake_256(octets).digest(max(24, len(octets)))
    assert len(readings(name + encode(octets).decode(), limits=LIMITS).found) == 1


@pytest.mark.parametrize(
    "unit",
    ["a b ", "%", "%61", "&", "&a", "\\", "\\u0061", "1a", "k1ll ", "=", "A", "a\u200d", "\u200b", "\U000e0041", "\U0001f3f4", "\u202ea",
     "аb ",
     "a\u0336", "\U0001f1e6", "a.", "-", "a / ", "!a", "a | b ", "61 ", "01", "Lbh ner ", "a\n", "🏴\U000e0067"],
)  # fmt: skip
def test_the_work_grows_with_the_length_alone(unit: str) -> None:
    def calls(length: int) -> int:
        counted = Counter[str]()
        sys.setprofile(lambda frame, event, argument: counted.update((event,)))
        readings((unit * length)[:length], limits=LIMITS)
        sys.setprofile(None)
        return counted["call"] + counted["c_call"]

    assert calls(4_000) < 5 * calls(1_000) + 500


def _pair(span: Span) -> tuple[int, int]:
    return span.start, span.end


@pytest.mark.parametrize("code", [nested("zqxj kvwp", 5), b64(TEXT), TEXT.encode().hex()])
def test_reading_ends_at_the_deadline_within_a_text_of_many_codes(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter(range(1_000_000))
    monkeypatch.setattr("guardrail.normalize.offsets.time", SimpleNamespace(monotonic=lambda: next(looks)))  # other threads keep theirs
    with pytest.raises(TimeoutError):
        readings(f"{code} " * 500, limits=LIMITS, deadline=5)
    assert next(looks) == 6
    assert readings(TEXT, limits=LIMITS).truncated == ()  # the deadline was that text's alone
