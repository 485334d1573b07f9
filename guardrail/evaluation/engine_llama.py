"""The same random weights in llama.cpp, where its Python package is installed: the whole prompt each time, and with the policy kept."""

import contextlib
import importlib.util
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guardrail.evaluation.engine_baselines import chosen
from guardrail.evaluation.engine_work import ONE, ZERO, Answers, Ids, Work

MICRO_BATCH = 512

# Name in transformers (below `model.layers.N.`) -> name in the file (below `blk.N.`).
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def left_out(model: Any) -> str | None:
    """Why llama.cpp is not measured beside this model; None when it can be."""
    missing = [name for name in ("llama_cpp", "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        return f"llama.cpp was not measured: {' and '.join(missing)} cannot be imported (pip install llama-cpp-python gguf)"
    parameter = next(model.parameters())
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        return "llama.cpp was not measured: it is compared on the CPU and in fp32 only"
    return None


class LlamaCpp:
    """Its keys and values in fp32, too. Not exact all the same: its kernels round activations to 16 bits."""

    def __init__(self, path: Path, work: Work, *, threads: int) -> None:
        import llama_cpp  # noqa: PLC0415  (optional, and only ever used here)

        self._work = work
        self._library: Any = llama_cpp
        self._llama: Any = llama_cpp.Llama(
            str(path),
            n_ctx=max(512, 64 * math.ceil((work.lengths.whole + 1) / 64)),
            n_batch=2048,
            n_ubatch=MICRO_BATCH,
            n_threads=threads,
            n_threads_batch=threads,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            verbose=False,
        )

    def judge_whole(self, number: int, *, requests: int) -> Answers:
        """The whole prompt for each request."""
        return {(0, content): self._whole(content) for content in chosen(number, requests)}

    def judge_kept(self, number: int, *, requests: int) -> Answers:
        """Policy 0 is run once; each request goes back to its end (whole prompts begin with the same policy and leave it in place)."""
        if not self._llama.n_tokens:
            self._llama.eval(self._work.policies[0].tolist())
        return {(0, content): self._behind(content) for content in chosen(number, requests)}

    def close(self) -> None:
        """Give its memory back."""
        self._llama.close()

    def _whole(self, content: int) -> float:
        self._llama.reset()
        return self._run(self._work.prompt(0, content))

    def _behind(self, content: int) -> float:
        self._llama.n_tokens = len(self._work.policies[0])  # what stands behind is dropped by the next `eval`
        return self._run(self._work.rows[content])

    def _run(self, ids: Ids) -> float:
        self._llama.eval(ids.tolist())
        logits = self._library.llama_get_logits_ith(self._llama.ctx, -1)
        return 1.0 / (1.0 + math.exp(logits[ZERO] - logits[ONE]))


@contextlib.contextmanager
def opened(model: Any, work: Work, *, threads: int) -> Iterator[LlamaCpp]:
    """llama.cpp with the model's weights, written to a temporary file for the length of the block."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.gguf"
        write(model, path)
        llama = LlamaCpp(path, work, threads=threads)
        try:
            yield llama
        finally:
            llama.close()


def write(model: Any, path: Path) -> None:
    """The weights of a transformers Gemma-2 as a GGUF file in fp32, without a tokenizer."""
    import gguf  # noqa: PLC0415  (optional, and only ever used here)

    config = model.config
    writer: Any = gguf.GGUFWriter(path, "gemma2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    for name, tensor in tensors(model):
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(model: Any) -> Iterator[tuple[str, np.ndarray[Any, np.dtype[np.float32]]]]:
    """Every tensor under its name in the file. Norms are written as (1 + weight), which is what they multiply with."""
    decoder = model.model
    yield "token_embd.weight", decoder.embed_tokens.weight.float().numpy()
    yield "output_norm.weight", (decoder.norm.weight.float() + 1.0).numpy()
    for number, layer in enumerate(decoder.layers):
        for theirs, name in LAYER_NAMES.items():
            weight = layer.get_submodule(theirs).weight.float()
            yield f"blk.{number}.{name}.weight", (weight + 1.0 if theirs.endswith("layernorm") else weight).numpy()
