"""Which images there are, and what makes one be built again."""

import re
from pathlib import Path

import pytest

from rung_devcluster.images import ImagesError, build_images, find_project, image_key, read_images, select
from rung_devcluster.tools import CATALOGUE

DEFAULT = {
    "rung", "rung-loadgen", "rung-tritonserver-cpu", "rung-gate", "rung-envoy", "rung-prometheus", "rung-s3", "pause",
    "coredns",
}  # fmt: skip


def test_the_default_images_leave_out_the_one_with_torch() -> None:
    images = read_images(find_project())
    assert {image.name for image in select(images, None)} == DEFAULT
    assert {image.name for image in images} == DEFAULT | {"rung-porting"}
    references = {image.name: image.reference for image in images}
    assert re.fullmatch(r"localhost/rung/rung:\d+\.\d+\.\d+", references["rung"])
    assert references["coredns"].endswith(":" + CATALOGUE["coredns"].version)


@pytest.mark.parametrize("image", read_images(find_project()), ids=lambda image: image.name)
def test_every_containerfile_is_there_for_any_machine_and_any_registry(image: object) -> None:
    for each in read_images(find_project()):
        if each != image:
            continue
        text = (find_project() / "images" / each.folder / "Containerfile").read_text()
        first = next(line for line in text.splitlines() if line and not line.startswith("#"))
        assert first == ("ARG BASE=docker.io/library/python:3.11-slim" if each.base else "FROM scratch")
        assert re.search(r"^USER (?!0)\d+:\d+$", text, re.MULTILINE)
        assert not re.search("amd64|x86|--platform", text)
        assert set(each.wheels) <= set(each.files)


def test_images_are_found_by_name_and_by_reference() -> None:
    images = read_images(find_project())
    (pause,) = select(images, ["pause"])
    assert select(images, [pause.reference, "pause"]) == (pause,)
    with pytest.raises(ImagesError, match=r"no image torch, nano; there are: rung, rung-loadgen"):
        select(images, ["rung", "torch", "nano"])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "images" / "one").mkdir(parents=True)
    (tmp_path / "images" / "one" / "Containerfile").write_text("FROM scratch\n")
    (tmp_path / "images" / "images.toml").write_text(
        '[one]\nreference = "localhost/one"\nfolder = "one"\nfiles = ["code"]\nbase = false\n'
    )
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "code" / "deep").mkdir(parents=True)
    (tmp_path / "code" / "deep" / "main.py").write_text("one")
    return tmp_path


def key(project: Path) -> str:
    (image,) = read_images(project)
    return image_key(project, image)


def test_the_key_follows_what_goes_into_the_image_and_nothing_else(project: Path) -> None:
    before = key(project)
    seen = {before}
    (project / "code" / "deep" / "__pycache__").mkdir()
    (project / "code" / "deep" / "__pycache__" / "main.pyc").write_text("compiled")
    (project / "README.md").write_text("words")
    assert key(project) == before

    def changed() -> None:
        now = key(project)
        assert now not in seen
        seen.add(now)

    (project / "code" / "deep" / "main.py").write_text("two")
    changed()
    (project / "code" / "deep" / "main.py").chmod(0o755)
    changed()
    (project / "code" / "deep" / "main.py").rename(project / "code" / "main.py")
    changed()
    (project / "images" / "one" / "Containerfile").write_text("FROM scratch\nUSER 1:1\n")
    changed()
    (project / "pyproject.toml").write_text('[project]\nversion = "1.2.4"\n')
    changed()


def test_a_field_that_means_nothing_and_files_that_are_missing_are_named(project: Path) -> None:
    (project / "code" / "deep" / "main.py").unlink()
    with pytest.raises(ImagesError, match="code is missing or empty"):
        key(project)
    table = project / "images" / "images.toml"
    table.write_text(table.read_text() + "wheel = []\n")
    with pytest.raises(ImagesError, match=r"images.toml: one: .*\nwheel\n"):
        read_images(project)


def test_what_is_in_the_cache_is_not_built(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNG_CACHE", str(project / "cache"))
    archive = project / "cache" / "images" / f"one-{key(project)}.tar"
    archive.parent.mkdir(parents=True)
    archive.write_text("built before")
    lines: list[str] = []
    # With nothing on PATH a build could not even begin.
    monkeypatch.setenv("PATH", "")
    assert build_images(progress=lines.append, project=project) == {"localhost/one:1.2.3": archive}
    assert lines == []
