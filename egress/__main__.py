"""Entry point of `python -m egress`, the same as the `egress` command."""

from egress.cli.main import main

if __name__ == "__main__":
    main()
