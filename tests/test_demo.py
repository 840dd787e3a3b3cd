"""The page works in a real headless Chromium: type, generate, see text come. It listens on the
loopback alone, asks nothing of other machines, and holds requests within its limits.

DEMO_SCREENSHOT=PATH keeps a picture of the page.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from fresh_project import enter_project
from test_export import TOKENIZERS, checkpoint

from pipeline import demo
from pipeline.__main__ import main
from pipeline.evaluation.sampling import generate
from pipeline.model.pretrained import load_pretrained

SECONDS = 120  # most that anything may take


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def model_path(folder: Path) -> str:
    """What DEMO_CHECKPOINT names, for a picture; else a tiny model with random weights."""
    if named := os.environ.get("DEMO_CHECKPOINT"):
        return named
    checkpoint(folder / "best.pt", "modern", TOKENIZERS["bpe"])
    return "best.pt"


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page, served by a process of its own."""
    pytest.importorskip("gradio", reason="needs the extra demo: make test-all installs it")
    project = Path(os.environ.get("DEMO_PROJECT", tmp_path))
    if project == tmp_path:
        enter_project(tmp_path, monkeypatch)
    port = free_port()
    arguments = ["--checkpoint", model_path(tmp_path), "--port", str(port)]
    said = tmp_path / "server.log"
    with said.open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "demo", *arguments],
            cwd=project,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert server.poll() is None, said.read_text()
        assert time.monotonic() < deadline
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait()


def listening(port: int) -> set[str]:
    """The addresses that some process listens on at this port, as Linux tells."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A" and int(local.split(":")[1], 16) == port:
                found.add(local.split(":")[0])
    return found


@pytest.mark.slow
def test_type_generate_and_see_the_text_come(address: str, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    wait = WebDriverWait(browser, SECONDS)
    prompt = wait.until(lambda b: b.find_element(By.CSS_SELECTOR, "#prompt textarea"))
    prompt.clear()
    prompt.send_keys("Shall I")
    browser.find_element(By.ID, "generate").click()

    def text(driver: Any) -> str:
        area = driver.find_element(By.CSS_SELECTOR, "#text textarea")
        return str(area.get_property("value"))

    wait.until(lambda b: len(text(b)) > len("Shall I"))
    lengths = {len(text(browser))}
    wait.until(lambda b: lengths.add(len(text(b))) or _is_over(browser, text))
    assert text(browser).startswith("Shall I")
    about = browser.find_element(By.ID, "about").text
    for word in ("architecture", "parameters", "Lineage", "weights"):
        assert word in about
    if picture := os.environ.get("DEMO_SCREENSHOT"):
        browser.save_screenshot(picture)

    if "DEMO_CHECKPOINT" not in os.environ:  # the very text that Python draws
        loaded = load_pretrained("best.pt")
        tokenizer = loaded.load_tokenizer()
        ids = tokenizer.encode("Shall I").tolist()
        (new,) = generate(
            loaded.model, ids, max_new_tokens=200, temperature=0.8, top_k=50, seed=1337,
            stop_id=tokenizer.eot_id,
        )  # fmt: skip
        # a textarea shows every end of line as \n
        drawn = tokenizer.decode(ids + new).replace("\r\n", "\n").replace("\r", "\n")
        assert text(browser) == drawn

    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:", "chrome"))]
    assert elsewhere == []
    if sys.platform == "linux":
        assert listening(int(address.rpartition(":")[2])) == {"0100007F"}  # 127.0.0.1


def answer(url: str, data: bytes | None = None, **headers: str) -> int:
    """The HTTP status of a request."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urlopen(Request(url, data, names), timeout=SECONDS) as got:
            return int(got.status)
    except HTTPError as error:
        with error:
            return error.code


@pytest.mark.slow
def test_a_request_that_no_page_of_ours_would_send_is_refused(address: str, tmp_path: Path) -> None:
    assert answer(address) == 200
    assert answer(address, Host=address.replace("http://127.0.0.1", "localhost")) == 200
    assert answer(address, Host="elsewhere.example") == 400
    start = '--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    upload = f"{start}{'a' * 1000}\r\n--b--\r\n".encode()
    kind = "multipart/form-data; boundary=b"
    assert answer(f"{address}/gradio_api/upload", upload, Content_Type=kind) == 413

    call = f"{address}/gradio_api/call/write"
    asked = json.dumps({"data": ["a" * 4001, 9, 1, 0, 1, 1]}).encode()
    with urlopen(Request(call, asked, {"Content-Type": "application/json"})) as got:
        event = json.load(got)["event_id"]
    with urlopen(f"{call}/{event}", timeout=SECONDS) as got:
        assert "prompt: allowed: up to 4000 characters" in got.read().decode()
    assert "Traceback" not in (tmp_path / "server.log").read_text()


def _is_over(browser: Any, text: Any) -> bool:
    """Whether the text has stayed as it is over a while: the page shows no other sign."""
    before = text(browser)
    browser.set_script_timeout(SECONDS)
    browser.execute_async_script("setTimeout(arguments[arguments.length - 1], 1500)")
    return bool(text(browser) == before)


GOOD = {"prompt": "a", "most": 5, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "a" * (demo.MOST_CHARACTERS + 1)},
        {"prompt": None},
        {"prompt": "half a character \ud800"},
        {"most": demo.MOST_NEW_TOKENS + 1},
        {"most": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_k": "many"},
        {"seed": -1},
    ],
)
def test_a_request_that_no_control_would_send_is_refused(changes: dict[str, Any]) -> None:
    assert demo.refusal(**GOOD) is None
    assert "allowed: " in str(demo.refusal(**{**GOOD, **changes}))


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            demo.UserError, match=f"--host 127.0.0.1 --port {port}: cannot listen there: "
        ):
            demo._check_free("127.0.0.1", port)


def test_without_gradio_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter_project(tmp_path, monkeypatch)
    monkeypatch.setattr("importlib.metadata.version", lambda name: pytest.fail("not asked"))
    monkeypatch.setattr(demo, "version", _missing)
    monkeypatch.setattr("pipeline.training.runtime.prepare_process", lambda params: None)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err.startswith("error: gradio is not installed; `make demo`")


def _missing(name: str) -> str:
    raise ModuleNotFoundError(name)
