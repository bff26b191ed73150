"""One trainer for one folder: a lock of the operating system, which goes with the process however it ends."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from ..errors import CheckpointError
from ..safe_files import writing

_TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)


class FolderLock:
    """Holds `folder/lock`, which has this process's number in it, until `release` or the end of the process.

    Raises:
        CheckpointError: another trainer holds it (its process number is named), or the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        path, self._file = folder / "lock", -1
        with writing(path, "Name a folder that you may write to with --out."):
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                _lock(file)
            except OSError as error:
                owner = os.pread(file, 32, 0).decode("ascii", "replace").strip() if hasattr(os, "pread") else ""
                os.close(file)
                if error.errno not in _TAKEN:
                    raise
                who = f"process {owner}" if owner else "another process"
                raise CheckpointError(f"[train] {folder} is being trained by {who}. Wait for it, stop it, or name "
                                      "another folder with --out.") from None
            self._file = file
            os.ftruncate(file, 0)
            os.write(file, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)  # which unlocks

    def __del__(self) -> None:
        try:  # noqa: SIM105
            self.release()
        except Exception:  # when the interpreter ends, modules may be gone; the lock goes with the process
            pass


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        """Locks a byte far behind the text: others cannot read what is locked."""
        os.lseek(file, 1 << 20, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
