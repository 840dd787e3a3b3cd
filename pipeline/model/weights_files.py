"""Which files hold a model's weights: one, or several that an index names, as Hugging Face has it.

An index, `model.safetensors.index.json` or `pytorch_model.bin.index.json`, names in its
`weight_map` each tensor's file in the same folder.
"""

from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.storage import read_json, sha256_file, sha256_json

INDEX = ".index.json"
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")  # or each one's index
NAMES = tuple(name + ending for name in WEIGHTS_FILES for ending in ("", INDEX))  # in this order
ALLOWED = f"{' or '.join(WEIGHTS_FILES)}, whole or by its {INDEX}"


def tensors_by_file(index: Path) -> dict[str, list[str]]:
    """The names of the files beside an index, each with its tensors'; raises CheckpointError."""
    allowed = "allowed: a weight_map of tensors' names and of files beside it"
    found = read_json(index, CheckpointError, allowed).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{index}: found no weight_map; {allowed}")
    files: dict[str, list[str]] = {}
    for tensor, name in found.items():
        if not isinstance(name, str) or Path(name).name != (name or None) or name.endswith(INDEX):
            raise CheckpointError(f"{index}: {tensor}: found {name!r}; {allowed}")
        files.setdefault(name, []).append(tensor)
    return files


def files_of(path: Path) -> list[Path]:
    """The files that make up the weights at `path`: itself, and those that it names."""
    if not path.name.endswith(INDEX):
        return [path]
    return [path, *(path.with_name(name) for name in sorted(tensors_by_file(path)))]


def are_there(path: Path) -> bool:
    """Whether every file of the weights at `path` is there."""
    return path.is_file() and all(map(Path.is_file, files_of(path)))


def weights_sha256(path: Path) -> str:
    """What names these weights: a file's sha256, or that of an index's files' names and sha256."""
    files = files_of(path)
    if len(files) == 1:
        return sha256_file(path)
    return sha256_json({file.name: sha256_file(file) for file in files})
