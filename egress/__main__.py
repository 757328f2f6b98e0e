"""`python -m egress` is the `egress` command."""

from egress.cli.main import main

if __name__ == "__main__":
    main()
