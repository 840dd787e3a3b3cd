"""How much memory and time a step takes, estimated from the shapes alone.

Weights, gradients and AdamW's two moments are 16 bytes a parameter in fp32 (Rajbhandari et al.
2020, section 3.1); what the backward pass keeps of each block is counted from model/gpt.py, tensor
by tensor, in units of B * T * C numbers (Korthikanti et al. 2022, section 4).
"""

from dataclasses import dataclass

import torch

from pipeline.model.gpt import GPT, GPTConfig
from pipeline.params import ModelParams
from pipeline.training.runtime import MATMUL_ATTENTION_UP_TO

FP32, BF16 = 4, 2  # bytes
PROCESS = 450e6  # bytes: Python, torch and its libraries
HEAD = {"fp32": 11.5, "bf16": 12}  # bytes a logit, on the way there and back, as measured
HEAD_ALONE = 20  # the same on a CPU where blocks keep nothing that its next step could take
GATHERED_BLOCKS = 2  # FSDP: the one that computes, and the next
RECOMPUTED = 4 / 3  # time, where every block is computed once more


@dataclass(frozen=True)
class Setting:
    """What a step is computed with."""

    micro_batch_size: int  # sequences of one process
    micro_steps: int  # of one process in a step
    processes: int
    parallel: str  # none, ddp, fsdp
    optimizer: str  # adamw, muon
    precision: str  # fp32, bf16
    activation_checkpointing: bool
    device: str  # cpu, cuda


def planned(model: ModelParams, vocab_size: int) -> GPT:
    """The network of these settings without its numbers: for its shapes alone."""
    with torch.device("meta"):
        return GPT(GPTConfig(vocab_size=vocab_size, **model.model_dump(exclude={"size"})))


def peak_memory(model: GPT, setting: Setting) -> float:
    """Bytes that one process needs at the step's worst moment."""
    config = model.config
    everything = model.count_parameters()
    hidden = sum(matrix.numel() for matrix in model.h.parameters() if matrix.dim() == 2)
    reduced = setting.precision != "fp32"
    C, tokens = config.n_embd, setting.micro_batch_size * config.block_size
    shards = setting.processes if setting.parallel == "fsdp" else 1
    moments = 2 * everything - (hidden if setting.optimizer == "muon" else 0)
    held = FP32 * (everything + moments) / shards
    gradients = FP32 * everything / shards
    kept = block_activations(config, setting)
    activations = config.n_layer * kept
    if setting.activation_checkpointing:
        activations = config.n_layer * FP32 * tokens * C + kept
    a_logit = HEAD[setting.precision]
    if setting.activation_checkpointing and setting.device == "cpu":
        a_logit = HEAD_ALONE
    head = tokens * config.vocab_size * a_logit
    computed_in = BF16 if reduced else FP32
    block, root = 12 * C * C, everything - hidden
    copies = computed_in * everything if reduced else 0  # autocast's, or none
    if setting.parallel == "fsdp":
        copies = computed_in * (root + GATHERED_BLOCKS * block) + FP32 * block
        if setting.micro_steps > 1:  # gradients are whole until the step's last micro-batch
            copies += FP32 * everything
    update = 0.0
    if setting.optimizer == "muon":  # all matrices of a shape at once, a third of them
        update = hidden / 3 * (2 * FP32 + 3 * computed_in)
    # a sum, as measured: what one part of a step leaves is in pieces that no other can use
    return PROCESS + held + gradients + copies + activations + head + update


def block_activations(config: GPTConfig, setting: Setting) -> float:
    """Bytes that one block keeps for its backward pass."""
    B, T, C = setting.micro_batch_size, config.block_size, config.n_embd
    low = FP32 if setting.precision == "fp32" else BF16
    inner = 1 + 3 + 2 + 1 + 8  # what c_attn, attention, c_proj, c_fc and the MLP's c_proj read
    if config.architecture != "gpt2":
        inner += 3  # queries and keys before and after their norm
    if config.architecture == "canon":
        inner += 1  # what the taps read
    kept = B * T * C * (2 * FP32 + inner * low)  # and the two sums of the residual stream
    if setting.device == "cpu" and T <= MATMUL_ATTENTION_UP_TO:
        # the softmax, and as it was before: a cast or, as measured, room that nothing else takes
        kept += B * config.n_head * T * T * (FP32 + low)
    return kept


def step_seconds(model: GPT, setting: Setting, tflops: float) -> float:
    """Of computation alone, at `tflops` a process; what processes send each other comes on top."""
    tokens = setting.micro_batch_size * setting.micro_steps * model.config.block_size
    again = RECOMPUTED if setting.activation_checkpointing else 1.0
    return tokens * model.flops_per_token() * again / (tflops * 1e12)
