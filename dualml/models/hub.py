"""Models from the Hugging Face hub, by the optional library huggingface_hub (the extra `hub`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FILES = ["config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json",
          "tokenizer.json", "tokenizer_config.json", "vocab.txt", "1_Pooling/config.json", "sentence_bert_config.json"]


def download(repo: str, revision: str | None = None) -> Path:
    """The local folder of a hub's repository, downloaded unless it is there; of its files only safetensors and JSON.

    Args:
        revision: a branch, tag or commit; the newest by default.
    Raises:
        CheckpointError: it is no repository's name, huggingface_hub is missing, or the hub cannot be reached.
    """
    if not _REPO.fullmatch(repo):
        raise CheckpointError(f"[from_pretrained] {repo!r} must be a folder that exists or a repository of the hub "
                              "(owner/name).")
    hub: Any
    try:
        import huggingface_hub as hub
    except ImportError:
        raise CheckpointError(f"[from_pretrained] {repo} is no local folder, and getting it from the Hugging Face hub "
                              "needs huggingface_hub. Install it: pip install 'dualml[hub]'") from None
    try:
        return Path(hub.snapshot_download(repo, revision=revision, allow_patterns=_FILES))
    except Exception as error:  # of the hub, of its HTTP library, of the system
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise CheckpointError(f"[from_pretrained] {repo} is no local folder and cannot be had from the Hugging Face "
                              f"hub ({type(error).__name__}: {first[:200]}). Check the name and the connection, or "
                              "download it elsewhere and pass its folder.") from None
