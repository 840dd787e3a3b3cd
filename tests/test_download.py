"""Nothing that was downloaded stays unless its hash is the pinned one."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from pipeline.corpus.download import pip_download, url_download
from pipeline.errors import FetchError


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def build_wheel(folder: Path) -> str:
    """A package index of one wheel, `tiny-package` 1.0; returns its sha256."""
    folder.mkdir()
    path = folder / "tiny_package-1.0-py3-none-any.whl"
    info = "tiny_package-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_package/text.txt", "text")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return sha256(path.read_bytes())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pinned = build_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return pinned


def test_pip_brings_the_pinned_file(index: str, tmp_path: Path) -> None:
    path = pip_download("tiny-package==1.0", index, tmp_path / "new", form="wheel")
    assert path.parent == tmp_path / "new"
    assert sha256(path.read_bytes()) == index


def test_pip_refuses_another_hash(index: str, tmp_path: Path) -> None:
    with pytest.raises(
        FetchError, match=r"^tiny-package==1\.0: pip could not download it: .*HASHES"
    ):
        pip_download("tiny-package==1.0", "0" * 64, tmp_path / "new", form="wheel")
    assert not list((tmp_path / "new").iterdir())


def test_no_index_is_one_line(index: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError) as caught:
        pip_download("absent==1.0", index, tmp_path / "new", form="wheel")
    assert str(caught.value).startswith("absent==1.0: pip could not download it: No matching")
    assert "\n" not in str(caught.value)


def test_a_url_brings_the_pinned_file_and_tells_its_progress(tmp_path: Path) -> None:
    data = b"x" * 3_000_000
    (tmp_path / "there").write_bytes(data)
    told: list[int] = []
    here = tmp_path / "new" / "here"
    url_download((tmp_path / "there").as_uri(), sha256(data), here, told.append)
    assert here.read_bytes() == data
    assert sum(told) == len(data)
    assert len(told) > 1


def test_a_url_with_other_bytes_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"other")
    with pytest.raises(FetchError, match=f"found sha256 {sha256(b'other')}; pinned: {'0' * 64}"):
        url_download((tmp_path / "there").as_uri(), "0" * 64, tmp_path / "here", lambda _: None)
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("url", ["file:///nowhere/at/all", "http://127.0.0.1:9/text"])
def test_an_address_that_does_not_answer_is_one_line(url: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=f"^{url}: could not be downloaded: ") as caught:
        url_download(url, "0" * 64, tmp_path / "here", lambda _: None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "here").exists()
