"""Times bf16 LoRA training steps of a model's shape in PyTorch on a GPU; prints one JSON line.

usage: torch_gpu.py --model roberta-base --batch 32 --seq 128 --mode eager|compile|graphs [--dylora] [--steps 30]
Random weights, every token real. `graphs` is torch.compile with CUDA graphs. --dylora draws a rank for each step. RoBERTa
classifies, with adapters on query and value; GPT-2 predicts every next token, with one adapter over its stacked c_attn, as
PEFT puts it.
"""

import argparse
import json
import statistics
import warnings

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaForSequenceClassification


class LowRank(nn.Module):
    """A frozen linear layer with a low-rank path of which the first `rank` ranks are in use."""

    def __init__(self, base, inputs, outputs, rank, alpha):
        super().__init__()
        self.base, self.rank, self.alpha = base.requires_grad_(False), rank, alpha
        self.down = nn.Parameter(torch.randn(rank, inputs) * inputs**-0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x):
        low = nn.functional.linear(nn.functional.linear(x, self.down[: self.rank]), self.up[:, : self.rank])
        return self.base(x) + low * (self.alpha / self.rank)


def roberta(a):
    config = RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=2, attn_implementation="sdpa"
    )
    model = RobertaForSequenceClassification(config)
    model.roberta.requires_grad_(False)
    for layer in model.roberta.encoder.layer:
        attention, d = layer.attention.self, config.hidden_size
        attention.query = LowRank(attention.query, d, d, a.rank, a.alpha)
        attention.value = LowRank(attention.value, d, d, a.rank, a.alpha)
    size = (a.batch, a.seq)
    inputs = {
        "input_ids": torch.randint(5, 50000, size, device="cuda"),
        "attention_mask": torch.ones(size, dtype=torch.long, device="cuda"),
        "labels": torch.arange(a.batch, device="cuda") % 2,
    }
    return model, inputs


def gpt2(a):
    sizes = {"gpt2": (768, 12, 12), "gpt2-medium": (1024, 24, 16), "gpt2-large": (1280, 36, 20), "gpt2-xl": (1600, 48, 25)}
    d, layers, heads = sizes[a.model]
    model = GPT2LMHeadModel(GPT2Config(n_embd=d, n_layer=layers, n_head=heads, attn_implementation="sdpa"))
    model.requires_grad_(False)
    for block in model.transformer.h:
        block.attn.c_attn = LowRank(block.attn.c_attn, d, 3 * d, a.rank, a.alpha)
    ids = torch.randint(5, 50000, (a.batch, a.seq), device="cuda")
    return model, {"input_ids": ids, "labels": ids}


def main():
    p = argparse.ArgumentParser(description=__doc__)
    models = ["roberta-base", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
    p.add_argument("--model", choices=models, default="roberta-base")
    p.add_argument("--rank", type=int, default=8)
    p.add_argument("--alpha", type=float, default=16)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--seq", type=int, default=128)
    p.add_argument("--mode", choices=["eager", "compile", "graphs"], default="eager")
    p.add_argument("--dylora", action="store_true")
    p.add_argument("--steps", type=int, default=30)
    a = p.parse_args()
    warnings.filterwarnings("ignore")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(0)
    model, inputs = (roberta if a.model == "roberta-base" else gpt2)(a)
    model.cuda().train()
    paths = [module for module in model.modules() if isinstance(module, LowRank)]
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=4e-4, weight_decay=0.1, fused=True)
    if a.mode != "eager":
        model.compile(mode="reduce-overhead" if a.mode == "graphs" else None)
    draws = torch.Generator().manual_seed(0)

    def step():
        if a.dylora:
            rank = int(torch.randint(1, a.rank + 1, (1,), generator=draws))
            for path in paths:
                path.rank = rank
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    times = []
    for index in range(15 + a.steps):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        step()
        after.record()
        torch.cuda.synchronize()
        if index >= 15:
            times.append(before.elapsed_time(after) / 1e3)
    report = {
        "step_med_s": statistics.median(times),
        "peak_GiB": torch.cuda.max_memory_allocated() / 2**30,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
