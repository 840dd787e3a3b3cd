"""lm-evaluation-harness runs on an export, and its word perplexity is this project's."""

import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from test_export import TOKENIZERS, checkpoint
from tiny_project import words

from pipeline.__main__ import main
from pipeline.evaluation.perplexity import score_split
from pipeline.model.gpt import ARCHITECTURES
from pipeline.model.pretrained import load_pretrained

TASK = """
task: own_text
dataset_path: text
dataset_kwargs:
  data_files:
    test: {text}
  sample_by: document
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: word_perplexity
  - metric: bits_per_byte
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # theirs
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_its_word_perplexity_is_ours(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra eval: make test-all installs it")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.chdir(tmp_path)
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    tokenizer = TOKENIZERS["bpe"]
    checkpoint(tmp_path / "best.pt", architecture, tokenizer)
    assert main(["export", "out", "--checkpoint", "best.pt"]) == 0
    text = words(400)
    (tmp_path / "text.txt").write_text(text)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/own_text.yaml").write_text(TASK.format(text=tmp_path / "text.txt"))
    results = simple_evaluate(
        model="hf",
        model_args={
            "pretrained": str(tmp_path / "out"),
            "dtype": "float32",
            "device": "cpu",
            "trust_remote_code": architecture == "canon",
        },
        tasks=["own_text"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        bootstrap_iters=0,
    )
    theirs = results["results"]["own_text"]

    ids = np.concatenate(([tokenizer.eot_id], tokenizer.encode(text)))
    assert len(ids) > 5 * 64, "several windows of block_size tokens"
    score = score_split(
        load_pretrained("out").model, ids, overlap=0, batch_size=4, autocast=nullcontext, name="t"
    )
    ours = math.exp(score.nats / len(text.split()))
    assert theirs["word_perplexity,none"] == pytest.approx(ours, rel=1e-3)
    bits = score.bits_per_byte(len(text.encode()))
    assert theirs["bits_per_byte,none"] == pytest.approx(bits, rel=1e-3)
