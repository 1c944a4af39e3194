"""Times transformers' generate by beam search on GPT-2's shape with random weights; prints one JSON line.

usage: torch_generate.py --shape gpt2|gpt2-medium --device cpu|cuda --precision f32|bf16 [--prompts 16] [--prompt-tokens 32]
                         [--max-new-tokens 32] [--beams 10] [--batch-size 16] [--runs 3] [--threads N]
Prompts and settings are those of `dylora bench generate`; a pass before the timed ones is not counted.
"""

import argparse
import json
import statistics
import time
import warnings

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

SHAPES = {"gpt2": (768, 12, 12), "gpt2-medium": (1024, 24, 16)}
END = 50256


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--shape", choices=list(SHAPES), default="gpt2")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    p.add_argument("--prompts", type=int, default=16)
    p.add_argument("--prompt-tokens", type=int, default=32)
    p.add_argument("--max-new-tokens", type=int, default=32)
    p.add_argument("--beams", type=int, default=10)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--threads", type=int)
    a = p.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    width, layers, heads = SHAPES[a.shape]
    config = GPT2Config(n_embd=width, n_layer=layers, n_head=heads, attn_implementation="sdpa")
    dtype = torch.bfloat16 if a.precision == "bf16" else torch.float32
    model = GPT2LMHeadModel(config).to(a.device, dtype).eval()
    place = torch.arange(a.prompts * a.prompt_tokens) * 7919 % config.vocab_size
    prompts = place.view(a.prompts, a.prompt_tokens).to(a.device)
    settings = dict(
        num_beams=a.beams,
        do_sample=False,
        length_penalty=0.8,
        no_repeat_ngram_size=4,
        early_stopping=False,
        max_new_tokens=a.max_new_tokens,
        eos_token_id=END,
        pad_token_id=END,
    )
    seconds, tokens = [], 0
    for run in range(a.runs + 1):
        started, tokens = time.perf_counter(), 0
        with torch.inference_mode():
            for batch in prompts.split(a.batch_size):
                texts = model.generate(batch, attention_mask=torch.ones_like(batch), **settings)
                new = texts[:, a.prompt_tokens :].cpu()
                tokens += int((new != END).sum())
        if run:
            seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    print(json.dumps({"tokens_per_s": tokens / median, "pass_med_s": median, "tokens": tokens, "prompts": a.prompts}))


if __name__ == "__main__":
    main()
