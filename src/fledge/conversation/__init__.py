"""An interactive session: turns and commands, whoever answers them, and what ties the two together."""
