"""Small but real things on disk: a Gemma-2 base, a LoRA adapter for it as peft saves one, and tokenizers that split text by Gemma's rules.

Everything is random but for the tokenizers, which are trained on a few lines of mild text; the same every time, made once a session.
"""

import atexit
import json
import math
import shutil
import string
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast
from transformers.models.gemma.tokenization_gemma import GemmaTokenizer

from guardrail.engine.cope.merge import MergePlan, merge
from guardrail.engine.cope.source import locate

torch.set_num_threads(1)  # tiny products are slower on two

TEXT = """The library opens at nine and closes at six. Readers may borrow up to five books for three weeks.
Please keep your voice low in the reading room, and return every book to the shelf where you found it.
In spring the garden behind the station is full of tulips; in autumn the paths are covered with leaves.
A recipe for bread: flour, water, salt and a little yeast. Knead the dough, let it rest, and bake it for an hour.
INSTRUCTIONS
============
Examine the given policy and decide whether the text meets the criteria. Answer with a single number.
Policy: content that insults a neighbour is not allowed. Includes: name calling. Excludes: quoting, reporting.
for name in names:
    if name == "garden":
        print("the answer is", 10 + 21)
She asked whether the train leaves at 10:45 or at 11:30, and the answer was written on the board.
"""
SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
TURNS = ["<start_of_turn>", "<end_of_turn>"]
CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim"
    " + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def gemma_tokenizer(*, newline_tokens: bool = True) -> GemmaTokenizer:
    """Spaces become U+2581, bytes are the fallback, runs of newlines and spaces and HTML tags are tokens of their own, BOS comes first.

    Without `newline_tokens` newlines merge with whatever stands beside them, the prompt's headers included: no Gemma is like that.
    """
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    trained.normalizer = normalizers.Replace(" ", "▁")
    if newline_tokens:
        trained.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Digits(individual_digits=True)]
        )
    trainer = trainers.BpeTrainer(
        vocab_size=640 if newline_tokens else 900,
        special_tokens=[*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))],
        max_token_length=16,
        show_progress=False,
        initial_alphabet=[letter for letter in string.printable if not (newline_tokens and letter == "\n")],
    )
    headers = "POLICY\n======\n\nCONTENT\n=======\n\nANSWER\n======\n\n" * 3
    trained.train_from_iterator(TEXT.split("\n") if newline_tokens else [headers + TEXT, headers], trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary, merges = model["vocab"], [tuple(merge) for merge in model["merges"]]
    for size in (1, 2, 4):
        merges.append(("▁" * size, "▁" * size))
        vocabulary.setdefault("▁" * size * 2, len(vocabulary))
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)
    if newline_tokens:
        runs = ["\n" * size for size in range(1, 32)] + ["▁" * size for size in range(2, 32)]
        plain = [*runs, "<table>", "</table>", "<h1>", "</h1>", "<unused0>", "<unused1>"]
        tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in plain])
    tokenizer.add_special_tokens({"additional_special_tokens": TURNS})
    tokenizer.chat_template = CHAT
    return tokenizer


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """GPT's and Qwen's way: words found by an expression that lets punctuation swallow the newlines behind it, then BPE over bytes."""
    words = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(words), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator([TEXT, "POLICY\n======\n\nCONTENT\n=======\n\nANSWER\n======\n\n" * 9], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    return tokenizer


@cache
def _session_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tiny-checkpoints-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def tiny_config(vocabulary: int, **overrides: Any) -> Gemma2Config:
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 4096,
        "max_position_embeddings": 8192,
    }
    return Gemma2Config(**(shape | overrides), attn_implementation="eager")


def _sharpen(model: Gemma2ForCausalLM, generator: torch.Generator) -> None:
    """Scores that reach the soft-cap, norms that are not the identity, answers that are not all one half."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name:
            weight.copy_(0.3 * noise)
        elif "embed" in name:
            weight.copy_(0.35 * noise)
        else:
            weight.copy_(noise * ((2.6 if "q_proj" in name or "k_proj" in name else 1.0) / math.sqrt(weight.shape[1])))


@contextmanager
def quiet() -> Iterator[None]:
    """peft asks transformers for a name that it has renamed; every warning is an error here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


@cache
def _base() -> Path:
    folder = _session_folder() / "base"
    tokenizer = gemma_tokenizer()
    model = Gemma2ForCausalLM(tiny_config(len(tokenizer))).eval()
    with torch.no_grad():
        _sharpen(model, torch.Generator().manual_seed(1))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def _adapter() -> Path:
    folder = _session_folder() / "adapter"
    base = Gemma2ForCausalLM.from_pretrained(_base(), dtype=torch.float32, attn_implementation="eager")
    with quiet():
        model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=PROJECTIONS, task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * (0.2 if "lora_A" in name else 0.05))
    model.save_pretrained(folder)
    return folder


@cache
def _merged() -> Path:
    folder = _session_folder() / "merged"
    merge(MergePlan(locate(_base()), locate(_adapter()), folder))
    return folder


@cache
def _plain() -> Path:
    folder = _session_folder() / "plain"
    base = Gemma2ForCausalLM.from_pretrained(_base(), dtype=torch.float32, attn_implementation="eager")
    with quiet():
        merged = PeftModel.from_pretrained(base, _adapter()).merge_and_unload()
    merged.to(torch.bfloat16).save_pretrained(folder)
    gemma_tokenizer().save_pretrained(folder)
    return folder


def _copy(made: Path, folder: Path, name: str) -> Path:
    return Path(shutil.copytree(made, folder / name))


def tiny_base(folder: Path) -> Path:
    """A copy of the base model (bf16, 2 layers) with its tokenizer, in `folder`/base."""
    return _copy(_base(), folder, "base")


def tiny_adapter(folder: Path) -> Path:
    """A copy of the adapter (rank 4, all seven projections) in `folder`/adapter."""
    return _copy(_adapter(), folder, "adapter")


def tiny_checkpoint(folder: Path) -> Path:
    """A copy of base and adapter as `guardrail model merge` makes one of them (bf16, with a manifest), in `folder`/model."""
    return _copy(_merged(), folder, "model")


def plain_checkpoint(folder: Path) -> Path:
    """A copy of base and adapter merged and saved by peft and transformers, without a manifest, in `folder`/plain."""
    return _copy(_plain(), folder, "plain")
