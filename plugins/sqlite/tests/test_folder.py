"""Which folder is used."""

import os
import subprocess
import sys
from pathlib import Path

import pystream_sqlite
import pytest
from pystream_sqlite import _folder

from pystream_core import PlanError


def test_the_folder_that_was_set_is_returned(tmp_path):
    pystream_sqlite.set_profiler_db_folder(str(tmp_path / "a"))
    assert pystream_sqlite.get_profiler_db_folder() == str(tmp_path / "a")
    pystream_sqlite.set_profiler_db_folder(tmp_path / "b")
    assert pystream_sqlite.get_profiler_db_folder() == str(tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_the_default_is_the_users_data_folder_or_the_environments(monkeypatch):
    monkeypatch.setattr(_folder, "_chosen", None)
    monkeypatch.delenv("PYSTREAM_PROFILER_FOLDER", raising=False)
    default = pystream_sqlite.get_profiler_db_folder()
    assert os.path.isabs(default)
    assert Path(pystream_sqlite.__file__).parent not in Path(default).parents
    monkeypatch.setenv("PYSTREAM_PROFILER_FOLDER", "/somewhere/else")
    assert pystream_sqlite.get_profiler_db_folder() == "/somewhere/else"


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", "", "  ", "a\0b"])
def test_what_is_no_path_is_refused(wrong):
    with pytest.raises(PlanError, match="profiler folder"):
        pystream_sqlite.set_profiler_db_folder(wrong)


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PlanError, match="is a file"):
        pystream_sqlite.set_profiler_db_folder(tmp_path / "file")


def test_the_folder_is_read_when_the_profiler_is_made(tmp_path, recorded, folder):
    run = recorded()
    pystream_sqlite.set_profiler_db_folder(tmp_path / "later")
    run.collect().close()
    assert (folder / "profiles.sqlite").exists()
    assert not (tmp_path / "later").exists()


def test_a_relative_folder_stays_where_it_was(tmp_path, recorded, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pystream_sqlite.set_profiler_db_folder("relative")
    run = recorded()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run.collect().close()
    assert (tmp_path / "relative" / "profiles.sqlite").exists()


def test_importing_the_package_is_light():
    code = (
        "import sys; before = set(sys.modules);"  # tracers and site files import things, too
        "import pystream_sqlite, pystream_sqlite.plugin;"
        "print(({'sqlite3', 'platformdirs'} & set(sys.modules)) - before);"
        "pystream_sqlite.SQLiteProfiler; print('sqlite3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "True"]


def test_the_plugin_names_the_profiler():
    from pystream_sqlite import plugin

    (spec,) = plugin.pystream_observers()
    assert (spec.name, spec.factory) == ("sqlite", "pystream_sqlite:SQLiteProfiler")
    with pytest.raises(AttributeError, match="nothing"):
        _ = pystream_sqlite.nothing
    assert "SQLiteProfiler" in dir(pystream_sqlite)
