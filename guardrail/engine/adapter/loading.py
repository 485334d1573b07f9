"""An adapter from disk: its base, the LoRA merged into it in memory, the head beside it. Safetensors only, digests of all three."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from guardrail.engine.adapter.encoding import TextIds
from guardrail.engine.adapter.frame import Frame, read_frame
from guardrail.engine.adapter.model import batch_of, decoder_of, logits, probabilities
from guardrail.engine.cope import manifest as manifests
from guardrail.engine.cope.checkpoint import needed, read_model
from guardrail.engine.cope.lora import load_adapter, merged
from guardrail.engine.cope.memory import require
from guardrail.engine.cope.merge import read_tokenizer
from guardrail.engine.cope.shards import weights_of
from guardrail.engine.cope.source import Source, locate
from guardrail.errors import ModelFileError

LONGEST = 4096  # tokens of one text, where neither the caller nor the model says less


@dataclass(frozen=True, slots=True, eq=False)
class MultilabelModel:
    """A model ready to be asked. `digest` is over base, adapter, head and labels; `longest` tokens are the most it reads at once."""

    decoder: Any
    head: nn.Linear
    frame: Frame
    tokens: TextIds
    digest: str
    base_digest: str
    adapter_digest: str
    longest: int

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.head.weight.device

    @property
    def dtype(self) -> str:
        """Of the decoder's weights and arithmetic."""
        return str(next(iter(self.decoder.parameters())).dtype).removeprefix("torch.")

    @torch.inference_mode()
    def ask(self, rows: list[list[int]]) -> Tensor:
        """Probabilities [rows, labels] fp32 on the CPU, of token ids as `tokens` makes them. One pass: mind its size."""
        batch = batch_of(rows, self.tokens.pad, self.device)
        return probabilities(logits(self.decoder, self.head, batch), self.frame.objective).cpu()


@dataclass(frozen=True, slots=True)
class Opening:
    """`base`: in place of the folder's own. `device`: auto, cpu, cuda. `longest`: tokens of one text."""

    base: str | None = None
    device: str = "auto"
    longest: int | None = None


def open_adapter(place: str | Path, how: Opening | None = None) -> MultilabelModel:
    """Load a folder that `guardrail train adapter` wrote, or one in OpenCC's format; or one of the hub. bf16 on a GPU, fp32 on a CPU.

    Raises ModelFileError for anything that is missing, pickled, of another base or does not fit together, and DoesNotFitError.
    """
    how = how or Opening()
    source = locate(place)
    frame = read_frame(source.folder)
    base = locate(_base(how.base or frame.base_model, source))
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if how.device == "auto" else how.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    weights = [weight for path in base.shards() for weight in weights_of(path)]
    require(needed(weights, dtype), device, f"{base.name} in {str(dtype).removeprefix('torch.')}", remedy="use a smaller base")
    found = manifests.origin(base, base.shards()).digest
    if frame.base_digest not in ("", found):
        raise ModelFileError(
            f"{source.name} was trained on a base with digest {frame.base_digest}, {base.name} is {found}; give its own base"
        )
    own = (source.folder / "tokenizer.json").is_file()
    tokens = TextIds(read_tokenizer(source.folder if own else base.folder))
    head = read_head(frame)
    model = read_model(base.folder, dtype, device)
    _add(model, source, frame)
    decoder = decoder_of(model)
    if head.in_features != model.config.get_text_config().hidden_size:
        raise ModelFileError(f"{frame.head} is for states of {head.in_features} numbers, {base.name} has others; give its own base")
    adapter = manifests.of_records({path.name: manifests.record(path).sha256 for path in (source.adapter(), frame.head)})
    return MultilabelModel(
        decoder=decoder,
        head=head.to(device),
        frame=frame,
        tokens=tokens,
        digest=manifests.of_records({"0": found, "1": adapter, "2": "\0".join(frame.labels)}),
        base_digest=found,
        adapter_digest=adapter,
        longest=min(how.longest or LONGEST, getattr(model.config.get_text_config(), "max_position_embeddings", LONGEST)),
    )


def read_head(frame: Frame) -> nn.Linear:
    """The head, fp32, frozen. Raises ModelFileError where it is no linear layer with one output a label."""
    try:
        with safe_open(frame.head, framework="pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except SafetensorError as error:
        raise ModelFileError(f"{frame.head} is damaged ({error}); copy it again") from error
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if set(tensors) != {"weight", "bias"} or weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ModelFileError(f"{frame.head} holds {', '.join(sorted(tensors))}, not the weight and bias of one linear layer")
    if len(weight) != len(frame.labels):
        raise ModelFileError(f"{frame.head} has {len(weight)} outputs, {frame.head.parent} names {len(frame.labels)} categories")
    head = nn.Linear(weight.shape[1], len(weight))
    head.load_state_dict(tensors)
    return head.requires_grad_(False)


def _base(name: str, source: Source) -> str:
    """A relative path is relative to the adapter's folder where it leads somewhere from there."""
    beside = source.folder / name
    return str(beside) if beside.is_dir() else name


@torch.no_grad()
def _add(model: Any, source: Source, frame: Frame) -> None:
    """Add the LoRA to the base's weights, in fp32, rounded once."""
    settings = None if (source.folder / "adapter_config.json").is_file() else frame.lora
    for name, (down, up, scale) in load_adapter(source, settings).pairs.items():
        try:
            weight = model.get_parameter(name)
        except AttributeError as error:
            raise ModelFileError(f"{source.name} changes {name}, which {model.config.model_type} models lack; give its own base") from error
        delta = (up @ down).mul_(scale).to(weight.device)
        weight.copy_(merged(weight, delta, weight.dtype))
