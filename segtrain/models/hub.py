"""Folders of the Hugging Face Hub: hf://OWNER/NAME, or hf://OWNER/NAME@REVISION."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from segtrain.errors import UsageError, first_line, translate_errors
from segtrain.models.names import FOLDER_FILES

PREFIX = "hf://"
ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def fetch_hub(target: str) -> str:
    """Return the path of a hub folder's local copy; any other target unchanged.

    Weights and JSON alone are fetched: no code. Raise UsageError for a wrong address.
    """
    if not target.startswith(PREFIX):
        return target
    found = ADDRESS.fullmatch(target)
    if found is None:
        raise UsageError(f"{target}: expected hf://OWNER/NAME, or hf://OWNER/NAME@REVISION")
    from huggingface_hub import snapshot_download

    def explain(error: Exception) -> str:
        return f"{target}: the hub has no such folder, or can't be reached ({first_line(error)})"

    with translate_errors(explain):
        return snapshot_download(
            found[1], revision=found[2], allow_patterns=[*FOLDER_FILES, "*.json"]
        )


def push_hub(folder: Path, name: str, files: Collection[str]) -> str:
    """Upload files of a folder to OWNER/NAME on the hub, which is made if it is missing.

    Return its URL. What else is in the folder stays here: evaluations show images.
    """
    from huggingface_hub import HfApi

    def explain(error: Exception) -> str:
        return (
            f"--push {name}: {first_line(error)}; {folder} is written, so run this again once "
            "the hub can be reached"
        )

    with translate_errors(explain):
        api = HfApi()
        api.create_repo(name, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=[*files]))
