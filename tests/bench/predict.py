"""Rows per second of `dylora predict` at each rank beside transformers with PEFT on the same rows in one run; start-up of the command.

usage: predict.py --dylora PATH --model DIR --data GLUE [--rounds 3] [--threads 2] [--ranks 1,4,8] [--batch 32] [--load DIR ..]
Both sides tokenise and predict MRPC's dev rows from texts in memory, the model loaded before. PEFT's batches are padded to the longest
row, once in file order and once sorted by length; dylora packs. It reads the adapters that `dylora export` wrote, so both compute the same.
--load: model directories to time the command's loading with, on one row. Run it on a machine that does nothing else.
"""

import argparse
import csv
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("--dylora", required=True)
p.add_argument("--model", required=True, type=Path)
p.add_argument("--data", required=True, type=Path)
p.add_argument("--load", nargs="*", default=[], type=Path)
p.add_argument("--rounds", type=int, default=3)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--ranks", default="1,2,3,4,5,6,7,8")
p.add_argument("--batch", type=int, default=32)
a = p.parse_args()
os.environ["RAYON_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(a.threads)

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

warnings.filterwarnings("ignore")
logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(a.threads)


def run(*words):
    out = subprocess.run([a.dylora, *map(str, words)], capture_output=True, text=True)
    if out.returncode:
        sys.exit(f"dylora {' '.join(map(str, words))}\n{out.stderr}")
    return out


def train(model, out):
    run("train", "--task", "mrpc", "--model", model, "--data", a.data, "--epochs", 1, "--max-train-rows", 16, "--max-length", 128, "--out", out, "--device", "cpu")


def wall(*words, times=15):
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run(*words)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


class Peft:
    """The exported adapter at one rank on the base model."""

    def __init__(self, adapter, tokenizer):
        base = AutoModelForSequenceClassification.from_pretrained(a.model, num_labels=2)
        self.model, self.tokenizer = PeftModel.from_pretrained(base, adapter).eval(), tokenizer

    def rows_per_second(self, rows, by_length):
        start = time.perf_counter()
        order = sorted(rows, key=lambda r: len(r[0]) + len(r[1])) if by_length else rows
        with torch.inference_mode():
            for at in range(0, len(order), a.batch):
                part = order[at : at + a.batch]
                batch = self.tokenizer([r[0] for r in part], [r[1] for r in part], padding=True, truncation=True, max_length=128, return_tensors="pt")
                self.model(**batch).logits
        return len(rows) / (time.perf_counter() - start)


def main():
    with open(a.data / "MRPC/dev.tsv", encoding="utf-8-sig", newline="\n") as file:
        rows = [(r["#1 String"], r["#2 String"]) for r in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    ranks = [int(r) for r in a.ranks.split(",")]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        train(a.model, work / "run")
        tokenizer = AutoTokenizer.from_pretrained(a.model)
        models = {}
        for b in ranks:
            run("export", "--run", work / "run", "--rank", b, "--format", "peft", "--out", work / f"peft-{b}")
            models[b] = Peft(work / f"peft-{b}", tokenizer)
        models[ranks[0]].rows_per_second(rows, True)  # Warms up.
        for _ in range(a.rounds):
            for b in ranks:
                said = run("predict", "--run", work / "run", "--rank", b, "--split", "dev", "--device", "cpu").stderr
                found.setdefault((b, "dylora"), []).append(float(re.search(r"([\d.]+) rows a second", said)[1]))
                for name, by_length in (("PEFT, file order", False), ("PEFT, by length", True)):
                    found.setdefault((b, name), []).append(models[b].rows_per_second(rows, by_length))
        best = {key: max(values) for key, values in found.items()}
        print(f"{len(rows)} MRPC dev rows, {a.model.name}, {a.threads} threads, batches of {a.batch}, best of {a.rounds}; rows a second")
        print("| rank | dylora | PEFT, padded, file order | PEFT, padded, by length | times |\n| --- | --- | --- | --- | --- |")
        for b in ranks:
            ours, plain, sorted_ = (best[b, name] for name in ("dylora", "PEFT, file order", "PEFT, by length"))
            print(f"| {b} | {ours:.0f} | {plain:.0f} | {sorted_:.0f} | {ours / plain:.2f}, {ours / sorted_:.2f} |")
        print(f"start-up: --version {wall('--version') * 1e3:.0f} ms, train --help {wall('train', '--help') * 1e3:.0f} ms")
        one = work / "one.tsv"
        one.write_text("\n".join((a.data / "MRPC/dev.tsv").read_text(encoding="utf-8-sig").split("\n")[:2]) + "\n")
        for model in [a.model, *a.load]:
            out = work / f"load-{model.name}"
            train(model, out)
            seconds = wall("predict", "--run", out, "--split", "dev", "--file", one, "--device", "cpu", times=5)
            size = sum(f.stat().st_size for f in model.glob("*.safetensors")) / 2**20
            print(f"loading {model.name} ({size:.0f} MiB) and one row: {seconds * 1e3:.0f} ms")


main()
