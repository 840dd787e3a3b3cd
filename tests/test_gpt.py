"""The model is the architecture it names: causal, initialised, tied and counted as published."""

import math

import pytest
import torch
from torch.nn import functional as F

from pipeline.model.gpt import (
    ARCHITECTURES,
    CANON_TAPS,
    GPT,
    HEAD_BLOCK,
    QUERY_BLOCK,
    Canon,
    GPTConfig,
    Tied,
    from_before,
    rms_norm,
    rotary_tables,
    rotated_pairs,
)

SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 16, "vocab_size": 61}


def randomised(architecture: str, **changes: object) -> GPT:
    """A model in which every parameter is random: zeros and ones would hide mistakes."""
    model = GPT(GPTConfig(architecture, **{**SHAPE, **changes})).eval()
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def ids(batch: int = 3, tokens: int = 16) -> torch.Tensor:
    return torch.randint(0, 61, (batch, tokens), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", ["sdpa", "matmul"])
def test_no_position_sees_a_later_one(architecture: str, kernel: str) -> None:
    model = randomised(architecture)
    model.set_attention(kernel)
    for changed in range(1, 16):
        before, after = ids(), ids()
        after[:, changed] = (after[:, changed] + 1) % 61
        same = torch.isclose(model(before)[0], model(after)[0], atol=1e-5).all(dim=-1)
        assert same[:, :changed].all()
        assert not same[:, changed:].any()


@pytest.mark.parametrize("tokens", [16, 2 * QUERY_BLOCK + 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_attention_kernels_give_the_same_gradients(architecture: str, tokens: int) -> None:
    gradients = []
    for kernel in ("sdpa", "matmul"):
        model = randomised(architecture, block_size=tokens)
        model.set_attention(kernel)
        model(ids(2, tokens), ids(2, tokens))[1].backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_large_vocabularys_head_in_blocks_is_one_product() -> None:
    model = randomised("modern", vocab_size=2 * HEAD_BLOCK + 3, n_layer=1)
    targets = ids() + 2 * HEAD_BLOCK - 60  # on both sides of a block's end
    logits, loss = model(ids(), targets)
    loss.backward()
    found, model.lm_head.weight.grad = model.lm_head.weight.grad, None
    whole = model.lm_head(model.features(ids()))
    torch.testing.assert_close(logits, whole)
    F.cross_entropy(whole.flatten(0, 1), targets.flatten()).backward()
    torch.testing.assert_close(found, model.lm_head.weight.grad)


def test_rows_of_equal_ids_are_summed_before_a_tied_heads_gradient_is_rounded() -> None:
    table = torch.zeros(3, 4, requires_grad=True)
    head = table.detach().bfloat16().requires_grad_()
    idx = torch.tensor([[1, 2] * 512, [1] * 1024])
    weight, rows = Tied.apply(head, table, idx)
    (weight.float().sum() * 8 + rows.sum()).backward()
    assert table.grad is None
    assert head.grad is not None
    # by ones in bf16 the second row's would end at 256
    assert head.grad.tolist() == [[8.0] * 4, [1544.0] * 4, [520.0] * 4]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_tied_weights_gradient_is_the_sum_of_both_uses(dtype: torch.dtype) -> None:
    model, x = randomised("gpt2"), ids()
    x[0, :3] = x[0, 0]  # rows that repeat
    model(x.to(dtype), ids())[1].backward()
    found, model.wte.weight.grad = model.wte.weight.grad, None
    apart = model.lm_head(model.features(x))
    F.cross_entropy(apart.flatten(0, 1), ids().flatten()).backward()
    torch.testing.assert_close(found, model.wte.weight.grad)


def test_a_canon_layer_is_a_depthwise_convolution_of_what_came_before() -> None:
    canon = Canon(GPTConfig("canon", **SHAPE))
    generator = torch.Generator().manual_seed(1)
    torch.nn.init.normal_(canon.weight, generator=generator)
    x = torch.randn(3, 16, 32, generator=generator)
    before = torch.randn(3, CANON_TAPS, 32, generator=generator)
    for past in (torch.zeros_like(before), before):
        text = torch.cat((past, x), dim=1)
        expected = x + F.conv1d(text[:, :-1].mT, canon.weight, groups=32).mT
        kept = past.clone()
        found = canon(x, kept if past is before else None)
        torch.testing.assert_close(found, expected)
        assert torch.equal(kept, x[:, -CANON_TAPS:] if past is before else past)


def test_value_embeddings_are_each_tokens_own_values() -> None:
    shape = {**SHAPE, "n_layer": 1, "vocab_size": 20}  # ids fewer than channels: any map of them
    tables, products = GPT(GPTConfig("canon", **shape)), GPT(GPTConfig("canon", **shape))
    generator = torch.Generator().manual_seed(2)
    for name, parameter in products.named_parameters():
        if "values" not in name and "canon" not in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    features = rms_norm(rms_norm(products.wte.weight)).detach().double()  # (V, C)
    values = products.h[0].attn.c_attn.weight.detach()[64:].double()
    state = products.state_dict()
    state["h.0.attn.c_attn.weight"] = state["h.0.attn.c_attn.weight"].clone()
    state["h.0.attn.c_attn.weight"][64:] = 0
    state["values.0.weight"] = (features @ values.T).float()
    tables.load_state_dict(state)
    x = ids() % 20
    torch.testing.assert_close(tables(x)[0], products(x)[0], rtol=1e-5, atol=1e-5)


def test_half_of_a_canon_key_carries_no_position_and_is_of_the_token_before() -> None:
    config = GPTConfig("canon", **{**SHAPE, "n_embd": 40})  # heads of 10: five pairs
    assert rotated_pairs(config) == (3, 5)
    _, sin = rotary_tables(config)
    assert bool((sin[1:, :3] != 0).all())
    assert bool((sin[:, 3:] == 0).all())
    k = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(3))
    found = from_before(k, 3)
    own, before = [0, 1, 2, 5, 6, 7], [3, 4, 8, 9]
    assert torch.equal(found[..., own], k[..., own])
    assert torch.equal(found[:, :, 1:, before], k[:, :, :-1, before])
    assert bool((found[:, :, 0, before] == 0).all())


@pytest.mark.parametrize(("layers", "tables"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_every_second_block_from_the_last_has_value_embeddings(layers: int, tables: int) -> None:
    model = randomised("canon", n_layer=layers)
    assert len(model.values) == tables
    given = []
    for block in model.h:
        block.register_forward_pre_hook(lambda _, args: given.append(args[-1] is not None))
    model(ids())
    assert given == [bool((layers - i) % 2) for i in range(layers)]


def test_compiled_gelu_is_the_same_function() -> None:
    model = randomised("gpt2")
    compiled = torch.compile(model, backend="eager")  # what is traced, without a build
    torch.testing.assert_close(compiled(ids())[0], model(ids())[0], rtol=1e-5, atol=1e-5)


def test_the_head_is_tied_in_gpt2_alone() -> None:
    gpt2, modern = randomised("gpt2"), randomised("modern")
    assert gpt2.lm_head.weight is gpt2.wte.weight
    assert modern.lm_head.weight is not modern.wte.weight


def test_gpt2_starts_as_published() -> None:
    model = GPT(GPTConfig("gpt2", 4, 4, 256, 64, 2048))
    model.initialise(1)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        elif parameter.dim() == 1:
            assert (parameter == 1).all()
        else:
            std = 0.02 / math.sqrt(2 * 4) if "c_proj" in name else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.03), name


def test_a_fresh_modern_model_is_uniform() -> None:
    model = GPT(GPTConfig("modern", **SHAPE))
    model.initialise(1)
    loss = model(ids(), ids())[1]
    assert loss.item() == pytest.approx(math.log(61), rel=1e-6)


def test_weights_follow_the_seed_alone() -> None:
    states = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        model = GPT(GPTConfig("modern", **SHAPE))
        model.initialise(5)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_gpt2_small_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = GPT(GPTConfig("gpt2", 12, 12, 768, 1024, 50257))
    assert model.count_parameters() == 124_439_808


def test_flops_count_every_product_of_the_forward_pass_three_times() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = randomised("gpt2")
    model.set_attention("matmul")
    with FlopCounterMode(display=False) as counter:
        model(ids(batch=1))
    assert model.flops_per_token() == pytest.approx(3 * counter.get_total_flops() / 16)


def test_a_masked_target_counts_for_nothing() -> None:
    model, x, y = randomised("modern"), ids(batch=1), ids(batch=1)
    y[:, 10:] = -1
    logits, loss = model(x, y)
    assert loss is not None
    torch.testing.assert_close(loss, F.cross_entropy(logits[0, :10], y[0, :10]))


def test_dropout_is_drawn_from_the_step_and_switched_off_in_eval() -> None:
    model = randomised("gpt2", dropout=0.5).train()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(ids())[0])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    model.eval()
    assert torch.equal(model(ids())[0], model(ids())[0])
