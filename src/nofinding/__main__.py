"""`python -m nofinding COMMAND`: the command line."""

from nofinding.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
