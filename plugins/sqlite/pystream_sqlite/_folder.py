"""Which folder holds the database."""

from __future__ import annotations

import os

from pystream_core import PlanError

DATABASE = "profiles.sqlite"
VARIABLE = "PYSTREAM_PROFILER_FOLDER"

# The documented functions are a module-level setting; assigning one name is atomic.
_chosen: str | None = None


def get_profiler_db_folder() -> str:
    """Get the folder for the profiler SQLite database.

    It is the one that was set last, else the environment variable
    ``PYSTREAM_PROFILER_FOLDER``, else the user's data folder of this system.

    Returns:
        path to directory that contains the database
    """
    if _chosen is not None:
        return _chosen
    if folder := os.environ.get(VARIABLE):
        return checked(folder)
    import platformdirs

    return platformdirs.user_data_dir("pystream", appauthor=False)


def set_profiler_db_folder(folder_path: str | os.PathLike[str]) -> None:
    """Set the folder for the profiler SQLite database.

    This should be called before the Pipeline instantiation. The folder is made with the
    first records, not here.

    Args:
        folder_path: path to directory that contains the database

    Raises:
        PlanError: it is not a path, empty, or names something that is no folder.
    """
    global _chosen
    _chosen = checked(folder_path)


def checked(folder: object) -> str:
    """The folder as text, or PlanError saying what is wrong with it."""
    path = os.fspath(folder) if isinstance(folder, os.PathLike) else folder
    if not isinstance(path, str):
        raise PlanError(
            f"the profiler folder must be a path as text, not {type(folder).__name__} {folder!r}"
        )
    if not path.strip() or "\0" in path:
        raise PlanError(
            f"the profiler folder must not be empty or contain NUL, got {path!r}; "
            "give the path of a folder, '.' for the current one"
        )
    if os.path.exists(path) and not os.path.isdir(path):
        raise PlanError(f"the profiler folder {path!r} is a file; give the path of a folder")
    return path
