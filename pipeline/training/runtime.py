"""How a run computes: device, precision, attention kernel, compilation, threads, allocator.

One place decides, from the settings, the device and the shape, and everything else follows it.
`prepare_process` must run before torch is imported, because torch, MKL and the C library read
their settings once, when they start; `choose` decides the rest.
"""

import ctypes
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline.errors import DeviceError
from pipeline.params import ModelParams, TrainParams
from pipeline.paths import shared_cache
from pipeline.processes import available_cores
from pipeline.storage import sha256_json
from pipeline.training.ranks import take_gpu

if TYPE_CHECKING:
    import torch

    from pipeline.model.gpt import GPT, GPTConfig

    Shape: TypeAlias = ModelParams | GPTConfig  # of a model

# what a user's shell could set to change the bytes of a result
_NUMERIC_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_DYNAMIC",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "MKL_NUM_STRIPES",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "OMP_THREAD_LIMIT",
    "TORCHDYNAMO_DISABLE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_COMPILE_DISABLE",
)
# one and the same weights on Intel and AMD processors with AVX2; MKL's own AVX2 mode differs
_PORTABLE = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "AVX2"}
# without the first cuBLAS is refused; without the second compiled kernels are chosen by their
# times, and without the third by a trial compilation: one that was stopped says "no AVX"
_REPRODUCIBLE = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "TORCHINDUCTOR_DETERMINISTIC": "1",
    "TORCHINDUCTOR_VEC_ISA_OK": "1",
}
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile")

# glibc's mallopt: keep large blocks instead of giving them back and faulting them in each step
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_ARENA_BYTES = 2**26  # what an arena of a thread's own can keep in one block; it is for small ones

MATMUL_ATTENTION_UP_TO = 512  # tokens: on a CPU plain products beat the fused kernels below it
# a shorter run does not earn back the compilation, FLOPs of the whole run: on a CPU for each layer
# and channel, as every layer is compiled, and what is saved, all but the products, is less beside
# wider ones (reports/benchmarks/goals.md); on a GPU about a minute
COMPILE_FROM_FLOPS_A_CHANNEL = 3.5e10
COMPILE_FROM_FLOPS_ON_A_GPU = 1e16
# each of several threads has gradients of its own, which are to be worth its sequences' products
APART_FROM_TOKENS_A_THREAD = 128  # times the threads (reports/benchmarks/goals.md)
# the exponential in compiled loops, which a call of Sleef's would hold up: of torch's Vectorized,
# as its flash attention has it, within 20 units in the last place
INLINED_EXP = "exp_u20"
# turns in which one of OpenMP's threads waits for work, some 50 us: between two kernels it stays
# awake, and it sleeps where threads of our own compute
_SPIN_COUNT = "5000"


def count_threads(params: TrainParams) -> int:
    """CPU threads: one if portable, the number asked for, or the cores this process may use."""
    if params.numerics == "portable":
        return 1
    return available_cores() if params.threads == "auto" else int(params.threads)


def _compiled_kernels(threads: int) -> Path:
    """The folder in which torch.compile keeps what it has compiled: of this processor, compiler,
    number of threads and exponential alone, as not all of them are in the names that it gives."""
    facts = [cpu_name(), _cpu_flags(), _compiler_version(), threads, INLINED_EXP]
    return shared_cache().resolve() / "compiled" / sha256_json(facts)[:16]


def prepare_process(
    params: TrainParams, shape: ModelParams | None = None, vocab_size: int = 0
) -> None:
    """Set what torch and the C library read at their start; call before importing torch.

    shape, vocab_size: of the model, where one is trained.
    """
    assert "torch" not in sys.modules, "torch was imported before its settings were made"
    threads = count_threads(params)
    for name in tuple(os.environ):
        if name in _NUMERIC_VARIABLES or name.startswith("TORCHINDUCTOR_"):
            del os.environ[name]
    os.environ.update(_REPRODUCIBLE)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    if params.numerics == "portable":
        os.environ.update(_PORTABLE)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(_compiled_kernels(threads))
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):  # glibc; musl has no such thing and needs none
            library.mallopt(_M_MMAP_MAX, 0)
            library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
            library.mallopt(_M_TOP_PAD, 2**26)
            if shape is not None and _widest(params, shape, vocab_size, threads) > _ARENA_BYTES:
                library.mallopt(_M_ARENA_MAX, 1)


def _widest(params: TrainParams, shape: ModelParams, vocab_size: int, threads: int) -> int:
    """Bytes of the larger of the head's gradient and of a thread's logits, in fp32."""
    tokens = params.sequences * shape.block_size // threads
    return 4 * vocab_size * max(shape.n_embd, tokens)


@dataclass(frozen=True)
class Runtime:
    """The choices of one run."""

    device: str  # cpu, cuda, mps
    precision: str  # fp32, bf16, fp16
    attention: str  # matmul, sdpa
    compile: bool
    threads: int
    numerics: str  # native, portable
    threads_apart: bool = False  # each computes its own sequences of a step (compiled_step.py)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which the model's forward pass runs."""
        import torch

        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device, self.dtype)

    @property
    def dtype(self) -> "torch.dtype":
        """What matrix products are computed in."""
        import torch

        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[
            self.precision
        ]

    def describe(self) -> str:
        """The choices in one line."""
        compiled = "compiled" if self.compile else "eager"
        several = "" if self.threads == 1 else "s"
        threads = f", {self.threads} thread{several}" if self.device == "cpu" else ""
        apart = ", each with its own sequences" if self.threads_apart else ""
        return (
            f"{self.device}, {self.precision}, {self.attention} attention, {compiled}, "
            f"{self.numerics} numerics{threads}{apart}"
        )

    def fingerprint(self) -> dict[str, str | int | bool]:
        """The numeric platform: where it agrees, a run gives the same bytes."""
        import numpy
        import torch

        facts: dict[str, str | int | bool] = {
            "device": self.device,
            "precision": self.precision,
            "attention": self.attention,
            "compile": self.compile,
            "numerics": self.numerics,
            "threads": self.threads,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "python": ".".join(platform.python_version_tuple()[:2]),
            "machine": platform.machine(),
            "system": platform.system(),
        }
        if self.compile and self.device == "cpu":
            facts["compiler"] = _compiler_version()
            facts["threads_apart"] = self.threads_apart
        if self.device == "cuda":
            facts["gpu"] = torch.cuda.get_device_name()
            facts["cuda"] = str(torch.version.cuda)
            facts["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        elif self.numerics == "portable":
            facts["cpu"] = "any x86-64 with AVX2"
        else:
            facts["cpu"] = cpu_name()
            facts["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
            facts["cpu_flags"] = _cpu_flags()
        return facts


def _compiler_version() -> str:
    """As the C++ compiler says it; nothing where there is none."""
    try:
        command = [*_compiler(), "--version"]
        return subprocess.run(command, capture_output=True, text=True).stdout.partition("\n")[0]
    except OSError:
        return ""


def _cpu_info() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return file.read().split("\n\n")[0]
    except OSError:
        return ""


def _cpu_flags() -> str:
    return " ".join(flag for flag in _CPU_FLAGS if flag in _cpu_info())


def cpu_name() -> str:
    """With family and model, as the name alone is that of several generations."""
    facts = dict(re.findall(r"(?m)^(model name|cpu family|model)\s*: (.*)$", _cpu_info()))
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    named = (f"{key.split()[-1]} {facts[key]}" for key in ("cpu family", "model") if key in facts)
    return ", ".join([facts["model name"], *named])


def _choose_device(asked: str) -> str:
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise DeviceError("train.device: found cuda, but torch sees no GPU; allowed here: cpu")
    if asked == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("train.device: found mps, but torch sees none; allowed here: cpu")
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "cuda"
    return "cpu"  # not mps: its embedding gradient differs from run to run (pytorch#195404)


def _choose_precision(asked: str, device: str, numerics: str) -> str:
    import torch

    if asked == "fp16" and device != "cuda":
        raise DeviceError(f"train.precision: found fp16 on {device}; allowed: fp32, bf16")
    if asked != "auto":
        return asked
    if numerics == "portable" or device == "mps":
        return "fp32"
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    fast = ("avx512_bf16", "amx_bf16")  # elsewhere bf16 is emulated, and slower than fp32
    return "bf16" if any(flag in _cpu_info() for flag in fast) else "fp32"


def _compiler() -> list[str]:
    """As torch.compile has it."""
    usual = "clang++" if sys.platform == "darwin" else "g++"
    return shlex.split(os.environ.get("CXX", usual)) or [usual]


def can_compile(device: str = "cpu") -> bool:
    """Whether torch.compile finds what it builds with: a compiler, Python's headers, on a GPU
    Triton, which needs one of compute capability 7.0 or more."""
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return False
    if device == "cpu":  # on Windows by Microsoft's alone, which was not tried
        return sys.platform != "win32" and shutil.which(_compiler()[0]) is not None
    from torch.utils._triton import has_triton

    compilers = (os.environ.get("CC"), "gcc", "clang")  # Triton's own order
    return any(name and shutil.which(name) for name in compilers) and has_triton()


def _choose_compile(asked: str, device: str, shape: "Shape", flops: float, numerics: str) -> bool:
    if numerics == "portable":  # another compiler, or another processor's instructions
        return False
    if asked != "auto":
        if asked == "on" and device != "mps" and not can_compile(device):
            needs = _compiler()[0] if device == "cpu" else "gcc, Triton, a GPU that it knows"
            raise DeviceError(
                f"train.compile: found on, but {needs} or Python's headers are missing; "
                "allowed here: auto, off"
            )
        return asked == "on"
    pays_from = {
        "cpu": COMPILE_FROM_FLOPS_A_CHANNEL * shape.n_layer * shape.n_embd,
        "cuda": COMPILE_FROM_FLOPS_ON_A_GPU,
    }
    return flops >= pays_from.get(device, math.inf) and can_compile(device)


def _choose_apart(params: TrainParams, shape: "Shape", threads: int) -> bool:
    """Of a compiled run on a CPU."""
    tokens = params.sequences * shape.block_size
    return (
        sys.platform == "linux"  # nowhere else was it tried
        and threads > 1
        and params.sequences % threads == 0
        and tokens >= APART_FROM_TOKENS_A_THREAD * threads**2
        and shape.dropout == 0.0  # drawn from one generator
    )


def choose(params: TrainParams, shape: "Shape", flops: float = 0.0) -> Runtime:
    """Decide how this machine runs these settings; raises DeviceError for what it cannot do.

    flops: of the whole training, which decides whether compiling pays; 0 where none follows.
    """
    import torch

    device = _choose_device(params.device)
    if params.numerics == "portable":
        device = "cpu"
        if platform.machine() not in ("x86_64", "AMD64"):
            raise DeviceError(
                f"train.numerics: found portable on {platform.machine()}; allowed here: native"
            )
    precision = _choose_precision(params.precision, device, params.numerics)
    if precision == "fp16" and params.parallel == "fsdp":
        precision = "fp32"  # a process's scaler would see its shard alone
    attention = params.attention
    if attention == "auto":
        short = device == "cpu" and shape.block_size <= MATMUL_ATTENTION_UP_TO
        attention = "matmul" if short else "sdpa"
    # documents have lengths of their own, and each would be compiled
    compiled = flops > 0 and params.batch_order != "documents"
    compiled = compiled and _choose_compile(params.compile, device, shape, flops, params.numerics)
    threads = count_threads(params)
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms loads the compiler
    # no kernel reads what it has not written; NaN in every new tensor is a debugger's help
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device == "cuda":
        torch.set_float32_matmul_precision("high" if flops else "highest")  # TF32 to train alone
    elif params.numerics == "native" and "AuthenticAMD" in _cpu_info():
        # oneDNN's fp32 products: twice as fast as MKL's there, slower than MKL's on Intel, and
        # in bf16 where AMX or Arm has it
        torch.set_float32_matmul_precision("medium")
    apart = compiled and device == "cpu" and _choose_apart(params, shape, threads)
    return Runtime(device, precision, attention, compiled, threads, params.numerics, apart)


def choose_for_use(params: TrainParams, shape: "Shape") -> Runtime:
    """How this machine runs a model that is not trained: in fp32."""
    return replace(choose(params, shape), precision="fp32")


def place(model: "GPT", params: TrainParams) -> Runtime:
    """Bring a model that is to be used, not trained, to where this machine computes best."""
    import torch

    runtime = choose_for_use(params, model.config)
    if runtime.device == "cuda":
        torch.cuda.set_device(take_gpu(range(torch.cuda.device_count())))
    model.to(runtime.device).set_attention(runtime.attention)
    return runtime
