"""OpenCC's reader, written again from its rules (reference/OPENCC.md 2.3), sharing nothing with this package: what it says of a folder.

Differences on purpose: fp32 where it computes in bf16, and a head may be a safetensors file where it knows PyTorch's own format only.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from tiny_checkpoints import quiet
from transformers import AutoModelForCausalLM, AutoTokenizer

HARM_CATEGORIES = [
    "CBRN", "Cyber", "Harm to Minors", "Harmful Manipulation", "Hate Speech", "Illegal Activities", "Information Integrity",
    "Physical Harm", "Privacy", "Self-Harm", "Sexual Content",
]  # fmt: skip


@dataclass
class OpenCCReader:
    model: Any
    head: torch.nn.Linear
    tokenizer: Any
    labels: list[str]
    thresholds: dict[str, float]
    multilabel: bool
    binary: bool

    @torch.no_grad()
    def probabilities(self, texts: list[str]) -> torch.Tensor:
        parts = []
        for start in range(0, len(texts), 16):
            batch = self.tokenizer(texts[start : start + 16], padding=True, return_tensors="pt")
            states = self.model(**batch, output_hidden_states=True).hidden_states[-1]
            last = batch["attention_mask"].sum(1) - 1
            logits = self.head(states[torch.arange(len(states)), last])
            one = self.multilabel or logits.shape[1] == 1
            parts.append(torch.sigmoid(logits.float()) if one else torch.softmax(logits.float(), -1))
        return torch.cat(parts)

    def fires(self, text: str) -> set[str]:
        found = self.probabilities([text])[0].tolist()
        return {label for label, p in zip(self.labels, found, strict=True) if label != "Benign" and p >= self.thresholds.get(label, 0.5)}


def described(folder: Path) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Frame with its sidecars' thresholds, training settings, and whether it is the binary one."""

    def optional(name: str) -> dict[str, Any]:
        return json.loads((folder / name).read_text()) if (folder / name).exists() else {}

    document = json.loads((folder / "weight_frame.json").read_text())
    frame = document.get("classifier") or document.get("jailbreak_classifier")
    if frame.get("thresholds") is None and optional("thresholds.json").get("thresholds") is not None:
        frame["thresholds"] = optional("thresholds.json")["thresholds"]
    if frame.get("threshold") is None and "thresholds" not in frame and "threshold" in optional("threshold.json"):
        frame["threshold"] = optional("threshold.json")["threshold"]
    return frame, optional("train_config.json"), "threshold" in frame and "thresholds" not in frame


def open_folder(folder: Path) -> OpenCCReader:
    frame, settings, binary = described(folder)
    objective = frame.get("objective") or settings.get("objective", "softmax")
    count = settings.get("num_labels") or (1 if binary else 11 if objective == "multilabel" else len(frame["taxonomy"]))
    labels = ["jailbreak"] if count == 1 else HARM_CATEGORIES if objective == "multilabel" and count == 11 else frame["taxonomy"]
    base = AutoModelForCausalLM.from_pretrained(frame["base_model"], dtype=torch.float32, attn_implementation="eager")
    with quiet():
        model = get_peft_model(
            base,
            LoraConfig(
                r=settings.get("lora_r", 16),
                lora_alpha=settings.get("lora_alpha", 32),
                lora_dropout=settings.get("lora_dropout", 0.05),
                target_modules=settings.get("lora_target_modules", ["q_proj", "v_proj"]),
                bias="none",
                task_type="CAUSAL_LM",
            ),
        ).eval()
    loaded = set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
    assert not loaded.unexpected_keys
    path = folder / frame.get("head_filename", "jailbreak_head.pt" if binary else "classification_head.pt")
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    head = torch.nn.Linear(base.config.hidden_size, count)
    head.load_state_dict(state)
    tokenizer = AutoTokenizer.from_pretrained(folder if (folder / "tokenizer.json").exists() else frame["base_model"])
    tokenizer.padding_side = "right"
    thresholds = {labels[0]: frame["threshold"]} if binary else dict(frame.get("thresholds") or {})
    return OpenCCReader(model, head, tokenizer, list(labels), thresholds, objective == "multilabel", binary)
