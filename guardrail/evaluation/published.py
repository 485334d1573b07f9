"""What others published about the public sets, for orientation: other rows, other policies, not measured here, not to be ranked against."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

CARD = "CoPE-A-9B model card, all 998 rows"
GUARD = "Llama Guard model card"
GUARD2 = "Llama Guard 2 model card"
T5 = "ToxicChat-T5 model card, test split"
HEAD = ("set", "system", "precision", "recall", "F1", "FPR", "AUPRC", "source")


@dataclass(frozen=True, slots=True)
class Published:
    """A published result; None where the source gives no number."""

    set: str
    system: str
    source: str
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    fpr: float | None = None
    auprc: float | None = None

    def cells(self) -> list[str]:
        """A row of the table whose columns are `HEAD`."""
        values = (self.precision, self.recall, self.f1, self.fpr, self.auprc)
        return [self.set, self.system, *("-" if value is None else f"{value:.3f}" for value in values), self.source]


PUBLISHED = (
    Published("ethos", "CoPE-A-9B", CARD, 0.80, 0.88, 0.84),
    Published("ethos", "GPT-4o", CARD, 0.91, 0.78, 0.84),
    Published("ethos", "Llama-3.1-8B", CARD, 0.62, 0.92, 0.74),
    Published("ethos", "Llama Guard 3 8B", CARD, 0.87, 0.79, 0.83),
    Published("ethos", "ShieldGemma 9B", CARD, 0.82, 0.82, 0.82),
    Published("openai_moderation", "Llama Guard", GUARD, auprc=0.847),
    Published("openai_moderation", "OpenAI moderation API", GUARD, auprc=0.856),
    Published("openai_moderation", "Perspective API", GUARD, auprc=0.787),
    Published("openai_moderation", "Llama Guard 2", GUARD2, f1=0.807, fpr=0.060),
    Published("openai_moderation", "MD-Judge", GUARD2, f1=0.768, fpr=0.212),
    Published("openai_moderation", "GPT-4", GUARD2, f1=0.842, fpr=0.092),
    Published("openai_moderation", "OpenAI moderation API", GUARD2, f1=0.788, fpr=0.156),
    Published("toxicchat", "Llama Guard", GUARD, auprc=0.626),
    Published("toxicchat", "OpenAI moderation API", GUARD, auprc=0.588),
    Published("toxicchat", "Perspective API", GUARD, auprc=0.532),
    Published("toxicchat", "ToxicChat-T5-large", T5, f1=0.822, auprc=0.885),
    Published("toxicchat", "OpenAI moderation API, threshold .02", T5, f1=0.614, auprc=0.631),
    Published("xstest", "Llama Guard", GUARD2, f1=0.737, fpr=0.079),
    Published("xstest", "Llama Guard 2", GUARD2, f1=0.884, fpr=0.084),
    Published("xstest", "MD-Judge", GUARD2, f1=0.856, fpr=0.172),
    Published("xstest", "GPT-4", GUARD2, f1=0.895, fpr=0.128),
    Published("xstest", "OpenAI moderation API", GUARD2, f1=0.576, fpr=0.040),
    Published("beavertails_test", "Llama Guard", GUARD2, f1=0.599, fpr=0.035),
    Published("beavertails_test", "Llama Guard 2", GUARD2, f1=0.736, fpr=0.059),
    Published("beavertails_test", "MD-Judge", GUARD2, f1=0.849, fpr=0.098),
    Published("beavertails_test", "GPT-4", GUARD2, f1=0.802, fpr=0.256),
    Published("beavertails_test", "OpenAI moderation API", GUARD2, f1=0.284, fpr=0.056),
)


def published(sets: Iterable[str]) -> Iterator[Published]:
    """What is published about these sets (`NAME:any` is the set NAME)."""
    wanted = {name.partition(":")[0] for name in sets}
    return (each for each in PUBLISHED if each.set in wanted)
