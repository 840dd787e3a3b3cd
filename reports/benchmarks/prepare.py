"""Measures prepare on a gigabyte of text, and training's start on a gigabyte of tokens.

    python reports/benchmarks/prepare.py FOLDER      (7 GB free there; about four minutes)

FOLDER/own/text.txt is the complete works of Shakespeare (fetched by the pipeline), over and over
with the lines in another order each time. prepare runs with one and two processes in turn, and
tiktoken's encode_ordinary on the first 128 MB as a whole. Writes prepare.json beside this file.
"""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
BYTES = 1_000_000_000
WHOLE_BYTES = 128_000_000
REPEATS = 2
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

ENCODE_ORDINARY = f"""
import sys, time
from pathlib import Path
from pipeline.corpus.tokenizers import load
tokenizer = load(Path("data/tokens/tokenizer.json"))
with open("own/text.txt", encoding="utf-8") as file:
    text = file.read({WHOLE_BYTES})
started = time.perf_counter()
ids = tokenizer._encoding.encode_ordinary(text)
print(len(ids), time.perf_counter() - started)
"""

START_TRAINING = """
import sys, time
from pathlib import Path
started = time.perf_counter()
import resource
import numpy, torch
from pipeline.corpus.batches import Batches
from pipeline.corpus.token_file import load_split
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line[:3] in ("VmR", "Rss")}
before, imported = resident(), time.perf_counter()
tokens = load_split(Path(sys.argv[1]), "train").tokens
batches = Batches(tokens, 1024, 8, sys.argv[2], 1, eot_id=50256)
batches.sequences(1, 0, 8)
seconds = time.perf_counter() - imported
first = resident()
for step in range(2, 1001):
    batches.sequences(step, 0, 8)
print(len(tokens), seconds, first["VmRSS"] - before["VmRSS"], resident()["VmRSS"] - before["VmRSS"], resident()["RssAnon"] - before["RssAnon"])
"""
