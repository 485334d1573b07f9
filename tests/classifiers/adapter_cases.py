"""Small adapters on disk: four architectures with their tokenizers, trained on mild sentences, or made as OpenCC publishes them."""

import atexit
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tiny_checkpoints import byte_level_tokenizer, gemma_tokenizer, quiet
from tiny_models import tiny_gemma2, tiny_llama, tiny_qwen2
from transformers import AutoModelForCausalLM, Qwen3_5Config, Qwen3_5ForConditionalGeneration

from guardrail.training.adapter import AdapterPlan, train_adapter
from guardrail.training.adapter_model import AdapterRecipe
from guardrail.training.adapter_rows import AdapterData, read_data
from guardrail.training.steps import Pace, Progress


def tiny_qwen3_5(**shape: Any) -> Qwen3_5ForConditionalGeneration:
    """Linear and full attention in turn, and eyes that nobody asks: the architecture of OpenCC's published adapters, as it is published."""
    linear = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
    eyes = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": shape["hidden_size"]}
    text = {**shape, **linear, "head_dim": 16, "num_hidden_layers": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=eyes))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim == 2:
                    weight.normal_(0, 0.35 if "embed" in name else weight.shape[1] ** -0.5)
    return model


ARCHITECTURES = {
    "gemma2": (tiny_gemma2, gemma_tokenizer),
    "qwen2": (tiny_qwen2, byte_level_tokenizer),
    "llama": (tiny_llama, byte_level_tokenizer),
    "qwen3_5": (tiny_qwen3_5, byte_level_tokenizer),
}
TEXTS = (
    "In the house there is a cat and a table.",
    "A hammer lies beside the saw.",
    "Good morning.\n",
    "x",
    " ",
    "é 日本 \u200b",
    "'quoted'\n\n\n",
    "The library opens at nine and closes at six, and readers may borrow up to five books for three weeks. " * 3,
)
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


@cache
def home() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="adapter-cases-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def base(architecture: str) -> Path:
    """A random model in fp32 with a tokenizer."""
    make, tokenizer_of = ARCHITECTURES[architecture]
    folder, tokenizer = home() / f"base-{architecture}", tokenizer_of()
    more = {"head_dim": 16, "query_pre_attn_scalar": 16} if architecture == "gemma2" else {}
    make(vocab_size=len(tokenizer), max_position_embeddings=1024, **SMALL, **more).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sentence(chance: random.Random, *, animal: bool, tool: bool) -> str:
    place = chance.choice(["house", "garden", "shed", "station", "library"])
    number = chance.randrange(1000)
    found = [f"a {chance.choice(['cat', 'dog', 'bird', 'horse'])}"] * animal + [f"a {chance.choice(['hammer', 'saw', 'drill'])}"] * tool
    return f"In the {place} number {number} there is {' and '.join([*found, 'a table'])}."


def rows(count: int = 210, seed: int = 1) -> list[dict[str, Any]]:
    """Sentences with animals, with tools, with both or neither; of some the tools are not known."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        animal, tool = chance.random() < 0.4, chance.random() < 0.4
        text = sentence(chance, animal=animal, tool=tool)
        found.append({"text": text, "labels": {"animals": int(animal), "tools": int(tool) if number % 4 else None}})
    return found


def data(folder: Path, lines: Sequence[Mapping[str, Any]] | None = None, **options: Any) -> AdapterData:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows() if lines is None else lines)), encoding="utf-8")
    return read_data([path], **options)


def recipe(**changes: Any) -> AdapterRecipe:
    return AdapterRecipe(**{"epochs": 2, "pace": Pace(rate=3e-3), "longest": 128} | changes)


def trained(folder: Path, architecture: str = "gemma2", *, losses: list[float] | None = None, **options: Any) -> Mapping[str, Any]:
    """Train in `folder`, on `rows()` unless `data` says otherwise; the record."""
    told: Callable[[Progress], None] = options.pop("report", lambda progress: None)
    chosen = {"recipe": recipe()} | options
    if "data" not in chosen:
        chosen["data"] = data(folder)

    def report(progress: Progress) -> None:
        told(progress)
        if losses is not None:
            losses.append(progress.loss)

    return train_adapter(AdapterPlan(str(base(architecture)), out=folder / "adapter", device="cpu", **chosen), report=report)


@cache
def adapter(architecture: str) -> Path:
    """A trained one. Do not change what is in it; `copied` gives your own."""
    folder = home() / f"trained-{architecture}"
    folder.mkdir()
    trained(folder, architecture, opencc_head=True)
    return folder / "adapter"


def copied(architecture: str, folder: Path) -> Path:
    return Path(shutil.copytree(adapter(architecture), folder / "adapter"))


def by_hand(folder: Path, frame: Mapping[str, Any], outputs: int, *, head: str = "classification_head.pt", **files: Any) -> Path:
    """A folder as OpenCC publishes one: no adapter_config.json, a pickled head, its reader's default LoRA. `files`: sidecars by stem."""
    folder.mkdir()
    model = AutoModelForCausalLM.from_pretrained(base("qwen2"), dtype=torch.float32, attn_implementation="eager")
    with quiet():
        peft = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    with quiet():
        peft.save_pretrained(folder)
    (folder / "adapter_config.json").unlink()
    weight = torch.randn(outputs, SMALL["hidden_size"], generator=generator) * 0.2
    torch.save({"weight": weight, "bias": torch.randn(outputs, generator=generator) * 0.1}, folder / head)
    kind = "jailbreak_classifier" if "threshold" in frame else "classifier"
    (folder / "weight_frame.json").write_text(json.dumps({kind: {"base_model": str(base("qwen2")), **frame}}))
    for stem, document in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(document))
    return folder


def as_safetensors(folder: Path, head: str = "classification_head.pt") -> None:
    """What converting a head leaves."""
    save_file(torch.load(folder / head, weights_only=True), (folder / head).with_suffix(".safetensors"))
