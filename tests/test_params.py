"""params.yaml is checked as a whole, and a mistake in it is one line that helps."""

from pathlib import Path

import pytest

from pipeline.errors import ParamsError
from pipeline.params import SIZES, load_params

SHIPPED = Path(__file__).parent.parent / "params.yaml"


def edited(folder: Path, before: str, after: str) -> Path:
    text = SHIPPED.read_text(encoding="utf-8")
    assert before in text
    path = folder / "params.yaml"
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    return path


def value_of(key: str) -> str:
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"  {key}:")).split("#")[0].rstrip()


def test_the_shipped_file_is_valid() -> None:
    load_params(SHIPPED)


def test_every_key_of_the_shipped_file_has_a_comment() -> None:
    for line in SHIPPED.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            assert "  # " in line, line


@pytest.mark.parametrize(("text", "number"), [("1e-4", 1e-4), ("6e-05", 6e-5), ("1", 1.0)])
def test_yaml_1_2_numbers_are_numbers(tmp_path: Path, text: str, number: float) -> None:
    path = edited(tmp_path, value_of("lr"), f"  lr: {text}")
    assert load_params(path).train.lr == number


@pytest.mark.parametrize(
    ("key", "after", "line"),
    [
        ("lr", "lr: fast", "train.lr: found 'fast'; allowed: auto or a number above 0"),
        ("lr", "lr: '1e-4'", "train.lr: found '1e-4'; allowed: auto or a number above 0"),
        ("lr", "lr: -1", "train.lr: found -1; allowed: auto or a number above 0"),
        ("lr", "lr: .inf", "train.lr: found inf; allowed: auto or a number above 0"),
        ("lr", "lrr: 1", "train.lrr: unknown parameter; did you mean lr?"),
        (
            "seed",
            "seed: -1\n  sed: 1",
            "train.sed: unknown parameter; did you mean seed? (and 1 more)",
        ),
        (
            "max_steps",
            "max_steps: 1e3",
            "train.max_steps: found 1000.0; allowed: a whole number of at least 1",
        ),
        (
            "block_size",
            "block_size: 1048577",
            "model.block_size: found 1048577; allowed: a whole number of at least 1 and of at most "
            "1048576",
        ),
        ("n_layer", "n_layer: 1001", "model.n_layer: found 1001; allowed: a whole number of at"),
        ("bias", "bias: no", "model.bias: found 'no'; allowed: true or false"),
        ("n_head", "n_head: 5", "model.n_head: found 5; allowed: a divisor of n_embd"),
        (
            "tokenizer",
            "tokenizer: bp",
            "prepare.tokenizer: found 'bp'; allowed: gpt2, bpe, char, byte, r50k_base",
        ),
        (
            "threads",
            "threads: 0",
            "train.threads: found 0; allowed: auto or a whole number of at least 1",
        ),
        (
            "scheduler",
            "scheduler: 8786",
            "log.scheduler: found 8786; allowed: null, tcp://HOST:PORT or tls://HOST:PORT",
        ),
        (
            "val_fraction",
            "val_fraction: 0.96",
            "prepare.val_fraction: found 0.96 with test_fraction 0.05; allowed: less than 1",
        ),
        ("min_lr", "min_lr: 1.0", "train.min_lr: found 1.0; allowed: 0 to lr"),
        (
            "dropout",
            "dropout: 1",
            "model.dropout: found 1; allowed: a number of at least 0 and below 1",
        ),
        (
            "sample_prompt",
            'sample_prompt: "\\ud83d"',
            "train.sample_prompt: found '\\ud83d'; allowed: text that UTF-8 can hold",
        ),
        ("seed", "seed: 1\n  3: foo", "train.3: unknown parameter; allowed: names"),
        (
            "eval_batches",
            "eval_iters: 200",
            "train.eval_iters: unknown parameter; nanoGPT's name; here it is train.eval_batches "
            "(and 1 more)",
        ),
        (
            "init_from",
            "init_from: resume",
            "train.init_from: found resume; allowed: scratch, gpt2, ..., a file or folder (what "
            "was interrupted goes on by itself where the same command runs again)",
        ),
        (
            "init_from",
            "init_from: data/checkpoints/best.pt",
            "train.init_from: found data/checkpoints/best.pt, train's own output, which DVC "
            "removes first; allowed: a copy of it (`cp data/checkpoints/best.pt data/init/`)",
        ),
        ("size", "size: [gpt2]", "model.size: found ['gpt2']; allowed: custom, gpt2"),
        ("path", "path: ''", "corpus.path: found ''; allowed: text of length at least 1"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, key: str, after: str, line: str) -> None:
    path = edited(tmp_path, value_of(key), f"  {after}")
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert line in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_section_and_broken_yaml_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"logg: unknown parameter; did you mean log\?"):
        load_params(edited(tmp_path, "\nlog:", "\nlogg:"))
    (tmp_path / "params.yaml").write_text("a:\n<<<<<<< HEAD\n  b: 1\n=======\n>>>>>>> other\n")
    with pytest.raises(ParamsError, match=r"params\.yaml: line 2: a merge conflict; choose the"):
        load_params(tmp_path / "params.yaml")
    for text in ("train: [", "a: 1\na: 2", "- 1", "", "a: 2024-13-45", "a: !!int x", "[" * 2000):
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(ParamsError) as caught:
            load_params(tmp_path / "params.yaml")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", SIZES)
def test_a_named_size_sets_the_published_shape(tmp_path: Path, size: str) -> None:
    model = load_params(edited(tmp_path, "  size: custom", f"  size: {size}")).model
    assert (model.n_layer, model.n_head, model.n_embd) == SIZES[size]


@pytest.mark.parametrize(
    ("auto", "found"),
    [
        ("precision: auto", "precision: bf16"),
        ("compile: auto", "compile: on"),
        ("device: auto", "device: cuda"),
    ],
)
def test_portable_numerics_are_eager_fp32(tmp_path: Path, auto: str, found: str) -> None:
    path = edited(tmp_path, value_of("numerics"), "  numerics: portable")
    text = path.read_text(encoding="utf-8").replace(auto, found)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match="allowed with numerics: portable"):
        load_params(path)


def test_documents_of_their_own_lengths_are_not_compiled(tmp_path: Path) -> None:
    path = edited(tmp_path, value_of("batch_order"), "  batch_order: documents")
    load_params(path)
    path.write_text(path.read_text(encoding="utf-8").replace("compile: auto", "compile: on"))
    with pytest.raises(ParamsError, match="compile: found 'on'; allowed with batch_order: doc"):
        load_params(path)


def test_a_mistake_in_yaml_is_one_line_with_its_number(tmp_path: Path) -> None:
    path = edited(tmp_path, value_of("seed"), "  seed: 1\n  seed: 2")
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    line = path.read_text(encoding="utf-8").splitlines().index("  seed: 1") + 2
    wanted = f'{path}: not valid YAML: line {line}: found duplicate key "seed"'
    assert str(caught.value).startswith(wanted)
    assert "\n" not in str(caught.value)
    assert "suppress" not in str(caught.value)
