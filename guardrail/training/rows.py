"""The rows the embedded classifier may be trained on, with what is known of each under which area.

Only sets that `SETS.json` marks `train_ok` are read, and text that this project wrote. What a set's label means for the eight shipped areas
is our own reading of its card, written down in `_SETS`; a label that says nothing about an area is left unknown, not 0.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from guardrail.training.targets import spoken_of
from guardrail.training.templates import generate
from guardrail.training.unreadable import unreadable

AREAS = ("hate_speech", "harassment", "toxicity", "sexual_content", "self_harm", "violence", "illegal_activity", "prompt_attack")
OWN_TEXT = Path(__file__).parent / "own_text"
WEAK = 0.3  # weight of a label that follows from what a set is about, not from a rater

TEMPLATES = 12_000
LONGEST_SPELLED = 160  # characters of a harmless text that is spelled so that nobody can read it

Known = dict[str, tuple[int, float]]


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A text and what is known of it.

    `known` maps an area to (label, weight of that label in the loss); an area that is missing is unknown. `groups` are the protected
    groups a hateful or neutral text speaks of, `severity` is `threat` or `attack` where a set says so, `topic` an off-topic
    policy's key the text belongs to or (`near`) nearly belongs to. `grounds` are the coarse grounds of an attack (race, religion,
    gender), `addressed` says whether abuse hits the person spoken to, `agreement` the share of raters who found the text toxic, and
    `function` what one of our own texts does with a statement of its `subject`.
    """

    text: str
    known: Mapping[str, tuple[int, float]]
    source: str
    unit: str
    groups: frozenset[str] = frozenset()
    severity: str | None = None
    topic: str | None = None
    near: str | None = None
    complete: bool = field(default=False)
    grounds: frozenset[str] = frozenset()
    addressed: bool | None = None
    agreement: float | None = None
    function: str = ""
    subject: str = ""


def load_rows(data: Path) -> list[TrainingRow]:
    """Every row that may train shipped weights, one a text. `data` holds SETS.json and the sets. Raises FileNotFoundError without it."""
    allowed = {entry["name"] for entry in json.loads((data / "SETS.json").read_text(encoding="utf-8")) if entry["train_ok"]}
    rows: list[TrainingRow] = []
    for name, meaning in _SETS.items():
        if name not in allowed:
            raise PermissionError(f"{data / 'SETS.json'}: {name} is not marked train_ok; it must not train shipped weights")
        merged: dict[str, TrainingRow] = {}
        for raw in _lines(data / f"{name}.jsonl.gz"):
            row = meaning(raw, name)
            if row is None or not row.text.strip():
                continue
            before = merged.get(row.text)
            merged[row.text] = row if before is None else _joined(before, row)
        rows += merged.values()
    return rows + list(own_rows())


def own_rows(*, seed: int = 1, templates: int = TEMPLATES) -> Iterator[TrainingRow]:
    """The text this project wrote itself: labelled for all eight areas. `templates` texts come from filling patterns.

    Those that cannot be read as they are spelled come last, made from the harmless ones among the patterns' texts.
    """
    harmless: list[str] = []
    for raw in generate(seed, templates):
        if not raw["violates"] and len(raw["text"]) <= LONGEST_SPELLED:
            harmless.append(raw["text"])
        yield own_row(raw, "own:templates")
    for path in sorted(OWN_TEXT.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield own_row(json.loads(line), f"own:{path.stem}")
    for text in unreadable(seed, harmless) if harmless else ():
        yield own_row({"text": text, "violates": []}, "own:unreadable")


def own_row(raw: Mapping[str, Any], source: str) -> TrainingRow:
    """One line of our own text."""
    known: Known = {area: (int(area in raw["violates"]), 1.0) for area in AREAS}
    harmful = any(known[area][0] for area in ("illegal_activity", "violence", "self_harm"))
    if harmful or not raw["violates"]:
        known["general_harm"] = (int(harmful), 0.7)
    return TrainingRow(raw["text"], known, source, f"{source}:{raw['text'][:60].lower()}", complete=True)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _joined(one: TrainingRow, other: TrainingRow) -> TrainingRow:
    known = dict(one.known)
    for area, (label, weight) in other.known.items():
        if area not in known or known[area][1] < weight:
            known[area] = (label, weight)
    return replace(
        one,
        known=known,
        groups=one.groups | other.groups,
        severity=one.severity or other.severity,
        grounds=one.grounds | other.grounds,
        addressed=other.addressed if one.addressed is None else one.addressed,
        agreement=other.agreement if one.agreement is None else one.agreement,
    )


def _off_area(*areas: str) -> Known:
    """Areas a set's texts practically never fall into: weak negatives."""
    return dict.fromkeys(areas, (0, WEAK))


_CALM = ("sexual_content", "self_harm", "illegal_activity", "prompt_attack", "violence", "harassment", "general_harm")
_GROUPS = {
    "bla": ("black_people",), "african": ("black_people",), "blaman": ("black_people", "men"), "blawom": ("black_people", "women"),
    "mus": ("muslims",), "muswom": ("muslims", "women"), "wom": ("women",), "dis": ("disabled",), "jew": ("jews",),
    "gay": ("lgbtq", "gay_people"), "gayman": ("lgbtq", "gay_people"), "gaywom": ("lgbtq", "gay_people", "women"), "lgbtqa": ("lgbtq",),
    "trans": ("lgbtq", "trans_people"), "bis": ("lgbtq",),
    "asi.east": ("asians",), "asi.east.chin": ("asians",), "asi.south": ("asians",), "asi": ("asians",), "asiwom": ("asians", "women"),
    "arab": ("arabs",), "immig": ("immigrants",), "ref": ("immigrants",), "hisp": ("latinos",), "indig": ("native_americans",),
    "asian": ("asians",), "chinese": ("asians",), "latino": ("latinos",), "mexican": ("latinos",), "women": ("women",),
    "mental dis": ("disabled",), "physical dis": ("disabled",), "lgbtq": ("lgbtq",), "black": ("black_people",), "muslim": ("muslims",),
    "jewish": ("jews",), "native-american": ("native_americans",), "middle-eastern": ("arabs",),
}  # fmt: skip


_WITHOUT_TARGETS = frozenset({"implicit_hate", "measuring_hate_speech", "hatexplain"})
_GROUNDS = frozenset({"race", "religion", "gender"})


def _row(raw: Mapping[str, Any], source: str, known: Known, **more: Any) -> TrainingRow:
    return TrainingRow(raw["text"], known, source, f"{source}:{raw['meta'].get('unit') or raw['id']}", **more)


def _hate(raw: Mapping[str, Any], source: str) -> TrainingRow | None:
    """Hate-speech sets: a hateful text is also abusive; a text that is not says little about rudeness."""
    label = raw["label"]
    if label is None:
        return None
    names = [str(name) for name in raw["labels"]]
    if raw["area"] != "hate_speech":
        return _row(raw, source, {raw["area"]: (label, 1.0)})
    known: Known = {"hate_speech": (label, 1.0), **_off_area(*_CALM)}
    threat = "threateninglanguage" in names
    if label:
        known["toxicity"] = (1, 0.6)
        del known["harassment"]
        known.pop("violence", None)
        if threat:
            known["violence"] = (1, 0.7)
    elif "offensive" in names:
        known.pop("harassment")
    codes = [code.strip(" '\"") for name in names for code in (name.strip("[]").split(",") if name.startswith("[") else (name,))]
    groups = frozenset(group for code in codes for group in _GROUPS.get(code, ()))
    if label and not groups and source in _WITHOUT_TARGETS:
        groups = spoken_of(raw["text"])
    severity = "threat" if threat else "attack" if label and source == "hatemoji_build" else None
    grounds = frozenset(names) & _GROUNDS if label and source == "hatexplain" else frozenset()
    return _row(raw, source, known, groups=groups, severity=severity, grounds=grounds)


def _women(raw: Mapping[str, Any], source: str) -> TrainingRow | None:
    """Sets about one target: a negative is no sexism, but may be hateful otherwise, so the wide area stays unknown."""
    names = raw["labels"]
    known: Known = {"sexism": (raw["label"], 1.0), **_off_area("self_harm", "illegal_activity", "prompt_attack")}
    if raw["label"]:
        known |= {"hate_speech": (1, 1.0), "toxicity": (1, 0.5)}
    else:
        known["hate_speech"] = (0, WEAK)
    threat = any(str(name).startswith(("1.", "Threatening")) for name in names)
    severity = "threat" if threat else "attack" if raw["label"] and source == "edos" else None
    return _row(raw, source, known, groups=frozenset({"women"}) if raw["label"] else frozenset(), severity=severity)


def _davidson(raw: Mapping[str, Any], source: str) -> TrainingRow | None:
    weight = 1.0 if raw["area"] == "toxicity" else 0.5
    hate, offensive, neither = raw["meta"].get("votes", (0, 0, 0))
    voters = hate + offensive + neither
    agreement = (hate + offensive) / voters if voters else None
    known: Known = {raw["area"]: (raw["label"], weight), **_off_area("self_harm", "illegal_activity", "prompt_attack")}
    return _row(raw, source, known, agreement=agreement)


def _convabuse(raw: Mapping[str, Any], source: str) -> TrainingRow | None:
    known: Known = {
        "harassment": (raw["label"], 1.0),
        "toxicity": (raw["label"], 0.8),
        **_off_area("self_harm", "illegal_activity", "prompt_attack"),
    }
    if not raw["label"]:
        known |= _off_area("hate_speech", "violence", "sexual_content")
    elif "type.sex_harassment" in raw["labels"]:
        known["sexual_content"] = (1, WEAK)
    system, others = "target.system" in raw["labels"], {"target.generalised", "target.individual"} & set(raw["labels"])
    return _row(raw, source, known, addressed=system if raw["label"] and system != bool(others) else None)


def _civil(raw: Mapping[str, Any], source: str) -> TrainingRow | None:
    if raw["label"] is None:
        return None
    weight = 1.0 if raw["area"] == "toxicity" else 0.7
    votes = raw["meta"].get("votes", {})
    agreement = votes.get("toxic", 0) / votes["n"] if votes.get("n") else None
    known: Known = {raw["area"]: (raw["label"], weight), **_off_area("self_harm", "illegal_activity", "prompt_attack", "sexual_content")}
    return _row(raw, source, known, agreement=agreement)


_ILLEGAL = (
    "Illegal Activity",
    "Malware Viruses",
    "Fraud/Deception",
    "Privacy Violation Activity",
    "Theft",
    "Illegal",
    "Fraud",
    "Financial Crimes",
    "Cyber",
    "Weapon",
)


def _harm(raw: Mapping[str, Any], source: str) -> TrainingRow | None:
    """Harmful requests. A plain harmful question is no attack on the model's rules: the two must be told apart."""
    if raw["label"] is None or raw["meta"].get("lang", "en") != "en":
        return None
    names = " ".join(str(name) for name in raw["labels"])
    known: Known = {"prompt_attack": (0, 0.7)}
    noisy = "HarmfulQA" in names
    known["general_harm"] = (raw["label"], 0.4 if noisy else 1.0)
    if raw["area"] in AREAS:
        known[raw["area"]] = (raw["label"], 1.0)
    named = source == "advbench_behaviors" or any(word in names for word in _ILLEGAL)
    if named and raw["label"] and "illegal_activity" not in known:
        known["illegal_activity"] = (1, 0.8)
    if "Hate/Harass/Violence" not in names and source != "salad_verified":
        known |= {area: (0, WEAK) for area in ("toxicity",) if area not in known}
    return _row(raw, source, known)


def _attack(raw: Mapping[str, Any], source: str) -> TrainingRow | None:
    known: Known = {"prompt_attack": (raw["label"] if raw["area"] == "jailbreak" else 0, 1.0)}
    if source == "deepset_prompt_injections" and not raw["label"]:
        known |= {area: (0, 1.0) for area in (*AREAS, "general_harm") if area != "prompt_attack"}
    if raw["area"] == "general_harm":
        known = {"prompt_attack": (0, 0.7), "general_harm": (1, 1.0)}
    return _row(raw, source, known)


def _answers(raw: Mapping[str, Any], source: str) -> TrainingRow | None:
    known: Known = {"prompt_attack": (0, WEAK), "general_harm": (raw["label"], 0.7)}
    if not raw["label"]:
        known |= dict.fromkeys(AREAS, (0, 0.7))
    return _row(raw, source, known)


def _dialogue(raw: Mapping[str, Any], source: str) -> TrainingRow | None:
    known: Known = _off_area("prompt_attack", "illegal_activity", "sexual_content")
    if raw["label"] and "Offending User" in raw["labels"]:
        known |= {"toxicity": (1, 1.0), "harassment": (1, 0.8)}
    elif not raw["label"]:
        known |= dict.fromkeys(AREAS, (0, 0.5))
    else:
        return None
    return _row(raw, source, known)


def _advice(raw: Mapping[str, Any], source: str) -> TrainingRow | None:
    known: Known = {
        "unsafe_advice": (raw["label"], 1.0),
        **_off_area("hate_speech", "prompt_attack", "sexual_content", "toxicity", "harassment"),
    }
    return _row(raw, source, known)


_SETS: dict[str, Callable[[Mapping[str, Any], str], TrainingRow | None]] = {
    "hatemoji_build": _hate,
    "toxigen_human": _hate,
    "implicit_hate": _hate,
    "hatexplain": _hate,
    "measuring_hate_speech": _hate,
    "edos": _women,
    "misogyny_eacl2021": _women,
    "davidson": _davidson,
    "convabuse": _convabuse,
    "civil_toxic_spans": _civil,
    "jigsaw_sample": _civil,
    "advbench_behaviors": _harm,
    "red_instruct": _harm,
    "salad_verified": _harm,
    "inthewild_jailbreaks": _attack,
    "deepset_prompt_injections": _attack,
    "gptfuzzer": _attack,
    "gptfuzzer_responses": _answers,
    "diasafety": _dialogue,
    "safetext": _advice,
}
