"""The project's images, built from its own Containerfiles without a registry.

`images/images.toml` lists them. What an image is made of (Containerfile, files, pinned requirements, pinned tools,
base) gives its key; an image whose key has an archive in the cache is not built again.
"""

from __future__ import annotations

import os
import shutil
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel, ConfigDict, ValidationError

from rung_devcluster import buildah
from rung_devcluster.base import BASE_REFERENCE, base_key, ensure_base_archive
from rung_devcluster.cache import TEMPORARY_PREFIX, cache_folder, key_of, making_file, only_one, remove_leftovers
from rung_devcluster.programs import ensure_program, program_sources
from rung_devcluster.progress import Progress, to_stderr
from rung_devcluster.tools import CATALOGUE, ensure_tools, tool_key
from rung_devcluster.tools.catalogue import go_architecture
from rung_devcluster.wheels import ensure_wheels

ARCHIVES_KEPT = 2
"""Archives of each image that stay in the cache: today's and the one before."""
LAYERS_KEPT_SECONDS = 7 * 24 * 3600.0
_NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", ".*_cache")


class ImagesError(ValueError):
    """There is no such image, or no project to build from. The message says what to do."""


class Image(BaseModel):
    """One image of images/images.toml, which tells what each field means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    reference: str
    """The whole reference, tag included."""
    folder: str
    files: tuple[str, ...] = ()
    wheels: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    base: bool = True
    default: bool = True


def build_images(
    names: Sequence[str] | None = None,
    progress: Progress = to_stderr,
    project: Path | None = None,
) -> Mapping[str, Path]:
    """Build images as far as they changed, and return image reference -> docker-archive in the cache.

    `names` are those of images.toml (`rung`, `pause`) or whole references; None means every default image. `project` is
    the checkout; None means the one that this package lies in.

    Raises ImagesError for an unknown name, CommandError, ToolError when something can't be made.
    """
    root = project or find_project()
    images = select(read_images(root), names)
    paths = {image: archive_path(root, image) for image in images}
    if not all(path.exists() for path in paths.values()):
        with only_one("images", progress):
            _build_missing(root, paths, progress)
    return {image.reference: path for image, path in paths.items()}


def find_project() -> Path:
    """Return the checkout that this package lies in.

    Raises ImagesError when it lies elsewhere, in an ordinary installation.
    """
    root = Path(__file__).parents[2]
    if not (root / "images" / "images.toml").is_file():
        raise ImagesError("images are built from a checkout of Rung: install it with `pip install -e .` and try again")
    return root


def read_images(root: Path) -> tuple[Image, ...]:
    """Read images/images.toml.

    Raises ImagesError when it has a field that means nothing.
    """
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    images = []
    for name, fields in tomllib.loads((root / "images" / "images.toml").read_text()).items():
        try:
            image = Image(name=name, **fields)
        except ValidationError as error:
            raise ImagesError(f"images.toml: {name}: {error}") from error
        has_tag = ":" in image.reference.rsplit("/", 1)[-1]
        images.append(image if has_tag else image.model_copy(update={"reference": f"{image.reference}:{version}"}))
    return tuple(images)


def select(images: Sequence[Image], names: Sequence[str] | None) -> tuple[Image, ...]:
    """Return the images of those names or references, or the default ones for None.

    Raises ImagesError with the names that there are.
    """
    if names is None:
        return tuple(image for image in images if image.default)
    known = {key: image for image in images for key in (image.name, image.reference)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ImagesError(f"no image {', '.join(unknown)}; there are: {', '.join(image.name for image in images)}")
    return tuple(dict.fromkeys(known[name] for name in names))


def archive_path(root: Path, image: Image) -> Path:
    """Return where an image's archive is or will be: its name carries the key of all that it is made of."""
    return cache_folder() / "images" / f"{image.name}-{image_key(root, image)}.tar"


def image_key(root: Path, image: Image) -> str:
    """Return a key of everything that an image is made of."""
    parts: list[str | Path] = [image.reference, go_architecture(), base_key() if image.base else ""]
    for name in (f"images/{image.folder}/Containerfile", *image.files, *image.wheels):
        for path in _files_below(root / name):
            parts += [str(path.relative_to(root)), oct(path.stat().st_mode & 0o111), path]
    parts += [tool_key(CATALOGUE[tool]) for tool in image.tools]
    for name in image.programs:
        for path in program_sources(root / name):
            parts += [str(path.relative_to(root)), path]
    return key_of(parts)


def _files_below(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = []
    for folder, folders, files in os.walk(path):
        skipped = _NOT_COPIED(folder, [*folders, *files])
        folders[:] = [name for name in folders if name not in skipped]
        found += [Path(folder) / name for name in files if name not in skipped]
    if not found:
        raise ImagesError(f"{path} is missing or empty, and an image is made of it")
    return sorted(found)


def _build_missing(root: Path, paths: Mapping[Image, Path], progress: Progress) -> None:
    missing = {image: path for image, path in paths.items() if not path.exists()}
    began = time.monotonic()
    for name in ("images", "base", "wheels", "pip"):
        remove_leftovers(cache_folder() / name)
    (cache_folder() / "images").mkdir(parents=True, exist_ok=True)
    buildah.remove_containers("images: tidying up")
    tools = ensure_tools([tool for image in missing for tool in image.tools], progress)
    if any(image.base for image in missing):
        _ensure_base(progress)
    for number, (image, path) in enumerate(missing.items(), start=1):
        head = f"images: {image.name} ({number} of {len(missing)})"
        progress(f"{head}: building")
        image_began = time.monotonic()
        _build(root, image, path, tools, progress)
        size_bytes = path.stat().st_size
        progress(f"{head}: {size_bytes / 1e6:.0f} MB in {time.monotonic() - image_began:.0f} s")
        _keep_newest(image, path)
    buildah.prune("images: tidying up", LAYERS_KEPT_SECONDS)
    progress(f"images: {len(missing)} built in {time.monotonic() - began:.0f} s, kept in {cache_folder()}")


def _ensure_base(progress: Progress) -> None:
    # The tag has the key too: a changed recipe of the base makes another image.
    reference = _base_reference()
    if not buildah.exists(reference, "images: base"):
        archive = ensure_base_archive(progress)
        buildah.import_root(archive, reference, "images: base")


def _base_reference() -> str:
    return f"{BASE_REFERENCE}-{base_key()}"


def _build(root: Path, image: Image, path: Path, tools: Mapping[str, Path], progress: Progress) -> None:
    what = f"images: {image.name}"
    with TemporaryDirectory(prefix=f"{TEMPORARY_PREFIX}{image.name}-", dir=path.parent) as name:
        context = Path(name)
        _fill_context(context, root, image, tools, progress)
        arguments = {}
        if image.base:
            arguments["BASE"] = _base_reference()
        if image.wheels:
            arguments["PIP_ARGS"] = "--no-index --find-links=/build/wheels"
        buildah.build(context, root / "images" / image.folder / "Containerfile", image.reference, arguments, what)
    with making_file(path) as temporary:
        buildah.save(image.reference, temporary, what)


def _fill_context(context: Path, root: Path, image: Image, tools: Mapping[str, Path], progress: Progress) -> None:
    for name in image.files:
        source, target = root / name, context / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=_NOT_COPIED)
        else:
            shutil.copy2(source, target)
    for name in image.wheels:
        (context / "wheels").mkdir(exist_ok=True)
        for wheel in ensure_wheels(root / name, progress).iterdir():
            _link(wheel, context / "wheels" / wheel.name)
    for name in image.tools:
        (context / "bin").mkdir(exist_ok=True)
        _link(tools[name], context / "bin" / name)
    for name in image.programs:
        (context / "bin").mkdir(exist_ok=True)
        _link(ensure_program(root / name, progress), context / "bin" / name)


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the cache is on another disk."""
    if target.exists():
        return
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copy2(source, target)


def _keep_newest(image: Image, built: Path) -> None:
    others = [path for path in built.parent.glob(f"{image.name}-*.tar") if path != built]
    # `rung-*` is also the beginning of other images' names: only a key may follow.
    own = [path for path in others if len(path.stem) == len(built.stem)]
    for path in sorted(own, key=lambda each: each.stat().st_mtime, reverse=True)[ARCHIVES_KEPT - 1 :]:
        path.unlink(missing_ok=True)
