"""TraceGPT: train GPT-2-style language models and prove every number they print."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.model.gpt import GPT
    from pipeline.training.checkpoint import load_checkpoint

__all__ = ["GPT", "load_checkpoint"]


def __getattr__(name: str) -> Any:
    # imported on use: most commands need no torch and start at once without it
    if name == "GPT":
        from pipeline.model.gpt import GPT

        return GPT
    if name == "load_checkpoint":
        from pipeline.training.checkpoint import load_checkpoint

        return load_checkpoint
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
