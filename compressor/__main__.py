"""Lets `python -m compressor` do what `compress` does."""

from compressor.cli import main

if __name__ == "__main__":
    main()
