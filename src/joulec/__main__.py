"""``python -m joulec`` and the ``joulec`` command."""

from joulec.cli import main

if __name__ == "__main__":
    main()
