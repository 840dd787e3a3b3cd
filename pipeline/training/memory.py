"""How much memory and time a step takes, estimated from the shapes alone.

Weights, gradients and AdamW's two moments are 16 bytes a parameter in fp32 (Rajbhandari et al.
2020, section 3.1); what the backward pass keeps of each block is counted from model/gpt.py, tensor
by tensor, in units of B * T * C numbers (Korthikanti et al. 2022, section 4).
"""

from dataclasses import dataclass

from pipeline.params import ModelParams
from pipeline.training.runtime import MATMUL_ATTENTION_UP_TO

FP32, BF16 = 4, 2  # bytes
PROCESS = 450e6  # bytes: Python, torch and its libraries
HEAD = {"fp32": 11.5, "bf16": 12}  # bytes a logit, on the way there and back, as measured
HEAD_ALONE = 20  # the same on a CPU where blocks keep nothing that its next step could take
BLOCK_TAPS = 6  # a channel, of a block's two Canon layers
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


def count_parameters(model: ModelParams, vocab_size: int) -> tuple[int, int]:
    """All trainable numbers, and those of the blocks' matrices."""
    C, gpt2 = model.n_embd, model.architecture == "gpt2"
    hidden = 12 * C * C * model.n_layer
    rest = vocab_size * C + (model.block_size * C if gpt2 else vocab_size * C)
    if model.architecture == "canon":
        rest += (model.n_layer + 1) // 2 * vocab_size * C + model.n_layer * BLOCK_TAPS * C
    if gpt2:
        vectors = (2 + 9 * model.bias + 2 * model.bias) * C * model.n_layer
        rest += vectors + (1 + model.bias) * C
    return hidden + rest, hidden


def peak_memory(model: ModelParams, vocab_size: int, setting: Setting) -> float:
    """Bytes that one process needs at the step's worst moment."""
    everything, hidden = count_parameters(model, vocab_size)
    reduced = setting.precision != "fp32"
    C, tokens = model.n_embd, setting.micro_batch_size * model.block_size
    shards = setting.processes if setting.parallel == "fsdp" else 1
    moments = 2 * everything - (hidden if setting.optimizer == "muon" else 0)
    held = FP32 * (everything + moments) / shards
    gradients = FP32 * everything / shards
    kept = block_activations(model, setting)
    activations = model.n_layer * kept
    if setting.activation_checkpointing:
        activations = model.n_layer * FP32 * tokens * C + kept
    a_logit = HEAD[setting.precision]
    if setting.activation_checkpointing and setting.device == "cpu":
        a_logit = HEAD_ALONE
    head = tokens * vocab_size * a_logit
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


def block_activations(model: ModelParams, setting: Setting) -> float:
    """Bytes that one block keeps for its backward pass."""
    B, T, C = setting.micro_batch_size, model.block_size, model.n_embd
    low = FP32 if setting.precision == "fp32" else BF16
    inner = 1 + 3 + 2 + 1 + 8  # what c_attn, attention, c_proj, c_fc and the MLP's c_proj read
    if model.architecture != "gpt2":
        inner += 3  # queries and keys before and after their norm
    if model.architecture == "canon":
        inner += 2  # what the taps read
    kept = B * T * C * (2 * FP32 + inner * low)  # and the two sums of the residual stream
    if setting.device == "cpu" and T <= MATMUL_ATTENTION_UP_TO:
        # the softmax, and as it was before: a cast or, as measured, room that nothing else takes
        kept += B * model.n_head * T * T * (FP32 + low)
    return kept


def flops_per_token(model: ModelParams, vocab_size: int) -> int:
    """Forward and backward, as GPT.flops_per_token counts them."""
    weights = 12 * model.n_layer * model.n_embd**2 + model.n_embd * vocab_size
    if model.architecture == "canon":
        weights += BLOCK_TAPS * model.n_layer * model.n_embd
    return 6 * weights + 12 * model.n_layer * model.n_embd * model.block_size


def step_seconds(model: ModelParams, vocab_size: int, setting: Setting, tflops: float) -> float:
    """Of computation alone, at `tflops` a process; what processes send each other comes on top."""
    tokens = setting.micro_batch_size * setting.micro_steps * model.block_size
    again = RECOMPUTED if setting.activation_checkpointing else 1.0
    return tokens * flops_per_token(model, vocab_size) * again / (tflops * 1e12)
