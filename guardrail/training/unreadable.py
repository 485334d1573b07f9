"""Texts that say nothing as they are spelled: codes, keys, logs, other scripts, and harmless texts in disguise. None violates anything.

The guard reads disguised texts before they are judged (`guardrail.normalize`); what is left to the classifier is the spelling itself, which
must not count as harm. Only harmless texts of our own are spelled here: where a disguise can be read, it would make the label wrong.
"""

import base64
import random
import string
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from guardrail.disguises import DISGUISES

COUNT = 2_400

_WORDS = ("payload", "token", "id", "digest", "cache", "retry", "worker", "user", "size", "offset", "status", "queue", "latency", "path")
_OTHER_SCRIPTS = (
    "今日は天気がいいので、公園でお弁当を食べました。",
    "请问去火车站怎么走?坐几路公交车比较快?",
    "Как приготовить борщ на шесть человек без мяса?",
    "ما هي أفضل طريقة لتعلم لغة جديدة في شهر واحد؟",
    "איפה אפשר לקנות אופניים משומשים בעיר הזאת?",
    "कल सुबह दस बजे मेरी ट्रेन है, स्टेशन कितनी दूर है?",
    "오늘 저녁에 무엇을 요리하면 좋을까요?",
    "Πού μπορώ να παρκάρω κοντά στο μουσείο;",
    "Wie lange muss ein Hefeteig ruhen, bevor man ihn backt?",
    "¿Cuántos días necesito para visitar los museos del centro?",
    "Quel temps fera-t-il demain matin au bord de la mer ?",
    "Kolacja jest o siódmej, kup proszę chleb i mleko.",
    "你好",
    "谢谢",
    "早上好,图书馆几点开门?",
    "ありがとうございます",
    "สวัสดีครับ พรุ่งนี้ว่างไหม",
    "Спасибо, до завтра!",
    "مرحبا، كيف حالك اليوم؟",
    "תודה רבה ולהתראות",
    "धन्यवाद",
    "감사합니다",
    "Guten Morgen zusammen",
    "Muito obrigado pela ajuda!",
    "Hoe laat vertrekt de trein naar Utrecht?",
    "Merhaba, nasılsın?",
    "Cảm ơn bạn rất nhiều",
    "¡Feliz cumpleaños, abuela!",
)
_SHORT = ("ok", "thanks", "lol", "good morning", "see you", "on my way", "great news", "what does this mean?", "let me know", "same here")
_EMOJIS = "😀😂🎉🍕🌧🚀🐙🌻📚⚽🎸🧁🏔🐢🪁🍉👍❤🙏✅😊🤣😭💀🔥💯👀🤔😅🥳💪👋😴🤝🌙☕💔🐍🧨🐶"


def unreadable(seed: int, harmless: Sequence[str], count: int = COUNT) -> Iterator[str]:
    """Yield `count` texts, the same ones for the same seed. `harmless`: texts to disguise; every second one is one of them."""
    rng = random.Random(f"unreadable:{seed}")  # noqa: S311  (sampling, not secrets)
    for number in range(count):
        yield rng.choice(_SPELLINGS)(rng.choice(harmless)) if number % 2 else rng.choice(_MADE)(rng)


def _with_sign(sign: str, text: str) -> str:
    return f"{text} {sign}"


_DISGUISED = {each.name: each.spell for each in DISGUISES}
_SPELLINGS: Sequence[Callable[[str], str]] = (
    *(_DISGUISED[name] for name in ("base64", "base32", "hex")),
    lambda text: text.encode().hex(" ").upper(),
    lambda text: _DISGUISED["binary"](text[:40]),
    *(_DISGUISED[name] for name in ("rot13", "backwards")),
    lambda text: f"\u202e{text[::-1]}\u202c",  # over several lines, too, as the shipped weights learnt it
    *(_DISGUISED[name] for name in ("tags", "selectors", "full width", "mathematical", "letters apart")),
    *(_DISGUISED[name] for name in ("leetspeak", "confusables", "escapes", "url, as browsers do")),
    *(partial(_with_sign, sign) for sign in ("🙏", "👍", "😂", "🌙", "🎉", "❤️")),
)


def _letters(rng: random.Random, alphabet: str, least: int, most: int) -> str:
    return "".join(rng.choices(alphabet, k=rng.randint(least, most)))


def _token(rng: random.Random) -> str:
    return ".".join(_letters(rng, string.ascii_letters + string.digits + "-_", 20, 90) for _ in range(3))


def _key(rng: random.Random) -> str:
    return f"{rng.choice(_WORDS)}={rng.choice(('key-', 'tok_', ''))}{_letters(rng, string.ascii_letters + string.digits, 24, 64)}"


def _hash(rng: random.Random) -> str:
    lines = [_letters(rng, "0123456789abcdef", width, width) for width in rng.choices((32, 40, 64, 128), k=rng.randint(1, 3))]
    return "\n".join(f"{line}  {rng.choice(_WORDS)}.{rng.choice(('bin', 'tar', 'txt'))}" if rng.random() < 0.4 else line for line in lines)


def _log(rng: random.Random) -> str:
    def line() -> str:
        day = f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
        when = f"{day}T{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}Z"
        level = rng.choice(("INFO", "WARN", "DEBUG", "ERROR"))
        said = f"{rng.choice(_WORDS)}[{rng.randint(1, 9999)}]: {rng.choice(_WORDS)}={rng.randint(0, 99999)}"
        return f"{when} {level} {said} {rng.choice(_WORDS)}={uuid.UUID(int=rng.getrandbits(128))}"

    return "\n".join(line() for _ in range(rng.randint(1, 5)))


def _numbers(rng: random.Random) -> str:
    return "\n".join(",".join(str(round(rng.uniform(-99, 9999), 2)) for _ in range(rng.randint(3, 6))) for _ in range(rng.randint(1, 6)))


def _pair(name: str, rng: random.Random) -> str:
    return f"{name}=[{rng.randint(0, 9)},{rng.randint(0, 9)}];"


def _code(rng: random.Random) -> str:
    a, b, c = rng.sample("abcdefghijkmnpqrstuvwxyz", 3)
    first, second = rng.sample(_WORDS, 2)
    return rng.choice(
        (
            f"var {a}=function({b}){{return {b}<{rng.randint(1, 99)}?{b}:{a}({b}-1)+{a}({b}-2)}},{_pair(c, rng)}",
            f"for {a} in range({rng.randint(2, 99)}):\n    {b}.append({first}[{a}] ^ 0x{rng.getrandbits(16):04x})\n",
            f"SELECT {first}, count(*) FROM {second}s WHERE {first}_id IN ({rng.randint(1, 99)}, {rng.randint(1, 99)}) GROUP BY 1;",  # noqa: S608  (a text to be judged)
            f"kill -{rng.choice((9, 15))} $(pgrep -f {first}) && rm -rf ./{second}/*.tmp",
            f'<div class="{first}-{second}"><span id="{a}{rng.randint(1, 999)}">&nbsp;</span></div>',
            f"mov eax, 0x{rng.getrandbits(32):08x}\nxor ebx, ebx\nint 0x80",
        )
    )


_MADE: Sequence[Callable[[random.Random], str]] = (
    _token,
    _key,
    _hash,
    _log,
    _numbers,
    _code,
    lambda rng: str(uuid.UUID(int=rng.getrandbits(128))),
    lambda rng: rng.choice(_OTHER_SCRIPTS),
    lambda rng: "".join(rng.choices(_EMOJIS, k=rng.randint(1, 3))),
    lambda rng: f"{rng.choice(_SHORT)} {rng.choice(_EMOJIS)}",
    lambda rng: _letters(rng, string.ascii_lowercase + " ", 8, 60).strip() or "q",
    lambda rng: "data:image/png;base64," + base64.b64encode(rng.randbytes(rng.randint(60, 200))).decode(),
    lambda rng: " ".join(_letters(rng, string.ascii_letters + string.digits, 2, 14) for _ in range(rng.randint(2, 10))),
)
