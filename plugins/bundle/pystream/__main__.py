"""``python -m pystream``: the command line tool, when it is installed."""

import sys


def main() -> int:
    """Run the command line tool; say how to get it when it is missing."""
    try:
        from pystream_cli import main as run
    except ModuleNotFoundError as error:
        if error.name != "pystream_cli":
            raise
        print(  # noqa: T201
            "The command line tool is not installed: python -m pip install pystream-cli "
            "(from a checkout: python -m pip install ./plugins/cli)",
            file=sys.stderr,
        )
        return 1
    run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
