"""What others published about the public sets, for orientation: other rows, other policies, not measured here, not to be ranked against."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

CARD = "CoPE-A-9B model card, all 998 rows"
GUARD = "Llama Guard model card"
GUARD2 = "Llama Guard 2 model card"
WILD = "WildGuard paper, whole set"
REASONER = "GuardReasoner's stored predictions, whole set"
T5 = "ToxicChat-T5 model card, test split"
HEAD = ("set", "system", "precision", "recall", "F1", "FPR", "AUPRC", "source")


@dataclass(frozen=True, slots=True)
class Published:
    """A published result on the rows of a set in an area (`any`: in all of them); None where the source gives no number."""

    set: str
    area: str
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
    Published("ethos", "hate_speech", "CoPE-A-9B", CARD, 0.80, 0.88, 0.84),
    Published("ethos", "hate_speech", "GPT-4o", CARD, 0.91, 0.78, 0.84),
    Published("ethos", "hate_speech", "Llama-3.1-8B", CARD, 0.62, 0.92, 0.74),
    Published("ethos", "hate_speech", "Llama Guard 3 8B", CARD, 0.87, 0.79, 0.83),
    Published("ethos", "hate_speech", "ShieldGemma 9B", CARD, 0.82, 0.82, 0.82),
    Published("openai_moderation", "any", "Llama Guard", GUARD, auprc=0.847),
    Published("openai_moderation", "any", "OpenAI moderation API", GUARD, auprc=0.856),
    Published("openai_moderation", "any", "Perspective API", GUARD, auprc=0.787),
    Published("openai_moderation", "any", "Llama Guard 2", GUARD2, f1=0.807, fpr=0.060),
    Published("openai_moderation", "any", "MD-Judge", GUARD2, f1=0.768, fpr=0.212),
    Published("openai_moderation", "any", "GPT-4", GUARD2, f1=0.842, fpr=0.092),
    Published("openai_moderation", "any", "OpenAI moderation API", GUARD2, f1=0.788, fpr=0.156),
    Published("toxicchat", "toxicity", "Llama Guard", GUARD, auprc=0.626),
    Published("toxicchat", "toxicity", "OpenAI moderation API", GUARD, auprc=0.588),
    Published("toxicchat", "toxicity", "Perspective API", GUARD, auprc=0.532),
    Published("toxicchat", "toxicity", "ToxicChat-T5-large", T5, f1=0.822, auprc=0.885),
    Published("toxicchat", "toxicity", "OpenAI moderation API, threshold .02", T5, f1=0.614, auprc=0.631),
    Published("xstest", "general_harm", "Llama Guard", GUARD2, f1=0.737, fpr=0.079),
    Published("xstest", "general_harm", "Llama Guard 2", GUARD2, f1=0.884, fpr=0.084),
    Published("xstest", "general_harm", "MD-Judge", GUARD2, f1=0.856, fpr=0.172),
    Published("xstest", "general_harm", "GPT-4", GUARD2, f1=0.895, fpr=0.128),
    Published("xstest", "general_harm", "OpenAI moderation API", GUARD2, f1=0.576, fpr=0.040),
    Published("beavertails_test", "general_harm", "Llama Guard", GUARD2, f1=0.599, fpr=0.035),
    Published("beavertails_test", "general_harm", "Llama Guard 2", GUARD2, f1=0.736, fpr=0.059),
    Published("beavertails_test", "general_harm", "MD-Judge", GUARD2, f1=0.849, fpr=0.098),
    Published("beavertails_test", "general_harm", "GPT-4", GUARD2, f1=0.802, fpr=0.256),
    Published("beavertails_test", "general_harm", "OpenAI moderation API", GUARD2, f1=0.284, fpr=0.056),
    Published("aegis_test", "general_harm", "GuardReasoner 8B", REASONER, f1=0.902),
    Published("aegis_test", "general_harm", "GuardReasoner 1B", REASONER, f1=0.893),
    Published("aegis_test", "general_harm", "WildGuard", WILD, f1=0.894),
    Published("aegis_test", "general_harm", "Llama Guard 2", WILD, f1=0.718),
    Published("aegis_test", "general_harm", "GPT-4", WILD, f1=0.844),
    Published("harmbench_response", "general_harm", "GuardReasoner 8B", REASONER, f1=0.856),
    Published("harmbench_response", "general_harm", "GuardReasoner 1B", REASONER, f1=0.850),
    Published("harmbench_response", "general_harm", "WildGuard", WILD, f1=0.863),
    Published("harmbench_response", "general_harm", "Llama Guard 2", WILD, f1=0.778),
    Published("harmbench_response", "general_harm", "GPT-4", WILD, f1=0.861),
    Published("pku_saferlhf", "general_harm", "WildGuard", WILD, f1=0.642),
    Published("pku_saferlhf", "general_harm", "Llama Guard 2", WILD, f1=0.516),
    Published("pku_saferlhf", "general_harm", "GPT-4", WILD, f1=0.679),
    Published("xstest_response", "general_harm", "GuardReasoner 8B", REASONER, f1=0.938),
    Published("xstest_response", "general_harm", "GuardReasoner 1B", REASONER, f1=0.907),
    Published("xstest_response", "general_harm", "WildGuard", WILD, f1=0.947),
    Published("xstest_response", "general_harm", "Llama Guard 2", WILD, f1=0.908),
    Published("xstest_response", "general_harm", "GPT-4", WILD, f1=0.913),
)


def of_task(set_: str, area: str) -> list[Published]:
    """What is published about the rows of a set in an area."""
    return [each for each in PUBLISHED if (each.set, each.area) == (set_, area)]


def published(sets: Iterable[str]) -> Iterator[Published]:
    """What is published about these sets (`NAME:any` is the set NAME)."""
    wanted = {name.partition(":")[0] for name in sets}
    return (each for each in PUBLISHED if each.set in wanted)
