"""The bundle: re-exports, the logger's level, ``python -m pystream``."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=15
    )


def test_the_logger_has_the_level_info_unless_someone_set_another() -> None:
    """The package sets it only when it is NOTSET, and adds no handler."""
    code = (
        "import logging; logger = logging.getLogger('PyStream'); {before}; import pystream; "
        "print(pystream.logger is logger, pystream.logger.level, logger.handlers)"
    )
    assert python(code.format(before="pass")).stdout.strip() == "True 20 []"
    assert python(code.format(before="logger.setLevel(40)")).stdout.strip() == "True 40 []"


def test_profiler_folder_functions_come_from_the_profiler_on_use(
    tmp_path: pytest.TempPathFactory,
) -> None:
    """``import pystream`` does not load them; setting and getting go together."""
    done = python(
        "import sys, pystream\n"
        "assert 'pystream_sqlite' not in sys.modules\n"
        "pystream.set_profiler_db_folder(sys.argv[1])\n"
        "print(pystream.get_profiler_db_folder())",
        str(tmp_path),
    )
    assert done.stdout.strip() == str(tmp_path), done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    """The module's own look-up does not hide typing mistakes."""
    import pystream

    with pytest.raises(AttributeError, match="Pipline"):
        pystream.Pipline  # noqa: B018


def test_dir_lists_the_documented_names() -> None:
    """Also those that are looked up on use."""
    import pystream

    assert {"Pipeline", "Stage", "get_profiler_db_folder", "logger"} <= set(dir(pystream))


def test_python_m_pystream_without_the_tool_says_how_to_get_it() -> None:
    """The command line tool is a distribution of its own."""
    done = python(
        "import sys, runpy; sys.modules['pystream_cli'] = None; sys.argv = ['pystream'];"
        "runpy.run_module('pystream', run_name='__main__')"
    )
    assert done.returncode == 1
    assert "pip install" in done.stderr


def test_it_is_the_same_pipeline_class_as_the_core_s() -> None:
    """The bundle holds no logic."""
    import pystream

    import pystream_core

    assert pystream.Pipeline is pystream_core.Pipeline
