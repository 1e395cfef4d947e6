"""``python -m joulec`` and the ``joulec`` command."""

import sys


def main() -> None:
    """Entry point; an interrupt ends quietly even while modules are still being loaded."""
    try:
        from joulec import cli
    except KeyboardInterrupt:
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
