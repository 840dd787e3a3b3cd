"""Command demo: a page to try a model in a browser; the same page runs as a Hugging Face Space.

Text comes as it is drawn. One text is drawn at a time, the next MOST_WAITING wait, and the server
itself holds prompts and lengths within limits. It serves the loopback only, and under its names
only, unless --host says otherwise, loads nothing from elsewhere, takes no files and reports to
nobody.
"""

import os
import re
import socket
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import UserError
from pipeline.params import load_params
from pipeline.paths import BEST

if TYPE_CHECKING:
    import gradio

    from pipeline.model.pretrained import Pretrained

MOST_CHARACTERS = 4_000  # of a prompt
MOST_NEW_TOKENS = 500
MOST_WAITING = 16
LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "localhost", "::1": "[::1]"}  # in a request


def demo(
    checkpoint: Annotated[
        str,
        typer.Option(help="The model: gpt2, gpt2-xl, ..., hf://OWNER/NAME, a file or a folder."),
    ] = str(BEST),
    host: Annotated[
        str, typer.Option(help="0.0.0.0 lets other machines in: anybody who reaches it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
) -> None:
    """Serve a page to try a model: prompt, sampling settings, text as it comes, model facts.

    Needs the extra `demo`: `make demo` installs it.

    Example: python -m pipeline demo --port 8000
    """
    params = load_params()
    from pipeline.training import runtime

    runtime.prepare_process(params.train)
    gradio_version()
    _check_free(host, port)
    from pipeline.model.pretrained import load_pretrained

    pretrained = load_pretrained(checkpoint)
    runtime.place(pretrained.model, params.train)
    shown = f"[{host}]" if ":" in host else host
    print(f"the page is at http://{shown}:{port}, until Ctrl-C", flush=True)
    for name in ("NO_PROXY", "no_proxy"):  # gradio asks its own page whether it is up
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), *LOOPBACK]))
    build_page(pretrained, params.sample.prompt).launch(
        server_name=shown,
        server_port=port,
        app_kwargs={"middleware": _own_names_only()} if host in LOOPBACK else None,
        **launch_settings(),
    )


def _own_names_only() -> list[Any]:
    """What refuses a request under another name, which another site can give to this machine."""
    trusted = import_module("starlette.middleware.trustedhost").TrustedHostMiddleware
    middleware = import_module("starlette.middleware").Middleware
    return [middleware(trusted, allowed_hosts=list(LOOPBACK.values()))]


def _check_free(host: str, port: int) -> None:
    if not host:
        raise UserError("--host: found nothing; allowed: an address of this machine")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}: cannot listen there: {error.strerror}"
        ) from None


def gradio_version() -> str:
    """The version of gradio that is installed; raises UserError where there is none."""
    try:
        return version("gradio")
    except ModuleNotFoundError:
        raise UserError(
            "gradio is not installed; `make demo` installs it, or: "
            "python -m pip install -c constraints.txt -e '.[demo]'"
        ) from None


def launch_settings() -> dict[str, Any]:
    """What `launch` is told wherever the page runs."""
    import gradio as gr

    local_fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return {
        "theme": gr.themes.Default(**local_fonts),
        "show_error": True,
        "quiet": True,
        "share": False,
        "max_file_size": 1,  # byte: the page has nothing to upload
        "ssr_mode": False,
        "run_history": False,
        "footer_links": [],
    }


def refusal(
    prompt: Any, most: Any, temperature: Any, top_k: Any, top_p: Any, seed: Any
) -> str | None:
    """What a request asks too much of: it can hold anything, whatever the page's controls allow."""
    if not isinstance(prompt, str) or len(prompt) > MOST_CHARACTERS:
        return f"prompt: allowed: up to {MOST_CHARACTERS} characters"
    if re.search("[\ud800-\udfff]", prompt):
        return "prompt: allowed: text that UTF-8 can hold"
    limits = {
        "max new tokens": (most, 1, MOST_NEW_TOKENS),
        "temperature": (temperature, 0, 10),
        "top-k": (top_k, 0, 2**31),
        "top-p": (top_p, 0.01, 1),
        "seed": (seed, 0, 2**53),
    }
    for name, (value, lowest, highest) in limits.items():
        if not isinstance(value, int | float) or not lowest <= value <= highest:
            return f"{name}: found {value!r}; allowed: {lowest} to {highest}"
    return None


def build_page(pretrained: "Pretrained", prompt: str) -> "gradio.Blocks":
    """The page of a model."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import gradio as gr

    from pipeline.evaluation.sampling import Draw, Strategy
    from pipeline.evaluation.text import stream_text

    model, tokenizer = pretrained.model, pretrained.load_tokenizer()

    def write(
        prompt: str, most: float, temperature: float, top_k: float, top_p: float, seed: float
    ) -> Iterator[str]:
        if line := refusal(prompt, most, temperature, top_k, top_p, seed):
            raise gr.Error(line, print_exception=False)
        strategy = Strategy(float(temperature), int(top_k), float(top_p))
        text = prompt
        draws = [Draw(strategy, int(seed))]
        for piece in stream_text(model, tokenizer, prompt, draws, max_new_tokens=int(most)):
            text += piece.text
            yield text

    page: gradio.Blocks = gr.Blocks(title="TraceGPT", analytics_enabled=False)
    with page, gr.Row():
        with gr.Column(scale=3):
            gr.Markdown("# TraceGPT")
            asked = gr.Textbox(
                prompt, label="Prompt", lines=3, max_length=MOST_CHARACTERS, elem_id="prompt"
            )
            with gr.Row():
                most = gr.Slider(1, MOST_NEW_TOKENS, 200, step=1, label="Max new tokens")
                temperature = gr.Slider(0, 2, 0.8, step=0.05, label="Temperature (0: greedy)")
            with gr.Row():
                highest_k = min(200, model.config.vocab_size)
                top_k = gr.Slider(0, highest_k, 50, step=1, label="Top-k (0: all)")
                top_p = gr.Slider(0.01, 1, 1, step=0.01, label="Top-p (1: all)")
                seed = gr.Number(1337, label="Seed", precision=0, minimum=0)
            with gr.Row():
                go = gr.Button("Generate", variant="primary", elem_id="generate")
                stop = gr.Button("Stop", elem_id="stop")
            text = gr.Textbox(label="Text", lines=14, max_lines=30, elem_id="text")
        with gr.Column(scale=2):
            gr.Markdown(_about(pretrained, tokenizer.kind), elem_id="about")
        writing = go.click(
            write,
            [asked, most, temperature, top_k, top_p, seed],
            text,
            concurrency_limit=1,
            show_progress="hidden",
        )
        stop.click(None, cancels=[writing])
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=1)
    return page


def _about(pretrained: "Pretrained", tokenizer_kind: str) -> str:
    """Model facts, scores and lineage in Markdown."""
    from pipeline.reporting import card
    from pipeline.reporting.markdown import SCORES, code, score_rows, table

    model = pretrained.model
    rows = card.facts(model.config, model.count_parameters(), tokenizer_kind)
    weights, origin = card.lineage(pretrained.sha256, pretrained.file.parent)
    parts = ["### Model", table(("model", "value"), rows)]
    if origin is not None and (scores := score_rows(origin["metrics"])):
        parts += ["### Scores", table(SCORES, scores)]
    made_from = [(name, code(digest[:16])) for name, digest in card.origin_rows(origin, weights)]
    parts += ["### Lineage", "By content, the first 16 digits of its sha256."]
    return "\n\n".join([*parts, table(("made from", "sha256"), made_from)])
