"""params.yaml -> frozen, validated settings.

The file is read as YAML 1.2, where `1e-4` and `5e-05` are numbers and `no` is a word. It is
checked as a whole: an unknown key, a wrong type or a value out of range is a `ParamsError` of
one line. The comments in params.yaml give each key's unit and range.
"""

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from pipeline.errors import ParamsError
from pipeline.paths import BROUGHT, CHECKPOINTS
from pipeline.storage import parse_yaml

PARAMS_FILE = Path("params.yaml")

# JSON schema's words in a user's
TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "null": "null",
    None: "a section of settings",
}
BOUNDS = {
    "minimum": "of at least",
    "exclusiveMinimum": "above",
    "maximum": "of at most",
    "exclusiveMaximum": "below",
    "minLength": "of length at least",
}

Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]  # 0 switches the thing off
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# GPT-2's four published shapes (Radford et al. 2019, table 2): n_layer, n_head, n_embd
SIZES = {
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
}

# nanoGPT's names for what is here under another
NANOGPT = {
    "dataset": "corpus.name, corpus.path",
    "learning_rate": "train.lr",
    "decay_lr": "train.schedule",
    "batch_size": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.grad_accum_steps",
    "max_iters": "train.max_steps",
    "warmup_iters": "train.warmup_steps",
    "lr_decay_iters": "train.max_steps, train.decay_fraction",
    "eval_iters": "train.eval_batches",
    "dtype": "train.precision",
    "always_save_checkpoint": "train.keep_interval",
}

# a bound lets pydantic look into the text: half a character, which no UTF-8 can hold, is refused
Text = Annotated[str, Field(min_length=0, description="text that UTF-8 can hold")]

# train.lr: auto (reports/sweeps/architecture.md for GPT-2's own network)
LR_FROM_SCRATCH, LR_OF_GPT2_WITH_ADAMW, LR_FROM_PRETRAINED = 3e-3, 1e-3, 5e-5
# neither a setting nor a file may make a process take any memory
LONGEST_CONTEXT = 2**20  # tokens
MOST_IDS = 2**24  # of a vocabulary


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class CorpusParams(Section):
    """Where the text comes from."""

    name: Literal["shakespeare", "tinyshakespeare", "tinystories"]
    path: str = Field(min_length=1)
    pattern: str = Field(min_length=1)
    text_field: str = Field(min_length=1)
    errors: Literal["strict", "replace"]


class PrepareParams(Section):
    """How text becomes tokens."""

    tokenizer: Literal[
        "gpt2", "bpe", "char", "byte", "r50k_base", "p50k_base", "cl100k_base", "o200k_base", "file"
    ]
    vocab_size: int = Field(ge=257, le=MOST_IDS)
    format: Literal["bin", "pt"]
    shard_tokens: Count
    split_by: Literal["stream", "document"]
    val_fraction: float = Field(gt=0, lt=1)
    test_fraction: Fraction

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction: found {self.val_fraction} with test_fraction "
                f"{self.test_fraction}; allowed: less than 1 together"
            )
        return self


class ModelParams(Section):
    """The network's shape."""

    architecture: Literal["gpt2", "modern", "canon"]
    size: Literal["custom", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
    n_layer: int = Field(ge=1, le=1000)
    n_head: Count
    n_embd: int = Field(ge=1, le=2**20)
    block_size: int = Field(ge=1, le=LONGEST_CONTEXT)
    dropout: Fraction
    bias: bool

    @model_validator(mode="before")
    @classmethod
    def _shape_of_a_named_size(cls, values: Any) -> Any:
        if isinstance(values, dict) and str(values.get("size")) in SIZES:
            names = ("n_layer", "n_head", "n_embd")
            return {**values, **dict(zip(names, SIZES[values["size"]], strict=True))}
        return values

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.n_embd % self.n_head:
            divisors = [n for n in range(1, self.n_embd + 1) if self.n_embd % n == 0]
            raise ValueError(
                f"n_head: found {self.n_head}; allowed: a divisor of n_embd "
                f"({self.n_embd}), as {', '.join(map(str, divisors))}"
            )
        if self.architecture != "gpt2" and (self.n_embd // self.n_head) % 2:
            raise ValueError(
                f"n_head: found {self.n_head}; allowed: one that makes the head size "
                f"n_embd / n_head even, as RoPE turns pairs of channels"
            )
        return self


class TrainParams(Section):
    """The optimisation, and how it runs."""

    seed: CountOrNone
    max_steps: Count
    micro_batch_size: Literal["auto"] | Count
    grad_accum_steps: Count
    sequences_per_step: Count | None
    batch_order: Literal["random", "shuffled", "sequential", "documents"]
    stride: Count | None
    max_seq_len: Count | None
    optimizer: Literal["adamw", "muon"]
    lr: Annotated[Positive, Field(description="auto or a number above 0")]
    muon_lr_ratio: Positive
    embedding_lr_ratio: Positive
    min_lr: NotNegative
    schedule: Literal["cosine", "wsd", "constant"]
    warmup_steps: CountOrNone
    decay_fraction: float = Field(ge=0, le=1)
    weight_decay: NotNegative
    beta1: Fraction
    beta2: Fraction
    grad_clip: NotNegative
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    device: Literal["auto", "cpu", "cuda", "mps"]
    compile: Literal["auto", "on", "off"]
    attention: Literal["auto", "matmul", "sdpa"]
    threads: Literal["auto"] | Count
    nproc: Literal["auto"] | Count
    parallel: Literal["none", "ddp", "fsdp"]
    activation_checkpointing: bool
    numerics: Literal["native", "portable"]
    eval_interval: Count
    eval_batches: CountOrNone
    log_interval: Count
    sample_interval: CountOrNone
    sample_prompt: Text
    sample_tokens: Count
    keep_interval: CountOrNone
    target_loss: Positive | None
    patience: CountOrNone
    init_from: str = Field(min_length=1)
    freeze_layers: CountOrNone

    @model_validator(mode="after")
    def _the_start_is_no_output_of_this_stage(self) -> Self:
        if self.init_from == "resume":
            raise ValueError(
                "init_from: found resume; allowed: scratch, gpt2, ..., a file or folder (what was "
                "interrupted goes on by itself where the same command runs again)"
            )
        if CHECKPOINTS.absolute() in Path(os.path.abspath(self.init_from)).parents:
            raise ValueError(
                f"init_from: found {self.init_from}, train's own output, which DVC removes first; "
                f"allowed: a copy of it (`cp {self.init_from} data/init/`)"
            )
        return self

    @model_validator(mode="after")
    def _the_step_is_named_once(self) -> Self:
        auto, found = self.micro_batch_size == "auto", self.sequences_per_step
        if auto and (found is None or self.grad_accum_steps != 1):
            raise ValueError(
                f"micro_batch_size: found auto with sequences_per_step {found} and "
                f"grad_accum_steps {self.grad_accum_steps}; allowed: auto with sequences_per_step "
                "1 or more and grad_accum_steps 1, which it then decides"
            )
        if not auto and found is not None:
            raise ValueError(
                f"sequences_per_step: found {found} with micro_batch_size {self.micro_batch_size}; "
                "allowed: null, or micro_batch_size: auto"
            )
        return self

    @model_validator(mode="after")
    def _the_order_reads_its_settings(self) -> Self:
        order = self.batch_order
        if self.max_seq_len is not None and order != "documents":
            raise ValueError(
                f"max_seq_len: found {self.max_seq_len} with batch_order {order}, which has no use "
                "for it; allowed: null, or batch_order: documents"
            )
        if self.stride is not None and order == "random":
            raise ValueError(
                f"stride: found {self.stride} with batch_order random, whose sequences do not "
                "follow one another; allowed: null, or another batch_order"
            )
        return self

    @model_validator(mode="after")
    def _rates_are_in_order(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr: found {self.min_lr}; allowed: 0 to lr ({self.lr})")
        return self

    @model_validator(mode="after")
    def _it_can_be_computed_so(self) -> Self:
        if self.parallel == "none" and self.nproc not in (1, "auto"):
            raise ValueError(f"parallel: found none with nproc {self.nproc}; allowed: ddp, fsdp")
        if self.parallel == "fsdp" and self.micro_batch_size == "auto":
            raise ValueError(
                "micro_batch_size: found auto; allowed with parallel: fsdp: a number "
                "(`python -m pipeline plan` estimates it)"
            )
        for key, allowed, other, value in (
            ("precision", ("auto", "fp32", "bf16"), "parallel", "fsdp"),
            ("precision", ("auto", "fp32"), "numerics", "portable"),
            ("compile", ("auto", "off"), "numerics", "portable"),
            ("device", ("auto", "cpu"), "numerics", "portable"),
            ("compile", ("auto", "off"), "batch_order", "documents"),  # for each width anew
        ):
            found = getattr(self, key)
            if getattr(self, other) == value and found not in allowed:
                raise ValueError(
                    f"{key}: found {found!r}; allowed with {other}: {value}: {', '.join(allowed)}"
                )
        return self

    @property
    def sequences(self) -> int:
        """Sequences of one step, over all processes."""
        return self.sequences_per_step or self.micro_batch * self.grad_accum_steps

    @property
    def micro_batch(self) -> int:
        """micro_batch_size once it is a number."""
        assert self.micro_batch_size != "auto"
        return int(self.micro_batch_size)


class LogParams(Section):
    """What cannot change a result."""

    save_interval: Literal["auto"] | Positive
    workers: Literal["auto"] | Count
    scheduler: str | None = Field(
        pattern=r"^(tcp|tls)://[^/]+:\d+$", description="null, tcp://HOST:PORT or tls://HOST:PORT"
    )


class EvaluateParams(Section):
    """How held-out text is scored."""

    overlap: Fraction
    batch_size: Count


class SampleParams(Section):
    """How text is drawn from the model."""

    prompt: Text
    max_new_tokens: Count
    temperature: NotNegative
    top_k: CountOrNone
    top_p: float = Field(gt=0, le=1)
    min_p: float = Field(ge=0, le=1)
    repetition_penalty: Positive
    seed: CountOrNone
    num_samples: Count


class ReportParams(Section):
    """How results are drawn."""

    smoothing: Fraction
    dpi: int = Field(ge=50, le=400)


class Params(Section):
    """All of params.yaml."""

    corpus: CorpusParams
    prepare: PrepareParams
    model: ModelParams
    train: TrainParams
    log: LogParams
    evaluate: EvaluateParams
    sample: SampleParams
    report: ReportParams

    def with_train(self, **changes: Any) -> Self:
        """These settings with what `auto` has come to in train's place; unchecked."""
        return self.model_copy(update={"train": self.train.model_copy(update=changes)})

    def brought(self) -> list[str]:
        """The paths of what people bring to a run: text, tokenizer, weights to start from.

        An address, or a name that a hub knows, is no path.
        """
        paths, start = [self.corpus.path, *BROUGHT], self.train.init_from
        paths += [start] if start not in ("scratch", *SIZES) else []
        return [path for path in paths if "://" not in path]

    @model_validator(mode="before")
    @classmethod
    def _rate_by_what_is_trained(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        model, train = values.get("model"), values.get("train")
        if not isinstance(train, dict) or train.get("lr") != "auto" or not isinstance(model, dict):
            return values
        lr = LR_FROM_SCRATCH
        if train.get("init_from") != "scratch":
            lr = LR_FROM_PRETRAINED
        elif (model.get("architecture"), train.get("optimizer")) == ("gpt2", "adamw"):
            lr = LR_OF_GPT2_WITH_ADAMW
        return {**values, "train": {**train, "lr": lr}}

    @model_validator(mode="after")
    def _frozen_layers_are_there(self) -> Self:
        if self.train.freeze_layers > self.model.n_layer:
            raise ValueError(
                f"train.freeze_layers: found {self.train.freeze_layers}; "
                f"allowed: 0 to model.n_layer ({self.model.n_layer})"
            )
        return self

    @model_validator(mode="after")
    def _sequences_fit_the_context(self) -> Self:
        most, name = self.model.block_size, "model.block_size"
        for key in ("max_seq_len", "stride"):
            found = getattr(self.train, key)
            if found is not None and found > most:
                raise ValueError(
                    f"train.{key}: found {found}; allowed: 1 to {name} ({most}), or null"
                )
            if found is not None:  # which no stride may skip a part of
                most, name = found, f"train.{key}"
        return self


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml; raises ParamsError of one line."""
    return check_params(read_params(path), str(path))


def read_params(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """The sections as they stand in the file, unchecked; raises ParamsError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ParamsError(f"{path}: not found; run from the project's top folder") from None
    return parse_yaml(data, path, ParamsError, "allowed: sections of settings")


def check_params(values: dict[str, Any], where: str) -> Params:
    """Check all settings as a whole; raises ParamsError of one line that begins with `where`."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise ParamsError(f"{where}: {_one_line(error, Params)}") from None


def with_options(sample: SampleParams, options: dict[str, Any]) -> SampleParams:
    """The settings with a command's options in their place; raises ParamsError naming one."""
    try:
        return SampleParams.model_validate({**sample.model_dump(), **options})
    except ValidationError as error:
        name, _, rest = _one_line(error, SampleParams).partition(":")
        raise ParamsError(f"--{name.replace('_', '-')}:{rest}") from None


def _one_line(error: ValidationError, model: type[Section]) -> str:
    problems = error.errors(include_url=False, include_context=False)
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")  # a typo explains most
    depth = 2 if model is Params else 1  # below that are names of a union's alternatives
    first, others = problems[0], len({problem["loc"][:depth] for problem in problems}) - 1
    more = f" (and {others} more)" if others else ""
    location = [str(part) for part in first["loc"][:depth]]
    if first["type"] == "value_error":  # a rule over several keys: names its own
        return f"{'.'.join([*location, first['msg'].removeprefix('Value error, ')])}{more}"
    key = ".".join(location)
    for section in location[:-1]:
        model = model.model_fields[section].annotation  # type: ignore[assignment]
    if first["type"] == "extra_forbidden":
        known = f"known: {', '.join(model.model_fields)}"
        if close := difflib.get_close_matches(location[-1], model.model_fields, n=1):
            known = f"did you mean {close[0]}?"
        if location[-1] in NANOGPT:
            known = f"nanoGPT's name; here it is {NANOGPT[location[-1]]}"
        return f"{key}: unknown parameter; {known}{more}"
    if first["type"] == "invalid_key":
        return f"{key}: unknown parameter; allowed: names{more}"
    if first["type"] == "missing":
        return f"{key}: missing; every parameter must be there{more}"
    allowed = _allowed(model.model_json_schema()["properties"][location[-1]])
    return f"{key}: found {first['input']!r}; allowed: {allowed}{more}"


def _allowed(schema: dict[str, Any]) -> str:
    """A JSON schema's type, values and bounds in words."""
    if "description" in schema:
        return str(schema["description"])
    if "anyOf" in schema:
        return " or ".join(map(_allowed, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(schema.get("enum") or [schema["const"]])
    bounds = [f"{word} {schema[name]:.10g}" for name, word in BOUNDS.items() if name in schema]
    return " ".join([TYPES[schema.get("type")], " and ".join(bounds)]).rstrip()
