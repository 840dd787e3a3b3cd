"""One place decides how a run computes; portable numerics are the same bytes on any processor."""

import ctypes
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_project import ROOT, environment, make_project, run, set_params

from pipeline.processes import available_cores
from pipeline.training.runtime import can_compile, cpu_name

QEMU = shutil.which("qemu-x86_64")
# larger than the other tests' model: its products reach the blocked kernels
SHAPE = {"model__n_embd": 96, "model__n_layer": 2, "model__block_size": 48, "train__max_steps": 6}


def weights(project: Path, *before: str, **variables: str) -> str:
    """sha256 of best.pt of a run, under an emulator or in another environment."""
    shutil.rmtree(project / "data/checkpoints", ignore_errors=True)
    done = subprocess.run(
        [*before, sys.executable, "-m", "pipeline", "train"],
        cwd=project, env=environment(**variables), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return hashlib.sha256((project / "data/checkpoints/best.pt").read_bytes()).hexdigest()


def printed(program: str, **variables: str) -> str:
    """What a fresh Python prints, which has not imported torch yet."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, env=environment(**variables), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def platform(project: Path) -> dict[str, object]:
    return dict(json.loads((project / "data/checkpoints/run.json").read_text())["runtime"])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(
        tmp_path_factory.mktemp("runtime") / "p",
        train__numerics="portable", train__precision="auto", train__threads="auto", **SHAPE,
    )  # fmt: skip
    run(folder, "dvc", "repro", "-q", "prepare")
    return folder


@pytest.mark.parametrize("numerics", ["native", "portable"])
def test_a_users_shell_cannot_change_the_bytes(
    numerics: str, project: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(project, tmp_path / "p", symlinks=True))
    set_params(copy, train__numerics=numerics, train__threads=2)
    plain = weights(copy)
    odd = weights(
        copy,
        OMP_NUM_THREADS="3",
        MKL_CBWR="AVX2",
        MKL_NUM_STRIPES="1",
        ATEN_CPU_CAPABILITY="default",
        ONEDNN_MAX_CPU_ISA="SSE41",
    )
    assert odd == plain


def test_a_gpus_libraries_are_told_to_reproduce_too() -> None:
    program = (
        "import os; from pipeline.params import load_params; "
        "from pipeline.training.runtime import prepare_process; "
        "prepare_process(load_params().train); import torch; "
        "from torch._inductor import config; "
        "print(os.environ['CUBLAS_WORKSPACE_CONFIG'], config.deterministic, "
        "config.cpp.enable_unsafe_math_opt_flag)"
    )
    shell = {
        "CUBLAS_WORKSPACE_CONFIG": ":0:0",
        "TORCHINDUCTOR_DETERMINISTIC": "0",
        "TORCHINDUCTOR_CPP_ENABLE_UNSAFE_MATH_OPT_FLAG": "1",
    }
    assert printed(program, **shell) == ":4096:8 True False\n"


def test_kernels_are_kept_for_this_compiler_and_number_of_threads(tmp_path: Path) -> None:
    program = (
        "import os; from pipeline.params import load_params; "
        "from pipeline.training.runtime import prepare_process; "
        "prepare_process(load_params().train.model_copy(update={'threads': %d})); "
        "print(os.environ['TORCHINDUCTOR_CACHE_DIR'])"
    )
    other = tmp_path / "g++"
    other.write_text("#!/bin/sh\necho g++ 1.0\n")
    other.chmod(0o755)
    folders = [printed(program % 1), printed(program % 2), printed(program % 1, CXX=str(other))]
    assert printed(program % 1) == folders[0]
    assert len(set(folders)) == 3


EAGER = """
import sys
from pipeline.params import load_params
from pipeline.training.runtime import choose, prepare_process
params = load_params()
train = params.train
prepare_process(train)
choose(train, params.model)
import torch
from pipeline.evaluation.sampling import generate
from pipeline.model.gpt import GPT, GPTConfig
from pipeline.model.pretrained import build_model
from pipeline.training.optimizer import build_optimizers
model = GPT(GPTConfig("modern", 1, 2, 8, 8, 11))
model.initialise(1)
stated = {"architecture": "modern", "n_head": 2, "block_size": 8}
read = build_model(model.state_dict(), stated)
assert list(generate(read, [1], max_new_tokens=2, temperature=0.8, top_k=0, seed=1))
optimizers = build_optimizers(model, train, torch.float32)
ids = torch.arange(8)[None]
model(ids, ids)[1].backward()
for optimizer in optimizers:
    optimizer.step()
print(torch.are_deterministic_algorithms_enabled(), "torch._dynamo" in sys.modules)
"""


def test_what_does_not_compile_is_deterministic_without_loading_the_compiler() -> None:
    assert printed(EAGER) == "True False\n"


def test_portable_is_fp32_on_one_thread_and_names_no_machine(project: Path) -> None:
    weights(project)
    facts = platform(project)
    assert (facts["precision"], facts["threads"], facts["numerics"]) == ("fp32", 1, "portable")
    assert facts["cpu"] == "any x86-64 with AVX2"


@pytest.mark.skipif(not can_compile(), reason="needs g++ and Python's headers")
@pytest.mark.parametrize(
    ("numerics", "order", "compiled"),
    [
        ("native", "shuffled", True),
        ("portable", "shuffled", False),
        ("native", "documents", False),
    ],
)
def test_a_long_run_is_compiled_but_for_portable_numerics_and_documents(
    numerics: str, order: str, compiled: bool
) -> None:
    program = (
        "from pipeline.params import TrainParams, load_params; "
        "from pipeline.training.runtime import choose; "
        "shipped = load_params().train.model_dump(); "
        f"changes = {{'numerics': '{numerics}', 'device': 'cpu', "
        f"'batch_order': '{order}'}}; "
        "params = TrainParams.model_validate({**shipped, **changes}); "
        "print(choose(params, load_params().model, 1e20).compile)"
    )
    assert printed(program) == f"{compiled}\n"


@pytest.mark.skipif(not can_compile(), reason="needs g++ and Python's headers")
def test_a_run_is_compiled_from_more_flops_on_the_more_and_the_wider_its_layers() -> None:
    program = (
        "from pipeline.params import load_params; "
        "from pipeline.training.runtime import choose; "
        "shipped = load_params(); "
        "train = shipped.train.model_copy(update={'device': 'cpu'}); "
        "shapes = [shipped.model.model_copy(update={'n_layer': n, 'n_embd': c}) "
        "for n, c in ((4, 192), (12, 192), (4, 768), (12, 768))]; "
        "print(*(choose(train, shape, flops).compile for flops in (2e13, 6e13, 4e14) "
        "for shape in shapes))"
    )
    longer = [*[False] * 4, True, *[False] * 3, *[True] * 4]
    assert printed(program) == f"{' '.join(map(str, longer))}\n"


APART = """
from pipeline.params import load_params
from pipeline.training.runtime import choose
shipped = load_params()
def apart(flops=1e20, dropout=0.0, context=256, **train):
    model = shipped.model.model_copy(update={"dropout": dropout, "block_size": context})
    changes = {"device": "cpu", "threads": 2, "micro_batch_size": 4, **train}
    return choose(shipped.train.model_copy(update=changes), model, flops)
here, alone = apart(), apart(threads=1)
print(here.threads_apart, here.fingerprint()["threads_apart"], here.describe().split(", ")[-1])
print(alone.threads_apart, alone.fingerprint()["threads_apart"], alone.describe().split(", ")[-1])
print(*(each.threads_apart for each in (
    apart(threads=4, context=512), apart(context=128),
    apart(flops=0), apart(compile="off"), apart(dropout=0.1),
    apart(context=127), apart(threads=4), apart(threads=3),
)))
"""


@pytest.mark.skipif(not can_compile(), reason="needs g++ and Python's headers")
@pytest.mark.skipif(sys.platform != "linux", reason="not tried elsewhere")
def test_threads_are_apart_where_each_has_enough_to_do_and_one_generator_is_not_shared() -> None:
    assert printed(APART).splitlines() == [
        "True True each with its own sequences",
        "False False 1 thread",
        "True True False False False False False False",
    ]


def test_the_processors_generation_is_told() -> None:
    known = Path("/proc/cpuinfo").read_text()
    name = cpu_name()
    assert "family" in name or "cpu family" not in known
    assert all(part.split(" ", 1)[-1] in known for part in name.split(", "))


ARENAS = """
import ctypes, threading
from pipeline.params import load_params
from pipeline.training.runtime import prepare_process
shipped = load_params()
train = shipped.train.model_copy(update={"micro_batch_size": 4, "threads": 2})
shape = shipped.model.model_copy(update={"n_embd": %d, "block_size": %d})
prepare_process(train, shape, vocab_size=%d)
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
def allocate():
    assert library.malloc(ctypes.c_size_t(5000))
thread = threading.Thread(target=allocate)
thread.start()
thread.join()
library.malloc_info(0, ctypes.c_void_p.in_dll(library, "stdout"))
library.fflush(None)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="not glibc's malloc")
def test_threads_share_the_arena_where_a_block_is_too_large_for_one_of_their_own() -> None:
    def arenas(n_embd: int, block_size: int, vocab_size: int) -> int:
        return printed(ARENAS % (n_embd, block_size, vocab_size)).count("<heap nr=")

    assert arenas(768, 64, 50257) == 1  # by the head's gradient
    assert arenas(64, 512, 16500) == 1  # by a thread's logits
    assert arenas(768, 512, 16000) == 2


def test_native_records_the_processor(project: Path, tmp_path: Path) -> None:
    native = Path(shutil.copytree(project, tmp_path / "p", symlinks=True))
    set_params(native, train__numerics="native")
    weights(native)
    facts = platform(native)
    assert facts["cpu"]
    assert facts["cpu_capability"]


@pytest.mark.slow
@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 (Debian's qemu-user) is not installed")
@pytest.mark.parametrize("cpu", ["Haswell", "EPYC"])
def test_portable_gives_the_same_bytes_on_another_processor(project: Path, cpu: str) -> None:
    assert QEMU is not None
    assert weights(project, QEMU, "-cpu", cpu) == weights(project)


@pytest.mark.skipif(not can_compile(), reason="needs g++ and Python's headers")
def test_a_compiler_may_be_named_with_what_goes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "env g++")
    assert can_compile()
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    assert not can_compile()


@pytest.mark.parametrize(
    ("system", "found"), [("linux", "g++"), ("darwin", "clang++"), ("win32", None)]
)
def test_the_compiler_is_that_which_torch_takes_on_each_system(
    system: str, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name == found else None)
    assert can_compile() == (found is not None)


def test_a_containers_share_of_the_cores_counts(tmp_path: Path) -> None:
    cores = available_cores(tmp_path / "none")
    for said, most in (
        ("max 100000", cores),
        ("100000 100000", 1),
        ("150000 100000", 1),
        ("50000 100000", 1),
        (f"{100_000 * (cores + 5)} 100000", cores),
    ):
        (tmp_path / "cpu.max").write_text(f"{said}\n")
        assert available_cores(tmp_path / "cpu.max") == most


def test_a_gpu_without_bf16_that_shards_takes_fp32() -> None:
    program = (
        "import torch; from pipeline.params import TrainParams, load_params; "
        "from pipeline.training.runtime import choose; "
        "torch.cuda.is_available = lambda: True; "
        "torch.cuda.is_bf16_supported = lambda **_: False; "
        "params = load_params(); "
        "shipped = params.train.model_dump(); "
        "each = (TrainParams.model_validate({**shipped, 'parallel': p}) for p in ('ddp', 'fsdp')); "
        "print(*(choose(train, params.model).precision for train in each))"
    )
    assert printed(program) == "fp16 fp32\n"
