"""Priors of the Hugging Face hub: ``hf:owner/name``, ``hf:owner/name/FILE``, each with ``@revision``.

Files come through the package huggingface-hub (extra ``hub``) and stay in its cache, from which they
are read where there is no network. https://huggingface.co/docs/huggingface_hub
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invdiff.errors import InputError, brief, first_line

PREFIX = "hf:"
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl")
_FORM = re.compile(r"hf:([\w.-]+/[\w.-]+)((?:/[\w .-]+)*)(?:@([\w./-]+))?")
# What a folder of diffusers or one of ours is made of: no pictures, no logs, no code.
_SETTINGS = ("model_index.json", "*config.json", "prior.safetensors", "prior.json")
_WEIGHTS = (
    "diffusion_pytorch_model*.safetensors",
    "unet/diffusion_pytorch_model*.safetensors",
    "unet_ema/diffusion_pytorch_model*.safetensors",
)
_PICKLES = (
    "diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.bin",
    "unet_ema/diffusion_pytorch_model.bin",
)


@dataclass(frozen=True)
class Address:
    """Where a prior lies on the hub.

    Attributes:
        repository: owner/name.
        file: one file of it; empty for the whole.
        revision: a branch, a tag or a commit; None for the newest.

    Example:
        >>> Address.parsed("hf:google/ddpm-cat-256@main").repository
        'google/ddpm-cat-256'
    """

    repository: str
    file: str
    revision: str | None

    @classmethod
    def parsed(cls, name: str) -> Address:
        """Return the address that a name means.

        Raises:
            InputError: it has another form.
        """
        found = _FORM.fullmatch(name)
        if found is None or ".." in name.split("/"):
            raise InputError(
                f"prior {brief(name)}: expected hf:owner/name, with @revision if need be"
            )
        return cls(found[1], found[2].removeprefix("/"), found[3])


def recognise(name: object) -> bool:
    """Return whether a name is one of the hub.

    Example:
        >>> recognise("hf:google/ddpm-cat-256"), recognise("fashion")
        (True, False)
    """
    return isinstance(name, str) and name.startswith(PREFIX)


def fetched(name: str) -> Path:
    """Return the folder or the file of a prior on the hub, downloaded if it is not in the cache.

    Raises:
        InputError: the package is missing, there is no network, or no such repository, revision or
            file.
    """
    address = Address.parsed(name)
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(
            f"prior {name}: needs the package huggingface-hub, expected it to be installed "
            "(pip install invdiff[hub])"
        ) from None
    try:
        return _downloaded(huggingface_hub, address)
    except Exception as error:  # requests, httpx and the hub have dozens
        raise InputError(f"prior {name}: {_reason(error)}") from None


def is_weights(path: Path) -> bool:
    """Return whether a file is one of weights, by its suffix.

    Example:
        >>> is_weights(Path("unet/diffusion_pytorch_model.bin")), is_weights(Path("config.json"))
        (True, False)
    """
    return path.suffix.lower() in _SUFFIXES


def pinned(name: str, files: Sequence[Path]) -> str:
    """Return a name with the commit of the hub that its files are of; another name as it is.

    Example:
        >>> pinned("hf:a/b@main", [Path("hub/models--a--b/snapshots/0f3c/prior.safetensors")])
        'hf:a/b@0f3c'
    """
    if not recognise(name):
        return name
    parts = files[0].parts if files else ()
    if "snapshots" not in parts[:-1]:
        return name
    commit = parts[len(parts) - parts[::-1].index("snapshots")]
    return f"{name.partition('@')[0]}@{commit}"


def origin(name: str, files: Sequence[Path]) -> dict[str, Any]:
    """Return where a prior comes from: its name, with the commit of the hub, and SHA-256 by file.

    Example:
        >>> from invdiff.resources import WEIGHTS
        >>> found = origin("fashion", [WEIGHTS / "fashion.safetensors"])
        >>> found["source"], list(found["sha256"])
        ('fashion', ['fashion.safetensors'])
    """
    sums = {file.name: sha256(file) for file in files if is_weights(file)}
    return {"source": pinned(name, files), "sha256": sums}


def checksums(path: Path) -> dict[str, str]:
    """Return the sha256 of a file of weights, or of each in a folder, by name.

    Example:
        >>> from invdiff.resources import WEIGHTS
        >>> list(checksums(WEIGHTS / "fashion.safetensors"))
        ['fashion.safetensors']
    """
    files = [path] if path.is_file() else sorted(filter(is_weights, path.rglob("*")))
    root = path.parent if path.is_file() else path
    return {file.relative_to(root).as_posix(): sha256(file) for file in files}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _downloaded(hub: Any, address: Address) -> Path:
    repository = address.repository
    revision = address.revision
    if address.file:
        return Path(hub.hf_hub_download(repository, address.file, revision=revision))
    patterns = [*_SETTINGS, *_WEIGHTS]
    folder = Path(hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))
    if not any(folder.rglob("*.safetensors")):
        patterns = [*_SETTINGS, *_PICKLES]
        folder = Path(hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))
    if not any(file.suffix in (".safetensors", ".bin") for file in folder.rglob("*")):
        raise InputError(
            "found no diffusion_pytorch_model and no prior.safetensors in the repository, expected "
            "one of them (hf:owner/name/FILE names another file)"
        )
    return folder


def _reason(error: Exception) -> str:
    """Return in one line why a download failed."""
    if isinstance(error, InputError):
        return str(error)
    known = {
        "GatedRepoError": "is gated: accept its terms on huggingface.co, and log in (hf auth login)",
        "RepositoryNotFoundError": "there is no such repository on the hub, or it is private",
        "RevisionNotFoundError": "the repository has no such revision",
        "EntryNotFoundError": "the repository has no such file",
        "RemoteEntryNotFoundError": "the repository has no such file",
        "LocalEntryNotFoundError": "is not in the cache, and the hub cannot be reached",
        "OfflineModeIsEnabled": "is not in the cache, and HF_HUB_OFFLINE forbids the network",
    }
    for cls in type(error).__mro__:
        if cls.__name__ in known:
            return known[cls.__name__]
    return f"cannot be downloaded ({type(error).__name__}: {first_line(error)[:200]})"
