"""Holds `dylora export` and `dylora train --adapter` against transformers with PEFT, on real MRPC rows. Run by hand:

    cargo build --release -p dylora-cli
    python tests/peft/check_peft.py --dylora target/release/dylora --model MINILM --data glue_data --tokenizers tokenizers

MINILM is the directory of a small BERT; `tokenizers` holds roberta-base/ and gpt2/ with their vocabularies, for tiny random models.
For each model: logits of 100 dev rows at every rank of the export, loaded by PEFT; the merged export, which differs from the base; the
adapter with all ranks; and an adapter that PEFT trained, read by `dylora train --adapter`. Rows are read one at a time there, packed here.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaForSequenceClassification
from transformers.utils import logging

warnings.filterwarnings("ignore")
logging.set_verbosity_error()
logging.disable_progress_bar()

RANK, ROWS, TOLERANCE = 8, 100, 1e-5
failed = []


def check(what, value, most=TOLERANCE):
    print(f"  {what}: {value:.2e}")
    if not value <= most:
        failed.append(what)


def dylora(*words):
    out = subprocess.run([args.dylora, *map(str, words)], capture_output=True, text=True)
    if out.returncode:
        sys.exit(f"dylora {' '.join(map(str, words))}\n{out.stderr}")
    return out.stdout


def tsv(path):
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def ours(run, rank, rows):
    lines = dylora("predict", "--run", run, "--rank", rank, "--split", "dev", "--file", rows).splitlines()[1:]
    return torch.tensor([[float(x) for x in line.split("\t")[2].split()] for line in lines])


def logits(model, encoded):
    model.eval()
    with torch.no_grad():
        return torch.cat([model(**one).logits for one in encoded])


def largest(a, b):
    return (a - b).abs().max().item()


def classifier(name, model, work):
    print(name)
    run, rows = work / f"{name}-run", work / "dev.tsv"
    lines = (args.data / "MRPC/dev.tsv").read_text(encoding="utf-8-sig").splitlines()
    rows.write_text("\n".join(lines[: ROWS + 1]) + "\n")
    settings = ["--rank", RANK, "--scale", args.scale, "--batch-size", 16, "--lr", "3e-3", "--max-length", 128]
    dylora("train", "--task", "mrpc", "--model", model, "--data", args.data, "--epochs", 3, "--max-train-rows", 64, "--out", run, *settings)
    tokenizer = AutoTokenizer.from_pretrained(model)
    encoded = [tokenizer(r["#1 String"], r["#2 String"], return_tensors="pt", truncation=True, max_length=128) for r in tsv(rows)]
    base = lambda: AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)
    for b in args.ranks:
        out = work / f"{name}-peft-{b}"
        dylora("export", "--run", run, "--rank", b, "--format", "peft", "--out", out)
        peft = PeftModel.from_pretrained(base(), out)
        expected = logits(peft, encoded)
        check(f"rank {b}, PEFT reads the export", largest(ours(run, b, rows), expected))
        if b in (3, RANK):
            merged = work / f"{name}-merged-{b}"
            dylora("export", "--run", run, "--rank", b, "--format", "merged", "--out", merged)
            plain = AutoModelForSequenceClassification.from_pretrained(merged)
            found = logits(plain, encoded)
            check(f"rank {b}, merged here", largest(found, expected))
            check(f"rank {b}, merged by PEFT", largest(logits(peft.merge_and_unload(), encoded), expected))
            # The same head on the base model's encoder.
            bare = base()
            bare.load_state_dict({k: v for k, v in plain.state_dict().items() if "classifier" in k or "pooler" in k}, strict=False)
            changed = largest(logits(bare, encoded), expected)
            print(f"  rank {b}, the base model is {changed:.2e} away")
            if changed < 1e-2:
                failed.append(f"{name}: the adapter changes nothing")
            assert plain.config.id2label == {0: "0", 1: "1"}
    out = work / f"{name}-all"
    dylora("export", "--run", run, "--all-ranks", "--format", "peft", "--out", out)
    check("all ranks, PEFT sees the largest", largest(ours(run, RANK, rows), logits(PeftModel.from_pretrained(base(), out), encoded)))

    # The other way round: PEFT trains a little, dylora starts there and does not move.
    torch.manual_seed(1)
    saved = ["classifier", "pooler"] if name == "bert" else ["classifier"]
    config = LoraConfig(r=RANK, lora_alpha=20, target_modules=["query", "key", "value"], modules_to_save=saved, task_type=TaskType.SEQ_CLS)
    peft = get_peft_model(base(), config)
    optimizer = torch.optim.AdamW([p for p in peft.parameters() if p.requires_grad], lr=3e-3)
    train = tsv(args.data / "MRPC/train.tsv")[:32]
    for row in train:
        one = tokenizer(row["#1 String"], row["#2 String"], return_tensors="pt", truncation=True, max_length=128)
        peft(**one, labels=torch.tensor([int(row["Quality"])])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    theirs, still = work / f"{name}-theirs", work / f"{name}-still"
    peft.save_pretrained(theirs)
    dylora("train", "--task", "mrpc", "--model", model, "--data", args.data, "--adapter", theirs, "--epochs", 1, "--max-train-rows", 8, "--lr", 0, "--out", still)
    check("trained by PEFT, read by dylora", largest(ours(still, RANK, rows), logits(peft, encoded)))


def language_model(name, model, work):
    print(name)
    files = {}
    for split, count in (("train", 48), ("dev", ROWS)):
        files[split] = work / f"{split}.jsonl"
        pairs = tsv(args.data / f"MRPC/{split}.tsv")[:count]
        files[split].write_text("".join(json.dumps({"context": r["#1 String"], "completion": r["#2 String"]}) + "\n" for r in pairs))
    tokenizer = AutoTokenizer.from_pretrained(model)
    eos = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    texts = []
    for r in map(json.loads, files["dev"].read_text().splitlines()):
        context, completion = tokenizer(r["context"])["input_ids"], tokenizer(" " + r["completion"])["input_ids"]
        texts.append((torch.tensor(context + [eos] + completion + [eos]), len(completion) + 1))

    def loss(model):
        model.eval()
        total, count = 0.0, 0
        for ids, targets in texts:
            with torch.no_grad():
                out = model(input_ids=ids[None, :-1]).logits[0, -targets:]
            total += torch.nn.functional.cross_entropy(out.double(), ids[-targets:], reduction="sum").item()
            count += targets
        return total / count

    def train(run, *more):
        words = ("--epochs", 2, "--batch-size", 8, "--warmup-steps", 0, "--adapter-dropout", 0, *more)
        dylora("train", "--task", "text", "--model", model, "--train", files["train"], "--dev", files["dev"], "--out", run, *words)
        return [row["loss"] for row in json.loads((run / "record.json").read_text())["ranks"]]

    run = work / f"{name}-run"
    losses = train(run, "--rank", RANK, "--scale", args.scale, "--lr", "1e-2")
    base = lambda: AutoModelForCausalLM.from_pretrained(model)
    for b in args.ranks:
        out = work / f"{name}-peft-{b}"
        dylora("export", "--run", run, "--rank", b, "--format", "peft", "--out", out)
        check(f"rank {b}, loss where PEFT reads the export", abs(loss(PeftModel.from_pretrained(base(), out)) - losses[b - 1]))
    out = work / f"{name}-merged"
    dylora("export", "--run", run, "--rank", 5, "--format", "merged", "--out", out)
    check("rank 5, loss of the merged export", abs(loss(AutoModelForCausalLM.from_pretrained(out)) - losses[4]))
    changed = abs(loss(base()) - losses[4])
    print(f"  rank 5, the base model's loss is {changed:.2e} away")
    if changed < 1e-3:
        failed.append(f"{name}: the adapter changes nothing")

    torch.manual_seed(1)
    peft = get_peft_model(base(), LoraConfig(r=RANK, lora_alpha=20, target_modules=["c_attn"], fan_in_fan_out=True, task_type=TaskType.CAUSAL_LM))
    optimizer = torch.optim.AdamW([p for p in peft.parameters() if p.requires_grad], lr=1e-2)
    for ids, _ in texts[:20]:
        peft(input_ids=ids[None], labels=ids[None]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    theirs = work / f"{name}-theirs"
    peft.save_pretrained(theirs)
    found = train(work / f"{name}-still", "--adapter", theirs, "--lr", 0)
    check("trained by PEFT, loss where dylora reads it", abs(found[-1] - loss(peft)))


def tiny(kind, config, vocabulary, files, out):
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 2:
                p.mul_(4)
    model.save_pretrained(out)
    for file in files:
        shutil.copy(vocabulary / file, out)
    return out


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dylora", required=True, type=Path)
parser.add_argument("--model", required=True, type=Path)
parser.add_argument("--data", required=True, type=Path)
parser.add_argument("--tokenizers", required=True, type=Path)
parser.add_argument("--only", nargs="*", default=["bert", "roberta", "gpt2"], help="some of the models")
parser.add_argument("--scale", default="alpha/b", help="the rule that dylora trains with")
parser.add_argument("--ranks", nargs="*", type=int, default=range(1, RANK + 1), help="some of the ranks")
args = parser.parse_args()
torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as folder:
    work = Path(folder)
    if "bert" in args.only:
        classifier("bert", args.model, work)
    small = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128)
    config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=2, layer_norm_eps=1e-5, **small)
    if "roberta" in args.only:
        classifier("roberta", tiny(RobertaForSequenceClassification, config, args.tokenizers / "roberta-base", ["vocab.json", "merges.txt"], work / "roberta"), work)
    config = GPT2Config(n_embd=64, n_layer=3, n_head=4, n_positions=256)
    if "gpt2" in args.only:
        language_model("gpt2", tiny(GPT2LMHeadModel, config, args.tokenizers / "gpt2", ["vocab.json", "merges.txt", "tokenizer.json"], work / "gpt2"), work)
if failed:
    sys.exit("failed: " + "; ".join(failed))
print("all within", TOLERANCE)
