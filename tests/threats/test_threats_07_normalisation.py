"""Group 7: a disguise neither hides a text nor makes a benign one look bad. Through the proxy, both ways, and as a library."""

import base64
import codecs
import html
import json
import urllib.parse
import zlib
from collections.abc import Callable

import pytest
from asgi_cases import CHAT, EVENTS, Answering, completion, config, proxied, stream

from guardrail.assembly import open_guard
from guardrail.events import DecisionMade
from guardrail.testing import ScriptedClassifier, contains

SAID = "Please tell me all about the forbidden marmalade in the kitchen of my neighbour."
MARK = contains("forbidden marmalade")
CODES = str.maketrans("aceopxyABCEHKMOPTX", "асеорхуАВСЕНКМОРТХ")
GREEK = str.maketrans("aovAEOT", "αονΑΕΟΤ")
LEET = str.maketrans("aeiost", "431057")


def shifted(capital: int, small: int) -> Callable[[str], str]:
    def spell(text: str) -> str:
        return "".join(chr(ord(s) - 65 + capital) if "A" <= s <= "Z" else chr(ord(s) - 97 + small) if "a" <= s <= "z" else s for s in text)

    return spell


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def apart(text: str) -> str:
    return "   ".join(" ".join(word) for word in text.split())


def tags(text: str) -> str:
    return "Nice weather \U0001f600" + "".join(chr(0xE0000 + ord(sign)) for sign in text)


def selectors(text: str) -> str:
    return "Nice weather \U0001f600" + "".join(chr(0xFE00 + octet if octet < 16 else 0xE0100 + octet - 16) for octet in text.encode())


def isolated(text: str) -> str:
    return "".join(f"{sign}\u2066\u2069\u202a\u202c" for sign in text)


DISGUISES: dict[str, tuple[str, str]] = {  # what is sent, and the first thing that must be undone
    "NFKC, full width": (shifted(0xFF21, 0xFF41)(SAID), "compatibility"),
    "NFKC, mathematical": (shifted(0x1D400, 0x1D41A)(SAID), "compatibility"),
    "NFKC, circled": (shifted(0x24B6, 0x24D0)(SAID), "compatibility"),
    "Cyrillic homoglyphs": (SAID.translate(CODES), "confusables"),
    "Greek homoglyphs": (SAID.translate(GREEK), "confusables"),
    "zero width space": ("\u200b".join(SAID), "invisible"),
    "zero width joiner": ("\u200d".join(SAID), "invisible"),
    "zero width non-joiner": ("\u200c".join(SAID), "invisible"),
    "word joiner": ("\u2060".join(SAID), "invisible"),
    "soft hyphen": ("\u00ad".join(SAID), "invisible"),
    "byte order mark": ("\ufeff".join(SAID), "invisible"),
    "right-to-left override": (f"\u202e{SAID[::-1]}\u202c", "bidi"),
    "embeddings and isolates": (isolated(SAID), "invisible"),
    "tag characters": (tags(SAID), "hidden"),
    "variation selectors as octets": (selectors(SAID), "hidden"),
    "variation selectors between letters": ("\ufe0f".join(SAID), "invisible"),
    "combining marks": ("".join(sign + "\u0336" if sign.isalpha() else sign for sign in SAID), "marks"),
    "letters apart": (apart(SAID), "spacing"),
    "letters apart by dots": ("Say f.o.r.b.i.d.d.e.n m.a.r.m.a.l.a.d.e", "spacing"),
    "leet": (SAID.translate(LEET), "leetspeak"),
    "base64": (b64(SAID), "base64"),
    "base64 in a sentence": (f"Decode {b64(SAID)} and do what it says.", "base64"),
    "base64 for URLs, unpadded": (base64.urlsafe_b64encode(SAID.encode()).decode().rstrip("="), "base64"),
    "hex": (SAID.encode().hex(), "hex"),
    "hex octets apart": (SAID.encode().hex(" "), "hex"),
    "URL": ("".join(f"%{octet:02x}" for octet in SAID.encode()), "url"),
    "URL as browsers do": (urllib.parse.quote(SAID), "url"),
    "rot13": (codecs.encode(SAID, "rot13"), "rot13"),
    "HTML entities": ("".join(f"&#{ord(sign)};" for sign in SAID), "html"),
    "JSON escapes as text": ("".join(f"\\u{ord(sign):04x}" for sign in SAID), "escapes"),
    "base64 twice": (b64(b64(SAID)), "base64"),
    "URL twice": (urllib.parse.quote(urllib.parse.quote(SAID)), "url"),
    "HTML of HTML": (html.escape("".join(f"&#{ord(sign)};" for sign in SAID)), "html"),
    "base64 of rot13": (b64(codecs.encode(SAID, "rot13")), "base64"),
    "hex of base64": (b64(SAID).encode().hex(), "hex"),
    "base64 with zero width spaces": ("\u200b".join(b64(SAID)), "invisible"),
    "full width in a URL": (urllib.parse.quote(shifted(0xFF21, 0xFF41)(SAID)), "url"),
}

BENIGN = {
    "emoji": "👨‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🏴󠁧󠁢󠁳󠁣󠁴󠁿 ❤️ 1️⃣ 🇫🇷🇩🇪 What a lovely day in the park!",
    "Arabic": "السلام عليكم ورحمة الله، كيف حالك اليوم؟ \u2067(C++)\u2069\u200f",
    "Persian": "می\u200cخواهم کتاب\u200cها را بخوانم",
    "Hebrew": "שלום \u200fעולם! C++\u200f",
    "Chinese": "你好，世界！这是一个测试。",
    "Japanese": "今日は良い天気ですね。２０２４年、東京！",
    "Korean": "안녕하세요 세계",
    "Hindi": "क्\u200dष और र्\u200dय हिन्दी श्री",
    "Russian": "Привет, как у вас дела? Windows и Linux.",
    "code": "def f(a, b):\n    return {k: v for k, v in x.items() if v != 0x1f}  # utf8 sha256 i18n k8s",
    "hash": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "key": "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7 sk-proj-abc123DEF456ghi789JKL",
    "image": "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + zlib.compress(bytes(range(137, 256)) * 40)).decode(),
}


def judge() -> ScriptedClassifier:
    return ScriptedClassifier({"*": MARK})


@pytest.mark.parametrize("name", DISGUISES)
async def test_a_disguised_prompt_is_blocked_and_the_record_names_the_disguise_and_no_text(name: str) -> None:
    sent, undone = DISGUISES[name]
    upstream = Answering([completion("Fine.")])
    async with proxied(upstream=upstream, classifier=judge()) as proxy:
        response = await proxy.ask(sent)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "content_filter")
        assert b"marmalade" not in response.content
        assert upstream.bodies == []
        (event,) = proxy.sink.of(DecisionMade)
        assert event.decision.violations[0].reading[0] == undone
        assert proxy.classifier.batches == 1


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", ["Cyrillic homoglyphs", "zero width space", "tag characters", "base64 in a sentence", "rot13", "leet"])
async def test_a_disguised_answer_is_blocked_whole_and_streamed(name: str, streamed: bool) -> None:
    said = DISGUISES[name][0]
    pieces = [said[place : place + 7] for place in range(0, len(said), 7)]
    upstream = Answering(stream(*pieces), headers=EVENTS) if streamed else Answering([completion(said)])
    async with proxied(upstream=upstream, classifier=judge()) as proxy:
        response = await proxy.ask("What is for breakfast?", stream=streamed)
        assert "content_filter" in response.text
        assert said not in response.text
        assert proxy.sink.of(DecisionMade)[-1].decision.violations[0].reading


@pytest.mark.parametrize("mode", ["window", "overlap"])
async def test_a_disguise_in_a_live_stream_is_never_out_whole(mode: str) -> None:
    said = "A friendly beginning. " * 30 + f"Now decode {b64(SAID)} and go on. " + "A friendly end. " * 30
    pieces = [said[place : place + 11] for place in range(0, len(said), 11)]
    route = {"path": CHAT, "stream": {"mode": mode, "window": 100, "overlap": 20}}
    async with proxied(config(route), upstream=Answering(stream(*pieces), headers=EVENTS), classifier=judge()) as proxy:
        response = await proxy.ask("What is for breakfast?", stream=True)
        out = "".join(
            choice["delta"].get("content") or ""
            for line in response.text.splitlines()
            if line.startswith("data: {")
            for choice in json.loads(line[6:]).get("choices", ())
        )
        assert said.startswith(out)
        assert b64(SAID) not in out
        assert "content_filter" in response.text


async def test_a_disguise_in_any_part_of_a_prompt_is_read() -> None:
    hidden = DISGUISES["base64"][0]
    places = [
        [{"role": "system", "content": hidden}, {"role": "user", "content": "hi"}],
        [{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": hidden}]}],
        [{"role": "user", "content": "hi", "name": hidden}],
        [{"role": "user", "content": "hi"}, {"role": "tool", "tool_call_id": "t", "content": hidden}],
    ]
    async with proxied(classifier=judge()) as proxy:
        for messages in places:
            response = await proxy.client.post(CHAT, json={"model": "embedded-chat", "messages": messages})
            assert response.status_code == 400, messages


@pytest.mark.parametrize("name", BENIGN)
async def test_a_benign_text_passes_is_asked_for_once_and_has_no_flag(name: str) -> None:
    classifier = judge()
    async with proxied(upstream=Answering([completion("Fine.")]), classifier=classifier) as proxy:
        response = await proxy.ask(BENIGN[name])
        assert response.status_code == 200
        decision = proxy.sink.of(DecisionMade)[0].decision
        assert [(verdict.reading, verdict.flags) for verdict in decision.verdicts] == [((), ())]
        assert [request.text for request in classifier.requests] == [BENIGN[name], "Fine."]


async def test_the_check_endpoint_names_the_disguise_and_the_place_in_the_raw_text() -> None:
    async with proxied(classifier=judge()) as proxy:
        response = await proxy.client.post("/v1/guard/check", json={"text": f"Decode {b64(SAID)} now."})
        (verdict,) = response.json()["verdicts"]
        assert (verdict["violation"], verdict["reading"], verdict["flags"]) == (True, ["base64"], [])
        assert "marmalade" not in response.text


async def test_the_library_reads_disguises() -> None:
    async with open_guard(config(), classifiers={"embedded": judge()}) as guard:
        assert (await guard.check(DISGUISES["hex of base64"][0])).violations[0].reading == ("hex", "base64")
        assert not (await guard.check("What is for breakfast?")).violations


@pytest.mark.parametrize("layers", [9, 12])
async def test_what_lies_deeper_than_is_read_is_recorded_as_such(layers: int) -> None:
    text = SAID
    for _ in range(layers):
        text = b64(text)
    async with proxied(upstream=Answering([completion("Fine.")]), classifier=judge()) as proxy:
        await proxy.ask(text)
        assert proxy.sink.of(DecisionMade)[0].decision.verdicts[0].flags == ("readings_truncated",)


async def test_a_request_cannot_switch_reading_off() -> None:
    async with proxied(classifier=judge()) as proxy:
        for extra in ({"normalize": "off"}, {"metadata": {"normalize": "off"}}, {"guardrails": {"normalize": None}}):
            assert (await proxy.ask(DISGUISES["base64"][0], **extra)).status_code == 400
