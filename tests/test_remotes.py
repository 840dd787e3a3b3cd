"""Results travel: pushed from one clone, another pulls them and `dvc repro` there runs nothing.

Through real servers on this machine: a folder, moto's S3, OpenSSH's sshd on a free port.
"""

import getpass
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_makefile import MAKEFILE
from tiny_project import ROOT, run, set_params

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
STAGES = ("fetch", "prepare", "train", "evaluate", "report")


def assert_another_clone_has_all_without_running(project: Path, *remote: str) -> None:
    """remote: the options of `dvc remote modify`, each a name and a value."""
    clone = project.parent / "clone"
    run(project.parent, "git", "clone", "-q", str(project), str(clone))
    options = dict(zip(remote[1::2], remote[2::2], strict=True))
    for folder in (project, clone):
        run(folder, "dvc", "remote", "add", "-q", "--local", "--default", "shared", remote[0])
        for name, value in options.items():
            run(folder, "dvc", "remote", "modify", "-q", "--local", "shared", name, value)
    assert "pushed" in run(project, "dvc", "push").stdout
    assert not (clone / "data/checkpoints").exists()
    run(clone, "dvc", "pull")
    output = run(clone, "dvc", "repro").stdout
    for stage in STAGES:
        assert f"Stage '{stage}' didn't change, skipping" in output
    assert "Running stage" not in output
    assert run(clone, "git", "status", "--porcelain").stdout == ""
    for name in ("best.pt", "last.pt", "run.json"):
        there, here = (folder / "data/checkpoints" / name for folder in (project, clone))
        assert here.read_bytes() == there.read_bytes()
    run(clone, "python", "-m", "pipeline", "verify")


@pytest.mark.slow
def test_a_folder_as_make_remote_sets_it_up(finished: Path) -> None:
    (line,) = [line for line in MAKEFILE.splitlines() if "dvc remote add" in line]
    assert "--local --default --force shared '$(REMOTE)'" in line
    assert_another_clone_has_all_without_running(finished, str(finished.parent / "a remote"))


def test_weights_to_start_from_are_dvcs_to_push_though_git_ignores_them(finished: Path) -> None:
    shutil.copy(ROOT / ".gitignore", finished / ".gitignore")
    (finished / "data/init/best.pt").write_bytes(b"weights")
    run(finished, "dvc", "add", "-q", "data/init/best.pt")
    run(finished, "git", "add", "data/init")
    listed = run(finished, "git", "status", "--porcelain", "--", "data/init").stdout.split()
    assert [name for name in listed if "best" in name] == ["data/init/best.pt.dvc"]
    run(finished, "dvc", "remote", "add", "-q", "--default", "here", str(finished.parent / "there"))
    run(finished, "dvc", "push", "-q")
    (finished / "data/init/best.pt").unlink()
    shutil.rmtree(finished / ".dvc/cache")
    run(finished, "dvc", "pull", "-q")
    assert (finished / "data/init/best.pt").read_bytes() == b"weights"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """moto's S3 with an empty bucket `models`; its address."""
    server_of = pytest.importorskip("moto.server", reason="moto is missing: make test-all")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "tester")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    address = f"http://{host}:{port}"
    request = urllib.request.Request(f"{address}/models", method="PUT")
    urllib.request.urlopen(request).close()
    yield address
    server.stop()


@pytest.mark.slow
def test_s3(finished: Path, s3: str) -> None:
    assert_another_clone_has_all_without_running(finished, "s3://models/dvc", "endpointurl", s3)


@pytest.mark.slow
def test_text_in_a_bucket_gives_the_bytes_of_the_same_text_here(
    finished: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    before = (finished / "data/tokens/train.bin").read_bytes()
    text = (finished / "data/own/words.txt").read_bytes()
    for name, data in (("words.txt", text), ("deeper/more.txt", b"another text")):
        address, kind = f"{s3}/models/corpus/{name}", {"Content-Type": "text/plain"}
        put = urllib.request.Request(address, data, kind, method="PUT")
        urllib.request.urlopen(put).close()
    set_params(finished, corpus__path="s3://models/corpus/words.txt")
    run(finished, "dvc", "repro", "prepare")
    assert (finished / "data/tokens/train.bin").read_bytes() == before
    set_params(finished, corpus__path="s3://models/corpus")
    run(finished, "dvc", "repro", "fetch")
    files = (finished / "data/raw/texts").rglob("*.txt")
    names = sorted(path.relative_to(finished / "data/raw/texts").as_posix() for path in files)
    assert names == ["deeper/more.txt", "words.txt"]
    assert "didn't change" in run(finished, "dvc", "repro", "fetch").stdout


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A server for this user alone; its port and the key that opens it."""
    if SSHD is None:
        pytest.skip("sshd is missing: install openssh-server")
    folder = tmp_path / "sshd"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(keygen, check=True)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # which sshd as root asks for
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub", "PidFile": "none", "StrictModes": "no",
        "UsePAM": "no", "PermitRootLogin": "yes", "Subsystem": "sftp internal-sftp",
    }  # fmt: skip
    lines = "".join(f"{key} {value}\n" for key, value in settings.items())
    (folder / "sshd_config").write_text(lines)
    server = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    for line in server.stderr:
        if "Server listening" in line:
            break
    else:
        pytest.fail("sshd did not start")
    yield port, folder / "user"
    server.terminate()
    server.communicate()


@pytest.mark.slow
def test_ssh(finished: Path, sshd: tuple[int, Path]) -> None:
    port, key = sshd
    there = finished.parent / "on the server"
    url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{there}"
    assert_another_clone_has_all_without_running(
        finished, url, "keyfile", str(key), "allow_agent", "false"
    )
    assert any(there.rglob("*.dir"))
