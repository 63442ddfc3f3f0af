"""The command line: commands, terminal output and the examination of the machine."""
