"""The commands new and check: what they write, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def new(project, *arguments: str):
    return project.invoke("new", *arguments, "--folder", str(project.folder))


@pytest.mark.parametrize("kind", ["stage", "executor", "placement", "observer"])
def test_new_writes_a_distribution_and_says_what_to_do(project, kind: str) -> None:
    """Every file that is told is there, and the next three commands are shown."""
    result = new(project, kind, "acme-blur")
    assert result.exit_code == 0, result.output
    folder = project.folder / "acme-blur"
    told = [line.strip() for line in result.stdout.splitlines() if line.startswith("  ")]
    files = [line for line in told if (folder / line).is_file()]
    assert sorted(files) == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    assert told[-3].startswith("cd ")
    assert "pytest" in told[-2]
    assert told[-1] == "pystream run example/pipeline.toml"
    described = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    assert described["name"] == "acme-blur"
    assert "pystream-core>=1.0,<2" in described["dependencies"]


def test_new_code_is_tidy_whatever_it_is_called(project) -> None:
    """No line is too long under a long name, or broken without need under a short one."""
    written = ("a-b", "acme-skip", "acme-stage", "acme-background-subtraction-xy")
    for name in written:
        assert len(name) <= 30
        for kind in ("stage", "executor", "placement", "observer"):
            folder = project.folder / name / kind
            folder.mkdir(parents=True)
            result = project.invoke("new", kind, name, "--folder", str(folder))
            assert result.exit_code == 0, result.output
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", *written],
            capture_output=True,
            text=True,
            cwd=project.folder,
        )
        assert done.returncode == 0, done.stdout


def test_new_tells_the_same_in_json(project) -> None:
    """One object, and nothing else."""
    found = json.loads(new(project, "stage", "acme-blur", "--json").stdout)
    assert (found["kind"], found["distribution"], found["name"]) == (
        "stage",
        "acme-blur",
        "acme.blur",
    )
    assert "pyproject.toml" in found["files"]
    assert len(found["commands"]) == 3


def test_new_takes_an_author_and_no_licence(project) -> None:
    """Both stand where they belong, whatever letters they have."""
    result = new(project, "stage", "acme-blur", "--author", 'Zoë "Z" O\'Neil', "--license", "none")
    assert result.exit_code == 0, result.output
    folder = project.folder / "acme-blur"
    described = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    assert described["authors"] == [{"name": 'Zoë "Z" O\'Neil'}]
    assert "license" not in described
    assert not (folder / "LICENSE").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["stagee", "acme-blur"], "did you mean 'stage'?"),
        (["stage", "Acme_Blur"], "did you mean 'acme-blur'?"),
        (["stage", "blur"], "take a prefix of your own"),
        (["stage", "acme-"], "no name for a plugin"),
        (["stage", "acme-2d"], "each part beginning with a letter"),
        (["stage", "acme-" + "x" * 40], "at most 30"),
        (["stage", "pystream-blur"], "as in acme-blur"),
        (["stage", "acme-blur", "--author", " "], "a name on one line"),
        (["stage", "acme-blur", "--author", "a\nb"], "a name on one line"),
    ],
)
def test_new_refuses_what_makes_no_plugin(project, arguments: list[str], expected: str) -> None:
    """With what would be right; nothing is written."""
    before = set(project.folder.iterdir())
    result = new(project, *arguments)
    assert result.exit_code == 2
    assert expected in " ".join(result.stderr.split())
    assert set(project.folder.iterdir()) == before


def test_new_leaves_an_existing_folder_alone(project) -> None:
    """Whatever is in it."""
    folder = project.folder / "acme-blur"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    result = new(project, "stage", "acme-blur")
    assert result.exit_code == 2
    assert "is there already" in " ".join(result.stderr.split())
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_what_the_disk_refuses_leaves_nothing(project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not a half-written distribution."""
    write = Path.write_text

    def full(path: Path, *arguments: object, **options: object) -> int:
        if path.name == "README.md":
            raise OSError(28, "No space left on device")
        return write(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    result = new(project, "stage", "acme-blur")
    assert result.exit_code == 1
    assert "cannot be written: No space left on device" in " ".join(result.stderr.split())
    assert not (project.folder / "acme-blur").exists()


def test_check_shows_what_is_wrong_and_what_to_do(project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each check, the problems beneath, and exit code 1."""
    info = project.folder / "acme_odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pystream.stages]\nodd = acme_odd:Odd\n")
    (info / "RECORD").write_text("acme_odd.py,,\n")
    (project.folder / "acme_odd.py").write_text("def Odd(item):\n    return item\n")
    monkeypatch.syspath_prepend(str(project.folder))
    result = project.invoke("check", "acme-odd")
    assert result.exit_code == 1, result.output
    assert "failed" in result.stdout
    assert "acme-odd 1.0: " in result.stdout
    assert "of 10 failed." in result.stdout
    found = json.loads(project.invoke("check", "acme-odd", "--json").stdout)
    assert found["exit_code"] == 1
    assert any(each["problems"] for each in found["checks"])


def test_check_guesses_what_was_meant(project) -> None:
    """A distribution that is not installed, with those that are."""
    result = project.invoke("check", "pystream-sqlit")
    assert result.exit_code == 2
    assert "did you mean 'pystream-sqlite'" in " ".join(result.stderr.split())
