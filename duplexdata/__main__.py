"""`python -m duplexdata`: the command line, for `accelerate launch -m duplexdata`."""

from duplexdata.cli import main

if __name__ == "__main__":
    main()
