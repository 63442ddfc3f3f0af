"""`python -m spikeproof` is the command `spikeproof`."""

from spikeproof.command.cli import main

if __name__ == "__main__":
    main()
