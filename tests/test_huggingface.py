"""The models are transformers' models: on random shapes with every parameter random, biases and
norms too, in both directions, logits, loss and every gradient agree, and greedy text is the same.
"""

import random
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pipeline.errors import CheckpointError
from pipeline.evaluation.sampling import generate
from pipeline.model.gpt import GPT, GPTConfig
from pipeline.model.huggingface import from_hf, hf_config, settings_of, to_hf

CASES = [(architecture, case) for architecture in ("gpt2", "modern") for case in range(6)]


def random_config(architecture: str, case: int, block_size: int = 0) -> GPTConfig:
    draw = random.Random(f"{architecture} {case}")
    n_head = draw.choice([1, 2, 3, 4])
    return GPTConfig(
        architecture,
        n_layer=draw.randint(1, 4),
        n_head=n_head,
        n_embd=n_head * draw.choice([4, 8, 12]),
        block_size=block_size or draw.randint(9, 40),
        vocab_size=draw.randint(30, 90),
        bias=True,
        gelu="none" if case == 5 else "tanh",
        softcap=2.0 if architecture == "modern" and case >= 4 else 0.0,
    )


@pytest.mark.parametrize("architecture", ["modern", "canon"])
def test_an_untied_head_is_said_to_be_one(architecture: str) -> None:
    config = GPTConfig(architecture, 2, 4, 32, 16, 61)
    assert hf_config(config, eot_id=60)["tie_word_embeddings"] is False  # transformers 4 ties else


def randomise(model: torch.nn.Module, case: int) -> None:
    """Zeros and ones would hide a swapped bias or norm."""
    generator = torch.Generator().manual_seed(case)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")) else 0.0
            embedding = name.endswith(("wte.weight", "embed_tokens.weight"))
            parameter.normal_(centre, 1.0 if embedding else 0.2, generator=generator)


def theirs_of(config: GPTConfig) -> PreTrainedModel:
    values = hf_config(config, eot_id=config.vocab_size - 1)
    settings = AutoConfig.for_model(values.pop("model_type"), **values)
    return AutoModelForCausalLM.from_config(settings).eval()


def pair(architecture: str, case: int, block_size: int = 0) -> tuple[GPT, PreTrainedModel]:
    """Ours with random weights, and theirs with the same."""
    config = random_config(architecture, case, block_size)
    ours = GPT(config).eval()
    randomise(ours, case)
    theirs = theirs_of(config)
    missing, unexpected = theirs.load_state_dict(to_hf(ours), strict=False)
    assert unexpected == []
    assert missing in ([], ["lm_head.weight"])  # tied
    theirs.tie_weights()
    return ours, theirs


def ids(config: GPTConfig) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, config.vocab_size, (3, config.block_size), generator=generator)


def same_function(ours: GPT, theirs: PreTrainedModel) -> None:
    x = ids(ours.config)
    logits, loss = ours(x[:, :-1], x[:, 1:])
    output = theirs(x, labels=x)
    torch.testing.assert_close(logits, output.logits[:, :-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, output.loss, rtol=1e-5, atol=1e-5)
    loss.backward()
    output.loss.backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    expected = from_hf({n.removeprefix("transformer."): g for n, g in gradients.items()})
    found = {n: p.grad for n, p in ours.named_parameters()}
    assert set(found) == set(expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize(("architecture", "case"), CASES)
def test_theirs_with_our_weights_is_the_same_function(architecture: str, case: int) -> None:
    same_function(*pair(architecture, case))


@pytest.mark.parametrize(("architecture", "case"), CASES)
def test_ours_with_their_weights_is_the_same_function(architecture: str, case: int) -> None:
    config = random_config(architecture, case)
    theirs = theirs_of(config)
    randomise(theirs, case)
    state = {n.removeprefix("transformer."): t for n, t in theirs.state_dict().items()}
    ours = GPT(config).eval()
    ours.load_state_dict(from_hf(state))
    same_function(ours, theirs)


@pytest.mark.parametrize("architecture", ["gpt2", "modern"])
def test_greedy_text_is_theirs_over_two_hundred_tokens(architecture: str) -> None:
    ours, theirs = pair(architecture, case=2, block_size=210)
    for model in (ours, theirs):  # attention that looks around: text that does not repeat itself
        for name, parameter in model.named_parameters():
            if not name.endswith(("wte.weight", "lm_head.weight", "embed_tokens.weight")):
                parameter.data *= 5
    prompt = [3, 1, 4, 1, 5]
    (new,) = generate(ours, prompt, max_new_tokens=200, temperature=0, top_k=0, seed=0)
    x = torch.tensor([prompt])
    output = theirs.generate(
        x,
        attention_mask=torch.ones_like(x),
        max_new_tokens=200,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert output[0].tolist() == prompt + new
    assert len(set(new)) > 3, "a loop of few tokens would prove little"


def test_a_gpt2_without_biases_has_zeros_for_them_there() -> None:
    ours = GPT(GPTConfig("gpt2", 2, 2, 16, 12, 30, bias=False)).eval()
    randomise(ours, 1)
    theirs = theirs_of(ours.config)
    theirs.load_state_dict(to_hf(ours), strict=False)
    theirs.tie_weights()
    x = ids(ours.config)
    torch.testing.assert_close(ours(x)[0], theirs(x).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("architecture", "case"), CASES)
def test_weights_and_settings_come_back_as_they_went(architecture: str, case: int) -> None:
    model = GPT(random_config(architecture, case))
    randomise(model, case)
    back = from_hf({n.removeprefix("transformer."): t for n, t in to_hf(model).items()})
    back.setdefault("lm_head.weight", back["wte.weight"])
    ours = model.state_dict()
    assert set(back) == set(ours)
    assert all(torch.equal(back[name], ours[name]) for name in ours)
    settings = settings_of(hf_config(model.config, eot_id=0), "config.json")
    assert all(getattr(model.config, name) == value for name, value in settings.items())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model_type": "llama"}, "model_type: found 'llama'; allowed: gpt2, nanochat"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon: found 1e-06; allowed: 1e-05"),
        ({"activation_function": "relu"}, "activation_function: found 'relu'; allowed: gelu_new"),
        ({"activation_function": ["gelu"]}, "activation_function: found ['gelu']; allowed: gelu"),
        ({"n_inner": 100}, "n_inner: found 100; allowed: null, or 4 n_embd"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings: found False; allowed: True"),
    ],
)
def test_another_function_is_refused_in_a_line(changes: dict[str, Any], line: str) -> None:
    values = {**hf_config(random_config("gpt2", 0), eot_id=0), **changes}
    with pytest.raises(CheckpointError) as caught:
        settings_of(values, "config.json")
    assert str(caught.value).startswith(f"config.json: {line}")


@pytest.mark.parametrize("rope", [[1], "x", None])
def test_rope_of_another_kind_is_refused(rope: object) -> None:
    values = {**hf_config(random_config("modern", 0), eot_id=0), "rope_parameters": rope}
    with pytest.raises(CheckpointError, match="rope_parameters: found "):
        settings_of(values, "config.json")


@pytest.mark.parametrize("key", [torch.ones(8, 5), torch.ones(()), None])
def test_queries_keys_and_values_that_do_not_fit_are_refused(key: Any) -> None:
    model = GPT(random_config("modern", 0))
    theirs = to_hf(model)
    name = "model.layers.0.self_attn.k_proj.weight"
    changed = {**theirs, name: key} if key is not None else {**theirs}
    if key is None:
        del changed[name]
    with pytest.raises(CheckpointError, match=r"layers\.0\.self_attn: q_proj, k_proj and v_proj"):
        from_hf(changed)


@pytest.mark.parametrize("found", ["15", True, 0, [], float("nan")])
def test_soft_capping_by_no_number_is_refused(found: object) -> None:
    values = {**hf_config(random_config("modern", 0), 0), "final_logit_softcapping": found}
    with pytest.raises(CheckpointError, match=r"config\.json: final_logit_softcapping: found"):
        settings_of(values, "config.json")


def test_soft_capping_that_is_not_stated_is_as_transformers_has_it() -> None:
    values = hf_config(random_config("modern", 0), eot_id=0)
    assert settings_of(values, "config.json")["softcap"] == 0
    del values["final_logit_softcapping"]
    theirs = AutoConfig.for_model(values.pop("model_type"), **values)
    stated = settings_of({**values, "model_type": "nanochat"}, "config.json")
    assert stated["softcap"] == theirs.final_logit_softcapping == 15
